// SPDX-License-Identifier: GPL-2.0
/*
 * Migration of large folios to and from device private memory where something
 * gets in the way: allocations of large folios fail, the folios are shared with
 * other processes or mapped by PTEs, and the page tables change meanwhile.
 *
 * The device is that of lib/test_hmm. It fails allocations on demand and holds
 * a migration at a given point, so that every race here has a known order.
 */

#include "hmm-large.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/*
 * A thread that does an ioctl for a range, or reads memory, or, without memory,
 * evicts what is on the device. It is to be created before a migration is held,
 * since that takes mmap_lock for write.
 */
struct job {
	pthread_t	thread;
	sem_t		go;
	int		fd;
	unsigned long	request;	/* 0 to read */
	void		*ptr;
	unsigned long	npages;
	int		ret;
	pid_t		tid;		/* set when it runs */
};

static void *job_main(void *arg)
{
	struct job *job = arg;

	while (sem_wait(&job->go))
		;
	__atomic_store_n(&job->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	if (job->request)
		job->ret = device_range(job->fd, job->request, job->ptr,
					job->npages, mirror);
	else if (job->ptr)
		touch(job->ptr);
	else
		job->ret = evict(job->fd);
	return NULL;
}

static int job_create(struct job *job)
{
	if (sem_init(&job->go, 0, 0))
		return errno;
	return pthread_create(&job->thread, NULL, job_main, job);
}

static int job_start(struct job *job)
{
	return sem_post(&job->go) ? errno : 0;
}

static int job_join(struct job *job)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_MS / 1000;
	return pthread_timedjoin_np(job->thread, NULL, &until);
}

FIXTURE(hmm_large)
{
	int fd;
};

