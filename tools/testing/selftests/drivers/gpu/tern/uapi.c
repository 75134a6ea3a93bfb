// SPDX-License-Identifier: GPL-2.0
/* The ioctls of the Tern GPU's driver: what they return, and what they refuse. */
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>

#include "kselftest_harness.h"
#include "tern_test.h"

#define NO_HANDLE 0xffffU

FIXTURE(uapi)
{
	struct tern t;
};

FIXTURE_SETUP(uapi)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(uapi)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

TEST_F(uapi, device_query)
{
	const struct drm_tern_device_query *info = &self->t.info;

	EXPECT_EQ(1, info->hw_version >> 16);
	EXPECT_LE(HUGE_PAGE, info->vram_size);
	EXPECT_EQ(0, info->vram_size % PAGE);
	EXPECT_LE(info->vram_free, info->vram_size);
	EXPECT_LT(0, info->vram_free);
	EXPECT_LE(info->aperture_size, info->vram_size);
	EXPECT_LE(1, info->copy_engines);
	EXPECT_LE(1, info->resident_threads);
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0, info->reserved[i]);
}

TEST_F(uapi, null_kernel)
{
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_NULL, (struct kernel_args){}));
	EXPECT_EQ(1, self->t.queue.seqno);
	EXPECT_EQ(0, self->t.queue.result.address);
	/* At least one instruction by each thread. */
	EXPECT_LE(TERN_THREADS, self->t.queue.result.instructions);
}

/* Dispatches are numbered from 1, and each thread runs once whatever their number. */
TEST_F(uapi, any_number_of_threads)
{
	const unsigned long numbers[] = { 1, 2, 63, 65, 1000, 20000 };
	unsigned long *p = tern_map(&self->t, PAGE, MADV_NOHUGEPAGE);
	unsigned long sum = 0;

	ASSERT_NE(NULL, p);
	for (unsigned int i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct kernel_args args = { .p = p, .count = 1, .value = i + 1 };

		ASSERT_EQ(DRM_TERN_RESULT_OK,
			  tern_run_threads(&self->t, KERNEL_ATOMIC_ADD, args, numbers[i]));
		EXPECT_EQ(i + 1, self->t.queue.seqno);
		sum += (i + 1) * numbers[i];
		ASSERT_EQ(sum, *p);
	}
}

TEST_F(uapi, vm_bad_input)
{
	const struct drm_tern_vm_create bad[] = {
		{ .flags = 1 },
		{ .flags = 1U << 31 },
		{ .reserved = { 1, 0 } },
		{ .reserved = { 0, 1 } },
	};
	const struct {
		struct drm_tern_handle args;
		int expected;
	} destroy[] = {
		{ { .handle = 0 }, -ENOENT },
		{ { .handle = NO_HANDLE }, -ENOENT },
		{ { .handle = ~0U }, -ENOENT },
		{ { .handle = self->t.vm, .flags = 1 }, -EINVAL },
		/* The fixture's queue is still in it. */
		{ { .handle = self->t.vm }, -EBUSY },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		struct drm_tern_vm_create args = bad[i];

		EXPECT_EQ(-EINVAL, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_VM_CREATE, &args))
			TH_LOG("case %u", i);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(destroy); i++) {
		struct drm_tern_handle args = destroy[i].args;

		EXPECT_EQ(destroy[i].expected,
			  tern_ioctl(self->t.fd, DRM_IOCTL_TERN_VM_DESTROY, &args))
			TH_LOG("case %u", i);
	}
	EXPECT_EQ(-EFAULT, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_VM_CREATE, (void *)8));
}

TEST_F(uapi, vm_create_destroy)
{
	__u32 vm[3];

	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, tern_vm_create(self->t.fd, &vm[i]));
		EXPECT_NE(0, vm[i]);
		EXPECT_NE(self->t.vm, vm[i]);
	}
	EXPECT_NE(vm[0], vm[1]);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, tern_vm_destroy(self->t.fd, vm[i]));
		EXPECT_EQ(-ENOENT, tern_vm_destroy(self->t.fd, vm[i]));
	}
}

