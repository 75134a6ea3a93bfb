// SPDX-License-Identifier: GPL-2.0
/* Makes the trace of a failure small: leaves out what it fails without. */
#include "stress.h"

/* A race may need several attempts to show itself; as many more as it did at first. */
#define FIRST_ATTEMPTS 6
static int attempts;

static time_t now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* The number of the attempt at which @plan fails, of @most; 0 if it does not. */
static int fails_in(const struct plan *plan, bool (*fails)(const struct plan *), int most,
		    time_t end)
{
	for (int attempt = 1; attempt <= most && now() < end; attempt++) {
		if (fails(plan))
			return attempt;
	}
	return 0;
}

/* Leaves out parts of @chunk operations; returns whether any was. */
static bool shrink_by(struct plan *plan, unsigned int chunk, bool (*fails)(const struct plan *),
		      time_t end)
{
	struct plan *less = malloc(sizeof(*less));
	bool any = false;

	for (unsigned int first = 0; less && first < plan->nr_ops && now() < end;) {
		unsigned int count = plan->nr_ops - first < chunk ? plan->nr_ops - first : chunk;

		memcpy(less, plan, sizeof(*less));
		plan_drop(less, first, count);
		if (fails_in(less, fails, attempts, end)) {
			memcpy(plan, less, sizeof(*less));
			any = true;
		} else {
			first += count;
		}
	}
	free(less);
	return any;
}

/* Leaves out what regions do, one region after another. */
static void shrink_regions(struct plan *plan, bool (*fails)(const struct plan *), time_t end)
{
	struct plan *less = malloc(sizeof(*less));

	for (unsigned int region = 0; less && region < plan->regions; region++) {
		memcpy(less, plan, sizeof(*less));
		less->nr_ops = 0;
		for (unsigned int i = 0; i < plan->nr_ops; i++) {
			if (plan->ops[i].region != region)
				less->ops[less->nr_ops++] = plan->ops[i];
		}
		if (less->nr_ops != plan->nr_ops && fails_in(less, fails, attempts, end))
			memcpy(plan, less, sizeof(*less));
	}
	free(less);
}

/* Returns the number of operations that are left, or 0 if it did not fail again. */
unsigned int shrink(struct plan *plan, bool (*fails)(const struct plan *), time_t seconds)
{
	time_t end = now() + seconds;

	attempts = 1 + fails_in(plan, fails, FIRST_ATTEMPTS, end);
	if (attempts == 1)
		return 0;
	shrink_regions(plan, fails, end);
	for (unsigned int chunk = plan->nr_ops / 2; chunk && now() < end;) {
		bool any = shrink_by(plan, chunk, fails, end);

		if (!any || chunk > 1)
			chunk /= 2;
	}
	return plan->nr_ops;
}
