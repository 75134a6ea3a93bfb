// SPDX-License-Identifier: GPL-2.0
/*
 * The driver is unbound while memory is on the device, and bound again. Needs root.
 */
#include "kselftest_harness.h"
#include "tern_test.h"

#include <libgen.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define DRIVER "/sys/bus/pci/drivers/tern/"

/* The name on the PCI bus of the device behind an open node. */
static int bus_name(int fd, char *name, size_t size)
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

static int write_driver(const char *file, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), DRIVER "%s", file);
	return tern_put(path, name);
}

/*
 * All memory comes back with its contents, as huge pages if @whole and else as single ones,
 * the old file is dead, and a new one works.
 */
static void there_and_back(struct __test_metadata *_metadata, bool whole)
{
	unsigned long *huge, *small, *again;
	struct drm_tern_device_query info;
	struct tern old, new;
	struct kernel_args args;
	char name[64];
	int ret = tern_begin(&old);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, bus_name(old.fd, name, sizeof(name)));
	huge = tern_resident(&old, 2 * HUGE_PAGE, MADV_HUGEPAGE);
	small = tern_resident(&old, HUGE_PAGE, MADV_NOHUGEPAGE);
	ASSERT_NE(NULL, huge);
	ASSERT_NE(NULL, small);
	if (!whole && tern_refuse_huge_pages())
		SKIP(return, "the kernel has no fail_page_alloc");

	ret = write_driver("unbind", name);
	if (ret == -EACCES || ret == -EPERM)
		SKIP(return, "needs root");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(whole ? 2 * HUGE_PAGE / 1024 : 0, tern_anon_huge(huge));
	EXPECT_EQ(-1, tern_check_pattern(huge, 2 * HUGE_PAGE, 1));
	EXPECT_EQ(-1, tern_check_pattern(small, HUGE_PAGE, 1));
	EXPECT_EQ(-ENODEV, tern_query(old.fd, &info));
	args = (struct kernel_args){ .p = huge, .count = 1, .value = 1 };
	EXPECT_EQ(-ENODEV, tern_run(&old, KERNEL_ADD, args));
	close(old.fd);

	ASSERT_EQ(0, write_driver("bind", name));
	ASSERT_EQ(0, tern_begin(&new));
	EXPECT_EQ(new.info.vram_size, new.info.vram_free);
	again = tern_resident(&new, HUGE_PAGE, MADV_HUGEPAGE);
	ASSERT_NE(NULL, again);
	EXPECT_EQ(-1, tern_check_pattern(again, HUGE_PAGE, 1));
	EXPECT_EQ(0, tern_end(&new));
}

TEST(unbind_and_bind)
{
	there_and_back(_metadata, true);
}

TEST(unbind_without_huge_pages)
{
	there_and_back(_metadata, false);
}

TEST_HARNESS_MAIN
