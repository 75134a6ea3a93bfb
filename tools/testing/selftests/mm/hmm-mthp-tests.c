// SPDX-License-Identifier: GPL-2.0
/*
 * Migration to and from device private memory of large folios that PTEs map: of
 * each order, in whatever state they are mapped, by each way to migrate them, to
 * folios of the same order, of smaller ones, to single pages, and to nowhere.
 *
 * The device is that of lib/test_hmm. It tells of which folios memory is made, on
 * the device too, and fails allocations on demand.
 */

#include "hmm-large.h"
#include "nbd-swap.h"

#include <linux/userfaultfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "../../../../mm/gup_test.h"

#define MIN_ORDER	2
#define MAX_ORDER	9
#define KPF_WRITEBACK	BIT_ULL(8)
#define KPF_SWAPCACHE	BIT_ULL(13)

/* How a folio migrates; all but the first start on the device. */
enum migration {
	WAY_TO_DEV,
	WAY_TO_SYS,
	WAY_FAULT_FIRST,
	WAY_FAULT_MIDDLE,
	WAY_FAULT_LAST,
	WAY_EVICT,
	WAY_EVICT_PFNS,
	NR_WAYS,
};

/* What there is for it. */
enum destination {
	GIVEN_SAME,		/* a folio of its order */
	GIVEN_SMALLER,		/* those of the next lower order */
	GIVEN_SMALLEST,		/* those of four pages */
	GIVEN_SINGLE,
	GIVEN_NONE,
	NR_GIVEN,
};

/* One of each kind, where all of them would take long. */
static const enum migration main_ways[] = {
	WAY_TO_DEV, WAY_TO_SYS, WAY_FAULT_MIDDLE, WAY_EVICT,
};

static const char * const way_names[] = {
	"to the device", "to system memory", "CPU fault on the first page",
	"CPU fault in the middle", "CPU fault on the last page", "eviction",
	"eviction by a list",
};

static const char * const given_names[] = {
	"the same order", "a lower order", "the lowest order", "single pages",
	"nothing",
};

/* A process that has folios of an order, @size bytes large. */
struct mthp {
	int			fd;
	int			pagemap;
	int			kpageflags;
	unsigned int		order;
	unsigned long		npages;
	unsigned long		size;
	struct thp_settings	old;
};

FIXTURE(hmm_mthp)
{
	struct mthp mthp;
};

FIXTURE_VARIANT(hmm_mthp)
{
	unsigned int order;
};

FIXTURE_VARIANT_ADD(hmm_mthp, order_2)
{
	.order = 2,
};

FIXTURE_VARIANT_ADD(hmm_mthp, order_3)
{
	.order = 3,
};

FIXTURE_VARIANT_ADD(hmm_mthp, order_4)
{
	.order = 4,
};

FIXTURE_VARIANT_ADD(hmm_mthp, order_5)
{
	.order = 5,
};

FIXTURE_VARIANT_ADD(hmm_mthp, order_6)
{
	.order = 6,
};

FIXTURE_VARIANT_ADD(hmm_mthp, order_7)
{
	.order = 7,
};

FIXTURE_VARIANT_ADD(hmm_mthp, order_8)
{
	.order = 8,
};

FIXTURE_VARIANT_ADD(hmm_mthp, order_9)
{
	.order = 9,
};

/* Has page faults allocate folios of @order where these fit, and no others. */
static void only_order(const struct thp_settings *old, unsigned int order)
{
	struct thp_settings settings = *old;
	unsigned int i;

	for (i = 0; i < NR_ORDERS; i++)
		settings.hugepages[i].enabled = i == order ? THP_ALWAYS : THP_NEVER;
	thp_write_settings(&settings);
}

static void give_huge_pages(bool give)
{
	char path[64];

	snprintf(path, sizeof(path), "hugepages-%lukB/enabled", area_size >> 10);
	thp_write_string(path, give ? "always" : "never");
}

/* What is opened belongs to the process that does. */
static bool open_files(struct mthp *m)
{
	m->fd = device_open();
	m->pagemap = open("/proc/self/pagemap", O_RDONLY);
	m->kpageflags = open("/proc/kpageflags", O_RDONLY);
	return m->fd >= 0 && m->pagemap >= 0 && m->kpageflags >= 0;
}

static bool is_fault(enum migration way)
{
	return way >= WAY_FAULT_FIRST && way <= WAY_FAULT_LAST;
}

/* The device gives @given for folios of the order that migrate by @way. */
static int give(const struct mthp *m, enum migration way, enum destination given,
		unsigned int flags)
{
	const unsigned int all = (2U << m->order) - 1;
	struct hmm_dmirror_inject faults = { .flags = flags };
	unsigned int orders = 0;

	switch (given) {
	case GIVEN_SAME:
		break;
	case GIVEN_SMALLER:
		orders = 1U << m->order;
		break;
	case GIVEN_SMALLEST:
		orders = all & ~0x7U;
		break;
	case GIVEN_SINGLE:
		orders = all & ~1U;
		break;
	case GIVEN_NONE:
		orders = all;
		break;
	default:
		return -EINVAL;
	}
	faults.fail_to_dev = orders;
	faults.fail_to_sys = orders;
	faults.fail_evict = orders;
	/* There are always single pages for an eviction. A fault is to fail without. */
	if (given == GIVEN_NONE && !is_fault(way))
		faults.leave_out = ~0ULL;
	return inject(m->fd, faults);
}

static int give_whole(const struct mthp *m)
{
	return give(m, WAY_TO_DEV, GIVEN_SAME, HMM_DMIRROR_INJECT_LARGE);
}

/* The order of the parts that the folio is made of then. */
static unsigned int given_order(const struct mthp *m, enum destination given)
{
	switch (given) {
	case GIVEN_SAME:
	case GIVEN_NONE:
		return m->order;
	case GIVEN_SMALLER:
		return m->order > MIN_ORDER ? m->order - 1 : 0;
	case GIVEN_SMALLEST:
		return MIN_ORDER;
	default:
		return 0;
	}
}

static void set_up(struct __test_metadata *_metadata, struct mthp *m, unsigned int order)
{
	ASSERT_TRUE(prepare());
	ASSERT_TRUE(open_files(m));
	m->order = order;
	m->npages = 1UL << order;
	m->size = m->npages * page_size;
	thp_read_settings(&m->old);
	/* Huge pages are only given while a test asks for one. */
	only_order(&m->old, order == area_order ? NR_ORDERS : order);
	ASSERT_EQ(give_whole(m), 0);
}

static void tear_down(struct mthp *m)
{
	if (!m->npages)
		return;
	thp_write_settings(&m->old);
	close(m->fd);
}

FIXTURE_SETUP(hmm_mthp)
{
	if (!(thp_supported_orders() & (1UL << variant->order)))
		SKIP(return, "no folios of this order");
	set_up(_metadata, &self->mthp, variant->order);
}

FIXTURE_TEARDOWN(hmm_mthp)
{
	tear_down(&self->mthp);
}

