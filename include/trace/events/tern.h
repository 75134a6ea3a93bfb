/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trace events of the Tern GPU. Documentation/gpu/tern.rst says what they mean.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM tern

#if !defined(_TRACE_TERN_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_TERN_H

#include <linux/mmu_notifier.h>
#include <linux/tracepoint.h>
#include <uapi/drm/tern_drm.h>

TRACE_DEFINE_ENUM(DRM_TERN_ACCESS_READ);
TRACE_DEFINE_ENUM(DRM_TERN_ACCESS_WRITE);
TRACE_DEFINE_ENUM(DRM_TERN_ACCESS_ATOMIC);
TRACE_DEFINE_ENUM(DRM_TERN_ACCESS_FETCH);

TRACE_DEFINE_ENUM(MMU_NOTIFY_UNMAP);
TRACE_DEFINE_ENUM(MMU_NOTIFY_CLEAR);
TRACE_DEFINE_ENUM(MMU_NOTIFY_PROTECTION_VMA);
TRACE_DEFINE_ENUM(MMU_NOTIFY_PROTECTION_PAGE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_SOFT_DIRTY);
TRACE_DEFINE_ENUM(MMU_NOTIFY_RELEASE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_MIGRATE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_EXCLUSIVE);

/* A fault of the device. */
DECLARE_EVENT_CLASS(tern_device_fault,
		    TP_PROTO(const char *dev, u32 asid, u32 queue, u64 addr, u32 access),
		    TP_ARGS(dev, asid, queue, addr, access),
		    TP_STRUCT__entry(__string(dev, dev)
				     __field(u64, addr)
				     __field(u32, asid)
				     __field(u32, queue)
				     __field(u32, access)),
		    TP_fast_assign(__assign_str(dev);
				   __entry->addr = addr;
				   __entry->asid = asid;
				   __entry->queue = queue;
				   __entry->access = access;),
		    TP_printk("%s: asid=%u queue=%u addr=0x%llx access=%s",
			      __get_str(dev), __entry->asid, __entry->queue, __entry->addr,
			      __print_symbolic(__entry->access,
					       { DRM_TERN_ACCESS_READ, "read" },
					       { DRM_TERN_ACCESS_WRITE, "write" },
					       { DRM_TERN_ACCESS_ATOMIC, "atomic" },
					       { DRM_TERN_ACCESS_FETCH, "fetch" }))
);

/* It was reported and will be served. */
DEFINE_EVENT(tern_device_fault, tern_fault,
	     TP_PROTO(const char *dev, u32 asid, u32 queue, u64 addr, u32 access),
	     TP_ARGS(dev, asid, queue, addr, access)
);

/* It cannot be served, and its dispatch ends. */
DEFINE_EVENT(tern_device_fault, tern_cancel,
	     TP_PROTO(const char *dev, u32 asid, u32 queue, u64 addr, u32 access),
	     TP_ARGS(dev, asid, queue, addr, access)
);

/* The faults in a block of 2 MiB were served. */
TRACE_EVENT(tern_block,
	    TP_PROTO(const char *dev, u32 asid, u64 start, u32 faults, int ret),
	    TP_ARGS(dev, asid, start, faults, ret),
	    TP_STRUCT__entry(__string(dev, dev)
			     __field(u64, start)
			     __field(u32, asid)
			     __field(u32, faults)
			     __field(int, ret)),
	    TP_fast_assign(__assign_str(dev);
			   __entry->start = start;
			   __entry->asid = asid;
			   __entry->faults = faults;
			   __entry->ret = ret;),
	    TP_printk("%s: asid=%u start=0x%llx faults=%u ret=%d",
		      __get_str(dev), __entry->asid, __entry->start, __entry->faults,
		      __entry->ret)
);

/* The CPU touched device memory, which was brought back, or not. */
TRACE_EVENT(tern_cpu_fault,
	    TP_PROTO(const char *dev, u64 addr, bool huge, int ret),
	    TP_ARGS(dev, addr, huge, ret),
	    TP_STRUCT__entry(__string(dev, dev)
			     __field(u64, addr)
			     __field(bool, huge)
			     __field(int, ret)),
	    TP_fast_assign(__assign_str(dev);
			   __entry->addr = addr;
			   __entry->huge = huge;
			   __entry->ret = ret;),
	    TP_printk("%s: addr=0x%llx level=%s ret=%d",
		      __get_str(dev), __entry->addr, __entry->huge ? "pmd" : "pte",
		      __entry->ret)
);

