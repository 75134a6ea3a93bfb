// SPDX-License-Identifier: MIT OR Apache-2.0
/* Adds one to every element of an array from malloc, on the device. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <tern.h>

#define COUNT ((uint64_t)1 << 20)

struct increment_args {
	uint64_t *values;
	uint64_t count;
};

/* Ends the program where a call failed. */
static void check(tern_status status)
{
	if (status == TERN_OK)
		return;
	fprintf(stderr, "%s\n", tern_last_error());
	exit(1);
}

int main(int argc, char **argv)
{
	uint64_t *values = malloc(COUNT * sizeof(*values));
	struct increment_args args = { values, COUNT };
	struct tern_stats stats;
	tern_device *device;
	tern_vm *vm;
	tern_queue *queue;
	tern_module *module;
	tern_kernel *kernel;
	tern_dispatch *dispatch;

	if (argc != 2 || !values) {
		fprintf(stderr, "usage: increment kernel.elf\n");
		return 2;
	}
	for (uint64_t i = 0; i < COUNT; i++)
		values[i] = i;

	check(tern_module_open(argv[1], &module));
	check(tern_module_kernel(module, "increment", &kernel));
	check(tern_open(NULL, &device));
	check(tern_vm_create(device, &vm));
	check(tern_queue_create(vm, 0, 0, &queue));

	/* A hint: without it, the pages go to the device when it uses them. */
	check(tern_prefetch(vm, values, COUNT * sizeof(*values), TERN_LOCATION_DEVICE));
	check(tern_launch(queue, kernel, &args, 1024, 0, &dispatch));
	check(tern_wait(dispatch, NULL));

	for (uint64_t i = 0; i < COUNT; i++) {
		if (values[i] != i + 1) {
			fprintf(stderr, "element %" PRIu64 " is wrong\n", i);
			return 1;
		}
	}
	check(tern_vm_stats(vm, &stats));
	printf("%" PRIu64 " elements are right; %" PRIu64 " MiB went to the device\n",
	       COUNT, stats.bytes_to_device >> 20);

	tern_dispatch_release(dispatch);
	tern_queue_release(queue);
	tern_vm_release(vm);
	tern_close(device);
	tern_kernel_release(kernel);
	tern_module_release(module);
	free(values);
	return 0;
}
