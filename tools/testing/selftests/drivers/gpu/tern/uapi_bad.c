// SPDX-License-Identifier: GPL-2.0
/*
 * Bad input to every ioctl of the Tern GPU's driver, with the errno that it gets; handles that
 * go away while they are used; and what a client of the device can see of others.
 */
#include <pthread.h>
#include <stddef.h>

#include "kselftest_harness.h"
#include "tern_test.h"

#define NO_HANDLE 0xffffU
/* Bytes of a buffer that threads share. */
#define SHARED_BUFFER (16 * PAGE)
/* Bytes that a process and its child have. */
#define FAMILY_BYTES (16 * PAGE)
/* Where no user space is: the kernel's memory, and what is no address at all. */
#define KERNEL_ADDRESS 0xffff888000000000UL
#define NOT_CANONICAL 0x123456789abcd000UL
#define USER_END 0x800000000000UL

FIXTURE(bad)
{
	struct tern t;
};

FIXTURE_SETUP(bad)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(bad)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

/* The argument of any ioctl, and room for more behind it. */
union argument {
	struct drm_tern_device_query query;
	struct drm_tern_vm_create vm_create;
	struct drm_tern_handle handle;
	struct drm_tern_queue_create queue_create;
	struct drm_tern_submit submit;
	struct drm_tern_result result;
	struct drm_tern_stats stats;
	struct drm_tern_prefetch prefetch;
	struct drm_tern_gem_create gem_create;
	__u32 words[96];
	char bytes[384];
};

enum {
	QUERY, VM_CREATE, VM_DESTROY, QUEUE_CREATE, QUEUE_DESTROY, SUBMIT, RESULT, STATS, PREFETCH,
	GEM_CREATE,
};

#define OFFSET(type, member) offsetof(struct drm_tern_##type, member)
#define ALL { ~0ULL, ~0ULL }

/* Every ioctl. */
static const struct {
	const char *name;
	unsigned long request;
	/* Its argument begins with a handle. */
	int has_handle;
	/* The bits that must be zero are set here. */
	union argument zero;
} ioctls[] = {
	[QUERY] = { "DEVICE_QUERY", DRM_IOCTL_TERN_DEVICE_QUERY, 0,
		    { .query = { .flags = ~0U } } },
	[VM_CREATE] = { "VM_CREATE", DRM_IOCTL_TERN_VM_CREATE, 0,
			{ .vm_create = { .flags = ~0U, .reserved = ALL } } },
	[VM_DESTROY] = { "VM_DESTROY", DRM_IOCTL_TERN_VM_DESTROY, 1,
			 { .handle = { .flags = ~0U } } },
	[QUEUE_CREATE] = { "QUEUE_CREATE", DRM_IOCTL_TERN_QUEUE_CREATE, 1,
			   { .queue_create = { .flags = ~0U, .reserved = ALL } } },
	[QUEUE_DESTROY] = { "QUEUE_DESTROY", DRM_IOCTL_TERN_QUEUE_DESTROY, 1,
			    { .handle = { .flags = ~0U } } },
	[SUBMIT] = { "SUBMIT", DRM_IOCTL_TERN_SUBMIT, 1,
		     { .submit = { .flags = ~0U, .reserved = ALL } } },
	[RESULT] = { "RESULT", DRM_IOCTL_TERN_RESULT, 1, { .result = { .flags = ~0U } } },
	[STATS] = { "STATS", DRM_IOCTL_TERN_STATS, 1, { .stats = { .flags = ~0U } } },
	[PREFETCH] = { "PREFETCH", DRM_IOCTL_TERN_PREFETCH, 1,
		       { .prefetch = { .flags = ~0U, .pad = ~0U, .reserved = ALL } } },
	[GEM_CREATE] = { "GEM_CREATE", DRM_IOCTL_TERN_GEM_CREATE, 0,
			 { .gem_create = { .flags = ~1U, .reserved = ALL } } },
};

/* An argument of ioctl @i that is as it should be. */
static union argument good(const struct tern *t, unsigned int i)
{
	union argument arg = {};

	switch (i) {
	case VM_DESTROY:
		arg.handle.handle = t->vm;
		break;
	case QUEUE_CREATE:
		arg.queue_create.vm = t->vm;
		break;
	case QUEUE_DESTROY:
		arg.handle.handle = t->queue.handle;
		break;
	case SUBMIT:
		arg.submit = tern_submission(t, &t->queue, KERNEL_NULL);
		break;
	case RESULT:
		arg.result.queue = t->queue.handle;
		arg.result.seqno = 1;
		break;
	case STATS:
		arg.stats.vm = t->vm;
		break;
	case PREFETCH:
		arg.prefetch.vm = t->vm;
		arg.prefetch.address = (uintptr_t)t->code;
		arg.prefetch.size = PAGE;
		arg.prefetch.location = DRM_TERN_LOCATION_DEVICE;
		break;
	case GEM_CREATE:
		arg.gem_create.size = PAGE;
		break;
	}
	return arg;
}

/* The request of ioctl @i for an argument of another size. */
static unsigned long resized(unsigned int i, size_t size)
{
	unsigned long mask = (unsigned long)_IOC_SIZEMASK << _IOC_SIZESHIFT;

	return (ioctls[i].request & ~mask) | size << _IOC_SIZESHIFT;
}

/* Destroys what was made by calls that could not give their answer; the fixture's stays. */
static void destroy_unknown(const struct tern *t)
{
	for (__u32 handle = 1; handle < 20; handle++) {
		struct drm_gem_close args = { .handle = handle };

		if (handle != t->queue.handle)
			tern_queue_destroy(t->fd, handle);
		if (handle != t->vm)
			tern_vm_destroy(t->fd, handle);
		tern_ioctl(t->fd, DRM_IOCTL_GEM_CLOSE, &args);
	}
}