/* Address space for one area, aligned, with nothing behind it. */
static char *reserve(void)
{
	char *ptr = mmap(NULL, 3 * area_size, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (ptr == MAP_FAILED)
		return NULL;
	return ptr + (-(uintptr_t)ptr & (area_size - 1));
}

static char *map(const struct mthp *m)
{
	char *ptr = reserve();

	if (!ptr || mmap(ptr, m->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != ptr)
		return NULL;
	return ptr;
}

static bool is_on_device(__u64 entry)
{
	return (entry & (PM_SWAP | PM_PRESENT)) == PM_SWAP;
}

/* Of a page in system memory, or of one on the device. */
static unsigned long entry_pfn(__u64 entry)
{
	const __u64 frame = entry & (BIT_ULL(55) - 1);

	/* What is not present has the type of a swap entry in five bits. */
	return is_on_device(entry) ? frame >> 5 : frame;
}

static unsigned long pfn_of(const struct mthp *m, char *ptr)
{
	return entry_pfn(pagemap_get_entry(m->pagemap, ptr));
}

/* One of KPF_*, of a page in system memory. */
static bool has_flag(const struct mthp *m, char *ptr, __u64 flag)
{
	uint64_t flags;

	return !pageflags_get(pfn_of(m, ptr), m->kpageflags, &flags) && flags & flag;
}

static bool read_entries(const struct mthp *m, char *ptr, unsigned long npages,
			 __u64 *entries)
{
	const ssize_t bytes = npages * sizeof(__u64);

	return pread(m->pagemap, entries, bytes,
		     (uintptr_t)ptr / page_size * sizeof(__u64)) == bytes;
}

/* The kernel's own flags of a folio's first pages; it has none for the memory of devices. */
static bool parts_are(const struct mthp *m, unsigned long pfn, unsigned long npages,
		      unsigned int order)
{
	const __u64 mask = KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL;
	const ssize_t bytes = npages * sizeof(__u64);
	__u64 flags[HMM_DMIRROR_MAX_PAGES];
	unsigned long i;

	if (pread(m->kpageflags, flags, bytes, pfn * sizeof(__u64)) != bytes)
		return false;
	for (i = 0; i < npages; i++) {
		const __u64 part = i ? KPF_COMPOUND_TAIL : KPF_COMPOUND_HEAD;

		if ((flags[i] & mask) != (order ? part : 0))
			return false;
	}
	return true;
}

/*
 * Whether pages are in system memory, or on the device, and of folios of @order,
 * from their first to their last page. @ptr is where one of them starts.
 */
static bool are(const struct mthp *m, char *ptr, unsigned long npages,
		bool device, unsigned int order)
{
	unsigned char orders[HMM_DMIRROR_MAX_PAGES];
	__u64 entries[HMM_DMIRROR_MAX_PAGES];
	const unsigned long nr = 1UL << order;
	unsigned long i, first = 0;
	bool whole = false;

	if (!npages)
		return true;
again:
	if (device_range(m->fd, HMM_DMIRROR_ORDERS, ptr, npages, orders))
		return CHECK(!"the device can tell the orders");
	if (!read_entries(m, ptr, npages, entries))
		return CHECK(!"pagemap can be read");

	for (i = 0; i < npages; i++) {
		unsigned int of_folio = HMM_DMIRROR_ORDER_OF_FOLIO(orders[i]);
		unsigned long pfn = entry_pfn(entries[i]);

		if (!(i % nr)) {
			const unsigned long left = npages - i;

			first = pfn;
			whole = !(first % nr) &&
				(device || parts_are(m, pfn, left < nr ? left : nr, order));
		}
		if (whole && orders[i] != HMM_DMIRROR_ORDER_NONE && of_folio == order &&
		    is_on_device(entries[i]) == device && pfn == first + i % nr)
			continue;
		/* The kernel has moved the folio meanwhile, to have room somewhere. */
		if (pfn_of(m, ptr + (i - i % nr) * page_size) != first)
			goto again;
		fprintf(stderr,
			"# page %lu: order %u, entry %llx behind pfn %lx, %s, in place of order %u, %s\n",
			i, of_folio, (unsigned long long)entries[i], first,
			is_on_device(entries[i]) ? "device" : "system", order,
			device ? "device" : "system");
		return false;
	}
	return true;
}

/* What the device reads of memory, wherever that is. */
static bool device_holds_from(const struct mthp *m, char *ptr, unsigned long first,
			      unsigned long npages, unsigned int seed)
{
	if (!npages)
		return true;
	return CHECK(!device_range(m->fd, HMM_DMIRROR_READ, ptr, npages, mirror)) &&
	       holds_from(mirror, first, npages, seed);
}

static bool device_holds(const struct mthp *m, char *ptr, unsigned int seed)
{
	return device_holds_from(m, ptr, 0, m->npages, seed);
}

/*
 * Writes what may not be there. As long as faults give huge pages, khugepaged looks for
 * PTEs to make more of, so there are to be none of these by then.
 */
static void fill_new(const struct mthp *m, char *ptr, unsigned int seed)
{
	if (m->order == area_order)
		give_huge_pages(true);
	fill(ptr, m->npages, seed);
	if (m->order == area_order)
		give_huge_pages(false);
}

/* Memory of one folio, which PTEs map, in system memory. */
static char *folio_in_sys(const struct mthp *m, unsigned int seed)
{
	char *ptr = map(m);

	if (!ptr)
		return NULL;
	fill_new(m, ptr, seed);
	if (m->order == area_order && split_pmd(ptr))
		return NULL;
	return are(m, ptr, m->npages, false, m->order) ? ptr : NULL;
}

static char *folio_on_dev(const struct mthp *m, unsigned int seed)
{
	char *ptr = folio_in_sys(m, seed);

	if (!ptr || to_dev(m->fd, ptr, m->npages))
		return NULL;
	return are(m, ptr, m->npages, true, m->order) ? ptr : NULL;
}

/* Where a folio has to be for a way. */
static char *folio_for(const struct mthp *m, enum migration way, unsigned int seed)
{
	return way == WAY_TO_DEV ? folio_in_sys(m, seed) :
				   folio_on_dev(m, seed);
}

/* To where it is not aligned to its size. */
static char *move(const struct mthp *m, char *ptr)
{
	char *to = reserve();

	if (!to)
		return NULL;
	to += page_size;
	return mremap(ptr, m->size, m->size, MREMAP_MAYMOVE | MREMAP_FIXED,
		      to) == to ? to : NULL;
}

/* The same for a huge page, which a PMD maps wherever it is. */
static char *huge_page_on_dev(const struct mthp *m, unsigned int seed)
{
	char *ptr = map(m);

	if (!ptr)
		return NULL;
	fill_new(m, ptr, seed);
	if (to_dev(m->fd, ptr, m->npages) ||
	    on_device(m->fd, ptr, m->npages) != m->npages ||
	    !is_huge(m->fd, ptr, m->npages))
		return NULL;
	return ptr;
}

/* Reads where a fault that fails is an error, not a thing to repeat for ever. */
static bool readable(char *ptr)
{
	int fd = open("/proc/self/mem", O_RDONLY);
	bool can;
	char byte;

	can = pread(fd, &byte, 1, (uintptr_t)ptr) == 1;
	close(fd);
	return can;
}

static unsigned long fault_page(const struct mthp *m, enum migration way)
{
	switch (way) {
	case WAY_FAULT_FIRST:
		return 0;
	case WAY_FAULT_MIDDLE:
		return m->npages / 2;
	default:
		return m->npages - 1;
	}
}

/* @flags: HMM_DMIRROR_INJECT_LARGE, or 0 to have large folios split. */
static bool migrate_by(const struct mthp *m, char *ptr, enum migration way,
		       enum destination given, unsigned int flags)
{
	const bool none = given == GIVEN_NONE;

	if (way == WAY_EVICT_PFNS)
		flags |= HMM_DMIRROR_INJECT_EVICT_PFNS;
	if (!CHECK(!give(m, way, given, flags)))
		return false;

	switch (way) {
	case WAY_TO_DEV:
		return CHECK(to_dev(m->fd, ptr, m->npages) ==
			     (none ? -ENOENT : 0));
	case WAY_TO_SYS:
		return CHECK(!to_sys(m->fd, ptr, m->npages));
	case WAY_EVICT:
	case WAY_EVICT_PFNS:
		return CHECK(!evict(m->fd));
	default:
		ptr += fault_page(m, way) * page_size;
		if (none)
			return CHECK(!readable(ptr));
		touch(ptr);
		return true;
	}
}

/* It migrates, and is made of what was given for it, where it should be. */
static bool migrates(const struct mthp *m, char *ptr, enum migration way,
		     enum destination given)
{
	const bool device = (way == WAY_TO_DEV) != (given == GIVEN_NONE);
	const unsigned long pfn = pfn_of(m, ptr);
	const bool ok = migrate_by(m, ptr, way, given, HMM_DMIRROR_INJECT_LARGE);

	return CHECK(!give_whole(m)) && ok &&
	       CHECK((pfn_of(m, ptr) == pfn) == (given == GIVEN_NONE)) &&
	       CHECK(are(m, ptr, m->npages, device, given_order(m, given)));
}

enum counter {
	COUNTER_ALL,
	COUNTER_WHOLE,
	COUNTER_SPLIT,
	NR_COUNTERS,
};

struct counters {
	long of[NR_COUNTERS];
};

/* Those of the order. */
static struct counters counters(const struct mthp *m)
{
	static const char * const names[] = {
		"device_migrate", "device_migrate_whole", "device_migrate_split",
	};
	struct counters counters;
	unsigned int i;

	for (i = 0; i < NR_COUNTERS; i++) {
		char path[128];

		snprintf(path, sizeof(path), "hugepages-%lukB/stats/%s",
			 m->size >> 10, names[i]);
		counters.of[i] = thp_read_num(path);
	}
	return counters;
}

static bool counted(const struct mthp *m, const struct counters *before, long whole,
		    long split, long stays)
{
	struct counters after = counters(m);
	unsigned int i;

	for (i = 0; i < NR_COUNTERS; i++)
		after.of[i] -= before->of[i];
	if (after.of[COUNTER_WHOLE] == whole && after.of[COUNTER_SPLIT] == split &&
	    after.of[COUNTER_ALL] == whole + split + stays)
		return true;
	fprintf(stderr, "# %ld whole, %ld split, of %ld, in place of %ld, %ld, of %ld\n",
		after.of[COUNTER_WHOLE], after.of[COUNTER_SPLIT],
		after.of[COUNTER_ALL], whole, split, whole + split + stays);
	return false;
}

enum location {
	PLACE_ALIGNED,
	PLACE_UNALIGNED,
	PLACE_MOVED,		/* unaligned, moved there right before it migrates */
	/* A PMD has mapped it on the device, too, until this was split there. */
	PLACE_SPLIT_BY_MPROTECT,
	PLACE_SPLIT_BY_MADVISE,
	PLACE_SPLIT_BY_MREMAP,
};

static char *split_on_dev(const struct mthp *m, enum location place)
{
	char *ptr = huge_page_on_dev(m, 1);

	if (!ptr)
		return NULL;
	switch (place) {
	case PLACE_SPLIT_BY_MPROTECT:
		if (split_pmd(ptr))
			return NULL;
		break;
	case PLACE_SPLIT_BY_MADVISE:
		/* One VMA has all of it in the end. */
		if (madvise(ptr + page_size, page_size, MADV_NOHUGEPAGE) ||
		    madvise(ptr, m->size, MADV_NOHUGEPAGE))
			return NULL;
		break;
	default:
		ptr = move(m, ptr);
	}
	if (!ptr || is_huge(m->fd, ptr, m->npages))
		return NULL;
	return are(m, ptr, m->npages, true, m->order) ? ptr : NULL;
}

static char *folio_at(const struct mthp *m, enum migration way, enum location place)
{
	char *ptr;

	switch (place) {
	case PLACE_ALIGNED:
		return folio_for(m, way, 1);
	case PLACE_UNALIGNED:
		ptr = folio_in_sys(m, 1);
		if (ptr)
			ptr = move(m, ptr);
		if (ptr && way != WAY_TO_DEV && to_dev(m->fd, ptr, m->npages))
			return NULL;
		return ptr;
	case PLACE_MOVED:
		ptr = folio_for(m, way, 1);
		return ptr ? move(m, ptr) : NULL;
	default:
		return split_on_dev(m, place);
	}
}

static bool cell(const struct mthp *m, enum location place, enum migration way,
		 enum destination given)
{
	const bool moves = given != GIVEN_NONE;
	const bool device = (way == WAY_TO_DEV) == moves;
	const unsigned int order = given_order(m, given);
	struct hmm_dmirror_stats before = stats(m->fd), after;
	struct counters counts;
	unsigned long pfn;
	char *ptr;

	ptr = folio_at(m, way, place);
	if (!CHECK(ptr))
		return false;

	before.faults = stats(m->fd).faults;
	counts = counters(m);
	if (!migrates(m, ptr, way, given))
		return false;
	after = stats(m->fd);
	if (!CHECK(after.faults - before.faults == is_fault(way)) ||
	    !CHECK(after.in_use == before.in_use + (device ? m->npages : 0)) ||
	    !CHECK(!after.overruns) ||
	    !counted(m, &counts, moves && order == m->order,
		     moves && order < m->order, !moves))
		return false;

	/* It is right, on the device and here, and is still the process's own. */
	if (device && !CHECK(device_holds(m, ptr, 1)))
		return false;
	if (!CHECK(holds(ptr, m->npages, 1)) ||
	    !CHECK(are(m, ptr, m->npages, false, order)))
		return false;
	pfn = pfn_of(m, ptr);
	fill(ptr, m->npages, 2);
	if (!CHECK(are(m, ptr, m->npages, false, order)) ||
	    !CHECK(pfn_of(m, ptr) == pfn) ||
	    !CHECK(device_holds(m, ptr, 2)))
		return false;

	return CHECK(!munmap(ptr, m->size)) &&
	       CHECK(stats(m->fd).in_use == before.in_use);
}

static bool all_cells(const struct mthp *m, enum location place)
{
	enum migration way = place > PLACE_MOVED ? WAY_TO_SYS : 0;
	enum destination given;
	bool ok = true;

	for (; way < NR_WAYS; way++) {
		for (given = 0; given < NR_GIVEN; given++) {
			if (cell(m, place, way, given))
				continue;
			fprintf(stderr, "# %s, %s\n", way_names[way], given_names[given]);
			ok = false;
		}
	}
	return ok;
}

TEST_F_TIMEOUT(hmm_mthp, aligned, 240)
{
	const struct mthp *m = &self->mthp;

	EXPECT_TRUE(all_cells(m, PLACE_ALIGNED));
}

TEST_F_TIMEOUT(hmm_mthp, unaligned, 240)
{
	const struct mthp *m = &self->mthp;

	EXPECT_TRUE(all_cells(m, PLACE_UNALIGNED));
}

TEST_F_TIMEOUT(hmm_mthp, moved, 240)
{
	const struct mthp *m = &self->mthp;

	EXPECT_TRUE(all_cells(m, PLACE_MOVED));
}

/* It is a huge page, and the PMD that maps it is split where it is not in system memory. */
FIXTURE(hmm_mthp_pmd)
{
	struct mthp mthp;
};

FIXTURE_VARIANT(hmm_mthp_pmd)
{
	enum location place;
};

FIXTURE_VARIANT_ADD(hmm_mthp_pmd, mprotect)
{
	.place = PLACE_SPLIT_BY_MPROTECT,
};

FIXTURE_VARIANT_ADD(hmm_mthp_pmd, madvise)
{
	.place = PLACE_SPLIT_BY_MADVISE,
};

FIXTURE_VARIANT_ADD(hmm_mthp_pmd, mremap)
{
	.place = PLACE_SPLIT_BY_MREMAP,
};

FIXTURE_SETUP(hmm_mthp_pmd)
{
	if (!(thp_supported_orders() & (1UL << MAX_ORDER)))
		SKIP(return, "no huge pages");
	set_up(_metadata, &self->mthp, MAX_ORDER);
}

FIXTURE_TEARDOWN(hmm_mthp_pmd)
{
	tear_down(&self->mthp);
}

TEST_F_TIMEOUT(hmm_mthp_pmd, split_on_device, 240)
{
	const struct mthp *m = &self->mthp;

	ASSERT_EQ(area_order, MAX_ORDER);
	EXPECT_TRUE(all_cells(m, variant->place));
}

/* A folio that goes forth and back remains one, whichever way it takes. */
TEST_F_TIMEOUT(hmm_mthp, ten_round_trips, 120)
{
	const struct mthp *m = &self->mthp;
	struct counters before = counters(m);
	char *ptr = folio_in_sys(m, 1);
	unsigned int i;

	ASSERT_NE(ptr, NULL);
	for (i = 0; i < 10; i++) {
		enum migration back = WAY_TO_SYS + i % (NR_WAYS - WAY_TO_SYS);

		ASSERT_TRUE(migrates(m, ptr, WAY_TO_DEV, GIVEN_SAME));
		EXPECT_TRUE(device_holds(m, ptr, 1 + i));
		ASSERT_TRUE(migrates(m, ptr, back, GIVEN_SAME));
		EXPECT_TRUE(holds(ptr, m->npages, 1 + i));
		fill(ptr, m->npages, 2 + i);
	}
	EXPECT_TRUE(are(m, ptr, m->npages, false, m->order));
	EXPECT_TRUE(counted(m, &before, 20, 0, 0));
}

/* A driver that does not ask for large folios gets single pages. */
TEST_F_TIMEOUT(hmm_mthp, split_without_flag, 60)
{
	const struct mthp *m = &self->mthp;
	struct counters before;
	enum migration way;
	char *ptr;

	for (way = WAY_TO_DEV; way <= WAY_FAULT_LAST; way++) {
		unsigned long page = fault_page(m, way);

		ptr = folio_for(m, way, 1);
		ASSERT_NE(ptr, NULL);
		before = counters(m);
		ASSERT_TRUE(migrate_by(m, ptr, way, GIVEN_SAME, 0));
		if (way >= WAY_FAULT_FIRST) {
			EXPECT_TRUE(are(m, ptr, page, true, 0));
			EXPECT_TRUE(are(m, ptr + page * page_size, 1, false, 0));
			EXPECT_TRUE(are(m, ptr + (page + 1) * page_size,
					m->npages - page - 1, true, 0));
		} else {
			EXPECT_TRUE(are(m, ptr, m->npages, way == WAY_TO_DEV, 0));
		}
		EXPECT_TRUE(counted(m, &before, 0, 1, 0));
		EXPECT_TRUE(device_holds(m, ptr, 1));
		EXPECT_TRUE(holds(ptr, m->npages, 1));
		ASSERT_EQ(give_whole(m), 0);
	}
}

/* A part of what takes the place of the folio cannot be had: that stays. */
TEST_F_TIMEOUT(hmm_mthp, parts_left_out, 60)
{
	const struct mthp *m = &self->mthp;
	const unsigned int order = given_order(m, GIVEN_SMALLER);
	const unsigned long half = m->npages >> 1;
	struct hmm_dmirror_inject faults = {
		.fail_to_dev = 1U << m->order,
		.fail_to_sys = 1U << m->order,
		.flags = HMM_DMIRROR_INJECT_LARGE,
	};
	char *ptr;

	/* The halves, or the first and the second pair of pages. */
	faults.leave_out = order ? 0x5555555555555555ULL : 0x3333333333333333ULL;
	ptr = folio_in_sys(m, 1);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(inject(m->fd, faults), 0);
	EXPECT_EQ(to_dev(m->fd, ptr, m->npages), -ENOENT);
	EXPECT_TRUE(are(m, ptr, half, false, order));
	EXPECT_TRUE(are(m, ptr + half * page_size, half, true, order));
	EXPECT_TRUE(device_holds_from(m, ptr + half * page_size, half, half, 1));
	EXPECT_TRUE(holds(ptr, m->npages, 1));

	ASSERT_EQ(give_whole(m), 0);
	ptr = folio_on_dev(m, 1);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(inject(m->fd, faults), 0);
	EXPECT_EQ(to_sys(m->fd, ptr, m->npages), 0);
	EXPECT_TRUE(are(m, ptr, half, true, order));
	EXPECT_TRUE(are(m, ptr + half * page_size, half, false, order));
	EXPECT_TRUE(device_holds(m, ptr, 1));
	EXPECT_TRUE(holds(ptr, m->npages, 1));
}

/* Whether the range begins in the folio, ends there, or both. */
static void sticks_out(struct __test_metadata *_metadata, const struct mthp *m,
		       unsigned long first, unsigned long npages)
{
	const unsigned long behind = first + npages;
	enum migration way;

	for (way = WAY_TO_DEV; way <= WAY_TO_SYS; way++) {
		const bool to_device = way == WAY_TO_DEV;
		struct counters before;
		char *ptr, *start;

		ptr = folio_for(m, way, 1);
		ASSERT_NE(ptr, NULL);
		before = counters(m);
		start = ptr + first * page_size;
		EXPECT_EQ((to_device ? to_dev : to_sys)(m->fd, start, npages), 0);
		EXPECT_TRUE(are(m, ptr, first, !to_device, 0));
		EXPECT_TRUE(are(m, start, npages, to_device, 0));
		EXPECT_TRUE(are(m, ptr + behind * page_size,
				m->npages - behind, !to_device, 0));
		EXPECT_TRUE(counted(m, &before, 0, 1, 0));
		EXPECT_TRUE(device_holds(m, ptr, 1));
		EXPECT_TRUE(holds(ptr, m->npages, 1));
		fill(ptr, m->npages, 2);
		EXPECT_TRUE(holds(ptr, m->npages, 2));
	}
}

TEST_F_TIMEOUT(hmm_mthp, sticks_out_of_range, 60)
{
	const struct mthp *m = &self->mthp;

	sticks_out(_metadata, m, 0, m->npages - 1);
	sticks_out(_metadata, m, 1, m->npages - 1);
	sticks_out(_metadata, m, m->npages / 4, m->npages / 2);
}

/* Whether all pages but @hole are in system memory, or on the device, and of folios of @order. */
static bool others_are(const struct mthp *m, char *ptr, unsigned long hole,
		       bool device, unsigned int order)
{
	unsigned char orders[HMM_DMIRROR_MAX_PAGES];
	__u64 entries[HMM_DMIRROR_MAX_PAGES];
	unsigned long i;

	if (device_range(m->fd, HMM_DMIRROR_ORDERS, ptr, m->npages, orders) ||
	    !read_entries(m, ptr, m->npages, entries))
		return CHECK(!"the device and pagemap can be read");
	for (i = 0; i < m->npages; i++) {
		if (i == hole || (orders[i] != HMM_DMIRROR_ORDER_NONE &&
				  HMM_DMIRROR_ORDER_OF_FOLIO(orders[i]) == order &&
				  is_on_device(entries[i]) == device))
			continue;
		fprintf(stderr, "# page %lu: order %u, entry %llx, in place of order %u, %s\n",
			i, HMM_DMIRROR_ORDER_OF_FOLIO(orders[i]),
			(unsigned long long)entries[i], order,
			device ? "device" : "system");
		return false;
	}
	return true;
}

/* All of it has the content that it should have, and @hole is zero. */
static bool others_hold(const char *ptr, unsigned long npages, unsigned long hole)
{
	const unsigned long behind = hole + 1;

	return holds_from(ptr, 0, hole, 1) && holds(ptr + hole * page_size, 1, 0) &&
	       holds_from(ptr + behind * page_size, behind, npages - behind, 1);
}

static bool partly_by(const struct mthp *m, char *ptr, enum migration way,
		      enum destination given)
{
	if (way != WAY_TO_SYS || given != GIVEN_NONE)
		return migrate_by(m, ptr, way, given, HMM_DMIRROR_INJECT_LARGE);
	/* That there is nothing for a single page is an error. */
	return CHECK(!give(m, way, given, HMM_DMIRROR_INJECT_LARGE)) &&
	       CHECK(to_sys(m->fd, ptr, m->npages) == -ENOMEM);
}

/*
 * What is mapped in part is split where the range of addresses migrates. An eviction,
 * which goes by the pages of the device, takes it as it is.
 */
static bool partly(const struct mthp *m, enum migration way, enum destination given,
		   unsigned long hole)
{
	const unsigned int order = way < WAY_EVICT ? 0 : given_order(m, given);
	const bool moves = given != GIVEN_NONE;
	const bool device = (way == WAY_TO_DEV) == moves;
	const __u64 in_use = stats(m->fd).in_use;
	char *ptr = folio_for(m, way, 1);
	bool ok;

	if (!CHECK(ptr) ||
	    !CHECK(!madvise(ptr + hole * page_size, page_size, MADV_DONTNEED)))
		return false;
	ok = partly_by(m, ptr, way, given);
	if (!CHECK(!give_whole(m)) || !ok ||
	    !CHECK(others_are(m, ptr, hole, device, order)))
		return false;

	/* The hole goes to the device as a page of its own. */
	if (!CHECK(on_device(m->fd, ptr + hole * page_size, 1) ==
		   (way == WAY_TO_DEV && moves)))
		return false;
	if (!CHECK(!device_range(m->fd, HMM_DMIRROR_READ, ptr, m->npages, mirror)) ||
	    !CHECK(others_hold(mirror, m->npages, hole)) ||
	    !CHECK(others_hold(ptr, m->npages, hole)))
		return false;
	fill(ptr, m->npages, 2);
	return CHECK(holds(ptr, m->npages, 2)) &&
	       CHECK(!munmap(ptr, m->size)) &&
	       CHECK(stats(m->fd).in_use == in_use);
}

/* Each hole with each way and each destination, but not with each pair of these. */
TEST_F_TIMEOUT(hmm_mthp, partly_unmapped, 120)
{
	const struct mthp *m = &self->mthp;
	const unsigned long holes[] = { 0, m->npages / 2, m->npages - 1 };
	enum destination given;
	enum migration way;

	for (way = 0; way < NR_WAYS; way++) {
		for (given = 0; given < NR_GIVEN; given++) {
			unsigned int i = (way + given) % ARRAY_SIZE(holes);

			/* To fault there would be no fault on what is on the device. */
			if (is_fault(way) && fault_page(m, way) == holes[i])
				i = (i + 1) % ARRAY_SIZE(holes);
			EXPECT_TRUE(partly(m, way, given, holes[i]))
				TH_LOG("%s, %s, without page %lu", way_names[way],
				       given_names[given], holes[i]);
		}
	}
}

/* A device folio that is unmapped in parts is free when all of it is. */
TEST_F_TIMEOUT(hmm_mthp, zapped_on_device, 60)
{
	const struct mthp *m = &self->mthp;
	const __u64 in_use = stats(m->fd).in_use;
	char *ptr = folio_on_dev(m, 1);

	ASSERT_NE(ptr, NULL);
	EXPECT_EQ(stats(m->fd).in_use, in_use + m->npages);
	ASSERT_EQ(madvise(ptr, m->size / 2, MADV_DONTNEED), 0);
	EXPECT_TRUE(device_holds_from(m, ptr + m->size / 2,
				      m->npages / 2, m->npages / 2, 1));
	ASSERT_EQ(madvise(ptr + m->size / 2, m->size / 2, MADV_DONTNEED), 0);
	EXPECT_EQ(stats(m->fd).in_use, in_use);
	EXPECT_TRUE(holds(ptr, m->npages, 0));

	ptr = folio_on_dev(m, 1);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(munmap(ptr, m->size), 0);
	EXPECT_EQ(stats(m->fd).in_use, in_use);
}

/* What one device has the other cannot reach: it goes there by system memory, whole. */
TEST_F_TIMEOUT(hmm_mthp, between_two_devices, 60)
{
	const struct mthp *m = &self->mthp;
	struct mthp other = *m;
	char *ptr = folio_on_dev(m, 1);

	ASSERT_NE(ptr, NULL);
	other.fd = open(OTHER_DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(other.fd, 0);
	ASSERT_EQ(give_whole(&other), 0);

	EXPECT_TRUE(device_holds(&other, ptr, 1));
	EXPECT_TRUE(are(m, ptr, m->npages, false, m->order));
	ASSERT_EQ(to_dev(m->fd, ptr, m->npages), 0);
	EXPECT_TRUE(are(m, ptr, m->npages, true, m->order));

	/* It goes to no other device unless it is in system memory. */
	EXPECT_EQ(to_dev(other.fd, ptr, m->npages), -ENOENT);
	EXPECT_TRUE(are(m, ptr, m->npages, true, m->order));
	ASSERT_EQ(to_sys(m->fd, ptr, m->npages), 0);
	ASSERT_EQ(to_dev(other.fd, ptr, m->npages), 0);
	EXPECT_TRUE(are(&other, ptr, m->npages, true, m->order));

	EXPECT_TRUE(device_holds(m, ptr, 1));
	EXPECT_TRUE(are(m, ptr, m->npages, false, m->order));
	EXPECT_TRUE(holds(ptr, m->npages, 1));
	close(other.fd);
}

/* A folio that may not be written comes back whole, and may then be. */
TEST_F_TIMEOUT(hmm_mthp, read_only, 120)
{
	const struct mthp *m = &self->mthp;
	unsigned long pfn;
	enum migration way;
	char *ptr;

	for (way = 0; way < NR_WAYS; way++) {
		ptr = folio_for(m, way, 1);
		ASSERT_NE(ptr, NULL);
		ASSERT_EQ(mprotect(ptr, m->size, PROT_READ), 0);
		EXPECT_TRUE(migrates(m, ptr, way, GIVEN_SAME))
			TH_LOG("%s", way_names[way]);
		EXPECT_TRUE(device_holds(m, ptr, 1));
		EXPECT_TRUE(holds(ptr, m->npages, 1));
		ASSERT_EQ(mprotect(ptr, m->size, PROT_READ | PROT_WRITE), 0);
		pfn = pfn_of(m, ptr);
		fill(ptr, m->npages, 2);
		EXPECT_EQ(pfn_of(m, ptr), pfn);
		EXPECT_TRUE(are(m, ptr, m->npages, false, m->order));
		EXPECT_TRUE(device_holds(m, ptr, 2));
	}
}

/* No VMA has all of the folio: it is split. */
TEST_F_TIMEOUT(hmm_mthp, in_two_vmas, 120)
{
	const struct mthp *m = &self->mthp;
	enum migration way;
	char *ptr;

	for (way = 0; way <= WAY_FAULT_LAST; way++) {
		ptr = folio_for(m, way, 1);
		ASSERT_NE(ptr, NULL);
		ASSERT_EQ(mprotect(ptr, m->size / 2, PROT_READ), 0);
		EXPECT_TRUE(migrate_by(m, ptr, way, GIVEN_SAME,
				       HMM_DMIRROR_INJECT_LARGE));
		if (way == WAY_TO_DEV || way == WAY_TO_SYS)
			EXPECT_TRUE(are(m, ptr, m->npages, way == WAY_TO_DEV, 0))
				TH_LOG("%s", way_names[way]);
		EXPECT_TRUE(device_holds(m, ptr, 1));
		EXPECT_TRUE(holds(ptr, m->npages, 1));
		EXPECT_EQ(on_device(m->fd, ptr, m->npages), 0);
		ASSERT_EQ(mprotect(ptr, m->size, PROT_READ | PROT_WRITE), 0);
		fill(ptr, m->npages, 2);
		EXPECT_TRUE(holds(ptr, m->npages, 2));
	}
}

/* Every third page, so that no two that are next to it are like it. */
static bool is_marked(unsigned long page)
{
	return page % 3 == 1;
}

static bool bits_are(const struct mthp *m, char *ptr, __u64 bit)
{
	__u64 entries[HMM_DMIRROR_MAX_PAGES];
	unsigned long i;

	if (!read_entries(m, ptr, m->npages, entries))
		return CHECK(!"pagemap can be read");
	for (i = 0; i < m->npages; i++) {
		if (!(entries[i] & bit) == is_marked(i)) {
			fprintf(stderr, "# page %lu: %llx\n", i,
				(unsigned long long)entries[i]);
			return false;
		}
	}
	return true;
}

static void fill_marked(const struct mthp *m, char *ptr, unsigned int seed)
{
	unsigned long i;

	for (i = 0; i < m->npages; i++) {
		if (is_marked(i))
			fill(ptr + i * page_size, 1, seed);
	}
}

/* Brings a folio to where it has to be for a way, and has it migrate. */
static bool migrates_from_sys(const struct mthp *m, char *ptr, enum migration way,
			      enum destination given)
{
	if (way != WAY_TO_DEV && !migrates(m, ptr, WAY_TO_DEV, GIVEN_SAME))
		return false;
	return migrates(m, ptr, way, given);
}

TEST_F_TIMEOUT(hmm_mthp, soft_dirty, 120)
{
	const struct mthp *m = &self->mthp;
	enum destination given;
	enum migration way;
	char *ptr;

	if (!softdirty_supported())
		SKIP(return, "no soft-dirty bits");

	for (way = 0; way < NR_WAYS; way++) {
		for (given = 0; given < NR_GIVEN; given++) {
			ptr = folio_in_sys(m, 1);
			ASSERT_NE(ptr, NULL);
			clear_softdirty();
			fill_marked(m, ptr, 2);
			ASSERT_TRUE(bits_are(m, ptr, PM_SOFT_DIRTY));
			EXPECT_TRUE(migrates_from_sys(m, ptr, way, given));
			EXPECT_TRUE(bits_are(m, ptr, PM_SOFT_DIRTY))
				TH_LOG("%s, %s", way_names[way], given_names[given]);
			touch(ptr);
			EXPECT_TRUE(bits_are(m, ptr, PM_SOFT_DIRTY));
			ASSERT_EQ(munmap(ptr, m->size), 0);
		}
	}
}

static bool marked_hold(const struct mthp *m, char *ptr, unsigned int seed)
{
	unsigned long i;

	for (i = 0; i < m->npages; i++) {
		if (is_marked(i) && !holds(ptr + i * page_size, 1, seed))
			return false;
	}
	return true;
}

static bool unmarked_hold(const struct mthp *m, char *ptr, unsigned int seed)
{
	unsigned long i;

	for (i = 0; i < m->npages; i++) {
		if (!is_marked(i) && !holds_from(ptr + i * page_size, i, 1, seed))
			return false;
	}
	return true;
}

/* Whether the marked pages, and no others, can be written without a fault. */
static bool marked_are_writable(const struct mthp *m, char *ptr)
{
	const unsigned char *perms = snapshot(m->fd, ptr, m->npages);
	unsigned long i;

	for (i = 0; i < m->npages; i++) {
		if (perms[i] == HMM_DMIRROR_PROT_ERROR ||
		    !(perms[i] & HMM_DMIRROR_PROT_WRITE) == is_marked(i)) {
			fprintf(stderr, "# page %lu: %x\n", i, perms[i]);
			return false;
		}
	}
	return true;
}

/* A folio, of which a process that has exited has left the marked pages to be written again. */
static char *folio_once_shared(const struct mthp *m)
{
	char *ptr = folio_in_sys(m, 1);
	pid_t pid;

	if (!ptr)
		return NULL;
	pid = fork();
	if (!pid)
		_exit(0);
	if (pid < 0 || !exited_well(pid))
		return NULL;
	fill_marked(m, ptr, 2);
	return marked_are_writable(m, ptr) &&
	       are(m, ptr, m->npages, false, m->order) ? ptr : NULL;
}

/* Whether parent and child each have their own after this. */
static bool share_again(const struct mthp *m, char *ptr)
{
	int fds[2];
	pid_t pid;
	char c;

	if (!CHECK(!pipe(fds)))
		return false;
	pid = fork();
	if (!pid) {
		close(fds[1]);
		REQUIRE(read(fds[0], &c, 1) == 0);
		REQUIRE(marked_hold(m, ptr, 2) && unmarked_hold(m, ptr, 1));
		fill(ptr, m->npages, 3);
		REQUIRE(holds(ptr, m->npages, 3));
		_exit(0);
	}
	close(fds[0]);
	fill(ptr, m->npages, 4);
	close(fds[1]);
	return CHECK(pid > 0) && CHECK(exited_well(pid)) && CHECK(holds(ptr, m->npages, 4));
}

/* Some pages are exclusive, and can be written, and some are not: all remain what they are. */
TEST_F_TIMEOUT(hmm_mthp, exclusive_in_part, 120)
{
	const struct mthp *m = &self->mthp;
	enum destination given;
	unsigned int i;
	char *ptr;

	for (i = 0; i < ARRAY_SIZE(main_ways); i++) {
		for (given = 0; given < NR_GIVEN; given++) {
			const enum migration way = main_ways[i];

			ptr = folio_once_shared(m);
			ASSERT_NE(ptr, NULL);
			EXPECT_TRUE(migrates_from_sys(m, ptr, way, given));
			EXPECT_TRUE(marked_are_writable(m, ptr))
				TH_LOG("%s, %s", way_names[way], given_names[given]);
			EXPECT_TRUE(share_again(m, ptr))
				TH_LOG("%s, %s", way_names[way], given_names[given]);
			ASSERT_EQ(munmap(ptr, m->size), 0);
		}
	}
}

/*
 * A folio that the process does without is dropped unless it is dirty. Nothing tells
 * of a PTE whether that is, but what was written must not be dropped.
 */
TEST_F_TIMEOUT(hmm_mthp, written_after_free, 120)
{
	const struct mthp *m = &self->mthp;
	enum destination given;
	unsigned int i;
	char *ptr;

	for (i = 0; i < ARRAY_SIZE(main_ways); i++) {
		for (given = 0; given < NR_GIVEN; given++) {
			const enum migration way = main_ways[i];

			ptr = folio_in_sys(m, 1);
			ASSERT_NE(ptr, NULL);
			ASSERT_EQ(madvise(ptr, m->size, MADV_FREE), 0);
			fill_marked(m, ptr, 2);
			EXPECT_TRUE(migrates_from_sys(m, ptr, way, given));
			ASSERT_EQ(to_sys(m->fd, ptr, m->npages), 0);
			ASSERT_EQ(madvise(ptr, m->size, MADV_PAGEOUT), 0);
			EXPECT_TRUE(marked_hold(m, ptr, 2))
				TH_LOG("%s, %s", way_names[way], given_names[given]);
			ASSERT_EQ(munmap(ptr, m->size), 0);
		}
	}
}

/* Pages of the memory from @ptr on, which is a VMA of its own, that were accessed. */
static long accessed(char *ptr)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	char start[32], line[512];
	long kib = -1;

	if (!smaps)
		return -1;
	snprintf(start, sizeof(start), "%08lx-", (unsigned long)ptr);
	if (check_for_pattern(smaps, start, line, sizeof(line)) &&
	    check_for_pattern(smaps, "Referenced:", line, sizeof(line)))
		sscanf(line, "Referenced: %ld", &kib);
	fclose(smaps);
	return kib < 0 ? -1 : kib / ((long)page_size >> 10);
}

/* From now on no page has been accessed but the marked ones. */
static bool access_marked(const struct mthp *m, char *ptr)
{
	unsigned long i;

	/* The TLB does not know that unless it is flushed. */
	write_file("/proc/self/clear_refs", "1", 2);
	if (mprotect(ptr, m->size, PROT_READ) ||
	    mprotect(ptr, m->size, PROT_READ | PROT_WRITE) || accessed(ptr))
		return false;
	for (i = 0; i < m->npages; i++) {
		if (is_marked(i))
			touch(ptr + i * page_size);
	}
	return true;
}

/* Which pages were accessed is known of those that stay, whatever keeps them. */
TEST_F_TIMEOUT(hmm_mthp, young, 60)
{
	const struct mthp *m = &self->mthp;
	const unsigned int order = given_order(m, GIVEN_SMALLER);
	const unsigned long half = m->npages / 2;
	const struct {
		const char *keeps;
		struct hmm_dmirror_inject faults;
		bool pipe;
		unsigned long stay;
	} cases[] = {
		{ "nothing is given", { .fail_to_dev = (2U << m->order) - 1 }, false, m->npages },
		{ "a pipe has a page", {}, true, m->npages },
		{ "the first half is left out", {
			.fail_to_dev = 1U << m->order,
			.leave_out = order ? 0x5555555555555555ULL : 0x3333333333333333ULL,
		}, false, half },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct hmm_dmirror_inject faults = cases[i].faults;
		char *ptr = folio_in_sys(m, 1);
		struct iovec iov = { .iov_base = ptr, .iov_len = page_size };
		int fds[2];

		ASSERT_NE(ptr, NULL);
		ASSERT_EQ(pipe(fds), 0);
		if (cases[i].pipe)
			ASSERT_EQ(vmsplice(fds[1], &iov, 1, 0), page_size);
		ASSERT_TRUE(access_marked(m, ptr));
		ASSERT_EQ(accessed(ptr), (m->npages + 1) / 3);

		faults.flags = HMM_DMIRROR_INJECT_LARGE;
		ASSERT_EQ(inject(m->fd, faults), 0);
		EXPECT_EQ(to_dev(m->fd, ptr, m->npages), -ENOENT);
		ASSERT_EQ(give_whole(m), 0);
		EXPECT_EQ(on_device(m->fd, ptr, m->npages), m->npages - cases[i].stay);
		EXPECT_EQ(accessed(ptr), (cases[i].stay + 1) / 3)
			TH_LOG("%s", cases[i].keeps);
		EXPECT_TRUE(holds(ptr, m->npages, 1));
		close(fds[0]);
		close(fds[1]);
	}
}

static int uffd_open(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd < 0)
		return -1;
	if (ioctl(uffd, UFFDIO_API, &api) ||
	    !(api.features & UFFD_FEATURE_PAGEFAULT_FLAG_WP)) {
		close(uffd);
		return -1;
	}
	return uffd;
}

static bool protect_marked(const struct mthp *m, int uffd, char *ptr)
{
	unsigned long i;

	if (!CHECK(!uffd_register(uffd, ptr, m->size, false, true, false)))
		return false;
	for (i = 0; i < m->npages; i++) {
		struct uffdio_writeprotect wp = {
			.range.start = (uintptr_t)ptr + i * page_size,
			.range.len = page_size,
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		if (is_marked(i) && !CHECK(!ioctl(uffd, UFFDIO_WRITEPROTECT, &wp)))
			return false;
	}
	return CHECK(bits_are(m, ptr, PM_UFFD_WP));
}

TEST_F_TIMEOUT(hmm_mthp, write_protected_by_userfaultfd, 120)
{
	const struct mthp *m = &self->mthp;
	int uffd = uffd_open();
	enum destination given;
	enum migration way;
	char *ptr;

	if (uffd < 0)
		SKIP(return, "userfaultfd does not protect from writes");

	for (way = 0; way < NR_WAYS; way++) {
		for (given = 0; given < NR_GIVEN; given++) {
			struct uffdio_writeprotect wp = { .range.len = m->size };

			ptr = folio_for(m, way, 1);
			ASSERT_NE(ptr, NULL);
			ASSERT_TRUE(protect_marked(m, uffd, ptr));
			EXPECT_TRUE(migrates(m, ptr, way, given));
			EXPECT_TRUE(bits_are(m, ptr, PM_UFFD_WP))
				TH_LOG("%s, %s", way_names[way], given_names[given]);
			EXPECT_TRUE(holds(ptr, m->npages, 1));
			EXPECT_TRUE(bits_are(m, ptr, PM_UFFD_WP));
			wp.range.start = (uintptr_t)ptr;
			ASSERT_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp), 0);
			fill(ptr, m->npages, 2);
			EXPECT_TRUE(device_holds(m, ptr, 2));
			ASSERT_EQ(munmap(ptr, m->size), 0);
		}
	}
	close(uffd);
}

