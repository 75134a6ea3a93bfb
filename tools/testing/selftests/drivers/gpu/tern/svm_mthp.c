// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios that are mapped by PTEs move to the device and back whole, at every order. With
 * tern.mthp=0 on the kernel's command line they are split. Needs root.
 */
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "kselftest_harness.h"
#include "../../../mm/nbd-swap.h"
#include "tern_pci.h"

/* Bits of /proc/PID/pagemap and of /proc/kpageflags. */
#define PAGEMAP_PRESENT 0x8000000000000000ULL
#define PAGEMAP_UFFD_WP 0x0200000000000000ULL
#define PAGEMAP_PFN 0x007fffffffffffffULL
#define KPF_WRITEBACK 0x100ULL
#define KPF_SWAPCACHE 0x2000ULL
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
	/* Huge pages are only given while a test asks for some. */
	ASSERT_EQ(0, tern_choose_order(&self->old,
				       variant->order == TERN_MAX_ORDER ? 0 : variant->order));
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

/* Whether the page at @p has one of KPF_*. */
static bool has_flag(const void *p, __u64 flag)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	__u64 entry = page_word(pagemap, (uintptr_t)p / PAGE);
	__u64 flags = page_word(kpageflags, entry & PAGEMAP_PFN);

	close(pagemap);
	close(kpageflags);
	return entry & PAGEMAP_PRESENT && flags & flag;
}

/* Has a huge page mapped by PTEs. */
static int map_by_ptes(char *p)
{
	if (mprotect(p + PAGE, PAGE, PROT_READ))
		return -errno;
	return mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE) ? -errno : 0;
}

/*
 * Has the system give huge pages, or not. Where it does, khugepaged makes them, too, of PTEs that
 * a test has made of one.
 */
static int give_huge_pages(bool give)
{
	char path[96];

	tern_order_path(TERN_MAX_ORDER, path, sizeof(path));
	return tern_put(path, give ? "always" : "never");
}

/* BYTES with the pattern, in folios of the order, which PTEs map; NULL on failure. */
static unsigned long *filled(struct _test_data_mthp *o)
{
	const bool huge = o->pages == NR_PAGES;
	unsigned long *p;

	if (huge && give_huge_pages(true))
		return NULL;
	p = tern_filled(&o->t, BYTES, MADV_NORMAL);
	if (huge && give_huge_pages(false))
		return NULL;
	if (!p || (huge && map_by_ptes((char *)p)))
		return NULL;
	return not_in_folios(p, NR_PAGES, o->pages) == -1 ? p : NULL;
}

/* The same with the pattern plus 1, on the device. */
static unsigned long *resident(struct _test_data_mthp *o)
{
	unsigned long *p = filled(o);

	return p && tern_add_one(&o->t, p, BYTES) == DRM_TERN_RESULT_OK ? p : NULL;
}

/* As tern_check_pattern(), for what is behind the second page. */
static long check_rest(const unsigned long *p, unsigned long more)
{
	for (unsigned long i = WORDS(2 * PAGE); i < WORDS(BYTES); i++) {
		if (p[i] != tern_pattern(i) + more)
			return i;
	}
	return -1;
}

