// SPDX-License-Identifier: GPL-2.0
/* The operations: each does something to memory, and then the same to the shadow copy. */
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "stress.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Pages that are read between two looks at what the device has done. */
#define CHECK_PAGES 64U
#define ALL_CHANGES (CHANGES_RIGHTS | CHANGES_CPU_WORDS | CHANGES_WORDS)

static const struct page_span nothing;

static struct page_span op_span(const struct op *op)
{
	return (struct page_span){ op->first, op->count };
}

/* The next pages of @span from *page on that are mapped, and all of a file or all not. */
static bool next_run(const struct region *r, struct page_span span, unsigned int *page,
		     struct page_span *run)
{
	unsigned int end = span.first + span.count;

	while (*page < end && !r->pages[*page].mapped)
		(*page)++;
	*run = (struct page_span){ *page, 0 };
	while (*page < end && r->pages[*page].mapped &&
	       !r->pages[*page].base == !r->pages[run->first].base) {
		(*page)++;
		run->count++;
	}
	return run->count;
}

/* Page behind the last one of the VMA that has @page; 0 if there is none. */
static unsigned int vma_end(struct region *r, unsigned int page)
{
	struct procmap_query query = {
		.size = sizeof(query),
		.query_addr = (uintptr_t)page_at(r, page),
	};

	if (!r->pages[page].mapped)
		return 0;
	if (ioctl(r->round->maps, PROCMAP_QUERY, &query))
		fail_text(r, "page %u is not mapped", page);
	return (query.vma_end - (uintptr_t)r->base) / PAGE;
}

static unsigned long new_stamp(struct region *r)
{
	/* Readers know the last one before it is written. */
	return __atomic_add_fetch(&r->last_stamp, STAMP_STEP, __ATOMIC_SEQ_CST);
}

static int advise(struct region *r, struct page_span span, int advice)
{
	return madvise(page_at(r, span.first), span.count * PAGE, advice);
}

/* What is mapped -------------------------------------------------------------------------- */

static void op_map(struct region *r, struct page_span span, unsigned int arg)
{
	bool file = arg & 1;
	void *p;

	shadow_enter(r);
	p = mmap(page_at(r, span.first), span.count * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | (file ? 0 : MAP_ANONYMOUS), file ? r->round->file : -1,
		 file ? span.first * PAGE : 0);
	if (p == MAP_FAILED)
		fail_text(r, "mmap(): %m");
	shadow_leave(r);
	shadow_begin_change(r, span, nothing, ALL_CHANGES);
	shadow_map(r, span, file ? STAMP_FILE + span.first * STAMP_STEP : 0);
	shadow_end_change(r, span, nothing, ALL_CHANGES);
	if (arg & 2)
		advise(r, span, MADV_HUGEPAGE);
}

static void op_unmap(struct region *r, struct page_span span)
{
	shadow_enter(r);
	if (munmap(page_at(r, span.first), span.count * PAGE))
		fail_text(r, "munmap(): %m");
	shadow_leave(r);
	shadow_begin_change(r, span, nothing, ALL_CHANGES);
	shadow_unmap(r, span);
	shadow_end_change(r, span, nothing, ALL_CHANGES);
}

/* The pages of @span continue the mapping that @last is in. */
static void shadow_continue(struct region *r, struct page_span span, const struct shadow *last)
{
	shadow_map(r, span, last->base ? last->base + STAMP_STEP : 0);
	for (unsigned int i = 0; i < span.count; i++)
		r->pages[span.first + i].protection = last->protection;
}

/* Whether the file has @more pages behind those of @page, which may not be of it. */
static bool file_has(const struct region *r, const struct shadow *page, unsigned int more)
{
	return !page->base || (page->base - STAMP_FILE) / STAMP_STEP + more < 2 * r->nr_pages;
}

static bool overlap(struct page_span one, struct page_span two)
{
	return one.first < two.first + two.count && two.first < one.first + one.count;
}

