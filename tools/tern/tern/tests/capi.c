// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Uses every function of the C interface that does something without a device.
 */
#include <assert.h>
#include <stddef.h>
#include <string.h>
#include <tern.h>

static void test_messages(void)
{
	for (int status = TERN_OK; status <= TERN_ERROR_UNKNOWN; status++)
		assert(strlen(tern_strerror(status)) > 0);
	assert(!strcmp(tern_strerror(TERN_OK), "success"));
	assert(!strcmp(tern_strerror(TERN_ERROR_TIMEOUT), "the kernel ran for too long"));
	assert(!strcmp(tern_strerror(TERN_ERROR_PENDING), "the dispatch has not ended yet"));
	assert(!strcmp(tern_strerror(TERN_ERROR_UNKNOWN), "unknown state"));
	assert(!strcmp(tern_strerror((tern_status)1000), "unknown state"));
	assert(!strcmp(tern_last_error(), ""));
}

static void test_open(void)
{
	tern_device *device = NULL;

	assert(tern_open("/nonexistent", &device) == TERN_ERROR_NO_DEVICE);
	assert(strstr(tern_last_error(), "/nonexistent"));
	assert(strstr(tern_last_error(), "No such file"));
	assert(tern_open("/dev/null", &device) == TERN_ERROR_NO_DEVICE);
	assert(strstr(tern_last_error(), "not a DRM device"));
	assert(tern_open("/dev/null", NULL) == TERN_ERROR_ARGUMENT);
	assert(!device);
}

static void test_module(const void *elf, uint64_t size)
{
	tern_module *module = NULL;
	tern_kernel *kernel = NULL;

	assert(tern_module_load("not ELF", 7, &module) == TERN_ERROR_MODULE);
	assert(tern_module_load(elf, UINT64_MAX, &module) == TERN_ERROR_ARGUMENT);
	assert(tern_module_load(NULL, 0, &module) == TERN_ERROR_ARGUMENT);
	assert(tern_module_load(elf, size, NULL) == TERN_ERROR_ARGUMENT);
	assert(tern_module_open("/nonexistent.elf", &module) == TERN_ERROR_MODULE);
	assert(!strcmp(tern_last_error(), "cannot read the module /nonexistent.elf: "
					  "No such file or directory (os error 2)"));
	assert(tern_module_open("/dev/null", &module) == TERN_ERROR_MODULE);
	assert(tern_module_open(NULL, &module) == TERN_ERROR_ARGUMENT);
	assert(!module);
	assert(tern_module_load(elf, size, &module) == TERN_OK);

	assert(tern_module_kernel(module, "absent", &kernel) == TERN_ERROR_NO_KERNEL);
	assert(strstr(tern_last_error(), "it has: increment"));
	assert(tern_module_kernel(module, NULL, &kernel) == TERN_ERROR_ARGUMENT);
	assert(tern_module_kernel(NULL, "increment", &kernel) == TERN_ERROR_ARGUMENT);
	assert(!kernel);
	assert(tern_module_kernel(module, "increment", &kernel) == TERN_OK);
	tern_module_release(module);
	tern_kernel_release(kernel);
}

static void test_null(void)
{
	struct tern_info info;
	struct tern_stats stats;
	tern_vm *vm;
	tern_queue *queue;
	tern_dispatch *dispatch;

	assert(tern_get_info(NULL, &info) == TERN_ERROR_ARGUMENT);
	assert(tern_vm_create(NULL, &vm) == TERN_ERROR_ARGUMENT);
	assert(tern_vm_stats(NULL, &stats) == TERN_ERROR_ARGUMENT);
	assert(tern_queue_create(NULL, 0, 0, &queue) == TERN_ERROR_ARGUMENT);
	assert(tern_launch(NULL, NULL, NULL, 1, 0, &dispatch) == TERN_ERROR_ARGUMENT);
	assert(tern_launch_after(NULL, NULL, NULL, 1, 0, NULL, 1, &dispatch) ==
	       TERN_ERROR_ARGUMENT);
	assert(tern_wait(NULL, NULL) == TERN_ERROR_ARGUMENT);
	assert(tern_wait_timeout(NULL, 1, NULL) == TERN_ERROR_ARGUMENT);
	assert(tern_prefetch(NULL, NULL, 1, (tern_location)2) == TERN_ERROR_ARGUMENT);
	assert(!strcmp(tern_last_error(), "there is no such location"));
	assert(tern_prefetch(NULL, NULL, 1, TERN_LOCATION_DEVICE) == TERN_ERROR_ARGUMENT);
	assert(!strcmp(tern_last_error(), "an argument is NULL"));
	tern_close(NULL);
	tern_vm_release(NULL);
	tern_queue_release(NULL);
	tern_module_release(NULL);
	tern_kernel_release(NULL);
	tern_dispatch_release(NULL);
}

/* The structs are written by Rust: their sizes are those of capi.rs. */
_Static_assert(sizeof(struct tern_info) == 40, "struct tern_info");
_Static_assert(sizeof(struct tern_stats) == 17 * 8, "struct tern_stats");
_Static_assert(offsetof(struct tern_stats, resident_bytes) == 16 * 8, "resident_bytes");
_Static_assert(sizeof(struct tern_report) == 24, "struct tern_report");

int main(void)
{
	test_messages();
	test_open();
	test_module(kernel_elf, sizeof(kernel_elf));
	test_null();
	return 0;
}
