#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# with-swap.sh CMD...: runs a command in the guest, which has no swap, with swap
# in compressed RAM.

set -e
modprobe zram
echo 1G >/sys/block/zram0/disksize
mkswap /dev/zram0 >/dev/null
swapon /dev/zram0
exec "$@"
