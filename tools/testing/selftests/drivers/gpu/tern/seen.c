// SPDX-License-Identifier: GPL-2.0
/*
 * What is seen of the device from outside: trace events, fdinfo and debugfs say exactly what
 * happened. Needs root.
 */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>

#include "kselftest_harness.h"
#include "tern_pci.h"

#define TRACE "/sys/kernel/tracing/instances/tern_seen"
#define MAX_EVENTS 4096
#define MAX_TEXT (64 << 10)

enum kind { FAULT, CANCEL, BLOCK, CPU_FAULT, MIGRATE, EVICT, INVALIDATE, KINDS };

static const char *const names[KINDS] = {
	" tern_fault: ", " tern_cancel: ", " tern_block: ", " tern_cpu_fault: ",
	" tern_migrate: ", " tern_evict: ", " tern_invalidate: ",
};

/* An event; each kind has some of the members. */
struct event {
	enum kind kind;
	unsigned long start, end;
	char word[16];
	unsigned int asid, faults, huge, mid, small, mapped;
	unsigned long bytes;
	int ret;
};

FIXTURE(seen)
{
	struct tern t;
	char bus[32];
	struct event *events;
	int nr;
	/* The device is unbound, or has been. */
	int gone;
};

/* A trace is emptied by whoever opens it to write it anew. */
static int clear_events(void)
{
	int fd = open(TRACE "/trace", O_WRONLY | O_TRUNC);

	return fd < 0 ? -errno : close(fd);
}

FIXTURE_SETUP(seen)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_EQ(0, tern_bus_name(self->t.fd, self->bus, sizeof(self->bus)));
	self->events = calloc(MAX_EVENTS, sizeof(*self->events));
	ASSERT_NE(NULL, self->events);
	if (mkdir(TRACE, 0700) && errno != EEXIST)
		SKIP(return, "the kernel has no trace instances");
	ASSERT_EQ(0, tern_put(TRACE "/buffer_size_kb", "1024"));
	ASSERT_EQ(0, tern_put(TRACE "/events/tern/enable", "0"));
	ASSERT_EQ(0, clear_events());
}

FIXTURE_TEARDOWN(seen)
{
	tern_put(TRACE "/events/tern/enable", "0");
	rmdir(TRACE);
	free(self->events);
	if (!self->gone)
		ASSERT_EQ(0, tern_end(&self->t));
}

static const char moved[] =
	"range=0x%lx-0x%lx to=%15s 2M=%u mthp=%u 4K=%u bytes=%lu ns=%*u ret=%d";

/* The fields of an event's line; 0 unless all are there and as the format says. */
static int parse(struct event *e, const char *s)
{
	switch (e->kind) {
	case FAULT:
	case CANCEL:
		return sscanf(s, "asid=%u queue=%*u addr=0x%lx access=%15s", &e->asid, &e->start,
			      e->word) == 3;
	case BLOCK:
		return sscanf(s, "asid=%u start=0x%lx faults=%u ret=%d", &e->asid, &e->start,
			      &e->faults, &e->ret) == 4;
	case CPU_FAULT:
		return sscanf(s, "addr=0x%lx level=%15s ret=%d", &e->start, e->word, &e->ret) == 3;
	case MIGRATE:
	case EVICT:
		return sscanf(s, moved, &e->start, &e->end, e->word, &e->huge, &e->mid, &e->small,
			      &e->bytes, &e->ret) == 8;
	case INVALIDATE:
		return sscanf(s, "asid=%u range=0x%lx-0x%lx event=%15s mapped=%u", &e->asid,
			      &e->start, &e->end, e->word, &e->mapped) == 5;
	default:
		return 0;
	}
}

/* Reads the events of the device; their number, or -1 if a line is not as it should be. */
static int read_events(struct _test_data_seen *self)
{
	size_t bus = strlen(self->bus);
	char line[512];
	FILE *file = fopen(TRACE "/trace", "r");

	self->nr = 0;
	if (!file)
		return -1;
	while (self->nr >= 0 && fgets(line, sizeof(line), file)) {
		for (enum kind kind = 0; kind < KINDS; kind++) {
			struct event *e = &self->events[self->nr];
			char *s = strstr(line, names[kind]);

			if (!s)
				continue;
			s += strlen(names[kind]);
			*e = (struct event){ .kind = kind };
			if (strncmp(s, self->bus, bus) || strncmp(s + bus, ": ", 2) ||
			    !parse(e, s + bus + 2) || ++self->nr == MAX_EVENTS)
				self->nr = -1;
			break;
		}
	}
	fclose(file);
	return self->nr;
}

