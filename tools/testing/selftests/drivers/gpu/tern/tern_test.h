/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the tests of the Tern GPU's driver.
 *
 * Functions return 0 or a negative errno unless they say otherwise, so that a test can
 * compare with what it expects.
 */
#ifndef TERN_TEST_H
#define TERN_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <drm/tern_drm.h>

#include "kernels.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define PAGE 4096UL
#define HUGE_PAGE (2UL << 20)
#define WORDS(bytes) ((bytes) / sizeof(unsigned long))

/* Bytes of stack of a thread of the device. */
#define TERN_STACK_SIZE 4096U
/* Threads of a dispatch, unless a test wants another number. */
#define TERN_THREADS 64UL
/* A wait that takes longer than this has failed. */
#define TERN_WAIT_SECONDS 120

/* The code, from kernels.c. */
__asm__(".pushsection .rodata\n"
	"tern_kernels: .incbin \"" TERN_KERNELS_BIN "\"\n"
	"tern_kernels_end:\n"
	".popsection\n");
extern const char tern_kernels[], tern_kernels_end[];

/*
 * A queue with what a dispatch in it needs. All of that is shared memory, which the device
 * uses where it is, so that only a test's own memory counts as moved.
 */
struct tern_queue {
	__u32 handle;
	__u32 syncobj;
	/* Of the last submission. */
	__u64 seqno;
	struct kernel_args *args;
	char *stack;
	size_t stack_bytes;
	/* Of the last wait. */
	struct drm_tern_result result;
};

/* Mappings that are undone at the end of a test. */
#define TERN_MAX_RANGES 32

struct tern {
	int fd;
	__u32 vm;
	struct drm_tern_device_query info;
	char *code;
	size_t code_bytes;
	struct tern_queue queue;
	struct {
		void *start;
		size_t bytes;
	} ranges[TERN_MAX_RANGES];
	unsigned int nr_ranges;
	/* The test moves memory that stays mapped, so that some is left on the device. */
	int leaves_memory;
};

/*
 * Whether a call that failed is to be made again. With TERN_RETRY in the environment that is
 * so for want of memory too, where somebody sees to it that allocations fail.
 */
static inline int tern_again(void)
{
	return errno == EINTR || (errno == ENOMEM && getenv("TERN_RETRY"));
}

static inline int tern_ioctl(int fd, unsigned long request, void *arg)
{
	int ret;

	do {
		ret = ioctl(fd, request, arg);
	} while (ret == -1 && tern_again());
	return ret == -1 ? -errno : 0;
}

static inline int tern_is_tern(int fd)
{
	char name[8] = "";
	struct drm_version version = { .name = name, .name_len = sizeof(name) - 1 };

	return !tern_ioctl(fd, DRM_IOCTL_VERSION, &version) && !strcmp(name, "tern");
}

/* Opens the first device, or the one that TERN_DEVICE names; -1 if there is none. */
static inline int tern_open_device(void)
{
	const char *path = getenv("TERN_DEVICE");

	for (int minor = 128; minor < 192; minor++) {
		char node[32];
		int fd;

		snprintf(node, sizeof(node), "/dev/dri/renderD%d", minor);
		do {
			fd = open(path ? path : node, O_RDWR | O_CLOEXEC);
		} while (fd < 0 && tern_again());
		if (fd >= 0 && tern_is_tern(fd))
			return fd;
		if (fd >= 0)
			close(fd);
	}
	return -1;
}

static inline int tern_query(int fd, struct drm_tern_device_query *info)
{
	memset(info, 0, sizeof(*info));
	return tern_ioctl(fd, DRM_IOCTL_TERN_DEVICE_QUERY, info);
}

/* Shared memory of the process; NULL on failure. */
static inline void *tern_shared(size_t bytes, int *fd)
{
	int memfd = memfd_create("tern", MFD_CLOEXEC);
	void *start = MAP_FAILED;

	if (memfd >= 0 && !ftruncate(memfd, bytes))
		start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (fd)
		*fd = memfd;
	else if (memfd >= 0)
		close(memfd);
	return start == MAP_FAILED ? NULL : start;
}

static inline int tern_vm_create(int fd, __u32 *vm)
{
	struct drm_tern_vm_create create = {};
	int ret = tern_ioctl(fd, DRM_IOCTL_TERN_VM_CREATE, &create);

	*vm = create.handle;
	return ret;
}

