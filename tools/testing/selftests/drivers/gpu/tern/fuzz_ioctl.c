// SPDX-License-Identifier: GPL-2.0
/*
 * Random sequences of everything that a process can do with the device: mostly valid calls on
 * objects that exist, at times with a member that is anything, by threads that destroy what
 * others use. No call may give an error that it is not documented to give, and when a sequence
 * is over the device works for another process as if nothing had happened. With tern.dmirror=1
 * the node for the kernel's HMM tests takes part: what a mirror wrote to memory that nobody else
 * uses must be there, wherever the memory goes.
 *
 *   fuzz_ioctl [SECONDS [SEED]]
 *
 * Each sequence has a seed of its own, made from SEED, the first, by adding 1; without SEED that
 * is 1. 0 seconds: until something is wrong. A failure names the seed: fuzz_ioctl 1 SEED begins
 * with that sequence. The order of threads is not part of it.
 */
#include <pthread.h>
#include <sched.h>

#include <lib/test_hmm_uapi.h>

#include "kselftest.h"
#include "tern_test.h"

#define THREADS 3
#define CALLS 60
#define SLOTS 6
#define MEMORY (2 * HUGE_PAGE)
/* Memory that one thread uses alone. */
#define OWN_PAGES 40
#define OWN_BYTES (OWN_PAGES * PAGE)
/* A sequence that takes longer hangs. */
#define PATIENCE 60
#define MIRROR "/dev/hmm_dmirror0"

/* What the threads of a sequence share. They take and replace handles without any lock. */
static struct {
	struct tern t;
	int fds[SLOTS];
	/* -1 where there is no such node. */
	int mirrors[SLOTS];
	__u32 vms[SLOTS], queues[SLOTS], syncobjs[SLOTS], gems[SLOTS];
	__u64 offsets[SLOTS];
	/* Of which parts are unmapped, mapped and moved. */
	char *memory;
} all;

/* Ioctls of all processes, and those that succeed; in shared memory. */
static struct {
	unsigned long sent, succeeded;
} *counts;

/* The generator of a thread (xorshift64). */
struct random {
	unsigned long state;
	unsigned long seed;
	/* Something was not as it must be. */
	int wrong;
	/* For the data of mirrors. */
	char *buffer;
	/* Memory that a mirror of its own changes too, and what must be there. */
	int mirror;
	char *own, *expected;
};

static unsigned long next(struct random *r)
{
	r->state ^= r->state << 13;
	r->state ^= r->state >> 7;
	r->state ^= r->state << 17;
	return r->state * 0x2545f4914f6cdd1dUL >> 8;
}

static unsigned long below(struct random *r, unsigned long n)
{
	return next(r) % n;
}

static int one_in(struct random *r, unsigned long n)
{
	return !below(r, n);
}

/* A value that is likely to be at the edge of something. */
static unsigned long odd_value(struct random *r)
{
	static const unsigned long edges[] = {
		0, 1, 2, PAGE - 1, PAGE, HUGE_PAGE, 1UL << 31, 1UL << 32, 1UL << 47, 1UL << 63,
		0xffff888000000000UL, ~0UL, ~0UL - PAGE + 1,
	};

	return one_in(r, 3) ? next(r) : edges[below(r, ARRAY_SIZE(edges))];
}

/* A part of the memory, of whole pages. */
static char *part(struct random *r, size_t *bytes)
{
	size_t first = below(r, MEMORY / PAGE);
	size_t pages = one_in(r, 2) ? 1 + below(r, 16) : 1 + below(r, MEMORY / PAGE);

	if (pages > MEMORY / PAGE - first)
		pages = MEMORY / PAGE - first;
	*bytes = pages * PAGE;
	return all.memory + first * PAGE;
}

#define PICK(r, array) \
	__atomic_load_n(&(array)[below((r), SLOTS)], __ATOMIC_RELAXED)
/* Puts a handle in the place of another one; returns that. */
#define SWAP(r, array, value) \
	__atomic_exchange_n(&(array)[below((r), SLOTS)], (value), __ATOMIC_RELAXED)

/* Notes an error that is none of @documented. */
static void check(struct random *r, const char *what, int ret, const int *documented)
{
	/* Another thread may have closed the file, and opened one of procfs in its place. */
	if (ret >= 0 || ret == -EBADF || ret == -ENOTTY)
		return;
	while (*documented) {
		if (ret == -*documented++)
			return;
	}
	fprintf(stderr, "seed %lu: %s fails with %s\n", r->seed, what, strerror(-ret));
	r->wrong = 1;
}

