// SPDX-License-Identifier: GPL-2.0
/*
 * A stress test of shared virtual memory; see stress.h for how it is made, and
 * Documentation/gpu/tern-testing.rst for how it is used.
 *
 * Each round is a process, so that one which crashes or hangs is reported as any failure: with
 * its seed, what is wrong, and the operations that lead to it, fewer if it fails with fewer.
 */
#include <dirent.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "stress.h"

/* Seconds that a process may take to end after SIGKILL. */
#define KILL_SECONDS 60

static struct {
	unsigned long seed, rounds;
	time_t seconds, shrink_seconds, hang_seconds;
	unsigned int regions, pages, ops;
	const char *replay;
	bool self_test;
} options = {
	.rounds = ULONG_MAX,
	.seconds = 30,
	.shrink_seconds = 60,
	.hang_seconds = 180,
	.regions = 5,
	.pages = 3 * HUGE_PAGES,
	.ops = 80,
	.self_test = true,
};

/* What the process of a round shares with this one. */
static struct shared *shared;

static double now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* One round -------------------------------------------------------------------------------- */

static void print_file(const char *path)
{
	FILE *file = fopen(path, "r");
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		printf("#   %s", line);
	if (file)
		fclose(file);
}

/* Where the threads of a process are in the kernel. */
static void print_stacks(pid_t pid)
{
	char path[64 + NAME_MAX];
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/stack", pid, entry->d_name);
		printf("# task %s\n", entry->d_name);
		print_file(path);
	}
	if (tasks)
		closedir(tasks);
}

/* Whether the process behind @pidfd has ended within @seconds. */
static bool ends_within(int pidfd, time_t seconds)
{
	struct pollfd end = { .fd = pidfd, .events = POLLIN };

	return poll(&end, 1, seconds * 1000) == 1;
}

/* Waits for the end of a round as long as it makes progress; else says that it hangs. */
static void watch(pid_t pid, int pidfd)
{
	struct report *report = &shared->report;
	double last = now();
	unsigned long beats = 0;

	while (!ends_within(pidfd, 1)) {
		unsigned long beat = __atomic_load_n(&report->beats, __ATOMIC_RELAXED);

		if (beat != beats) {
			beats = beat;
			last = now();
		} else if (now() - last > options.hang_seconds) {
			snprintf(report->text, sizeof(report->text),
				 "no operation has ended for %ld s", (long)options.hang_seconds);
			print_stacks(pid);
			break;
		}
	}
	/* Also its children, which this process is then the parent of. */
	kill(-pid, SIGKILL);
	if (!ends_within(pidfd, KILL_SECONDS))
		ksft_exit_fail_msg("process %d cannot be killed\n", pid);
}

/* Runs the shared plan; returns whether it fails. */
static bool run_shared(void)
{
	int status = 0, pidfd, left;
	pid_t pid;

	memset(&shared->report, 0, sizeof(shared->report));
	for (unsigned int i = 0; i < shared->plan.nr_ops; i++)
		shared->plan.ops[i].state = OP_AHEAD;
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		ksft_exit_fail_msg("fork: %m\n");
	if (!pid) {
		setpgid(0, 0);
		setrlimit(RLIMIT_CORE, &(struct rlimit){});
		round_run(shared, system_cgroup());
	}
	setpgid(pid, pid);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	watch(pid, pidfd);
	close(pidfd);
	waitpid(pid, &status, 0);
	while (waitpid(-pid, &left, 0) > 0)
		;
	if (WIFSIGNALED(status) && !shared->report.text[0])
		snprintf(shared->report.text, sizeof(shared->report.text),
			 "the process is ended by signal %d", WTERMSIG(status));
	return status || shared->report.text[0];
}

static bool run_plan(const struct plan *plan)
{
	memcpy(&shared->plan, plan, sizeof(*plan));
	return run_shared();
}

/* What fails ------------------------------------------------------------------------------- */

