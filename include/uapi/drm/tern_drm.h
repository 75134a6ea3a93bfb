/* SPDX-License-Identifier: MIT */
#ifndef _UAPI_TERN_DRM_H_
#define _UAPI_TERN_DRM_H_

#include "drm.h"

#if defined(__cplusplus)
extern "C" {
#endif

/**
 * DOC: Tern user-space interface
 *
 * A process opens a render node, makes an address space over its own memory
 * (&DRM_IOCTL_TERN_VM_CREATE), a queue in it (&DRM_IOCTL_TERN_QUEUE_CREATE) and
 * submits dispatches (&DRM_IOCTL_TERN_SUBMIT). Any pointer that is valid in the
 * process is valid on the device. Waiting is done with DRM sync objects.
 *
 * Every struct may grow at its end. Padding and reserved members must be zero
 * and unknown flags must not be set, else the call fails with -EINVAL. Handles
 * belong to the open file that made them; one that does not exist gives -ENOENT.
 * Unless said otherwise addresses are virtual addresses of the calling process
 * and sizes are in bytes.
 */

/* Enumerators, so that bindgen can resolve the ioctl numbers. */
enum drm_tern_ioctl_id {
	DRM_TERN_DEVICE_QUERY = 0,
	DRM_TERN_VM_CREATE,
	DRM_TERN_VM_DESTROY,
	DRM_TERN_QUEUE_CREATE,
	DRM_TERN_QUEUE_DESTROY,
	DRM_TERN_SUBMIT,
	DRM_TERN_RESULT,
	DRM_TERN_STATS,
	DRM_TERN_PREFETCH,
	DRM_TERN_GEM_CREATE,
};

/**
 * struct drm_tern_device_query - what the device is
 *
 * Used with &DRM_IOCTL_TERN_DEVICE_QUERY.
 */
struct drm_tern_device_query {
	/** @flags: In. Must be zero. */
	__u32 flags;
	/** @hw_version: Out. Interface version of the device, major in the upper 16 bits. */
	__u32 hw_version;
	/** @vram_size: Out. Bytes of device memory. */
	__u64 vram_size;
	/** @vram_free: Out. Bytes of it that are free now. */
	__u64 vram_free;
	/** @aperture_size: Out. Bytes of it that the CPU can map. */
	__u64 aperture_size;
	/** @copy_engines: Out. Number of copy engines. */
	__u32 copy_engines;
	/** @resident_threads: Out. Threads of a dispatch that run at a time, for stack sizes. */
	__u32 resident_threads;
	/** @reserved: Out. Zero. */
	__u64 reserved[3];
};

/**
 * struct drm_tern_vm_create - make an address space over the caller's memory
 *
 * Used with &DRM_IOCTL_TERN_VM_CREATE. The address space follows the memory of
 * the process that makes it, until it is destroyed, the file is closed or the
 * process exits. A child made by fork() does not inherit it.
 *
 * Errors: -ENOSPC where the device has no address space left.
 */
struct drm_tern_vm_create {
	/** @flags: In. Must be zero. */
	__u32 flags;
	/** @handle: Out. The address space, not zero. */
	__u32 handle;
	/** @reserved: In. Must be zero. */
	__u64 reserved[2];
};

/**
 * struct drm_tern_handle - name an object
 *
 * Used with &DRM_IOCTL_TERN_VM_DESTROY and &DRM_IOCTL_TERN_QUEUE_DESTROY. An
 * address space that still has queues gives -EBUSY. A queue is stopped: what it
 * runs or holds ends with %DRM_TERN_RESULT_STOPPED.
 */
struct drm_tern_handle {
	/** @handle: In. The object. */
	__u32 handle;
	/** @flags: In. Must be zero. */
	__u32 flags;
};

/**
 * struct drm_tern_queue_create - make a queue of dispatches
 *
 * Used with &DRM_IOCTL_TERN_QUEUE_CREATE. Dispatches of one queue run one after
 * another, those of different queues side by side.
 *
 * Errors: -ENOSPC where the device has no queue left, -EPERM where the caller's
 * memory is not that of the address space, -EIO where the device is lost.
 */
struct drm_tern_queue_create {
	/** @vm: In. The address space. */
	__u32 vm;
	/** @flags: In. Must be zero. */
	__u32 flags;
	/** @entries: In. Dispatches that it can hold; a power of two from 2 to 4096; 0: 64. */
	__u32 entries;
	/** @handle: Out. The queue, not zero. */
	__u32 handle;
	/** @reserved: In. Must be zero. */
	__u64 reserved[2];
};

/**
 * struct drm_tern_submit - run a kernel
 *
 * Used with &DRM_IOCTL_TERN_SUBMIT. A thread starts at @entry with a0 = @args,
 * a1 = its index, a2 = @threads and a stack pointer into @stack.
 *
 * Errors: -EAGAIN where the queue is full, -EIO where it has ended or the device
 * is lost, -EPERM where the caller's memory is not that of the address space. A
 * failure of the kernel itself is no error of the call; it is told by the fence
 * and by &DRM_IOCTL_TERN_RESULT.
 */
struct drm_tern_submit {
	/** @queue: In. The queue. */
	__u32 queue;
	/** @flags: In. Must be zero. */
	__u32 flags;
	/** @entry: In. Address of the first instruction, a multiple of 2. */
	__u64 entry;
	/** @args: In. Value of a0. */
	__u64 args;
	/** @threads: In. Number of threads, at least 1. */
	__u64 threads;
	/** @stack: In. Stacks, @stack_size times &drm_tern_device_query.resident_threads bytes. */
	__u64 stack;
	/** @stack_size: In. Bytes of stack of a thread, a multiple of 16. */
	__u32 stack_size;
	/**
	 * @timeout_ms: In. Milliseconds of execution after which it is ended, at most 3600000; 0:
	 * 30000. Waits for faults and for other queues do not count; with them it may take ten
	 * times as long, then it is ended and its queue with it.
	 */
	__u32 timeout_ms;
	/**
	 * @in_syncobjs: In. Array of @in_count handles (__u32) whose fences, which must be there
	 * (-EINVAL), are waited for before it starts. The call does not wait for them; later
	 * dispatches of the queue do.
	 */
	__u64 in_syncobjs;
	/** @out_syncobjs: In. Array of @out_count handles (__u32) that get its fence. */
	__u64 out_syncobjs;
	/** @in_count: In. At most 64. */
	__u32 in_count;
	/** @out_count: In. At most 64. */
	__u32 out_count;
	/** @seqno: Out. Number of the dispatch in its queue, from 1. */
	__u64 seqno;
	/** @reserved: In. Must be zero. */
	__u64 reserved[2];
};

/** enum drm_tern_result_status - how a dispatch ended */
enum drm_tern_result_status {
	/** @DRM_TERN_RESULT_PENDING: It has not ended. */
	DRM_TERN_RESULT_PENDING = 0,
	/** @DRM_TERN_RESULT_OK: All threads ended by themselves. */
	DRM_TERN_RESULT_OK,
	/** @DRM_TERN_RESULT_FAULT: An access that the process may not make. */
	DRM_TERN_RESULT_FAULT,
	/** @DRM_TERN_RESULT_ILLEGAL: An illegal instruction. */
	DRM_TERN_RESULT_ILLEGAL,
	/** @DRM_TERN_RESULT_MISALIGNED: A misaligned atomic operation. */
	DRM_TERN_RESULT_MISALIGNED,
	/** @DRM_TERN_RESULT_TIMEOUT: It ran for too long. */
	DRM_TERN_RESULT_TIMEOUT,
	/** @DRM_TERN_RESULT_STOPPED: Its queue was destroyed or the device reset. */
	DRM_TERN_RESULT_STOPPED,
	/** @DRM_TERN_RESULT_DEVICE: The device failed. */
	DRM_TERN_RESULT_DEVICE,
};

/** enum drm_tern_access - kind of an access that failed */
enum drm_tern_access {
	/** @DRM_TERN_ACCESS_READ: A load. */
	DRM_TERN_ACCESS_READ = 0,
	/** @DRM_TERN_ACCESS_WRITE: A store. */
	DRM_TERN_ACCESS_WRITE,
	/** @DRM_TERN_ACCESS_ATOMIC: An atomic operation. */
	DRM_TERN_ACCESS_ATOMIC,
	/** @DRM_TERN_ACCESS_FETCH: An instruction fetch. */
	DRM_TERN_ACCESS_FETCH,
};

/**
 * struct drm_tern_result - how a dispatch ended
 *
 * Used with &DRM_IOCTL_TERN_RESULT. A queue remembers as many results as it has
 * entries; an older @seqno gives -ENODATA, one never submitted -ENOENT. The call
 * does not wait.
 */
struct drm_tern_result {
	/** @queue: In. The queue. */
	__u32 queue;
	/** @flags: In. Must be zero. */
	__u32 flags;
	/** @seqno: In. From &drm_tern_submit.seqno. */
	__u64 seqno;
	/** @status: Out. &enum drm_tern_result_status. */
	__u32 status;
	/** @access: Out. &enum drm_tern_access, where @status is about an address. */
	__u32 access;
	/** @address: Out. The address or instruction that failed, else zero. */
	__u64 address;
	/** @instructions: Out. Instructions that its threads retired. */
	__u64 instructions;
	/** @reserved: Out. Zero. */
	__u64 reserved[2];
};

/**
 * struct drm_tern_stats - counters of an address space
 *
 * Used with &DRM_IOCTL_TERN_STATS. All members but @vm and @flags are out and
 * count since the address space was made. Times are in nanoseconds.
 */
struct drm_tern_stats {
	/** @vm: In. The address space. */
	__u32 vm;
	/** @flags: In. Must be zero. */
	__u32 flags;
	/** @faults: Entries taken from the fault ring. */
	__u64 faults;
	/** @blocks: 2 MiB blocks served, after merging faults. */
	__u64 blocks;
	/** @cancels: Faults that could not be served. */
	__u64 cancels;
	/** @cpu_faults: CPU faults on device memory. */
	__u64 cpu_faults;
	/** @to_device_huge: Folios of 2 MiB moved whole to the device. */
	__u64 to_device_huge;
	/** @to_device_mid: Folios between 4 KiB and 2 MiB moved whole to the device. */
	__u64 to_device_mid;
	/** @to_device_small: Single pages moved to the device. */
	__u64 to_device_small;
	/** @to_system_huge: Folios of 2 MiB moved whole to system memory. */
	__u64 to_system_huge;
	/** @to_system_mid: Folios between 4 KiB and 2 MiB moved whole to system memory. */
	__u64 to_system_mid;
	/** @to_system_small: Single pages moved to system memory. */
	__u64 to_system_small;
	/** @mapped_pages: Pages of 4 KiB that were mapped where they are. */
	__u64 mapped_pages;
	/** @bytes_to_device: Bytes copied to the device; holes are not copied. */
	__u64 bytes_to_device;
	/** @bytes_to_system: Bytes copied to system memory. */
	__u64 bytes_to_system;
	/** @collect_ns: Time to collect and unmap. */
	__u64 collect_ns;
	/** @copy_ns: Time to copy. */
	__u64 copy_ns;
	/** @install_ns: Time to install the pages and the device's page table. */
	__u64 install_ns;
	/** @resident_bytes: Bytes of device memory in use by this address space. */
	__u64 resident_bytes;
	/** @reserved: Zero. */
	__u64 reserved[6];
};

/** enum drm_tern_location - where memory is */
enum drm_tern_location {
	/** @DRM_TERN_LOCATION_SYSTEM: System memory. */
	DRM_TERN_LOCATION_SYSTEM = 0,
	/** @DRM_TERN_LOCATION_DEVICE: Device memory. */
	DRM_TERN_LOCATION_DEVICE,
};

/**
 * struct drm_tern_prefetch - move memory before it is used
 *
 * Used with &DRM_IOCTL_TERN_PREFETCH. The memory has moved when the call returns;
 * whoever accesses it later may move it again. No queue is needed.
 *
 * To the device memory moves as if the device read every page of the range: a
 * large folio moves whole, and anonymous memory that is not populated is made on the
 * device, zeroed. The device then reads all that is there without a fault.
 * To system memory comes back what of the range is on the device, a large folio whole
 * even if the range has only a part of it.
 *
 * What cannot move is no error; it stays where it is. That is: memory that is not
 * anonymous, pages that are pinned, swapped out or in use by somebody else at the
 * moment, areas that cannot be read, and what the device has no memory left for.
 *
 * The call goes through the range from its start. Where it fails or a signal
 * interrupts it, @address and @size are what is left, so that the same call goes on.
 *
 * Errors: -EINVAL where @location is unknown, or the range is empty, misaligned or not
 * in user space; -EPERM where the caller's memory is not that of the address space;
 * -EFAULT where nothing is mapped at @address as it is then; -EINTR after a signal;
 * -ENOMEM where the system has no memory left; -EIO where the device is lost.
 */
struct drm_tern_prefetch {
	/** @vm: In. The address space. */
	__u32 vm;
	/** @flags: In. Must be zero. */
	__u32 flags;
	/** @address: In and out. First address of the range, a multiple of 4096. */
	__u64 address;
	/** @size: In and out. Bytes of the range, a multiple of 4096; zero on success. */
	__u64 size;
	/** @location: In. Where to: &enum drm_tern_location. */
	__u32 location;
	/** @pad: In. Must be zero. */
	__u32 pad;
	/** @reserved: In. Must be zero. */
	__u64 reserved[2];
};

/** enum drm_tern_gem_flags - how a buffer is to be */
enum drm_tern_gem_flags {
	/** @DRM_TERN_GEM_CPU: The CPU can access all of it. */
	DRM_TERN_GEM_CPU = 1 << 0,
};

/**
 * struct drm_tern_gem_create - make a buffer in device memory
 *
 * Used with &DRM_IOCTL_TERN_GEM_CREATE. A buffer does not move. It holds zeros at first.
 *
 * It is mapped by mmap() of the open file at @mmap_offset, with MAP_SHARED. The address
 * is valid on the device in every address space over the memory that maps it, with the
 * rights of the mapping, which mprotect() cannot change (-EACCES). The CPU accesses it
 * through the aperture, uncached or write-combined, if %DRM_TERN_GEM_CPU is set; else, and
 * once the driver is unbound, its accesses give SIGBUS. A child of fork() shares the mapping.
 * The kernel itself does not access it for a system call, which gets -EFAULT.
 *
 * The buffer is freed when neither its handle (&DRM_IOCTL_GEM_CLOSE) nor a mapping of it
 * is left. It cannot be shared as a dma-buf.
 *
 * Errors: -EINVAL where @size is zero or no multiple of 4096, -ENOSPC where the device,
 * or with %DRM_TERN_GEM_CPU its aperture, has not as much memory left, -EIO where the
 * device is lost.
 */
struct drm_tern_gem_create {
	/** @size: In. Bytes, a multiple of 4096. */
	__u64 size;
	/** @flags: In. Of &enum drm_tern_gem_flags. */
	__u32 flags;
	/** @handle: Out. The buffer, a GEM handle. */
	__u32 handle;
	/** @mmap_offset: Out. Where it is in the file. */
	__u64 mmap_offset;
	/** @reserved: In. Must be zero. */
	__u64 reserved[2];
};

/* Keeps the values out of the preprocessor, as bindgen needs it. */
enum {
	DRM_IOCTL_TERN_DEVICE_QUERY = DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_DEVICE_QUERY,
					       struct drm_tern_device_query),
	DRM_IOCTL_TERN_VM_CREATE = DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_VM_CREATE,
					    struct drm_tern_vm_create),
	DRM_IOCTL_TERN_VM_DESTROY = DRM_IOW(DRM_COMMAND_BASE + DRM_TERN_VM_DESTROY,
					    struct drm_tern_handle),
	DRM_IOCTL_TERN_QUEUE_CREATE = DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_QUEUE_CREATE,
					       struct drm_tern_queue_create),
	DRM_IOCTL_TERN_QUEUE_DESTROY = DRM_IOW(DRM_COMMAND_BASE + DRM_TERN_QUEUE_DESTROY,
					       struct drm_tern_handle),
	DRM_IOCTL_TERN_SUBMIT = DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_SUBMIT,
					 struct drm_tern_submit),
	DRM_IOCTL_TERN_RESULT = DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_RESULT,
					 struct drm_tern_result),
	DRM_IOCTL_TERN_STATS = DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_STATS,
					struct drm_tern_stats),
	DRM_IOCTL_TERN_PREFETCH = DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_PREFETCH,
					   struct drm_tern_prefetch),
	DRM_IOCTL_TERN_GEM_CREATE = DRM_IOWR(DRM_COMMAND_BASE + DRM_TERN_GEM_CREATE,
					     struct drm_tern_gem_create),
};

#if defined(__cplusplus)
}
#endif

#endif /* _UAPI_TERN_DRM_H_ */