FIXTURE_SETUP(hmm_large)
{
	ASSERT_TRUE(prepare());
	self->fd = device_open();
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(hmm_large)
{
	close(self->fd);
}

/*
 * A folio that several processes share migrates in one of them, and only single
 * pages can be allocated.
 */

enum migration {
	MIGRATION_TO_DEV,
	MIGRATION_TO_SYS,
	MIGRATION_FAULT,
	MIGRATION_EVICT,
};

struct family {
	pthread_barrier_t	barrier;
	enum migration		migration;
	int			members;
	int			migrator;
	bool			generations;
	bool			orphans;
	int			fd;		/* of the first owner */
	int			go[2];
	int			results[2];
	char			*ptr;
};

FIXTURE(hmm_shared)
{
	struct family *family;
};

/*
 * @members: processes that share the folio
 * @migrator: number of the one in which it migrates
 * @generations: each is the child of the one before, not all of the first
 * @orphans: the process that had the folio first is no member, and has exited
 */
FIXTURE_VARIANT(hmm_shared)
{
	int members;
	int migrator;
	bool generations;
	bool orphans;
};

FIXTURE_VARIANT_ADD(hmm_shared, parent_of_one)
{
	.members = 2,
};

FIXTURE_VARIANT_ADD(hmm_shared, parent_of_three)
{
	.members = 4,
};

FIXTURE_VARIANT_ADD(hmm_shared, parent_of_seven)
{
	.members = 8,
};

FIXTURE_VARIANT_ADD(hmm_shared, child)
{
	.members = 2,
	.migrator = 1,
};

FIXTURE_VARIANT_ADD(hmm_shared, grandparent)
{
	.members = 3,
	.generations = true,
};

FIXTURE_VARIANT_ADD(hmm_shared, grandchild)
{
	.members = 3,
	.migrator = 2,
	.generations = true,
};

FIXTURE_VARIANT_ADD(hmm_shared, orphan)
{
	.members = 2,
	.orphans = true,
};

FIXTURE_SETUP(hmm_shared)
{
	struct family *family;
	pthread_barrierattr_t attr;

	ASSERT_TRUE(prepare());
	family = mmap(NULL, sizeof(*family), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(family, MAP_FAILED);
	family->members = variant->members;
	family->migrator = variant->migrator;
	family->generations = variant->generations;
	family->orphans = variant->orphans;
	ASSERT_EQ(pipe(family->go), 0);
	ASSERT_EQ(pipe(family->results), 0);
	pthread_barrierattr_init(&attr);
	pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	ASSERT_EQ(pthread_barrier_init(&family->barrier, &attr,
				       family->members), 0);
	self->family = family;
}

FIXTURE_TEARDOWN(hmm_shared)
{
	munmap(self->family, sizeof(*self->family));
}

static bool family_migrate(struct family *family)
{
	struct hmm_dmirror_inject faults = {
		.fail_to_dev = 1U << area_order,
		.fail_to_sys = 1U << area_order,
		.fail_evict = 1U << area_order,
	};
	struct hmm_dmirror_stats before = stats(family->fd);
	unsigned long expected = 0;
	int fd = device_open();
	bool ok;

	if (!CHECK(fd >= 0) || !CHECK(!inject(fd, faults)) ||
	    !CHECK(!inject(family->fd, faults)))
		return false;

	switch (family->migration) {
	case MIGRATION_TO_DEV:
		ok = CHECK(!to_dev(fd, family->ptr, area_pages));
		expected = area_pages;
		break;
	case MIGRATION_TO_SYS:
		ok = CHECK(!to_sys(fd, family->ptr, area_pages));
		break;
	case MIGRATION_FAULT:
		touch(family->ptr + area_size / 3);
		ok = CHECK(stats(family->fd).faults == before.faults + 1);
		break;
	case MIGRATION_EVICT:
		ok = CHECK(!evict(fd));
		break;
	}
	ok &= CHECK(on_device(fd, family->ptr, area_pages) == expected);
	return ok;
}

static bool family_member(struct family *family, int id)
{
	unsigned int own = 2 + id;
	bool ok = true;
	char go;

	/* Goes on when the parent is gone, if it is to be gone. */
	REQUIRE(read(family->go[0], &go, 1) == 1);
	REQUIRE(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	if (family->migration == MIGRATION_TO_DEV)
		ok = CHECK(holds(family->ptr, area_pages, 1));

	pthread_barrier_wait(&family->barrier);
	if (id == family->migrator)
		ok &= family_migrate(family);
	pthread_barrier_wait(&family->barrier);
	ok &= CHECK(holds(family->ptr, area_pages, 1));
	pthread_barrier_wait(&family->barrier);
	fill(family->ptr, area_pages, own);
	pthread_barrier_wait(&family->barrier);
	ok &= CHECK(holds(family->ptr, area_pages, own));
	pthread_barrier_wait(&family->barrier);
	return ok;
}

/*
 * The process that has the folio first, with its children: it is a member
 * itself, unless all are to be orphans.
 */
static void family_found(struct family *family)
{
	int id = family->orphans ? -1 : 0, next;
	char ok;

	family->fd = device_open();
	REQUIRE(family->fd >= 0);
	if (family->migration == MIGRATION_TO_DEV)
		family->ptr = huge_in_sys(family->fd, 1, 1);
	else
		family->ptr = huge_on_dev(family->fd, 1, 1);
	REQUIRE(family->ptr);

	for (next = id + 1; next < family->members; next++) {
		pid_t pid = fork();

		REQUIRE(pid >= 0);
		if (!pid)
			id = next;
		/* Either each child has the next one, or the first has all. */
		if (!pid != family->generations)
			break;
	}
	if (id < 0)
		_exit(0);

	ok = family_member(family, id);
	REQUIRE(write(family->results[1], &ok, 1) == 1);
	while (wait(NULL) > 0)
		;
	_exit(0);
}

static void family_test(struct __test_metadata *_metadata,
			struct family *family, enum migration migration)
{
	pid_t pid;
	char ok;
	int i;

	family->migration = migration;
	ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		family_found(family);
	if (family->orphans)
		ASSERT_TRUE(exited_well(pid));
	for (i = 0; i < family->members; i++)
		ASSERT_EQ(write(family->go[1], "", 1), 1);
	for (i = 0; i < family->members; i++) {
		ASSERT_EQ(read(family->results[0], &ok, 1), 1);
		EXPECT_TRUE(ok);
	}
	while (wait(NULL) > 0)
		;
}

TEST_F_TIMEOUT(hmm_shared, to_dev, 120)
{
	family_test(_metadata, self->family, MIGRATION_TO_DEV);
}

TEST_F_TIMEOUT(hmm_shared, to_sys, 120)
{
	family_test(_metadata, self->family, MIGRATION_TO_SYS);
}

TEST_F_TIMEOUT(hmm_shared, fault, 120)
{
	family_test(_metadata, self->family, MIGRATION_FAULT);
}

TEST_F_TIMEOUT(hmm_shared, evict, 120)
{
	family_test(_metadata, self->family, MIGRATION_EVICT);
}

/*
 * The huge page is unmapped by another thread while the migration is held after
 * the copy; then it is to be migrated as single pages.
 */

FIXTURE(hmm_zapped)
{
	int fd;
};

FIXTURE_VARIANT(hmm_zapped)
{
	bool to_dev;
	bool refault;
};

FIXTURE_VARIANT_ADD(hmm_zapped, to_dev)
{
	.to_dev = true,
};

FIXTURE_VARIANT_ADD(hmm_zapped, to_sys)
{
};

FIXTURE_VARIANT_ADD(hmm_zapped, to_dev_refault)
{
	.to_dev = true, .refault = true,
};

FIXTURE_VARIANT_ADD(hmm_zapped, to_sys_refault)
{
	.refault = true,
};

FIXTURE_SETUP(hmm_zapped)
{
	ASSERT_TRUE(prepare());
	self->fd = device_open();
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(hmm_zapped)
{
	close(self->fd);
}

/* Whether a page is, still or again, part of a huge page. */
static bool pfn_is_huge(int kpageflags, unsigned long pfn)
{
	__u64 flags;

	if (pread(kpageflags, &flags, sizeof(flags), pfn * sizeof(flags)) !=
	    sizeof(flags))
		return true;
	return flags & (KPF_THP | KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL);
}

TEST_F_TIMEOUT(hmm_zapped, nothing_leaks, 60)
{
	const unsigned int rounds = 8;
	unsigned long pfns[rounds], leaked = 0;
	struct hmm_dmirror_inject faults = {
		.fail_to_dev = 1U << area_order,
		.fail_to_sys = 1U << area_order,
	};
	int pagemap, kpageflags;
	__u64 in_use;
	unsigned int i;

	pagemap = open("/proc/self/pagemap", O_RDONLY);
	kpageflags = open("/proc/kpageflags", O_RDONLY);
	ASSERT_GE(pagemap, 0);
	ASSERT_GE(kpageflags, 0);
	in_use = stats(self->fd).in_use;

	for (i = 0; i < rounds; i++) {
		struct job job = {
			.fd = self->fd,
			.request = variant->to_dev ? HMM_DMIRROR_MIGRATE_TO_DEV :
						     HMM_DMIRROR_MIGRATE_TO_SYS,
			.npages = area_pages,
		};

		ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){}), 0);
		job.ptr = huge_in_sys(self->fd, 1, 1);
		ASSERT_NE(job.ptr, NULL);
		pfns[i] = pagemap_get_pfn(pagemap, job.ptr);
		ASSERT_NE(pfns[i], -1UL);
		if (!variant->to_dev)
			ASSERT_EQ(to_dev(self->fd, job.ptr, area_pages), 0);

		ASSERT_EQ(inject(self->fd, faults), 0);
		ASSERT_EQ(hold(self->fd, HMM_DMIRROR_POINT_COPY), 0);
		ASSERT_EQ(job_create(&job), 0);
		ASSERT_EQ(job_start(&job), 0);
		ASSERT_EQ(hold_wait(self->fd, HMM_DMIRROR_POINT_COPY), 0);
		ASSERT_EQ(madvise(job.ptr, area_size, MADV_DONTNEED), 0);
		if (variant->refault)
			fill(job.ptr, area_pages, 2);
		ASSERT_EQ(hold_resume(self->fd), 0);
		ASSERT_EQ(job_join(&job), 0);

		EXPECT_TRUE(holds(job.ptr, area_pages,
				  variant->refault ? 2 : 0));
		ASSERT_EQ(munmap(job.ptr, area_size), 0);
	}

	EXPECT_EQ(stats(self->fd).in_use, in_use);
	if (variant->to_dev) {
		for (i = 0; i < rounds; i++)
			leaked += pfn_is_huge(kpageflags, pfns[i]);
		EXPECT_EQ(leaked, 0);
	}
}

/*
 * The page table goes away, or makes way for a huge page, while a folio that it
 * maps is split and the rest of its range is yet to be collected.
 *
 * Who migrates is another process on another processor: where it is held, that
 * does not answer to interrupts, so the memory's owner must not have run there.
 */

struct race {
	int	fd;
	char	*ptr;
	int	go[2];
	int	ret;
};

FIXTURE(hmm_collect_race)
{
	struct race *race;
};

FIXTURE_VARIANT(hmm_collect_race)
{
	bool refault;
};

FIXTURE_VARIANT_ADD(hmm_collect_race, unmapped)
{
};

FIXTURE_VARIANT_ADD(hmm_collect_race, huge_again)
{
	.refault = true,
};

FIXTURE_SETUP(hmm_collect_race)
{
	ASSERT_TRUE(prepare());
	if (!cpus_pin(1) || !cpus_pin(0))
		SKIP(return, "two processors are needed");
	self->race = mmap(NULL, sizeof(*self->race), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(self->race, MAP_FAILED);
}

FIXTURE_TEARDOWN(hmm_collect_race)
{
}

/* Migrates the owner's memory when it is told to. */
static void race_migrate(struct race *race)
{
	char go;

	REQUIRE(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	REQUIRE(cpus_pin(1));
	REQUIRE(read(race->go[0], &go, 1) == 1);
	race->ret = to_sys(race->fd, race->ptr, 3 * area_pages);
	_exit(0);
}

static void race_owner(struct race *race, bool refault)
{
	struct hmm_dmirror_inject faults = {
		.max_pages = 3 * area_pages,
	};
	char *middle;
	pid_t pid;

	REQUIRE(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	race->fd = device_open();
	REQUIRE(race->fd >= 0);
	REQUIRE(!pipe(race->go));
	pid = fork();
	REQUIRE(pid >= 0);
	if (!pid)
		race_migrate(race);

	/* Half of the one in the middle is left, and PTEs map that. */
	race->ptr = huge_on_dev(race->fd, 3, 1);
	REQUIRE(race->ptr);
	middle = race->ptr + area_size;
	REQUIRE(!split_pmd(middle));
	REQUIRE(!madvise(middle, area_size / 2, MADV_DONTNEED));
	REQUIRE(!inject(race->fd, faults));

	/* So that no page has to be allocated when it is read again. */
	if (refault) {
		char *other = map_areas(1);

		REQUIRE(other);
		touch(other);
	}

	REQUIRE(!hold(race->fd, HMM_DMIRROR_POINT_SPLIT));
	REQUIRE(write(race->go[1], "", 1) == 1);
	REQUIRE(!hold_wait(race->fd, HMM_DMIRROR_POINT_SPLIT));
	REQUIRE(!madvise(middle, area_size, MADV_DONTNEED));
	if (refault)
		touch(middle);
	REQUIRE(!hold_resume(race->fd));
	REQUIRE(exited_well(pid));

	REQUIRE(!stats(race->fd).overruns);
	REQUIRE(!race->ret);
	REQUIRE(on_device(race->fd, race->ptr, 3 * area_pages) == 0);
	REQUIRE(holds_from(race->ptr, 0, area_pages, 1));
	REQUIRE(holds_from(middle, 0, area_pages, 0));
	REQUIRE(holds_from(race->ptr + 2 * area_size, 2 * area_pages, area_pages, 1));
	_exit(0);
}

TEST_F_TIMEOUT(hmm_collect_race, collects_only_what_was_asked_for, 60)
{
	pid_t pid = fork();

	ASSERT_GE(pid, 0);
	if (!pid)
		race_owner(self->race, variant->refault);
	EXPECT_TRUE(exited_well(pid));
}

/*
 * The first CPU fault on a page of a folio that PTEs map.
 */

FIXTURE(hmm_fault)
{
	int fd;
};

FIXTURE_VARIANT(hmm_fault)
{
	unsigned int order;	/* of the range that migrates */
};

FIXTURE_VARIANT_ADD(hmm_fault, one_page)
{
	.order = 0,
};

FIXTURE_VARIANT_ADD(hmm_fault, sixteen_pages)
{
	.order = 4,
};

FIXTURE_VARIANT_ADD(hmm_fault, whole_folio)
{
	.order = 9,
};

FIXTURE_SETUP(hmm_fault)
{
	ASSERT_TRUE(prepare());
	self->fd = device_open();
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){
			.fault_order = variant->order }), 0);
}

FIXTURE_TEARDOWN(hmm_fault)
{
	close(self->fd);
}

static void fault_once(struct __test_metadata *_metadata, int fd,
		       unsigned int order, unsigned long page)
{
	unsigned long first = page & ~((1UL << order) - 1);
	__u64 before;
	char *ptr;

	ptr = huge_on_dev(fd, 1, 1);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(split_pmd(ptr), 0);
	ASSERT_EQ(on_device(fd, ptr, area_pages), area_pages);

	before = stats(fd).faults;
	touch(ptr + page * page_size);
	EXPECT_EQ(stats(fd).faults, before + 1);
	EXPECT_EQ(on_device(fd, ptr + first * page_size, 1UL << order), 0);
	EXPECT_EQ(on_device(fd, ptr, area_pages), area_pages - (1UL << order));
	EXPECT_TRUE(holds(ptr, area_pages, 1));
	EXPECT_EQ(munmap(ptr, area_size), 0);
}

TEST_F_TIMEOUT(hmm_fault, any_page_of_folio, 60)
{
	fault_once(_metadata, self->fd, variant->order, 0);
	fault_once(_metadata, self->fd, variant->order, area_pages / 2 + 7);
	fault_once(_metadata, self->fd, variant->order, area_pages - 1);
}

/* A page in the middle was moved to elsewhere, and is the only one there. */
TEST_F_TIMEOUT(hmm_large, fault_on_moved_page, 60)
{
	unsigned long page = area_pages / 2 + 7;
	char *ptr, *to, *moved;
	__u64 before;

	ptr = huge_on_dev(self->fd, 1, 1);
	ASSERT_NE(ptr, NULL);
	to = mmap(NULL, page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(to, MAP_FAILED);
	moved = mremap(ptr + page * page_size, page_size, page_size,
		       MREMAP_MAYMOVE | MREMAP_FIXED, to);
	ASSERT_EQ(moved, to);
	ASSERT_EQ(on_device(self->fd, moved, 1), 1);

	before = stats(self->fd).faults;
	touch(moved);
	EXPECT_EQ(stats(self->fd).faults, before + 1);
	EXPECT_EQ(on_device(self->fd, moved, 1), 0);
	EXPECT_TRUE(holds_from(moved, page, 1, 1));
	EXPECT_TRUE(holds_from(ptr, 0, page, 1));
	EXPECT_TRUE(holds_from(ptr + (page + 1) * page_size, page + 1,
			       area_pages - page - 1, 1));
}

/* The driver asks for one page, and a PMD maps the folio. */
TEST_F_TIMEOUT(hmm_large, fault_by_single_pages_ends, 60)
{
	struct job job = {};
	char *ptr;

	ptr = huge_on_dev(self->fd, 1, 1);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){
			.flags = HMM_DMIRROR_INJECT_SINGLE_FAULTS }), 0);
	job.ptr = ptr + area_size / 2;
	ASSERT_EQ(job_create(&job), 0);
	ASSERT_EQ(job_start(&job), 0);
	ASSERT_EQ(job_join(&job), 0);
	EXPECT_LE(stats(self->fd).faults, 3);
	EXPECT_EQ(on_device(self->fd, job.ptr, 1), 0);
	EXPECT_TRUE(holds(ptr, area_pages, 1));
}