/*
 * A folio with somebody else's reference stays where it is, whole, and its page is
 * still the one that is read and written.
 */
TEST_F_TIMEOUT(hmm_mthp, pinned, 60)
{
	const struct mthp *m = &self->mthp;
	int gup = open("/sys/kernel/debug/gup_test", O_RDWR);
	struct pin_longterm_test pin = {
		.size = page_size,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	const unsigned long page = m->npages / 2;
	struct counters before;
	unsigned long pfn;
	enum destination given;
	__u64 to;
	char *ptr;

	if (gup < 0)
		SKIP(return, "no gup_test, or debugfs is not mounted");

	for (given = 0; given < NR_GIVEN; given++) {
		ptr = folio_in_sys(m, 1);
		ASSERT_NE(ptr, NULL);
		pfn = pfn_of(m, ptr);
		pin.addr = (uintptr_t)ptr + page * page_size;
		ASSERT_EQ(ioctl(gup, PIN_LONGTERM_TEST_START, &pin), 0);

		before = counters(m);
		EXPECT_EQ(give(m, WAY_TO_DEV, given, HMM_DMIRROR_INJECT_LARGE), 0);
		EXPECT_EQ(to_dev(m->fd, ptr, m->npages), -ENOENT);
		ASSERT_EQ(give_whole(m), 0);
		EXPECT_TRUE(are(m, ptr, m->npages, false, m->order));
		EXPECT_EQ(pfn_of(m, ptr), pfn);
		EXPECT_TRUE(counted(m, &before, 0, 0, 1));
		EXPECT_TRUE(holds(ptr, m->npages, 1));

		fill(ptr, m->npages, 2);
		EXPECT_EQ(pfn_of(m, ptr), pfn);
		to = (uintptr_t)mirror;
		ASSERT_EQ(ioctl(gup, PIN_LONGTERM_TEST_READ, &to), 0);
		EXPECT_TRUE(holds_from(mirror, page, 1, 2));
		ASSERT_EQ(ioctl(gup, PIN_LONGTERM_TEST_STOP), 0);

		EXPECT_TRUE(migrates(m, ptr, WAY_TO_DEV, given));
		EXPECT_TRUE(device_holds(m, ptr, 2));
		EXPECT_TRUE(holds(ptr, m->npages, 2));
	}
	close(gup);
}

TEST_F_TIMEOUT(hmm_mthp, in_a_pipe, 60)
{
	const struct mthp *m = &self->mthp;
	const unsigned long page = m->npages - 1;
	char *ptr = folio_in_sys(m, 1);
	struct iovec iov;
	int fds[2];

	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(pipe(fds), 0);
	iov.iov_base = ptr + page * page_size;
	iov.iov_len = page_size;
	ASSERT_EQ(vmsplice(fds[1], &iov, 1, 0), page_size);

	EXPECT_EQ(to_dev(m->fd, ptr, m->npages), -ENOENT);
	EXPECT_TRUE(are(m, ptr, m->npages, false, m->order));
	EXPECT_TRUE(holds(ptr, m->npages, 1));
	ASSERT_EQ(read(fds[0], mirror, page_size), page_size);
	EXPECT_TRUE(holds_from(mirror, page, 1, 1));

	EXPECT_TRUE(migrates(m, ptr, WAY_TO_DEV, GIVEN_SAME));
	EXPECT_TRUE(holds(ptr, m->npages, 1));
}

/* Who has a folio in swap, and the socket by which it is told to read that. */
struct swapped {
	pid_t	child;
	int	socket;
};

static void swapped_child(const struct mthp *m, char *ptr, int socket)
{
	char c;

	/* Reads when it is told to, and lives until the socket is closed. */
	if (read(socket, &c, 1) == 1) {
		REQUIRE(holds(ptr, m->npages, 1));
		REQUIRE(write(socket, "", 1) == 1);
		REQUIRE(read(socket, &c, 1) == 0);
		REQUIRE(holds(ptr, m->npages, 1));
	}
	_exit(0);
}

static bool swapped_reads(const struct swapped *swapped)
{
	char c;

	return write(swapped->socket, "", 1) == 1 && read(swapped->socket, &c, 1) == 1;
}

static bool swapped_ends(struct swapped *swapped)
{
	close(swapped->socket);
	return exited_well(swapped->child);
}

/* Starts to write a folio to swap. */
static bool swap_out(const struct mthp *m, const struct nbd_swap *swap, char *ptr)
{
	unsigned long i;

	if (!nbd_swap_hold(swap, true) || madvise(ptr, m->size, MADV_PAGEOUT))
		return false;
	for (i = 0; i < m->npages; i++) {
		if (!pagemap_is_swapped(m->pagemap, ptr + i * page_size))
			return false;
	}
	return true;
}

/* Maps it again before that has come to its end. */
static bool swap_in(const struct mthp *m, char *ptr)
{
	return holds(ptr, m->npages, 1) && are(m, ptr, m->npages, false, m->order) &&
	       has_flag(m, ptr, KPF_WRITEBACK);
}

/*
 * The swap cache has a folio while a child has it swapped. What is read from swap, a huge
 * page is not, but this one has not left memory.
 */
static bool in_swap_cache(const struct mthp *m, const struct nbd_swap *swap, char *ptr,
			  struct swapped *swapped)
{
	int fds[2];

	if (!CHECK(swap_out(m, swap, ptr)) ||
	    !CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fds)))
		return false;
	swapped->child = fork();
	swapped->socket = fds[1];
	if (!swapped->child) {
		close(fds[1]);
		swapped_child(m, ptr, fds[0]);
	}
	close(fds[0]);
	if (!CHECK(swapped->child > 0) || !CHECK(swap_in(m, ptr)) ||
	    !CHECK(nbd_swap_hold(swap, false)))
		return false;
	while (has_flag(m, ptr, KPF_WRITEBACK))
		sched_yield();
	return CHECK(has_flag(m, ptr, KPF_SWAPCACHE));
}