/* Prints why the shared plan has failed, and a plan that fails with as few operations as it can. */
static void report_failure(void)
{
	struct plan *plan = malloc(sizeof(*plan));
	unsigned int left;

	printf("# seed %lu: %s\n", shared->plan.seed, shared->report.text);
	ksft_print_msg("what had begun by then:\n");
	plan_print(stdout, &shared->plan, "# ", true);
	if (!plan)
		return;
	memcpy(plan, &shared->plan, sizeof(*plan));
	left = shrink(plan, run_plan, options.shrink_seconds);
	if (left) {
		ksft_print_msg("fails with %u operations, for --replay:\n", left);
		plan_print(stdout, plan, "# ", false);
	} else {
		ksft_print_msg("did not fail again; --seed=%lu --rounds=1 does all of it\n",
			       plan->seed);
	}
	free(plan);
}

/* Those of test_rounds() and what it leads to. */
#define ROUND_TESTS 4

static void print_totals(unsigned long seed, double seconds)
{
	const struct report *report = &shared->report;

	ksft_print_msg("seed %lu: %u operations, %lu steps of the device, %lu refused, ", seed,
		       shared->plan.nr_ops, report->steps, report->refused);
	printf("%lu MiB to it, %lu MiB back, %.1f s\n", report->to_device >> 20,
	       report->to_system >> 20, seconds);
}

/* Runs the shared plan and tells all about it; returns whether it is well. */
static bool run_and_report(void)
{
	double start = now();

	if (run_shared()) {
		report_failure();
		return false;
	}
	print_totals(shared->plan.seed, now() - start);
	effects_add_round(shared);
	return true;
}

static void make_shared(unsigned long seed)
{
	shared->plan.seed = seed;
	shared->plan.regions = options.regions;
	shared->plan.pages = options.pages;
	plan_make(&shared->plan, options.ops);
}

static void test_rounds(void)
{
	double end = now() + options.seconds;
	bool well = true;

	effects_begin();
	ksft_print_msg("seed %lu\n", options.seed);
	for (unsigned long i = 0; well && i < options.rounds && now() < end; i++) {
		make_shared(options.seed + i);
		well = run_and_report();
	}
	ksft_test_result(well, "rounds\n");
	ksft_test_result(effects_end(), "operations_come_to_something\n");
}

/* Nothing is left of the memory of all processes that there were. */
static void test_left(void)
{
	unsigned long left;

	if (!system_cgroup()) {
		ksft_test_result_skip("nothing_is_left: there is no memory cgroup\n");
		return;
	}
	left = system_left_bytes();
	if (left)
		ksft_print_msg("%lu bytes of memory are left\n", left);
	ksft_test_result(!left && system_remove_cgroup(), "nothing_is_left\n");
}

/* Whether operations could do all that they are for. */
static void test_missing(void)
{
	char missing[256];

	effects_missing(missing, sizeof(missing));
	if (missing[0])
		ksft_test_result_skip("nothing_is_missing: without %s\n", missing);
	else
		ksft_test_result_pass("nothing_is_missing\n");
}

static void test_replay(void)
{
	bool from_stdin = !strcmp(options.replay, "-");
	FILE *in = from_stdin ? stdin : fopen(options.replay, "r");
	int line;

	if (!in)
		ksft_exit_fail_msg("%s: %m\n", options.replay);
	line = plan_read(in, &shared->plan);
	if (line)
		ksft_exit_fail_msg("%s: line %d is no part of a trace\n", options.replay, line);
	ksft_test_result(run_and_report(), "replay\n");
}

/* Tests of this program -------------------------------------------------------------------- */

/* More than it takes on a slow machine. */
#define SELF_SHRINK_SECONDS 600

/* A small plan that ends with @kind. */
static void make_bad(enum op_kind kind, unsigned int arg)
{
	struct plan *plan = &shared->plan;

	plan->seed = 1;
	plan->regions = 1;
	plan->pages = HUGE_PAGES;
	plan_make(plan, 6);
	plan->ops[plan->nr_ops++] = (struct op){ .kind = kind, .count = HUGE_PAGES, .arg = arg };
}