/* Spoils any word of an argument now and then. */
static void spoil(struct random *r, void *argument, size_t bytes)
{
	__u32 *words = argument;

	if (one_in(r, 8))
		words[below(r, bytes / sizeof(*words))] = odd_value(r);
}

static int count(int ret)
{
	__atomic_fetch_add(&counts->sent, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&counts->succeeded, !ret, __ATOMIC_RELAXED);
	return ret;
}

/*
 * Makes a call, whose argument may be spoilt; @documented, which ends with 0, are the errors that
 * it may give. Returns 0 or a negative errno.
 */
static int call(struct random *r, const char *name, unsigned long request, void *argument,
		size_t bytes, const int *documented)
{
	int ret;

	spoil(r, argument, bytes);
	ret = count(ioctl(PICK(r, all.fds), request, argument) ? -errno : 0);
	check(r, name, ret, documented);
	return ret;
}

static void query(struct random *r)
{
	struct drm_tern_device_query query = {};

	call(r, "TERN_DEVICE_QUERY", DRM_IOCTL_TERN_DEVICE_QUERY, &query, sizeof(query),
	     (const int[]){ EINVAL, 0 });
}

static void vm_create(struct random *r)
{
	struct drm_tern_vm_create create = {};

	if (!call(r, "TERN_VM_CREATE", DRM_IOCTL_TERN_VM_CREATE, &create, sizeof(create),
		  (const int[]){ EINVAL, ENOMEM, ENOSPC, 0 }))
		SWAP(r, all.vms, create.handle);
}

static void vm_destroy(struct random *r)
{
	struct drm_tern_handle handle = { .handle = PICK(r, all.vms) };

	call(r, "TERN_VM_DESTROY", DRM_IOCTL_TERN_VM_DESTROY, &handle, sizeof(handle),
	     (const int[]){ EINVAL, ENOENT, EBUSY, 0 });
}

static void queue_create(struct random *r)
{
	struct drm_tern_queue_create create = {
		.vm = PICK(r, all.vms),
		.entries = one_in(r, 2) ? 0 : 2U << below(r, 12),
	};

	if (!call(r, "TERN_QUEUE_CREATE", DRM_IOCTL_TERN_QUEUE_CREATE, &create, sizeof(create),
		  (const int[]){ EINVAL, ENOENT, ENOMEM, ENOSPC, EPERM, 0 }))
		SWAP(r, all.queues, create.handle);
}

static void queue_destroy(struct random *r)
{
	struct drm_tern_handle handle = { .handle = PICK(r, all.queues) };

	call(r, "TERN_QUEUE_DESTROY", DRM_IOCTL_TERN_QUEUE_DESTROY, &handle, sizeof(handle),
	     (const int[]){ EINVAL, ENOENT, 0 });
}

/* Kernels that end, by themselves or by the limit, whatever happens to the memory. */
static void submit(struct random *r)
{
	static const enum kernel_id kernels[] = {
		KERNEL_NULL, KERNEL_ADD, KERNEL_LOAD, KERNEL_STORE, KERNEL_ATOMIC, KERNEL_JUMP,
		KERNEL_ILLEGAL, KERNEL_WAIT, KERNEL_OR,
	};
	__u32 in[4], out[4];
	size_t bytes;
	char *p = part(r, &bytes);
	struct kernel_args *args = (struct kernel_args *)all.t.queue.args;
	struct drm_tern_submit submit = {
		.queue = PICK(r, all.queues),
		.entry = tern_entry(&all.t, kernels[below(r, ARRAY_SIZE(kernels))]),
		.args = (uintptr_t)&args[below(r, 16)],
		.threads = 1 + below(r, 100),
		.stack = (uintptr_t)all.t.queue.stack,
		.stack_size = TERN_STACK_SIZE,
		.timeout_ms = 1 + below(r, 40),
		.in_syncobjs = (uintptr_t)in,
		.out_syncobjs = (uintptr_t)out,
		.in_count = one_in(r, 3) ? below(r, 5) : 0,
		.out_count = below(r, 5),
	};

	for (int i = 0; i < 4; i++) {
		in[i] = PICK(r, all.syncobjs);
		out[i] = PICK(r, all.syncobjs);
	}
	args[below(r, 16)] = (struct kernel_args){
		.p = one_in(r, 10) ? (unsigned long *)odd_value(r) : (unsigned long *)p,
		.out = (unsigned long *)p,
		.count = WORDS(bytes) / (1 + below(r, 64)),
		.value = next(r),
	};
	call(r, "TERN_SUBMIT", DRM_IOCTL_TERN_SUBMIT, &submit, sizeof(submit),
	     (const int[]){ EINVAL, ENOENT, ENOMEM, EFAULT, EAGAIN, EIO, EPERM, EINTR, 0 });
}