static bool all_exited_well(void)
{
	bool ok = true;
	int status;

	while (wait(&status) > 0)
		ok &= WIFEXITED(status) && !WEXITSTATUS(status);
	return ok;
}

/* What has one of KPF_* stays with it. */
static bool stays(const struct mthp *m, char *ptr, enum destination given, __u64 flag)
{
	const unsigned long pfn = pfn_of(m, ptr);
	bool ok;

	ok = CHECK(!give(m, WAY_TO_DEV, given, HMM_DMIRROR_INJECT_LARGE)) &&
	     CHECK(to_dev(m->fd, ptr, m->npages) == -ENOENT);
	return CHECK(!give_whole(m)) && ok && CHECK(pfn_of(m, ptr) == pfn) &&
	       CHECK(are(m, ptr, m->npages, false, m->order)) &&
	       CHECK(has_flag(m, ptr, flag));
}

static bool while_in_swap_cache(const struct mthp *m, const struct nbd_swap *swap,
				enum destination given)
{
	char *ptr = folio_in_sys(m, 1);
	struct swapped swapped = {};
	bool ok;

	if (!CHECK(ptr))
		return false;
	ok = in_swap_cache(m, swap, ptr, &swapped) &&
	     stays(m, ptr, given, KPF_SWAPCACHE) && CHECK(holds(ptr, m->npages, 1)) &&
	     CHECK(swapped_reads(&swapped)) && migrates(m, ptr, WAY_TO_DEV, given) &&
	     CHECK(device_holds(m, ptr, 1));
	fill(ptr, m->npages, 2);
	ok &= CHECK(device_holds(m, ptr, 2));
	return (!swapped.child || CHECK(swapped_ends(&swapped))) &&
	       CHECK(!munmap(ptr, m->size)) && ok;
}

