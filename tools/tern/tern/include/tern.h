/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The C interface of the Tern library: runs kernels on a Tern GPU, on the memory of
 * the calling process. Every pointer of the process is valid on the device.
 *
 * A function that can fail returns a tern_status; its results go through pointers,
 * which are not written on failure. Objects keep what they were made from: they may be
 * released in any order. A release function takes NULL and then does nothing. Objects
 * may be used from several threads; after fork() only the parent may use them.
 */
#ifndef TERN_H
#define TERN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What went wrong. */
typedef enum tern_status {
	TERN_OK = 0,
	/* An argument that no call can take. */
	TERN_ERROR_ARGUMENT = 1,
	/* There is no device, or the file is not one. */
	TERN_ERROR_NO_DEVICE = 2,
	/* The device has no address space or queue left. */
	TERN_ERROR_EXHAUSTED = 3,
	/* The queue is full. */
	TERN_ERROR_QUEUE_FULL = 4,
	/* The device is gone, or failed while it ran a dispatch, or has ended the queue. */
	TERN_ERROR_DEVICE_LOST = 5,
	/* The file is not a module that can be loaded. */
	TERN_ERROR_MODULE = 6,
	/* The module has no kernel of that name. */
	TERN_ERROR_NO_KERNEL = 7,
	/* A system call failed. */
	TERN_ERROR_SYSTEM = 8,
	/* The kernel made an access that the process may not make. */
	TERN_ERROR_FAULT = 9,
	/* The kernel has an illegal instruction. */
	TERN_ERROR_ILLEGAL = 10,
	/* The kernel made a misaligned atomic access. */
	TERN_ERROR_MISALIGNED = 11,
	/* The kernel ran for too long. */
	TERN_ERROR_TIMEOUT = 12,
	/* The dispatch was stopped. */
	TERN_ERROR_STOPPED = 13,
	/* The result of the dispatch is not known any more. */
	TERN_ERROR_FORGOTTEN = 14,
	/* The process has no memory there. */
	TERN_ERROR_NOT_MAPPED = 15,
	/* The dispatch has not ended yet. */
	TERN_ERROR_PENDING = 16,
	/* A state that this version of the library does not know. */
	TERN_ERROR_UNKNOWN = 17,
} tern_status;

/* Kind of an access that failed. */
typedef enum tern_access {
	TERN_ACCESS_READ = 0,
	TERN_ACCESS_WRITE = 1,
	TERN_ACCESS_ATOMIC = 2,
	TERN_ACCESS_FETCH = 3,
} tern_access;

/* Where memory is. */
typedef enum tern_location {
	TERN_LOCATION_SYSTEM = 0,
	TERN_LOCATION_DEVICE = 1,
} tern_location;

typedef struct tern_device tern_device;
typedef struct tern_vm tern_vm;
typedef struct tern_queue tern_queue;
typedef struct tern_module tern_module;
typedef struct tern_kernel tern_kernel;
typedef struct tern_dispatch tern_dispatch;

/* What a device is and has. Sizes are in bytes. */
struct tern_info {
	uint64_t vram_size;
	uint64_t vram_free;
	uint64_t aperture_size;
	/* Interface version, major in the upper 16 bits. */
	uint32_t hw_version;
	uint32_t copy_engines;
	/* Threads of a dispatch that run at a time. */
	uint32_t resident_threads;
	uint32_t reserved;
};

/* Counters of an address space since it was made, times in nanoseconds. */
struct tern_stats {
	/* Faults of the device, 2 MiB blocks served for them, faults not served. */
	uint64_t faults;
	uint64_t blocks;
	uint64_t cancels;
	/* CPU faults on device memory. */
	uint64_t cpu_faults;
	/* Folios moved whole: of 2 MiB, between, single pages. */
	uint64_t to_device_huge;
	uint64_t to_device_mid;
	uint64_t to_device_small;
	uint64_t to_system_huge;
	uint64_t to_system_mid;
	uint64_t to_system_small;
	/* Pages of 4 KiB mapped where they are. */
	uint64_t mapped_pages;
	uint64_t bytes_to_device;
	uint64_t bytes_to_system;
	uint64_t collect_ns;
	uint64_t copy_ns;
	uint64_t install_ns;
	/* Bytes of device memory in use now. */
	uint64_t resident_bytes;
};

