#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# compile-fail.sh OBJTREE
#
# Compiles the examples of the kernel's Rust documentation that must not compile, which the kernel's
# own build of documentation tests leaves out. rustdoc gets the flags that it got there; it finds the
# examples and compares the error codes, compile-one.sh compiles.
set -eu
one=$(readlink -f "$(dirname "$0")/compile-one.sh")
cd "$1"

build=$(sed -n 's/^savedcmd_[^ ]* := //p' rust/.doctests_kernel_generated.rs.cmd)
flags=$(echo "$build" | sed -n 's/.* rustdoc --test \(.*\) --no-run .*/\1/p')
source=$(echo "$build" | sed -n 's/.* \([^ ]*\/lib\.rs\) .*/\1/p')
if [ -z "$flags" ] || [ -z "$source" ]; then
	echo "$1 was not built with CONFIG_RUST_KERNEL_DOCTESTS" >&2
	exit 1
fi
files=$(cd "${source%/*}" && grep -rl '``` *ignore,compile_fail' .)

export OBJTREE="$PWD" RUSTC_BOOTSTRAP=1
echo "Doc-tests kernel"
# The flags are words without quotes. Of what is ignored, only these files are looked at.
# shellcheck disable=SC2086
exec rustdoc --test $flags --no-run --crate-name kernel -Zunstable-options --sysroot=/dev/null \
	--test-builder "$one" --test-args "--ignored $(echo $files | sed 's/\.\//kernel\//g')" "$source"
