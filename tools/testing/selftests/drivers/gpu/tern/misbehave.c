// SPDX-License-Identifier: GPL-2.0
/*
 * A device that misbehaves. It answers late, in another order, without interrupts, with fault
 * entries or fences that are wrong, and everything has to be right all the same (fixture "right",
 * and "silent" where there are no interrupts at all); or it is lost, for a while or for good
 * (fixture "loss"). What it does is an option of the virtual
 * GPU, so a run names the fixture (-f) or the variant (-v) that fits. Needs root.
 */
#include "kselftest_harness.h"
#include "tern_pci.h"

#define SINGLE_BYTES (64 * PAGE)
/* For kernels that end at once. After ten times as long they are given up. */
#define LIMIT_MS 300
/* Seconds in which everything comes to an end once the device is lost. */
#define BOUND 90

static time_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* Runs @kernel on @bytes at @p; returns as tern_run(). */
static int run_limited(struct tern *t, enum kernel_id kernel, void *p, size_t bytes, __u32 ms)
{
	struct kernel_args args = { .p = p, .count = WORDS(bytes), .value = 1 };
	int ret = tern_start(t, &t->queue, kernel, args, TERN_THREADS, ms);

	return ret ? ret : tern_finish(t, &t->queue);
}

static int move(const struct tern *t, void *p, size_t bytes, __u32 location)
{
	struct drm_tern_prefetch prefetch = tern_prefetch_args(t, p, bytes, location);

	return tern_ioctl(t->fd, DRM_IOCTL_TERN_PREFETCH, &prefetch);
}

FIXTURE(right)
{
	int fd;
};

FIXTURE_SETUP(right)
{
	self->fd = tern_open_device();
	if (self->fd < 0)
		SKIP(return, "no Tern device in /dev/dri");
}

FIXTURE_TEARDOWN(right)
{
	close(self->fd);
}

#define USERS 3
#define ROUNDS 4

/* A kernel that reads where nobody may ends so, with the address. */
static int refused(struct tern *t, const void *guard)
{
	const struct drm_tern_result *result = &t->queue.result;

	return run_limited(t, KERNEL_LOAD, (void *)guard, PAGE, 0) == DRM_TERN_RESULT_FAULT &&
	       result->address == (uintptr_t)guard && result->access == DRM_TERN_ACCESS_READ;
}

/*
 * Uses the device in all ways. Returns the line where it is not as on a device that behaves,
 * or 0.
 */
static int use_all(void)
{
	unsigned long *huge, *single, *buffer, *guard;
	struct tern t;

	if (tern_begin(&t))
		return __LINE__;
	huge = tern_filled(&t, HUGE_PAGE, MADV_HUGEPAGE);
	single = tern_filled(&t, SINGLE_BYTES, MADV_NOHUGEPAGE);
	buffer = tern_buffer(&t, SINGLE_BYTES, DRM_TERN_GEM_CPU, 0);
	guard = tern_map(&t, PAGE, MADV_NORMAL);
	if (!huge || !single || !buffer || !guard || mprotect(guard, PAGE, PROT_NONE))
		return __LINE__;
	tern_write_pattern(buffer, SINGLE_BYTES);

	for (unsigned long round = 1; round <= ROUNDS; round++) {
		if (tern_add_one(&t, huge, HUGE_PAGE) != DRM_TERN_RESULT_OK ||
		    tern_add_one(&t, single, SINGLE_BYTES) != DRM_TERN_RESULT_OK ||
		    tern_add_one(&t, buffer, SINGLE_BYTES) != DRM_TERN_RESULT_OK) {
			fprintf(stderr, "status %u, address %#llx\n", t.queue.result.status,
				(unsigned long long)t.queue.result.address);
			return __LINE__;
		}
		if (tern_check_pattern(huge, HUGE_PAGE, round) != -1 ||
		    tern_check_pattern(single, SINGLE_BYTES, round) != -1 ||
		    tern_check_pattern(buffer, SINGLE_BYTES, round) != -1)
			return __LINE__;
		if (move(&t, single, SINGLE_BYTES, DRM_TERN_LOCATION_DEVICE) ||
		    move(&t, single, SINGLE_BYTES, DRM_TERN_LOCATION_SYSTEM))
			return __LINE__;
		if (!refused(&t, guard))
			return __LINE__;
	}
	/* Waits for a value that never comes. */
	if (run_limited(&t, KERNEL_WAIT, single, PAGE, 100) != DRM_TERN_RESULT_TIMEOUT)
		return __LINE__;
	if (tern_stats(&t).bytes_to_device < ROUNDS * SINGLE_BYTES)
		return __LINE__;
	tern_unmap_all(&t);
	if (tern_stats(&t).resident_bytes)
		return __LINE__;
	return tern_close(&t) ? __LINE__ : 0;
}