/* Each bit that must not be set. */
TEST_F(bad, flags_and_padding)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(ioctls); i++) {
		for (unsigned int bit = 0; bit < 8 * sizeof(union argument); bit++) {
			union argument arg = good(&self->t, i);

			if (!(ioctls[i].zero.words[bit / 32] & 1U << bit % 32))
				continue;
			arg.words[bit / 32] |= 1U << bit % 32;
			ASSERT_EQ(-EINVAL, tern_ioctl(self->t.fd, ioctls[i].request, &arg))
				TH_LOG("%s, offset %u, bit %u", ioctls[i].name, bit / 32 * 4,
				       bit % 32);
		}
	}
}

/* Handles of nothing, of something of another kind, and of another file. */
TEST_F(bad, handles)
{
	const __u32 handles[] = { 0, 2, 1000, 4096, 4097, NO_HANDLE, 1U << 31, ~0U };
	struct tern *t = &self->t;
	int other = tern_open_device();

	ASSERT_LE(0, other);
	for (unsigned int i = 0; i < ARRAY_SIZE(ioctls); i++) {
		union argument arg;

		if (!ioctls[i].has_handle)
			continue;
		for (unsigned int handle = 0; handle < ARRAY_SIZE(handles); handle++) {
			arg = good(t, i);
			arg.words[0] = handles[handle];
			EXPECT_EQ(-ENOENT, tern_ioctl(t->fd, ioctls[i].request, &arg))
				TH_LOG("%s, handle %u", ioctls[i].name, handles[handle]);
		}
		arg = good(t, i);
		EXPECT_EQ(-ENOENT, tern_ioctl(other, ioctls[i].request, &arg))
			TH_LOG("%s in another file", ioctls[i].name);
	}
	close(other);
}

/* Arguments that are where the process may not read, or not write the answer. */
TEST_F(bad, pointers)
{
	char *p = tern_map(&self->t, 2 * PAGE, MADV_NOHUGEPAGE);
	void *pointers[] = {
		NULL, (void *)8, (void *)KERNEL_ADDRESS, (void *)NOT_CANONICAL, (void *)-8L,
		(void *)(USER_END - 8), (void *)USER_END,
		/* Half of it is there. */
		p + PAGE - 4, p + PAGE, p + 2 * PAGE - 4,
	};

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, mprotect(p + PAGE, PAGE, PROT_NONE));
	for (unsigned int i = 0; i < ARRAY_SIZE(ioctls); i++) {
		for (unsigned int j = 0; j < ARRAY_SIZE(pointers); j++) {
			EXPECT_EQ(-EFAULT, tern_ioctl(self->t.fd, ioctls[i].request, pointers[j]))
				TH_LOG("%s at %p", ioctls[i].name, pointers[j]);
		}
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(ioctls); i++) {
		int is_answered = ioctls[i].request >> _IOC_DIRSHIFT & _IOC_READ;
		union argument arg = good(&self->t, i);

		if (!is_answered)
			continue;
		ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ | PROT_WRITE));
		memcpy(p, &arg, sizeof(arg));
		ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ));
		EXPECT_EQ(-EFAULT, tern_ioctl(self->t.fd, ioctls[i].request, p))
			TH_LOG("%s, read-only", ioctls[i].name);
	}
	destroy_unknown(&self->t);
}

/*
 * Arguments of other sizes than the driver's, as an older or a newer program has them. What is
 * missing is zero; what is more is neither looked at nor written.
 */
TEST_F(bad, sizes)
{
	const struct {
		unsigned int ioctl;
		size_t size;
		int expected;
	} cases[] = {
		{ QUERY, 0, 0 },
		{ QUERY, 4, 0 },
		{ QUERY, 8, 0 },
		{ VM_CREATE, 0, 0 },
		{ VM_CREATE, 4, 0 },
		{ VM_CREATE, OFFSET(vm_create, reserved), 0 },
		{ VM_DESTROY, 0, -ENOENT },
		{ VM_DESTROY, 3, -EBUSY },
		{ VM_DESTROY, OFFSET(handle, flags), -EBUSY },
		{ QUEUE_CREATE, 0, -ENOENT },
		{ QUEUE_CREATE, OFFSET(queue_create, reserved), 0 },
		{ QUEUE_DESTROY, 0, -ENOENT },
		{ SUBMIT, 0, -EINVAL },
		{ SUBMIT, OFFSET(submit, threads), -EINVAL },
		{ SUBMIT, OFFSET(submit, stack), 0 },
		{ SUBMIT, OFFSET(submit, seqno), 0 },
		{ RESULT, 0, -ENOENT },
		{ RESULT, OFFSET(result, seqno), -ENOENT },
		{ RESULT, OFFSET(result, status), 0 },
		{ STATS, 0, -ENOENT },
		{ STATS, OFFSET(stats, faults), 0 },
		{ PREFETCH, 0, -EINVAL },
		{ PREFETCH, OFFSET(prefetch, size), -EINVAL },
		{ PREFETCH, OFFSET(prefetch, location), 0 },
		{ PREFETCH, OFFSET(prefetch, pad), 0 },
		{ GEM_CREATE, 0, -EINVAL },
		{ GEM_CREATE, OFFSET(gem_create, flags), 0 },
		{ GEM_CREATE, OFFSET(gem_create, reserved), 0 },
	};
	struct tern *t = &self->t;

	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		union argument arg = good(t, cases[i].ioctl);
		union argument before;

		memset(arg.bytes + cases[i].size, 0xa5, sizeof(arg) - cases[i].size);
		before = arg;
		EXPECT_EQ(cases[i].expected,
			  tern_ioctl(t->fd, resized(cases[i].ioctl, cases[i].size), &arg))
			TH_LOG("%s of %zu bytes", ioctls[cases[i].ioctl].name, cases[i].size);
		EXPECT_EQ(0, memcmp(arg.bytes + cases[i].size, before.bytes + cases[i].size,
				    sizeof(arg) - cases[i].size))
			TH_LOG("%s of %zu bytes", ioctls[cases[i].ioctl].name, cases[i].size);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(ioctls); i++) {
		size_t size = _IOC_SIZE(ioctls[i].request);
		/* The fixture's address space has queues, and its queue is still needed. */
		int expected = i == VM_DESTROY ? -EBUSY : i == QUEUE_DESTROY ? -ENOENT : 0;

		for (int tail = 0; tail < 2; tail++) {
			union argument arg = good(t, i);

			if (i == QUEUE_DESTROY)
				arg.handle.handle = NO_HANDLE;
			memset(arg.bytes + size, tail, 64);
			EXPECT_EQ(expected, tern_ioctl(t->fd, resized(i, size + 64), &arg))
				TH_LOG("longer %s, tail of %d", ioctls[i].name, tail);
			for (int byte = 0; byte < 64; byte++)
				ASSERT_EQ(tail, arg.bytes[size + byte]);
		}
	}
	destroy_unknown(t);
}