/* Moves pages of one VMA over whatever is there, and lets them grow or shrink on the way. */
static void op_move(struct region *r, struct page_span from, unsigned int to_page, unsigned int arg)
{
	unsigned int end = vma_end(r, from.first), moved;
	bool keep = arg & 2;
	struct shadow last;
	struct page_span to;
	void *p;

	if (end && end - from.first < from.count)
		from.count = end - from.first;
	to = (struct page_span){ to_page, from.count };
	if (!keep && arg & 4)
		to.count = arg & 8 ? from.count + (arg >> 8) % 32 : (from.count + 1) / 2;
	if (!end || to.count > r->nr_pages - to_page || overlap(from, to))
		return;
	last = r->pages[from.first + from.count - 1];
	if (!file_has(r, &last, to.count))
		return;

	shadow_enter(r);
	p = mremap(page_at(r, from.first), from.count * PAGE, to.count * PAGE,
		   MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0),
		   page_at(r, to.first));
	if (p == MAP_FAILED)
		fail_text(r, "mremap() of %u pages from %u to %u: %m", from.count, from.first,
			  to.first);
	shadow_leave(r);
	shadow_begin_change(r, from, to, ALL_CHANGES);
	moved = from.count < to.count ? from.count : to.count;
	shadow_move(r, (struct page_span){ from.first, moved }, to.first, keep);
	shadow_unmap(r, (struct page_span){ from.first + moved, from.count - moved });
	shadow_continue(r, (struct page_span){ to.first + moved, to.count - moved }, &last);
	shadow_end_change(r, from, to, ALL_CHANGES);
}

/* Whether the VMA of a page is registered with userfaultfd. */
static bool is_registered(struct region *r, unsigned int page)
{
	struct uffdio_writeprotect allow_write = {
		.range = { .start = (uintptr_t)page_at(r, page), .len = PAGE },
	};

	return !ioctl(r->round->uffd, UFFDIO_WRITEPROTECT, &allow_write);
}

/*
 * How many pages of @span one call moves. It goes from VMA to VMA, of which the first has to begin
 * no later than the span, and ends with an error at one that is registered with userfaultfd. Such
 * a VMA moves only if it is all that there is in the span.
 */
static unsigned int count_moving(struct region *r, struct page_span span)
{
	unsigned int page = span.first, end = span.first + span.count;

	if (!r->pages[page].mapped)
		return 0;
	while (page < end) {
		unsigned int next = vma_end(r, page);

		if (next && is_registered(r, page) && (page != span.first || next < end))
			return page - span.first;
		page = next ? next : page + 1;
	}
	return span.count;
}

/* Moves all VMAs in a span, and the holes between them, which leave alone what they come to. */
static void op_move_many(struct region *r, struct page_span from, unsigned int to_page,
			 unsigned int arg)
{
	unsigned int page = from.first, moving;
	struct page_span to, run;
	bool keep = arg & 2, can, all;

	if (from.count > r->nr_pages - to_page)
		from.count = r->nr_pages - to_page;
	to = (struct page_span){ to_page, from.count };
	if (overlap(from, to))
		return;
	moving = count_moving(r, from);
	can = moving == from.count;

	shadow_enter(r);
	all = mremap(page_at(r, from.first), from.count * PAGE, from.count * PAGE,
		     MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0),
		     page_at(r, to.first)) != MAP_FAILED;
	if (all != can || (!all && errno != EFAULT))
		fail_text(r, "mremap() of %u pages, of which %u can move, from %u to %u: %s",
			  from.count, moving, from.first, to.first,
			  all ? "all moved" : strerror(errno));
	shadow_leave(r);
	shadow_begin_change(r, from, to, ALL_CHANGES);
	while (next_run(r, (struct page_span){ from.first, moving }, &page, &run))
		shadow_move(r, run, to.first + run.first - from.first, keep);
	shadow_end_change(r, from, to, ALL_CHANGES);
}

