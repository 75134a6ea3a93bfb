// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The C interface on the device. Each test returns NULL, or else what was not so.
 *
 * A test that fails leaves its objects and its memory to the kernel that may still run. Arguments
 * are never freed for that reason.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tern.h"

#include "capi.h"
#include "library.h"

#define PAGE 4096
#define ANY_NUMBER 12345
#define THREADS 64

static const char *failed(int line, const char *condition)
{
	static char text[512];

	snprintf(text, sizeof(text), "capi.c:%d: %s; the last error is \"%s\"", line, condition,
		 tern_last_error());
	return text;
}

#define CHECK(condition) do { \
		if (!(condition)) \
			return failed(__LINE__, #condition); \
	} while (0)

/* What most tests need. */
struct session {
	tern_device *device;
	tern_vm *vm;
	tern_queue *queue;
	tern_module *module;
	/* Zeros, a page. */
	uint64_t *words;
};

static tern_status begin(struct session *s, const struct capi_module *module)
{
	tern_status status = tern_open(NULL, &s->device);

	if (status == TERN_OK)
		status = tern_vm_create(s->device, &s->vm);
	if (status == TERN_OK)
		status = tern_queue_create(s->vm, 0, 0, &s->queue);
	if (status == TERN_OK)
		status = tern_module_load(module->elf, module->size, &s->module);
	s->words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return s->words == MAP_FAILED ? TERN_ERROR_SYSTEM : status;
}

static void end(struct session *s)
{
	tern_module_release(s->module);
	tern_queue_release(s->queue);
	tern_vm_release(s->vm);
	tern_close(s->device);
	munmap(s->words, PAGE);
}

/*
 * Starts @name with a copy of @args, after the @count dispatches in @after. What only the launch
 * needs is gone then.
 */
static tern_status start(struct session *s, tern_queue *queue, const char *name,
			 struct library_args *args, uint32_t timeout_ms,
			 const tern_dispatch *const *after, uint32_t count,
			 tern_dispatch **dispatch)
{
	struct library_args *kept = malloc(sizeof(*kept));
	tern_kernel *kernel;
	tern_status status = tern_module_kernel(s->module, name, &kernel);

	if (status != TERN_OK || !kept)
		return status ? status : TERN_ERROR_SYSTEM;
	*kept = *args;
	status = tern_launch_after(queue, kernel, kept, 1, timeout_ms, after, count, dispatch);
	tern_kernel_release(kernel);
	return status;
}

/* Runs @name, and tells how it ended. */
static tern_status run(struct session *s, const char *name, struct library_args *args,
		       uint32_t timeout_ms, struct tern_report *report)
{
	tern_dispatch *dispatch;
	tern_status status = start(s, s->queue, name, args, timeout_ms, NULL, 0, &dispatch);

	if (status != TERN_OK)
		return status;
	memset(report, 0xff, sizeof(*report));
	status = tern_wait(dispatch, report);
	tern_dispatch_release(dispatch);
	return status;
}

