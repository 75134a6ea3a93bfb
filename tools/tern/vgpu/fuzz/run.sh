#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# run.sh SECONDS [TARGET...]: fuzzes what a guest can write to the virtual GPU, each target (by
# default all) for so long; 0 is until something is found. Run it by tools/tern/env/enter.sh.
#
# Inputs that reach something new are kept in build/fuzz/TARGET, and those that crash or hang in
# build/fuzz/crash-*; with the name of one in place of SECONDS, and its target, it runs that again.
# fuzz/corpus/TARGET has the inputs to start with.
#
# The stable compiler instruments for libFuzzer too, but has no AddressSanitizer. The device
# reaches memory by checked offsets only, and checks of overflow are on.

set -euo pipefail
top=$(readlink -f "$(dirname "$0")/../../../..")
fuzz=$top/tools/tern/vgpu/fuzz
out=$top/build/fuzz
what=$1
shift
[ $# -gt 0 ] || set -- registers regions rings tables code

export RUSTC_BOOTSTRAP=1 CXX=${CXX:-clang++}
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module \
	-Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares"
# With a target, so that build scripts are not instrumented.
host=x86_64-unknown-linux-gnu
cargo build --quiet --locked --release --target "$host" --target-dir "$out/target" \
	--manifest-path "$fuzz/Cargo.toml"

for target; do
	run=("$out/target/$host/release/$target" -artifact_prefix="$out/crash-" -timeout=10 -max_len=512)
	if [ -f "$what" ]; then
		"${run[@]}" "$what"
	else
		mkdir -p "$out/$target"
		echo "$target: $what s" >&2
		"${run[@]}" -verbosity=0 -print_final_stats=1 -max_total_time="$what" "$out/$target" \
			"$fuzz/corpus/$target"
	fi
done
