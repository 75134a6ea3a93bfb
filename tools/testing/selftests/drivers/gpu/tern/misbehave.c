// SPDX-License-Identifier: GPL-2.0
/*
 * A device that misbehaves. It answers late, in another order, without interrupts, with fault
 * entries or fences that are wrong, and everything has to be right all the same (fixture "right",
 * "silent" where there are no interrupts at all, and "crowd" where answers take seconds); or it is
 * lost, for a while or for good (fixture "loss", and "quiet" for what happens before that is
 * known). What it does is an option of the virtual GPU, so a run names the fixture (-f) or the
 * variant (-v) that fits. Needs root.
 */
#include <linux/sync_file.h>
#include <poll.h>

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

FIXTURE(crowd)
{
	int fd;
};

FIXTURE_SETUP(crowd)
{
	self->fd = tern_open_device();
	if (self->fd < 0)
		SKIP(return, "no Tern device in /dev/dri");
}

FIXTURE_TEARDOWN(crowd)
{
	close(self->fd);
}

#define CROWD 28
/* Areas that the driver moves at the same time. */
#define CROWD_BYTES (8 * HUGE_PAGE)

/*
 * Moves single pages to the device, of which there are some in each block for each engine to copy,
 * and looks at them. Returns the line where that fails, or 0.
 */
static int move_much(int ready, int go)
{
	struct tern t = { .fd = tern_open_device() };
	unsigned long *p = tern_map(&t, CROWD_BYTES, MADV_NOHUGEPAGE);
	char c;

	if (t.fd < 0 || !p || tern_vm_create(t.fd, &t.vm))
		return __LINE__;
	/* Every second one, so that no two are next to each other for the copies. */
	for (size_t word = 0; word < WORDS(CROWD_BYTES); word += 2 * WORDS(PAGE))
		p[word] = tern_pattern(word);
	if (write(ready, "", 1) != 1 || read(go, &c, 1))
		return __LINE__;
	if (move(&t, p, CROWD_BYTES, DRM_TERN_LOCATION_DEVICE))
		return __LINE__;
	if (tern_stats(&t).to_device_small * PAGE != CROWD_BYTES)
		return __LINE__;
	/* Block by block, which takes less time than fault by fault. */
	if (move(&t, p, CROWD_BYTES, DRM_TERN_LOCATION_SYSTEM))
		return __LINE__;
	for (size_t word = 0; word < WORDS(CROWD_BYTES); word += 2 * WORDS(PAGE)) {
		if (p[word] != tern_pattern(word))
			return __LINE__;
	}
	tern_unmap_all(&t);
	return tern_vm_destroy(t.fd, t.vm) ? __LINE__ : 0;
}

/*
 * So many processes have so much copied by so slow a device that there are not as many fences, and
 * none has all that it needs. They wait for each other, but not for ever.
 */
TEST_F_TIMEOUT(crowd, copies, 250)
{
	pid_t pids[CROWD];
	int ready[2], go[2];
	char c;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(go));
	for (int i = 0; i < CROWD; i++) {
		pids[i] = fork();
		ASSERT_LE(0, pids[i]);
		if (!pids[i]) {
			int line;

			close(go[1]);
			line = move_much(ready[1], go[0]);
			if (line)
				fprintf(stderr, "process %d fails at line %d\n", i, line);
			_exit(!!line);
		}
	}
	for (int i = 0; i < CROWD; i++)
		ASSERT_EQ(1, read(ready[0], &c, 1));
	/* For all at once. */
	close(go[1]);
	for (int i = 0; i < CROWD; i++)
		EXPECT_TRUE(tern_child_ok(pids[i]));
}

/*
 * Another process, with memory on the device. It is told when to look at that, and ends with
 * what it found.
 */
struct bystander {
	pid_t pid;
	int go;
};

/* Memory on the device that nobody uses while that goes wrong: of this process, and of another. */
struct stage {
	struct tern t;
	char name[64];
	unsigned long *resident;
	struct bystander bystander;
};