/* Has the device ask again for what it has mapped where it is. */
static int ask_again(unsigned long *p)
{
	return mprotect(p, BYTES, PROT_READ) || mprotect(p, BYTES, PROT_READ | PROT_WRITE);
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

/* From now on folios are of the next lower order. There is none of order 1. */
static void expect_smaller(struct _test_data_mthp *o)
{
	o->pages = o->pages == 1UL << TERN_MIN_ORDER ? 1 : o->pages / 2;
	if (o->moved > 1)
		o->moved = o->pages;
}

/* From now on the system has no folio as large: 0, or what went wrong. */
static int refuse_folios(struct _test_data_mthp *o)
{
	int ret = tern_refuse_folios(__builtin_ctzl(o->pages));

	if (!ret)
		expect_smaller(o);
	return ret;
}

/* Without a folio as large in the system, one comes back in the largest parts that there are. */
TEST_F(mthp, smaller_parts)
{
	unsigned long *p = resident(self);

	ASSERT_NE(NULL, p);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	if (refuse_folios(self))
		SKIP(return, "the kernel has no fail_page_alloc");
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
}

/* Buffers that have all of the device's memory but what a test leaves. */
struct buffers {
	__u32 handles[4 * NR_PAGES];
	unsigned int nr;
};

/* Takes memory in buffers of @bytes as long as there is any; a single one if @once. */
static int take_memory(const struct tern *t, struct buffers *buffers, size_t bytes, bool once)
{
	struct drm_tern_gem_create gem;
	int ret = 0;

	while (!ret && buffers->nr < ARRAY_SIZE(buffers->handles)) {
		ret = tern_gem_create(t, bytes, 0, &gem);
		if (!ret)
			buffers->handles[buffers->nr++] = gem.handle;
		if (once)
			return ret;
	}
	return ret == -ENOSPC ? 0 : -EFBIG;
}

/* Takes all but @blocks times @pages pages of the device's memory, which do not adjoin. */
static int leave_blocks(struct _test_data_mthp *o, struct buffers *buffers, unsigned long pages,
			unsigned int blocks)
{
	struct drm_tern_device_query info;
	int ret = -ENOMEM;

	/* What the kernels need gets its place first. */
	if (tern_resident(&o->t, PAGE, MADV_NOHUGEPAGE))
		ret = tern_query(o->t.fd, &info);
	if (!ret)
		ret = take_memory(&o->t, buffers, info.vram_free - 2 * BYTES, true);
	if (!ret)
		ret = take_memory(&o->t, buffers, pages * PAGE, false);
	if (!ret)
		ret = take_memory(&o->t, buffers, PAGE, false);
	for (unsigned int i = 1; !ret && i <= 2 * blocks; i += 2) {
		ret = tern_gem_close(&o->t, buffers->handles[i]);
		buffers->handles[i] = 0;
	}
	o->before = tern_stats(&o->t);
	return ret;
}

static void leave_all(const struct tern *t, struct buffers *buffers)
{
	for (unsigned int i = 0; i < buffers->nr; i++) {
		if (buffers->handles[i])
			tern_gem_close(t, buffers->handles[i]);
	}
	buffers->nr = 0;
}

/* Without a block as large on the device, a folio goes there in the largest parts that fit. */
TEST_F(mthp, smaller_parts_on_the_device)
{
	struct buffers buffers = {};
	unsigned long *p = filled(self);

	ASSERT_NE(NULL, p);
	expect_smaller(self);
	EXPECT_EQ(0, leave_blocks(self, &buffers, self->pages, NR_PAGES / self->pages));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
	leave_all(&self->t, &buffers);
}

/* With room for a part of a folio only, all of them stay, whole, and are used where they are. */
TEST_F(mthp, no_room_on_the_device)
{
	struct buffers buffers = {};
	unsigned long *p = filled(self);

	ASSERT_NE(NULL, p);
	/* What the driver splits would take any room. */
	EXPECT_EQ(0, leave_blocks(self, &buffers, self->pages / 2, self->moved > 1));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_MOVED(to_device, 0, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->pages));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	leave_all(&self->t, &buffers);

	ASSERT_EQ(0, ask_again(p));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 2));
}

/* Where nothing was before, the device gets what a fault of the CPU would get. */
TEST_F(mthp, holes)
{
	struct kernel_args args = { .count = WORDS(BYTES), .value = 3 };

	/* A huge page is no matter of PTEs. */
	if (self->pages == NR_PAGES) {
		self->moved = NR_PAGES;
		ASSERT_EQ(0, give_huge_pages(true));
	}
	args.p = tern_map(&self->t, BYTES, MADV_NORMAL);
	ASSERT_NE(NULL, args.p);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_FILL, args));
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	EXPECT_EQ(-1, tern_check_count(args.p, BYTES, 3));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(args.p, NR_PAGES, self->moved));
}

/*
 * A folio that two processes have comes back for both, in @smaller parts or not, and each then
 * has its own data.
 */
