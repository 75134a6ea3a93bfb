// SPDX-License-Identifier: GPL-2.0
/*
 * Somebody else reaches for memory that is on the device: a handler of userfaultfd, a debugger,
 * a block device, a pipe.
 */
#include <linux/loop.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "svm_ops.h"

/* What the device uses meanwhile: all but the first eighth. */
#define QUIET (OPS_PAGES / 8)
#define USED_PAGES (OPS_PAGES - QUIET)

/* A thread that serves faults of user space in the memory. */
struct handler {
	pthread_t thread;
	int uffd;
	/* Ends it. */
	int stop[2];
	/* One of UFFDIO_REGISTER_MODE_*. */
	__u64 mode;
	char *start;
	/* What a missing page has. */
	const char *contents;
	/* Pages that were served, once each. */
	unsigned long served;
	int error;
};

static int handler_serve(struct handler *h, __u64 address)
{
	char *page = (char *)(address & ~(PAGE - 1));
	struct uffdio_writeprotect unprotect = { .range = { (uintptr_t)page, PAGE } };
	struct uffdio_copy copy = {
		.dst = (uintptr_t)page,
		.src = (uintptr_t)h->contents + (page - h->start),
		.len = PAGE,
	};

	if (h->mode == UFFDIO_REGISTER_MODE_WP)
		return ioctl(h->uffd, UFFDIO_WRITEPROTECT, &unprotect);
	return ioctl(h->uffd, UFFDIO_COPY, &copy) && errno != EEXIST;
}