static void result(struct random *r)
{
	struct drm_tern_result result = { .queue = PICK(r, all.queues), .seqno = below(r, 80) };

	if (call(r, "TERN_RESULT", DRM_IOCTL_TERN_RESULT, &result, sizeof(result),
		 (const int[]){ EINVAL, ENOENT, ENODATA, 0 }))
		return;
	/* There is a device, and it behaves. */
	if (result.status > DRM_TERN_RESULT_STOPPED || result.access > DRM_TERN_ACCESS_FETCH) {
		fprintf(stderr, "seed %lu: status %u, access %u\n", r->seed, result.status,
			result.access);
		r->wrong = 1;
	}
}

static void stats(struct random *r)
{
	struct drm_tern_stats stats = { .vm = PICK(r, all.vms) };

	call(r, "TERN_STATS", DRM_IOCTL_TERN_STATS, &stats, sizeof(stats),
	     (const int[]){ EINVAL, ENOENT, 0 });
}

static void prefetch(struct random *r)
{
	size_t bytes;
	struct drm_tern_prefetch prefetch = {
		.vm = PICK(r, all.vms),
		.address = (uintptr_t)part(r, &bytes),
		.location = below(r, 2),
	};

	prefetch.size = bytes;
	call(r, "TERN_PREFETCH", DRM_IOCTL_TERN_PREFETCH, &prefetch, sizeof(prefetch),
	     (const int[]){ EINVAL, ENOENT, ENOMEM, EFAULT, EPERM, EINTR, 0 });
}

static void gem_create(struct random *r)
{
	struct drm_tern_gem_create create = {
		.size = PAGE * (1 + below(r, one_in(r, 4) ? 2000 : 40)),
		.flags = below(r, 2),
	};
	int i = below(r, SLOTS);

	if (call(r, "TERN_GEM_CREATE", DRM_IOCTL_TERN_GEM_CREATE, &create, sizeof(create),
		 (const int[]){ EINVAL, ENOMEM, ENOSPC, 0 }))
		return;
	all.gems[i] = create.handle;
	all.offsets[i] = create.mmap_offset;
}

static void gem_close(struct random *r)
{
	struct drm_gem_close close = { .handle = PICK(r, all.gems) };

	call(r, "GEM_CLOSE", DRM_IOCTL_GEM_CLOSE, &close, sizeof(close),
	     (const int[]){ EINVAL, 0 });
}

/* Over other memory, or where there is none. */
static void gem_map(struct random *r)
{
	size_t bytes;
	char *p = part(r, &bytes);
	void *map = mmap(p, bytes, PROT_READ | (one_in(r, 2) ? PROT_WRITE : 0),
			 MAP_SHARED | MAP_FIXED, PICK(r, all.fds), PICK(r, all.offsets));

	check(r, "mmap", map == MAP_FAILED ? -errno : 0,
	      (const int[]){ EINVAL, EACCES, ENOMEM, ENODEV, 0 });
}

static void syncobj_create(struct random *r)
{
	struct drm_syncobj_create create = { .flags = below(r, 2) };

	if (!call(r, "SYNCOBJ_CREATE", DRM_IOCTL_SYNCOBJ_CREATE, &create, sizeof(create),
		  (const int[]){ EINVAL, ENOMEM, 0 }))
		SWAP(r, all.syncobjs, create.handle);
}

static void syncobj_destroy(struct random *r)
{
	struct drm_syncobj_destroy destroy = { .handle = PICK(r, all.syncobjs) };

	call(r, "SYNCOBJ_DESTROY", DRM_IOCTL_SYNCOBJ_DESTROY, &destroy, sizeof(destroy),
	     (const int[]){ EINVAL, 0 });
}

