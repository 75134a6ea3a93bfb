/* SPDX-License-Identifier: GPL-2.0 */
/* Helpers of the tests that bind and unbind the Tern GPU's driver. */
#ifndef TERN_PCI_H
#define TERN_PCI_H

#include <libgen.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "tern_test.h"

/* The name on the PCI bus of the device behind an open node. */
static inline int tern_bus_name(int fd, char *name, size_t size)
{
	char path[64], target[PATH_MAX];
	struct stat st;
	ssize_t len;

	if (fstat(fd, &st))
		return -errno;
	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u/device", major(st.st_rdev),
		 minor(st.st_rdev));
	len = readlink(path, target, sizeof(target) - 1);
	if (len < 0)
		return -errno;
	target[len] = 0;
	snprintf(name, size, "%s", basename(target));
	return 0;
}

/* Has the driver "bind" or "unbind" a device. */
static inline int tern_driver(const char *verb, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/tern/%s", verb);
	return tern_put(path, name);
}

#endif /* TERN_PCI_H */