/* One fault is enough, although no huge page can be allocated. */
TEST_F_TIMEOUT(hmm_large, fault_without_huge_page_is_one, 60)
{
	char *ptr;

	ptr = huge_on_dev(self->fd, 1, 1);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){
			.fail_to_sys = 1U << area_order }), 0);
	touch(ptr + area_size / 2);
	EXPECT_EQ(on_device(self->fd, ptr, area_pages), 0);
	EXPECT_TRUE(holds(ptr, area_pages, 1));
	EXPECT_EQ(stats(self->fd).faults, 1);
}

/* The state of a thread, and how often it has faulted. */
static bool thread_stat(pid_t tid, char *state, unsigned long *faults)
{
	char path[64], line[1024], *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	n = read(fd, line, sizeof(line) - 1);
	close(fd);
	if (n <= 0)
		return false;
	line[n] = 0;
	end = strrchr(line, ')');
	return end && sscanf(end, ") %c %*d %*d %*d %*d %*d %*u %lu", state,
			     faults) == 2;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Who faults on a huge page that another fault has locked waits for it. */
TEST_F_TIMEOUT(hmm_large, second_fault_waits, 60)
{
	struct job first = {}, second = {};
	unsigned long faults = 0;
	char state = 'R';
	double end;
	char *ptr;

	ptr = huge_on_dev(self->fd, 1, 1);
	ASSERT_NE(ptr, NULL);
	first.ptr = ptr;
	second.ptr = ptr + area_size / 2;

	ASSERT_EQ(hold(self->fd, HMM_DMIRROR_POINT_FAULT), 0);
	ASSERT_EQ(job_create(&first), 0);
	ASSERT_EQ(job_create(&second), 0);
	ASSERT_EQ(job_start(&first), 0);
	ASSERT_EQ(hold_wait(self->fd, HMM_DMIRROR_POINT_FAULT), 0);
	ASSERT_EQ(job_start(&second), 0);
	for (end = now() + WAIT_MS / 2000; state == 'R' && now() < end; ) {
		pid_t tid = __atomic_load_n(&second.tid, __ATOMIC_ACQUIRE);

		if (tid)
			ASSERT_TRUE(thread_stat(tid, &state, &faults));
	}
	EXPECT_NE(state, 'R');
	EXPECT_LT(faults, 1000);
	ASSERT_EQ(hold_resume(self->fd), 0);
	ASSERT_EQ(job_join(&first), 0);
	ASSERT_EQ(job_join(&second), 0);
	EXPECT_EQ(on_device(self->fd, ptr, area_pages), 0);
	EXPECT_TRUE(holds(ptr, area_pages, 1));
}

/*
 * Two migrations that see the same folio, which PTEs map in one process and a
 * PMD in the other. A migration that has locked other folios must not wait.
 */

static void other_migration(int ready, int go, char *ptr)
{
	struct hmm_dmirror_inject faults = {
		.max_pages = 2 * area_pages,
	};
	int fd = device_open();
	char c = 0;

	REQUIRE(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	REQUIRE(fd >= 0);
	REQUIRE(!inject(fd, faults));
	REQUIRE(!split_pmd(ptr + area_size));
	REQUIRE(write(ready, &c, 1) == 1);
	REQUIRE(read(go, &c, 1) == 1);
	REQUIRE(!to_sys(fd, ptr, 2 * area_pages));
	REQUIRE(on_device(fd, ptr, area_pages) == 0);
	REQUIRE(write(ready, &c, 1) == 1);
	REQUIRE(read(go, &c, 1) == 1);
	REQUIRE(holds(ptr, 2 * area_pages, 1));
	_exit(0);
}

TEST_F_TIMEOUT(hmm_large, no_wait_with_folios_locked, 60)
{
	int ready[2], go[2], returned;
	struct job job = {};
	struct pollfd poller;
	pid_t pid;
	char *ptr;
	char c = 0;

	ptr = huge_on_dev(self->fd, 2, 1);
	ASSERT_NE(ptr, NULL);
	job.ptr = ptr + area_size;
	ASSERT_EQ(pipe(ready), 0);
	ASSERT_EQ(pipe(go), 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		other_migration(ready[1], go[0], ptr);
	ASSERT_EQ(read(ready[0], &c, 1), 1);

	/* The second folio is locked, and remains mapped. */
	ASSERT_EQ(hold(self->fd, HMM_DMIRROR_POINT_FAULT), 0);
	ASSERT_EQ(job_create(&job), 0);
	ASSERT_EQ(job_start(&job), 0);
	ASSERT_EQ(hold_wait(self->fd, HMM_DMIRROR_POINT_FAULT), 0);

	ASSERT_EQ(write(go[1], &c, 1), 1);
	poller = (struct pollfd){ .fd = ready[0], .events = POLLIN };
	returned = poll(&poller, 1, WAIT_MS / 2);
	EXPECT_EQ(hold_resume(self->fd), 0);
	EXPECT_EQ(returned, 1);

	ASSERT_EQ(job_join(&job), 0);
	ASSERT_EQ(read(ready[0], &c, 1), 1);
	ASSERT_EQ(write(go[1], &c, 1), 1);
	EXPECT_TRUE(exited_well(pid));
	EXPECT_TRUE(holds(ptr, 2 * area_pages, 1));
}

/*
 * Single pages take the place of a huge page, or of a hole that could hold one,
 * and not all of them can be allocated.
 */

static const __u64 left_out[] = {
	0x0000000000000001ULL,
	0xfffffffffffffffeULL,
	0xaaaaaaaaaaaaaaaaULL,
	0x5555555555555555ULL,
	0x7fffffffffffffffULL,
	0x00000000ffffffffULL,
	0xffffffffffffffffULL,
};

/* How many pages are not where they should be. */
static unsigned long misplaced(int fd, char *ptr, __u64 without,
			       bool to_device)
{
	const unsigned char *perms = snapshot(fd, ptr, area_pages);
	unsigned long i, n = 0;

	for (i = 0; i < area_pages; i++) {
		bool left = (without >> (i % 64)) & 1;

		n += perm_is_device(perms[i]) == (left == to_device);
	}
	return n;
}

TEST_F_TIMEOUT(hmm_large, hole_to_dev_partly, 60)
{
	__u64 in_use = stats(self->fd).in_use;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(left_out); i++) {
		char *ptr = map_areas(1);

		ASSERT_NE(ptr, NULL);
		ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){
				.fail_to_dev = 1U << area_order,
				.leave_out = left_out[i] }), 0);
		EXPECT_EQ(to_dev(self->fd, ptr, area_pages), -ENOENT);
		EXPECT_EQ(misplaced(self->fd, ptr, left_out[i], true), 0);
		EXPECT_TRUE(holds(ptr, area_pages, 0));
		fill(ptr, area_pages, 2);
		EXPECT_TRUE(holds(ptr, area_pages, 2));
		EXPECT_EQ(stats(self->fd).in_use, in_use);
	}
}

