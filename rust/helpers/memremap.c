// SPDX-License-Identifier: GPL-2.0

#include <linux/memremap.h>

#ifdef CONFIG_ZONE_DEVICE
__rust_helper void rust_helper_zone_device_folio_init(struct folio *folio,
						      struct dev_pagemap *pgmap,
						      unsigned int order)
{
	zone_device_folio_init(folio, pgmap, order);
}

__rust_helper struct dev_pagemap *rust_helper_page_pgmap(const struct page *page)
{
	return page_pgmap(page);
}

__rust_helper void *rust_helper_folio_zone_device_data(const struct folio *folio)
{
	return folio_zone_device_data(folio);
}

__rust_helper void rust_helper_folio_set_zone_device_data(struct folio *folio,
							  void *data)
{
	folio_set_zone_device_data(folio, data);
}
#endif