/* It stays, whole, as long as the swap entries of others lead to it. */
TEST_F_TIMEOUT(hmm_mthp, in_swap_cache, 60)
{
	const struct mthp *m = &self->mthp;
	enum destination given;
	struct nbd_swap swap;

	if (!nbd_swap_start(&swap))
		SKIP(return, "no network block device to swap to");
	/* No other processor keeps the folio in a batch for the LRU lists. */
	EXPECT_TRUE(cpus_pin(0));
	for (given = 0; given < NR_GIVEN; given++) {
		EXPECT_TRUE(while_in_swap_cache(m, &swap, given))
			TH_LOG("%s", given_names[given]);
	}
	nbd_swap_stop(&swap);
}

/* It stays, whole, until it has been written, whatever there is for it. */
TEST_F_TIMEOUT(hmm_mthp, under_writeback, 60)
{
	const struct mthp *m = &self->mthp;
	enum destination given;
	struct nbd_swap swap;
	char *ptr;

	if (!nbd_swap_start(&swap))
		SKIP(return, "no network block device to swap to");
	/* No other processor keeps the folio in a batch for the LRU lists. */
	EXPECT_TRUE(cpus_pin(0));
	ptr = folio_in_sys(m, 1);
	EXPECT_NE(ptr, NULL);
	EXPECT_TRUE(ptr && swap_out(m, &swap, ptr) && swap_in(m, ptr));
	for (given = 0; ptr && given < NR_GIVEN; given++) {
		EXPECT_TRUE(stays(m, ptr, given, KPF_WRITEBACK));
		EXPECT_TRUE(holds(ptr, m->npages, given + 1));
		fill(ptr, m->npages, given + 2);
	}
	nbd_swap_stop(&swap);
	ASSERT_NE(ptr, NULL);

	EXPECT_FALSE(has_flag(m, ptr, KPF_WRITEBACK));
	EXPECT_TRUE(migrates(m, ptr, WAY_TO_DEV, GIVEN_SAME));
	EXPECT_TRUE(device_holds(m, ptr, NR_GIVEN + 1));
	EXPECT_TRUE(holds(ptr, m->npages, NR_GIVEN + 1));
}