static void *handler_main(void *data)
{
	struct handler *h = data;
	struct pollfd fds[] = {
		{ .fd = h->uffd, .events = POLLIN },
		{ .fd = h->stop[0], .events = POLLIN },
	};
	struct uffd_msg msg;

	while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
		if (read(h->uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		/* Who waits for it goes on as soon as it is served. */
		__atomic_fetch_add(&h->served, 1, __ATOMIC_RELEASE);
		if (msg.event != UFFD_EVENT_PAGEFAULT ||
		    handler_serve(h, msg.arg.pagefault.address))
			h->error = 1;
	}
	return NULL;
}

/*
 * Serves the first QUIET pages of @start as @mode says. -ENOSYS if the kernel cannot do that, and
 * other errors.
 */
static int handler_start(struct handler *h, __u64 mode, char *start, const char *contents)
{
	*h = (struct handler){ .mode = mode, .start = start, .contents = contents };
	h->uffd = tern_userfaultfd(start, QUIET * PAGE, mode);
	if (h->uffd < 0)
		return h->uffd;
	if (pipe(h->stop))
		return -errno;
	return -pthread_create(&h->thread, NULL, handler_main, h);
}

/* Ends the service; 0 if all went well. */
static int handler_end(struct handler *h)
{
	if (write(h->stop[1], "", 1) != 1 || pthread_join(h->thread, NULL))
		return -1;
	close(h->stop[0]);
	close(h->stop[1]);
	return close(h->uffd) || h->error;
}

/* The handler gives back, page by page, what was thrown away on the device. */
TEST_F_TIMEOUT(ops, userfaultfd_missing, 120)
{
	char *contents = malloc(QUIET * PAGE);
	struct handler h;
	int ret;

	ASSERT_NE(NULL, contents);
	memcpy(contents, self->p, QUIET * PAGE);
	ASSERT_EQ(0, ops_use(self, variant, QUIET, USED_PAGES));
	ret = handler_start(&h, UFFDIO_REGISTER_MODE_MISSING, (char *)self->p, contents);
	if (ret == -ENOSYS)
		SKIP(return, "the kernel has no userfaultfd");
	ASSERT_EQ(0, ret);
	/* What is there is not missing. */
	EXPECT_TRUE(ops_holds(self, self->p, 0, QUIET));
	EXPECT_EQ(0, h.served);
	ASSERT_EQ(0, madvise(self->p, QUIET * PAGE, MADV_DONTNEED));
	EXPECT_TRUE(ops_holds(self, self->p, 0, QUIET));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_EQ(0, handler_end(&h));
	EXPECT_EQ(QUIET, h.served);
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	free(contents);
}

/* The handler is told of each page before it is written, by the device and by the CPU. */
TEST_F_TIMEOUT(ops, userfaultfd_write_protect, 120)
{
	struct uffdio_writeprotect protect = {
		.range = { (uintptr_t)self->p, QUIET * PAGE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct kernel_args copy = {
		.p = self->p, .out = self->seen, .count = WORDS(QUIET * PAGE),
	};
	struct handler h;
	int ret;

	ASSERT_EQ(0, ops_use(self, variant, QUIET, USED_PAGES));
	ret = handler_start(&h, UFFDIO_REGISTER_MODE_WP, (char *)self->p, NULL);
	if (ret == -ENOSYS)
		SKIP(return, "the kernel has no write protection by userfaultfd");
	ASSERT_EQ(0, ret);
	for (int round = 1; round <= 3; round++) {
		ASSERT_EQ(0, ioctl(h.uffd, UFFDIO_WRITEPROTECT, &protect));
		/* All that reads goes on. */
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_COPY, copy));
		EXPECT_EQ(-1, ops_check(self, self->seen, 0, QUIET * PAGE, 0));
		if (round == 2)
			EXPECT_EQ(-1, ops_check(self, self->p, 0, QUIET * PAGE, 0));
		EXPECT_EQ((round - 1) * QUIET, __atomic_load_n(&h.served, __ATOMIC_ACQUIRE));
		EXPECT_TRUE(ops_holds(self, self->p, 0, QUIET));
		EXPECT_EQ(round * QUIET, __atomic_load_n(&h.served, __ATOMIC_ACQUIRE));
	}
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_EQ(0, handler_end(&h));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* Ways by which another process reads or writes @bytes of this one's memory; 0 if it could. */
static int by_proc_mem(pid_t pid, void *at, void *buffer, size_t bytes, int write)
{
	char path[32];
	ssize_t done;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR);
	if (fd < 0)
		return -errno;
	done = write ? pwrite(fd, buffer, bytes, (uintptr_t)at) :
		       pread(fd, buffer, bytes, (uintptr_t)at);
	close(fd);
	return done == (ssize_t)bytes ? 0 : -EIO;
}

static int by_ptrace(pid_t pid, void *at, void *buffer, size_t bytes, int write)
{
	unsigned long *word = buffer, *end = word + WORDS(bytes), *addr = at;
	int ret = 0;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) ||
	    waitpid(pid, NULL, __WALL) != pid)
		return -errno;
	for (; !ret && word < end; word++, addr++) {
		errno = 0;
		if (write)
			ptrace(PTRACE_POKEDATA, pid, addr, *word);
		else
			*word = ptrace(PTRACE_PEEKDATA, pid, addr, NULL);
		ret = -errno;
	}
	return ptrace(PTRACE_DETACH, pid, NULL, NULL) ? -errno : ret;
}

typedef int access_by(pid_t pid, void *at, void *buffer, size_t bytes, int write);

/* A child that reads all and writes what is not in use, both by @by. */
static int debugger(struct _test_data_ops *self, access_by *by, size_t bytes)
{
	unsigned long *buffer = malloc(bytes);
	pid_t pid = getppid();

	if (!buffer || by(pid, self->p, buffer, bytes, 0))
		return 1;
	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		int used = i - self->first < self->count;
		unsigned long most = used ? self->sweeps[1 + i % TERN_THREADS] + 1 : 0;

		if (buffer[i] - tern_pattern(i) - 1 > most)
			return 2;
	}
	if (bytes > QUIET * PAGE)
		bytes = QUIET * PAGE;
	for (unsigned long i = 0; i < WORDS(bytes); i++)
		buffer[i] = i;
	if (by(pid, self->p, buffer, bytes, 1))
		return 3;
	return 0;
}