TEST_F(uapi, queue_bad_input)
{
	__u32 vm = self->t.vm;
	const struct {
		struct drm_tern_queue_create args;
		int expected;
	} cases[] = {
		{ { .vm = 0 }, -ENOENT },
		{ { .vm = NO_HANDLE }, -ENOENT },
		{ { .vm = vm, .flags = 1 }, -EINVAL },
		{ { .vm = vm, .entries = 1 }, -EINVAL },
		{ { .vm = vm, .entries = 3 }, -EINVAL },
		{ { .vm = vm, .entries = 8192 }, -EINVAL },
		{ { .vm = vm, .entries = ~0U }, -EINVAL },
		{ { .vm = vm, .reserved = { 1, 0 } }, -EINVAL },
		{ { .vm = vm, .reserved = { 0, 1 } }, -EINVAL },
	};
	struct drm_tern_handle flags = { .handle = self->t.queue.handle, .flags = 1 };

	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct drm_tern_queue_create args = cases[i].args;

		EXPECT_EQ(cases[i].expected,
			  tern_ioctl(self->t.fd, DRM_IOCTL_TERN_QUEUE_CREATE, &args))
			TH_LOG("case %u", i);
	}
	EXPECT_EQ(-EINVAL, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_QUEUE_DESTROY, &flags));
	EXPECT_EQ(-ENOENT, tern_queue_destroy(self->t.fd, 0));
	EXPECT_EQ(-ENOENT, tern_queue_destroy(self->t.fd, NO_HANDLE));
}

TEST_F(uapi, queue_sizes)
{
	const __u32 sizes[] = { 0, 2, 64, 4096 };

	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct tern_queue queue;

		ASSERT_EQ(0, tern_queue_init(&self->t, &queue, sizes[i]));
		ASSERT_EQ(0, tern_start(&self->t, &queue, KERNEL_NULL, (struct kernel_args){}, 1,
					0));
		EXPECT_EQ(DRM_TERN_RESULT_OK, tern_finish(&self->t, &queue));
		tern_queue_free(&self->t, &queue);
	}
}

/* Queues can be made until there are no more, and then again. */
TEST_F(uapi, queues_run_out)
{
	struct drm_tern_queue_create args = { .vm = self->t.vm, .entries = 2 };
	__u32 *handles = calloc(1 << 16, sizeof(*handles));
	unsigned int count = 0;
	int ret = 0;

	ASSERT_NE(NULL, handles);
	while (count < 1 << 16) {
		ret = tern_ioctl(self->t.fd, DRM_IOCTL_TERN_QUEUE_CREATE, &args);
		if (ret)
			break;
		handles[count++] = args.handle;
	}
	EXPECT_EQ(-ENOSPC, ret);
	EXPECT_LT(0, count);
	while (count--)
		ASSERT_EQ(0, tern_queue_destroy(self->t.fd, handles[count]));
	EXPECT_EQ(0, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_QUEUE_CREATE, &args));
	EXPECT_EQ(0, tern_queue_destroy(self->t.fd, args.handle));
	free(handles);
}

