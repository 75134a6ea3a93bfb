// SPDX-License-Identifier: GPL-2.0
/* Buffers in device memory: used by CPU and device, and gone when nobody has them any more. */
#include "kselftest_harness.h"
#include "tern_test.h"
#include "tern_pci.h"

FIXTURE(gem)
{
	struct tern t;
};

FIXTURE_SETUP(gem)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(gem)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

static __u64 vram_free(const struct tern *t)
{
	struct drm_tern_device_query info;

	return tern_query(t->fd, &info) ? ~0ULL : info.vram_free;
}

TEST_F(gem, bad_input)
{
	struct tern *t = &self->t;
	const struct {
		struct drm_tern_gem_create args;
		int expected;
	} cases[] = {
		{ { .size = 0 }, -EINVAL },
		{ { .size = 1 }, -EINVAL },
		{ { .size = PAGE + 8 }, -EINVAL },
		{ { .size = ~0ULL }, -EINVAL },
		{ { .size = PAGE, .flags = 2 }, -EINVAL },
		{ { .size = PAGE, .flags = 1U << 31 }, -EINVAL },
		{ { .size = PAGE, .reserved = { 1, 0 } }, -EINVAL },
		{ { .size = PAGE, .reserved = { 0, 1 } }, -EINVAL },
		{ { .size = t->info.vram_size + PAGE }, -ENOSPC },
		{ { .size = 1ULL << 62 }, -ENOSPC },
		{ { .size = -PAGE }, -ENOSPC },
		{ { .size = t->info.aperture_size + PAGE, .flags = DRM_TERN_GEM_CPU }, -ENOSPC },
	};
	struct drm_prime_handle prime = {};
	struct drm_tern_gem_create gem;
	int other = tern_open_device();

	ASSERT_LE(0, other);
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct drm_tern_gem_create args = cases[i].args;

		EXPECT_EQ(cases[i].expected, tern_ioctl(t->fd, DRM_IOCTL_TERN_GEM_CREATE, &args))
			TH_LOG("case %u", i);
	}
	ASSERT_EQ(0, tern_gem_create(t, 2 * PAGE, DRM_TERN_GEM_CPU, &gem));
	/* Not for other files, not as a dma-buf, and no more than there is of it. */
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, other, gem.mmap_offset));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, t->fd, gem.mmap_offset));
	EXPECT_EQ(EINVAL, errno);
	prime.handle = gem.handle;
	EXPECT_EQ(-EOPNOTSUPP, tern_ioctl(t->fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime));
	EXPECT_EQ(0, tern_gem_close(t, gem.handle));
	EXPECT_EQ(-EINVAL, tern_gem_close(t, gem.handle));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, t->fd, gem.mmap_offset));
	EXPECT_EQ(t->info.vram_free, vram_free(t));
	close(other);
}

/* CPU and device use the same memory, whatever its size and place, and nothing moves. */
TEST_F(gem, cpu_and_device)
{
	const struct {
		size_t bytes, skip;
	} cases[] = {
		{ PAGE, 0 },
		{ 3 * PAGE, 7 * PAGE },
		{ 70 * PAGE, 0 },
		{ 70 * PAGE, 5 * PAGE },
		{ HUGE_PAGE, 0 },
		{ HUGE_PAGE, 16 * PAGE },
		{ 3 * HUGE_PAGE + 33 * PAGE, 0 },
		{ 3 * HUGE_PAGE + 33 * PAGE, PAGE },
	};
	struct tern *t = &self->t;

	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		size_t bytes = cases[i].bytes;
		unsigned long *p = tern_buffer(t, bytes, DRM_TERN_GEM_CPU, cases[i].skip);

		ASSERT_NE(NULL, p) TH_LOG("case %u", i);
		for (unsigned long word = 0; word < WORDS(bytes); word++)
			ASSERT_EQ(0, p[word]);
		tern_write_pattern(p, bytes);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, bytes)) TH_LOG("case %u", i);
		ASSERT_EQ(-1, tern_check_pattern(p, bytes, 1)) TH_LOG("case %u", i);
		memset(p, 0, bytes);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, bytes));
		for (unsigned long word = 0; word < WORDS(bytes); word++)
			ASSERT_EQ(1, p[word]);
	}
	EXPECT_EQ(0, tern_stats(t).resident_bytes);
	EXPECT_EQ(0, tern_stats(t).to_device_huge);
	EXPECT_EQ(0, tern_stats(t).cancels);
}

