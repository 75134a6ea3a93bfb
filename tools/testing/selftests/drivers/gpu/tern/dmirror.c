// SPDX-License-Identifier: GPL-2.0
/*
 * The node on which the Tern GPU's driver serves the kernel's HMM tests: what hmm-tests does not
 * look at, as test_hmm has it; bad input, with the errno that it gets; the end of what a mirror
 * needs; and test_hmm, whose nodes have the same names. Boot with tern.dmirror=1. Needs root.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include <lib/test_hmm_uapi.h>

#include "kselftest_harness.h"
#include "tern_pci.h"

#define NODE "/dev/hmm_dmirror0"
#define PAGES 16
#define BYTES (PAGES * PAGE)
#define KERNEL_ADDRESS 0xffff888000000000UL
#define USER_END 0x800000000000UL
#define CGROUP TERN_CGROUPS "/tern-dmirror"
/* Enough for several rounds of reclaim, in folios of 64 KiB. */
#define RECLAIM_BYTES (32UL << 20)
#define RECLAIM_ORDER 4
/* No other memory is mapped at this distance behind the one that the tests use. */
#define HOLE (PAGES + 1)

/* Opens the node, if it is one of the driver's and not of test_hmm's; -1 if not. */
static int open_mirror(void)
{
	int fd = open(NODE, O_RDWR | O_CLOEXEC);
	struct stat st;

	if (fd >= 0 && (fstat(fd, &st) || major(st.st_rdev) != 10)) {
		close(fd);
		return -1;
	}
	return fd;
}

FIXTURE(dmirror)
{
	/* Keeps the memory. */
	struct tern t;
	/* The device's on the PCI bus. */
	char name[64];
	int fd;
	/* Memory with the pattern; as much for the data, so that a write changes nothing. */
	char *p, *data;
};

FIXTURE_SETUP(dmirror)
{
	int fd = tern_open_device();

	if (fd < 0)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, tern_bus_name(fd, self->name, sizeof(self->name)));
	close(fd);
	self->fd = open_mirror();
	if (self->fd < 0)
		SKIP(return, "no " NODE " of the driver, which needs tern.dmirror=1");
	self->p = tern_map(&self->t, BYTES, MADV_NORMAL);
	self->data = tern_map(&self->t, BYTES, MADV_NORMAL);
	ASSERT_NE(NULL, self->p);
	ASSERT_NE(NULL, self->data);
	tern_write_pattern((unsigned long *)self->p, BYTES);
	tern_write_pattern((unsigned long *)self->data, BYTES);
}

FIXTURE_TEARDOWN(dmirror)
{
	close(self->fd);
	tern_unmap_all(&self->t);
}

static int command(int fd, unsigned long request, struct hmm_dmirror_cmd cmd)
{
	return tern_ioctl(fd, request, &cmd);
}

static struct hmm_dmirror_cmd all_of(const struct _test_data_dmirror *self)
{
	return (struct hmm_dmirror_cmd){
		.addr = (uintptr_t)self->p,
		.ptr = (uintptr_t)self->data,
		.npages = PAGES,
	};
}

static struct hmm_dmirror_cmd page_of(const struct _test_data_dmirror *self, int page)
{
	struct hmm_dmirror_cmd cmd = all_of(self);

	cmd.addr += page * PAGE;
	cmd.npages = 1;
	return cmd;
}

/* How many of up to 512 pages from @p on are on the device; -errno if that cannot be told. */
static int on_device(int fd, const char *p, unsigned long pages)
{
	unsigned char state[HUGE_PAGE / PAGE];
	int count = 0, ret = command(fd, HMM_DMIRROR_SNAPSHOT, (struct hmm_dmirror_cmd){
		.addr = (uintptr_t)p,
		.ptr = (uintptr_t)state,
		.npages = pages,
	});

	for (int i = 0; !ret && i < pages; i++)
		count += (state[i] & 0xf0) == HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;
	return ret ? ret : count;
}

/* The next allocation of a migration of this mirror fails. */
static int fail_alloc(int fd)
{
	return command(fd, HMM_DMIRROR_FLAGS, (struct hmm_dmirror_cmd){
		.npages = HMM_DMIRROR_FLAG_FAIL_ALLOC,
	});
}

/* Whether the memory is what it was, and the device reads it. */
static int is_intact(struct _test_data_dmirror *self)
{
	memset(self->data, 0, BYTES);
	return !command(self->fd, HMM_DMIRROR_READ, all_of(self)) &&
	       tern_check_pattern((unsigned long *)self->data, BYTES, 0) == -1 &&
	       tern_check_pattern((unsigned long *)self->p, BYTES, 0) == -1;
}