TEST_F(uapi, submit_bad_input)
{
	struct tern *t = &self->t;
	const struct drm_tern_submit good = tern_submission(t, &t->queue, KERNEL_NULL);
	__u32 no_syncobj = NO_HANDLE;
	struct drm_syncobj_create create = {};
	struct drm_tern_submit args;

#define REFUSED(errno_value, member, value) do { \
		args = good; \
		args.member = (value); \
		EXPECT_EQ(-(errno_value), tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &args)) \
			TH_LOG(#member " = " #value); \
	} while (0)

	REFUSED(EINVAL, flags, 1);
	REFUSED(EINVAL, reserved[0], 1);
	REFUSED(EINVAL, reserved[1], 1);
	REFUSED(ENOENT, queue, 0);
	REFUSED(ENOENT, queue, NO_HANDLE);
	REFUSED(EINVAL, threads, 0);
	REFUSED(EINVAL, entry, good.entry + 1);
	REFUSED(EINVAL, stack_size, 8);
	REFUSED(EINVAL, timeout_ms, 3600001);
	REFUSED(EINVAL, in_count, 65);
	REFUSED(EINVAL, out_count, 65);
	REFUSED(EFAULT, out_syncobjs, 8);
	REFUSED(ENOENT, out_syncobjs, (uintptr_t)&no_syncobj);

	/* Something to wait for that is not there, at a bad address, or has no fence. */
	args = good;
	args.in_count = 1;
	args.in_syncobjs = 8;
	EXPECT_EQ(-EFAULT, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &args));
	args.in_syncobjs = (uintptr_t)&no_syncobj;
	EXPECT_EQ(-ENOENT, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &args));
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_CREATE, &create));
	args.in_syncobjs = (uintptr_t)&create.handle;
	EXPECT_EQ(-EINVAL, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &args));

	/* Nothing of that was submitted. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
	EXPECT_EQ(1, t->queue.seqno);
}

TEST_F(uapi, result_bad_input)
{
	struct tern *t = &self->t;
	struct drm_tern_result args = { .queue = t->queue.handle, .seqno = 1 };

	EXPECT_EQ(-ENOENT, tern_ioctl(t->fd, DRM_IOCTL_TERN_RESULT, &args));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
	EXPECT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_RESULT, &args));
	EXPECT_EQ(DRM_TERN_RESULT_OK, args.status);
	args.flags = 1;
	EXPECT_EQ(-EINVAL, tern_ioctl(t->fd, DRM_IOCTL_TERN_RESULT, &args));
	EXPECT_EQ(-ENOENT, tern_result(t, &t->queue, 0));
	EXPECT_EQ(-ENOENT, tern_result(t, &t->queue, 2));
	EXPECT_EQ(-ENOENT, tern_result(t, &t->queue, ~0ULL));
	args = (struct drm_tern_result){ .queue = NO_HANDLE, .seqno = 1 };
	EXPECT_EQ(-ENOENT, tern_ioctl(t->fd, DRM_IOCTL_TERN_RESULT, &args));
}

TEST_F(uapi, stats_bad_input)
{
	struct drm_tern_stats args = { .vm = self->t.vm, .flags = 1 };

	EXPECT_EQ(-EINVAL, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_STATS, &args));
	args = (struct drm_tern_stats){ .vm = NO_HANDLE };
	EXPECT_EQ(-ENOENT, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_STATS, &args));
	args = (struct drm_tern_stats){ .vm = self->t.vm };
	EXPECT_EQ(0, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_STATS, &args));
	EXPECT_EQ(0, args.to_device_huge);
	EXPECT_EQ(0, args.resident_bytes);
}

TEST_F(uapi, query_bad_input)
{
	struct drm_tern_device_query args = { .flags = 1 };

	EXPECT_EQ(-EINVAL, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_DEVICE_QUERY, &args));
}

/* A number that the driver does not have, and arguments longer and shorter than it knows. */
TEST_F(uapi, unknown_numbers_and_sizes)
{
	struct {
		struct drm_tern_device_query known;
		__u64 more;
	} longer = {};
	__u64 nothing[8] = {};

	EXPECT_GT(0, tern_ioctl(self->t.fd, DRM_IOWR(DRM_COMMAND_END - 1, nothing), nothing));
	EXPECT_EQ(0, tern_ioctl(self->t.fd,
				DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_DEVICE_QUERY, longer),
				&longer));
	EXPECT_EQ(self->t.info.vram_size, longer.known.vram_size);
	EXPECT_EQ(0, longer.more);
}