static inline int tern_vm_destroy(int fd, __u32 vm)
{
	struct drm_tern_handle handle = { .handle = vm };

	return tern_ioctl(fd, DRM_IOCTL_TERN_VM_DESTROY, &handle);
}

static inline int tern_queue_destroy(int fd, __u32 queue)
{
	struct drm_tern_handle handle = { .handle = queue };

	return tern_ioctl(fd, DRM_IOCTL_TERN_QUEUE_DESTROY, &handle);
}

/* Makes a queue of @entries dispatches; 0: the driver's default. */
static inline int tern_queue_init(struct tern *t, struct tern_queue *queue, __u32 entries)
{
	struct drm_tern_queue_create create = { .vm = t->vm, .entries = entries };
	struct drm_syncobj_create syncobj = {};
	int ret;

	memset(queue, 0, sizeof(*queue));
	queue->stack_bytes = (size_t)t->info.resident_threads * TERN_STACK_SIZE;
	queue->args = tern_shared(PAGE, NULL);
	queue->stack = tern_shared(queue->stack_bytes, NULL);
	if (!queue->args || !queue->stack)
		return -ENOMEM;
	ret = tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_CREATE, &syncobj);
	if (!ret)
		ret = tern_ioctl(t->fd, DRM_IOCTL_TERN_QUEUE_CREATE, &create);
	queue->syncobj = syncobj.handle;
	queue->handle = create.handle;
	return ret;
}

static inline void tern_queue_free(struct tern *t, struct tern_queue *queue)
{
	struct drm_syncobj_destroy syncobj = { .handle = queue->syncobj };

	if (queue->handle)
		tern_queue_destroy(t->fd, queue->handle);
	if (queue->syncobj)
		tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_DESTROY, &syncobj);
	if (queue->stack)
		munmap(queue->stack, queue->stack_bytes);
	if (queue->args)
		munmap(queue->args, PAGE);
	memset(queue, 0, sizeof(*queue));
}

/* Address of a kernel's first instruction. */
static inline __u64 tern_entry(const struct tern *t, enum kernel_id kernel)
{
	return (uintptr_t)t->code + kernel * TERN_KERNEL_STRIDE;
}

/* Opens the device, with an address space and a queue on it. -ENODEV if there is none. */
static inline int tern_begin(struct tern *t)
{
	int ret;

	memset(t, 0, sizeof(*t));
	t->fd = tern_open_device();
	if (t->fd < 0)
		return -ENODEV;
	t->code_bytes = tern_kernels_end - tern_kernels;
	t->code = tern_shared(t->code_bytes, NULL);
	if (!t->code)
		return -ENOMEM;
	memcpy(t->code, tern_kernels, t->code_bytes);
	ret = tern_query(t->fd, &t->info);
	if (!ret)
		ret = tern_vm_create(t->fd, &t->vm);
	if (!ret)
		ret = tern_queue_init(t, &t->queue, 0);
	return ret;
}

/* A submission of @kernel to @queue, with its syncobj, for the test to send or to spoil. */
static inline struct drm_tern_submit tern_submission(const struct tern *t,
						     const struct tern_queue *queue,
						     enum kernel_id kernel)
{
	return (struct drm_tern_submit){
		.queue = queue->handle,
		.entry = tern_entry(t, kernel),
		.args = (uintptr_t)queue->args,
		.threads = TERN_THREADS,
		.stack = (uintptr_t)queue->stack,
		.stack_size = TERN_STACK_SIZE,
		.out_syncobjs = (uintptr_t)&queue->syncobj,
		.out_count = 1,
	};
}

/* Submits @threads threads of @kernel. @timeout_ms 0: the driver's limit. */
static inline int tern_start(const struct tern *t, struct tern_queue *queue, enum kernel_id kernel,
			     struct kernel_args args, unsigned long threads, __u32 timeout_ms)
{
	struct drm_tern_submit submit = tern_submission(t, queue, kernel);
	int ret;

	*queue->args = args;
	submit.threads = threads;
	submit.timeout_ms = timeout_ms;
	ret = tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit);
	queue->seqno = submit.seqno;
	return ret;
}

