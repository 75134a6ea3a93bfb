#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Compiles the examples beside it and runs them. For the guest, where the device
# is, clang, cc and rustc are, and the checkout is /tern.

set -e
cd "$(dirname "$0")"
tern=/tern/tools/tern/tern libraries=/tern/build/target/release
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

run() {
	echo "$1: $("$out/$1" "$out/increment.elf")"
}

# The kernel, for the device.
clang --config=$tern/kernel.cfg -o "$out/increment.elf" increment-kernel.c

# C, with the static and with the shared library.
cc -O2 -I$tern/include -o "$out/static" increment.c $libraries/libtern.a -lpthread -lm
run static
cc -O2 -I$tern/include -o "$out/shared" increment.c -L$libraries -ltern -Wl,-rpath,$libraries
run shared

# Rust.
rustc --edition=2021 -O --extern tern=$libraries/libtern.rlib -Ldependency=$libraries/deps \
	-o "$out/rust" increment.rs
run rust