/* As read_events(), and takes them out of the trace. */
static int take_events(struct _test_data_seen *self)
{
	int nr = read_events(self);

	return clear_events() ? -1 : nr;
}

/* The first event of a kind that has something of @p's @bytes; NULL if there is none. */
static const struct event *first(struct _test_data_seen *self, enum kind kind,
				 const char *word, const void *p, size_t bytes)
{
	unsigned long start = (uintptr_t)p;

	for (int i = 0; i < self->nr; i++) {
		const struct event *e = &self->events[i];
		unsigned long end = e->end ? e->end : e->start + 1;

		if (e->kind == kind && !strcmp(e->word, word) && e->start < start + bytes &&
		    end > start)
			return e;
	}
	return NULL;
}

static unsigned int count(struct _test_data_seen *self, enum kind kind)
{
	unsigned int n = 0;

	for (int i = 0; i < self->nr; i++)
		n += self->events[i].kind == kind;
	return n;
}

/* Faults in the blocks that were served. */
static unsigned int faults_in_blocks(struct _test_data_seen *self)
{
	unsigned int faults = 0;

	for (int i = 0; i < self->nr; i++) {
		if (self->events[i].kind == BLOCK)
			faults += self->events[i].faults;
	}
	return faults;
}

/*
 * Takes the events when all faults are served. A thread may go on before its own fault is,
 * since the one of another thread got it what it wants.
 */
static int take_when_served(struct _test_data_seen *self)
{
	time_t end = time(NULL) + TERN_WAIT_SECONDS;

	do {
		if (read_events(self) < 0)
			return -1;
	} while (faults_in_blocks(self) != count(self, FAULT) && time(NULL) < end);
	return take_events(self);
}

/* Adds 1 to @bytes at @p on the device; the events and the counters tell the same of it. */
static void trace_device(struct __test_metadata *_metadata, struct _test_data_seen *self,
			 void *p, size_t bytes)
{
	struct drm_tern_stats before = tern_stats(&self->t), after;
	const struct event *fault;

	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, p, bytes));
	ASSERT_LT(0, take_when_served(self));
	after = tern_stats(&self->t);
	EXPECT_EQ(after.faults - before.faults, count(self, FAULT));
	EXPECT_EQ(after.faults - before.faults, faults_in_blocks(self));
	EXPECT_EQ(after.blocks - before.blocks, count(self, BLOCK));
	EXPECT_EQ(0, count(self, CANCEL));
	EXPECT_EQ(0, count(self, CPU_FAULT));
	EXPECT_EQ(0, count(self, EVICT));
	EXPECT_EQ(1, count(self, MIGRATE));
	fault = first(self, FAULT, "read", p, bytes);
	ASSERT_NE(NULL, fault);
	for (int i = 0; i < self->nr; i++) {
		const struct event *e = &self->events[i];

		if (e->kind == BLOCK) {
			EXPECT_EQ(0, e->start % HUGE_PAGE);
			EXPECT_EQ(0, e->ret);
		}
		if (e->kind == FAULT || e->kind == BLOCK)
			EXPECT_EQ(fault->asid, e->asid);
	}
}