/* A handle means nothing in another open file. */
TEST_F(uapi, handles_belong_to_the_file)
{
	struct tern *t = &self->t;
	struct drm_tern_result result = { .queue = t->queue.handle, .seqno = 1 };
	struct drm_tern_stats stats = { .vm = t->vm };
	int other = tern_open_device();

	ASSERT_LE(0, other);
	EXPECT_EQ(-ENOENT, tern_vm_destroy(other, t->vm));
	EXPECT_EQ(-ENOENT, tern_queue_destroy(other, t->queue.handle));
	EXPECT_EQ(-ENOENT, tern_ioctl(other, DRM_IOCTL_TERN_RESULT, &result));
	EXPECT_EQ(-ENOENT, tern_ioctl(other, DRM_IOCTL_TERN_STATS, &stats));
	close(other);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
}

/* A queue takes as many dispatches as it has entries, and remembers as many results. */
TEST_F(uapi, full_queue_and_forgotten_results)
{
	struct tern *t = &self->t;
	unsigned long *flag = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args args = { .p = flag, .out = flag + 1, .value = 1 };
	struct tern_queue queue;

	ASSERT_NE(NULL, flag);
	ASSERT_EQ(0, tern_queue_init(t, &queue, 4));
	for (int i = 1; i <= 4; i++) {
		ASSERT_EQ(0, tern_start(t, &queue, KERNEL_WAIT, args, 1, 0));
		EXPECT_EQ(i, queue.seqno);
	}
	ASSERT_EQ(0, tern_result(t, &queue, 1));
	EXPECT_EQ(DRM_TERN_RESULT_PENDING, queue.result.status);
	EXPECT_EQ(-EAGAIN, tern_start(t, &queue, KERNEL_WAIT, args, 1, 0));
	queue.seqno = 4;

	__atomic_store_n(flag, 1, __ATOMIC_RELEASE);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &queue));
	ASSERT_EQ(0, tern_result(t, &queue, 1));
	EXPECT_EQ(DRM_TERN_RESULT_OK, queue.result.status);

	ASSERT_EQ(0, tern_start(t, &queue, KERNEL_NULL, args, 1, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &queue));
	EXPECT_EQ(5, queue.seqno);
	EXPECT_EQ(-ENODATA, tern_result(t, &queue, 1));
	EXPECT_EQ(0, tern_result(t, &queue, 2));
	tern_queue_free(t, &queue);
}

/* A dispatch starts only after those that it waits for, whose queue is another. */
TEST_F(uapi, in_syncobjs)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args fill = { .p = p, .count = WORDS(PAGE), .value = 100 };
	struct kernel_args add = { .p = p, .count = WORDS(PAGE), .value = 1000 };
	struct drm_tern_submit submit;
	struct tern_queue second;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_queue_init(t, &second, 0));
	for (int round = 0; round < 20; round++) {
		memset(p, 0, PAGE);
		ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_FILL, fill, 1, 0));
		*second.args = add;
		submit = tern_submission(t, &second, KERNEL_ADD);
		submit.in_syncobjs = (uintptr_t)&t->queue.syncobj;
		submit.in_count = 1;
		ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
		second.seqno = submit.seqno;
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &second));
		ASSERT_EQ(-1, tern_check_count(p, PAGE, 1100));
		/* Its arguments are used again. */
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	}
	tern_queue_free(t, &second);
}

/* Submits kernel "add" to @queue, after what @before signals. */
static int add_after(const struct tern *t, struct tern_queue *queue, const __u32 *before,
		     struct kernel_args args)
{
	struct drm_tern_submit submit = tern_submission(t, queue, KERNEL_ADD);
	int ret;

	*queue->args = args;
	submit.in_syncobjs = (uintptr_t)before;
	submit.in_count = 1;
	ret = tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit);
	queue->seqno = submit.seqno;
	return ret;
}