/* The word that is spoiled is found, and nothing but what is needed for it is left. */
static void test_finds(const char *name, unsigned int arg)
{
	struct plan *plan = malloc(sizeof(*plan));
	bool found, kept = false;

	if (!plan)
		ksft_exit_fail_msg("no memory\n");
	make_bad(OP_SPOIL, arg);
	found = run_shared();
	ksft_print_msg("as it should: %s\n", shared->report.text);
	memcpy(plan, &shared->plan, sizeof(*plan));
	/* A mapping, and the spoiling. */
	found = found && shrink(plan, run_plan, SELF_SHRINK_SECONDS) == 2;
	for (unsigned int i = 0; i < plan->nr_ops; i++)
		kept |= plan->ops[i].kind == OP_SPOIL;
	ksft_test_result(found && kept, "%s\n", name);
	free(plan);
}

/* A trace that is printed and read again is the same, and fails as before. */
static void test_trace(void)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *stream;
	struct plan *plan = malloc(sizeof(*plan));
	bool same;

	if (!plan)
		ksft_exit_fail_msg("no memory\n");
	make_bad(OP_SPOIL, 1);
	memcpy(plan, &shared->plan, sizeof(*plan));
	stream = open_memstream(&text, &bytes);
	plan_print(stream, plan, "# ", false);
	fclose(stream);
	memset(&shared->plan, 0xff, sizeof(shared->plan));
	stream = fmemopen(text, bytes, "r");
	same = !plan_read(stream, &shared->plan) && shared->plan.seed == plan->seed &&
	       shared->plan.regions == plan->regions && shared->plan.pages == plan->pages &&
	       shared->plan.sizes == plan->sizes && shared->plan.nr_ops == plan->nr_ops &&
	       !memcmp(shared->plan.ops, plan->ops, plan->nr_ops * sizeof(plan->ops[0]));
	fclose(stream);
	free(text);
	free(plan);
	ksft_test_result(same && run_shared(), "replays_what_it_prints\n");
}

static void test_reports(const char *name, enum op_kind kind, const char *what)
{
	time_t hang_seconds = options.hang_seconds;
	bool found;

	make_bad(kind, 0);
	options.hang_seconds = kind == OP_HANG ? 5 : hang_seconds;
	found = run_shared() && strstr(shared->report.text, what);
	options.hang_seconds = hang_seconds;
	ksft_test_result(found, "%s\n", name);
}

/* Ends with a page of the cgroup's memory in a pipe. */
static void __noreturn leave_page(int pipe)
{
	struct iovec page = { .iov_len = PAGE };

	page.iov_base = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
	if (!system_enter_cgroup() || page.iov_base == MAP_FAILED)
		_exit(1);
	memset(page.iov_base, 1, PAGE);
	_exit(vmsplice(pipe, &page, 1, 0) != PAGE);
}

/* A page that somebody keeps a reference of is found as long as they do. */
static void test_finds_left(void)
{
	const char *name = "finds_a_page_that_is_left";
	unsigned long held, left;
	int ends[2];
	bool well;
	pid_t pid;

	if (!system_cgroup()) {
		ksft_test_result_skip("%s: there is no memory cgroup\n", name);
		return;
	}
	if (pipe(ends))
		ksft_exit_fail_msg("pipe: %m\n");
	fflush(stdout);
	pid = fork();
	if (!pid)
		leave_page(ends[1]);
	well = tern_child_ok(pid);
	held = system_left_bytes();
	close(ends[0]);
	close(ends[1]);
	left = system_left_bytes();
	ksft_print_msg("as it should: %lu bytes of memory are left, then %lu\n", held, left);
	ksft_test_result(well && held == PAGE && !left, "%s\n", name);
}

#define SELF_TESTS 6