/* A hole of several huge pages that has not even a table of PMDs. */
TEST_F_TIMEOUT(hmm_large, large_hole_to_dev, 60)
{
	const unsigned long pud_size = area_pages * area_size;
	const unsigned long npages = MAX_AREAS * area_pages;
	char *space, *ptr;

	space = mmap(NULL, 2 * pud_size, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(space, MAP_FAILED);
	ptr = space + (-(uintptr_t)space & (pud_size - 1));
	ASSERT_EQ(mprotect(ptr, MAX_AREAS * area_size, PROT_READ | PROT_WRITE), 0);
	ASSERT_EQ(madvise(ptr, MAX_AREAS * area_size, MADV_HUGEPAGE), 0);

	ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){
			.max_pages = npages }), 0);
	EXPECT_EQ(to_dev(self->fd, ptr, npages), 0);
	EXPECT_EQ(on_device(self->fd, ptr, npages), npages);
	EXPECT_TRUE(is_huge(self->fd, ptr, npages));
	EXPECT_TRUE(holds(ptr, npages, 0));
	EXPECT_EQ(munmap(space, 2 * pud_size), 0);
}

TEST_F_TIMEOUT(hmm_large, huge_page_to_dev_partly, 60)
{
	__u64 in_use = stats(self->fd).in_use;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(left_out); i++) {
		char *ptr = huge_in_sys(self->fd, 1, 1);

		ASSERT_NE(ptr, NULL);
		ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){
				.fail_to_dev = 1U << area_order,
				.leave_out = left_out[i] }), 0);
		EXPECT_EQ(to_dev(self->fd, ptr, area_pages), -ENOENT);
		EXPECT_EQ(misplaced(self->fd, ptr, left_out[i], true), 0);
		EXPECT_TRUE(holds(ptr, area_pages, 1));
		EXPECT_EQ(stats(self->fd).in_use, in_use);
	}
}