/* How a dispatch ended. */
struct tern_report {
	/* Instructions that its threads retired; 0 unless it ended well. */
	uint64_t instructions;
	/* Address that TERN_ERROR_FAULT, _ILLEGAL and _MISALIGNED are about, else 0. */
	uint64_t address;
	/* Its tern_access, for TERN_ERROR_FAULT and _MISALIGNED, else 0. */
	uint32_t access;
	uint32_t reserved;
};

/* What @status means, in a few words. Never NULL. */
const char *tern_strerror(tern_status status);

/*
 * What went wrong in the last call of this thread that failed, as a sentence with the
 * details. Valid until the thread's next call into this library. Never NULL.
 */
const char *tern_last_error(void);

/*
 * Opens the device whose node is @path, such as "/dev/dri/renderD128". NULL: the one
 * that the environment variable TERN_DEVICE names, else the first one.
 */
tern_status tern_open(const char *path, tern_device **device);
void tern_close(tern_device *device);
tern_status tern_get_info(const tern_device *device, struct tern_info *info);

/* Makes an address space over the memory of the calling process. */
tern_status tern_vm_create(const tern_device *device, tern_vm **vm);
void tern_vm_release(tern_vm *vm);
tern_status tern_vm_stats(const tern_vm *vm, struct tern_stats *stats);

/*
 * Moves the pages that the @size bytes at @start lie in before they are used, so that
 * their first use takes no fault. They are there when it returns; later accesses may
 * move them again. It is a hint: what cannot be there stays where it is, such as
 * files, and all that device memory has no room for.
 */
tern_status tern_prefetch(const tern_vm *vm, const void *start, uint64_t size,
			  tern_location location);

/*
 * Makes a queue. @entries: dispatches that it holds, a power of two from 2 to 4096;
 * @stack_size: bytes of stack of a thread, a multiple of 16; 0: a default, for each.
 */
tern_status tern_queue_create(const tern_vm *vm, uint32_t entries, uint32_t stack_size,
			      tern_queue **queue);
void tern_queue_release(tern_queue *queue);

/*
 * Loads the @size bytes of an ELF file at @elf, which may go afterwards; tern-kernel.h
 * says how to make it.
 */
tern_status tern_module_load(const void *elf, uint64_t size, tern_module **module);

/* Loads the ELF file at @path. */
tern_status tern_module_open(const char *path, tern_module **module);
void tern_module_release(tern_module *module);

/* The kernel called @name. */
tern_status tern_module_kernel(const tern_module *module, const char *name,
			       tern_kernel **kernel);
void tern_kernel_release(tern_kernel *kernel);

/*
 * Starts @threads threads of @kernel with @args, its index and @threads as arguments,
 * without waiting. What the kernel accesses must stay valid until it has ended.
 * @timeout_ms: time of execution after which it is ended, at most 3600000; 0: the driver's limit.
 */
tern_status tern_launch(const tern_queue *queue, const tern_kernel *kernel, void *args,
			uint64_t threads, uint32_t timeout_ms, tern_dispatch **dispatch);

/*
 * As tern_launch(), but it starts when the @count dispatches in @after have ended,
 * well or not; at most 64, of the same open device.
 */
tern_status tern_launch_after(const tern_queue *queue, const tern_kernel *kernel, void *args,
			      uint64_t threads, uint32_t timeout_ms,
			      const tern_dispatch *const *after, uint32_t count,
			      tern_dispatch **dispatch);

/*
 * Waits until @dispatch has ended. @report may be NULL; else it is written whenever the
 * dispatch has ended, well or not.
 */
tern_status tern_wait(const tern_dispatch *dispatch, struct tern_report *report);

/* As tern_wait(), for @timeout_ms at most: TERN_ERROR_PENDING where it runs on. */
tern_status tern_wait_timeout(const tern_dispatch *dispatch, uint32_t timeout_ms,
			      struct tern_report *report);
void tern_dispatch_release(tern_dispatch *dispatch);

#ifdef __cplusplus
}
#endif

#endif /* TERN_H */
