// SPDX-License-Identifier: GPL-2.0

#include <linux/migrate.h>

#ifdef CONFIG_DEVICE_PRIVATE
__rust_helper unsigned int rust_helper_migrate_pfn_order(unsigned long mpfn)
{
	return migrate_pfn_order(mpfn);
}
#endif