TEST_F(seen, trace_huge_page)
{
	unsigned long *p = tern_filled(&self->t, HUGE_PAGE, MADV_HUGEPAGE);
	const struct event *e;

	ASSERT_NE(NULL, p);
	if (tern_anon_huge(p) != HUGE_PAGE >> 10)
		SKIP(return, "the system has no huge page to give");
	ASSERT_EQ(0, tern_put(TRACE "/events/tern/enable", "1"));

	trace_device(_metadata, self, p, HUGE_PAGE);
	e = first(self, MIGRATE, "device", p, HUGE_PAGE);
	ASSERT_NE(NULL, e);
	EXPECT_EQ((uintptr_t)p, e->start);
	EXPECT_EQ((uintptr_t)p + HUGE_PAGE, e->end);
	EXPECT_EQ(1, e->huge);
	EXPECT_EQ(0, e->mid);
	EXPECT_EQ(0, e->small);
	EXPECT_EQ(HUGE_PAGE, e->bytes);
	EXPECT_EQ(0, e->ret);
	e = first(self, INVALIDATE, "migrate", p, HUGE_PAGE);
	ASSERT_NE(NULL, e);
	EXPECT_EQ(0, e->mapped);

	EXPECT_EQ(tern_pattern(1000) + 1, p[1000]);
	ASSERT_LT(0, take_events(self));
	EXPECT_EQ(1, count(self, CPU_FAULT));
	e = first(self, CPU_FAULT, "pmd", p, HUGE_PAGE);
	ASSERT_NE(NULL, e);
	EXPECT_EQ(((uintptr_t)(p + 1000)) & -PAGE, e->start & -PAGE);
	EXPECT_EQ(0, e->ret);
	EXPECT_EQ(1, count(self, MIGRATE));
	e = first(self, MIGRATE, "system", p, HUGE_PAGE);
	ASSERT_NE(NULL, e);
	EXPECT_EQ((uintptr_t)p, e->start);
	EXPECT_EQ((uintptr_t)p + HUGE_PAGE, e->end);
	EXPECT_EQ(1, e->huge);
	EXPECT_EQ(0, e->mid + e->small);
	EXPECT_EQ(HUGE_PAGE, e->bytes);
	EXPECT_EQ(0, e->ret);
	e = first(self, INVALIDATE, "migrate", p, HUGE_PAGE);
	ASSERT_NE(NULL, e);
	EXPECT_EQ(1, e->mapped);
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));

	/* What the device maps is taken from it when the process unmaps it. */
	trace_device(_metadata, self, p, HUGE_PAGE);
	ASSERT_EQ(0, munmap(p, HUGE_PAGE));
	ASSERT_LT(0, take_events(self));
	e = first(self, INVALIDATE, "unmap", p, HUGE_PAGE);
	ASSERT_NE(NULL, e);
	EXPECT_EQ((uintptr_t)p, e->start);
	EXPECT_EQ((uintptr_t)p + HUGE_PAGE, e->end);
	EXPECT_EQ(1, e->mapped);
	EXPECT_EQ(0, count(self, MIGRATE));
}

TEST_F(seen, trace_single_pages)
{
	const size_t bytes = 16 * PAGE;
	unsigned long *p = tern_filled(&self->t, bytes, MADV_NOHUGEPAGE);
	const struct event *e;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_put(TRACE "/events/tern/enable", "1"));

	trace_device(_metadata, self, p, bytes);
	e = first(self, MIGRATE, "device", p, bytes);
	ASSERT_NE(NULL, e);
	EXPECT_EQ((uintptr_t)p, e->start);
	EXPECT_EQ((uintptr_t)p + bytes, e->end);
	EXPECT_EQ(16, e->small);
	EXPECT_EQ(0, e->huge + e->mid);
	EXPECT_EQ(bytes, e->bytes);

	EXPECT_EQ(tern_pattern(0) + 1, p[0]);
	ASSERT_LT(0, take_events(self));
	EXPECT_EQ(1, count(self, CPU_FAULT));
	e = first(self, CPU_FAULT, "pte", p, PAGE);
	ASSERT_NE(NULL, e);
	e = first(self, MIGRATE, "system", p, bytes);
	ASSERT_NE(NULL, e);
	EXPECT_EQ(16, e->small);
	EXPECT_EQ(0, e->huge + e->mid);
	EXPECT_EQ(bytes, e->bytes);
	EXPECT_EQ(-1, tern_check_pattern(p, bytes, 1));
}