/* Several processes at once: none sees anything of it, or of another one. */
TEST_F_TIMEOUT(right, work, 200)
{
	pid_t users[USERS];

	for (int i = 0; i < USERS; i++) {
		users[i] = fork();
		ASSERT_LE(0, users[i]);
		if (!users[i]) {
			int line = use_all();

			if (line)
				fprintf(stderr, "user %d fails at line %d\n", i, line);
			_exit(!!line);
		}
	}
	for (int i = 0; i < USERS; i++)
		EXPECT_TRUE(tern_child_ok(users[i]));
}

/* The driver goes and comes back, with memory on the device. */
TEST_F_TIMEOUT(right, unbind_and_bind, 200)
{
	unsigned long *huge, *single;
	struct tern t, again;
	char name[64];

	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_EQ(0, tern_begin(&t));
	ASSERT_EQ(0, tern_bus_name(t.fd, name, sizeof(name)));
	huge = tern_resident(&t, HUGE_PAGE, MADV_HUGEPAGE);
	single = tern_resident(&t, SINGLE_BYTES, MADV_NOHUGEPAGE);
	ASSERT_NE(NULL, huge);
	ASSERT_NE(NULL, single);
	close(self->fd);
	self->fd = -1;
	ASSERT_EQ(0, tern_driver("unbind", name));
	EXPECT_EQ(-1, tern_check_pattern(huge, HUGE_PAGE, 1));
	EXPECT_EQ(-1, tern_check_pattern(single, SINGLE_BYTES, 1));
	close(t.fd);
	ASSERT_EQ(0, tern_driver("bind", name));
	ASSERT_EQ(0, tern_begin(&again));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&again, huge, HUGE_PAGE));
	EXPECT_EQ(-1, tern_check_pattern(huge, HUGE_PAGE, 2));
	tern_unmap_all(&t);
	EXPECT_EQ(0, tern_end(&again));
}

FIXTURE(silent)
{
	struct tern t;
};

FIXTURE_SETUP(silent)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(silent)
{
}

/* Ten times this is more than it takes to look, and less than this test may take. */
#define SILENT_LIMIT_MS 3000

/* Long before its time is over a dispatch is seen to fault, and to end. */
TEST_F_TIMEOUT(silent, work, 200)
{
	unsigned long *p = tern_filled(&self->t, SINGLE_BYTES, MADV_NOHUGEPAGE);

	ASSERT_NE(NULL, p);
	for (unsigned long round = 1; round <= 2; round++) {
		ASSERT_EQ(DRM_TERN_RESULT_OK, run_limited(&self->t, KERNEL_ADD, p, SINGLE_BYTES,
							  SILENT_LIMIT_MS));
		EXPECT_EQ(-1, tern_check_pattern(p, SINGLE_BYTES, round));
	}
	EXPECT_LT(0, tern_stats(&self->t).faults);
	tern_unmap_all(&self->t);
	EXPECT_EQ(0, tern_end(&self->t));
}

/*
 * Another process, with memory on the device. It is told when to look at that, and ends with
 * what it found.
 */
struct bystander {
	pid_t pid;
	int go;
};

FIXTURE(loss)
{
	struct tern t;
	char name[64];
	/* It has memory on the device, and this process has, which it does not use meanwhile. */
	struct bystander bystander;
	unsigned long *resident;
	/* A process that has memory on the device, and a kernel there that never ends. */
	pid_t victim;
	/* Runs a kernel that never ends. */
	struct tern_queue waits;
};

FIXTURE_VARIANT(loss)
{
	/* All memory comes back, and the device is as new when it is bound again. */
	int comes_back;
	/* The device is gone. */
	int gone;
};

/* It answers nothing more until it is reset. */
FIXTURE_VARIANT_ADD(loss, hang)
{
	.comes_back = 1,
};

/* All its fences are wrong until it is reset: it has answered nothing. */
FIXTURE_VARIANT_ADD(loss, fence)
{
	.comes_back = 1,
};

/* It forgets an answer now and then, also after a reset. */
FIXTURE_VARIANT_ADD(loss, drop)
{
};

FIXTURE_VARIANT_ADD(loss, vanish)
{
	.gone = 1,
};

/*
 * Pages of a pattern plus @more, or plus one less where a dispatch may have ended in the midst
 * (@partly), and pages that give SIGBUS. No page may be anything else.
 */
struct content {
	unsigned long right, lost, wrong;
};

static struct content look(const unsigned long *p, size_t bytes, unsigned long more, int partly)
{
	struct content content = {};