/* Without access by the CPU it is the device's alone. */
TEST_F(gem, device_only)
{
	const size_t bytes = HUGE_PAGE + 9 * PAGE;
	struct tern *t = &self->t;
	unsigned long *p = tern_buffer(t, bytes, 0, 0);
	unsigned long *out = tern_keep(t, tern_shared(bytes, NULL), bytes);
	struct kernel_args fill = { .p = p, .count = WORDS(bytes), .value = 77 };
	struct kernel_args copy = { .p = p, .out = out, .count = WORDS(bytes) };

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, out);
	EXPECT_TRUE(tern_gives_sigbus((char *)p));
	EXPECT_TRUE(tern_gives_sigbus((char *)p + bytes - 1));
	memset(out, 0xff, bytes);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_COPY, copy));
	for (unsigned long word = 0; word < WORDS(bytes); word++)
		ASSERT_EQ(0, out[word]);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, fill));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_COPY, copy));
	EXPECT_EQ(-1, tern_check_count(out, bytes, 77));
}

/* What is unmapped is gone for the device too, and free when nobody has it any more. */
TEST_F(gem, unmap)
{
	const size_t bytes = 2 * HUGE_PAGE;
	struct tern *t = &self->t;
	unsigned long *p = tern_buffer(t, bytes, DRM_TERN_GEM_CPU, 0);
	struct kernel_args load = { .out = tern_keep(t, tern_shared(PAGE, NULL), PAGE) };

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, load.out);
	tern_write_pattern(p, bytes);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, bytes));
	EXPECT_EQ(t->info.vram_free - bytes, vram_free(t));

	/* A part of it: the rest stays. */
	ASSERT_EQ(0, munmap(p + 5 * WORDS(PAGE), PAGE));
	load.p = p + 5 * WORDS(PAGE);
	EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_run_threads(t, KERNEL_LOAD, load, 1));
	EXPECT_EQ((uintptr_t)load.p, t->queue.result.address);
	EXPECT_EQ(t->info.vram_free - bytes, vram_free(t));
	load.p = p + 6 * WORDS(PAGE);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run_threads(t, KERNEL_LOAD, load, 1));
	EXPECT_EQ(tern_pattern(6 * WORDS(PAGE)) + 1, *load.out);

	ASSERT_EQ(0, munmap(p, bytes));
	EXPECT_EQ(t->info.vram_free, vram_free(t));
	EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_run_threads(t, KERNEL_LOAD, load, 1));
	/* Other memory at its address. */
	ASSERT_EQ(p, mmap(p, bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	*load.p = 1234;
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run_threads(t, KERNEL_LOAD, load, 1));
	EXPECT_EQ(1234, *load.out);
}

/* The mapping moves, and the device follows. */
TEST_F(gem, mremap)
{
	const size_t bytes = HUGE_PAGE + PAGE;
	struct tern *t = &self->t;
	unsigned long *p = tern_buffer(t, bytes, 0, 0);
	unsigned long *to = tern_map(t, bytes, MADV_NORMAL);
	struct kernel_args fill = { .p = p, .count = WORDS(bytes), .value = 5 };
	struct kernel_args load = { .p = p, .out = tern_keep(t, tern_shared(bytes, NULL), bytes) };

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, to);
	ASSERT_NE(NULL, load.out);
	/* The CPU never touched it, and cannot. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, fill));
	ASSERT_EQ(to, mremap(p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_run_threads(t, KERNEL_LOAD, load, 1));
	load.p = to;
	load.count = WORDS(bytes);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_COPY, load));
	EXPECT_EQ(-1, tern_check_count(load.out, bytes, 5));
}

/* Rights are those of the mapping, for good. */
TEST_F(gem, rights)
{
	struct tern *t = &self->t;
	struct drm_tern_gem_create gem;
	struct kernel_args args = { .value = 3, .count = 1 };
	unsigned long *p, *private;

	ASSERT_EQ(0, tern_gem_create(t, PAGE, DRM_TERN_GEM_CPU, &gem));
	p = tern_keep(t, tern_gem_map(t, NULL, &gem, PROT_READ), PAGE);
	ASSERT_NE(NULL, p);
	args.p = p;
	args.out = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run_threads(t, KERNEL_LOAD, args, 1));
	EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_run_threads(t, KERNEL_STORE, args, 1));
	EXPECT_EQ(0, *p);
	EXPECT_EQ(-1, mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(-1, mprotect(p, PAGE, PROT_NONE));
	EXPECT_EQ(EACCES, errno);

	private = tern_keep(t, mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, t->fd,
				    gem.mmap_offset), PAGE);
	if (private) {
		EXPECT_TRUE(tern_gives_sigbus((char *)private));
		args.p = private;
		EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_run_threads(t, KERNEL_LOAD, args, 1));
	}
	EXPECT_EQ(0, tern_gem_close(t, gem.handle));
}