/* An argument of the greatest size there is. */
TEST_F(bad, greatest_size)
{
	size_t size = _IOC_SIZEMASK;
	char *arg = calloc(1, size + 1);
	struct drm_tern_device_query *query = (void *)arg;

	ASSERT_NE(NULL, arg);
	ASSERT_EQ(0, tern_ioctl(self->t.fd, resized(QUERY, size), arg));
	EXPECT_EQ(self->t.info.vram_size, query->vram_size);
	for (size_t byte = sizeof(*query); byte <= size; byte++)
		ASSERT_EQ(0, arg[byte]);
	free(arg);
}

/* Numbers that the driver does not have, and what DRM has for buffers that cannot be here. */
TEST_F(bad, unknown_ioctls)
{
	struct drm_gem_close close_args = { .handle = 1 };
	struct drm_prime_handle prime = { .handle = 1 };
	__u64 nothing[8] = {};

	for (unsigned int nr = DRM_COMMAND_BASE + ARRAY_SIZE(ioctls); nr < DRM_COMMAND_END; nr++) {
		EXPECT_EQ(-EINVAL, tern_ioctl(self->t.fd, DRM_IOWR(nr, nothing), nothing))
			TH_LOG("number %#x", nr);
	}
	EXPECT_EQ(-EINVAL, tern_ioctl(self->t.fd, DRM_IOWR(0xff, nothing), nothing));
	EXPECT_EQ(-EINVAL, tern_ioctl(self->t.fd, DRM_IOCTL_GEM_CLOSE, &close_args));
	EXPECT_EQ(-ENOENT, tern_ioctl(self->t.fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->t.fd, 0));
	EXPECT_EQ(EINVAL, errno);
}

/* Ranges that are none. */
TEST_F(bad, prefetch)
{
	struct tern *t = &self->t;
	char *p = tern_map(t, 4 * PAGE, MADV_NOHUGEPAGE);
	__u64 at = (uintptr_t)p;
	const struct {
		__u64 address, size;
		__u32 location;
		int expected;
	} cases[] = {
		{ at, 0, 0, -EINVAL },
		{ at, 1, 0, -EINVAL },
		{ at, PAGE - 1, 0, -EINVAL },
		{ at + 1, PAGE, 0, -EINVAL },
		{ at + 8, PAGE - 8, 0, -EINVAL },
		{ at, PAGE, 2, -EINVAL },
		{ at, PAGE, ~0U, -EINVAL },
		{ at, ~0ULL, 0, -EINVAL },
		{ at, -at, 0, -EINVAL },
		{ at, -PAGE, 0, -EINVAL },
		{ at, PAGE - at, 0, -EINVAL },
		{ 0, -PAGE, 0, -EINVAL },
		{ -PAGE, PAGE, 0, -EINVAL },
		{ -PAGE, 2 * PAGE, 0, -EINVAL },
		{ KERNEL_ADDRESS, PAGE, 0, -EINVAL },
		{ KERNEL_ADDRESS, PAGE, 1, -EINVAL },
		{ NOT_CANONICAL, PAGE, 0, -EINVAL },
		{ USER_END, PAGE, 0, -EINVAL },
		{ USER_END - PAGE, 2 * PAGE, 0, -EINVAL },
		{ USER_END - PAGE, PAGE, 0, -EFAULT },
		{ USER_END - PAGE, PAGE, 1, -EFAULT },
		{ 0, PAGE, 0, -EFAULT },
		{ 0, PAGE, 1, -EFAULT },
		{ 0, USER_END, 0, -EFAULT },
		{ 0, USER_END, 1, -EFAULT },
		{ at + 2 * PAGE, PAGE, 0, -EFAULT },
		{ at + 2 * PAGE, PAGE, 1, -EFAULT },
		{ at, 4 * PAGE, 0, -EFAULT },
		{ at, 4 * PAGE, 1, -EFAULT },
	};

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, munmap(p + 2 * PAGE, PAGE));
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		union argument arg = good(t, PREFETCH);

		arg.prefetch.address = cases[i].address;
		arg.prefetch.size = cases[i].size;
		arg.prefetch.location = cases[i].location;
		EXPECT_EQ(cases[i].expected, tern_ioctl(t->fd, DRM_IOCTL_TERN_PREFETCH, &arg))
			TH_LOG("case %u", i);
	}
	for (int i = 0; i < 2 * PAGE; i++)
		ASSERT_EQ(0, p[i]);
}