	for (size_t first = 0; first < WORDS(bytes); first += WORDS(PAGE)) {
		int wrong = 0;

		if (tern_gives_sigbus(p + first)) {
			content.lost++;
			continue;
		}
		for (size_t i = first; i < first + WORDS(PAGE); i++) {
			unsigned long added = p[i] - tern_pattern(i);

			wrong |= added != more && !(partly && added + 1 == more);
		}
		content.wrong += wrong;
		content.right += !wrong;
	}
	return content;
}

static int is_well(struct content content, int all)
{
	if (content.wrong || (all && content.lost))
		fprintf(stderr, "pages: %lu right, %lu lost, %lu wrong\n", content.right,
			content.lost, content.wrong);
	return !content.wrong && !(all && content.lost);
}

/* A child that makes @bytes resident and says so; the rest of its life is @rest. */
static pid_t start_child(int *go, int (*rest)(struct tern *t, unsigned long *p, int go, int all),
			 int all)
{
	int ready[2], started[2];
	pid_t pid;
	char c;

	if (pipe(ready) || pipe(started))
		return -1;
	pid = fork();
	if (!pid) {
		struct tern t;
		unsigned long *p;

		close(started[1]);
		close(ready[0]);
		if (tern_begin(&t))
			_exit(2);
		p = tern_resident(&t, HUGE_PAGE + SINGLE_BYTES, MADV_HUGEPAGE);
		if (!p || write(ready[1], "", 1) != 1)
			_exit(3);
		_exit(rest(&t, p, started[0], all));
	}
	close(ready[1]);
	close(started[0]);
	if (read(ready[0], &c, 1) != 1)
		pid = -1;
	close(ready[0]);
	*go = started[1];
	return pid;
}

static int stand_by(struct tern *t, unsigned long *p, int go, int all)
{
	char c;

	(void)t;
	if (read(go, &c, 1) != 1)
		return 4;
	return !is_well(look(p, HUGE_PAGE + SINGLE_BYTES, 1, 0), all);
}

static int wait_for_ever(struct tern *t, unsigned long *p, int go, int all)
{
	char c;

	(void)all;
	run_limited(t, KERNEL_WAIT, p, PAGE, 3600000);
	return read(go, &c, 1) != 1;
}

FIXTURE_SETUP(loss)
{
	struct kernel_args never = {};
	int ret = tern_begin(&self->t);
	int unused;

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_EQ(0, tern_bus_name(self->t.fd, self->name, sizeof(self->name)));
	self->bystander.pid = start_child(&self->bystander.go, stand_by, variant->comes_back);
	ASSERT_LT(0, self->bystander.pid);
	self->victim = start_child(&unused, wait_for_ever, 0);
	ASSERT_LT(0, self->victim);
	self->resident = tern_resident(&self->t, HUGE_PAGE + SINGLE_BYTES, MADV_HUGEPAGE);
	ASSERT_NE(NULL, self->resident);
	ASSERT_EQ(0, tern_queue_init(&self->t, &self->waits, 0));
	never.p = tern_keep(&self->t, tern_shared(PAGE, NULL), PAGE);
	never.out = never.p + 1;
	never.value = 1;
	ASSERT_EQ(0, tern_start(&self->t, &self->waits, KERNEL_WAIT, never, 1, 3600000));
}

FIXTURE_TEARDOWN(loss)
{
	kill(self->bystander.pid, SIGKILL);
	kill(self->victim, SIGKILL);
}

/* Whether a file of debugfs or procfs has @text. */
static int tells(const char *path, const char *text)
{
	char buffer[4096] = "";
	FILE *file = fopen(path, "r");
	size_t n;

	if (!file)
		return 0;
	n = fread(buffer, 1, sizeof(buffer) - 1, file);
	fclose(file);
	buffer[n] = 0;
	return !!strstr(buffer, text);
}

static int is_lost(const struct tern *t)
{
	struct drm_tern_queue_create create = { .vm = t->vm };
	struct drm_tern_handle handle = {};
	int ret = tern_ioctl(t->fd, DRM_IOCTL_TERN_QUEUE_CREATE, &create);

	handle.handle = create.handle;
	if (!ret)
		tern_ioctl(t->fd, DRM_IOCTL_TERN_QUEUE_DESTROY, &handle);
	return ret == -EIO;
}

/*
 * Works until the device is lost; data is right in each round, or as old as the round before in
 * the one that failed. Returns the line where that is not so, or 0.
 */