static const struct {
	const char *name;
	unsigned long request;
	/* Of memory that the process has not, may not read and may not write; 0: does not care. */
	int no_memory, no_read, no_write;
	/* Of a process that is gone, and of addresses that no process has. */
	int gone, beyond;
	/* Takes the contents of the memory from the caller, or gives them. */
	int has_data;
} calls[] = {
	{ "READ", HMM_DMIRROR_READ, EFAULT, EFAULT, 0, EFAULT, EFAULT, 1 },
	{ "READ_UNLOCKED", HMM_DMIRROR_READ_UNLOCKED, EFAULT, EFAULT, 0, EFAULT, EFAULT, 1 },
	{ "WRITE", HMM_DMIRROR_WRITE, EFAULT, EFAULT, EPERM, EFAULT, EFAULT, 1 },
	{ "MIGRATE_TO_DEV", HMM_DMIRROR_MIGRATE_TO_DEV, EINVAL, EINVAL, 0, EINVAL, EINVAL, 1 },
	{ "MIGRATE_TO_SYS", HMM_DMIRROR_MIGRATE_TO_SYS, EINVAL, EINVAL, 0, EINVAL, EINVAL, 0 },
	{ "EXCLUSIVE", HMM_DMIRROR_EXCLUSIVE, EFAULT, EFAULT, EFAULT, EINVAL, EFAULT, 1 },
	{ "SNAPSHOT", HMM_DMIRROR_SNAPSHOT, 0, 0, 0, EINVAL, 0, 1 },
	{ "CHECK_EXCLUSIVE", HMM_DMIRROR_CHECK_EXCLUSIVE, 0, 0, 0, 0, 0, 0 },
	{ "RELEASE", HMM_DMIRROR_RELEASE, 0, 0, 0, 0, 0, 0 },
	{ "FLAGS", HMM_DMIRROR_FLAGS, 0, 0, 0, 0, 0, 0 },
};

/* No call takes a range that is empty, not of whole pages, or wraps. */
TEST_F(dmirror, ranges)
{
	const struct {
		__u64 addr, npages;
	} bad[] = {
		{ (uintptr_t)self->p, 0 },
		{ (uintptr_t)self->p + 1, 1 },
		{ (uintptr_t)self->p + PAGE / 2, 1 },
		{ (uintptr_t)self->p, 1UL << 52 },
		{ (uintptr_t)self->p, ~0UL },
		{ -PAGE, 1 },
		{ -PAGE, 2 },
	};

	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		for (int j = 0; j < ARRAY_SIZE(bad); j++) {
			struct hmm_dmirror_cmd cmd = all_of(self);

			cmd.addr = bad[j].addr;
			cmd.npages = bad[j].npages;
			EXPECT_EQ(-EINVAL, command(self->fd, calls[i].request, cmd))
				TH_LOG("%s of range %d", calls[i].name, j);
		}
	}
	EXPECT_TRUE(is_intact(self));
}

/* Addresses that no process has, and more of them than there is memory for. */
TEST_F(dmirror, beyond)
{
	const struct {
		__u64 addr, npages;
	} beyond[] = {
		{ KERNEL_ADDRESS, 1 },
		{ USER_END, 1 },
		{ USER_END - PAGE, 2 },
		{ -2 * PAGE, 1 },
	};
	struct hmm_dmirror_cmd cmd = all_of(self);

	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		for (int j = 0; j < ARRAY_SIZE(beyond); j++) {
			cmd = all_of(self);
			cmd.addr = beyond[j].addr;
			cmd.npages = beyond[j].npages;
			memset(self->data, 0, PAGE);
			EXPECT_EQ(-calls[i].beyond, command(self->fd, calls[i].request, cmd))
				TH_LOG("%s of range %d", calls[i].name, j);
			if (calls[i].request != HMM_DMIRROR_SNAPSHOT)
				continue;
			for (int k = 0; k < cmd.npages; k++)
				EXPECT_EQ(HMM_DMIRROR_PROT_ERROR, (unsigned char)self->data[k]);
		}
	}
	cmd = all_of(self);
	cmd.npages = 1UL << 51;
	EXPECT_EQ(-ENOMEM, command(self->fd, HMM_DMIRROR_READ, cmd));
	EXPECT_EQ(-ENOMEM, command(self->fd, HMM_DMIRROR_WRITE, cmd));
	EXPECT_TRUE(is_intact(self));
}

/* Memory that is not there, at once and behind some that is. */
TEST_F(dmirror, no_memory)
{
	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		struct hmm_dmirror_cmd cmd = all_of(self);

		cmd.addr += HOLE * PAGE;
		cmd.npages = 1;
		EXPECT_EQ(-calls[i].no_memory, command(self->fd, calls[i].request, cmd))
			TH_LOG("%s", calls[i].name);
	}
	/* A snapshot has put something else there. */
	tern_write_pattern((unsigned long *)self->data, BYTES);
	ASSERT_EQ(0, munmap(self->p + (PAGES - 2) * PAGE, PAGE));
	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		/* What is there of it may be exclusive to the device by now. */
		if (calls[i].request == HMM_DMIRROR_CHECK_EXCLUSIVE)
			continue;
		EXPECT_EQ(-calls[i].no_memory, command(self->fd, calls[i].request, all_of(self)))
			TH_LOG("%s of a part", calls[i].name);
	}
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)self->p, (PAGES - 2) * PAGE, 0));
}