/*
 * The call does not wait for fences. What waits holds up its own queue, in order, and no
 * other.
 */
TEST_F(uapi, waiting_dispatches)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args wait = { .p = p, .out = p + 1, .value = 1 };
	struct kernel_args add = { .p = p + 2, .count = 1, .value = 10 };
	struct tern_queue second, third;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_queue_init(t, &second, 4));
	ASSERT_EQ(0, tern_queue_init(t, &third, 0));
	ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_WAIT, wait, 1, 0));
	ASSERT_EQ(0, add_after(t, &second, &t->queue.syncobj, add));
	for (int i = 2; i <= 4; i++) {
		struct drm_tern_submit next = tern_submission(t, &second, KERNEL_ADD);

		ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &next));
		second.seqno = next.seqno;
	}
	EXPECT_EQ(-EAGAIN, add_after(t, &second, &t->queue.syncobj, add));
	second.seqno = 4;

	ASSERT_EQ(0, tern_start(t, &third, KERNEL_NULL, add, 1, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &third));
	for (int i = 1; i <= 4; i++) {
		ASSERT_EQ(0, tern_result(t, &second, i));
		EXPECT_EQ(DRM_TERN_RESULT_PENDING, second.result.status);
	}
	EXPECT_EQ(0, p[2]);

	__atomic_store_n(p, 1, __ATOMIC_RELEASE);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &second));
	EXPECT_EQ(4 * 10, p[2]);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	tern_queue_free(t, &third);
	tern_queue_free(t, &second);
}

/*
 * A queue is destroyed while a dispatch of it waits for another queue, and the other while
 * it is waited for.
 */
TEST_F(uapi, destroy_with_waiting_dispatches)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args wait = { .p = p, .out = p + 1, .value = 1 };
	struct kernel_args add = { .p = p + 2, .count = 1, .value = 10 };
	struct tern_queue first, second, third;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_queue_init(t, &first, 0));
	ASSERT_EQ(0, tern_queue_init(t, &second, 0));
	ASSERT_EQ(0, tern_queue_init(t, &third, 0));
	ASSERT_EQ(0, tern_start(t, &first, KERNEL_WAIT, wait, 1, 0));
	ASSERT_EQ(0, add_after(t, &second, &first.syncobj, add));
	ASSERT_EQ(0, add_after(t, &third, &first.syncobj, add));

	/* Its fence is signalled, though what it waits for is not. */
	ASSERT_EQ(0, tern_queue_destroy(t->fd, second.handle));
	second.handle = 0;
	EXPECT_EQ(0, tern_wait_fence(t, &second));
	EXPECT_EQ(0, p[2]);

	/* The end of what it waits for, be it a bad one, lets the third go on. */
	ASSERT_EQ(0, tern_queue_destroy(t->fd, first.handle));
	first.handle = 0;
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &third));
	EXPECT_EQ(10, p[2]);
	tern_queue_free(t, &third);
	tern_queue_free(t, &second);
	tern_queue_free(t, &first);
}

/* Whoever is handed the file by fork() does not reach its maker's memory by it. */
TEST_F(uapi, other_process)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args fill = { .p = p, .count = 1, .value = 5 };
	pid_t child;

	ASSERT_NE(NULL, p);
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		struct drm_tern_queue_create create = { .vm = t->vm };
		int ret = tern_start(t, &t->queue, KERNEL_FILL, fill, 1, 0);

		if (ret != -EPERM)
			_exit(1);
		if (tern_ioctl(t->fd, DRM_IOCTL_TERN_QUEUE_CREATE, &create) != -EPERM)
			_exit(2);
		_exit(0);
	}
	EXPECT_TRUE(tern_child_ok(child));
	EXPECT_EQ(0, *p);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, fill));
	EXPECT_EQ(5, *p);
}