/* Memory moved, of the range that was looked at. */
DECLARE_EVENT_CLASS(tern_moved,
		    TP_PROTO(const char *dev, u64 start, u64 end, bool to_device, u32 huge, u32 mid,
			     u32 small, u64 bytes, u64 ns, int ret),
		    TP_ARGS(dev, start, end, to_device, huge, mid, small, bytes, ns, ret),
		    TP_STRUCT__entry(__string(dev, dev)
				     __field(u64, start)
				     __field(u64, end)
				     __field(u64, bytes)
				     __field(u64, ns)
				     __field(u32, huge)
				     __field(u32, mid)
				     __field(u32, small)
				     __field(int, ret)
				     __field(bool, to_device)),
		    TP_fast_assign(__assign_str(dev);
				   __entry->start = start;
				   __entry->end = end;
				   __entry->bytes = bytes;
				   __entry->ns = ns;
				   __entry->huge = huge;
				   __entry->mid = mid;
				   __entry->small = small;
				   __entry->ret = ret;
				   __entry->to_device = to_device;),
		    TP_printk("%s: range=0x%llx-0x%llx to=%s 2M=%u mthp=%u 4K=%u bytes=%llu ns=%llu ret=%d",
			      __get_str(dev), __entry->start, __entry->end,
			      __entry->to_device ? "device" : "system", __entry->huge, __entry->mid,
			      __entry->small, __entry->bytes, __entry->ns, __entry->ret)
);

/* The range is one of virtual addresses. */
DEFINE_EVENT(tern_moved, tern_migrate,
	     TP_PROTO(const char *dev, u64 start, u64 end, bool to_device, u32 huge, u32 mid,
		      u32 small, u64 bytes, u64 ns, int ret),
	     TP_ARGS(dev, start, end, to_device, huge, mid, small, bytes, ns, ret)
);

/* The range is one of device memory, whoever maps it. */
DEFINE_EVENT(tern_moved, tern_evict,
	     TP_PROTO(const char *dev, u64 start, u64 end, bool to_device, u32 huge, u32 mid,
		      u32 small, u64 bytes, u64 ns, int ret),
	     TP_ARGS(dev, start, end, to_device, huge, mid, small, bytes, ns, ret)
);

/* The page tables of the CPU change, and the device has lost what it had of the range. */
TRACE_EVENT(tern_invalidate,
	    TP_PROTO(const char *dev, u32 asid, u64 start, u64 end, u32 event, bool mapped),
	    TP_ARGS(dev, asid, start, end, event, mapped),
	    TP_STRUCT__entry(__string(dev, dev)
			     __field(u64, start)
			     __field(u64, end)
			     __field(u32, asid)
			     __field(u32, event)
			     __field(bool, mapped)),
	    TP_fast_assign(__assign_str(dev);
			   __entry->start = start;
			   __entry->end = end;
			   __entry->asid = asid;
			   __entry->event = event;
			   __entry->mapped = mapped;),
	    TP_printk("%s: asid=%u range=0x%llx-0x%llx event=%s mapped=%d",
		      __get_str(dev), __entry->asid, __entry->start, __entry->end,
		      __print_symbolic(__entry->event,
				       { MMU_NOTIFY_UNMAP, "unmap" },
				       { MMU_NOTIFY_CLEAR, "clear" },
				       { MMU_NOTIFY_PROTECTION_VMA, "protect-vma" },
				       { MMU_NOTIFY_PROTECTION_PAGE, "protect-page" },
				       { MMU_NOTIFY_SOFT_DIRTY, "soft-dirty" },
				       { MMU_NOTIFY_RELEASE, "release" },
				       { MMU_NOTIFY_MIGRATE, "migrate" },
				       { MMU_NOTIFY_EXCLUSIVE, "exclusive" }),
		      __entry->mapped)
);

#endif /* _TRACE_TERN_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