TEST_F(seen, trace_refused_access)
{
	struct tern *t = &self->t;
	char *p = tern_map(t, HUGE_PAGE, MADV_NOHUGEPAGE);
	struct kernel_args args = { .p = (void *)(p + PAGE), .value = 1 };
	const struct event *e;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, munmap(p, HUGE_PAGE));
	ASSERT_EQ(0, tern_put(TRACE "/events/tern/enable", "1"));
	ASSERT_EQ(DRM_TERN_RESULT_FAULT, tern_run_threads(t, KERNEL_STORE, args, 1));
	ASSERT_LT(0, take_when_served(self));
	EXPECT_EQ(1, count(self, CANCEL));
	EXPECT_EQ(tern_stats(t).cancels, count(self, CANCEL));
	e = first(self, CANCEL, "write", p, HUGE_PAGE);
	ASSERT_NE(NULL, e);
	EXPECT_EQ((uintptr_t)args.p, e->start);
	EXPECT_EQ(0, count(self, MIGRATE));
}

TEST_F(seen, trace_off)
{
	unsigned long *p = tern_resident(&self->t, HUGE_PAGE, MADV_HUGEPAGE);

	ASSERT_NE(NULL, p);
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
	EXPECT_EQ(0, take_events(self));
}

/* All that a file has; its length, or a negative errno. */
static ssize_t read_text(const char *path, char *text)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n, len = 0;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, text + len, MAX_TEXT - 1 - len)) > 0)
		len += n;
	if (n < 0)
		len = -errno;
	close(fd);
	text[len < 0 ? 0 : len] = 0;
	return len;
}

#define MAX_PATH 128

static const char *fdinfo_path(int fd, char *path)
{
	snprintf(path, MAX_PATH, "/proc/self/fdinfo/%d", fd);
	return path;
}

static ssize_t read_fdinfo(int fd, char *text)
{
	char path[MAX_PATH];

	return read_text(fdinfo_path(fd, path), text);
}

static const char *debugfs_path(struct _test_data_seen *self, const char *name, char *path)
{
	snprintf(path, MAX_PATH, "/sys/kernel/debug/dri/%s/%s", self->bus, name);
	return path;
}

static ssize_t read_debugfs(struct _test_data_seen *self, const char *name, char *text)
{
	char path[MAX_PATH];

	return read_text(debugfs_path(self, name, path), text);
}

/* What follows "@key:", without space before it; NULL if there is no such line, or more. */
static const char *value(const char *text, const char *key)
{
	size_t len = strlen(key);
	const char *found = NULL;

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, len) || line[len] != ':')
			continue;
		if (found)
			return NULL;
		found = line + len + 1 + strspn(line + len + 1, " \t");
	}
	return found;
}

/* The number behind a key, in bytes if it has a unit of memory; -1 if it is not there. */
static long long number(const char *text, const char *key)
{
	const char *s = value(text, key);
	long long n;
	char *unit;

	if (!s)
		return -1;
	n = strtoll(s, &unit, 10);
	if (unit == s)
		return -1;
	if (!strncmp(unit, " KiB\n", 5))
		return n << 10;
	if (!strncmp(unit, " MiB\n", 5))
		return n << 20;
	return *unit == '\n' || !strncmp(unit, " ns\n", 4) ? n : -1;
}

/* Counters under their names in fdinfo and debugfs. */
struct named {
	const char *name;
	size_t offset;
};

#define NAMED(key, member) { key, offsetof(struct drm_tern_stats, member) }

static const struct named counts[] = {
	NAMED("faults", faults),
	NAMED("blocks", blocks),
	NAMED("cancels", cancels),
	NAMED("cpu-faults", cpu_faults),
	NAMED("mapped-pages", mapped_pages),
	NAMED("to-device-2M", to_device_huge),
	NAMED("to-device-mthp", to_device_mid),
	NAMED("to-device-4K", to_device_small),
	NAMED("to-device-bytes", bytes_to_device),
	NAMED("to-system-2M", to_system_huge),
	NAMED("to-system-mthp", to_system_mid),
	NAMED("to-system-4K", to_system_small),
	NAMED("to-system-bytes", bytes_to_system),
	{},
};

static const struct named times[] = {
	NAMED("collect", collect_ns),
	NAMED("copy", copy_ns),
	NAMED("install", install_ns),
	{},
};