static void set(uint64_t *flag, uint64_t value)
{
	__atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

const char *capi_info(const struct capi_module *module, const struct tern_info *expected)
{
	struct tern_info info;
	struct session s;

	memset(&info, 0xff, sizeof(info));
	CHECK(begin(&s, module) == TERN_OK);
	CHECK(tern_get_info(s.device, NULL) == TERN_ERROR_ARGUMENT);
	CHECK(tern_get_info(s.device, &info) == TERN_OK);
	CHECK(info.vram_size == expected->vram_size);
	CHECK(info.vram_free == expected->vram_free);
	CHECK(info.aperture_size == expected->aperture_size);
	CHECK(info.hw_version == expected->hw_version);
	CHECK(info.copy_engines == expected->copy_engines);
	CHECK(info.resident_threads == expected->resident_threads);
	CHECK(!info.reserved);
	end(&s);
	return NULL;
}

const char *capi_launch(const struct capi_module *module)
{
	static struct library_args args = { .value = ANY_NUMBER };
	struct tern_report report;
	tern_dispatch *dispatch;
	tern_kernel *kernel;
	struct session s;

	CHECK(begin(&s, module) == TERN_OK);
	args.out = s.words;
	CHECK(tern_module_kernel(s.module, "store", &kernel) == TERN_OK);
	CHECK(tern_launch(s.queue, kernel, &args, 0, 0, &dispatch) == TERN_ERROR_ARGUMENT);
	CHECK(tern_launch(s.queue, kernel, &args, THREADS, 0, NULL) == TERN_ERROR_ARGUMENT);
	CHECK(tern_launch(s.queue, kernel, &args, THREADS, 0, &dispatch) == TERN_OK);
	tern_kernel_release(kernel);
	CHECK(tern_wait(dispatch, &report) == TERN_OK);
	CHECK(report.instructions >= THREADS);
	CHECK(!report.address && !report.access && !report.reserved);
	CHECK(tern_wait(dispatch, NULL) == TERN_OK);
	for (uint64_t i = 0; i < PAGE / sizeof(*s.words); i++)
		CHECK(s.words[i] == (i < THREADS ? ANY_NUMBER + i : 0));
	tern_dispatch_release(dispatch);
	end(&s);
	return NULL;
}

const char *capi_reports(const struct capi_module *module)
{
	/* The process may not access this, and there is no memory at an odd address in it. */
	uint64_t *nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct tern_report report;
	struct session s;

	CHECK(nothing != MAP_FAILED);
	CHECK(begin(&s, module) == TERN_OK);

	struct library_args none = { .in = nothing, .out = nothing };
	struct library_args read = { .in = nothing, .out = s.words };
	struct library_args odd = { .out = (uint64_t *)((char *)s.words + 1) };
	const struct {
		const char *kernel;
		struct library_args *args;
		tern_status status;
		const void *address;
		tern_access access;
	} cases[] = {
		{ "copy", &read, TERN_ERROR_FAULT, nothing, TERN_ACCESS_READ },
		{ "store", &none, TERN_ERROR_FAULT, nothing, TERN_ACCESS_WRITE },
		{ "add", &none, TERN_ERROR_FAULT, nothing, TERN_ACCESS_ATOMIC },
		{ "jump", &none, TERN_ERROR_FAULT, nothing, TERN_ACCESS_FETCH },
		{ "add", &odd, TERN_ERROR_MISALIGNED, odd.out, TERN_ACCESS_ATOMIC },
		{ "forever", &none, TERN_ERROR_TIMEOUT, NULL, 0 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		CHECK(run(&s, cases[i].kernel, cases[i].args, 100, &report) == cases[i].status);
		CHECK(report.address == (uintptr_t)cases[i].address);
		CHECK(report.access == cases[i].access);
		CHECK(!report.instructions && !report.reserved);
	}
	CHECK(!strcmp(tern_last_error(),
		      "the kernel ran for longer than its time limit and was ended"));

	CHECK(run(&s, "illegal", &none, 0, &report) == TERN_ERROR_ILLEGAL);
	CHECK(!memcmp((const void *)(uintptr_t)report.address, (char[4]){}, 4));
	CHECK(!report.access && !report.instructions && !report.reserved);

	/* None of them hurts the queue. */
	CHECK(run(&s, "store", &(struct library_args){ .out = s.words, .value = 1 }, 0,
		  &report) == TERN_OK);
	CHECK(s.words[0] == 1);
	munmap(nothing, PAGE);
	end(&s);
	return NULL;
}

const char *capi_launch_after(const struct capi_module *module)
{
	const tern_dispatch *many[65];
	tern_dispatch *first, *second, *other;
	tern_queue *queue, *third;
	tern_device *device;
	tern_vm *vm;
	struct session s;

	CHECK(begin(&s, module) == TERN_OK);
	CHECK(tern_queue_create(s.vm, 0, 0, &queue) == TERN_OK);
	CHECK(tern_queue_create(s.vm, 0, 0, &third) == TERN_OK);

	/* The second copies what the first writes once it is let. */
	uint64_t *flag = s.words, *out = s.words + 1, *copy = s.words + 2, *now = s.words + 3;
	struct library_args wait = { .in = flag, .out = out, .value = ANY_NUMBER };
	struct library_args copying = { .in = out, .out = copy };
	struct library_args storing = { .out = now, .value = 1 };

	CHECK(start(&s, s.queue, "await", &wait, 0, NULL, 0, &first) == TERN_OK);
	CHECK(start(&s, queue, "copy", &copying, 0, (const tern_dispatch *[]){ first }, 1,
		    &second) == TERN_OK);
	/* What waits for nothing overtakes it. */
	CHECK(start(&s, third, "store", &storing, 0, NULL, 0, &other) == TERN_OK);
	CHECK(tern_wait(other, NULL) == TERN_OK);
	CHECK(*now == 1);
	CHECK(tern_wait_timeout(second, 0, NULL) == TERN_ERROR_PENDING);
	set(flag, 1);
	CHECK(tern_wait(second, NULL) == TERN_OK);
	CHECK(*out == ANY_NUMBER + 1 && *copy == ANY_NUMBER + 1);
	tern_dispatch_release(other);

	/* Nor can these be waited for. */
	for (size_t i = 0; i < 65; i++)
		many[i] = first;
	CHECK(start(&s, queue, "copy", &copying, 0, many, 65, &other) == TERN_ERROR_ARGUMENT);
	CHECK(strstr(tern_last_error(), "at most 64, not 65"));
	many[63] = NULL;
	CHECK(start(&s, queue, "copy", &copying, 0, many, 64, &other) == TERN_ERROR_ARGUMENT);
	CHECK(start(&s, queue, "copy", &copying, 0, NULL, 1, &other) == TERN_ERROR_ARGUMENT);
	many[63] = second;
	CHECK(start(&s, queue, "copy", &copying, 0, many, 64, &other) == TERN_OK);
	CHECK(tern_wait(other, NULL) == TERN_OK);
	tern_dispatch_release(other);
	tern_queue_release(third);
	CHECK(tern_open(NULL, &device) == TERN_OK);
	CHECK(tern_vm_create(device, &vm) == TERN_OK);
	CHECK(tern_queue_create(vm, 0, 0, &third) == TERN_OK);
	CHECK(start(&s, third, "copy", &copying, 0, many, 1, &other) == TERN_ERROR_ARGUMENT);
	CHECK(strstr(tern_last_error(), "same open device"));

	tern_queue_release(third);
	tern_vm_release(vm);
	tern_close(device);
	tern_dispatch_release(first);
	tern_dispatch_release(second);
	tern_queue_release(queue);
	end(&s);
	return NULL;
}

const char *capi_wait_timeout(const struct capi_module *module)
{
	struct tern_report report, untouched;
	tern_dispatch *dispatch;
	struct session s;

	CHECK(begin(&s, module) == TERN_OK);

	struct library_args args = { .in = s.words, .out = s.words + 1 };

	memset(&untouched, 0xff, sizeof(untouched));
	report = untouched;
	CHECK(start(&s, s.queue, "await", &args, 0, NULL, 0, &dispatch) == TERN_OK);
	CHECK(tern_wait_timeout(dispatch, 0, &report) == TERN_ERROR_PENDING);
	CHECK(tern_wait_timeout(dispatch, 20, &report) == TERN_ERROR_PENDING);
	CHECK(!strcmp(tern_last_error(), "the dispatch has not ended yet"));
	CHECK(!memcmp(&report, &untouched, sizeof(report)));
	set(args.in, ANY_NUMBER);
	CHECK(tern_wait_timeout(dispatch, UINT32_MAX, &report) == TERN_OK);
	CHECK(report.instructions && report.instructions != untouched.instructions);
	CHECK(!report.address && !report.access && !report.reserved);
	CHECK(*args.out == ANY_NUMBER);
	tern_dispatch_release(dispatch);

	/* How it ended is told in the same way as by a wait without a limit. */
	args.out = (uint64_t *)((char *)s.words + 1);
	CHECK(start(&s, s.queue, "add", &args, 0, NULL, 0, &dispatch) == TERN_OK);
	CHECK(tern_wait_timeout(dispatch, UINT32_MAX, &report) == TERN_ERROR_MISALIGNED);
	CHECK(report.address == (uintptr_t)args.out && report.access == TERN_ACCESS_ATOMIC);
	tern_dispatch_release(dispatch);
	end(&s);
	return NULL;
}

const char *capi_queue_options(const struct capi_module *module)
{
	struct tern_report report, untouched;
	tern_dispatch *first, *second, *third;
	tern_queue *queue;
	struct session s;

	CHECK(begin(&s, module) == TERN_OK);
	CHECK(tern_queue_create(s.vm, 3, 0, &queue) == TERN_ERROR_ARGUMENT);
	CHECK(tern_queue_create(s.vm, 8192, 0, &queue) == TERN_ERROR_ARGUMENT);
	CHECK(tern_queue_create(s.vm, 0, 8, &queue) == TERN_ERROR_ARGUMENT);
	CHECK(tern_queue_create(s.vm, 2, 16384, &queue) == TERN_OK);

	struct library_args args = { .in = s.words, .out = s.words + 1 };
	struct library_args more = { .out = s.words + 2, .value = 1 };

	CHECK(start(&s, queue, "await", &args, 0, NULL, 0, &first) == TERN_OK);
	CHECK(start(&s, queue, "add", &more, 0, NULL, 0, &second) == TERN_OK);
	CHECK(start(&s, queue, "add", &more, 0, NULL, 0, &third) == TERN_ERROR_QUEUE_FULL);
	set(args.in, 1);
	CHECK(tern_wait(second, NULL) == TERN_OK);
	CHECK(start(&s, queue, "add", &more, 0, NULL, 0, &third) == TERN_OK);
	CHECK(tern_wait(third, NULL) == TERN_OK);
	CHECK(s.words[1] == 1 && s.words[2] == 2);

	/* It remembers two results. */
	memset(&untouched, 0xff, sizeof(untouched));
	report = untouched;
	CHECK(tern_wait(first, &report) == TERN_ERROR_FORGOTTEN);
	CHECK(!memcmp(&report, &untouched, sizeof(report)));
	CHECK(tern_wait(second, &report) == TERN_OK);
	tern_dispatch_release(first);
	tern_dispatch_release(second);
	tern_dispatch_release(third);
	tern_queue_release(queue);
	end(&s);
	return NULL;
}

const char *capi_prefetch(const struct capi_module *module)
{
	struct tern_stats before, after;
	struct session s;
	char *p;

	CHECK(begin(&s, module) == TERN_OK);
	p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	memset(p, 0x5a, PAGE);
	CHECK(!munmap(p + PAGE, PAGE));
	CHECK(tern_vm_stats(s.vm, &before) == TERN_OK);
	CHECK(tern_prefetch(s.vm, p, 2 * PAGE, TERN_LOCATION_DEVICE) == TERN_ERROR_NOT_MAPPED);
	/* What comes before the hole has moved. */
	CHECK(tern_vm_stats(s.vm, &after) == TERN_OK);
	CHECK(after.resident_bytes == before.resident_bytes + PAGE);
	CHECK(after.to_device_small == before.to_device_small + 1);
	CHECK(after.bytes_to_device == before.bytes_to_device + PAGE);
	CHECK(tern_prefetch(s.vm, p, 1, TERN_LOCATION_SYSTEM) == TERN_OK);
	CHECK(tern_vm_stats(s.vm, &after) == TERN_OK);
	CHECK(after.resident_bytes == before.resident_bytes);
	CHECK(after.bytes_to_system == before.bytes_to_system + PAGE);
	CHECK(!after.cpu_faults);
	for (int i = 0; i < PAGE; i++)
		CHECK(p[i] == 0x5a);
	munmap(p, PAGE);
	end(&s);
	return NULL;
}

/* What a dispatch was made from may be released before it has ended. */
const char *capi_any_order(const struct capi_module *module)
{
	struct library_args args;
	tern_dispatch *dispatch;
	struct session s;

	CHECK(begin(&s, module) == TERN_OK);
	args = (struct library_args){ .in = s.words, .out = s.words + 1, .value = 1 };
	CHECK(start(&s, s.queue, "await", &args, 0, NULL, 0, &dispatch) == TERN_OK);
	tern_close(s.device);
	tern_vm_release(s.vm);
	tern_queue_release(s.queue);
	tern_module_release(s.module);
	CHECK(tern_wait_timeout(dispatch, 0, NULL) == TERN_ERROR_PENDING);
	set(args.in, ANY_NUMBER);
	CHECK(tern_wait(dispatch, NULL) == TERN_OK);
	CHECK(*args.out == ANY_NUMBER + 1);
	tern_dispatch_release(dispatch);
	munmap(s.words, PAGE);
	return NULL;
}

int capi_withhold(void *page)
{
	struct uffdio_register range = {
		.range = { (uintptr_t)page, PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = { .api = UFFD_API };
	int file = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (file >= 0 && !ioctl(file, UFFDIO_API, &api) && !ioctl(file, UFFDIO_REGISTER, &range))
		return file;
	if (file >= 0)
		close(file);
	return -1;
}
