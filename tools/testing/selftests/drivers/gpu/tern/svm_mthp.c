// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios that are mapped by PTEs move to the device and back whole, at every order. With
 * tern.mthp=0 on the kernel's command line they are split. Needs root.
 */
#include <stdbool.h>

#include "kselftest_harness.h"
#include "tern_pci.h"

/* Bits of /proc/PID/pagemap and of /proc/kpageflags. */
#define PAGEMAP_PRESENT 0x8000000000000000ULL
#define PAGEMAP_PFN 0x007fffffffffffffULL
#define KPF_COMPOUND_HEAD 0x8000ULL
#define KPF_COMPOUND_TAIL 0x10000ULL

/* The memory of a test: as many folios as a page table has. */
#define BYTES HUGE_PAGE
#define NR_PAGES (BYTES / PAGE)

FIXTURE(mthp)
{
	struct tern t;
	struct tern_orders old;
	/* Pages of a folio, and of what arrives where one moves. */
	unsigned long pages, moved;
	struct drm_tern_stats before;
};

FIXTURE_VARIANT(mthp)
{
	int order;
};

FIXTURE_VARIANT_ADD(mthp, order_2) { .order = 2 };
FIXTURE_VARIANT_ADD(mthp, order_3) { .order = 3 };
FIXTURE_VARIANT_ADD(mthp, order_4) { .order = 4 };
FIXTURE_VARIANT_ADD(mthp, order_5) { .order = 5 };
FIXTURE_VARIANT_ADD(mthp, order_6) { .order = 6 };
FIXTURE_VARIANT_ADD(mthp, order_7) { .order = 7 };
FIXTURE_VARIANT_ADD(mthp, order_8) { .order = 8 };
FIXTURE_VARIANT_ADD(mthp, order_9) { .order = 9 };

/* Whether the driver was told to split large folios. */
static bool driver_splits(void)
{
	char line[4096] = "";
	FILE *file = fopen("/proc/cmdline", "r");

	if (file) {
		if (!fgets(line, sizeof(line), file))
			line[0] = 0;
		fclose(file);
	}
	return strstr(line, "tern.mthp=0");
}

FIXTURE_SETUP(mthp)
{
	int ret;

	self->t.fd = -1;
	if (geteuid())
		SKIP(return, "needs root");
	ret = tern_begin(&self->t);
	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, tern_choose_order(&self->old, variant->order));
	self->pages = 1UL << variant->order;
	self->moved = driver_splits() ? 1 : self->pages;
	self->before = tern_stats(&self->t);
}

FIXTURE_TEARDOWN(mthp)
{
	EXPECT_EQ(0, tern_restore_orders(&self->old));
	ASSERT_EQ(0, tern_end(&self->t));
}

/* One word for a page, such as its entry in /proc/self/pagemap; 0 if there is none. */
static __u64 page_word(int fd, unsigned long index)
{
	__u64 word;

	return pread(fd, &word, sizeof(word), index * sizeof(word)) == sizeof(word) ? word : 0;
}

/* As not_in_folios(), which opens /proc/self/pagemap and /proc/kpageflags for it. */
static long first_not_in_folio(int pagemap, int kpageflags, const void *p,
			       unsigned long nr_pages, unsigned long pages)
{
	unsigned long first = 0;

	for (unsigned long i = 0; i < nr_pages; i++) {
		__u64 entry = page_word(pagemap, (uintptr_t)p / PAGE + i);
		unsigned long pfn = entry & PAGEMAP_PFN;
		__u64 part = page_word(kpageflags, pfn) &
			     (KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL);
		__u64 expected = i % pages ? KPF_COMPOUND_TAIL : KPF_COMPOUND_HEAD;

		if (i % pages == 0)
			first = pfn;
		if (!(entry & PAGEMAP_PRESENT) || pfn != first + i % pages ||
		    part != (pages > 1 ? expected : 0))
			return i;
	}
	return -1;
}

/*
 * Number of the first page of @p that is not what it has to be if @p consists of folios of
 * @pages pages in system memory, one after another; -1 if there is none.
 */
