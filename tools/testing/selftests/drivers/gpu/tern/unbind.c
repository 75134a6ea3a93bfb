// SPDX-License-Identifier: GPL-2.0
/*
 * The driver is unbound while memory is on the device, and bound again. Needs root.
 */
#include "svm_ops.h"
#include "tern_pci.h"

/* What the device did last is known of no thread. */
static void unbind(struct __test_metadata *_metadata, struct _test_data_ops *self,
		   const struct _fixture_variant_ops *variant, const char *name)
{
	ASSERT_EQ(0, tern_driver("unbind", name));
	self->interrupted = variant->in_use;
}

/* Has the driver take the device again, and goes on with a new file. */
static void bind_again(struct __test_metadata *_metadata, struct _test_data_ops *self,
		       const char *name)
{
	struct drm_tern_device_query info;
	struct tern old = self->t;

	EXPECT_EQ(-ENODEV, tern_query(old.fd, &info));
	EXPECT_EQ(-ENODEV, ops_try(self, KERNEL_NULL, NULL));
	tern_queue_free(&old, &old.queue);
	tern_queue_free(&old, &self->users);
	close(old.fd);

	ASSERT_EQ(0, tern_driver("bind", name));
	ASSERT_EQ(0, tern_begin(&self->t));
	EXPECT_EQ(self->t.info.vram_size, self->t.info.vram_free);
	/* The memory is that of before. */
	memcpy(self->t.ranges, old.ranges, sizeof(old.ranges));
	self->t.nr_ranges = old.nr_ranges;
}

/* All memory comes back with its contents, as huge pages if it was, and then the driver goes. */
TEST_F_TIMEOUT(ops, unbind_and_bind, 120)
{
	char name[64];

	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_EQ(0, tern_bus_name(self->t.fd, name, sizeof(name)));
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	unbind(_metadata, self, variant, name);
	EXPECT_EQ(variant->advice == MADV_HUGEPAGE ? HUGE_PAGE >> 10 : 0, tern_anon_huge(self->p));
	EXPECT_EQ(-1, ops_check(self, self->p, 0, OPS_BYTES, 0));
	bind_again(_metadata, self, name);
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* Without a huge page for what was one, it comes back in parts. */
TEST_F_TIMEOUT(ops, unbind_without_huge_pages, 120)
{
	char name[64];

	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_EQ(0, tern_bus_name(self->t.fd, name, sizeof(name)));
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	if (tern_refuse_folios(9))
		SKIP(return, "the kernel has no fail_page_alloc");
	unbind(_metadata, self, variant, name);
	EXPECT_EQ(0, tern_anon_huge(self->p));
	EXPECT_EQ(-1, ops_check(self, self->p, 0, OPS_BYTES, 0));
	bind_again(_metadata, self, name);
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* So does what is mapped in part, elsewhere, read-only, locked, and by a child. */
TEST_F_TIMEOUT(ops, unbind_what_was_rearranged, 120)
{
	char *target = tern_map(&self->t, OPS_BYTES, variant->advice), c;
	char *to = target + 7 * PAGE;
	char name[64];
	int go[2];
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_NE(NULL, target);
	ASSERT_EQ(0, tern_bus_name(self->t.fd, name, sizeof(name)));
	ASSERT_EQ(0, pipe(go));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(go[1]);
		_exit(read(go[0], &c, 1) != 1 || ops_check(self, self->p, 0, OPS_BYTES, 0) != -1);
	}
	close(go[0]);
	ASSERT_EQ(0, mlock2(ops_page(self, 540), 20 * PAGE, MLOCK_ONFAULT));
	ASSERT_EQ(0, mprotect(ops_page(self, 20), 10 * PAGE, PROT_READ));
	ASSERT_EQ(0, munmap(self->p, 5 * PAGE));
	ASSERT_EQ(to, mremap(ops_page(self, 100), 16 * PAGE, 16 * PAGE,
			     MREMAP_MAYMOVE | MREMAP_FIXED, to));
	ASSERT_EQ(0, ops_use(self, variant, 500, OPS_PAGES - 500));

	unbind(_metadata, self, variant, name);
	EXPECT_EQ(1, write(go[1], "", 1));
	close(go[1]);
	EXPECT_EQ(-1, ops_check(self, (void *)to, 100, 16 * PAGE, 0));
	bind_again(_metadata, self, name);
	EXPECT_TRUE(tern_child_ok(pid));
	ASSERT_EQ(0, mprotect(ops_page(self, 20), 10 * PAGE, PROT_READ | PROT_WRITE));
	EXPECT_TRUE(ops_holds(self, to, 100, 16));
	EXPECT_TRUE(ops_holds(self, ops_page(self, 5), 5, 95));
	EXPECT_TRUE(ops_holds(self, ops_page(self, 116), 116, OPS_PAGES - 116));
}

TEST_HARNESS_MAIN