/* Memory that the process may not read, and may not write. */
TEST_F(dmirror, protection)
{
	ASSERT_EQ(0, mprotect(self->p, BYTES, PROT_NONE));
	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		EXPECT_EQ(-calls[i].no_read, command(self->fd, calls[i].request, all_of(self)))
			TH_LOG("%s without PROT_READ", calls[i].name);
	}
	ASSERT_EQ(0, mprotect(self->p, BYTES, PROT_READ));
	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		EXPECT_EQ(-calls[i].no_write, command(self->fd, calls[i].request, all_of(self)))
			TH_LOG("%s without PROT_WRITE", calls[i].name);
	}
	EXPECT_TRUE(is_intact(self));
}

/* Memory that may be written and not read can be had exclusively, and only so. */
TEST_F(dmirror, write_only)
{
	ASSERT_EQ(0, mprotect(self->p, BYTES, PROT_WRITE));
	EXPECT_EQ(-EFAULT, command(self->fd, HMM_DMIRROR_READ, all_of(self)));
	memset(self->data, 0, BYTES);
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_EXCLUSIVE, all_of(self)));
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)self->data, BYTES, 0));
	ASSERT_EQ(0, mprotect(self->p, BYTES, PROT_READ | PROT_WRITE));
	EXPECT_TRUE(is_intact(self));
}

/* Pointers to no data, and to too little of it. */
TEST_F(dmirror, pointers)
{
	const __u64 bad[] = {
		0, KERNEL_ADDRESS, USER_END - PAGE, -PAGE, (uintptr_t)self->data + HOLE * PAGE,
	};

	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		for (int j = 0; j < ARRAY_SIZE(bad); j++) {
			struct hmm_dmirror_cmd cmd = all_of(self);

			cmd.ptr = bad[j];
			EXPECT_EQ(calls[i].has_data ? -EFAULT : 0,
				  command(self->fd, calls[i].request, cmd))
				TH_LOG("%s with pointer %d", calls[i].name, j);
			/* The next one is to find the memory in the system. */
			EXPECT_EQ(-1, tern_check_pattern((unsigned long *)self->p, BYTES, 0));
		}
	}
	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		struct hmm_dmirror_cmd cmd = all_of(self);

		if (!calls[i].has_data || calls[i].request == HMM_DMIRROR_WRITE)
			continue;
		cmd.ptr = (uintptr_t)self->data + BYTES - PAGES / 2;
		EXPECT_EQ(-EFAULT, command(self->fd, calls[i].request, cmd))
			TH_LOG("%s with too little room", calls[i].name);
	}
	EXPECT_TRUE(is_intact(self));
}

/* Arguments that cannot be read, or only in part, or not be written. */
TEST_F(dmirror, arguments)
{
	struct hmm_dmirror_cmd *cmd = (void *)(self->data + BYTES - sizeof(*cmd));

	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		EXPECT_EQ(-EFAULT, tern_ioctl(self->fd, calls[i].request, NULL));
		EXPECT_EQ(-EFAULT, tern_ioctl(self->fd, calls[i].request, (void *)KERNEL_ADDRESS));
		EXPECT_EQ(-EFAULT, tern_ioctl(self->fd, calls[i].request, (char *)cmd + 8));
	}
	*cmd = all_of(self);
	ASSERT_EQ(0, mprotect(self->data + BYTES - PAGE, PAGE, PROT_READ));
	EXPECT_EQ(-EFAULT, tern_ioctl(self->fd, HMM_DMIRROR_MIGRATE_TO_SYS, cmd));
	EXPECT_EQ(-EFAULT, tern_ioctl(self->fd, HMM_DMIRROR_CHECK_EXCLUSIVE, cmd));
}

/* Numbers that no call has. */
TEST_F(dmirror, numbers)
{
	const unsigned long bad[] = {
		0, ~0U, _IOWR('H', 0x7f, struct hmm_dmirror_cmd), _IO('H', 0x00),
		_IOR('H', 0x00, struct hmm_dmirror_cmd), _IOWR('H', 0x00, __u64),
		_IOWR('h', 0x00, struct hmm_dmirror_cmd), DRM_IOCTL_TERN_DEVICE_QUERY,
	};

	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(-EINVAL, command(self->fd, bad[i], all_of(self)))
			TH_LOG("number %#lx", bad[i]);
	}
	EXPECT_TRUE(is_intact(self));
}