TEST_F_TIMEOUT(hmm_large, huge_page_to_sys_partly, 60)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(left_out); i++) {
		char *ptr = huge_on_dev(self->fd, 1, 1);

		ASSERT_NE(ptr, NULL);
		ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){
				.fail_to_sys = 1U << area_order,
				.leave_out = left_out[i] }), 0);
		EXPECT_EQ(to_sys(self->fd, ptr, area_pages), 0);
		EXPECT_EQ(misplaced(self->fd, ptr, left_out[i], false), 0);
		ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){}), 0);
		EXPECT_TRUE(holds(ptr, area_pages, 1));
	}
}

/* Device memory is evicted, and no huge page can be allocated. */

static void evict_singly(struct __test_metadata *_metadata, int fd, char *ptr,
			 unsigned int flags)
{
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(inject(fd, (struct hmm_dmirror_inject){
			.fail_evict = 1U << area_order, .flags = flags }), 0);
	ASSERT_EQ(evict(fd), 0);
	EXPECT_EQ(stats(fd).in_use, 0);
	EXPECT_EQ(on_device(fd, ptr, area_pages), 0);
	EXPECT_EQ(stats(fd).faults, 0);
	EXPECT_TRUE(holds(ptr, area_pages, 1));
}

TEST_F_TIMEOUT(hmm_large, evict_huge_page, 60)
{
	evict_singly(_metadata, self->fd, huge_on_dev(self->fd, 1, 1), 0);
}