static void forked(struct __test_metadata *_metadata, struct _test_data_mthp *self, bool smaller)
{
	unsigned long *p = resident(self);
	pid_t pid;

	ASSERT_NE(NULL, p);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	pid = fork();
	ASSERT_LE(0, pid);
	/* A child could not be had without any large pages. */
	if (!pid) {
		if ((smaller && refuse_folios(self)) || tern_check_pattern(p, BYTES, 1) != -1)
			_exit(1);
		memset(p, 0xa5, BYTES);
		_exit(0);
	}
	if (smaller && refuse_folios(self))
		SKIP(return, "the kernel has no fail_page_alloc");
	ASSERT_TRUE(tern_child_ok(pid));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 2));
}

TEST_F(mthp, fork)
{
	forked(_metadata, self, false);
}

TEST_F(mthp, fork_to_smaller_parts)
{
	forked(_metadata, self, true);
}

/*
 * A child that has the same memory, swapped or not. Once it is told to, it finds the pattern in
 * folios of @pages pages, and says so. When the other end is closed the pattern is still there.
 */
static pid_t share(const unsigned long *p, unsigned long pages, int *socket)
{
	int fds[2];
	pid_t pid;
	char c;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		return -1;
	pid = fork();
	*socket = fds[!!pid];
	close(fds[!pid]);
	if (pid)
		return pid;
	if (read(*socket, &c, 1) != 1 || tern_check_pattern(p, BYTES, 0) != -1 ||
	    not_in_folios(p, NR_PAGES, pages) != -1 || write(*socket, "", 1) != 1)
		_exit(1);
	if (read(*socket, &c, 1) || tern_check_pattern(p, BYTES, 0) != -1)
		_exit(2);
	memset((void *)p, 0xa5, BYTES);
	_exit(0);
}

/* Whether the child has found what it should. */
static bool shared_is_right(int socket)
{
	char c;

	return write(socket, "", 1) == 1 && read(socket, &c, 1) == 1;
}

/*
 * What is shared since before it moves goes there and back whole for both. What the device writes
 * is for one of the two only.
 */
TEST_F(mthp, fork_before)
{
	unsigned long *p = filled(self), *any = tern_map(&self->t, PAGE, MADV_NOHUGEPAGE);
	struct kernel_args args = { .p = p, .out = any, .count = WORDS(BYTES) };
	int socket;
	pid_t pid;

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, any);
	pid = share(p, self->moved, &socket);
	ASSERT_LT(0, pid);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_OR, args));
	EXPECT_MOVED(to_device, NR_PAGES, 1);
	EXPECT_TRUE(shared_is_right(socket));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));

	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	close(socket);
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 2));
}

/* The folio that somebody holds a page of stays, whole, and is used where it is. */
TEST_F(mthp, held_by_a_pipe)
{
	unsigned long *p = filled(self);
	struct iovec part = { .iov_base = p, .iov_len = PAGE };
	unsigned long seen[WORDS(PAGE)];
	int fds[2];

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(PAGE, vmsplice(fds[1], &part, 1, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_MOVED(to_device, NR_PAGES - self->pages, 0);
	EXPECT_EQ(-1, not_in_folios(p, self->pages, self->pages));
	ASSERT_EQ(PAGE, read(fds[0], seen, PAGE));
	EXPECT_EQ(-1, tern_check_pattern(seen, PAGE, 1));
	close(fds[0]);
	close(fds[1]);

	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_MOVED(to_system, NR_PAGES - self->pages, 0);
}

/* filled(), when none of it is written to @swap until that is let go; NULL on failure. */
static unsigned long *filled_to_swap(struct _test_data_mthp *o, struct nbd_swap *swap)
{
	unsigned long *p = nbd_swap_hold(swap, true) ? filled(o) : NULL;

	if (p && !madvise(p, BYTES, MADV_PAGEOUT))
		return p;
	nbd_swap_stop(swap);
	return NULL;
}

/* All of them stay, whole, until they have been written to swap. */
TEST_F(mthp, under_writeback)
{
	struct nbd_swap swap;
	unsigned long *p;

	/* Before there is memory that its processes would share. */
	if (!nbd_swap_start(&swap))
		SKIP(return, "no network block device to swap to");
	p = filled_to_swap(self, &swap);
	ASSERT_NE(NULL, p);
	EXPECT_NE(-1, not_in_folios(p, NR_PAGES, self->pages));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 0));
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->pages));

	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_MOVED(to_device, 0, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->pages));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	nbd_swap_stop(&swap);

	ASSERT_EQ(0, ask_again(p));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 2));
}