/* Has the VMA of a page grow where it is, which it can if nothing is in its way. */
static void op_grow(struct region *r, struct page_span span)
{
	unsigned int end = vma_end(r, span.first);
	struct page_span more = { end, 1 + span.count % 64 };
	bool possible = true;
	size_t bytes = (end - span.first) * PAGE;
	bool grown;

	if (!end || more.count > r->nr_pages - end || !file_has(r, &r->pages[end - 1], more.count))
		return;
	for (unsigned int i = 0; i < more.count; i++)
		possible &= !r->pages[end + i].mapped;

	shadow_enter(r);
	grown = mremap(page_at(r, span.first), bytes, bytes + more.count * PAGE, 0) != MAP_FAILED;
	if (grown != possible || (!grown && errno != ENOMEM))
		fail_text(r, "mremap() to grow by %u pages at %u, %s: %m", more.count, end,
			  possible ? "nothing is there" : "something is there");
	shadow_leave(r);
	if (!possible)
		return;
	shadow_begin_change(r, more, nothing, ALL_CHANGES);
	shadow_continue(r, more, &r->pages[end - 1]);
	shadow_end_change(r, more, nothing, ALL_CHANGES);
}

static void op_shrink(struct region *r, struct page_span span)
{
	unsigned int end = vma_end(r, span.first);
	struct page_span less;

	if (end && end - span.first < span.count)
		span.count = end - span.first;
	less = (struct page_span){ span.first + span.count - span.count / 2, span.count / 2 };
	if (!end || !less.count)
		return;
	shadow_enter(r);
	if (mremap(page_at(r, span.first), span.count * PAGE, (span.count - less.count) * PAGE,
		   0) == MAP_FAILED)
		fail_text(r, "mremap() to shrink: %m");
	shadow_leave(r);
	shadow_begin_change(r, less, nothing, ALL_CHANGES);
	shadow_unmap(r, less);
	shadow_end_change(r, less, nothing, ALL_CHANGES);
}

static void op_protect(struct region *r, struct page_span span, unsigned int arg)
{
	static const int protections[] = {
		PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
	};
	int protection = protections[arg % 4];
	unsigned int page = span.first;
	struct page_span run;

	while (next_run(r, span, &page, &run)) {
		shadow_enter(r);
		if (mprotect(page_at(r, run.first), run.count * PAGE, protection))
			fail_text(r, "mprotect(): %m");
		shadow_leave(r);
		shadow_begin_change(r, run, nothing, CHANGES_RIGHTS);
		for (unsigned int i = 0; i < run.count; i++)
			r->pages[run.first + i].protection = protection;
		shadow_end_change(r, run, nothing, CHANGES_RIGHTS);
	}
}

/* What the pages hold --------------------------------------------------------------------- */

static void op_discard(struct region *r, struct page_span span, int advice)
{
	unsigned int page = span.first;
	struct page_span run;

	while (next_run(r, span, &page, &run)) {
		/* Only anonymous memory can be freed when it is convenient. */
		if (advice == MADV_FREE && r->pages[run.first].base)
			continue;
		shadow_enter(r);
		if (advise(r, run, advice))
			fail_text(r, "madvise(%d): %m", advice);
		shadow_leave(r);
		shadow_begin_change(r, run, nothing, CHANGES_CPU_WORDS | CHANGES_WORDS);
		if (advice == MADV_FREE)
			shadow_free(r, run);
		else
			shadow_to_base(r, run);
		shadow_end_change(r, run, nothing, CHANGES_CPU_WORDS | CHANGES_WORDS);
	}
}

static void write_page(struct region *r, unsigned int page, unsigned long stamp, bool all)
{
	unsigned long *words = page_at(r, page);

	for (unsigned int word = 0; word < PAGE_WORDS; word++) {
		if (all || word % TERN_STEP_WORDS)
			__atomic_store_n(&words[word], stamp_word(stamp, word), __ATOMIC_RELAXED);
	}
}

/* Writes the CPU's words, or all of them, which only goes without a job. */
static void write_span(struct region *r, struct page_span span, unsigned long stamp, bool all)
{
	unsigned long step = all ? 0 : STAMP_STEP;

	shadow_enter(r);
	for (unsigned int i = 0; i < span.count; i++) {
		if (writable(&r->pages[span.first + i]))
			write_page(r, span.first + i, stamp + i * step, all);
	}
	shadow_leave(r);
	shadow_begin_change(r, span, nothing, CHANGES_CPU_WORDS);
	for (unsigned int i = 0; i < span.count; i++) {
		if (writable(&r->pages[span.first + i]))
			shadow_written(r, span.first + i, stamp + i * step, all);
	}
	shadow_end_change(r, span, nothing, CHANGES_CPU_WORDS);
}