/*
 * A folio that a parent and its child share migrates in one of them. Then either of
 * them writes or exits, and the other must not see it.
 */
enum sequel {
	PARENT_WRITES,
	CHILD_WRITES,
	CHILD_EXITS,
	PARENT_EXITS,
};

struct shared {
	struct mthp	mthp;
	struct mthp	owner;		/* through which it came to the device */
	enum migration	way;
	enum destination	given;
	enum sequel	next;
	bool		in_child;	/* where it migrates */
	char		*ptr;
	int		to_child[2];
	int		to_parent[2];
};

static void shared_say(int fd)
{
	REQUIRE(write(fd, "", 1) == 1);
}

static void shared_await(int fd)
{
	char c;

	REQUIRE(read(fd, &c, 1) == 1);
}

/* It is whole in this process, too, even if it has migrated in the other. */
static void shared_migrate(struct shared *shared, bool here)
{
	const struct mthp *m = &shared->mthp;
	const bool device = (shared->way == WAY_TO_DEV) != (shared->given == GIVEN_NONE);

	if (!here) {
		REQUIRE(are(m, shared->ptr, m->npages, device,
			    given_order(m, shared->given)));
		return;
	}
	/* A CPU fault is served as the owner says. */
	REQUIRE(!give(&shared->owner, shared->way, shared->given,
		      HMM_DMIRROR_INJECT_LARGE));
	REQUIRE(migrates(m, shared->ptr, shared->way, shared->given));
	REQUIRE(!give_whole(&shared->owner));
}