/* What found no memory on the device is shown only if the device reaches it where it is. */
TEST_F(dmirror, no_device_memory)
{
	ASSERT_EQ(0, fail_alloc(self->fd));
	EXPECT_EQ(-ENOENT, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, page_of(self, 0)));
	EXPECT_EQ(0, on_device(self->fd, self->p, PAGES));
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, page_of(self, 0)));
	EXPECT_EQ(1, on_device(self->fd, self->p, PAGES));

	ASSERT_EQ(0, command(self->fd, HMM_DMIRROR_READ, page_of(self, 2)));
	ASSERT_EQ(0, fail_alloc(self->fd));
	memset(self->data, 0, PAGE);
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, page_of(self, 2)));
	EXPECT_EQ(0, memcmp(self->data, self->p + 2 * PAGE, PAGE));
	ASSERT_EQ(0, fail_alloc(self->fd));
	EXPECT_EQ(-ENOENT, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, page_of(self, 3)));
	EXPECT_EQ(1, on_device(self->fd, self->p, PAGES));
	EXPECT_TRUE(is_intact(self));
}

/* The device reaches what was asked for, and nothing around it. */
TEST_F(dmirror, neighbours)
{
	for (int page = 3; page < 6; page++) {
		struct hmm_dmirror_cmd cmd = page_of(self, page);

		ASSERT_EQ(0, tern_ioctl(self->fd, HMM_DMIRROR_READ, &cmd));
		EXPECT_EQ(1, cmd.faults);
		EXPECT_EQ(1, cmd.cpages);
		ASSERT_EQ(0, tern_ioctl(self->fd, HMM_DMIRROR_READ, &cmd));
		EXPECT_EQ(0, cmd.faults);
	}
}

/* Memory of a file does not migrate. */
TEST_F(dmirror, shared_memory)
{
	char *shared = tern_shared(BYTES, NULL);
	struct hmm_dmirror_cmd cmd = all_of(self);

	ASSERT_NE(NULL, shared);
	ASSERT_NE(NULL, tern_keep(&self->t, shared, BYTES));
	tern_write_pattern((unsigned long *)shared, BYTES);
	cmd.addr = (uintptr_t)shared;
	EXPECT_EQ(-ENOENT, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
	ASSERT_EQ(0, command(self->fd, HMM_DMIRROR_READ, cmd));
	memset(self->data, 0, BYTES);
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)self->data, BYTES, 0));
	EXPECT_EQ(0, on_device(self->fd, shared, PAGES));
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_SYS, cmd));
}

/* Maps @bytes of @fd, at an address for a huge page. */
static char *map_private(struct tern *t, int fd, size_t bytes)
{
	char *p = tern_map(t, bytes, MADV_NORMAL);

	if (!p || mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) != p)
		return NULL;
	return p;
}

/* Of a private mapping of a file the copies move, and the pages of the file do not. */
TEST_F(dmirror, private_file)
{
	const int copies = PAGES / 2;
	struct hmm_dmirror_cmd cmd = all_of(self);
	char *file, *p;
	int fd;

	file = tern_shared(BYTES, &fd);
	ASSERT_NE(NULL, tern_keep(&self->t, file, BYTES));
	p = map_private(&self->t, fd, BYTES);
	ASSERT_NE(NULL, p);
	memset(file, 1, BYTES);
	cmd.addr = (uintptr_t)p;
	/* None is there, and then none is a copy. */
	EXPECT_EQ(-ENOENT, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
	ASSERT_EQ(1, p[BYTES - 1]);
	EXPECT_EQ(-ENOENT, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));

	/* Every other page. */
	for (int page = 0; page < PAGES; page += 2)
		memcpy(p + page * PAGE, self->p + page * PAGE, PAGE);
	ASSERT_EQ(0, command(self->fd, HMM_DMIRROR_READ, cmd));
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
	EXPECT_EQ(copies, on_device(self->fd, p, PAGES));
	for (int page = 0; page < PAGES; page++)
		EXPECT_EQ(!(page % 2), on_device(self->fd, p + page * PAGE, 1));
	for (int page = 0; page < PAGES; page += 2) {
		EXPECT_EQ(0, memcmp(self->data + page * PAGE, self->p + page * PAGE, PAGE));
		EXPECT_EQ(1, self->data[(page + 1) * PAGE]);
	}

	/* A copy of the copy, of which the file knows nothing either. */
	cmd.npages = 1;
	for (int side = 0; side < 2; side++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid) {
			p[0] ^= 0xff;
			_exit(p[0] != (char)(self->p[0] ^ 0xff) || p[1] != self->p[1]);
		}
		EXPECT_TRUE(tern_child_ok(pid));
		EXPECT_EQ(0, memcmp(p, self->p, PAGE));
		EXPECT_EQ(1, file[0]);
		EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
		EXPECT_EQ(copies, on_device(self->fd, p, PAGES));
	}
	/* A copy goes with its page of the file. */
	ASSERT_EQ(0, ftruncate(fd, BYTES - 2 * PAGE));
	EXPECT_EQ(copies - 1, on_device(self->fd, p, PAGES - 2));

	cmd.npages = copies;
	EXPECT_EQ(0, tern_ioctl(self->fd, HMM_DMIRROR_MIGRATE_TO_SYS, &cmd));
	EXPECT_EQ(copies / 2, cmd.cpages);
	ASSERT_EQ(0, tern_driver("unbind", self->name));
	for (int page = 0; page < PAGES - 2; page++) {
		const char *expected = page % 2 ? file : self->p;

		EXPECT_EQ(1, file[page * PAGE]);
		EXPECT_EQ(0, memcmp(p + page * PAGE, expected + page * PAGE, PAGE));
	}
	ASSERT_EQ(0, tern_driver("bind", self->name));
	close(fd);
}