/* Asks how dispatch @seqno of @queue ended, into @queue->result. */
static inline int tern_result(const struct tern *t, struct tern_queue *queue, __u64 seqno)
{
	queue->result = (struct drm_tern_result){ .queue = queue->handle, .seqno = seqno };
	return tern_ioctl(t->fd, DRM_IOCTL_TERN_RESULT, &queue->result);
}

/* Waits for the fence of the last submission. */
static inline int tern_wait_fence(const struct tern *t, const struct tern_queue *queue)
{
	struct drm_syncobj_wait wait = {
		.handles = (uintptr_t)&queue->syncobj,
		.count_handles = 1,
	};
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	wait.timeout_nsec = (now.tv_sec + TERN_WAIT_SECONDS) * 1000000000LL + now.tv_nsec;
	return tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_WAIT, &wait);
}

/* Waits for the last submission; returns its drm_tern_result_status or a negative errno. */
static inline int tern_finish(const struct tern *t, struct tern_queue *queue)
{
	int ret = tern_wait_fence(t, queue);

	if (!ret)
		ret = tern_result(t, queue, queue->seqno);
	return ret ? ret : (int)queue->result.status;
}

/* Runs @threads threads of @kernel to their end; returns as tern_finish(). */
static inline int tern_run_threads(struct tern *t, enum kernel_id kernel, struct kernel_args args,
				   unsigned long threads)
{
	int ret = tern_start(t, &t->queue, kernel, args, threads, 0);

	return ret ? ret : tern_finish(t, &t->queue);
}

static inline int tern_run(struct tern *t, enum kernel_id kernel, struct kernel_args args)
{
	return tern_run_threads(t, kernel, args, TERN_THREADS);
}

/* Counters of the address space. */
static inline struct drm_tern_stats tern_stats(const struct tern *t)
{
	struct drm_tern_stats stats = { .vm = t->vm };

	if (tern_ioctl(t->fd, DRM_IOCTL_TERN_STATS, &stats)) {
		/* No test expects this of any counter. */
		memset(&stats, 0xff, sizeof(stats));
	}
	return stats;
}

/* Notes a mapping, to be undone at the end of the test; returns it. */
static inline void *tern_keep(struct tern *t, void *start, size_t bytes)
{
	if (start == MAP_FAILED || !start || t->nr_ranges == TERN_MAX_RANGES)
		return NULL;
	t->ranges[t->nr_ranges].start = start;
	t->ranges[t->nr_ranges++].bytes = bytes;
	return start;
}

/*
 * Anonymous memory at an address aligned to 2 MiB, between ranges that cannot be accessed,
 * so that it is a VMA of its own. @advice is for madvise(). NULL on failure.
 */
static inline void *tern_map(struct tern *t, size_t bytes, int advice)
{
	size_t around = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE + 2 * HUGE_PAGE;
	char *start = mmap(NULL, around, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0);
	char *p;

	if (!tern_keep(t, start, around))
		return NULL;
	p = (char *)(((uintptr_t)start + HUGE_PAGE) & ~(HUGE_PAGE - 1));
	if (mmap(p, bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return NULL;
	return madvise(p, bytes, advice) ? NULL : p;
}

/* A figure of /proc/self/smaps in KiB, such as "Swap", of the VMA that has @addr; -1 if none. */
static inline long tern_smaps(const void *addr, const char *field)
{
	unsigned long start, end, target = (uintptr_t)addr;
	FILE *smaps = fopen("/proc/self/smaps", "r");
	size_t length = strlen(field);
	char line[512];
	long value = -1;
	int inside = 0;

	if (!smaps)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= target && target < end;
		else if (inside && !strncmp(line, field, length) && line[length] == ':')
			sscanf(line + length + 1, "%ld", &value);
	}
	fclose(smaps);
	return value;
}

/* KiB of huge pages in the VMA that has @addr; -1 if it cannot be told. */
static inline long tern_anon_huge(const void *addr)
{
	return tern_smaps(addr, "AnonHugePages");
}

/*
 * Makes huge pages of a range. Pages that come from the device for it may still wait in another
 * processor's batch for the LRU, which is EAGAIN and over at the next call. 0, or -1 with errno.
 */
static inline int tern_collapse(void *p, size_t bytes)
{
	int ret, tries = 10;

	do
		ret = madvise(p, bytes, MADV_COLLAPSE);
	while (ret && errno == EAGAIN && --tries);
	return ret;
}

/* Whether there is room in swap. */
static inline int tern_has_swap(void)
{
	struct sysinfo system;

	return !sysinfo(&system) && system.freeswap;
}

/* Writes to a file of debugfs or procfs. */
static inline int tern_put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);
	int ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, value, strlen(value)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* The number in a file; 0 if there is none. */
