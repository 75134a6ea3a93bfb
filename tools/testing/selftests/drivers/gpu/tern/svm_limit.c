// SPDX-License-Identifier: GPL-2.0
/*
 * A memory cgroup has its limit. What is on the device counts like what is in the system, and
 * cannot be reclaimed there.
 */
#include <sched.h>

#include "kselftest_harness.h"
#include "tern_test.h"

#define CGROUP TERN_CGROUPS "/tern-limit"
#define BYTES (8 * HUGE_PAGE)
/* Page tables, and what each CPU has charged in advance. */
#define SLACK (2UL << 20)

FIXTURE(limit)
{
	struct tern t;
	struct tern_orders old;
};

FIXTURE_VARIANT(limit)
{
	int advice;
	/* Of the folios that the system makes, if that is not left to it. */
	int order;
};

FIXTURE_VARIANT_ADD(limit, huge)
{
	.advice = MADV_HUGEPAGE,
};

FIXTURE_VARIANT_ADD(limit, mthp)
{
	.advice = MADV_NORMAL,
	.order = 4,
};

FIXTURE_VARIANT_ADD(limit, single)
{
	.advice = MADV_NOHUGEPAGE,
};

FIXTURE_SETUP(limit)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
	if (tern_make_cgroup(CGROUP))
		SKIP(return, "needs root, and memory cgroups of version 2");
	if (variant->order && tern_choose_order(&self->old, variant->order))
		SKIP(return, "needs root, and a kernel with mTHP");
}

FIXTURE_TEARDOWN(limit)
{
	EXPECT_EQ(0, tern_restore_orders(&self->old));
	EXPECT_EQ(0, rmdir(CGROUP));
	ASSERT_EQ(0, tern_end(&self->t));
}

static int set_limit(unsigned long bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", bytes);
	return tern_put(CGROUP "/memory.max", text);
}

static unsigned long charged(void)
{
	return tern_number(CGROUP "/memory.current");
}

/* In a child: uses what it has in the cgroup on the device and in the system, in turn. */
static int there_and_back(const struct _fixture_variant_limit *variant)
{
	unsigned long *p, before;
	struct tern t;

	if (tern_put(CGROUP "/cgroup.procs", "0") || tern_begin(&t))
		return 2;
	p = tern_filled(&t, BYTES, variant->advice);
	if (!p)
		return 3;
	before = charged();
	if (before < BYTES || set_limit(before + SLACK))
		return 4;
	for (unsigned long round = 1; round <= 3; round++) {
		if (tern_add_one(&t, p, BYTES) != DRM_TERN_RESULT_OK)
			return 5;
		if (tern_stats(&t).resident_bytes != BYTES || charged() < BYTES)
			return 6;
		if (tern_check_pattern(p, BYTES, round) != -1)
			return 7;
		if (tern_stats(&t).resident_bytes || charged() < BYTES)
			return 8;
	}
	if (munmap(p, BYTES))
		return 9;
	return charged() > before + SLACK - BYTES ? 10 : 0;
}

/* To move takes nothing more, neither there nor back. */
TEST_F_TIMEOUT(limit, there_and_back, 120)
{
	unsigned long killed = tern_count(CGROUP "/memory.events", "oom_kill");
	int status;
	pid_t pid;

	ASSERT_EQ(0, tern_put(CGROUP "/memory.max", "max"));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(there_and_back(variant));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(killed, tern_count(CGROUP "/memory.events", "oom_kill"));
}

/* In a child: has the device write to more new memory than the cgroup may have. */
static int beyond(const struct _fixture_variant_limit *variant)
{
	struct kernel_args args = { .count = WORDS(BYTES), .value = 1 };
	struct tern t;

	if (tern_put(CGROUP "/cgroup.procs", "0") || tern_begin(&t))
		return 2;
	args.p = tern_map(&t, BYTES, variant->advice);
	if (!args.p || set_limit(charged() + BYTES / 2))
		return 3;
	tern_run(&t, KERNEL_ADD, args);
	/* The signal has been sent, and this is not reached. */
	return 4;
}

/*
 * Waits until the cgroup and the device have back what a child had that was killed. The process
 * is gone as soon as the signal has reached it, but its memory is held by the fault of the device,
 * which has the OOM killer try until there is nothing left to kill.
 */
static int given_back(const struct tern *t, __u64 vram_free)
{
	time_t end = time(NULL) + TERN_WAIT_SECONDS;
	struct drm_tern_device_query now;

	do {
		if (tern_query(t->fd, &now))
			return 0;
		if (now.vram_free == vram_free && charged() < SLACK)
			return 1;
		sched_yield();
	} while (time(NULL) < end);
	return 0;
}

/* The device's first touch of new memory can be what the cgroup has no room for. */
TEST_F_TIMEOUT(limit, beyond, 120)
{
	struct drm_tern_device_query before;

	ASSERT_EQ(0, tern_query(self->t.fd, &before));
	for (int round = 0; round < 3; round++) {
		unsigned long killed = tern_count(CGROUP "/memory.events", "oom_kill");
		int status;
		pid_t pid;

		ASSERT_EQ(0, tern_put(CGROUP "/memory.max", "max"));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(beyond(variant));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
		EXPECT_EQ(SIGKILL, WTERMSIG(status));
		EXPECT_EQ(killed + 1, tern_count(CGROUP "/memory.events", "oom_kill"));
		EXPECT_TRUE(given_back(&self->t, before.vram_free));
	}
	/* Others go on. */
	ASSERT_NE(NULL, tern_resident(&self->t, BYTES, variant->advice));
}

TEST_HARNESS_MAIN