/* Values of a submission that are refused at once. */
TEST_F(bad, submit)
{
	const struct {
		size_t offset, size;
		__u64 value;
		int expected;
	} cases[] = {
		{ OFFSET(submit, threads), 8, 0, -EINVAL },
		{ OFFSET(submit, entry), 8, 1, -EINVAL },
		{ OFFSET(submit, entry), 8, ~0ULL, -EINVAL },
		{ OFFSET(submit, stack_size), 4, 1, -EINVAL },
		{ OFFSET(submit, stack_size), 4, ~0U, -EINVAL },
		{ OFFSET(submit, timeout_ms), 4, 3600001, -EINVAL },
		{ OFFSET(submit, timeout_ms), 4, ~0U, -EINVAL },
		{ OFFSET(submit, in_count), 4, 65, -EINVAL },
		{ OFFSET(submit, in_count), 4, ~0U, -EINVAL },
		{ OFFSET(submit, out_count), 4, 65, -EINVAL },
		{ OFFSET(submit, out_count), 4, ~0U, -EINVAL },
		/* With a count of 1. */
		{ OFFSET(submit, out_syncobjs), 8, 0, -EFAULT },
		{ OFFSET(submit, out_syncobjs), 8, KERNEL_ADDRESS, -EFAULT },
		{ OFFSET(submit, out_syncobjs), 8, NOT_CANONICAL, -EFAULT },
		{ OFFSET(submit, out_syncobjs), 8, USER_END - 2, -EFAULT },
		{ OFFSET(submit, out_syncobjs), 8, -2ULL, -EFAULT },
		{ OFFSET(submit, in_syncobjs), 8, 0, -EFAULT },
		{ OFFSET(submit, in_syncobjs), 8, KERNEL_ADDRESS, -EFAULT },
		{ OFFSET(submit, in_syncobjs), 8, NOT_CANONICAL, -EFAULT },
		{ OFFSET(submit, in_syncobjs), 8, USER_END - 2, -EFAULT },
		{ OFFSET(submit, in_syncobjs), 8, -2ULL, -EFAULT },
	};
	struct tern *t = &self->t;

	/* So that what it would wait for is there. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		union argument arg = good(t, SUBMIT);

		arg.submit.in_syncobjs = (uintptr_t)&t->queue.syncobj;
		arg.submit.in_count = 1;
		memcpy(arg.bytes + cases[i].offset, &cases[i].value, cases[i].size);
		EXPECT_EQ(cases[i].expected, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &arg))
			TH_LOG("offset %zu, value %#llx", cases[i].offset,
			       (unsigned long long)cases[i].value);
	}
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
	EXPECT_EQ(2, t->queue.seqno);
}

/* Sync objects that are none, are gone, belong to somebody else or have no fence. */
TEST_F(bad, syncobjs)
{
	struct drm_syncobj_create create = {};
	struct drm_syncobj_destroy destroy = {};
	struct tern *t = &self->t;
	int other = tern_open_device();
	__u32 empty, foreign = 0, many[65];
	char *p = tern_map(t, 2 * PAGE, MADV_NOHUGEPAGE);
	union argument arg;

	ASSERT_LE(0, other);
	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, munmap(p + PAGE, PAGE));
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_CREATE, &create));
	empty = create.handle;
	/* A number that this file does not have. */
	while (foreign <= empty) {
		ASSERT_EQ(0, tern_ioctl(other, DRM_IOCTL_SYNCOBJ_CREATE, &create));
		foreign = create.handle;
	}
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_CREATE, &create));
	destroy.handle = create.handle;
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_DESTROY, &destroy));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));

	const struct {
		__u32 handle;
		int in, out;
	} cases[] = {
		{ 0, -ENOENT, -ENOENT },
		{ NO_HANDLE, -ENOENT, -ENOENT },
		{ ~0U, -ENOENT, -ENOENT },
		{ foreign, -ENOENT, -ENOENT },
		{ destroy.handle, -ENOENT, -ENOENT },
		{ empty, -EINVAL, 0 },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		/* The last of several. */
		const __u32 handles[] = { t->queue.syncobj, t->queue.syncobj, cases[i].handle };

		arg = good(t, SUBMIT);
		arg.submit.in_syncobjs = (uintptr_t)handles;
		arg.submit.in_count = ARRAY_SIZE(handles);
		EXPECT_EQ(cases[i].in, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &arg))
			TH_LOG("in, case %u", i);
		arg = good(t, SUBMIT);
		arg.submit.out_syncobjs = (uintptr_t)handles;
		arg.submit.out_count = ARRAY_SIZE(handles);
		EXPECT_EQ(cases[i].out, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &arg))
			TH_LOG("out, case %u", i);
	}

	/* An array that ends where nothing is mapped, and as many as there may be. */
	for (int i = 0; i < 65; i++)
		many[i] = t->queue.syncobj;
	memcpy(p + PAGE - sizeof(__u32), many, sizeof(__u32));
	arg = good(t, SUBMIT);
	arg.submit.out_syncobjs = (uintptr_t)p + PAGE - sizeof(__u32);
	arg.submit.out_count = 2;
	EXPECT_EQ(-EFAULT, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &arg));
	arg = good(t, SUBMIT);
	arg.submit.out_syncobjs = (uintptr_t)many;
	arg.submit.out_count = 64;
	arg.submit.in_syncobjs = (uintptr_t)many;
	arg.submit.in_count = 64;
	EXPECT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &arg));
	/* Where there are none, the address is not looked at. */
	arg = good(t, SUBMIT);
	arg.submit.in_syncobjs = NOT_CANONICAL;
	EXPECT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &arg));
	t->queue.seqno = arg.submit.seqno;
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	close(other);
}

