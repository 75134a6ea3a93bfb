// SPDX-License-Identifier: GPL-2.0

#include <linux/fs.h>
#include <linux/migrate.h>

#ifdef CONFIG_DEVICE_PRIVATE
__rust_helper bool rust_helper_vma_is_dax(const struct vm_area_struct *vma)
{
	return vma_is_dax(vma);
}

__rust_helper unsigned int rust_helper_migrate_pfn_order(unsigned long mpfn)
{
	return migrate_pfn_order(mpfn);
}
#endif