static void test_self(void)
{
	test_finds("finds_a_word_of_the_device", 0);
	test_finds("finds_a_word_of_the_cpu", 1);
	test_trace();
	test_reports("reports_a_crash", OP_CRASH, "signal");
	test_reports("reports_a_hang", OP_HANG, "no operation");
	test_finds_left();
}

/* ------------------------------------------------------------------------------------------ */

static void __noreturn usage(int status)
{
	fprintf(status ? stderr : stdout,
		"stress [OPTION]...\n"
		"  --seed=N            of the first round; the next have the numbers behind it\n"
		"  --rounds=N          as many rounds, however long they take\n"
		"  --seconds=N         rounds begin until then [30]\n"
		"  --regions=N         regions of memory, and threads [5]\n"
		"  --pages=N           pages of each, a multiple of 512 [1536]\n"
		"  --ops=N             operations on each in a round [80]\n"
		"  --replay=FILE       the operations of a trace, from FILE or standard input (-)\n"
		"  --shrink-seconds=N  to make a trace smaller [60]\n"
		"  --hang-seconds=N    after which an operation hangs [180]\n"
		"  --no-self-test      only rounds\n");
	exit(status);
}

static unsigned long number(const char *text, unsigned long least, unsigned long most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 0);

	if (!*text || *end || value < least || value > most) {
		fprintf(stderr, "stress: %s is not from %lu to %lu\n", text, least, most);
		exit(2);
	}
	return value;
}

static void parse(int argc, char **argv)
{
	static const struct option names[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "rounds", required_argument, NULL, 'n' },
		{ "seconds", required_argument, NULL, 't' },
		{ "regions", required_argument, NULL, 'r' },
		{ "pages", required_argument, NULL, 'p' },
		{ "ops", required_argument, NULL, 'o' },
		{ "replay", required_argument, NULL, 'f' },
		{ "shrink-seconds", required_argument, NULL, 'k' },
		{ "hang-seconds", required_argument, NULL, 'w' },
		{ "no-self-test", no_argument, NULL, 'x' },
		{ "help", no_argument, NULL, 'h' },
		{},
	};
	int option;

	options.seed = (unsigned long)time(NULL);
	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (option) {
		case 's':
			options.seed = number(optarg, 0, ULONG_MAX);
			break;
		case 'n':
			options.rounds = number(optarg, 1, ULONG_MAX);
			options.seconds = INT_MAX;
			break;
		case 't':
			options.seconds = number(optarg, 0, INT_MAX);
			break;
		case 'r':
			options.regions = number(optarg, 1, MAX_REGIONS);
			break;
		case 'p':
			options.pages = number(optarg, HUGE_PAGES, MAX_PAGES);
			options.pages -= options.pages % HUGE_PAGES;
			break;
		case 'o':
			options.ops = number(optarg, 0, MAX_OPS / MAX_REGIONS / 2);
			break;
		case 'f':
			options.replay = optarg;
			break;
		case 'k':
			options.shrink_seconds = number(optarg, 0, INT_MAX);
			break;
		case 'w':
			options.hang_seconds = number(optarg, 1, INT_MAX);
			break;
		case 'x':
			options.self_test = false;
			break;
		default:
			usage(option == 'h' ? 0 : 2);
		}
	}
	if (optind < argc)
		usage(2);
}

int main(int argc, char **argv)
{
	int fd;

	parse(argc, argv);
	ksft_print_header();
	fd = tern_open_device();
	if (fd < 0)
		ksft_exit_skip("no Tern device in /dev/dri\n");
	close(fd);
	if (geteuid())
		ksft_exit_skip("this is not root\n");
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	system_prepare();
	if (options.replay) {
		ksft_set_plan(1);
		test_replay();
	} else {
		ksft_set_plan(ROUND_TESTS + (options.self_test ? SELF_TESTS : 0));
		if (options.self_test)
			test_self();
		test_rounds();
		test_missing();
		test_left();
	}
	system_restore();
	ksft_finished();
}