static void op_write(struct region *r, struct page_span span)
{
	unsigned long stamp = new_stamp(r);

	__atomic_add_fetch(&r->last_stamp, span.count * STAMP_STEP, __ATOMIC_SEQ_CST);
	write_span(r, span, stamp, false);
}

/* Makes pages equal to each other, and says that they may be merged, or no longer. */
static void op_same(struct region *r, struct page_span span, unsigned int arg)
{
	job_end(r);
	write_span(r, span, new_stamp(r), true);
	advise(r, span, arg & 1 ? MADV_UNMERGEABLE : MADV_MERGEABLE);
}

static void check_part(struct region *r, struct page_span span)
{
	shadow_enter(r);
	for (unsigned int i = 0; i < span.count; i++) {
		if (readable(&r->pages[span.first + i]))
			memcpy(r->copy + i * PAGE_WORDS, page_at(r, span.first + i), PAGE);
	}
	shadow_leave(r);
	shadow_snapshot(r, span);
	shadow_check(r, span, r->copy);
}

/* Compares what the CPU reads with the shadow copy. */
void check_span(struct region *r, struct page_span span)
{
	while (span.count) {
		unsigned int count = span.count < CHECK_PAGES ? span.count : CHECK_PAGES;

		check_part(r, (struct page_span){ span.first, count });
		span.first += count;
		span.count -= count;
	}
}

/* Writes behind the back of the shadow copy: a word of the device, or one of the CPU. */
static void op_spoil(struct region *r, struct page_span span, unsigned int arg)
{
	job_end(r);
	for (unsigned int i = 0; i < span.count; i++) {
		if (writable(&r->pages[span.first + i])) {
			page_at(r, span.first + i)[arg & 1] ^= 1UL << 40;
			return;
		}
	}
}

/* What must not change anything ------------------------------------------------------------- */

/* Advice that is followed or not, for whatever is mapped. */
static void op_advise(struct region *r, struct page_span span, int advice)
{
	shadow_enter(r);
	if (!advise(r, span, advice) && advice == MADV_NOHUGEPAGE)
		count_effect(r, EFFECT_NOHUGE, 1);
	shadow_leave(r);
}

