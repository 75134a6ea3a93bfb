#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Compiles the example, kernel and program, and runs it. For the guest, where clang, cc and the
# device are: ./tern guest /tern/tools/tern/tern/examples/increment.sh

set -e
here=$(dirname "$(readlink -f "$0")")
library=${1:-$here/../../../../build/target/release/libtern.a}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

clang --target=riscv64 -march=rv64gc -mabi=lp64d -mcmodel=medany -mno-relax \
	-O2 -ffreestanding -fpie -fvisibility=hidden -ffp-contract=off \
	-nostdlib -fuse-ld=lld -Wl,-pie -Wl,-e,0 -Wl,-z,defs \
	-I"$here/../include" -o "$out/increment.elf" "$here/increment-kernel.c"
cc -O2 -I"$here/../include" -o "$out/increment" "$here/increment.c" "$library" -lpthread -lm
"$out/increment" "$out/increment.elf"