static int work_until_lost(struct tern *t)
{
	unsigned long *p = tern_map(t, HUGE_PAGE, MADV_NORMAL);

	/* As long as the test may take. */
	while (p) {
		struct content content;
		int status;

		tern_write_pattern(p, SINGLE_BYTES);
		status = run_limited(t, KERNEL_ADD, p, SINGLE_BYTES, LIMIT_MS);
		content = look(p, SINGLE_BYTES, 1, status != DRM_TERN_RESULT_OK);
		if (!is_well(content, 0))
			return __LINE__;
		if (status == DRM_TERN_RESULT_OK && !content.lost)
			continue;
		if (is_lost(t))
			return 0;
		/* A completion was lost, and the queue with it. The device goes on. */
		if (status != DRM_TERN_RESULT_TIMEOUT && status != DRM_TERN_RESULT_OK)
			return __LINE__;
		tern_queue_free(t, &t->queue);
		if (tern_queue_init(t, &t->queue, 0) && !is_lost(t))
			return __LINE__;
		if (madvise(p, HUGE_PAGE, MADV_DONTNEED))
			return __LINE__;
	}
	return __LINE__;
}

static void check_lost(struct __test_metadata *_metadata, struct _test_data_loss *self)
{
	struct drm_tern_submit submit = tern_submission(&self->t, &self->waits, KERNEL_NULL);
	char path[80], fdinfo[80];
	struct drm_tern_device_query info;
	struct drm_tern_stats stats = { .vm = self->t.vm };
	struct drm_tern_gem_create gem;
	__u32 vm;

	EXPECT_EQ(-EIO, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	EXPECT_EQ(-EIO, move(&self->t, self->resident, PAGE, DRM_TERN_LOCATION_DEVICE));
	EXPECT_EQ(-EIO, move(&self->t, self->resident, PAGE, DRM_TERN_LOCATION_SYSTEM));
	EXPECT_EQ(-EIO, tern_gem_create(&self->t, PAGE, 0, &gem));
	/* What asks nothing of the device goes on. */
	EXPECT_EQ(0, tern_query(self->t.fd, &info));
	EXPECT_EQ(0, tern_ioctl(self->t.fd, DRM_IOCTL_TERN_STATS, &stats));
	EXPECT_LT(0, stats.bytes_to_device);
	EXPECT_EQ(0, tern_vm_create(self->t.fd, &vm));
	EXPECT_EQ(0, tern_vm_destroy(self->t.fd, vm));
	snprintf(path, sizeof(path), "/sys/kernel/debug/dri/%s/engines", self->name);
	EXPECT_TRUE(tells(path, "device:\tlost"));
	snprintf(path, sizeof(path), "/sys/kernel/debug/dri/%s/queues", self->name);
	EXPECT_TRUE(tells(path, "stopped=1"));
	EXPECT_FALSE(tells(path, "stopped=0"));
	snprintf(fdinfo, sizeof(fdinfo), "/proc/self/fdinfo/%d", self->t.fd);
	EXPECT_TRUE(tells(fdinfo, "drm-driver:\ttern"));
}

/* Errors are clear, all waits end, and memory keeps its content or is lost, as @variant says. */
TEST_F_TIMEOUT(loss, and_after, 250)
{
	struct drm_tern_device_query info;
	time_t start;
	int status;

	ASSERT_EQ(0, work_until_lost(&self->t));
	start = seconds();
	/* Its fence is signalled. */
	ASSERT_EQ(DRM_TERN_RESULT_DEVICE, tern_finish(&self->t, &self->waits));
	check_lost(_metadata, self);

	/* Half of it now; the rest is brought back when the driver goes, if it can be. */
	EXPECT_TRUE(is_well(look(self->resident, HUGE_PAGE, 1, 0), variant->comes_back));
	ASSERT_EQ(0, kill(self->victim, SIGKILL));
	ASSERT_EQ(self->victim, waitpid(self->victim, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));

	ASSERT_EQ(0, tern_driver("unbind", self->name));
	EXPECT_GT(BOUND, seconds() - start);
	EXPECT_EQ(-ENODEV, tern_query(self->t.fd, &info));
	EXPECT_TRUE(is_well(look(self->resident, HUGE_PAGE + SINGLE_BYTES, 1, 0),
			    variant->comes_back));
	ASSERT_EQ(1, write(self->bystander.go, "", 1));
	EXPECT_TRUE(tern_child_ok(self->bystander.pid));
	tern_queue_free(&self->t, &self->waits);
	tern_queue_free(&self->t, &self->t.queue);
	close(self->t.fd);

	if (variant->gone) {
		EXPECT_NE(0, tern_driver("bind", self->name));
		return;
	}
	ASSERT_EQ(0, tern_driver("bind", self->name));
	if (variant->comes_back) {
		struct tern again;

		ASSERT_EQ(0, tern_begin(&again));
		EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&again, self->resident, HUGE_PAGE));
		EXPECT_TRUE(is_well(look(self->resident, HUGE_PAGE, 2, 0), 1));
		tern_unmap_all(&self->t);
		EXPECT_EQ(0, tern_end(&again));
	}
}

TEST_HARNESS_MAIN