/* Folios that the swap cache keeps for a child stay, whole unless the driver splits them. */
TEST_F(mthp, in_swap_cache)
{
	unsigned long *p, *any = tern_map(&self->t, PAGE, MADV_NOHUGEPAGE);
	struct kernel_args args = { .out = any, .count = WORDS(BYTES) };
	struct nbd_swap swap;
	int socket;
	pid_t pid;

	ASSERT_NE(NULL, any);
	if (!nbd_swap_start(&swap))
		SKIP(return, "no network block device to swap to");
	p = filled_to_swap(self, &swap);
	ASSERT_NE(NULL, p);
	/* While it is written out it can be mapped again, whole, by one of the two. */
	pid = share(p, self->moved, &socket);
	EXPECT_LT(0, pid);
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 0));
	EXPECT_TRUE(nbd_swap_hold(&swap, false));
	for (unsigned long i = 0; i < NR_PAGES; i += self->pages) {
		while (has_flag(p + i * WORDS(PAGE), KPF_WRITEBACK))
			sched_yield();
		EXPECT_TRUE(has_flag(p + i * WORDS(PAGE), KPF_SWAPCACHE));
	}
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->pages));

	args.p = p;
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_OR, args));
	EXPECT_MOVED(to_device, 0, 1);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
	EXPECT_TRUE(shared_is_right(socket));
	close(socket);
	EXPECT_TRUE(tern_child_ok(pid));
	nbd_swap_stop(&swap);

	/* For it alone. */
	ASSERT_EQ(0, ask_again(p));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_OR, args));
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 0));
	EXPECT_MOVED(to_system, NR_PAGES, 0);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
}

/* Every third page is write-protected by userfaultfd: 0, or what went wrong. */
static int protect_by_userfaultfd(int uffd, char *p)
{
	for (unsigned long i = 0; i < NR_PAGES; i += 3) {
		struct uffdio_writeprotect protect = {
			.range = { (uintptr_t)p + i * PAGE, PAGE },
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		if (ioctl(uffd, UFFDIO_WRITEPROTECT, &protect))
			return -errno;
	}
	return 0;
}

/* The first page that is protected though it is not a third one, or not though it is; or -1. */
static long not_protected(const void *p)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	long page = pagemap < 0 ? 0 : -1;

	for (unsigned long i = 0; page < 0 && i < NR_PAGES; i++) {
		__u64 entry = page_word(pagemap, (uintptr_t)p / PAGE + i);

		if (!(entry & PAGEMAP_UFFD_WP) != !!(i % 3))
			page = i;
	}
	close(pagemap);
	return page;
}

/* The protection of single pages goes with the folio, and comes back with it, @smaller or not. */
static void write_protected(struct __test_metadata *_metadata, struct _test_data_mthp *self,
			    bool smaller)
{
	unsigned long *p = filled(self), *any = tern_map(&self->t, PAGE, MADV_NOHUGEPAGE);
	struct kernel_args args = { .p = p, .out = any, .count = WORDS(BYTES) };
	unsigned long expected = 0;
	int uffd;

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, any);
	uffd = tern_userfaultfd(p, BYTES, UFFDIO_REGISTER_MODE_WP, 0);
	if (uffd == -EOPNOTSUPP)
		SKIP(return, "the kernel has no write protection by userfaultfd");
	ASSERT_LE(0, uffd);
	ASSERT_EQ(0, protect_by_userfaultfd(uffd, (char *)p));
	for (unsigned long i = 0; i < WORDS(BYTES); i++)
		expected |= tern_pattern(i);

	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_OR, args));
	EXPECT_MOVED(to_device, NR_PAGES, 1);
	EXPECT_EQ(-1, not_protected(p));
	EXPECT_EQ(expected, *any);
	if (smaller && refuse_folios(self))
		SKIP(return, "the kernel has no fail_page_alloc");
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 0));
	EXPECT_MOVED(to_system, NR_PAGES, 1);
	EXPECT_EQ(-1, not_protected(p));
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));

	/* With it the protection ends. */
	close(uffd);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
}