/* What becomes of memory that was on the device. */
struct outcome {
	/* All of it comes back. */
	int comes_back;
	/* The device is as new when it is bound again. */
	int as_new;
	/* It is gone, and cannot be bound again. */
	int gone;
};

FIXTURE(loss)
{
	struct stage stage;
	/* A process that has memory on the device, and a kernel there that never ends. */
	pid_t victim;
	/* Runs a kernel that never ends. */
	struct tern_queue waits;
};

FIXTURE_VARIANT(loss)
{
	struct outcome outcome;
};

/* It answers nothing more until it is reset. */
FIXTURE_VARIANT_ADD(loss, hang)
{
	.outcome = { .comes_back = 1, .as_new = 1 },
};

/* All its fences are wrong until it is reset: it has answered nothing. */
FIXTURE_VARIANT_ADD(loss, fence)
{
	.outcome = { .comes_back = 1, .as_new = 1 },
};

/* Where its ring of faults ends it says wrong until it is reset, so that none can be read. */
FIXTURE_VARIANT_ADD(loss, index)
{
	.outcome = { .comes_back = 1, .as_new = 1 },
};

/* It forgets an answer now and then, also after a reset: then memory is brought back once more. */
FIXTURE_VARIANT_ADD(loss, drop)
{
	.outcome = { .comes_back = 1 },
};

FIXTURE_VARIANT_ADD(loss, vanish)
{
	.outcome = { .gone = 1 },
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

#define RESIDENT_BYTES (HUGE_PAGE + SINGLE_BYTES)

/* What a child does with memory on the device; its exit status. */
typedef int rest_fn(struct tern *t, unsigned long *p, int go, int all);

/*
 * A child that has memory on the device and says so; the rest of its life is @rest. The device
 * forgets what it has mapped if @protection is not that of before.
 */
static pid_t start_child(int *go, rest_fn *rest, int all, int protection)
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
		p = tern_resident(&t, RESIDENT_BYTES, MADV_HUGEPAGE);
		if (!p || mprotect(p, RESIDENT_BYTES, protection) || write(ready[1], "", 1) != 1)
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

static int is_told(int go)
{
	char c;

	return read(go, &c, 1) == 1;
}

static int stand_by(struct tern *t, unsigned long *p, int go, int all)
{
	(void)t;
	if (!is_told(go))
		return 4;
	return !is_well(look(p, RESIDENT_BYTES, 1, 0), all);
}

static int wait_for_ever(struct tern *t, unsigned long *p, int go, int all)
{
	(void)all;
	run_limited(t, KERNEL_WAIT, p, PAGE, 3600000);
	return !is_told(go);
}

static int set_stage(struct stage *stage, const struct outcome *outcome)
{
	int ret = tern_begin(&stage->t);

	if (!ret && geteuid())
		ret = -EPERM;
	if (!ret)
		ret = tern_bus_name(stage->t.fd, stage->name, sizeof(stage->name));
	if (ret)
		return ret;
	stage->bystander.pid = start_child(&stage->bystander.go, stand_by, outcome->comes_back,
					   PROT_READ | PROT_WRITE);
	if (stage->bystander.pid < 0)
		return -ECHILD;
	stage->resident = tern_resident(&stage->t, RESIDENT_BYTES, MADV_HUGEPAGE);
	return stage->resident ? 0 : -ENOMEM;
}

/* The driver goes. All memory is as @outcome says, and so is the device when it comes back. */
static void strike(struct __test_metadata *_metadata, struct stage *stage,
		   const struct outcome *outcome)
{
	struct drm_tern_device_query info;
	time_t start = seconds();
	struct tern again;

	ASSERT_EQ(0, tern_driver("unbind", stage->name));
	EXPECT_GT(BOUND, seconds() - start);
	EXPECT_EQ(-ENODEV, tern_query(stage->t.fd, &info));
	EXPECT_TRUE(is_well(look(stage->resident, RESIDENT_BYTES, 1, 0), outcome->comes_back));
	ASSERT_EQ(1, write(stage->bystander.go, "", 1));
	EXPECT_TRUE(tern_child_ok(stage->bystander.pid));
	tern_queue_free(&stage->t, &stage->t.queue);
	close(stage->t.fd);

	if (outcome->gone) {
		EXPECT_NE(0, tern_driver("bind", stage->name));
		return;
	}
	ASSERT_EQ(0, tern_driver("bind", stage->name));
	if (!outcome->as_new)
		return;
	ASSERT_EQ(0, tern_begin(&again));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&again, stage->resident, HUGE_PAGE));
	EXPECT_TRUE(is_well(look(stage->resident, HUGE_PAGE, 2, 0), 1));
	tern_unmap_all(&stage->t);
	EXPECT_EQ(0, tern_end(&again));
}