/* A huge page of a file stays as it is. */
TEST_F(dmirror, huge_page_of_a_file)
{
	const char *mount_point = "/tmp/tern-dmirror";
	struct hmm_dmirror_cmd cmd;
	char *p;
	int fd;

	mkdir(mount_point, 0700);
	ASSERT_EQ(0, mount("tmpfs", mount_point, "tmpfs", 0, "huge=always"));
	fd = open(mount_point, O_TMPFILE | O_RDWR, 0600);
	EXPECT_EQ(0, umount2(mount_point, MNT_DETACH));
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE_PAGE));
	p = map_private(&self->t, fd, 2 * HUGE_PAGE);
	ASSERT_NE(NULL, p);
	cmd = (struct hmm_dmirror_cmd){
		.addr = (uintptr_t)p,
		.ptr = (uintptr_t)self->data,
		.npages = PAGES,
	};
	ASSERT_EQ(0, p[0]);
	/* With a copy in the area. */
	p[HUGE_PAGE] = 1;
	ASSERT_EQ(HUGE_PAGE >> 10, tern_smaps(p, "ShmemPmdMapped"));
	EXPECT_EQ(-ENOENT, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
	EXPECT_EQ(HUGE_PAGE >> 10, tern_smaps(p, "ShmemPmdMapped"));
	ASSERT_EQ(0, command(self->fd, HMM_DMIRROR_READ, cmd));
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
	EXPECT_EQ(HUGE_PAGE >> 10, tern_smaps(p, "ShmemPmdMapped"));

	p[PAGE] = 1;
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_READ, cmd));
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
	EXPECT_EQ(1, on_device(self->fd, p, PAGES));
	EXPECT_EQ(1, self->data[PAGE]);
	/* It is mapped by PTEs now, and has not been split. */
	p = map_private(&self->t, fd, HUGE_PAGE);
	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, p[PAGE]);
	EXPECT_EQ(HUGE_PAGE >> 10, tern_smaps(p, "ShmemPmdMapped"));
	close(fd);
}

/* A page that somebody holds stays, and the others move. */
TEST_F(dmirror, held_page)
{
	struct iovec held = { self->p + 3 * PAGE, PAGE };
	int ends[2];

	ASSERT_EQ(0, pipe(ends));
	ASSERT_EQ(PAGE, vmsplice(ends[1], &held, 1, 0));
	EXPECT_EQ(-ENOENT, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, all_of(self)));
	EXPECT_EQ(PAGES - 1, on_device(self->fd, self->p, PAGES));
	EXPECT_EQ(0, on_device(self->fd, held.iov_base, 1));
	close(ends[0]);
	close(ends[1]);
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, all_of(self)));
	EXPECT_EQ(PAGES, on_device(self->fd, self->p, PAGES));
	EXPECT_TRUE(is_intact(self));
}

/* Areas of which nothing can ever migrate. */
TEST_F(dmirror, areas)
{
	const char *path = "/proc/sys/vm/nr_hugepages";
	const int has_huge = !tern_put(path, "1") && tern_number(path) == 1;
	void *const p[] = {
		mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0),
		mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0),
	};

	EXPECT_TRUE(has_huge);
	for (int i = 0; i < ARRAY_SIZE(p); i++) {
		struct hmm_dmirror_cmd cmd = all_of(self);

		ASSERT_NE(MAP_FAILED, p[i]);
		ASSERT_NE(NULL, tern_keep(&self->t, p[i], i ? HUGE_PAGE : BYTES));
		memset(p[i], 1, BYTES);
		cmd.addr = (uintptr_t)p[i];
		EXPECT_EQ(-EINVAL, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, cmd));
		EXPECT_EQ(-EINVAL, command(self->fd, HMM_DMIRROR_MIGRATE_TO_SYS, cmd));
		EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_READ, cmd));
	}
	tern_put(path, "0");
}

