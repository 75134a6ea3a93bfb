/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the tests of the library and the kernels that they run agree on. */
#ifndef TERN_LIBRARY_H
#define TERN_LIBRARY_H

#include <stdint.h>

/* Arguments of every kernel; each uses what it needs. */
struct library_args {
	uint64_t *in;
	uint64_t *out;
	uint64_t value;
};

/* Bytes of stack that kernel "deep" uses: many times those that a thread has by default. */
#define LIBRARY_STACK 65536

#endif /* TERN_LIBRARY_H */