static void syncobj_wait(struct random *r)
{
	__u32 handle = PICK(r, all.syncobjs);
	struct drm_syncobj_wait wait = {
		.handles = (uintptr_t)&handle,
		.count_handles = 1,
		.flags = below(r, 4),
	};

	/* The time is over, so it does not wait: to spoil it would be to wait for ever. */
	if (ioctl(PICK(r, all.fds), DRM_IOCTL_SYNCOBJ_WAIT, &wait) && errno != ETIME &&
	    errno != EINVAL && errno != ENOENT && errno != ENOMEM) {
		fprintf(stderr, "seed %lu: wait: %m\n", r->seed);
		r->wrong = 1;
	}
}

/* What a process does to its memory; it may fail as it likes. */
static void change_memory(struct random *r)
{
	static const int advices[] = {
		MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_FREE, MADV_WILLNEED,
		MADV_PAGEOUT, MADV_COLD,
	};
	size_t bytes, other_bytes;
	char *p = part(r, &bytes), *other = part(r, &other_bytes);

	switch (below(r, 6)) {
	case 0:
		munmap(p, bytes);
		break;
	case 1:
	case 2:
		mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		     0);
		break;
	case 3:
		madvise(p, bytes, advices[below(r, ARRAY_SIZE(advices))]);
		break;
	case 4:
		mprotect(p, bytes, below(r, 4));
		break;
	default:
		if (bytes > other_bytes)
			bytes = other_bytes;
		mremap(p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, other);
		break;
	}
}

/* The kernel reads and writes for the process, which may not have the memory any more. */
static void touch_memory(struct random *r)
{
	char path[] = "/proc/self/mem";
	int fd = open(path, O_RDWR | O_CLOEXEC);
	char bytes[64];
	size_t size;
	off_t at = (uintptr_t)part(r, &size);

	if (fd < 0)
		return;
	if (pread(fd, bytes, sizeof(bytes), at) == sizeof(bytes) && one_in(r, 2) &&
	    pwrite(fd, bytes, sizeof(bytes), at) < 0 && errno != EIO && errno != EFAULT)
		fprintf(stderr, "note: %s: %m\n", path);
	close(fd);
}

static void duplicate(struct random *r)
{
	int fd = one_in(r, 4) ? tern_open_device() : dup(all.t.fd);

	if (fd < 0)
		return;
	fd = SWAP(r, all.fds, fd);
	if (fd != all.t.fd)
		close(fd);
}

/* The calls of a mirror, and the errors that they may give. */
static const struct {
	const char *name;
	unsigned long request;
	int documented[12];
} mirror_calls[] = {
#define MIRROR_CALL(name, ...) { #name, HMM_DMIRROR_##name, { EINVAL, EFAULT, __VA_ARGS__ } }
	MIRROR_CALL(READ, ENOMEM, ENOSPC, EPERM, EBUSY, EINTR),
	MIRROR_CALL(WRITE, ENOMEM, ENOSPC, EPERM, EBUSY, EINTR),
	MIRROR_CALL(READ_UNLOCKED, ENOMEM, ENOSPC, EPERM, EBUSY, EINTR),
	/* Not all of it is on the device then. */
	MIRROR_CALL(MIGRATE_TO_DEV, ENOENT, ENOMEM, ENOSPC, EPERM, EBUSY, EINTR),
	/* Or is no anonymous memory. */
	MIRROR_CALL(EXCLUSIVE, ENOENT, ENOMEM, ENOSPC, EPERM, EBUSY, EINTR, EOPNOTSUPP),
	MIRROR_CALL(MIGRATE_TO_SYS, ENOMEM, EPERM, EBUSY, EINTR),
	MIRROR_CALL(SNAPSHOT, ENOMEM, EBUSY),
	MIRROR_CALL(CHECK_EXCLUSIVE, EPERM),
	MIRROR_CALL(FLAGS, 0),
	MIRROR_CALL(RELEASE, ENOMEM, EBUSY, EINTR),
};

/* Those that give the caller the contents of the memory, or take them. */
#define MIRROR_WRITE 1
#define MIRROR_DATA_CALLS 5