/* A child of fork() shares it, and has it as long as it lives. */
TEST_F(gem, fork)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_buffer(t, HUGE_PAGE, DRM_TERN_GEM_CPU, 0);
	pid_t child;

	ASSERT_NE(NULL, p);
	tern_write_pattern(p, HUGE_PAGE);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		struct tern own;

		if (tern_check_pattern(p, HUGE_PAGE, 1) != -1)
			_exit(1);
		if (tern_begin(&own) || tern_add_one(&own, p, HUGE_PAGE) != DRM_TERN_RESULT_OK)
			_exit(2);
		_exit(tern_check_pattern(p, HUGE_PAGE, 2) == -1 ? 0 : 3);
	}
	EXPECT_TRUE(tern_child_ok(child));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 2));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 3));
}

/* Buffers and memory that moves share what there is, and none sees what another left. */
TEST_F(gem, shares_vram)
{
	struct tern *t = &self->t;
	size_t rest = 4 * HUGE_PAGE, bytes = t->info.vram_free - rest;
	struct kernel_args args = { .count = WORDS(bytes), .value = 1 };
	struct drm_tern_gem_create gem;
	unsigned long *p, *out = tern_keep(t, tern_shared(PAGE, NULL), PAGE);

	ASSERT_NE(NULL, out);
	args.p = tern_buffer(t, bytes, 0, 0);
	args.out = out;
	ASSERT_NE(NULL, args.p);
	EXPECT_EQ(rest, vram_free(t));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, args));
	EXPECT_EQ(-ENOSPC, tern_gem_create(t, rest + PAGE, 0, &gem));
	EXPECT_EQ(rest, vram_free(t));

	/* What does not fit is used where it is. */
	p = tern_map(t, 2 * rest, MADV_HUGEPAGE);
	ASSERT_NE(NULL, p);
	tern_write_pattern(p, 2 * rest);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, 2 * rest));
	EXPECT_EQ(0, vram_free(t));
	EXPECT_EQ(-ENOSPC, tern_gem_create(t, PAGE, 0, &gem));
	EXPECT_EQ(-1, tern_check_pattern(p, 2 * rest, 1));

	ASSERT_EQ(0, munmap(args.p, bytes));
	args.p = tern_buffer(t, bytes, 0, 0);
	ASSERT_NE(NULL, args.p);
	*out = 0;
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_OR, args));
	EXPECT_EQ(0, *out);
}

/*
 * All that is free is every second page of a part of device memory. Then a buffer is of more pieces
 * than the rings of the copy engines have entries, twice over. It is zero all the same, and the
 * pages between them keep their content.
 */
TEST_F_TIMEOUT(gem, many_pieces, 200)
{
	struct tern *t = &self->t;
	/* Of a ring. */
	const size_t entries = 1024;
	const size_t bytes = (2 * entries + 512) * t->info.copy_engines * PAGE;
	unsigned long *p = tern_filled(t, 2 * bytes, MADV_NOHUGEPAGE);
	unsigned long *out = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args args = { .out = out, .count = WORDS(bytes) };
	struct drm_tern_gem_create gem;

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, out);
	ASSERT_NE(NULL, tern_buffer(t, t->info.vram_free - 2 * bytes, 0, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, 2 * bytes));
	ASSERT_EQ(0, vram_free(t));
	ASSERT_EQ(2 * bytes, tern_stats(t).to_device_small * PAGE);
	for (size_t at = 0; at < 2 * bytes; at += 2 * PAGE)
		ASSERT_EQ(0, madvise((char *)p + at, PAGE, MADV_DONTNEED));
	ASSERT_EQ(bytes, vram_free(t));

	EXPECT_EQ(-ENOSPC, tern_gem_create(t, bytes + PAGE, 0, &gem));
	args.p = tern_buffer(t, bytes, 0, 0);
	ASSERT_NE(NULL, args.p);
	EXPECT_EQ(0, vram_free(t));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_OR, args));
	EXPECT_EQ(0, *out);
	for (size_t word = 0; word < WORDS(2 * bytes); word++) {
		int kept = word / WORDS(PAGE) % 2;

		ASSERT_EQ(kept ? tern_pattern(word) + 1 : 0, p[word]);
	}
}

