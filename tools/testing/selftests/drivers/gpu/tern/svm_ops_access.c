// SPDX-License-Identifier: GPL-2.0
/*
 * Somebody else reaches for memory that is on the device: a handler of userfaultfd, who wants to
 * know what is written, a debugger, a block device, a pipe.
 */
#include <linux/fs.h>
#include <linux/loop.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "svm_ops.h"

/* A bit of /proc/PID/pagemap. */
#define PAGEMAP_SOFT_DIRTY 0x0080000000000000ULL
/* Pages of which others write what the device lets be, while it uses the rest: the first ones. */
#define SHARED (OPS_PAGES / 8)

/* Whether ops_use_most() lets word @i be. */
static int is_quiet(unsigned long i)
{
	return i % WORDS(PAGE) >= OPS_QUIET_WORD;
}

/* Gives such words of @pages pages from the start of the memory, at @p, the pattern plus @more. */
static void quiet_write(unsigned long *p, unsigned long pages, unsigned long more)
{
	for (unsigned long i = 0; i < WORDS(pages * PAGE); i++) {
		if (is_quiet(i))
			p[i] = tern_pattern(i) + more;
	}
}

/* Whether they have it. */
static int quiet_is(const unsigned long *p, unsigned long pages, unsigned long more)
{
	for (unsigned long i = 0; i < WORDS(pages * PAGE); i++) {
		if (is_quiet(i) && p[i] != tern_pattern(i) + more)
			return 0;
	}
	return 1;
}

/* The device adds @value to them; returns as tern_run(). */
static int quiet_add(struct _test_data_ops *o, unsigned long pages, unsigned long value)
{
	return tern_run(&o->t, KERNEL_ADD, (struct kernel_args){
		.p = o->p + OPS_QUIET_WORD,
		.count = WORDS(pages * PAGE) - OPS_QUIET_WORD,
		.value = value,
		.part = WORDS(OPS_SECTOR),
		.stride = WORDS(PAGE),
	});
}

/* As quiet_is(), for the device. */
static int quiet_seen(struct _test_data_ops *o, unsigned long pages, unsigned long more)
{
	struct kernel_args args = { .p = o->p, .out = o->seen, .count = WORDS(pages * PAGE) };

	return tern_run(&o->t, KERNEL_COPY, args) == DRM_TERN_RESULT_OK &&
	       quiet_is(o->seen, pages, more);
}

/*
 * Whether the device finds the pattern plus @more in them, and the CPU finds what the device makes
 * of that. They are as at first then.
 */
static int quiet_holds(struct _test_data_ops *o, unsigned long pages, unsigned long more)
{
	if (!quiet_seen(o, pages, more) || quiet_add(o, pages, 1) != DRM_TERN_RESULT_OK ||
	    !quiet_is(o->p, pages, more + 1))
		return 0;
	quiet_write(o->p, pages, 1);
	return 1;
}

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
 * Serves the first SHARED pages of @start as @mode says. -EOPNOTSUPP if the kernel cannot do
 * that, and other errors.
 */
static int handler_start(struct handler *h, __u64 mode, char *start, const char *contents)
{
	*h = (struct handler){ .mode = mode, .start = start, .contents = contents };
	h->uffd = tern_userfaultfd(start, SHARED * PAGE, mode, 0);
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

/* What ops_use_runs() uses from here on, and the first gap in it. */
#define USED 3
#define GAP (USED + OPS_RUN)

/* The handler gives back, page by page, what was thrown away on the device. */
TEST_F_TIMEOUT(ops, userfaultfd_missing, 120)
{
	unsigned long *contents = malloc(SHARED * PAGE);
	unsigned long missing = 0;
	struct handler h;
	int ret;

	ASSERT_NE(NULL, contents);
	for (unsigned long i = 0; i < WORDS(SHARED * PAGE); i++)
		contents[i] = tern_pattern(i) + 1;
	ASSERT_EQ(0, ops_use_runs(self, variant, USED, OPS_PAGES - USED));
	ret = handler_start(&h, UFFDIO_REGISTER_MODE_MISSING, (char *)self->p, (char *)contents);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "the kernel has no userfaultfd");
	ASSERT_EQ(0, ret);
	/* What is there is not missing. */
	ASSERT_EQ(0, ops_sweeps(self, 1));
	EXPECT_EQ(0, __atomic_load_n(&h.served, __ATOMIC_ACQUIRE));
	for (unsigned long page = GAP; page + OPS_RUN <= SHARED; page += 2 * OPS_RUN) {
		ASSERT_EQ(0, madvise(ops_page(self, page), OPS_RUN * PAGE, MADV_DONTNEED));
		missing += OPS_RUN;
	}
	for (unsigned long page = GAP; page + OPS_RUN <= SHARED; page += 2 * OPS_RUN)
		EXPECT_TRUE(ops_holds(self, ops_page(self, page), page, OPS_RUN));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_EQ(0, handler_end(&h));
	EXPECT_EQ(missing, h.served);
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	free(contents);
}

