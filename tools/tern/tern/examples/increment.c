// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Adds one to every element of a malloc array on the device, by the C interface.
 *
 *	increment kernel.elf
 *
 * The kernel is compiled from increment-kernel.c as tern-kernel.h says.
 */
#include <stdio.h>
#include <stdlib.h>
#include <tern.h>

struct increment_args {
	uint64_t *values;
	uint64_t count;
};

static int failed(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, tern_last_error());
	return 1;
}

/* Reads a whole file into memory from malloc. */
static void *read_file(const char *path, uint64_t *size)
{
	FILE *file = fopen(path, "rb");
	void *contents = NULL;
	long end;

	if (!file)
		return NULL;
	if (!fseek(file, 0, SEEK_END) && (end = ftell(file)) > 0) {
		rewind(file);
		contents = malloc(end);
		if (contents && fread(contents, 1, end, file) != (size_t)end) {
			free(contents);
			contents = NULL;
		}
		*size = end;
	}
	fclose(file);
	return contents;
}

static int check(const uint64_t *values, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		if (values[i] != i + 1) {
			fprintf(stderr, "element %llu is wrong\n", (unsigned long long)i);
			return 1;
		}
	}
	printf("%llu elements are right\n", (unsigned long long)count);
	return 0;
}

static int run(tern_queue *queue, tern_kernel *kernel)
{
	struct increment_args args = { .count = 1 << 20 };
	tern_dispatch *dispatch;
	tern_status status;
	int result;

	args.values = malloc(args.count * sizeof(*args.values));
	if (!args.values)
		return 1;
	for (uint64_t i = 0; i < args.count; i++)
		args.values[i] = i;
	if (tern_launch(queue, kernel, &args, 256, 0, &dispatch))
		return failed("tern_launch");
	status = tern_wait(dispatch, NULL);
	tern_dispatch_release(dispatch);
	result = status ? failed("tern_wait") : check(args.values, args.count);
	free(args.values);
	return result;
}

int main(int argc, char **argv)
{
	tern_device *device = NULL;
	tern_vm *vm = NULL;
	tern_queue *queue = NULL;
	tern_module *module = NULL;
	tern_kernel *kernel = NULL;
	uint64_t size = 0;
	void *elf = argc == 2 ? read_file(argv[1], &size) : NULL;
	int result;

	if (!elf) {
		fprintf(stderr, "usage: increment kernel.elf\n");
		return 2;
	}
	if (tern_module_load(elf, size, &module) ||
	    tern_module_kernel(module, "increment", &kernel))
		result = failed("kernel");
	else if (tern_open(NULL, &device))
		result = failed("tern_open");
	else if (tern_vm_create(device, &vm) || tern_queue_create(vm, 0, 0, &queue))
		result = failed("queue");
	else
		result = run(queue, kernel);

	tern_queue_release(queue);
	tern_kernel_release(kernel);
	tern_module_release(module);
	tern_vm_release(vm);
	tern_close(device);
	free(elf);
	return result;
}