FIXTURE_SETUP(loss)
{
	struct tern *t = &self->stage.t;
	struct kernel_args never = {};
	int ret = set_stage(&self->stage, &variant->outcome);
	int unused;

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	if (ret == -EPERM)
		SKIP(return, "needs root");
	ASSERT_EQ(0, ret);
	self->victim = start_child(&unused, wait_for_ever, 0, PROT_READ | PROT_WRITE);
	ASSERT_LT(0, self->victim);
	ASSERT_EQ(0, tern_queue_init(t, &self->waits, 0));
	never.p = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	never.out = never.p + 1;
	never.value = 1;
	ASSERT_EQ(0, tern_start(t, &self->waits, KERNEL_WAIT, never, 1, 3600000));
}

FIXTURE_TEARDOWN(loss)
{
	kill(self->stage.bystander.pid, SIGKILL);
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

		/* Anew, so that the device faults in each round, wherever the memory was. */
		if (madvise(p, HUGE_PAGE, MADV_DONTNEED))
			return __LINE__;
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
	}
	return __LINE__;
}

static const char *debugfs_path(const struct stage *stage, const char *file)
{
	static char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/dri/%s/%s", stage->name, file);
	return path;
}

static void check_lost(struct __test_metadata *_metadata, struct _test_data_loss *self)
{
	struct tern *t = &self->stage.t;
	struct drm_tern_submit submit = tern_submission(t, &self->waits, KERNEL_NULL);
	struct drm_tern_stats stats = { .vm = t->vm };
	struct drm_tern_device_query info;
	char fdinfo[80];
	struct drm_tern_gem_create gem;
	__u32 vm;

	EXPECT_EQ(-EIO, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	EXPECT_EQ(-EIO, move(t, self->stage.resident, PAGE, DRM_TERN_LOCATION_DEVICE));
	EXPECT_EQ(-EIO, move(t, self->stage.resident, PAGE, DRM_TERN_LOCATION_SYSTEM));
	EXPECT_EQ(-EIO, tern_gem_create(t, PAGE, 0, &gem));
	/* What asks nothing of the device goes on. */
	EXPECT_EQ(0, tern_query(t->fd, &info));
	EXPECT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_STATS, &stats));
	EXPECT_LT(0, stats.bytes_to_device);
	EXPECT_EQ(0, tern_vm_create(t->fd, &vm));
	EXPECT_EQ(0, tern_vm_destroy(t->fd, vm));
	EXPECT_TRUE(tells(debugfs_path(&self->stage, "engines"), "device:\tlost"));
	EXPECT_TRUE(tells(debugfs_path(&self->stage, "queues"), "stopped=1"));
	EXPECT_FALSE(tells(debugfs_path(&self->stage, "queues"), "stopped=0"));
	snprintf(fdinfo, sizeof(fdinfo), "/proc/self/fdinfo/%d", t->fd);
	EXPECT_TRUE(tells(fdinfo, "drm-driver:\ttern"));
}