/* Addresses that only the device finds to be bad: the dispatch ends, and tells. */
TEST_F(bad, addresses)
{
	const struct {
		enum kernel_id kernel;
		size_t offset;
		__u64 value;
		int expected, access;
	} cases[] = {
#define CASE(kernel, member, value, expected, access) \
	{ KERNEL_##kernel, OFFSET(submit, member), value, DRM_TERN_RESULT_##expected, \
	  DRM_TERN_ACCESS_##access }
		CASE(NULL, entry, 0, FAULT, FETCH),
		CASE(NULL, entry, KERNEL_ADDRESS, FAULT, FETCH),
		CASE(NULL, entry, NOT_CANONICAL, FAULT, FETCH),
		CASE(NULL, entry, USER_END, FAULT, FETCH),
		CASE(NULL, entry, USER_END - PAGE, FAULT, FETCH),
		CASE(NULL, entry, -2ULL, FAULT, FETCH),
		CASE(NULL, args, KERNEL_ADDRESS, OK, READ),
		CASE(LOAD, args, 0, FAULT, READ),
		CASE(LOAD, args, KERNEL_ADDRESS, FAULT, READ),
		CASE(LOAD, args, NOT_CANONICAL, FAULT, READ),
		CASE(LOAD, args, USER_END, FAULT, READ),
		CASE(STACK, stack, KERNEL_ADDRESS, FAULT, WRITE),
		CASE(STACK, stack, NOT_CANONICAL, FAULT, WRITE),
		CASE(STACK, stack, -PAGE, FAULT, WRITE),
		CASE(STACK, stack, 0, FAULT, WRITE),
#undef CASE
	};
	struct tern *t = &self->t;
	unsigned long *out = tern_keep(t, tern_shared(PAGE, NULL), PAGE);

	ASSERT_NE(NULL, out);
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		union argument arg = good(t, SUBMIT);

		*t->queue.args = (struct kernel_args){ .out = out, .count = TERN_THREADS };
		arg.submit.entry = tern_entry(t, cases[i].kernel);
		memcpy(arg.bytes + cases[i].offset, &cases[i].value, sizeof(cases[i].value));
		ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &arg)) TH_LOG("case %u", i);
		t->queue.seqno = arg.submit.seqno;
		EXPECT_EQ(cases[i].expected, tern_finish(t, &t->queue)) TH_LOG("case %u", i);
		EXPECT_EQ(cases[i].access, t->queue.result.access) TH_LOG("case %u", i);
		if (cases[i].access == DRM_TERN_ACCESS_FETCH) {
			EXPECT_EQ(cases[i].value, t->queue.result.address)
				TH_LOG("case %u", i);
		}
	}
	/* More threads than can ever run: its time ends it. */
	EXPECT_EQ(0, tern_start(t, &t->queue, KERNEL_NULL, (struct kernel_args){}, ~0UL, 1000));
	EXPECT_EQ(DRM_TERN_RESULT_TIMEOUT, tern_finish(t, &t->queue));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
}

/*
 * Adds 1 to *p in each of @n address spaces, with a queue in each at the same time. The queues
 * differ in their sync objects only. Returns 0, or a negative errno or another status than OK.
 */
static int add_in_each(struct tern *t, struct tern_queue *queues, const __u32 *vms, unsigned int n,
		       unsigned long *p)
{
	struct kernel_args args = { .p = p, .count = 1, .value = 1 };
	int ret = 0;

	for (unsigned int i = 0; !ret && i < n; i++) {
		struct drm_tern_queue_create create = { .vm = vms[i], .entries = 2 };

		ret = tern_ioctl(t->fd, DRM_IOCTL_TERN_QUEUE_CREATE, &create);
		queues[i].handle = create.handle;
		if (!ret)
			ret = tern_start(t, &queues[i], KERNEL_ATOMIC_ADD, args, 1, 0);
	}
	for (unsigned int i = 0; !ret && i < n; i++) {
		ret = tern_finish(t, &queues[i]);
		if (ret == DRM_TERN_RESULT_OK)
			ret = tern_queue_destroy(t->fd, queues[i].handle);
	}
	return ret;
}

/*
 * As many address spaces as there are, and then again. The first and the last of them work: all
 * map the same pages, which takes debugging of DMA mappings a time that grows with the square.
 */
TEST_F_TIMEOUT(bad, many_address_spaces, 600)
{
	enum { MOST = 1 << 16, AT_ONCE = 128, WORKING = 1024 };
	struct tern *t = &self->t;
	unsigned long *p = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	__u32 *vms = calloc(MOST, sizeof(*vms));
	struct tern_queue queues[AT_ONCE];
	unsigned int count = 0;
	int ret = 0;

	ASSERT_NE(NULL, vms);
	ASSERT_NE(NULL, p);
	for (int i = 0; i < AT_ONCE; i++) {
		struct drm_syncobj_create create = {};

		ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_CREATE, &create));
		queues[i] = t->queue;
		queues[i].syncobj = create.handle;
	}
	while (count < MOST) {
		ret = tern_vm_create(t->fd, &vms[count]);
		if (ret)
			break;
		count++;
	}
	EXPECT_EQ(-ENOSPC, ret);
	ASSERT_LE(WORKING, count);
	for (unsigned int done = 0; done < WORKING; done += AT_ONCE) {
		unsigned int first = done < WORKING / 2 ? done : count - WORKING + done;

		ASSERT_EQ(0, add_in_each(t, queues, vms + first, AT_ONCE, p));
		ASSERT_EQ(done + AT_ONCE, *p);
	}
	while (count--)
		ASSERT_EQ(0, tern_vm_destroy(t->fd, vms[count]));
	ASSERT_EQ(0, tern_vm_create(t->fd, &vms[0]));
	EXPECT_EQ(0, tern_vm_destroy(t->fd, vms[0]));
	free(vms);
}

/* After its end nothing is there of a file, or of an object. */
TEST_F(bad, after_the_end)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_resident(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct tern other;
	int copy;

	ASSERT_NE(NULL, p);
	for (int without_vm = 0; without_vm < 2; without_vm++) {
		ASSERT_EQ(0, tern_begin(&other));
		ASSERT_EQ(0, tern_queue_destroy(other.fd, other.queue.handle));
		if (without_vm)
			ASSERT_EQ(0, tern_vm_destroy(other.fd, other.vm));
		for (unsigned int i = 0; i < ARRAY_SIZE(ioctls); i++) {
			int of_queue = i == QUEUE_DESTROY || i == SUBMIT || i == RESULT;
			union argument arg = good(&other, i);

			if (!ioctls[i].has_handle || (!of_queue && !without_vm))
				continue;
			EXPECT_EQ(-ENOENT, tern_ioctl(other.fd, ioctls[i].request, &arg))
				TH_LOG("%s", ioctls[i].name);
		}
		close(other.fd);
	}

	/* As long as the file is open by another descriptor, everything works by that. */
	ASSERT_EQ(0, tern_begin(&other));
	copy = dup(other.fd);
	ASSERT_LE(0, copy);
	close(other.fd);
	other.fd = copy;
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&other, p, HUGE_PAGE));
	close(copy);
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 2));
}