static void shared_write(struct shared *shared, unsigned int seed)
{
	fill(shared->ptr, shared->mthp.npages, seed);
	REQUIRE(device_holds(&shared->mthp, shared->ptr, seed));
	REQUIRE(holds(shared->ptr, shared->mthp.npages, seed));
}

static void shared_child(struct shared *shared)
{
	struct mthp *m = &shared->mthp;

	/* Who waits for one that has failed is to see the end of the pipe. */
	close(shared->to_child[1]);
	close(shared->to_parent[0]);
	REQUIRE(open_files(m));
	REQUIRE(!give_whole(m));
	if (shared->in_child)
		shared_migrate(shared, true);
	shared_say(shared->to_parent[1]);
	shared_await(shared->to_child[0]);
	if (!shared->in_child)
		shared_migrate(shared, false);

	switch (shared->next) {
	case CHILD_EXITS:
		_exit(0);
	case CHILD_WRITES:
		shared_write(shared, 3);
		break;
	default:
		break;
	}
	shared_say(shared->to_parent[1]);
	if (shared->next == PARENT_EXITS) {
		char c;

		REQUIRE(read(shared->to_child[0], &c, 1) == 0);
	} else {
		shared_await(shared->to_child[0]);
	}
	if (shared->next != CHILD_WRITES)
		REQUIRE(holds(shared->ptr, m->npages, 1));
	shared_write(shared, 4);
	_exit(0);
}

static void shared_parent(struct shared *shared)
{
	struct mthp *m = &shared->mthp;
	pid_t pid;

	REQUIRE(open_files(m));
	REQUIRE(!give_whole(m));
	REQUIRE(!pipe(shared->to_child));
	REQUIRE(!pipe(shared->to_parent));
	shared->owner = *m;
	shared->ptr = folio_for(m, shared->way, 1);
	REQUIRE(shared->ptr);
	pid = fork();
	REQUIRE(pid >= 0);
	if (!pid)
		shared_child(shared);
	close(shared->to_child[0]);
	close(shared->to_parent[1]);

	shared_await(shared->to_parent[0]);
	shared_migrate(shared, !shared->in_child);
	shared_say(shared->to_child[1]);
	if (shared->next == CHILD_EXITS)
		REQUIRE(exited_well(pid));
	else
		shared_await(shared->to_parent[0]);
	if (shared->next == PARENT_EXITS)
		_exit(0);

	REQUIRE(holds(shared->ptr, m->npages, 1));
	shared_write(shared, 2);
	if (shared->next != CHILD_EXITS) {
		shared_say(shared->to_child[1]);
		REQUIRE(exited_well(pid));
	}
	REQUIRE(holds(shared->ptr, m->npages, 2));
	_exit(0);
}

static void shared_test(struct __test_metadata *_metadata, const struct mthp *m,
			enum sequel next)
{
	const __u64 in_use = stats(m->fd).in_use;
	unsigned int i;

	ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	for (i = 0; i < 2 * ARRAY_SIZE(main_ways) * NR_GIVEN; i++) {
		struct shared shared = {
			.mthp = *m,
			.next = next,
			.in_child = i % 2,
			.way = main_ways[i / 2 % ARRAY_SIZE(main_ways)],
			.given = i / (2 * ARRAY_SIZE(main_ways)),
		};
		pid_t pid = fork();

		ASSERT_GE(pid, 0);
		if (!pid)
			shared_parent(&shared);
		EXPECT_TRUE(all_exited_well())
			TH_LOG("%s, %s, in the %s", way_names[shared.way],
			       given_names[shared.given],
			       shared.in_child ? "child" : "parent");
		EXPECT_EQ(stats(m->fd).in_use, in_use);
	}
}

TEST_F_TIMEOUT(hmm_mthp, shared_and_parent_writes, 240)
{
	const struct mthp *m = &self->mthp;

	shared_test(_metadata, m, PARENT_WRITES);
}

TEST_F_TIMEOUT(hmm_mthp, shared_and_child_writes, 240)
{
	const struct mthp *m = &self->mthp;

	shared_test(_metadata, m, CHILD_WRITES);
}

TEST_F_TIMEOUT(hmm_mthp, shared_and_child_exits, 240)
{
	const struct mthp *m = &self->mthp;

	shared_test(_metadata, m, CHILD_EXITS);
}

TEST_F_TIMEOUT(hmm_mthp, shared_and_parent_exits, 240)
{
	const struct mthp *m = &self->mthp;

	shared_test(_metadata, m, PARENT_EXITS);
}

