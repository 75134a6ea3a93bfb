// SPDX-License-Identifier: GPL-2.0
/* Settings of the kernel that a run needs, which are as before when it is over. */
#include <dirent.h>

#include <fcntl.h>

#include <lib/test_hmm_uapi.h>

#include "stress.h"
#include "tern_pci.h"

#define KSM "/sys/kernel/mm/ksm/"
#define THP "/sys/kernel/mm/transparent_hugepage/"
#define MAX_SETTINGS 32

static struct setting {
	char path[96];
	char value[64];
} settings[MAX_SETTINGS];
static unsigned int nr_settings;
/* Sizes of huge pages that there are; bit n: 4 KiB << n. */
static unsigned int sizes;
static bool has_cgroup;
/* The node for the kernel's HMM tests, which can do what the driver does only when it goes. */
static int mirror = -1;
/* The device's counters. */
char system_device_stats[96];

/*
 * Looks at the counters of a cgroup, ten in a second: so many that are alike tell that they are up
 * to date, which the kernel sees to every two seconds; and how many there are at most.
 */
#define LOOKS_ALIKE 50
#define MAX_LOOKS 600

bool system_write(const char *path, const char *value)
{
	return !tern_put(path, value);
}

static void set(const char *path, const char *value)
{
	struct setting *setting = &settings[nr_settings];

	if (nr_settings == MAX_SETTINGS ||
	    tern_read_setting(path, setting->value, sizeof(setting->value)))
		return;
	snprintf(setting->path, sizeof(setting->path), "%s", path);
	nr_settings++;
	system_write(path, value);
}

static void find_sizes(void)
{
	DIR *dir = opendir(THP);
	struct dirent *entry;
	unsigned long kib;

	while (dir && (entry = readdir(dir))) {
		if (sscanf(entry->d_name, "hugepages-%lukB", &kib) == 1 && kib >= 8 &&
		    kib <= HUGE_PAGE >> 10)
			sizes |= 1U << (__builtin_ctzl(kib) - 2);
	}
	if (dir)
		closedir(dir);
}

unsigned int system_sizes(void)
{
	return sizes;
}

void system_set_sizes(unsigned int chosen)
{
	char path[96];

	for (unsigned int order = 1; order < 32; order++) {
		if (!(sizes >> order & 1))
			continue;
		tern_order_path(order, path, sizeof(path));
		system_write(path, chosen >> order & 1 ? "madvise" : "never");
	}
}

const char *system_cgroup(void)
{
	return has_cgroup ? CGROUP : NULL;
}

/* Has this process, and children that it gets, use memory of the cgroup. */
bool system_enter_cgroup(void)
{
	return system_write(CGROUP "/cgroup.procs", "0");
}

/* Bytes of anonymous memory on the lists of the cgroup. */
static unsigned long count_left(void)
{
	/* What is in the swap cache for nobody goes. */
	system_write(CGROUP "/memory.high", "0");
	return tern_count(CGROUP "/memory.stat", "active_anon") +
	       tern_count(CGROUP "/memory.stat", "inactive_anon") +
	       tern_count(CGROUP "/memory.stat", "unevictable");
}

/*
 * Bytes that the cgroup has although it has no process: folios of which somebody has kept a
 * reference, but for those that are not back on the lists.
 */
unsigned long system_left_bytes(void)
{
	unsigned long left, last;
	int alike = 0;

	/* Has each CPU put on the lists what it keeps for them. */
	system_write("/proc/sys/vm/compact_memory", "1");
	left = count_left();
	for (int i = 0; alike < LOOKS_ALIKE && i < MAX_LOOKS; i++) {
		usleep(100000);
		last = left;
		left = count_left();
		alike = left == last ? alike + 1 : 0;
	}
	system_write(CGROUP "/memory.high", "max");
	return left;
}

/* Removes the cgroup; it can be removed when no process is left in it. */
bool system_remove_cgroup(void)
{
	has_cgroup = has_cgroup && rmdir(CGROUP);
	return !has_cgroup;
}

/* Opens the node, if it is one of the driver's and not of test_hmm's. */
static void open_mirror(void)
{
	struct stat st;

	do {
		mirror = open("/dev/hmm_dmirror0", O_RDWR | O_CLOEXEC);
	} while (mirror < 0 && tern_again());
	if (mirror >= 0 && (fstat(mirror, &st) || major(st.st_rdev) != 10)) {
		close(mirror);
		mirror = -1;
	}
}

static void find_device_stats(void)
{
	int fd = tern_open_device();
	char name[64];

	if (fd >= 0 && !tern_bus_name(fd, name, sizeof(name)))
		snprintf(system_device_stats, sizeof(system_device_stats),
			 "/sys/kernel/debug/dri/%s/stats", name);
	if (fd >= 0)
		close(fd);
}

/* Whether system_evict() does something that is counted. */
bool system_evicts(void)
{
	return mirror >= 0 && !access(system_device_stats, R_OK);
}

/* Has the driver bring back all that is on the device. */
int system_evict(void)
{
	/* Any range will do. */
	struct hmm_dmirror_cmd cmd = { .addr = PAGE, .npages = 1 };

	return mirror >= 0 ? tern_ioctl(mirror, HMM_DMIRROR_RELEASE, &cmd) : 0;
}

/* Makes the kernel ready; what it does not have is left out. */
void system_prepare(void)
{
	char path[96];

	find_sizes();
	for (unsigned int order = 1; order < 32; order++) {
		if (sizes >> order & 1) {
			tern_order_path(order, path, sizeof(path));
			set(path, "madvise");
		}
	}
	set(KSM "pages_to_scan", "2000");
	set(KSM "sleep_millisecs", "20");
	set(KSM "run", "1");
	has_cgroup = !tern_make_cgroup(CGROUP);
	open_mirror();
	find_device_stats();
}

void system_restore(void)
{
	while (nr_settings) {
		nr_settings--;
		system_write(settings[nr_settings].path, settings[nr_settings].value);
	}
	system_remove_cgroup();
}
