/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The tests of the C interface, for the program that runs them. */
#ifndef TERN_LIBRARY_CAPI_H
#define TERN_LIBRARY_CAPI_H

#include <stdint.h>

#include "tern.h"

/* The kernels, as an ELF file. */
struct capi_module {
	const void *elf;
	uint64_t size;
};

/* @expected: what the interface for Rust tells. */
const char *capi_info(const struct capi_module *module, const struct tern_info *expected);
const char *capi_launch(const struct capi_module *module);
const char *capi_reports(const struct capi_module *module);
const char *capi_launch_after(const struct capi_module *module);
const char *capi_wait_timeout(const struct capi_module *module);
const char *capi_queue_options(const struct capi_module *module);
const char *capi_prefetch(const struct capi_module *module);
const char *capi_any_order(const struct capi_module *module);

/*
 * Has the first access to the page at @page, which was never used, wait until the file that this
 * returns is closed; -1 on failure.
 */
int capi_withhold(void *page);

#endif /* TERN_LIBRARY_CAPI_H */