/* Whether a thread of this process is in an ioctl on @fd. */
static int is_inside(pid_t tid, int fd)
{
	char path[64], line[128] = "";
	long nr, arg;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	file = fopen(path, "r");
	if (!file)
		return 0;
	fgets(line, sizeof(line), file);
	fclose(file);
	return sscanf(line, "%ld %lx", &nr, &arg) == 2 && nr == __NR_ioctl && arg == fd;
}

struct waiter {
	const struct tern *t;
	pid_t tid;
	int ret;
};

static void *wait_fence(void *arg)
{
	struct waiter *w = arg;

	__atomic_store_n(&w->tid, gettid(), __ATOMIC_RELEASE);
	w->ret = tern_wait_fence(w->t, &w->t->queue);
	return NULL;
}

/* The last descriptor goes while a thread waits by it: what it waits for goes on, then it ends. */
TEST_F(bad, close_below_a_wait)
{
	struct tern *t = &self->t, other;
	unsigned long *p = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args wait = { .p = p, .out = p + 1, .value = 1 };
	struct waiter w = { .t = &other };
	pthread_t thread;
	pid_t tid;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_begin(&other));
	ASSERT_EQ(0, tern_start(&other, &other.queue, KERNEL_WAIT, wait, 1, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, wait_fence, &w));
	do {
		tid = __atomic_load_n(&w.tid, __ATOMIC_ACQUIRE);
	} while (!tid || !is_inside(tid, other.fd));
	close(other.fd);
	EXPECT_EQ(0, p[1]);
	__atomic_store_n(p, 1, __ATOMIC_RELEASE);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, w.ret);
	EXPECT_EQ(1, p[1]);
}

/* What a child may do with the file of its parent: nothing with the parent's memory. */
static int use_of_parent(struct tern *t, unsigned long *p)
{
	union argument submit = good(t, SUBMIT), create = good(t, QUEUE_CREATE);
	union argument prefetch = good(t, PREFETCH), result = good(t, RESULT);
	struct tern own = *t;

	if (tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit) != -EPERM ||
	    tern_ioctl(t->fd, DRM_IOCTL_TERN_QUEUE_CREATE, &create) != -EPERM ||
	    tern_ioctl(t->fd, DRM_IOCTL_TERN_PREFETCH, &prefetch) != -EPERM)
		return 1;
	if (tern_ioctl(t->fd, DRM_IOCTL_TERN_RESULT, &result) ||
	    result.result.status != DRM_TERN_RESULT_OK)
		return 2;
	/* With its own memory everything. */
	if (tern_vm_create(own.fd, &own.vm) || tern_queue_init(&own, &own.queue, 0))
		return 3;
	if (tern_add_one(&own, p, FAMILY_BYTES) != DRM_TERN_RESULT_OK ||
	    tern_check_pattern(p, FAMILY_BYTES, 2) != -1)
		return 4;
	/* It can end what the parent made. */
	if (tern_queue_destroy(t->fd, t->queue.handle) || tern_vm_destroy(t->fd, t->vm))
		return 5;
	return tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit) == -ENOENT ? 0 : 6;
}

/* The parent closes the file that its child has too, or ends. */
TEST_F(bad, file_of_the_parent)
{
	for (int ends = 0; ends < 2; ends++) {
		int go[2], answer[2], status = -1;
		pid_t parent, child;
		char c;

		ASSERT_EQ(0, pipe(go));
		ASSERT_EQ(0, pipe(answer));
		parent = fork();
		ASSERT_LE(0, parent);
		if (!parent) {
			struct tern own;
			unsigned long *p;

			if (tern_begin(&own))
				_exit(1);
			p = tern_resident(&own, FAMILY_BYTES, MADV_NOHUGEPAGE);
			if (!p)
				_exit(2);
			child = fork();
			if (!child) {
				close(go[1]);
				/* The end of the pipe is that of the parent, too. */
				status = read(go[0], &c, 1) < 0 ? 7 : use_of_parent(&own, p);
				_exit(write(answer[1], &status, sizeof(status)) < 0);
			}
			close(own.fd);
			if (!ends)
				_exit(child < 0 || write(go[1], "", 1) != 1 ||
				      !tern_child_ok(child) ||
				      tern_check_pattern(p, FAMILY_BYTES, 1) != -1);
			_exit(child < 0);
		}
		close(go[0]);
		EXPECT_TRUE(tern_child_ok(parent));
		close(go[1]);
		ASSERT_EQ(sizeof(status), read(answer[0], &status, sizeof(status)));
		EXPECT_EQ(0, status) TH_LOG("parent ends: %d", ends);
		close(answer[0]);
		close(answer[1]);
	}
}

/* Objects that one thread makes and destroys, while others use their handles. */
struct shared {
	const struct tern *t;
	void *memory;
	__u32 vm, queue;
	__u64 buffer;
	int stop;
	/* What was returned and must not be, and by which ioctl. */
	int wrong, by;
};

static void expect_one_of(struct shared *s, int ioctl, int ret, const int *expected)
{
	for (; *expected; expected++) {
		if (ret == *expected)
			return;
	}
	if (ret && !__atomic_load_n(&s->wrong, __ATOMIC_RELAXED)) {
		s->by = ioctl;
		__atomic_store_n(&s->wrong, ret, __ATOMIC_RELAXED);
	}
}