/* Errors are clear, all waits end, and memory keeps its content or is lost, as @variant says. */
TEST_F_TIMEOUT(loss, and_after, 250)
{
	struct stage *stage = &self->stage;
	time_t start;
	int status;

	ASSERT_EQ(0, work_until_lost(&stage->t));
	start = seconds();
	/* Its fence is signalled. */
	ASSERT_EQ(DRM_TERN_RESULT_DEVICE, tern_finish(&stage->t, &self->waits));
	check_lost(_metadata, self);

	/* Half of it now; the rest is brought back when the driver goes, if it can be. */
	EXPECT_TRUE(is_well(look(stage->resident, HUGE_PAGE, 1, 0), variant->outcome.comes_back));
	ASSERT_EQ(0, kill(self->victim, SIGKILL));
	ASSERT_EQ(self->victim, waitpid(self->victim, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_GT(BOUND, seconds() - start);
	strike(_metadata, stage, &variant->outcome);
}

/*
 * A device that answers nothing any more when it has met an illegal instruction, so that a test
 * knows when that begins. The driver does not know, and waits.
 */
FIXTURE(quiet)
{
	struct stage stage;
};

FIXTURE_VARIANT(quiet)
{
	struct outcome outcome;
	/* It says what it has done when the driver resets it, which has given that up. */
	int late;
};

FIXTURE_VARIANT_ADD(quiet, for_good)
{
	.outcome = { .comes_back = 1, .as_new = 1 },
};

FIXTURE_VARIANT_ADD(quiet, until_reset)
{
	.outcome = { .comes_back = 1, .as_new = 1 },
	.late = 1,
};

FIXTURE_VARIANT_ADD(quiet, and_gone)
{
	.outcome = { .gone = 1 },
};

FIXTURE_SETUP(quiet)
{
	int ret = set_stage(&self->stage, &variant->outcome);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	if (ret == -EPERM)
		SKIP(return, "needs root");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(quiet)
{
	kill(self->stage.bystander.pid, SIGKILL);
}

static int is_running(const struct stage *stage)
{
	return tells(debugfs_path(stage, "engines"), "device:\trunning");
}

/*
 * Has the device answer nothing any more. Looks at it before: who looks writes to memory that the
 * device may be able to reach, too, and that is shared with the bystander the first time. To have
 * it alone then takes an answer.
 */
static int silence(struct stage *stage)
{
	if (!is_running(stage))
		return -EIO;
	return tern_run_threads(&stage->t, KERNEL_ILLEGAL, (struct kernel_args){}, 1);
}

/* Packets that the engines got whose names begin with @engine; -1 if that cannot be told. */
static long submitted(const struct stage *stage, const char *engine)
{
	FILE *file = fopen(debugfs_path(stage, "engines"), "r");
	char line[128];
	long n, sum = 0;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, engine, strlen(engine)) &&
		    sscanf(line, "%*[^:]:\tsubmitted=%ld", &n) == 1)
			sum += n;
	}
	fclose(file);
	return sum;
}

/* Waits until an engine has got more than @before packets. False if that takes too long. */
static int has_got_more(const struct stage *stage, const char *engine, long before)
{
	time_t end = seconds() + BOUND;

	while (submitted(stage, engine) <= before) {
		if (seconds() > end)
			return 0;
	}
	return 1;
}

/* Whether a child ends in time; its status. */
static int ends(pid_t pid, int *status)
{
	struct pollfd end = { .fd = syscall(__NR_pidfd_open, pid, 0), .events = POLLIN };
	int ret = poll(&end, 1, BOUND * 1000);

	close(end.fd);
	return ret == 1 && waitpid(pid, status, 0) == pid;
}