/* The handler is told of each page before it is written, by the device and by the CPU. */
TEST_F_TIMEOUT(ops, userfaultfd_write_protect, 120)
{
	struct uffdio_writeprotect protect = {
		.range = { (uintptr_t)self->p, SHARED * PAGE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct handler h;
	int ret;

	ASSERT_EQ(0, ops_use_most(self, variant));
	ret = handler_start(&h, UFFDIO_REGISTER_MODE_WP, (char *)self->p, NULL);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "the kernel has no write protection by userfaultfd");
	ASSERT_EQ(0, ret);
	for (int round = 1; round <= 3; round++) {
		ASSERT_EQ(0, ioctl(h.uffd, UFFDIO_WRITEPROTECT, &protect));
		/* All that reads goes on. */
		EXPECT_TRUE(quiet_seen(self, SHARED, 1));
		if (round == 2)
			EXPECT_TRUE(quiet_is(self->p, SHARED, 1));
		if (!variant->in_use)
			EXPECT_EQ((round - 1) * SHARED,
				  __atomic_load_n(&h.served, __ATOMIC_ACQUIRE));
		ASSERT_EQ(0, ops_sweeps(self, 1));
		EXPECT_TRUE(quiet_holds(self, SHARED, 1));
		EXPECT_LE(round * SHARED, __atomic_load_n(&h.served, __ATOMIC_ACQUIRE));
		/* Once each; who else writes may have it told again. */
		if (!variant->in_use)
			EXPECT_EQ(round * SHARED, h.served);
	}
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_EQ(0, handler_end(&h));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* The destination has a page, wherever that is. */
TEST_F_TIMEOUT(ops, userfaultfd_move_onto_the_device, 120)
{
	char *from = tern_map(&self->t, PAGE, MADV_NORMAL);
	struct uffdio_move move = {
		.dst = (uintptr_t)ops_page(self, SHARED / 2),
		.src = (uintptr_t)from,
		.len = PAGE,
	};
	int uffd, ret;

	ASSERT_NE(NULL, from);
	memset(from, 1, PAGE);
	uffd = tern_userfaultfd(self->p, OPS_BYTES, UFFDIO_REGISTER_MODE_MISSING,
				UFFD_FEATURE_MOVE);
	if (uffd == -EOPNOTSUPP)
		SKIP(return, "no userfaultfd, or not for this");
	ASSERT_LE(0, uffd);
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	do
		ret = ioctl(uffd, UFFDIO_MOVE, &move);
	while (ret && errno == EAGAIN);
	EXPECT_EQ(-1, ret);
	EXPECT_EQ(EEXIST, errno);
	EXPECT_EQ(1, *from);
	ASSERT_EQ(0, close(uffd));
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* What is on the device cannot be moved, but is no hole. */
TEST_F_TIMEOUT(ops, userfaultfd_move_from_the_device, 120)
{
	unsigned long *from = tern_resident(&self->t, OPS_BYTES, variant->advice);
	char *to = tern_map(&self->t, OPS_BYTES, variant->advice);
	struct uffdio_move move = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = HUGE_PAGE,
	};
	int uffd, ret;

	ASSERT_NE(NULL, from);
	ASSERT_NE(NULL, to);
	uffd = tern_userfaultfd(to, OPS_BYTES, UFFDIO_REGISTER_MODE_MISSING, UFFD_FEATURE_MOVE);
	if (uffd == -EOPNOTSUPP)
		SKIP(return, "no userfaultfd, or not for this");
	ASSERT_LE(0, uffd);
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	do
		ret = ioctl(uffd, UFFDIO_MOVE, &move);
	while (ret && errno == EAGAIN);
	EXPECT_EQ(-1, ret);
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-EFAULT, move.move);
	ASSERT_EQ(0, close(uffd));
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_EQ(-1, tern_check_pattern(from, OPS_BYTES, 1));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* Pages from the start that the device writes while the rest of the memory rests. */
static int write_some(struct _test_data_ops *o, const struct _fixture_variant_ops *variant)
{
	if (variant->in_use)
		return ops_sweeps(o, 2);
	return quiet_add(o, SHARED, 1) == DRM_TERN_RESULT_OK ? 0 : -ECHILD;
}

/*
 * Has what the device writes found by @written: of pages from one page on, how many were written
 * since @forget.
 */
static void finds_written(struct __test_metadata *_metadata, struct _test_data_ops *self,
			  const struct _fixture_variant_ops *variant,
			  int (*forget)(struct _test_data_ops *o),
			  long (*written)(struct _test_data_ops *o, unsigned long page,
					  unsigned long count))
{
	/* One is enough where each page has to fault for all that use it. */
	const int looks = variant->in_use ? 1 : 3;

	for (int look = 0; look < looks; look++) {
		ASSERT_EQ(0, forget(self));
		if (!variant->in_use)
			EXPECT_EQ(0, written(self, 0, OPS_PAGES));
		ASSERT_EQ(0, write_some(self, variant));
		EXPECT_EQ(SHARED, written(self, 0, SHARED));
		/* In another huge page. */
		if (!variant->in_use)
			EXPECT_EQ(0, written(self, OPS_PAGES - 8, 8));
	}
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	if (!variant->in_use)
		quiet_write(self->p, SHARED, 1);
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/*
 * Of @count pages from page @page on, those that were written since the last look, which begins a
 * new one. -errno on failure.
 */
static long scan_written(struct _test_data_ops *o, unsigned long page, unsigned long count)
{
	struct page_region regions[OPS_PAGES];
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)ops_page(o, page),
		.end = (uintptr_t)ops_page(o, page + count),
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_SIZE(regions),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	long ret, pages = 0;

	if (fd < 0)
		return -errno;
	ret = ioctl(fd, PAGEMAP_SCAN, &scan);
	if (ret < 0)
		pages = -errno;
	for (long i = 0; i < ret; i++)
		pages += (regions[i].end - regions[i].start) / PAGE;
	close(fd);
	return pages;
}

static int scan_forget(struct _test_data_ops *o)
{
	long pages = scan_written(o, 0, OPS_PAGES);

	return pages < 0 ? pages : 0;
}

/* PAGEMAP_SCAN tells what the device has written. */
TEST_F_TIMEOUT(ops, pagemap_scan, 120)
{
	int uffd = tern_userfaultfd(self->p, OPS_BYTES, UFFDIO_REGISTER_MODE_WP,
				    UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED);

	if (uffd == -EOPNOTSUPP)
		SKIP(return, "no userfaultfd, or not for this");
	ASSERT_LE(0, uffd);
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	ASSERT_EQ(OPS_PAGES, scan_written(self, 0, OPS_PAGES));
	finds_written(_metadata, self, variant, scan_forget, scan_written);
	ASSERT_EQ(0, close(uffd));
}

/* Of @count pages from page @page on, those with the soft-dirty bit. -errno on failure. */
static long soft_dirty(struct _test_data_ops *o, unsigned long page, unsigned long count)
{
	off_t at = (uintptr_t)ops_page(o, page) / PAGE * sizeof(__u64);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	__u64 entries[OPS_PAGES];
	long pages = 0;

	if (fd < 0)
		return -errno;
	if (pread(fd, entries, count * sizeof(*entries), at) != count * sizeof(*entries))
		pages = -EIO;
	for (unsigned long i = 0; pages >= 0 && i < count; i++)
		pages += !!(entries[i] & PAGEMAP_SOFT_DIRTY);
	close(fd);
	return pages;
}

static int soft_dirty_forget(struct _test_data_ops *o __always_unused)
{
	return tern_put("/proc/self/clear_refs", "4");
}

/* So does the soft-dirty bit. */
TEST_F_TIMEOUT(ops, soft_dirty, 120)
{
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	if (!soft_dirty(self, 0, OPS_PAGES))
		SKIP(return, "a kernel without soft-dirty");
	finds_written(_metadata, self, variant, soft_dirty_forget, soft_dirty);
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

/* A child that reads all and writes what is not in use, both by @by, in @pages pages. */
static int debugger(struct _test_data_ops *self, access_by *by, unsigned long pages)
{
	unsigned long *buffer = malloc(pages * PAGE);
	struct ops_count before = ops_count(self);
	pid_t pid = getppid();

	if (!buffer || by(pid, self->p, buffer, pages * PAGE, 0))
		return 1;
	if (ops_check_since(self, buffer, 0, pages * PAGE, &before) != -1)
		return 2;
	if (pages > SHARED)
		pages = SHARED;
	quiet_write(buffer, pages, 2);
	for (unsigned long page = 0; page < pages; page++) {
		unsigned long i = page * WORDS(PAGE) + OPS_QUIET_WORD;

		if (by(pid, self->p + i, buffer + i, OPS_SECTOR, 1))
			return 3;
	}
	return 0;
}

static void accessed(struct __test_metadata *_metadata, struct _test_data_ops *self,
		     const struct _fixture_variant_ops *variant, access_by *by,
		     unsigned long pages)
{
	unsigned long written = pages < SHARED ? pages : SHARED;
	pid_t pid;

	/* The child gets at it as at memory of any other process. */
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, MADV_DONTFORK));
	ASSERT_EQ(0, ops_use_most(self, variant));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(debugger(self, by, pages));
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_TRUE(quiet_holds(self, written, 2));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

TEST_F_TIMEOUT(ops, proc_mem, 120)
{
	accessed(_metadata, self, variant, by_proc_mem, OPS_PAGES);
}

TEST_F_TIMEOUT(ops, ptrace, 120)
{
	accessed(_metadata, self, variant, by_ptrace, 4);
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

/* Where the quiet sector of each of the shared pages is. */
static void quiet_sectors(const struct _test_data_ops *o, struct iovec *parts)
{
	for (unsigned long page = 0; page < SHARED; page++) {
		parts[page].iov_base = ops_page(o, page + 1) - OPS_SECTOR;
		parts[page].iov_len = OPS_SECTOR;
	}
}

/* A block device reads and writes memory on the device, without any copy between. */
TEST_F_TIMEOUT(ops, direct_io, 120)
{
	struct iovec parts[SHARED];
	unsigned long *disk;
	int backing, fd;

	disk = tern_keep(&self->t, tern_shared(OPS_BYTES, &backing), OPS_BYTES);
	ASSERT_NE(NULL, disk);
	fd = loop_open(backing);
	if (fd < 0)
		SKIP(return, "the kernel has no loop device, or this is not root");
	quiet_sectors(self, parts);
	ASSERT_EQ(0, ops_use_most(self, variant));
	for (unsigned long round = 0; round < 3; round++) {
		struct ops_count before = ops_count(self);

		/* From memory to the disk. */
		ASSERT_EQ(OPS_BYTES, pwrite(fd, self->p, OPS_BYTES, 0));
		EXPECT_EQ(-1, ops_check_since(self, disk, 0, OPS_BYTES, &before));
		/* And what is on the disk to a sector of each page. */
		quiet_write(disk, SHARED, 2 + round);
		for (unsigned long page = 0; page < SHARED; page++)
			memmove(disk + page * WORDS(OPS_SECTOR),
				disk + page * WORDS(PAGE) + OPS_QUIET_WORD, OPS_SECTOR);
		ASSERT_EQ(DRM_TERN_RESULT_OK, quiet_add(self, SHARED, 1));
		ASSERT_EQ(SHARED * OPS_SECTOR, preadv(fd, parts, SHARED, 0));
		EXPECT_TRUE(quiet_holds(self, SHARED, 2 + round));
	}
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	close(fd);
	close(backing);
}

/* A pipe gets hold of pages on the device: they come back, and stay until it lets go of them. */
TEST_F_TIMEOUT(ops, vmsplice, 120)
{
	enum { HELD = 16 };
	struct iovec part = { .iov_base = self->p, .iov_len = HELD * PAGE };
	unsigned long *through = malloc(HELD * PAGE);
	struct ops_count before;
	int pipe_fds[2];

	ASSERT_NE(NULL, through);
	ASSERT_EQ(0, ops_use_most(self, variant));
	ASSERT_EQ(0, pipe(pipe_fds));
	ASSERT_EQ(HELD * PAGE, vmsplice(pipe_fds[1], &part, 1, 0));
	/* The pipe has the very pages, and so what the device writes. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, quiet_add(self, HELD, 1));
	EXPECT_TRUE(quiet_is(self->p, HELD, 2));
	ASSERT_EQ(0, ops_sweeps(self, 1));
	before = ops_count(self);
	for (size_t done = 0; done < HELD * PAGE;) {
		ssize_t n = read(pipe_fds[0], (char *)through + done, HELD * PAGE - done);

		ASSERT_LT(0, n);
		done += n;
	}
	EXPECT_TRUE(quiet_is(through, HELD, 2));
	quiet_write(through, HELD, 1);
	EXPECT_EQ(-1, ops_check_since(self, through, 0, HELD * PAGE, &before));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	free(through);

	ASSERT_EQ(DRM_TERN_RESULT_OK, quiet_add(self, HELD, -1));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

TEST_HARNESS_MAIN