static long not_in_folios(const void *p, unsigned long nr_pages, unsigned long pages)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	long page = 0;

	if (pagemap >= 0 && kpageflags >= 0)
		page = first_not_in_folio(pagemap, kpageflags, p, nr_pages, pages);
	close(pagemap);
	close(kpageflags);
	return page;
}

/* Has a huge page mapped by PTEs. */
static int map_by_ptes(char *p)
{
	if (mprotect(p + PAGE, PAGE, PROT_READ))
		return -errno;
	return mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE) ? -errno : 0;
}

/* BYTES with the pattern, in folios of the order, which PTEs map; NULL on failure. */
static unsigned long *filled(struct _test_data_mthp *o)
{
	unsigned long *p = tern_filled(&o->t, BYTES, MADV_NORMAL);

	if (!p || (o->pages == NR_PAGES && map_by_ptes((char *)p)))
		return NULL;
	return not_in_folios(p, NR_PAGES, o->pages) == -1 ? p : NULL;
}

/* The same with the pattern plus 1, on the device. */
static unsigned long *resident(struct _test_data_mthp *o)
{
	unsigned long *p = filled(o);

	return p && tern_add_one(&o->t, p, BYTES) == DRM_TERN_RESULT_OK ? p : NULL;
}

/* Whether, since the last call, just these pages moved, in folios as large and in single pages. */
#define EXPECT_MOVED(way, whole, single)						\
	do {										\
		struct drm_tern_stats now = tern_stats(&self->t);			\
		unsigned long all = (whole);						\
		unsigned long nr = self->moved > 1 ? all / self->pages : 0;		\
		unsigned long small = (single) + (nr ? 0 : all);			\
											\
		EXPECT_EQ(self->moved == NR_PAGES ? nr : 0,				\
			  now.way##_huge - self->before.way##_huge);			\
		EXPECT_EQ(self->moved == NR_PAGES ? 0 : nr,				\
			  now.way##_mid - self->before.way##_mid);			\
		EXPECT_EQ(small, now.way##_small - self->before.way##_small);		\
		self->before = now;							\
	} while (0)

/* All folios are whole on the device, and whole again when the CPU has touched them. */
TEST_F(mthp, there_and_back)
{
	unsigned long *p = resident(self);

	ASSERT_NE(NULL, p);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	EXPECT_EQ(BYTES, self->before.resident_bytes);
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(0, self->before.resident_bytes);
	/* With the third folio that is read in order comes the rest. */
	if (self->moved > 1)
		EXPECT_EQ(self->pages < NR_PAGES / 2 ? 3 : NR_PAGES / self->pages,
			  self->before.cpu_faults);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
}

/* They stay what they are, however often they move. */
TEST_F(mthp, ten_round_trips)
{
	unsigned long *p = filled(self);

	ASSERT_NE(NULL, p);
	for (unsigned long round = 1; round <= 10; round++) {
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
		EXPECT_MOVED(to_device, NR_PAGES, 0);
		ASSERT_EQ(-1, tern_check_pattern(p, BYTES, round));
		EXPECT_MOVED(to_system, NR_PAGES, 0);
	}
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
}

/* Whichever page the CPU touches, its folio comes back, and no other one. */
TEST_F(mthp, any_page_brings_its_folio)
{
	unsigned long *p = resident(self);
	unsigned long first = NR_PAGES / 2 / self->pages * self->pages;
	unsigned long page = first + self->pages * 2 / 3;

	ASSERT_NE(NULL, p);
	if (self->moved == 1)
		SKIP(return, "the driver was told to split folios");
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	EXPECT_EQ(tern_pattern(page * WORDS(PAGE)) + 1, p[page * WORDS(PAGE)]);
	EXPECT_MOVED(to_system, self->pages, 0);
	EXPECT_EQ(-1, not_in_folios(p + first * WORDS(PAGE), self->pages, self->pages));
	EXPECT_EQ(BYTES - self->pages * PAGE, self->before.resident_bytes);
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
}

/* Without a folio as large in the system, one comes back in the largest parts that there are. */
TEST_F(mthp, smaller_parts)
{
	unsigned long *p = resident(self);

	ASSERT_NE(NULL, p);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	if (tern_refuse_folios(variant->order))
		SKIP(return, "the kernel has no fail_page_alloc");
	/* There is none of order 1. */
	self->pages = variant->order == TERN_MIN_ORDER ? 1 : self->pages / 2;
	if (self->moved > 1)
		self->moved = self->pages;
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
}

/* Where nothing was before, the device gets what a fault of the CPU would get. */
TEST_F(mthp, holes)
{
	struct kernel_args args = { .count = WORDS(BYTES), .value = 3 };

	/* A huge page is no matter of PTEs. */
	if (self->pages == NR_PAGES)
		self->moved = NR_PAGES;
	args.p = tern_map(&self->t, BYTES, MADV_NORMAL);
	ASSERT_NE(NULL, args.p);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_FILL, args));
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	EXPECT_EQ(-1, tern_check_count(args.p, BYTES, 3));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(args.p, NR_PAGES, self->moved));
}

