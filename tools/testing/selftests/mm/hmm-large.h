/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of large folios on the device of lib/test_hmm share: its ioctls,
 * memory with content, huge pages.
 */
#ifndef _HMM_LARGE_H
#define _HMM_LARGE_H

#include "kselftest_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>

/*
 * This is a private UAPI to the kernel test module so it isn't exported
 * in the usual include/uapi/... directory.
 */
#include <lib/test_hmm_uapi.h>
#include <mm/hugepage_settings.h>
#include <mm/vm_util.h>

#define DEVICE		"/dev/hmm_dmirror0"
#define OTHER_DEVICE	"/dev/hmm_dmirror1"
#define PROACTIVENESS	"/proc/sys/vm/compaction_proactiveness"
#define MAX_AREAS	4
#define HOLD_MS		8000
#define WAIT_MS		5000

static unsigned long page_size;
static unsigned long area_size;		/* what a PMD maps */
static unsigned long area_pages;
static unsigned int area_order;

static char *mirror;			/* what the device reads */

static unsigned long old_proactiveness;

static inline void restore_proactiveness(void)
{
	write_num(PROACTIVENESS, old_proactiveness);
}

/*
 * The tests look at what memory is made of: nobody else is to move folios, or to
 * make larger ones of them, until the program ends. khugepaged scans whenever its
 * sleep is changed, also by a test that writes the same again, so it has to have
 * next to nothing to scan before that.
 */
static inline __attribute__((constructor)) void leave_folios_alone(void)
{
	if (!thp_available())
		return;
	thp_save_settings();
	thp_write_num("khugepaged/pages_to_scan", 1);
	thp_write_num("khugepaged/scan_sleep_millisecs", 600000);

	old_proactiveness = read_num(PROACTIVENESS);
	atexit(restore_proactiveness);
	write_num(PROACTIVENESS, 0);
}

static inline bool prepare(void)
{
	page_size = getpagesize();
	area_size = read_pmd_pagesize();
	if (!area_size)
		return false;
	area_pages = area_size / page_size;
	area_order = __builtin_ctzl(area_pages);
	mirror = mmap(NULL, MAX_AREAS * area_size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return mirror != MAP_FAILED;
}

static inline int device_open(void)
{
	return open(DEVICE, O_RDWR | O_CLOEXEC);
}

/* 0 or a negative error. */
static inline int device_range(int fd, unsigned long request, void *ptr,
			       unsigned long npages, void *result)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)ptr,
		.ptr = (uintptr_t)result,
		.npages = npages,
	};

	while (ioctl(fd, request, &cmd)) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

/* -ENOENT if some of the pages are not on the device afterwards. */
static inline int to_dev(int fd, void *ptr, unsigned long npages)
{
	return device_range(fd, HMM_DMIRROR_MIGRATE_TO_DEV, ptr, npages, mirror);
}

static inline int to_sys(int fd, void *ptr, unsigned long npages)
{
	return device_range(fd, HMM_DMIRROR_MIGRATE_TO_SYS, ptr, npages, mirror);
}

static inline int evict(int fd)
{
	return ioctl(fd, HMM_DMIRROR_EVICT) ? -errno : 0;
}

static inline int inject(int fd, struct hmm_dmirror_inject faults)
{
	return ioctl(fd, HMM_DMIRROR_INJECT, &faults) ? -errno : 0;
}

static inline struct hmm_dmirror_stats stats(int fd)
{
	struct hmm_dmirror_stats stats = {};

	if (ioctl(fd, HMM_DMIRROR_STATS, &stats))
		memset(&stats, 0xff, sizeof(stats));
	return stats;
}

static inline int hold(int fd, unsigned int point)
{
	struct hmm_dmirror_hold hold = {
		.point = point,
		.timeout_ms = point == HMM_DMIRROR_POINT_SPLIT ?
			HMM_DMIRROR_HOLD_SPLIT_MS : HOLD_MS,
	};

	return ioctl(fd, HMM_DMIRROR_HOLD, &hold) ? -errno : 0;
}