static inline unsigned long tern_number(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned long number = 0;

	if (file && fscanf(file, "%lu", &number) != 1)
		number = 0;
	if (file)
		fclose(file);
	return number;
}

/* The number behind @name in a file with lines of both; 0 if there is none. */
static inline unsigned long tern_count(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	unsigned long count = 0, number;
	char line[256], found[64];

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63s %lu", found, &number) == 2 && !strcmp(found, name))
			count = number;
	}
	if (file)
		fclose(file);
	return count;
}

#define TERN_CGROUPS "/sys/fs/cgroup"

/* Makes @path, in the directory above, a cgroup that limits memory. An error if there are none. */
static inline int tern_make_cgroup(const char *path)
{
	char limit[96];

	if (access(TERN_CGROUPS "/cgroup.procs", F_OK) &&
	    mount("cgroup2", TERN_CGROUPS, "cgroup2", 0, NULL))
		return -errno;
	tern_put(TERN_CGROUPS "/cgroup.subtree_control", "+memory");
	if (mkdir(path, 0755) && errno != EEXIST)
		return -errno;
	snprintf(limit, sizeof(limit), "%s/memory.high", path);
	return access(limit, W_OK) ? -errno : 0;
}

/* Orders of large folios of anonymous memory. */
#define TERN_MIN_ORDER 2
#define TERN_MAX_ORDER 9

/* Whether the system makes large folios of an order: "always", "never" and others. */
struct tern_orders {
	char chosen[TERN_MAX_ORDER + 1][16];
};

static inline void tern_order_path(int order, char *path, size_t size)
{
	snprintf(path, size, "/sys/kernel/mm/transparent_hugepage/hugepages-%lukB/enabled",
		 (PAGE << order) >> 10);
}

/*
 * Reads a setting: its only word, or the one in brackets, as in "always [never]". -EINVAL if none
 * of several is in brackets, or there is no room for it.
 */
static inline int tern_read_setting(const char *path, char *word, size_t size)
{
	FILE *file = fopen(path, "r");
	char line[128] = "", *start = line;
	size_t length;

	if (!file)
		return -errno;
	if (fgets(line, sizeof(line), file) && strchr(line, '['))
		start = strchr(line, '[') + 1;
	fclose(file);
	length = strcspn(start, " ]\n");
	if (start[length] != (start == line ? '\n' : ']') || length >= size)
		return -EINVAL;
	snprintf(word, size, "%.*s", (int)length, start);
	return 0;
}

/*
 * Has the system make folios of @order where it can, and no others but single pages. What it did
 * before is noted in @old, which is all zero. An error if this is not root.
 */
static inline int tern_choose_order(struct tern_orders *old, int order)
{
	char path[96];
	int ret = 0;

	for (int i = TERN_MIN_ORDER; !ret && i <= TERN_MAX_ORDER; i++) {
		tern_order_path(i, path, sizeof(path));
		ret = tern_read_setting(path, old->chosen[i], sizeof(old->chosen[i]));
		if (!ret)
			ret = tern_put(path, i == order ? "always" : "never");
	}
	return ret;
}

static inline int tern_restore_orders(const struct tern_orders *old)
{
	char path[96];
	int ret = 0;

	for (int i = TERN_MIN_ORDER; !ret && i <= TERN_MAX_ORDER; i++) {
		tern_order_path(i, path, sizeof(path));
		if (old->chosen[i][0])
			ret = tern_put(path, old->chosen[i]);
	}
	return ret;
}

#define TERN_FAIL_PAGE_ALLOC "/sys/kernel/debug/fail_page_alloc/"

/*
 * From now on the system has no folio of @order or above for this process, and for children that
 * it gets. An error if the kernel cannot do that, or this is not root.
 */