static long long counter(const struct drm_tern_stats *stats, const struct named *named)
{
	return *(const __u64 *)((const char *)stats + named->offset);
}

/* Reads a file together with the counters as they are at that time; its length. */
static ssize_t read_with_stats(const char *path, char *text, const struct tern *t,
			       struct drm_tern_stats *stats)
{
	struct drm_tern_stats after = tern_stats(t);
	ssize_t len;

	do {
		*stats = after;
		len = read_text(path, text);
		after = tern_stats(t);
	} while (memcmp(stats, &after, sizeof(after)));
	return len;
}

TEST_F(seen, fdinfo_of_a_file)
{
	struct tern *t = &self->t;
	char *text = malloc(MAX_TEXT), path[MAX_PATH], key[64];
	struct drm_tern_stats stats;
	unsigned long *huge, *small;
	int other;

	ASSERT_NE(NULL, text);
	huge = tern_resident(t, 2 * HUGE_PAGE, MADV_HUGEPAGE);
	small = tern_resident(t, 16 * PAGE, MADV_NOHUGEPAGE);
	ASSERT_NE(NULL, huge);
	ASSERT_NE(NULL, small);
	EXPECT_EQ(-1, tern_check_pattern(small, 16 * PAGE, 1));
	ASSERT_LT(0, read_with_stats(fdinfo_path(t->fd, path), text, t, &stats));
	ASSERT_EQ(2, stats.to_device_huge);
	ASSERT_NE(NULL, value(text, "drm-driver"));
	EXPECT_EQ(0, strncmp(value(text, "drm-driver"), "tern\n", 5));
	ASSERT_NE(NULL, value(text, "drm-pdev"));
	EXPECT_EQ(0, strncmp(value(text, "drm-pdev"), self->bus, strlen(self->bus)));
	EXPECT_LT(0, number(text, "drm-client-id"));
	EXPECT_EQ(2 * HUGE_PAGE, stats.resident_bytes);
	EXPECT_EQ(2 * HUGE_PAGE, number(text, "drm-total-vram"));
	EXPECT_EQ(2 * HUGE_PAGE, number(text, "drm-resident-vram"));
	EXPECT_EQ(0, number(text, "drm-shared-vram"));
	for (const struct named *named = counts; named->name; named++) {
		snprintf(key, sizeof(key), "tern-%s", named->name);
		EXPECT_EQ(counter(&stats, named), number(text, key)) {
			TH_LOG("%s", key);
		}
	}
	for (const struct named *named = times; named->name; named++) {
		snprintf(key, sizeof(key), "tern-%s", named->name);
		EXPECT_EQ(counter(&stats, named), number(text, key)) {
			TH_LOG("%s", key);
		}
	}

	/* Another file has nothing of this one. */
	other = tern_open_device();
	ASSERT_LE(0, other);
	ASSERT_LT(0, read_fdinfo(other, text));
	EXPECT_EQ(0, number(text, "drm-total-vram"));
	EXPECT_EQ(0, number(text, "tern-faults"));
	close(other);
	free(text);
}

TEST_F(seen, fdinfo_of_two_spaces)
{
	struct tern *t = &self->t;
	char *text = malloc(MAX_TEXT);
	__u32 first = t->vm;
	struct tern_queue queue;
	unsigned long *p, *q;

	ASSERT_NE(NULL, text);
	p = tern_resident(t, HUGE_PAGE, MADV_HUGEPAGE);
	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_vm_create(t->fd, &t->vm));
	queue = t->queue;
	ASSERT_EQ(0, tern_queue_init(t, &t->queue, 0));
	q = tern_resident(t, HUGE_PAGE, MADV_HUGEPAGE);
	ASSERT_NE(NULL, q);

	ASSERT_LT(0, read_fdinfo(t->fd, text));
	EXPECT_EQ(1, tern_stats(t).to_device_huge);
	EXPECT_EQ(2, number(text, "tern-to-device-2M"));
	EXPECT_EQ(2 * HUGE_PAGE, number(text, "drm-resident-vram"));

	/* What is gone with its address space is not of the file any more. */
	tern_queue_free(t, &t->queue);
	ASSERT_EQ(0, tern_vm_destroy(t->fd, t->vm));
	t->vm = first;
	t->queue = queue;
	ASSERT_LT(0, read_fdinfo(t->fd, text));
	EXPECT_EQ(1, number(text, "tern-to-device-2M"));
	EXPECT_EQ(HUGE_PAGE, number(text, "drm-resident-vram"));
	free(text);
}