TEST_F_TIMEOUT(hmm_large, evict_huge_page_by_list, 60)
{
	evict_singly(_metadata, self->fd, huge_on_dev(self->fd, 1, 1),
		     HMM_DMIRROR_INJECT_EVICT_PFNS);
}

TEST_F_TIMEOUT(hmm_large, evict_huge_page_mapped_by_ptes, 60)
{
	char *ptr = huge_on_dev(self->fd, 1, 1);

	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(split_pmd(ptr), 0);
	evict_singly(_metadata, self->fd, ptr, 0);
}

/* Some of the pages have no destination: they, and only they, stay. */
TEST_F_TIMEOUT(hmm_large, evict_huge_page_partly, 60)
{
	char *ptr = huge_on_dev(self->fd, 1, 1);

	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(inject(self->fd, (struct hmm_dmirror_inject){
			.fail_evict = 1U << area_order,
			.leave_out = 0x5555555555555555ULL }), 0);
	ASSERT_EQ(evict(self->fd), 0);
	EXPECT_EQ(misplaced(self->fd, ptr, 0x5555555555555555ULL, false), 0);
	EXPECT_TRUE(holds(ptr, area_pages, 1));
}

/* How many huge pages were found to be mapped in part; -1 if that cannot be told. */
static long partly_mapped(void)
{
	char line[128];
	long count = -1;
	FILE *file = fopen("/proc/vmstat", "r");

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "thp_deferred_split_page %ld", &count) == 1)
			break;
	}
	if (file)
		fclose(file);
	return count;
}

/* Else nothing gets back the memory of the other pages. */
TEST_F_TIMEOUT(hmm_large, evicted_part_is_queued_for_a_split, 60)
{
	char *whole = huge_on_dev(self->fd, 1, 2);
	char *ptr = huge_on_dev(self->fd, 1, 1);
	long before;

	ASSERT_NE(whole, NULL);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(madvise(ptr + page_size, area_size - page_size, MADV_DONTNEED), 0);
	before = partly_mapped();
	ASSERT_LE(0, before);
	ASSERT_EQ(evict(self->fd), 0);
	EXPECT_EQ(on_device(self->fd, whole, area_pages), 0);
	EXPECT_EQ(on_device(self->fd, ptr, 1), 0);
	EXPECT_TRUE(is_huge(self->fd, whole, area_pages));
	EXPECT_EQ(partly_mapped(), before + 1);
	EXPECT_TRUE(holds(ptr, 1, 1));
	EXPECT_TRUE(holds(whole, area_pages, 2));
}

/* The device has to find memory of its own again, of which it asks for a few pages at a time. */
TEST_F_TIMEOUT(hmm_large, device_reads_its_huge_page_in_parts, 60)
{
	char *ptr = huge_on_dev(self->fd, 1, 1);

	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(mprotect(ptr, area_size, PROT_READ), 0);
	ASSERT_EQ(device_range(self->fd, HMM_DMIRROR_READ, ptr, area_pages, mirror), 0);
	EXPECT_EQ(on_device(self->fd, ptr, area_pages), area_pages);
	EXPECT_TRUE(is_huge(self->fd, ptr, area_pages));
	EXPECT_TRUE(holds(mirror, area_pages, 1));
}

/*
 * The only process that maps a folio exits while it is evicted. What is left is
 * to drop the folio, without a look at what was its anon_vma.
 */