static inline int tern_refuse_folios(int order)
{
	const char min_order[] = { '0' + order, 0 };
	const char *const settings[][2] = {
		{ TERN_FAIL_PAGE_ALLOC "min-order", min_order },
		{ TERN_FAIL_PAGE_ALLOC "ignore-gfp-wait", "N" },
		{ TERN_FAIL_PAGE_ALLOC "ignore-gfp-highmem", "N" },
		{ TERN_FAIL_PAGE_ALLOC "verbose", "0" },
		{ TERN_FAIL_PAGE_ALLOC "task-filter", "Y" },
		{ TERN_FAIL_PAGE_ALLOC "probability", "100" },
		{ TERN_FAIL_PAGE_ALLOC "times", "-1" },
		{ "/proc/self/make-it-fail", "1" },
		{},
	};
	int ret = 0;

	for (size_t i = 0; !ret && settings[i][0]; i++)
		ret = tern_put(settings[i][0], settings[i][1]);
	return ret;
}

/* A value for word @i that tells where it belongs. */
static inline unsigned long tern_pattern(unsigned long i)
{
	return (i + 1) * 0x9e3779b97f4a7c15UL;
}

static inline void tern_write_pattern(unsigned long *p, size_t bytes)
{
	for (unsigned long i = 0; i < WORDS(bytes); i++)
		p[i] = tern_pattern(i);
}

/* Index of the first word that is not the pattern plus @more; -1 if there is none. */
static inline long tern_check_pattern(const unsigned long *p, size_t bytes, unsigned long more)
{
	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		if (p[i] != tern_pattern(i) + more)
			return i;
	}
	return -1;
}

/* Index of the first word that is not @first plus its index; -1 if there is none. */
static inline long tern_check_count(const unsigned long *p, size_t bytes, unsigned long first)
{
	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		if (p[i] != first + i)
			return i;
	}
	return -1;
}

/* Adds 1 to all words of @p on the device; returns as tern_run(). */
static inline int tern_add_one(struct tern *t, void *p, size_t bytes)
{
	struct kernel_args args = { .p = p, .count = WORDS(bytes), .value = 1 };

	return tern_run(t, KERNEL_ADD, args);
}

/* @bytes at a huge page's alignment, with the pattern, in system memory; NULL on failure. */
static inline unsigned long *tern_filled(struct tern *t, size_t bytes, int advice)
{
	unsigned long *p = tern_map(t, bytes, advice);

	if (p)
		tern_write_pattern(p, bytes);
	return p;
}

/* @bytes with the pattern plus 1, on the device; NULL on failure. */
static inline unsigned long *tern_resident(struct tern *t, size_t bytes, int advice)
{
	unsigned long *p = tern_filled(t, bytes, advice);

	return p && tern_add_one(t, p, bytes) == DRM_TERN_RESULT_OK ? p : NULL;
}

/* Whether the kernel has userfaultfd at all. */
static inline int tern_has_userfaultfd(void)
{
	return !access("/proc/sys/vm/unprivileged_userfaultfd", F_OK);
}

/*
 * A userfaultfd with @features for @bytes from @p, registered in @mode. It can be polled. -errno if
 * there is none, -EOPNOTSUPP if the kernel cannot do that.
 */
static inline int tern_userfaultfd(const void *p, size_t bytes, __u64 mode, __u64 features)
{
	const __u64 needs = mode == UFFDIO_REGISTER_MODE_WP ? UFFD_FEATURE_PAGEFAULT_FLAG_WP : 0;
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register memory = { .range = { (uintptr_t)p, bytes }, .mode = mode };
	int uffd, ret = 0;

	if (!tern_has_userfaultfd())
		return -EOPNOTSUPP;
	/* Without O_NONBLOCK, poll() gives POLLERR. */
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0)
		return -errno;
	if (ioctl(uffd, UFFDIO_API, &api))
		ret = errno == EINVAL ? -EOPNOTSUPP : -errno;
	else if ((api.features & needs) != needs)
		ret = -EOPNOTSUPP;
	else if (ioctl(uffd, UFFDIO_REGISTER, &memory))
		ret = -errno;
	if (!ret)
		return uffd;
	close(uffd);
	return ret;
}

/* What asks for @bytes from @p to be moved. */
static inline struct drm_tern_prefetch
tern_prefetch_args(const struct tern *t, const void *p, size_t bytes, enum drm_tern_location to)
{
	return (struct drm_tern_prefetch){
		.vm = t->vm,
		.address = (uintptr_t)p,
		.size = bytes,
		.location = to,
	};
}