/* The line of a list that starts with the words of @start; NULL if there is none. */
static const char *line_with(const char *text, const char *start)
{
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, start, strlen(start)))
			return line;
	}
	return NULL;
}

/* The number behind " @key=" in a line; -1 if it is not there. */
static long long in_line(const char *line, const char *key)
{
	char word[64];
	const char *at, *end = line ? strchr(line, '\n') : NULL;

	snprintf(word, sizeof(word), " %s=", key);
	at = line ? strstr(line, word) : NULL;
	return at && at < end ? strtoll(at + strlen(word), NULL, 10) : -1;
}

TEST_F(seen, debugfs_of_the_device)
{
	struct tern *t = &self->t;
	char *text = malloc(MAX_TEXT), *before = malloc(MAX_TEXT), path[MAX_PATH], pid[32];
	struct drm_tern_device_query info;
	struct drm_tern_stats stats;
	const char *line;
	unsigned long *p;
	long long free_bytes = 0;

	ASSERT_NE(NULL, text);
	ASSERT_NE(NULL, before);
	if (read_debugfs(self, "stats", before) == -ENOENT)
		SKIP(return, "no debugfs");
	stats = tern_stats(t);
	ASSERT_EQ(0, stats.faults);
	p = tern_resident(t, 3 * HUGE_PAGE, MADV_HUGEPAGE);
	ASSERT_NE(NULL, p);
	EXPECT_EQ(tern_pattern(0) + 1, p[0]);
	ASSERT_LT(0, read_with_stats(debugfs_path(self, "stats", path), text, t, &stats));
	ASSERT_EQ(3, stats.to_device_huge);
	ASSERT_EQ(1, stats.to_system_huge);
	for (const struct named *named = counts; named->name; named++) {
		EXPECT_EQ(counter(&stats, named),
			  number(text, named->name) - number(before, named->name)) {
			TH_LOG("%s", named->name);
		}
	}
	EXPECT_EQ(number(before, "evicted-2M"), number(text, "evicted-2M"));
	EXPECT_LE(0, number(text, "lacking-4K"));
	EXPECT_LT(number(before, "invalidations"), number(text, "invalidations"));

	ASSERT_EQ(0, tern_query(t->fd, &info));
	ASSERT_LT(0, read_debugfs(self, "vram", text));
	EXPECT_EQ(info.vram_size, number(text, "total"));
	EXPECT_EQ(info.vram_free, number(text, "free"));
	for (int order = 0; order <= 9; order++) {
		char key[32];

		snprintf(key, sizeof(key), "free-%dK", 4 << order);
		EXPECT_LE(0, number(text, key));
		free_bytes += number(text, key) * (PAGE << order);
	}
	EXPECT_EQ(info.vram_free, free_bytes);

	ASSERT_LT(0, read_debugfs(self, "spaces", text));
	snprintf(pid, sizeof(pid), " pid=%d ", getpid());
	line = strstr(text, pid);
	ASSERT_NE(NULL, line);
	EXPECT_EQ(2 * HUGE_PAGE, in_line(line, "resident"));
	for (const struct named *named = counts; named->name; named++)
		EXPECT_EQ(counter(&stats, named), in_line(line, named->name));

	ASSERT_LT(0, read_debugfs(self, "queues", text));
	line = line_with(text, "queue=");
	ASSERT_NE(NULL, line);
	EXPECT_EQ(t->queue.seqno, in_line(line, "submitted"));
	EXPECT_EQ(t->queue.seqno, in_line(line, "started"));
	EXPECT_EQ(t->queue.seqno, in_line(line, "completed"));
	EXPECT_EQ(0, in_line(line, "stopped"));

	ASSERT_LT(0, read_debugfs(self, "engines", text));
	EXPECT_EQ(0, strncmp(value(text, "device"), "running\n", 8));
	for (__u32 i = 0; i < info.copy_engines; i++) {
		char key[32];

		snprintf(key, sizeof(key), "copy%u:", i);
		line = line_with(text, key);
		ASSERT_NE(NULL, line);
		EXPECT_EQ(in_line(line, "taken"), strtoll(strstr(line, "=") + 1, NULL, 10));
	}
	free(before);
	free(text);
}