static void op_protect_by_uffd(struct region *r, struct page_span span)
{
	struct uffdio_range range = {
		.start = (uintptr_t)page_at(r, span.first),
		.len = span.count * PAGE,
	};
	struct uffdio_register area = { .range = range, .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect protect = {
		.range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	shadow_enter(r);
	/* Not where nothing or a file is mapped. */
	if (!ioctl(r->round->uffd, UFFDIO_REGISTER, &area))
		ioctl(r->round->uffd, UFFDIO_WRITEPROTECT, &protect);
	shadow_leave(r);
}

static void op_unregister(struct region *r, struct page_span span)
{
	struct uffdio_range range = {
		.start = (uintptr_t)page_at(r, span.first),
		.len = span.count * PAGE,
	};

	shadow_enter(r);
	ioctl(r->round->uffd, UFFDIO_UNREGISTER, &range);
	shadow_leave(r);
}

static void op_compact(struct region *r)
{
	shadow_enter(r);
	system_write("/proc/sys/vm/compact_memory", "1");
	shadow_leave(r);
}

/* How many of the pages are on a node; at most HUGE_PAGES. */
static unsigned int count_on_node(void **pages, unsigned int count, int node)
{
	unsigned int found = 0;
	int status[HUGE_PAGES];

	if (syscall(SYS_move_pages, 0, (unsigned long)count, pages, NULL, status, 0))
		return 0;
	for (unsigned int i = 0; i < count; i++)
		found += status[i] == node;
	return found;
}

/* Moves pages to another node, or says where they are to be. */
static void op_node(struct region *r, struct page_span span, unsigned int arg)
{
	unsigned int node = arg % r->round->nodes;
	unsigned long mask = 1UL << node;
	void *pages[HUGE_PAGES];
	int nodes[HUGE_PAGES], status[HUGE_PAGES];
	unsigned int before, after;

	if (r->round->nodes < 2)
		return;
	if (span.count > HUGE_PAGES)
		span.count = HUGE_PAGES;
	for (unsigned int i = 0; i < span.count; i++) {
		pages[i] = page_at(r, span.first + i);
		nodes[i] = node;
	}
	shadow_enter(r);
	before = count_on_node(pages, span.count, node);
	if (arg & 16)
		syscall(SYS_mbind, pages[0], span.count * PAGE, MPOL_PREFERRED, &mask,
			8 * sizeof(mask), MPOL_MF_MOVE);
	else
		syscall(SYS_move_pages, 0, (unsigned long)span.count, pages, nodes, status,
			MPOL_MF_MOVE);
	after = count_on_node(pages, span.count, node);
	if (after > before)
		count_effect(r, EFFECT_NODE, after - before);
	shadow_leave(r);
}

/*
 * Has the cgroup give up a part of its memory by a limit, which is then lifted. What is on the
 * device counts, but cannot be reclaimed, and all may go there at any time. So memory.max would
 * call the OOM killer wherever it is below the size of device memory, and memory.high it is.
 */
static void op_limit(struct region *r, unsigned int arg)
{
	unsigned long current;
	char path[96], value[32];

	if (!r->round->cgroup)
		return;
	snprintf(path, sizeof(path), "%s/memory.current", r->round->cgroup);
	current = tern_number(path);
	snprintf(path, sizeof(path), "%s/memory.high", r->round->cgroup);
	snprintf(value, sizeof(value), "%lu", current - current / 64 * (1 + arg % 4));
	shadow_enter(r);
	if (!system_write(path, value) || !system_write(path, "max"))
		fail_text(r, "memory.high: %m");
	shadow_leave(r);
}

static void op_prefetch(struct region *r, struct page_span span, unsigned int arg)
{
	struct drm_tern_prefetch prefetch =
		tern_prefetch_args(&r->round->t, page_at(r, span.first), span.count * PAGE,
				   arg & 1 ? DRM_TERN_LOCATION_DEVICE : DRM_TERN_LOCATION_SYSTEM);
	bool holes = false;
	int ret;

	for (unsigned int i = 0; i < span.count; i++)
		holes |= !r->pages[span.first + i].mapped;
	shadow_enter(r);
	ret = tern_ioctl(r->round->t.fd, DRM_IOCTL_TERN_PREFETCH, &prefetch);
	if (ret != (holes ? -EFAULT : 0))
		fail_text(r, "prefetch: %s at %#llx", strerror(-ret),
			  (unsigned long long)prefetch.address);
	shadow_leave(r);
}

/*
 * All device memory goes to the system, of all regions and children at once. It is found by its
 * place on the device, without any lock of the processes.
 */
static void op_evict(struct region *r)
{
	int ret;

	shadow_enter(r);
	ret = system_evict();
	if (ret)
		fail_text(r, "evict: %s", strerror(-ret));
	shadow_leave(r);
}

/* Children ---------------------------------------------------------------------------------- */

/* What a child may do by now. */
enum { CHILD_WAITS, CHILD_WRITES, CHILD_ENDS };

static void wait_for(unsigned int *go, unsigned int what)
{
	unsigned int now;

	while ((now = __atomic_load_n(go, __ATOMIC_ACQUIRE)) < what)
		syscall(SYS_futex, go, FUTEX_WAIT, now, NULL);
}

static void allow(unsigned int *go, unsigned int what)
{
	__atomic_store_n(go, what, __ATOMIC_RELEASE);
	syscall(SYS_futex, go, FUTEX_WAKE, 1);
}

/*
 * A child has what its parent had, writes it all, and keeps it until its parent wants it to end.
 * Only this thread of the parent exists here, so nothing may be used that takes a lock.
 */
static void __noreturn child_run(struct region *r, struct page_span span,
				 struct child_control *control)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	wait_for(&control->go, CHILD_WRITES);
	memcpy(r->to, control->to, sizeof(r->to));
	shadow_snapshot(r, span);
	r->running = false;
	check_span(r, span);
	write_span(r, span, r->last_stamp | 1UL << 46, true);
	check_span(r, span);
	wait_for(&control->go, CHILD_ENDS);
	check_span(r, span);
	_exit(0);
}

static void reap(struct region *r, struct child *child)
{
	if (!child->pid)
		return;
	allow(&child->control->go, CHILD_ENDS);
	if (!tern_child_ok(child->pid))
		fail_text(r, "a child has failed");
	child->pid = 0;
}

static void op_fork(struct region *r, struct page_span span)
{
	struct child *child = &r->children[0];

	for (unsigned int i = 1; child->pid && i < MAX_CHILDREN; i++)
		child = &r->children[i];
	reap(r, child);
	child->control->go = CHILD_WAITS;
	shadow_enter(r);
	child->pid = fork();
	if (child->pid < 0)
		fail_text(r, "fork(): %m");
	if (!child->pid)
		child_run(r, span, child->control);
	shadow_leave(r);
	memcpy(child->control->to, r->to, sizeof(r->to));
	allow(&child->control->go, CHILD_WRITES);
}

static void op_reap(struct region *r)
{
	for (unsigned int i = 0; i < MAX_CHILDREN; i++)
		reap(r, &r->children[i]);
}

/* ------------------------------------------------------------------------------------------- */

void op_run(struct region *r, struct op *op)
{
	struct page_span span = op_span(op);

	__atomic_store_n(&r->op, op, __ATOMIC_RELEASE);
	__atomic_store_n(&op->state, OP_BEGUN, __ATOMIC_RELAXED);
	readers_grant();
	job_poll(r);
	switch ((enum op_kind)op->kind) {
	case OP_MAP:
		op_map(r, span, op->arg);
		break;
	case OP_UNMAP:
		op_unmap(r, span);
		break;
	case OP_MOVE:
		op_move(r, span, op->to, op->arg);
		break;
	case OP_MOVE_MANY:
		op_move_many(r, span, op->to, op->arg);
		break;
	case OP_GROW:
		op_grow(r, span);
		break;
	case OP_SHRINK:
		op_shrink(r, span);
		break;
	case OP_PROTECT:
		op_protect(r, span, op->arg);
		break;
	case OP_DONTNEED:
		op_discard(r, span, MADV_DONTNEED);
		break;
	case OP_FREE:
		op_discard(r, span, MADV_FREE);
		break;
	case OP_HUGE:
		op_advise(r, span, MADV_HUGEPAGE);
		break;
	case OP_NOHUGE:
		op_advise(r, span, MADV_NOHUGEPAGE);
		break;
	case OP_COLLAPSE:
		op_advise(r, span, MADV_COLLAPSE);
		break;
	case OP_PAGEOUT:
		op_advise(r, span, MADV_PAGEOUT);
		break;
	case OP_SAME:
		op_same(r, span, op->arg);
		break;
	case OP_FORK:
		op_fork(r, span);
		break;
	case OP_REAP:
		op_reap(r);
		break;
	case OP_WP:
		op_protect_by_uffd(r, span);
		break;
	case OP_UNWP:
		op_unregister(r, span);
		break;
	case OP_COMPACT:
		op_compact(r);
		break;
	case OP_NODE:
		op_node(r, span, op->arg);
		break;
	case OP_LIMIT:
		op_limit(r, op->arg);
		break;
	case OP_PREFETCH:
		op_prefetch(r, span, op->arg);
		break;
	case OP_EVICT:
		op_evict(r);
		break;
	case OP_WRITE:
		op_write(r, span);
		break;
	case OP_CHECK:
		check_span(r, span);
		break;
	case OP_GPU:
		job_end(r);
		job_start(r, span, op->arg);
		break;
	case OP_SPOIL:
		op_spoil(r, span, op->arg);
		break;
	case OP_CRASH:
		__builtin_trap();
	case OP_HANG:
		pause();
		break;
	case NR_OPS:
		break;
	}
	__atomic_store_n(&op->state, OP_DONE, __ATOMIC_RELAXED);
	__atomic_fetch_add(&r->round->shared->report.beats, 1, __ATOMIC_RELAXED);
}