static void accessed(struct __test_metadata *_metadata, struct _test_data_ops *self,
		     const struct _fixture_variant_ops *variant, access_by *by, size_t bytes)
{
	size_t written = bytes < QUIET * PAGE ? bytes : QUIET * PAGE;
	struct kernel_args args = {
		.p = self->p, .out = self->seen, .count = WORDS(written), .value = 1,
	};
	pid_t pid;

	/* The child gets at it as at memory of any other process. */
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, MADV_DONTFORK));
	ASSERT_EQ(0, ops_use(self, variant, QUIET, USED_PAGES));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(debugger(self, by, bytes));
	EXPECT_TRUE(tern_child_ok(pid));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_COPY, args));
	EXPECT_EQ(-1, tern_check_count(self->seen, written, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_ADD, args));
	EXPECT_EQ(-1, tern_check_count(self->p, written, 1));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, ops_page(self, QUIET), QUIET, OPS_PAGES - QUIET));
}

TEST_F_TIMEOUT(ops, proc_mem, 120)
{
	accessed(_metadata, self, variant, by_proc_mem, OPS_BYTES);
}

TEST_F_TIMEOUT(ops, ptrace, 120)
{
	accessed(_metadata, self, variant, by_ptrace, 4 * PAGE);
}

/* A block device of OPS_BYTES, whose contents are those of @backing; -1 if there is none. */
static int loop_open(int backing)
{
	struct loop_config config = { .fd = backing };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd = -1;
	char path[32];

	if (control < 0)
		return -1;
	snprintf(path, sizeof(path), "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
	close(control);
	config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* A block device reads and writes memory on the device, without any copy between. */
TEST_F_TIMEOUT(ops, direct_io, 120)
{
	size_t quiet = QUIET * PAGE;
	struct kernel_args args = {
		.p = self->p, .out = self->seen, .count = WORDS(quiet), .value = 1,
	};
	unsigned long *disk;
	int backing, fd;

	disk = tern_keep(&self->t, tern_shared(OPS_BYTES, &backing), OPS_BYTES);
	ASSERT_NE(NULL, disk);
	fd = loop_open(backing);
	if (fd < 0)
		SKIP(return, "the kernel has no loop device, or this is not root");
	ASSERT_EQ(0, ops_use(self, variant, QUIET, USED_PAGES));
	for (unsigned long round = 0; round < 3; round++) {
		/* From memory to the disk. */
		ASSERT_EQ(OPS_BYTES, pwrite(fd, self->p, OPS_BYTES, 0));
		EXPECT_EQ(-1, round ? tern_check_count(disk, quiet, round) :
				      ops_check(self, disk, 0, quiet, 0));
		/* And what is on the disk to where it was. */
		for (unsigned long i = 0; i < WORDS(quiet); i++)
			disk[i] = round + i;
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_ADD, args));
		ASSERT_EQ(quiet, pread(fd, self->p, quiet, 0));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_COPY, args));
		EXPECT_EQ(-1, tern_check_count(self->seen, quiet, round));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_ADD, args));
		EXPECT_EQ(-1, tern_check_count(self->p, quiet, round + 1));
	}
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, ops_page(self, QUIET), QUIET, OPS_PAGES - QUIET));
	close(fd);
	close(backing);
}

/* A pipe gets hold of pages on the device: they come back, and stay until it lets go of them. */
TEST_F_TIMEOUT(ops, vmsplice, 120)
{
	enum { HELD = 16 };
	struct iovec part = { .iov_base = self->p, .iov_len = HELD * PAGE };
	struct kernel_args args = { .p = self->p, .count = WORDS(HELD * PAGE), .value = 1 };
	unsigned long *through = malloc(HELD * PAGE);
	int pipe_fds[2];

	ASSERT_NE(NULL, through);
	ASSERT_EQ(0, ops_use(self, variant, QUIET, USED_PAGES));
	ASSERT_EQ(0, pipe(pipe_fds));
	ASSERT_EQ(HELD * PAGE, vmsplice(pipe_fds[1], &part, 1, 0));
	/* The pipe has the very pages, and so what the device writes. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_ADD, args));
	EXPECT_EQ(-1, ops_check(self, self->p, 0, HELD * PAGE, 1));
	for (size_t done = 0; done < HELD * PAGE;) {
		ssize_t n = read(pipe_fds[0], (char *)through + done, HELD * PAGE - done);

		ASSERT_LT(0, n);
		done += n;
	}
	EXPECT_EQ(-1, ops_check(self, through, 0, HELD * PAGE, 1));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	free(through);

	args.value = -1;
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_ADD, args));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

TEST_HARNESS_MAIN