/* Any call on memory that other threads change, at times with a wrong number or pointer. */
static void mirror(struct random *r)
{
	int i = below(r, ARRAY_SIZE(mirror_calls) - !one_in(r, 8)), fd = PICK(r, all.mirrors);
	unsigned long request = mirror_calls[i].request;
	struct hmm_dmirror_cmd cmd = { .ptr = (uintptr_t)r->buffer };
	void *argument = &cmd;
	size_t bytes;

	if (fd < 0)
		return;
	cmd.addr = (uintptr_t)part(r, &bytes);
	cmd.npages = bytes / PAGE;
	if (one_in(r, 4))
		cmd.ptr = (uintptr_t)part(r, &bytes);
	if (one_in(r, 20))
		argument = (void *)odd_value(r);
	if (one_in(r, 20))
		request = _IOC(below(r, 4), 'H', next(r) & 0xff, below(r, 2 * sizeof(cmd)));
	spoil(r, &cmd, sizeof(cmd));
	check(r, mirror_calls[i].name, count(ioctl(fd, request, argument) ? -errno : 0),
	      request == mirror_calls[i].request ? mirror_calls[i].documented :
						   (const int[]){ EINVAL, EFAULT, 0 });
}

/* A call on memory that this thread uses alone: it has what was written last. */
static void mirror_own(struct random *r)
{
	size_t first = below(r, OWN_PAGES), pages = 1 + below(r, OWN_PAGES - first);
	size_t at = first * PAGE, bytes = pages * PAGE;
	int i = below(r, ARRAY_SIZE(mirror_calls) - 2);
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)r->own + at,
		.ptr = (uintptr_t)r->buffer,
		.npages = pages,
	};
	int ret, equal = 1;

	if (r->mirror < 0)
		return;
	if (i == MIRROR_WRITE)
		memset(r->buffer, next(r), bytes);
	ret = count(ioctl(r->mirror, mirror_calls[i].request, &cmd) ? -errno : 0);
	check(r, mirror_calls[i].name, ret, mirror_calls[i].documented);
	/* As much of it as was done. */
	if (i == MIRROR_WRITE)
		memcpy(r->expected + at, ret ? r->own + at : r->buffer, bytes);
	else if (i < MIRROR_DATA_CALLS && !ret)
		equal = !memcmp(r->expected + at, r->buffer, bytes);
	if (one_in(r, 2))
		equal = equal && !memcmp(r->expected, r->own, OWN_BYTES);
	if (!equal) {
		fprintf(stderr, "seed %lu: other data after %s\n", r->seed, mirror_calls[i].name);
		r->wrong = 1;
	}
}

/* Another mirror in the place of one that others may use, or its pages among the memory. */
static void mirror_open(struct random *r)
{
	int fd = PICK(r, all.mirrors);
	size_t bytes;
	char *p = part(r, &bytes);

	if (fd < 0)
		return;
	if (one_in(r, 2)) {
		mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED, fd, 0);
		return;
	}
	fd = open(MIRROR, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		close(SWAP(r, all.mirrors, fd));
}

/* A child has the files and the memory, but not the address spaces. */
static void fork_child(struct random *r)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return;
	if (!pid) {
		for (int i = 0; i < 4; i++) {
			submit(r);
			prefetch(r);
			mirror(r);
			change_memory(r);
		}
		_exit(r->wrong);
	}
	if (waitpid(pid, &status, 0) != pid || status) {
		fprintf(stderr, "seed %lu: a child ends with %#x\n", r->seed, status);
		r->wrong = 1;
	}
}

static const struct {
	void (*run)(struct random *r);
	unsigned int weight;
} calls[] = {
	{ query, 1 }, { vm_create, 2 }, { vm_destroy, 2 }, { queue_create, 4 },
	{ queue_destroy, 3 }, { submit, 16 }, { result, 4 }, { stats, 2 }, { prefetch, 6 },
	{ gem_create, 3 }, { gem_close, 3 }, { gem_map, 3 }, { syncobj_create, 3 },
	{ syncobj_destroy, 2 }, { syncobj_wait, 3 }, { change_memory, 8 }, { touch_memory, 4 },
	{ duplicate, 1 }, { fork_child, 1 }, { mirror, 10 }, { mirror_own, 8 }, { mirror_open, 1 },
};

static void any_call(struct random *r)
{
	unsigned int sum = 0, at;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(calls); i++)
		sum += calls[i].weight;
	at = below(r, sum);
	for (i = 0; at >= calls[i].weight; i++)
		at -= calls[i].weight;
	calls[i].run(r);
}

/* What a thread has for itself; 0 or -1. */
static int prepare(struct random *r)
{
	r->buffer = tern_map(&all.t, MEMORY, MADV_NORMAL);
	r->own = tern_map(&all.t, OWN_BYTES, MADV_NORMAL);
	r->expected = calloc(OWN_PAGES, PAGE);
	r->mirror = open(MIRROR, O_RDWR | O_CLOEXEC);
	if (r->mirror < 0 && errno != ENOENT)
		return -1;
	return r->buffer && r->own && r->expected ? 0 : -1;
}