/* A mapping keeps it, with what is in it, when its file is closed; another file can use it. */
TEST_F(gem, outlives_its_file)
{
	struct tern *t = &self->t, other;
	unsigned long *p;

	ASSERT_EQ(0, tern_begin(&other));
	p = tern_buffer(&other, HUGE_PAGE, DRM_TERN_GEM_CPU, 0);
	ASSERT_NE(NULL, p);
	tern_write_pattern(p, HUGE_PAGE);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&other, p, HUGE_PAGE));
	close(other.fd);
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
	EXPECT_EQ(t->info.vram_free - HUGE_PAGE, vram_free(t));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 2));
	tern_unmap_all(&other);
	EXPECT_EQ(t->info.vram_free, vram_free(t));
}

/* It goes with the file, and is unmapped under a kernel that reads it. */
TEST_F(gem, ends_while_used)
{
	struct tern *t = &self->t;

	for (int round = 0; round < 10; round++) {
		unsigned long *p = tern_buffer(t, HUGE_PAGE, 0, 0);
		unsigned long *stop = tern_shared(PAGE, NULL);
		struct kernel_args watch = { .p = p, .out = stop, .count = WORDS(HUGE_PAGE) };
		__u64 faults = tern_stats(t).faults;

		ASSERT_NE(NULL, p);
		ASSERT_NE(NULL, stop);
		ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_WATCH, watch, TERN_THREADS, 0));
		/* Until it has met the buffer, or its code, arguments or stack. */
		while (tern_stats(t).faults == faults && round == 0)
			;
		ASSERT_EQ(0, munmap(p, HUGE_PAGE));
		EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_finish(t, &t->queue));
		EXPECT_EQ(t->info.vram_free, vram_free(t));
		munmap(stop, PAGE);
	}
}

/* Buffers are gone with the driver, for the CPU too, and do no harm to the next one. */
TEST_F(gem, unbind)
{
	struct tern *t = &self->t, old = *t;
	unsigned long *stop = tern_shared(PAGE, NULL);
	unsigned long *p, *q;
	char name[64];

	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_EQ(0, tern_bus_name(t->fd, name, sizeof(name)));
	p = tern_buffer(&old, 2 * HUGE_PAGE, DRM_TERN_GEM_CPU, 0);
	q = tern_buffer(&old, HUGE_PAGE, DRM_TERN_GEM_CPU, PAGE);
	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, q);
	ASSERT_NE(NULL, stop);
	tern_write_pattern(p, 2 * HUGE_PAGE);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&old, p, 2 * HUGE_PAGE));
	ASSERT_EQ(-1, tern_check_pattern(p, 2 * HUGE_PAGE, 1));
	/* One that threads still read. */
	ASSERT_EQ(0, tern_start(&old, &old.queue, KERNEL_WATCH, (struct kernel_args){
		.p = p, .out = stop, .count = WORDS(2 * HUGE_PAGE) }, TERN_THREADS, 600000));

	ASSERT_EQ(0, tern_driver("unbind", name));
	/* Of a page that was touched, and of one that was not. */
	EXPECT_TRUE(tern_gives_sigbus(p + 3));
	EXPECT_TRUE(tern_gives_sigbus(q));
	ASSERT_EQ(0, munmap(q, HUGE_PAGE));

	ASSERT_EQ(0, tern_driver("bind", name));
	ASSERT_EQ(0, tern_begin(t));
	EXPECT_EQ(t->info.vram_size, t->info.vram_free);
	q = tern_buffer(t, HUGE_PAGE, DRM_TERN_GEM_CPU, 0);
	ASSERT_NE(NULL, q);
	tern_write_pattern(q, HUGE_PAGE);
	EXPECT_TRUE(tern_gives_sigbus(p));
	tern_unmap_all(&old);
	close(old.fd);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, q, HUGE_PAGE));
	EXPECT_EQ(-1, tern_check_pattern(q, HUGE_PAGE, 1));
}

TEST_HARNESS_MAIN