/* Memory whose pages come when somebody resolves their faults with @uffd; NULL if not here. */
static unsigned long *unresolved_memory(struct tern *t, int *uffd)
{
	unsigned long *p = tern_map(t, PAGE, MADV_NOHUGEPAGE);

	*uffd = tern_userfaultfd(p, PAGE, UFFDIO_REGISTER_MODE_MISSING, 0);
	return *uffd < 0 ? NULL : p;
}

/*
 * Memory that does not come holds up the dispatch that touched it, until its time is over,
 * but neither another process nor the end of everything.
 */
TEST_F(uapi, memory_that_does_not_come)
{
	struct tern *t = &self->t;
	struct kernel_args load = {}, add = { .count = 1, .value = 7 };
	struct tern_queue after, more;
	struct tern other;
	int uffd;

	if (!tern_has_userfaultfd())
		SKIP(return, "the kernel has no userfaultfd");
	load.p = unresolved_memory(t, &uffd);
	ASSERT_NE(NULL, load.p);
	load.out = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	ASSERT_NE(NULL, load.out);
	ASSERT_EQ(0, tern_begin(&other));
	ASSERT_EQ(0, tern_queue_init(t, &after, 0));

	add.p = load.out + 1;
	/* Once before, so that it needs no fault of its own later. */
	ASSERT_EQ(0, tern_start(t, &after, KERNEL_ADD, add, TERN_THREADS, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &after));
	EXPECT_EQ(7, load.out[1]);

	ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_LOAD, load, 1, 200));
	ASSERT_EQ(0, add_after(t, &after, &t->queue.syncobj, add));

	/* Another address space, if only one of our own, is served; and no queue waits. */
	ASSERT_EQ(DRM_TERN_RESULT_OK,
		  tern_run(&other, KERNEL_FILL,
			   (struct kernel_args){ .p = load.out + 2, .count = 1, .value = 9 }));
	EXPECT_EQ(9, load.out[2]);
	ASSERT_EQ(0, tern_queue_init(t, &more, 0));
	tern_queue_free(t, &more);
	ASSERT_EQ(0, tern_result(t, &t->queue, 1));
	EXPECT_EQ(DRM_TERN_RESULT_PENDING, t->queue.result.status);

	/* Its fence is signalled in the end, and with it what waited for it. */
	EXPECT_EQ(DRM_TERN_RESULT_TIMEOUT, tern_finish(t, &t->queue));
	EXPECT_EQ(-EIO, tern_start(t, &t->queue, KERNEL_NULL, load, 1, 0));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &after));
	EXPECT_EQ(14, load.out[1]);
	tern_queue_free(t, &after);
	ASSERT_EQ(0, tern_end(&other));
	close(uffd);
}

/* A process that is killed meanwhile does end, though its memory never comes. */
TEST_F(uapi, exit_with_memory_that_does_not_come)
{
	int started[2];
	char byte;
	pid_t child;

	if (!tern_has_userfaultfd())
		SKIP(return, "the kernel has no userfaultfd");
	ASSERT_EQ(0, pipe(started));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		struct pollfd message = { .events = POLLIN };
		struct kernel_args load = {};
		struct tern own;

		if (tern_begin(&own))
			_exit(1);
		load.p = unresolved_memory(&own, &message.fd);
		load.out = tern_shared(PAGE, NULL);
		if (!load.p || !load.out || tern_start(&own, &own.queue, KERNEL_LOAD, load, 1, 0))
			_exit(2);
		/* When its handler has a message, the fault is being served. */
		if (poll(&message, 1, -1) != 1 || message.revents != POLLIN)
			_exit(3);
		if (write(started[1], "", 1) != 1)
			_exit(4);
		for (;;)
			pause();
	}
	close(started[1]);
	EXPECT_EQ(1, read(started[0], &byte, 1));
	kill(child, SIGKILL);
	EXPECT_EQ(child, waitpid(child, NULL, 0));
	close(started[0]);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_NULL, (struct kernel_args){}));
}

TEST_HARNESS_MAIN