static inline int hold_wait(int fd, unsigned int point)
{
	struct hmm_dmirror_hold hold = {
		.point = point,
		.timeout_ms = WAIT_MS,
	};

	while (ioctl(fd, HMM_DMIRROR_HOLD_WAIT, &hold)) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

/* Fails if the thread went on by itself. */
static inline int hold_resume(int fd)
{
	return ioctl(fd, HMM_DMIRROR_HOLD_RESUME) ? -errno : 0;
}

/* What the device sees of each page: HMM_DMIRROR_PROT_*. */
static inline unsigned char *snapshot(int fd, void *ptr, unsigned long npages)
{
	static unsigned char perms[2048];

	if (npages > sizeof(perms) ||
	    device_range(fd, HMM_DMIRROR_SNAPSHOT, ptr, npages, perms))
		memset(perms, HMM_DMIRROR_PROT_ERROR, sizeof(perms));
	return perms;
}

static inline bool perm_is_device(unsigned char perm)
{
	return (perm & 0xf0) == HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;
}

static inline unsigned long on_device(int fd, void *ptr, unsigned long npages)
{
	const unsigned char *perms = snapshot(fd, ptr, npages);
	unsigned long i, n = 0;

	for (i = 0; i < npages; i++)
		n += perm_is_device(perms[i]);
	return n;
}

static inline bool is_huge(int fd, void *ptr, unsigned long npages)
{
	const unsigned char *perms = snapshot(fd, ptr, npages);
	unsigned long i;

	for (i = 0; i < npages; i++) {
		if (perms[i] == HMM_DMIRROR_PROT_ERROR ||
		    !(perms[i] & HMM_DMIRROR_PROT_PMD))
			return false;
	}
	return true;
}

/* Seed 0 stands for memory that was never written. */
static inline __u64 pattern(unsigned int seed, unsigned long i)
{
	return seed ? ((__u64)seed << 56) ^ (i * 0x9e3779b97f4a7c15ULL) : 0;
}

static inline void fill(void *ptr, unsigned long npages, unsigned int seed)
{
	unsigned long i, n = npages * page_size / sizeof(__u64);
	__u64 *words = ptr;

	for (i = 0; i < n; i++)
		words[i] = pattern(seed, i);
}

/*
 * Whether a number of pages, the first of which is that with the number @first
 * of what was filled, have the content that they should have.
 */
static inline bool holds_from(const void *ptr, unsigned long first,
			      unsigned long npages, unsigned int seed)
{
	unsigned long i, per_page = page_size / sizeof(__u64);
	const __u64 *words = ptr;

	for (i = 0; i < npages * per_page; i++) {
		__u64 expected = pattern(seed, first * per_page + i);
		__u64 seen = FORCE_READ(words[i]);

		if (seen == expected)
			continue;
		fprintf(stderr, "# page %lu: %llx in place of %llx\n",
			i / per_page, (unsigned long long)seen,
			(unsigned long long)expected);
		return false;
	}
	return true;
}

static inline bool holds(const void *ptr, unsigned long npages, unsigned int seed)
{
	return holds_from(ptr, 0, npages, seed);
}

static inline void touch(void *ptr)
{
	FORCE_READ(*(char *)ptr);
}

/* Memory that can be huge, with nothing in it. */
static inline void *map_areas(unsigned long n)
{
	unsigned long size = n * area_size, before;
	char *ptr, *aligned;

	ptr = mmap(NULL, size + area_size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ptr == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)ptr & (area_size - 1);
	aligned = ptr + before;
	if (before)
		munmap(ptr, before);
	munmap(aligned + size, area_size - before);
	if (madvise(aligned, size, MADV_HUGEPAGE))
		return NULL;
	return aligned;
}

/* Huge pages in system memory with content. */
static inline void *huge_in_sys(int fd, unsigned long n, unsigned int seed)
{
	char *ptr = map_areas(n);

	if (!ptr)
		return NULL;
	fill(ptr, n * area_pages, seed);
	if (!is_huge(fd, ptr, n * area_pages))
		return NULL;
	return ptr;
}

/* Huge pages on the device with content, mapped by PMDs. */
static inline void *huge_on_dev(int fd, unsigned long n, unsigned int seed)
{
	unsigned long npages = n * area_pages;
	char *ptr = huge_in_sys(fd, n, seed);

	if (!ptr || to_dev(fd, ptr, npages) ||
	    on_device(fd, ptr, npages) != npages || !is_huge(fd, ptr, npages))
		return NULL;
	return ptr;
}

/* Has the area mapped by PTEs. Its folio stays as large as it is. */
static inline int split_pmd(void *ptr)
{
	char *page = (char *)ptr + area_size / 4;

	if (mprotect(page, page_size, PROT_READ) ||
	    mprotect(page, page_size, PROT_READ | PROT_WRITE))
		return -errno;
	return 0;
}

static inline bool cpus_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

/* For processes that are not the one of the test. */
static inline bool check(bool ok, const char *what, int line)
{
	if (!ok)
		fprintf(stderr, "# line %d: not true: %s\n", line, what);
	return ok;
}

#define CHECK(condition)	check(condition, #condition, __LINE__)

/* For those that report by their exit status. */
static inline void require(bool ok, const char *what, int line)
{
	if (!check(ok, what, line))
		_exit(1);
}

#define REQUIRE(condition)	require(condition, #condition, __LINE__)

static inline bool exited_well(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return false;
	}
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

#endif /* _HMM_LARGE_H */