static void *use_queue(void *arg)
{
	const int submits[] = { -ENOENT, -EIO, -EAGAIN, 0 };
	const int results[] = { -ENOENT, -ENODATA, 0 };
	struct shared *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
		union argument submit = good(s->t, SUBMIT), result = {};

		submit.submit.queue = __atomic_load_n(&s->queue, __ATOMIC_RELAXED);
		result.result.queue = submit.submit.queue;
		result.result.seqno = 1;
		expect_one_of(s, SUBMIT, tern_ioctl(s->t->fd, DRM_IOCTL_TERN_SUBMIT, &submit),
			      submits);
		expect_one_of(s, RESULT, tern_ioctl(s->t->fd, DRM_IOCTL_TERN_RESULT, &result),
			      results);
	}
	return NULL;
}

static void *use_vm(void *arg)
{
	const int gone[] = { -ENOENT, 0 };
	struct shared *s = arg;

	for (__u32 location = 0; !__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE); location ^= 1) {
		__u32 vm = __atomic_load_n(&s->vm, __ATOMIC_RELAXED);
		union argument queue = { .queue_create = { .vm = vm, .entries = 2 } };
		union argument stats = { .stats = { .vm = vm } };
		union argument prefetch = { .prefetch = {
			.vm = vm,
			.address = (uintptr_t)s->memory,
			.size = HUGE_PAGE,
			.location = location,
		} };
		int fd = s->t->fd, ret;

		ret = tern_ioctl(fd, DRM_IOCTL_TERN_STATS, &stats);
		expect_one_of(s, STATS, ret, gone);
		ret = tern_ioctl(fd, DRM_IOCTL_TERN_PREFETCH, &prefetch);
		expect_one_of(s, PREFETCH, ret, gone);
		ret = tern_ioctl(fd, DRM_IOCTL_TERN_QUEUE_CREATE, &queue);
		expect_one_of(s, QUEUE_CREATE, ret, gone);
		if (!ret)
			expect_one_of(s, QUEUE_DESTROY,
				      tern_queue_destroy(fd, queue.queue_create.handle), gone);
	}
	return NULL;
}

#define MARK 0x7e57ed0000c0ffeeUL

/* A mapping of a buffer is good whatever becomes of the handle. */
static void *use_buffer(void *arg)
{
	const int prefetches[] = { 0 };
	const int maps[] = { -EINVAL, -EACCES, 0 };
	const int values[] = { 0 };
	struct shared *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
		struct drm_tern_gem_create gem = {
			.size = SHARED_BUFFER,
			.mmap_offset = __atomic_load_n(&s->buffer, __ATOMIC_RELAXED),
		};
		unsigned long *p = tern_gem_map(s->t, NULL, &gem, PROT_READ | PROT_WRITE);
		struct drm_tern_prefetch prefetch;
		unsigned long found;

		if (p == MAP_FAILED) {
			expect_one_of(s, GEM_CREATE, -errno, maps);
			continue;
		}
		/* Nothing but zeros was in it, and what these threads write. */
		found = __atomic_exchange_n(p, MARK, __ATOMIC_RELAXED);
		expect_one_of(s, GEM_CREATE, found && found != MARK, values);
		prefetch = tern_prefetch_args(s->t, p, SHARED_BUFFER, DRM_TERN_LOCATION_DEVICE);
		expect_one_of(s, PREFETCH,
			      tern_ioctl(s->t->fd, DRM_IOCTL_TERN_PREFETCH, &prefetch), prefetches);
		munmap(p, SHARED_BUFFER);
	}
	return NULL;
}

/* Each handle is used by two threads when a third destroys it, and gives its number away. */
TEST_F_TIMEOUT(bad, threads, 120)
{
	enum { ROUNDS = 200 };
	void *(*const uses[])(void *) = {
		use_queue, use_queue, use_vm, use_vm, use_buffer, use_buffer,
	};
	struct tern *t = &self->t;
	struct shared shared = { .t = t };
	pthread_t threads[ARRAY_SIZE(uses)];

	shared.memory = tern_map(t, HUGE_PAGE, MADV_HUGEPAGE);
	ASSERT_NE(NULL, shared.memory);
	tern_write_pattern(shared.memory, HUGE_PAGE);
	for (int i = 0; i < ARRAY_SIZE(uses); i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, uses[i], &shared));
	for (int i = 0; i < ROUNDS && !shared.wrong; i++) {
		struct drm_tern_queue_create queue = {};
		struct drm_tern_gem_create gem;
		int ret;

		ASSERT_EQ(0, tern_gem_create(t, SHARED_BUFFER, DRM_TERN_GEM_CPU, &gem));
		__atomic_store_n(&shared.buffer, gem.mmap_offset, __ATOMIC_RELAXED);
		ASSERT_EQ(0, tern_vm_create(t->fd, &queue.vm));
		__atomic_store_n(&shared.vm, queue.vm, __ATOMIC_RELAXED);
		ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_QUEUE_CREATE, &queue));
		__atomic_store_n(&shared.queue, queue.handle, __ATOMIC_RELAXED);
		ASSERT_EQ(0, tern_queue_destroy(t->fd, queue.handle));
		do {
			/* Another thread has a queue in it, for a moment. */
			ret = tern_vm_destroy(t->fd, queue.vm);
		} while (ret == -EBUSY);
		ASSERT_EQ(0, ret);
		ASSERT_EQ(0, tern_gem_close(t, gem.handle));
	}
	__atomic_store_n(&shared.stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < ARRAY_SIZE(uses); i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	EXPECT_EQ(0, shared.wrong) TH_LOG("by %s", ioctls[shared.by].name);
	EXPECT_EQ(-1, tern_check_pattern(shared.memory, HUGE_PAGE, 0));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
}