/* Reads everything there is of a device, again and again. */
struct reader {
	struct _test_data_seen *self;
	atomic_int stop;
	unsigned long reads;
	/* The first error that is none of a device that is gone. */
	int error;
};

static void *read_all(void *arg)
{
	static const char *const files[] = { "stats", "vram", "spaces", "queues", "engines" };
	struct reader *r = arg;
	char *text = malloc(MAX_TEXT);

	while (!r->stop && !r->error) {
		for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
			ssize_t ret = read_debugfs(r->self, files[i], text);

			if (ret > 0)
				r->reads++;
			else if (ret != -ENOENT && ret != -ENODEV && ret != -EIO)
				r->error = ret ? ret : -ENODATA;
		}
		if (read_fdinfo(r->self->t.fd, text) <= 0)
			r->error = -EBADF;
	}
	free(text);
	return NULL;
}

TEST_F(seen, read_while_it_works_and_goes)
{
	enum { READERS = 3, ROUNDS = 20 };
	struct tern *t = &self->t;
	struct reader readers[READERS] = {};
	pthread_t threads[READERS];
	const struct event *e;
	unsigned long *p;
	char path[MAX_PATH], *text = malloc(MAX_TEXT);
	unsigned int evicted = 0;
	int fd;

	ASSERT_NE(NULL, text);
	fd = open(debugfs_path(self, "spaces", path), O_RDONLY);
	if (fd < 0)
		SKIP(return, "no debugfs");
	for (int i = 0; i < READERS; i++) {
		readers[i].self = self;
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, read_all, &readers[i]));
	}
	p = tern_resident(t, 2 * HUGE_PAGE, MADV_HUGEPAGE);
	ASSERT_NE(NULL, p);
	for (int i = 1; i < ROUNDS; i++) {
		EXPECT_EQ(-1, tern_check_pattern(p, PAGE, i));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, 2 * HUGE_PAGE));
	}
	ASSERT_EQ(0, tern_put(TRACE "/events/tern/tern_evict/enable", "1"));
	self->gone = 1;
	ASSERT_EQ(0, tern_driver("unbind", self->bus));

	/* What is open reads no more, and fdinfo has nothing to tell. */
	EXPECT_EQ(-1, pread(fd, text, 1, 0));
	EXPECT_EQ(EIO, errno);
	close(fd);
	ASSERT_LT(0, read_fdinfo(t->fd, text));
	EXPECT_EQ(NULL, strstr(text, "drm-"));
	EXPECT_EQ(NULL, strstr(text, "tern-"));
	EXPECT_EQ(-1, tern_check_pattern(p, 2 * HUGE_PAGE, ROUNDS));
	for (int i = 0; i < READERS; i++) {
		readers[i].stop = 1;
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, readers[i].error);
		EXPECT_LT(ROUNDS, readers[i].reads);
	}

	/* What was on the device was evicted whole. */
	ASSERT_LT(0, take_events(self));
	for (e = self->events; e < self->events + self->nr; e++) {
		EXPECT_EQ(EVICT, e->kind);
		EXPECT_EQ(0, strcmp(e->word, "system"));
		EXPECT_EQ(0, e->start % HUGE_PAGE);
		EXPECT_EQ(HUGE_PAGE, e->end - e->start);
		EXPECT_EQ(0, e->mid + e->small);
		EXPECT_EQ(e->huge * HUGE_PAGE, e->bytes);
		evicted += e->huge;
	}
	EXPECT_EQ(2, evicted);
	close(t->fd);
	ASSERT_EQ(0, tern_driver("bind", self->bus));
	ASSERT_LT(0, read_debugfs(self, "stats", text));
	EXPECT_EQ(0, number(text, "faults"));
	free(text);
}

TEST_HARNESS_MAIN