static inline int tern_gem_create(const struct tern *t, size_t bytes, __u32 flags,
				  struct drm_tern_gem_create *gem)
{
	*gem = (struct drm_tern_gem_create){ .size = bytes, .flags = flags };
	return tern_ioctl(t->fd, DRM_IOCTL_TERN_GEM_CREATE, gem);
}

static inline int tern_gem_close(const struct tern *t, __u32 handle)
{
	struct drm_gem_close args = { .handle = handle };

	return tern_ioctl(t->fd, DRM_IOCTL_GEM_CLOSE, &args);
}

/* Maps a buffer, in place of what is at @at if that is not NULL. */
static inline void *tern_gem_map(const struct tern *t, void *at,
				 const struct drm_tern_gem_create *gem, int protection)
{
	return mmap(at, gem->size, protection, MAP_SHARED | (at ? MAP_FIXED : 0), t->fd,
		    gem->mmap_offset);
}

/*
 * A buffer that only its mapping has, from @skip bytes after an alignment of 2 MiB. NULL on
 * failure.
 */
static inline unsigned long *tern_buffer(struct tern *t, size_t bytes, __u32 flags, size_t skip)
{
	struct drm_tern_gem_create gem;
	char *p = tern_map(t, bytes + skip, MADV_NORMAL);

	if (!p || tern_gem_create(t, bytes, flags, &gem))
		return NULL;
	p = tern_gem_map(t, p + skip, &gem, PROT_READ | PROT_WRITE);
	if (p == MAP_FAILED || tern_gem_close(t, gem.handle))
		return NULL;
	return (unsigned long *)p;
}

static sigjmp_buf tern_on_sigbus;

static inline void tern_handle_sigbus(int signal)
{
	(void)signal;
	siglongjmp(tern_on_sigbus, 1);
}

/* Whether a read of the CPU at @p gives SIGBUS. Not for several threads. */
static inline int tern_gives_sigbus(const void *p)
{
	struct sigaction action = { .sa_handler = tern_handle_sigbus }, old;
	int ret;

	sigaction(SIGBUS, &action, &old);
	ret = sigsetjmp(tern_on_sigbus, 1);
	if (!ret)
		__atomic_load_n((const char *)p, __ATOMIC_RELAXED);
	sigaction(SIGBUS, &old, NULL);
	return ret;
}

/* Whether a child of fork() ended with status 0. */
static inline int tern_child_ok(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return 0;
	if (status)
		fprintf(stderr, "# child: wait status %#x\n", status);
	return !status;
}

/* Undoes the mappings that were noted. */
static inline void tern_unmap_all(struct tern *t)
{
	while (t->nr_ranges) {
		t->nr_ranges--;
		munmap(t->ranges[t->nr_ranges].start, t->ranges[t->nr_ranges].bytes);
	}
}

/* Closes the device. What moved to it stays there. */
static inline int tern_close(struct tern *t)
{
	int ret;

	tern_queue_free(t, &t->queue);
	munmap(t->code, t->code_bytes);
	ret = tern_vm_destroy(t->fd, t->vm);
	close(t->fd);
	return ret;
}

/*
 * Undoes all mappings of a test and closes the device, and tells whether nothing is left
 * of the test's memory on it.
 */
static inline int tern_end(struct tern *t)
{
	struct drm_tern_device_query after;
	struct drm_tern_stats stats;
	int fd, ret;

	if (t->fd < 0)
		return 0;
	tern_unmap_all(t);
	stats = tern_stats(t);
	/* The device is asked by this when the address space is gone. */
	fd = dup(t->fd);
	ret = tern_close(t);
	if (!ret)
		ret = tern_query(fd, &after);
	close(fd);
	if (ret || t->leaves_memory)
		return ret;
	if (stats.resident_bytes || after.vram_free != t->info.vram_free) {
		fprintf(stderr, "%llu bytes left on the device; of %llu free bytes %llu are\n",
			(unsigned long long)stats.resident_bytes,
			(unsigned long long)t->info.vram_free,
			(unsigned long long)after.vram_free);
		return -EBUSY;
	}
	return 0;
}

#endif /* TERN_TEST_H */