static void map_and_exit(int ready, int go, bool by_ptes)
{
	int fd = device_open();
	char c = 0;
	char *ptr;

	REQUIRE(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	REQUIRE(fd >= 0);
	ptr = huge_on_dev(fd, 1, 1);
	REQUIRE(ptr);
	REQUIRE(!by_ptes || !split_pmd(ptr));
	REQUIRE(write(ready, &c, 1) == 1);
	REQUIRE(read(go, &c, 1) == 1);
	_exit(0);
}

static void owner_exits(struct __test_metadata *_metadata, int fd, bool by_ptes)
{
	struct job job = { .fd = fd };
	int ready[2], go[2];
	char c = 0;
	pid_t pid;

	ASSERT_EQ(pipe(ready), 0);
	ASSERT_EQ(pipe(go), 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		map_and_exit(ready[1], go[0], by_ptes);
	ASSERT_EQ(read(ready[0], &c, 1), 1);

	ASSERT_EQ(hold(fd, HMM_DMIRROR_POINT_EVICT), 0);
	ASSERT_EQ(job_create(&job), 0);
	ASSERT_EQ(job_start(&job), 0);
	ASSERT_EQ(hold_wait(fd, HMM_DMIRROR_POINT_EVICT), 0);
	ASSERT_EQ(write(go[1], &c, 1), 1);
	ASSERT_TRUE(exited_well(pid));
	ASSERT_EQ(hold_resume(fd), 0);
	ASSERT_EQ(job_join(&job), 0);
	EXPECT_EQ(job.ret, 0);
	EXPECT_EQ(stats(fd).in_use, 0);
}

TEST_F_TIMEOUT(hmm_large, owner_exits_during_eviction, 60)
{
	owner_exits(_metadata, self->fd, false);
}

/* Wrong accesses show with KASAN and SLUB_RCU_DEBUG only. */
TEST_F_TIMEOUT(hmm_large, owner_exits_during_eviction_mapped_by_ptes, 60)
{
	owner_exits(_metadata, self->fd, true);
}

/*
 * A large folio that cannot be split, since one of its pages is in a pipe, does
 * not keep its neighbours in the same page table from migrating.
 */
TEST_F_TIMEOUT(hmm_large, pinned_folio_stays_alone, 60)
{
	const unsigned int order = 4;
	const unsigned long size = page_size << order, n = 16;
	struct thp_settings old, settings;
	unsigned long npages = n << order;
	struct iovec iov;
	int fds[2], pagemap;
	char *ptr;

	if (!(thp_supported_orders() & (1UL << order)))
		SKIP(return, "no folios of this size");

	/* Less than a PMD maps, hence of smaller folios. */
	ptr = map_areas(1);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(munmap(ptr + n * size, area_size - n * size), 0);
	thp_read_settings(&old);
	settings = old;
	settings.hugepages[order].enabled = THP_ALWAYS;
	thp_write_settings(&settings);
	fill(ptr, npages, 1);
	thp_write_settings(&old);
	pagemap = open("/proc/self/pagemap", O_RDONLY);
	ASSERT_GE(pagemap, 0);
	ASSERT_EQ(pagemap_get_pfn(pagemap, ptr) & ((1UL << order) - 1), 0);

	ASSERT_EQ(pipe(fds), 0);
	iov.iov_base = ptr + 3 * size + 5 * page_size;
	iov.iov_len = page_size;
	ASSERT_EQ(vmsplice(fds[1], &iov, 1, 0), page_size);

	EXPECT_EQ(to_dev(self->fd, ptr, npages), -ENOENT);
	EXPECT_EQ(on_device(self->fd, ptr, 3 << order), 3 << order);
	EXPECT_EQ(on_device(self->fd, ptr + 3 * size, 1 << order), 0);
	EXPECT_EQ(on_device(self->fd, ptr + 4 * size, npages - (4 << order)),
		  npages - (4 << order));
	EXPECT_TRUE(holds(ptr, npages, 1));
}

/*
 * Locked memory goes to the device as other memory does, and is free when it is
 * unmapped: nobody keeps it for a while on a list of what is to be unlocked.
 */
TEST_F_TIMEOUT(hmm_large, locked_memory_is_freed_at_once, 60)
{
	/* Few enough to stay on such a list. */
	const unsigned long npages = 8;
	__u64 before;
	char *ptr;

	ptr = map_areas(1);
	ASSERT_NE(ptr, NULL);
	ASSERT_EQ(madvise(ptr, area_size, MADV_NOHUGEPAGE), 0);
	ASSERT_EQ(mlock(ptr, npages * page_size), 0);
	fill(ptr, npages, 1);
	before = stats(self->fd).in_use;
	ASSERT_EQ(to_dev(self->fd, ptr, npages), 0);
	ASSERT_EQ(on_device(self->fd, ptr, npages), npages);
	EXPECT_EQ(stats(self->fd).in_use, before + npages);
	ASSERT_EQ(munmap(ptr, npages * page_size), 0);
	EXPECT_EQ(stats(self->fd).in_use, before);
}

static char *mergeable(unsigned long npages)
{
	char *ptr = mmap(NULL, npages * page_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (ptr == MAP_FAILED)
		return NULL;
	fill(ptr, npages, 1);
	if (madvise(ptr, npages * page_size, MADV_MERGEABLE))
		return NULL;
	return ptr;
}

/*
 * What KSM has merged stays in system memory, where KSM reads it to compare it
 * with other pages.
 */
TEST_F_TIMEOUT(hmm_large, merged_pages_stay_in_system_memory, 60)
{
	const unsigned long npages = 8;
	char *ptrs[3];
	long merged;

	for (int i = 0; i < 2; i++) {
		ptrs[i] = mergeable(npages);
		ASSERT_NE(ptrs[i], NULL);
	}
	if (ksm_start())
		SKIP(return, "the kernel has no KSM, or this is not root");
	merged = ksm_get_self_merging_pages();
	ASSERT_EQ(merged, 2 * npages);

	EXPECT_EQ(to_dev(self->fd, ptrs[0], npages), -ENOENT);
	ASSERT_EQ(on_device(self->fd, ptrs[0], npages), 0);
	ptrs[2] = mergeable(npages);
	ASSERT_NE(ptrs[2], NULL);
	ASSERT_EQ(ksm_start(), 0);
	EXPECT_EQ(ksm_get_self_merging_pages(), 3 * npages);

	/* What is written is no longer merged, and goes. */
	fill(ptrs[0], npages, 2);
	EXPECT_EQ(to_dev(self->fd, ptrs[0], npages), 0);
	EXPECT_TRUE(holds(ptrs[0], npages, 2));
	EXPECT_TRUE(holds(ptrs[1], npages, 1));
	EXPECT_TRUE(holds(ptrs[2], npages, 1));
	EXPECT_EQ(ksm_stop(), 0);
}

/* How many pages have @bit in /proc/PID/pagemap. */
static unsigned long with_bit(void *ptr, unsigned long npages, __u64 bit)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	unsigned long i, n = 0;

	if (pagemap < 0)
		return 0;
	for (i = 0; i < npages; i++)
		n += !!(pagemap_get_entry(pagemap, ptr + i * page_size) & bit);
	close(pagemap);
	return n;
}

/* What the device gets in place of a hole counts as written, as after a fault. */
TEST_F_TIMEOUT(hmm_large, filled_hole_is_soft_dirty, 60)
{
	unsigned int i;
	char *ptr;

	if (!softdirty_supported())
		SKIP(return, "the kernel has no soft-dirty bits");
	for (i = 0; i < 2; i++) {
		ptr = map_areas(1);
		ASSERT_NE(ptr, NULL);
		if (i)
			ASSERT_EQ(madvise(ptr, area_size, MADV_NOHUGEPAGE), 0);
		clear_softdirty();
		ASSERT_EQ(with_bit(ptr, area_pages, PM_SOFT_DIRTY), 0);
		ASSERT_EQ(to_dev(self->fd, ptr, area_pages), 0);
		EXPECT_EQ(on_device(self->fd, ptr, area_pages), area_pages);
		EXPECT_EQ(with_bit(ptr, area_pages, PM_SOFT_DIRTY), area_pages);
		EXPECT_TRUE(holds(ptr, area_pages, 0));
		EXPECT_EQ(with_bit(ptr, area_pages, PM_SOFT_DIRTY), area_pages);
	}
}

/* The bits outlive what makes the memory read-only on the device. */
TEST_F_TIMEOUT(hmm_large, soft_dirty_stays, 60)
{
	unsigned int i;
	pid_t pid;
	char *ptr;

	if (!softdirty_supported())
		SKIP(return, "the kernel has no soft-dirty bits");
	for (i = 0; i < 4; i++) {
		ptr = map_areas(1);
		ASSERT_NE(ptr, NULL);
		if (i & 1)
			ASSERT_EQ(madvise(ptr, area_size, MADV_NOHUGEPAGE), 0);
		clear_softdirty();
		ASSERT_EQ(to_dev(self->fd, ptr, area_pages), 0);
		ASSERT_EQ(with_bit(ptr, area_pages, PM_SOFT_DIRTY), area_pages);
		if (i & 2) {
			pid = fork();
			ASSERT_GE(pid, 0);
			if (!pid)
				_exit(0);
			ASSERT_EQ(waitpid(pid, NULL, 0), pid);
		} else {
			ASSERT_EQ(mprotect(ptr, area_size, PROT_READ), 0);
			ASSERT_EQ(mprotect(ptr, area_size,
					   PROT_READ | PROT_WRITE), 0);
		}
		EXPECT_EQ(on_device(self->fd, ptr, area_pages), area_pages);
		EXPECT_EQ(with_bit(ptr, area_pages, PM_SOFT_DIRTY), area_pages);
		EXPECT_TRUE(holds(ptr, area_pages, 0));
	}
}

/* A userfaultfd that write-protects what is mapped of an area; -1 if that cannot be. */
static int protect(char *ptr, struct uffdio_writeprotect *wp)
{
	struct uffdio_api api = { .api = UFFD_API };
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	*wp = (struct uffdio_writeprotect) {
		.range = { (uintptr_t)ptr, area_size },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	if (uffd < 0)
		return -1;
	if (!ioctl(uffd, UFFDIO_API, &api) &&
	    !uffd_register(uffd, ptr, area_size, false, true, false) &&
	    !ioctl(uffd, UFFDIO_WRITEPROTECT, wp))
		return uffd;
	close(uffd);
	return -1;
}

/* A write to a zero page that userfaultfd protects is to be told of. */
TEST_F_TIMEOUT(hmm_large, protected_zero_page_is_no_hole, 60)
{
	unsigned int i;
	char *ptr;

	for (i = 0; i < 2; i++) {
		struct uffdio_writeprotect wp;
		int uffd;

		ptr = map_areas(1);
		ASSERT_NE(ptr, NULL);
		if (i)
			ASSERT_EQ(madvise(ptr, area_size, MADV_NOHUGEPAGE), 0);
		ASSERT_TRUE(holds(ptr, area_pages, 0));
		uffd = protect(ptr, &wp);
		if (uffd < 0)
			SKIP(return, "userfaultfd does not protect from writes");
		ASSERT_EQ(with_bit(ptr, area_pages, PM_UFFD_WP), area_pages);

		EXPECT_EQ(to_dev(self->fd, ptr, area_pages), -ENOENT);
		EXPECT_EQ(on_device(self->fd, ptr, area_pages), 0);
		EXPECT_EQ(with_bit(ptr, area_pages, PM_UFFD_WP), area_pages);

		wp.mode = 0;
		ASSERT_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp), 0);
		EXPECT_EQ(to_dev(self->fd, ptr, area_pages), 0);
		EXPECT_EQ(on_device(self->fd, ptr, area_pages), area_pages);
		EXPECT_TRUE(holds(ptr, area_pages, 0));
		close(uffd);
	}
}

/* A huge page on the device is a huge page, which need not be made one. */
TEST_F_TIMEOUT(hmm_large, huge_page_on_device_is_collapsed, 60)
{
	char *ptr = huge_on_dev(self->fd, 2, 1);

	ASSERT_NE(ptr, NULL);
	touch(ptr);
	EXPECT_EQ(madvise(ptr, 2 * area_size, MADV_COLLAPSE), 0);
	EXPECT_EQ(on_device(self->fd, ptr + area_size, area_pages), area_pages);
	EXPECT_TRUE(is_huge(self->fd, ptr, 2 * area_pages));
	EXPECT_TRUE(holds(ptr, 2 * area_pages, 1));
}

TEST_HARNESS_MAIN