/* A huge page on the device, and room for its data. */
static char *huge_on_device(struct _test_data_dmirror *self, char **data)
{
	char *p = (char *)tern_filled(&self->t, HUGE_PAGE, MADV_HUGEPAGE);

	*data = tern_map(&self->t, HUGE_PAGE, MADV_NORMAL);
	if (!p || !*data || tern_anon_huge(p) != HUGE_PAGE >> 10)
		return NULL;
	return command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, (struct hmm_dmirror_cmd){
		.addr = (uintptr_t)p,
		.ptr = (uintptr_t)*data,
		.npages = HUGE_PAGE / PAGE,
	}) ? NULL : p;
}

/* Of a huge page comes back what is asked for. */
TEST_F(dmirror, part_of_a_huge_page)
{
	char *data, *p = huge_on_device(self, &data);
	struct hmm_dmirror_cmd cmd = { .addr = (uintptr_t)p + 100 * PAGE, .npages = PAGES };

	ASSERT_NE(NULL, p);
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)data, HUGE_PAGE, 0));
	ASSERT_EQ(HUGE_PAGE / PAGE, on_device(self->fd, p, HUGE_PAGE / PAGE));
	EXPECT_EQ(0, tern_ioctl(self->fd, HMM_DMIRROR_MIGRATE_TO_SYS, &cmd));
	EXPECT_EQ(PAGES, cmd.cpages);
	EXPECT_EQ(HUGE_PAGE / PAGE - PAGES, on_device(self->fd, p, HUGE_PAGE / PAGE));
	EXPECT_EQ(0, on_device(self->fd, p + 100 * PAGE, PAGES));
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)p, HUGE_PAGE, 0));
}

/* The CPU brings back the page that it touches, and a huge page whole. */
TEST_F(dmirror, touch)
{
	char *data, *p = huge_on_device(self, &data);

	ASSERT_NE(NULL, p);
	EXPECT_EQ(tern_pattern(300 * WORDS(PAGE)), *(unsigned long *)(p + 300 * PAGE));
	EXPECT_EQ(0, on_device(self->fd, p, HUGE_PAGE / PAGE));
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)p, HUGE_PAGE, 0));

	ASSERT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, all_of(self)));
	for (int page = 0; page < PAGES; page++) {
		const unsigned long i = page * WORDS(PAGE);

		EXPECT_EQ(PAGES - page, on_device(self->fd, self->p, PAGES));
		EXPECT_EQ(tern_pattern(i), ((unsigned long *)self->p)[i]);
	}
	EXPECT_EQ(0, on_device(self->fd, self->p, PAGES));
	EXPECT_TRUE(is_intact(self));
}

/* With a file goes all device memory; and what it has armed, which is its own. */
TEST_F(dmirror, close)
{
	int other = open_mirror();
	pid_t pid;

	ASSERT_LE(0, other);
	ASSERT_EQ(0, command(other, HMM_DMIRROR_MIGRATE_TO_DEV, all_of(self)));
	ASSERT_EQ(0, fail_alloc(other));
	EXPECT_EQ(PAGES, on_device(self->fd, self->p, PAGES));
	close(other);
	EXPECT_EQ(0, on_device(self->fd, self->p, PAGES));

	other = open_mirror();
	ASSERT_EQ(0, fail_alloc(other));
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, page_of(self, 0)));
	EXPECT_EQ(-ENOENT, command(other, HMM_DMIRROR_MIGRATE_TO_DEV, page_of(self, 1)));
	ASSERT_EQ(0, fail_alloc(other));
	EXPECT_EQ(-ENOMEM, command(other, HMM_DMIRROR_MIGRATE_TO_SYS, page_of(self, 0)));
	ASSERT_EQ(0, fail_alloc(other));
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_SYS, page_of(self, 0)));
	close(other);
	EXPECT_TRUE(is_intact(self));

	/* By the end of the process. */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		other = open_mirror();
		_exit(other < 0 || command(other, HMM_DMIRROR_MIGRATE_TO_DEV, all_of(self)));
	}
	EXPECT_TRUE(tern_child_ok(pid));
}

struct handler {
	int uffd;
	const char *data;
};

/* A thread that serves faults of userfaultfd until its file is closed. */
static void *serve(void *arg)
{
	struct handler *handler = arg;
	struct pollfd ready = { .fd = handler->uffd, .events = POLLIN };
	struct uffd_msg msg;

	for (int i = 0; i < PAGES; i++) {
		struct uffdio_copy copy = { .src = (uintptr_t)handler->data, .len = PAGE };

		if (poll(&ready, 1, 20000) != 1 ||
		    read(handler->uffd, &msg, sizeof(msg)) != sizeof(msg))
			break;
		copy.dst = msg.arg.pagefault.address & ~(PAGE - 1);
		if (ioctl(handler->uffd, UFFDIO_COPY, &copy))
			break;
	}
	return NULL;
}