/* The end of a file while threads are in its ioctls. */
TEST_F(bad, close_while_used)
{
	struct tern *t = &self->t;

	for (int round = 0; round < 10; round++) {
		struct shared shared = {};
		pthread_t threads[2];
		struct tern other;

		ASSERT_EQ(0, tern_begin(&other));
		shared.t = &other;
		shared.vm = other.vm;
		shared.queue = other.queue.handle;
		shared.memory = tern_map(t, HUGE_PAGE, MADV_HUGEPAGE);
		ASSERT_NE(NULL, shared.memory);
		ASSERT_EQ(0, pthread_create(&threads[0], NULL, use_queue, &shared));
		ASSERT_EQ(0, pthread_create(&threads[1], NULL, use_vm, &shared));
		/* Until each of them has done something. */
		while (!tern_stats(&other).resident_bytes)
			;
		close(other.fd);
		__atomic_store_n(&shared.stop, 1, __ATOMIC_RELEASE);
		ASSERT_EQ(0, pthread_join(threads[0], NULL));
		ASSERT_EQ(0, pthread_join(threads[1], NULL));
		/* They saw the descriptor go, and nothing else. */
		EXPECT_TRUE(!shared.wrong || shared.wrong == -EBADF)
			TH_LOG("%d by %s", shared.wrong, ioctls[shared.by].name);
	}
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
}

/* Another process's memory is beyond reach, be it by its file, by its handles or by address. */
TEST_F(bad, other_clients)
{
	struct tern *t = &self->t;
	unsigned long *secret = tern_resident(t, HUGE_PAGE, MADV_HUGEPAGE);
	pid_t child;

	ASSERT_NE(NULL, secret);
	ASSERT_EQ(HUGE_PAGE, tern_stats(t).resident_bytes);
	ASSERT_EQ(0, madvise(secret, HUGE_PAGE, MADV_DONTFORK));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		struct kernel_args load = { .p = secret };
		union argument prefetch = good(t, PREFETCH);
		union argument create = good(t, QUEUE_CREATE);
		union argument submit = good(t, SUBMIT);
		unsigned long *out;
		struct tern own;

		prefetch.prefetch.address = (uintptr_t)secret;
		if (tern_ioctl(t->fd, DRM_IOCTL_TERN_PREFETCH, &prefetch) != -EPERM ||
		    tern_ioctl(t->fd, DRM_IOCTL_TERN_QUEUE_CREATE, &create) != -EPERM ||
		    tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit) != -EPERM)
			_exit(1);
		/* Kept free, or what is mapped next may be there. */
		if (mmap(secret, HUGE_PAGE, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != secret)
			_exit(2);
		/* Its own file, whose handles have the same numbers. */
		if (tern_begin(&own) || own.vm != t->vm || own.queue.handle != t->queue.handle)
			_exit(3);
		out = tern_shared(PAGE, NULL);
		if (!out)
			_exit(4);
		load.out = out;
		munmap(secret, HUGE_PAGE);
		if (tern_run_threads(&own, KERNEL_LOAD, load, 1) != DRM_TERN_RESULT_FAULT ||
		    own.queue.result.address != (uintptr_t)secret || *out)
			_exit(5);
		/* Memory of its own at the very address. */
		if (mmap(secret, HUGE_PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != secret)
			_exit(6);
		*secret = 42;
		if (tern_run_threads(&own, KERNEL_LOAD, load, 1) != DRM_TERN_RESULT_OK ||
		    *out != 42)
			_exit(7);
		_exit(0);
	}
	EXPECT_TRUE(tern_child_ok(child));
	EXPECT_EQ(HUGE_PAGE, tern_stats(t).resident_bytes);
	EXPECT_EQ(-1, tern_check_pattern(secret, HUGE_PAGE, 1));
}

/* Whether no word of @p has a bit set, as the device sees it. */
static int is_zero(struct tern *t, unsigned long *p, size_t bytes, unsigned long *out)
{
	struct kernel_args args = { .p = p, .out = out, .count = WORDS(bytes) };

	*out = 0;
	return tern_run(t, KERNEL_OR, args) == DRM_TERN_RESULT_OK && !*out;
}

/*
 * Memory of the device that held something before is seen by nobody. All of it is written
 * and freed, then it comes back as holes: of huge pages, of single pages, and of huge pages
 * that are there in part.
 */
TEST_F(bad, device_memory_is_zeroed)
{
	struct tern *t = &self->t;
	size_t bytes = t->info.vram_free / HUGE_PAGE * HUGE_PAGE;
	unsigned long *out = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	const int advices[] = { MADV_HUGEPAGE, MADV_NOHUGEPAGE };

	ASSERT_NE(NULL, out);
	/* So that the code and all of the stacks are there. */
	ASSERT_TRUE(is_zero(t, out + 1, sizeof(*out), out));
	for (int i = 0; i < 2; i++) {
		struct kernel_args fill = { .count = WORDS(bytes), .value = 1 };
		/* Single pages take longer. */
		size_t part = i ? 16 * HUGE_PAGE : bytes;
		unsigned long *p;

		fill.p = tern_map(t, bytes, MADV_HUGEPAGE);
		ASSERT_NE(NULL, fill.p);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, fill));
		/* It did reach all of the device's memory. */
		ASSERT_EQ(bytes, tern_stats(t).resident_bytes);
		ASSERT_FALSE(is_zero(t, fill.p, HUGE_PAGE, out));
		ASSERT_EQ(0, madvise(fill.p, bytes, MADV_DONTNEED));
		ASSERT_EQ(0, tern_stats(t).resident_bytes);

		p = tern_map(t, part, advices[i]);
		ASSERT_NE(NULL, p);
		/* Some blocks have some pages of their own, of zeros too. */
		for (size_t at = 0; at < part; at += 15 * HUGE_PAGE) {
			for (size_t page = 5; page < 50; page += 9)
				((char *)p)[at + page * PAGE] = 0;
		}
		ASSERT_TRUE(is_zero(t, p, part, out));
		EXPECT_LT(part / 2, tern_stats(t).resident_bytes);
		/* And as the CPU sees it, in a few places. */
		for (size_t at = 0; at < part; at += part / 16 + PAGE)
			ASSERT_EQ(0, p[WORDS(at)]);
		ASSERT_EQ(0, munmap(p, part));
	}
}

TEST_HARNESS_MAIN
