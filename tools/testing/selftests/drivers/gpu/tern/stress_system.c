// SPDX-License-Identifier: GPL-2.0
/* Settings of the kernel that a run needs, which are as before when it is over. */
#include <dirent.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "stress.h"

#define KSM "/sys/kernel/mm/ksm/"
#define THP "/sys/kernel/mm/transparent_hugepage/"
#define CGROUPS "/sys/fs/cgroup"
#define CGROUP CGROUPS "/tern-stress"
#define MAX_SETTINGS 32

static struct setting {
	char path[96];
	char value[64];
} settings[MAX_SETTINGS];
static unsigned int nr_settings;
/* Sizes of huge pages that there are; bit n: 4 KiB << n. */
static unsigned int sizes;
static bool has_cgroup;

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

static void make_cgroup(void)
{
	if (access(CGROUPS "/cgroup.procs", F_OK) &&
	    mount("cgroup2", CGROUPS, "cgroup2", 0, NULL))
		return;
	system_write(CGROUPS "/cgroup.subtree_control", "+memory");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		return;
	has_cgroup = !access(CGROUP "/memory.high", W_OK);
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
	make_cgroup();
}

void system_restore(void)
{
	while (nr_settings) {
		nr_settings--;
		system_write(settings[nr_settings].path, settings[nr_settings].value);
	}
	if (has_cgroup)
		rmdir(CGROUP);
}