/* Memory that a handler in user space has to provide is waited for only by READ_UNLOCKED. */
TEST_F(dmirror, userfaultfd)
{
	const unsigned long fails[] = {
		HMM_DMIRROR_READ, HMM_DMIRROR_WRITE, HMM_DMIRROR_EXCLUSIVE,
	};
	char *p = tern_map(&self->t, BYTES, MADV_NOHUGEPAGE);
	struct handler handler = {
		.uffd = tern_userfaultfd(p, BYTES, UFFDIO_REGISTER_MODE_MISSING, 0),
		.data = self->p,
	};
	struct hmm_dmirror_cmd cmd = all_of(self);
	pthread_t thread;

	ASSERT_NE(NULL, p);
	if (handler.uffd == -EOPNOTSUPP)
		SKIP(return, "no userfaultfd");
	ASSERT_LE(0, handler.uffd);
	cmd.addr = (uintptr_t)p;
	for (int i = 0; i < ARRAY_SIZE(fails); i++)
		EXPECT_EQ(-EFAULT, command(self->fd, fails[i], cmd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, serve, &handler));
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_READ_UNLOCKED, cmd));
	for (int i = 0; i < PAGES; i++)
		EXPECT_EQ(0, memcmp(self->data + i * PAGE, self->p, PAGE));
	pthread_join(thread, NULL);
	EXPECT_EQ(0, command(self->fd, HMM_DMIRROR_READ, cmd));
	close(handler.uffd);
}

/* A call that fails has not read, or written, some of it. */
TEST_F(dmirror, all_or_nothing)
{
	char *p = (char *)tern_filled(&self->t, HUGE_PAGE, MADV_NOHUGEPAGE);
	char *data = tern_map(&self->t, HUGE_PAGE, MADV_NOHUGEPAGE);
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)p,
		.ptr = (uintptr_t)data,
		.npages = HUGE_PAGE / PAGE,
	};
	size_t same = 0;

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, data);
	memset(data, 0, HUGE_PAGE);
	ASSERT_EQ(0, mprotect(p + HUGE_PAGE - PAGE, PAGE, PROT_NONE));
	EXPECT_EQ(-EFAULT, command(self->fd, HMM_DMIRROR_READ, cmd));
	EXPECT_EQ(-EFAULT, command(self->fd, HMM_DMIRROR_READ_UNLOCKED, cmd));
	while (same < HUGE_PAGE && !data[same])
		same++;
	EXPECT_EQ(HUGE_PAGE, same);

	ASSERT_EQ(0, mprotect(p + HUGE_PAGE - PAGE, PAGE, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, mprotect(data + HUGE_PAGE - PAGE, PAGE, PROT_NONE));
	EXPECT_EQ(-EFAULT, command(self->fd, HMM_DMIRROR_WRITE, cmd));
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)p, HUGE_PAGE, 0));
}

/* Data that goes to, or comes from, the memory itself. */
TEST_F(dmirror, onto_itself)
{
	for (int i = 0; i < ARRAY_SIZE(calls); i++) {
		struct hmm_dmirror_cmd cmd = all_of(self);

		cmd.ptr = cmd.addr;
		if (calls[i].request == HMM_DMIRROR_SNAPSHOT)
			continue;
		EXPECT_EQ(0, command(self->fd, calls[i].request, cmd))
			TH_LOG("%s", calls[i].name);
		EXPECT_EQ(-1, tern_check_pattern((unsigned long *)self->p, BYTES, 0));
	}
}