TEST_F(mthp, userfaultfd_write_protect)
{
	write_protected(_metadata, self, false);
}

TEST_F(mthp, userfaultfd_write_protect_in_smaller_parts)
{
	write_protected(_metadata, self, true);
}

/* Without a page in system memory, those of its folio that are left move one by one. */
TEST_F(mthp, partly_unmapped)
{
	unsigned long *p = filled(self), *rest = p + WORDS(2 * PAGE);

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, munmap(p + WORDS(PAGE), PAGE));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, PAGE));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, rest, BYTES - 2 * PAGE));
	EXPECT_MOVED(to_device, NR_PAGES - self->pages, self->pages - 1);
	EXPECT_EQ(-1, tern_check_pattern(p, PAGE, 1));
	EXPECT_EQ(-1, check_rest(p, 1));
	EXPECT_MOVED(to_system, NR_PAGES - self->pages, self->pages - 1);
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
	EXPECT_EQ(-1, check_rest(p, 1));
	EXPECT_MOVED(to_system, NR_PAGES - self->pages, self->pages - 1);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, rest, BYTES - 2 * PAGE));
	EXPECT_MOVED(to_device, NR_PAGES - self->pages, self->pages - 2);
	EXPECT_EQ(-1, check_rest(p, 2));
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
	EXPECT_MOVED(to_system, NR_PAGES, 0);
}

/* The same where the system has none as large; which folio two page tables map is left open. */
TEST_F(mthp, mremap_to_smaller_parts)
{
	unsigned long *p = resident(self), pages = self->pages;
	char *target = tern_map(&self->t, 2 * BYTES, MADV_NORMAL);

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, target);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	p = mremap(p, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, target + PAGE);
	ASSERT_NE(MAP_FAILED, p);
	if (refuse_folios(self))
		SKIP(return, "the kernel has no fail_page_alloc");
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_EQ(0, tern_stats(&self->t).resident_bytes);
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES - pages, self->moved));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 2));
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

/*
 * What is brought back because the driver goes is whole, too, or, where the system has no folios of
 * order @refused, as large as they can be had.
 */
static void evicted(struct __test_metadata *_metadata, struct _test_data_mthp *self, int refused)
{
	unsigned long *p = resident(self);
	char name[64];

	ASSERT_NE(NULL, p);
	EXPECT_MOVED(to_device, NR_PAGES, 0);
	ASSERT_EQ(0, tern_bus_name(self->t.fd, name, sizeof(name)));
	if (refused && tern_refuse_folios(refused))
		SKIP(return, "the kernel has no fail_page_alloc");
	if (refused && self->pages == 1UL << refused)
		expect_smaller(self);
	ASSERT_EQ(0, tern_driver("unbind", name));
	if (refused)
		ASSERT_EQ(0, tern_put("/proc/self/make-it-fail", "0"));
	EXPECT_EQ(-1, not_in_folios(p, NR_PAGES, self->moved));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));

	tern_unmap_all(&self->t);
	tern_queue_free(&self->t, &self->t.queue);
	close(self->t.fd);
	ASSERT_EQ(0, tern_driver("bind", name));
	ASSERT_EQ(0, tern_begin(&self->t));
	EXPECT_EQ(self->t.info.vram_size, self->t.info.vram_free);
}

TEST_F_TIMEOUT(mthp, unbind, 120)
{
	evicted(_metadata, self, 0);
}

/* The driver itself needs memory of lower orders. */
TEST_F_TIMEOUT(mthp, unbind_to_smaller_parts, 120)
{
	evicted(_metadata, self, variant->order < 4 ? 4 : variant->order);
}

TEST_HARNESS_MAIN