static void *thread(void *argument)
{
	struct random *r = argument;

	for (int i = 0; i < CALLS && !r->wrong; i++)
		any_call(r);
	return NULL;
}

/* One sequence, in a process of its own; its exit status. */
static int run(unsigned long seed)
{
	struct random randoms[THREADS];
	pthread_t threads[THREADS];
	int wrong = 0;

	alarm(PATIENCE);
	if (tern_begin(&all.t))
		return 2;
	all.memory = tern_map(&all.t, MEMORY, MADV_NORMAL);
	if (!all.memory)
		return 2;
	tern_write_pattern((unsigned long *)all.memory, MEMORY);
	for (int i = 0; i < SLOTS; i++) {
		struct drm_syncobj_create create = {};

		all.fds[i] = all.t.fd;
		all.mirrors[i] = open(MIRROR, O_RDWR | O_CLOEXEC);
		all.vms[i] = all.t.vm;
		all.queues[i] = all.t.queue.handle;
		if (tern_ioctl(all.t.fd, DRM_IOCTL_SYNCOBJ_CREATE, &create))
			return 2;
		all.syncobjs[i] = create.handle;
	}
	for (int i = 0; i < THREADS; i++) {
		randoms[i] = (struct random){
			.seed = seed,
			.state = tern_pattern(seed * THREADS + i) | 1,
		};
		if (prepare(&randoms[i]))
			return 2;
	}
	/* Only now, for what is mapped after this may lie where a thread has unmapped memory. */
	for (int i = 0; i < THREADS; i++) {
		if (pthread_create(&threads[i], NULL, thread, &randoms[i]))
			return 2;
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		wrong |= randoms[i].wrong;
	}
	/* The rest ends with the process, in whatever state it is. */
	return wrong;
}

/* Whether the device works and all of its memory is free, as for the first process on it. */
static int works(unsigned long seed)
{
	time_t end = time(NULL) + PATIENCE;
	unsigned long *p;
	struct tern t;
	int ok;

	/* Files that other processes hold are closed a moment after these. */
	do {
		if (tern_begin(&t))
			return 0;
		ok = t.info.vram_free == t.info.vram_size;
		if (!ok) {
			tern_close(&t);
			sched_yield();
		}
	} while (!ok && time(NULL) < end);
	if (!ok) {
		fprintf(stderr, "seed %lu: %llu bytes stay in use\n", seed,
			(unsigned long long)(t.info.vram_size - t.info.vram_free));
		return 0;
	}
	p = tern_resident(&t, MEMORY, MADV_HUGEPAGE);
	ok = p && tern_check_pattern(p, MEMORY, 1) == -1;
	if (!ok)
		fprintf(stderr, "seed %lu: the device computes wrongly afterwards\n", seed);
	return !tern_end(&t) && ok;
}

int main(int argc, char **argv)
{
	unsigned long seconds = argc > 1 ? strtoul(argv[1], NULL, 0) : 30;
	unsigned long seed = argc > 2 ? strtoul(argv[2], NULL, 0) : 1;
	time_t end = time(NULL) + seconds;
	unsigned long sequences = 0;
	int fd = tern_open_device();

	ksft_print_header();
	ksft_set_plan(1);
	if (fd < 0)
		ksft_exit_skip("no Tern device in /dev/dri\n");
	close(fd);
	counts = tern_shared(PAGE, NULL);
	if (!counts)
		ksft_exit_fail_msg("no shared memory\n");
	do {
		pid_t pid = fork();
		int status = -1;

		if (!pid)
			_exit(run(seed));
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status || !works(seed)) {
			ksft_print_msg("seed %lu: status %#x\n", seed, status);
			ksft_test_result_fail("sequences of calls\n");
			ksft_finished();
		}
		seed++;
		sequences++;
	} while (!seconds || time(NULL) < end);
	ksft_print_msg("%lu sequences, the last with seed %lu; %lu ioctls, of which %lu succeed\n",
		       sequences, seed - 1, counts->sent, counts->succeeded);
	/* Else most of the driver is never reached. */
	ksft_test_result(counts->succeeded > counts->sent / 3, "sequences of calls\n");
	ksft_finished();
}