static int ends_killed(pid_t pid)
{
	int status;

	return ends(pid, &status) && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static int prefetch(struct tern *t, unsigned long *p, int go, int all)
{
	unsigned long *more = tern_filled(t, HUGE_PAGE, MADV_HUGEPAGE);

	(void)p;
	(void)all;
	if (!more || !is_told(go))
		return 4;
	return move(t, more, HUGE_PAGE, DRM_TERN_LOCATION_DEVICE) != -EIO;
}

static int unmap(struct tern *t, unsigned long *p, int go, int all)
{
	(void)t;
	(void)all;
	if (!is_told(go))
		return 4;
	return munmap(p, RESIDENT_BYTES);
}

/* A process that is about to wait for the device in the kernel. */
struct waiter {
	rest_fn *rest;
	int protection;
	/* Whose packets it waits for. */
	const char *engine;
	pid_t pid;
	int go;
};

static int start_waiters(struct waiter *waiters, int n, int all)
{
	for (struct waiter *w = waiters; w < waiters + n; w++) {
		w->pid = start_child(&w->go, w->rest, all, w->protection);
		if (w->pid < 0)
			return 0;
	}
	return 1;
}

/* Has it go on. Whether it waits for the device now. */
static int lets_wait(const struct stage *stage, const struct waiter *w)
{
	long before = submitted(stage, w->engine);

	return write(w->go, "", 1) == 1 && has_got_more(stage, w->engine, before);
}

/* The same for one that is killed: it is at its end. */
static int lets_end(const struct stage *stage, const struct waiter *w)
{
	long before = submitted(stage, w->engine);

	return !kill(w->pid, SIGKILL) && has_got_more(stage, w->engine, before);
}

/* They wait for copies: in a fault of the CPU, and in the ioctl. */
TEST_F_TIMEOUT(quiet, kill_who_copies, 250)
{
	struct stage *stage = &self->stage;
	struct waiter waiters[] = {
		{ .rest = stand_by, .protection = PROT_READ, .engine = "copy" },
		{ .rest = prefetch, .protection = PROT_READ | PROT_WRITE, .engine = "copy" },
	};

	ASSERT_TRUE(start_waiters(waiters, ARRAY_SIZE(waiters), 1));
	ASSERT_EQ(DRM_TERN_RESULT_ILLEGAL, silence(stage));
	for (int i = 0; i < ARRAY_SIZE(waiters); i++)
		ASSERT_TRUE(lets_wait(stage, &waiters[i]));
	for (int i = 0; i < ARRAY_SIZE(waiters); i++)
		ASSERT_EQ(0, kill(waiters[i].pid, SIGKILL));
	/* The driver still waits, too. */
	EXPECT_TRUE(is_running(stage));
	for (int i = 0; i < ARRAY_SIZE(waiters); i++) {
		EXPECT_TRUE(ends_killed(waiters[i].pid))
			TH_LOG("waiter %d", i);
	}
	EXPECT_TRUE(is_lost(&stage->t));
	strike(_metadata, stage, &variant->outcome);
}

/* They wait until the device has dropped a mapping: in a fault, in munmap(), and at the end. */
TEST_F_TIMEOUT(quiet, kill_who_unmaps, 250)
{
	struct stage *stage = &self->stage;
	struct waiter waiters[] = {
		{ .rest = stand_by, .protection = PROT_READ | PROT_WRITE, .engine = "control" },
		{ .rest = unmap, .protection = PROT_READ | PROT_WRITE, .engine = "control" },
		{ .rest = stand_by, .protection = PROT_READ | PROT_WRITE, .engine = "control" },
	};
	enum { LAST = ARRAY_SIZE(waiters) - 1 };

	ASSERT_TRUE(start_waiters(waiters, ARRAY_SIZE(waiters), 1));
	ASSERT_EQ(DRM_TERN_RESULT_ILLEGAL, silence(stage));
	for (int i = 0; i < LAST; i++)
		ASSERT_TRUE(lets_wait(stage, &waiters[i]));
	ASSERT_TRUE(lets_end(stage, &waiters[LAST]));
	for (int i = 0; i < LAST; i++)
		ASSERT_EQ(0, kill(waiters[i].pid, SIGKILL));
	EXPECT_TRUE(is_running(stage));
	for (int i = 0; i <= LAST; i++) {
		EXPECT_TRUE(ends_killed(waiters[i].pid))
			TH_LOG("waiter %d", i);
	}
	EXPECT_TRUE(is_lost(&stage->t));
	strike(_metadata, stage, &variant->outcome);
}

/* The fence of the last submission as a file, which outlives the queue; -errno. */
static int fence_file(struct tern *t)
{
	struct drm_syncobj_handle args = {
		.handle = t->queue.syncobj,
		.flags = DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE,
		.fd = -1,
	};
	int ret = tern_ioctl(t->fd, DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &args);

	return ret ? ret : args.fd;
}

/* Of a fence: 0 if it is not signalled, 1 if it is, -errno if by an error. */
static int fence_status(int file)
{
	struct sync_file_info info = {};

	return ioctl(file, SYNC_IOC_FILE_INFO, &info) ? 2 : info.status;
}

/* The driver goes before it knows, while a fault of the CPU waits, and a dispatch does. */
TEST_F_TIMEOUT(quiet, unbind, 250)
{
	struct stage *stage = &self->stage;
	struct waiter waiter = { .rest = stand_by, .protection = PROT_READ, .engine = "copy" };
	struct kernel_args none = {};
	int fence, status;

	ASSERT_TRUE(start_waiters(&waiter, 1, variant->outcome.comes_back));
	ASSERT_EQ(DRM_TERN_RESULT_ILLEGAL, silence(stage));
	ASSERT_EQ(0, tern_start(&stage->t, &stage->t.queue, KERNEL_NULL, none, 1, 0));
	fence = fence_file(&stage->t);
	ASSERT_LE(0, fence);
	ASSERT_TRUE(lets_wait(stage, &waiter));
	EXPECT_TRUE(is_running(stage));
	EXPECT_EQ(0, fence_status(fence));
	strike(_metadata, stage, &variant->outcome);
	status = fence_status(fence);
	EXPECT_TRUE(variant->late ? status == 1 : status == -EIO || status == -ECANCELED)
		TH_LOG("status %d", status);
	close(fence);
	/* It looks at all of its memory. */
	ASSERT_TRUE(ends(waiter.pid, &status));
	EXPECT_TRUE(WIFEXITED(status) && !WEXITSTATUS(status));
}

/*
 * Dispatches are given up when their time is over, and the device when it does not stop their
 * queue. What it says then of the dispatches counts, if it says anything.
 */
TEST_F_TIMEOUT(quiet, dispatch, 250)
{
	enum { DISPATCHES = 3 };
	struct stage *stage = &self->stage;
	struct tern *t = &stage->t;
	struct tern_queue queue;
	struct drm_tern_submit submit;
	unsigned long *p;
	int status;

	/* So that nothing of what it needs is missing. */
	ASSERT_EQ(0, tern_queue_init(t, &queue, 0));
	p = tern_filled(t, SINGLE_BYTES, MADV_NOHUGEPAGE);
	ASSERT_NE(NULL, p);
	*queue.args = (struct kernel_args){ .p = p, .count = WORDS(SINGLE_BYTES), .value = 1 };
	submit = tern_submission(t, &queue, KERNEL_ADD);
	submit.timeout_ms = LIMIT_MS;
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	queue.seqno = submit.seqno;
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &queue));

	ASSERT_EQ(DRM_TERN_RESULT_ILLEGAL, silence(stage));
	for (int i = 0; i < DISPATCHES; i++)
		ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	EXPECT_TRUE(is_running(stage));
	queue.seqno = submit.seqno;
	status = tern_finish(t, &queue);
	EXPECT_EQ(variant->late ? DRM_TERN_RESULT_OK : DRM_TERN_RESULT_DEVICE, status);
	if (variant->late)
		EXPECT_EQ(-1, tern_check_pattern(p, SINGLE_BYTES, 1 + DISPATCHES));
	ASSERT_EQ(0, tern_result(t, &queue, submit.seqno - DISPATCHES + 1));
	EXPECT_EQ(variant->late ? DRM_TERN_RESULT_OK : DRM_TERN_RESULT_TIMEOUT,
		  queue.result.status);
	EXPECT_TRUE(is_lost(t));
	EXPECT_EQ(-EIO, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	tern_queue_free(t, &queue);
	strike(_metadata, stage, &variant->outcome);
}

TEST_HARNESS_MAIN