/* Memory that nobody has touched comes in folios that a fault would allocate. */
TEST_F_TIMEOUT(hmm_mthp, hole, 60)
{
	const struct mthp *m = &self->mthp;
	const __u64 in_use = stats(m->fd).in_use;
	enum destination given;
	char *ptr;

	for (given = 0; given < NR_GIVEN; given++) {
		const unsigned int order = given_order(m, given);

		ptr = map(m);
		ASSERT_NE(ptr, NULL);
		if (m->order == area_order)
			give_huge_pages(true);
		ASSERT_TRUE(migrate_by(m, ptr, WAY_TO_DEV, given,
				       HMM_DMIRROR_INJECT_LARGE));
		if (m->order == area_order)
			give_huge_pages(false);
		ASSERT_EQ(give_whole(m), 0);
		if (given == GIVEN_NONE) {
			EXPECT_EQ(on_device(m->fd, ptr, m->npages), 0);
			EXPECT_EQ(stats(m->fd).in_use, in_use);
		} else {
			EXPECT_TRUE(are(m, ptr, m->npages, true, order))
				TH_LOG("%s", given_names[given]);
			EXPECT_TRUE(device_holds(m, ptr, 0));
			EXPECT_TRUE(holds(ptr, m->npages, 0));
		}
		fill_new(m, ptr, 1);
		EXPECT_TRUE(device_holds(m, ptr, 1));
		EXPECT_TRUE(are(m, ptr, m->npages, false, order));
		ASSERT_EQ(munmap(ptr, m->size), 0);
		EXPECT_EQ(stats(m->fd).in_use, in_use);
	}
}

/* The order does not fit, or is not to be used: then what is smaller does. */
TEST_F_TIMEOUT(hmm_mthp, hole_of_single_pages, 60)
{
	const struct mthp *m = &self->mthp;
	char *ptr;

	/* It would not be aligned. */
	ptr = map(m);
	ASSERT_NE(ptr, NULL);
	EXPECT_EQ(to_dev(m->fd, ptr + page_size, m->npages - 1), 0);
	EXPECT_TRUE(are(m, ptr + page_size, m->npages - 1, true, 0));
	EXPECT_EQ(on_device(m->fd, ptr, 1), 0);
	EXPECT_TRUE(holds(ptr, m->npages, 0));

	/* There is something already. */
	ptr = map(m);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(madvise(ptr, m->size, MADV_NOHUGEPAGE), 0);
	fill(ptr + m->size - page_size, 1, 1);
	ASSERT_EQ(madvise(ptr, m->size, MADV_HUGEPAGE), 0);
	EXPECT_EQ(to_dev(m->fd, ptr, m->npages), 0);
	EXPECT_TRUE(are(m, ptr, m->npages, true, 0));
	EXPECT_TRUE(holds(ptr, m->npages - 1, 0));
	EXPECT_TRUE(holds(ptr + m->size - page_size, 1, 1));

	/* The area is not to have large folios. */
	ptr = map(m);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(madvise(ptr, m->size, MADV_NOHUGEPAGE), 0);
	EXPECT_EQ(to_dev(m->fd, ptr, m->npages), 0);
	EXPECT_TRUE(are(m, ptr, m->npages, true, 0));

	/*
	 * The driver asks for huge pages only: a hole of that size is one, whatever the
	 * settings are.
	 */
	ptr = map(m);
	ASSERT_NE(ptr, NULL);
	ASSERT_TRUE(migrate_by(m, ptr, WAY_TO_DEV, GIVEN_SAME, 0));
	EXPECT_TRUE(are(m, ptr, m->npages, true, m->order == area_order ? area_order : 0));
	EXPECT_TRUE(holds(ptr, m->npages, 0));
}

/* What the device may map at once: not across what has other rights. */
static bool mappings_are(const struct mthp *m, char *ptr, unsigned long first,
			 unsigned long npages, unsigned int order)
{
	unsigned char orders[HMM_DMIRROR_MAX_PAGES];
	unsigned long i;

	if (device_range(m->fd, HMM_DMIRROR_ORDERS, ptr, m->npages, orders))
		return false;
	for (i = first; i < first + npages; i++) {
		if (HMM_DMIRROR_ORDER_OF_MAPPING(orders[i]) == order)
			continue;
		fprintf(stderr, "# page %lu: mapping of order %u in place of %u\n", i,
			HMM_DMIRROR_ORDER_OF_MAPPING(orders[i]), order);
		return false;
	}
	return true;
}

TEST_F_TIMEOUT(hmm_mthp, order_of_mapping, 60)
{
	const struct mthp *m = &self->mthp;
	const unsigned long half = m->npages / 2;
	int uffd = uffd_open();
	enum migration way;
	char *ptr;

	if (uffd < 0)
		SKIP(return, "userfaultfd does not protect from writes");

	for (way = WAY_TO_DEV; way <= WAY_TO_SYS; way++) {
		struct uffdio_writeprotect wp = {
			.range.len = page_size,
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		ptr = folio_for(m, way, 1);
		ASSERT_NE(ptr, NULL);
		EXPECT_TRUE(mappings_are(m, ptr, 0, m->npages, m->order));

		/* The first half is cut by the page that cannot be written. */
		ASSERT_EQ(uffd_register(uffd, ptr, m->size, false, true, false), 0);
		wp.range.start = (uintptr_t)ptr;
		ASSERT_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp), 0);
		EXPECT_TRUE(mappings_are(m, ptr, 0, 2, 0));
		EXPECT_TRUE(mappings_are(m, ptr, half, half, m->order - 1));

		ptr = move(m, ptr);
		ASSERT_NE(ptr, NULL);
		EXPECT_TRUE(mappings_are(m, ptr, 0, m->npages, 0));
	}
	close(uffd);
}

/* Folios of all orders in one area, and single pages: each remains what it is. */
static bool area_is(const struct mthp *m, char *area, bool device)
{
	unsigned int order;

	if (!are(m, area + page_size, (1UL << MIN_ORDER) - 1, device, 0))
		return false;
	for (order = MIN_ORDER; order < area_order; order++) {
		if (!are(m, area + (page_size << order), 1UL << order, device, order))
			return false;
	}
	return true;
}

FIXTURE(hmm_mthp_mixed)
{
	struct mthp mthp;
	char *area;
};

FIXTURE_SETUP(hmm_mthp_mixed)
{
	const unsigned int last = MAX_ORDER - 1;
	struct mthp *m = &self->mthp;
	unsigned int order;

	ASSERT_TRUE(prepare());
	if (!(thp_supported_orders() & (1UL << last)))
		SKIP(return, "no folios of this order");
	ASSERT_EQ(area_order, MAX_ORDER);
	ASSERT_TRUE(open_files(m));
	m->order = area_order;
	m->npages = area_pages;
	m->size = area_size;
	thp_read_settings(&m->old);
	self->area = map(m);
	ASSERT_NE(self->area, NULL);

	/* The first page is a hole. */
	only_order(&m->old, NR_ORDERS);
	fill(self->area + page_size, 3, 1);
	for (order = MIN_ORDER; order <= last; order++) {
		only_order(&m->old, order);
		fill(self->area + (page_size << order), 1UL << order, order);
	}
	only_order(&m->old, NR_ORDERS);
	ASSERT_EQ(give_whole(m), 0);
	ASSERT_TRUE(area_is(m, self->area, false));
}

FIXTURE_TEARDOWN(hmm_mthp_mixed)
{
	if (!self->area)
		return;
	thp_write_settings(&self->mthp.old);
	close(self->mthp.fd);
}

static bool area_holds(char *area)
{
	unsigned int order;

	if (!holds(area, 1, 0) || !holds(area + page_size, 3, 1))
		return false;
	for (order = MIN_ORDER; order < area_order; order++) {
		if (!holds(area + (page_size << order), 1UL << order, order))
			return false;
	}
	return true;
}

TEST_F_TIMEOUT(hmm_mthp_mixed, round_trips, 120)
{
	const struct mthp *m = &self->mthp;
	unsigned int order;

	ASSERT_EQ(to_dev(m->fd, self->area, area_pages), 0);
	EXPECT_TRUE(area_is(m, self->area, true));
	ASSERT_EQ(device_range(m->fd, HMM_DMIRROR_READ, self->area, area_pages,
			       mirror), 0);
	EXPECT_TRUE(area_holds(mirror));
	ASSERT_EQ(to_sys(m->fd, self->area, area_pages), 0);
	EXPECT_TRUE(area_is(m, self->area, false));
	EXPECT_TRUE(area_holds(self->area));

	ASSERT_EQ(to_dev(m->fd, self->area, area_pages), 0);
	ASSERT_EQ(evict(m->fd), 0);
	EXPECT_EQ(stats(m->fd).in_use, 0);
	EXPECT_TRUE(area_is(m, self->area, false));
	EXPECT_TRUE(area_holds(self->area));

	/* A CPU fault takes the folio that it hits, and no other. */
	ASSERT_EQ(to_dev(m->fd, self->area, area_pages), 0);
	for (order = MIN_ORDER; order < area_order; order++) {
		char *ptr = self->area + (page_size << order);

		touch(ptr + (page_size << order) / 2);
		EXPECT_TRUE(are(m, ptr, 1UL << order, false, order));
		EXPECT_EQ(on_device(m->fd, ptr + (page_size << order),
				    area_pages - (2UL << order)),
			  area_pages - (2UL << order));
	}
	EXPECT_TRUE(area_holds(self->area));
}

TEST_HARNESS_MAIN