/* A folio that two processes have comes back for both, and each then has its own data. */
TEST_F(mthp, fork)
{
	unsigned long *p = resident(self);
	pid_t pid;

	ASSERT_NE(NULL, p);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (tern_check_pattern(p, BYTES, 1) != -1)
			_exit(1);
		memset(p, 0xa5, BYTES);
		_exit(0);
	}
	ASSERT_TRUE(tern_child_ok(pid));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 2));
}

/* The folio that loses a page on the device is split, the others are not. */
TEST_F(mthp, partial_munmap)
{
	unsigned long *p = resident(self);
	unsigned long *rest;

	ASSERT_NE(NULL, p);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	rest = p + WORDS(2 * PAGE);
	ASSERT_EQ(0, munmap(p + WORDS(PAGE), PAGE));
	EXPECT_EQ(-1, tern_check_pattern(p, PAGE, 1));
	for (unsigned long i = WORDS(2 * PAGE); i < WORDS(BYTES); i++)
		ASSERT_EQ(tern_pattern(i) + 1, p[i]);
	EXPECT_MOVED(to_system, NR_PAGES - self->pages, self->pages - 1);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, rest, BYTES - 2 * PAGE));
	EXPECT_MOVED(to_device, NR_PAGES - self->pages, self->pages - 2);
	for (unsigned long i = WORDS(2 * PAGE); i < WORDS(BYTES); i++)
		ASSERT_EQ(tern_pattern(i) + 2, p[i]);
}

/*
 * At an address that is not aligned to their size folios move whole all the same, but for the
 * one that two page tables map.
 */
static void unaligned(struct __test_metadata *_metadata, struct _test_data_mthp *self,
		      unsigned long *p, unsigned long more)
{
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, more));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	self->before = tern_stats(&self->t);
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, more + 1));
	EXPECT_MOVED(to_system, NR_PAGES - self->pages, self->pages);
}

TEST_F(mthp, mremap)
{
	unsigned long *p = filled(self);
	char *target = tern_map(&self->t, 2 * BYTES, MADV_NORMAL);

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, target);
	p = mremap(p, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, target + PAGE);
	ASSERT_NE(MAP_FAILED, p);
	unaligned(_metadata, self, p, 0);
}

TEST_F(mthp, mremap_on_the_device)
{
	unsigned long *p = resident(self);
	char *target = tern_map(&self->t, 2 * BYTES, MADV_NORMAL);

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, target);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	p = mremap(p, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, target + PAGE);
	ASSERT_NE(MAP_FAILED, p);
	unaligned(_metadata, self, p, 1);
}

/* What is brought back because the driver goes is whole, too. */
TEST_F_TIMEOUT(mthp, unbind, 120)
{
	unsigned long *p = resident(self);
	char name[64];

	ASSERT_NE(NULL, p);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	ASSERT_EQ(0, tern_bus_name(self->t.fd, name, sizeof(name)));
	ASSERT_EQ(0, tern_driver("unbind", name));
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));

	tern_unmap_all(&self->t);
	tern_queue_free(&self->t, &self->t.queue);
	close(self->t.fd);
	ASSERT_EQ(0, tern_driver("bind", name));
	ASSERT_EQ(0, tern_begin(&self->t));
	EXPECT_EQ(self->t.info.vram_size, self->t.info.vram_free);
}

TEST_HARNESS_MAIN
