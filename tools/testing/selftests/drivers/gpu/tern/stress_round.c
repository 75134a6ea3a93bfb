// SPDX-License-Identifier: GPL-2.0
/* Runs a plan: a thread for each region, which does its operations one after another. */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "stress.h"

/*
 * Regions are far from where the kernel puts what may be anywhere, so that nothing else comes to
 * lie where they have holes, and always at the same addresses.
 */
#define FIRST_REGION 0x100000000000UL
#define REGION_STRIDE 0x40000000UL

static void *shared_memory(size_t bytes)
{
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void *zeroed(struct region *r, size_t count, size_t bytes)
{
	void *p = calloc(count, bytes);

	if (!p)
		fail_text(r, "no memory");
	return p;
}

static void region_prepare(struct round *round, unsigned int id)
{
	const struct plan *plan = &round->shared->plan;
	struct region *r = &round->regions[id];
	int ret;

	r->round = round;
	r->id = id;
	r->nr_pages = plan->pages;
	r->base = (char *)(FIRST_REGION + id * REGION_STRIDE);
	r->last_stamp = STAMP_REGION(id);
	r->job = (unsigned long)id << 32;
	r->pages = zeroed(r, plan->pages, sizeof(*r->pages));
	r->doubts = zeroed(r, MAX_DOUBTS, sizeof(*r->doubts));
	r->copy = zeroed(r, 64, PAGE);
	r->todo = zeroed(r, TERN_STEPS, sizeof(*r->todo));
	r->well = zeroed(r, TERN_STEPS, sizeof(*r->well));
	r->steps = shared_memory(sizeof(*r->steps));
	for (unsigned int i = 0; i < MAX_CHILDREN; i++)
		r->children[i].control = shared_memory(sizeof(*r->children[i].control));
	ret = tern_queue_init(&round->t, &r->queue, 0);
	if (ret)
		fail_text(r, "no queue: %s", strerror(-ret));
}

/* A file whose pages regions map, of which all words follow from the page. */
static void make_file(struct round *round)
{
	unsigned int pages = 2 * round->shared->plan.pages;
	unsigned long *words = tern_shared(pages * PAGE, &round->file);

	if (!words)
		fail_text(&round->regions[0], "no file: %m");
	for (unsigned int page = 0; page < pages; page++) {
		for (unsigned int word = 0; word < PAGE_WORDS; word++)
			words[page * PAGE_WORDS + word] =
				stamp_word(STAMP_FILE + page * STAMP_STEP, word);
	}
	munmap(words, pages * PAGE);
}

/* Lets whoever wants to write a page that is write-protected do so. */
static void allow_write(int uffd, unsigned long address)
{
	struct uffdio_range range = { .start = address & -PAGE, .len = PAGE };
	struct uffdio_writeprotect protect = { .range = range };
	int ret;

	do {
		ret = ioctl(uffd, UFFDIO_WRITEPROTECT, &protect);
	} while (ret && errno == EAGAIN);
	/* The page may have moved meanwhile; the access is then tried again. */
	if (ret)
		ioctl(uffd, UFFDIO_WAKE, &range);
}

static void *serve_uffd(void *arg)
{
	struct round *round = arg;
	struct pollfd poll_uffd = { .fd = round->uffd, .events = POLLIN };
	struct uffd_msg message;

	for (;;) {
		if (poll(&poll_uffd, 1, -1) < 0)
			continue;
		while (read(round->uffd, &message, sizeof(message)) == sizeof(message)) {
			if (message.event != UFFD_EVENT_PAGEFAULT)
				continue;
			allow_write(round->uffd, message.arg.pagefault.address);
			count_effect(&round->regions[0], EFFECT_WP, 1);
		}
	}
	return NULL;
}

/* Without userfaultfd its operations do nothing. */
static void open_uffd(struct round *round)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};

	round->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (round->uffd < 0 || ioctl(round->uffd, UFFDIO_API, &api) ||
	    pthread_create(&round->uffd_thread, NULL, serve_uffd, round))
		fail_text(&round->regions[0], "no userfaultfd: %m");
}

static unsigned int count_nodes(void)
{
	unsigned int count = 0;
	char path[64];

	do {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%u", count);
	} while (!access(path, F_OK) && ++count < 8);
	return count ? count : 1;
}

static void *region_run(void *arg)
{
	struct region *r = arg;
	struct plan *plan = &r->round->shared->plan;

	for (unsigned int i = 0; i < plan->nr_ops; i++) {
		if (plan->ops[i].region == r->id)
			op_run(r, &plan->ops[i]);
	}
	job_end(r);
	r->end = (struct op){ .kind = OP_REAP, .count = r->nr_pages };
	op_run(r, &r->end);
	check_span(r, (struct page_span){ 0, r->nr_pages });
	munmap(r->base, r->nr_pages * PAGE);
	return NULL;
}

static void run_regions(struct round *round)
{
	unsigned int regions = round->shared->plan.regions;
	pthread_t threads[MAX_REGIONS];

	for (unsigned int i = 0; i < regions; i++) {
		if (pthread_create(&threads[i], NULL, region_run, &round->regions[i]))
			fail_text(&round->regions[i], "no thread: %m");
	}
	for (unsigned int i = 0; i < regions; i++)
		pthread_join(threads[i], NULL);
}

static void note_totals(struct round *round)
{
	struct drm_tern_stats stats = tern_stats(&round->t);
	struct report *report = &round->shared->report;

	for (unsigned int i = 0; i < round->shared->plan.regions; i++) {
		report->steps += round->regions[i].nr_steps;
		report->refused += round->regions[i].nr_refused;
	}
	report->to_device = stats.bytes_to_device;
	report->to_system = stats.bytes_to_system;
	report->effects[EFFECT_TO_DEVICE_HUGE] = stats.to_device_huge;
	report->effects[EFFECT_TO_DEVICE_MID] = stats.to_device_mid;
	report->effects[EFFECT_TO_DEVICE_SMALL] = stats.to_device_small;
	report->effects[EFFECT_TO_SYSTEM_HUGE] = stats.to_system_huge;
	report->effects[EFFECT_TO_SYSTEM_MID] = stats.to_system_mid;
	report->effects[EFFECT_TO_SYSTEM_SMALL] = stats.to_system_small;
	report->effects[EFFECT_MAPPED] = stats.mapped_pages;
	report->effects[EFFECT_CPU_FAULT] = stats.cpu_faults;
	report->effects[EFFECT_CANCEL] = stats.cancels;
}

/* Runs the shared plan in this process, which then ends: with 0 if nothing was wrong. */
void round_run(struct shared *shared, const char *cgroup)
{
	struct round *round = calloc(1, sizeof(*round));
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!round)
		_exit(1);
	round->shared = shared;
	round->cgroup = cgroup;
	round->regions[0].round = round;
	if (cgroup && !system_enter_cgroup())
		fail_text(&round->regions[0], "no cgroup: %m");
	system_set_sizes(shared->plan.sizes);
	ret = tern_begin(&round->t);
	if (ret)
		fail_text(&round->regions[0], "no device: %s", strerror(-ret));
	round->nodes = count_nodes();
	round->maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	make_file(round);
	open_uffd(round);
	for (unsigned int i = 0; i < shared->plan.regions; i++)
		region_prepare(round, i);
	readers_start(round);
	run_regions(round);
	readers_end(&shared->report);
	note_totals(round);
	for (unsigned int i = 0; i < shared->plan.regions; i++)
		tern_queue_free(&round->t, &round->regions[i].queue);
	if (tern_end(&round->t))
		fail_text(&round->regions[0], "memory is left on the device");
	_exit(0);
}