/* An open file takes little memory. */
TEST_F(dmirror, many_files)
{
	const unsigned long each = 256;
	unsigned long before = tern_count("/proc/meminfo", "MemFree:"), after;
	int fds[128];

	for (int i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = open_mirror();
		ASSERT_LE(0, fds[i]);
	}
	after = tern_count("/proc/meminfo", "MemFree:");
	EXPECT_LT(before, after + ARRAY_SIZE(fds) * each);
	for (int i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

/* A file that has outlived the process whose memory it mirrors. */
TEST_F(dmirror, owner_is_gone)
{
	struct hmm_dmirror_cmd cmd = all_of(self);
	int ends[2], ready[2], status;
	pid_t owner, heir;
	char c;

	ASSERT_EQ(0, pipe(ends));
	ASSERT_EQ(0, pipe(ready));
	/* Whoever closes a file takes the device's memory from all others. */
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	owner = fork();
	ASSERT_LE(0, owner);
	if (!owner) {
		int fd = open_mirror();

		heir = fork();
		if (fd < 0 || heir < 0)
			_exit(1);
		if (heir)
			_exit(command(fd, HMM_DMIRROR_READ, cmd) != 0);
		/* Until the owner has been waited for. */
		close(ends[1]);
		status = read(ends[0], &c, 1) != 0;
		for (int i = 0; i < ARRAY_SIZE(calls); i++)
			status |= (command(fd, calls[i].request, cmd) != -calls[i].gone) << i;
		_exit(write(ready[1], &status, sizeof(status)) != sizeof(status));
	}
	ASSERT_TRUE(tern_child_ok(owner));
	close(ends[1]);
	close(ready[1]);
	ASSERT_EQ(sizeof(status), read(ready[0], &status, sizeof(status)));
	EXPECT_EQ(0, status);
	EXPECT_LT(0, wait(NULL));
	close(ends[0]);
	close(ready[0]);
}

/* Has modprobe load or remove a module. */
static int module(const char *option, const char *name)
{
	pid_t pid = fork();

	if (!pid) {
		execlp("modprobe", "modprobe", option, name, (char *)NULL);
		_exit(127);
	}
	return pid > 0 && tern_child_ok(pid) ? 0 : -1;
}

/* Without the driver there is no node, and an open file has no device. */
TEST_F(dmirror, unbind)
{
	ASSERT_EQ(0, command(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, all_of(self)));
	ASSERT_EQ(0, tern_driver("unbind", self->name));
	for (int i = 0; i < ARRAY_SIZE(calls); i++)
		EXPECT_EQ(-ENODEV, command(self->fd, calls[i].request, all_of(self)));
	EXPECT_EQ(-1, open(NODE, O_RDWR));
	EXPECT_EQ(ENOENT, errno);
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)self->p, BYTES, 0));

	ASSERT_EQ(0, tern_driver("bind", self->name));
	EXPECT_EQ(-ENODEV, command(self->fd, HMM_DMIRROR_READ, all_of(self)));
	close(self->fd);
	self->fd = open_mirror();
	ASSERT_LE(0, self->fd);
	EXPECT_TRUE(is_intact(self));
}

/* In a child, in the cgroup: reclaim looks at such memory. 0 if all is well. */
static int reclaim_exclusive(void)
{
	static char data[3 * PAGE];
	struct tern t = {};
	char *p = tern_map(&t, RECLAIM_BYTES, MADV_NORMAL);
	int mirror = open_mirror();

	if (!p || mirror < 0 || tern_put(CGROUP "/cgroup.procs", "0"))
		return 2;
	tern_write_pattern((unsigned long *)p, RECLAIM_BYTES);
	for (size_t at = 0; at < RECLAIM_BYTES; at += PAGE << RECLAIM_ORDER) {
		struct hmm_dmirror_cmd cmd = {
			.addr = (uintptr_t)p + at,
			.ptr = (uintptr_t)data,
			.npages = sizeof(data) / PAGE,
		};

		if (command(mirror, HMM_DMIRROR_EXCLUSIVE, cmd))
			return 3;
	}
	/* As much of it as can be had; from anonymous memory alone, and not. */
	for (int i = 0; i < 3; i++) {
		tern_put(CGROUP "/memory.reclaim", "8M");
		tern_put(CGROUP "/memory.reclaim", "4M swappiness=200");
	}
	return tern_check_pattern((unsigned long *)p, RECLAIM_BYTES, 0) == -1 ? 0 : 4;
}

/* Some pages of each large folio are not present, and it is mapped all the same. */
TEST_F(dmirror, exclusive_and_reclaim)
{
	struct tern_orders old = {};
	int status;
	pid_t pid;

	if (!tern_has_swap() || tern_make_cgroup(CGROUP))
		SKIP(return, "needs swap, and memory cgroups of version 2");
	if (tern_choose_order(&old, RECLAIM_ORDER))
		SKIP(return, "needs a kernel with mTHP");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(reclaim_exclusive());
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, tern_restore_orders(&old));
	EXPECT_EQ(0, rmdir(CGROUP));
}

/* The names are whose device was there first; the other one works without. */
TEST_F(dmirror, test_hmm)
{
	if (module("-n", "test_hmm"))
		SKIP(return, "no module test_hmm");
	ASSERT_EQ(0, module("-q", "test_hmm"));
	EXPECT_TRUE(is_intact(self));
	close(self->fd);
	self->fd = open_mirror();
	ASSERT_LE(0, self->fd);
	EXPECT_TRUE(is_intact(self));
	ASSERT_EQ(0, module("-r", "test_hmm"));
	EXPECT_TRUE(is_intact(self));
	close(self->fd);
	ASSERT_EQ(0, tern_driver("unbind", self->name));

	ASSERT_EQ(0, module("-q", "test_hmm"));
	ASSERT_EQ(0, tern_driver("bind", self->name));
	EXPECT_EQ(-1, open_mirror());
	ASSERT_EQ(0, module("-r", "test_hmm"));
	ASSERT_EQ(0, tern_driver("unbind", self->name));
	ASSERT_EQ(0, tern_driver("bind", self->name));
	self->fd = open_mirror();
	ASSERT_LE(0, self->fd);
	EXPECT_TRUE(is_intact(self));
}

TEST_HARNESS_MAIN
