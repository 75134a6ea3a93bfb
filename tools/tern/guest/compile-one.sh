#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# compile-one.sh RUSTC-ARGUMENT...
#
# Compiles an example on stdin for rustdoc, as a part of the kernel rather than as a program. An
# example has to show one error: with more of them it counts as compiled, which rustdoc reports.
set -eu
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

for argument; do
	shift
	case $argument in
	bin) set -- "$@" lib ;;
	*) set -- "$@" "$argument" ;;
	esac
done
if rustc "$@" --emit=metadata -Zcrate-attr=no_std 2>"$errors"; then
	exit 0
fi
cat "$errors" >&2
grep -q '^error: aborting due to 1 previous error' "$errors" || exit 0
exit 1
