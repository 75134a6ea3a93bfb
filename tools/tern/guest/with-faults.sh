#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# with-faults.sh N CMD...: runs a command in the guest while the kernel refuses every
# Nth allocation that is made by the driver, or by what it calls, of slab objects and
# of pages alike; 0 is none. Then the driver is unbound, which DMA-API debugging looks
# at, and kmemleak is asked for what it has left. For the debug kernel. The selftests
# make calls again that fail for want of memory.

set -e
every=$1
shift
debugfs=/sys/kernel/debug

# The driver's functions are next to each other.
functions=$(grep ' [tT] .*9tern_main[0-9]' /proc/kallsyms | cut -d' ' -f1 | sort)

set_up() {
	cd "$debugfs/$1"
	echo 0x"$(echo "$functions" | head -n 1)" >require-start
	echo 0x"$(echo "$functions" | tail -n 1)" >require-end
	echo 32 >stacktrace-depth
	echo N >ignore-gfp-wait
	echo 0 >verbose
	echo -1 >times
	echo "$every" >interval
	echo 100 >probability
	cd - >/dev/null
}

if [ "$every" != 0 ]; then
	set_up failslab
	echo 0 >"$debugfs/fail_page_alloc/min-order"
	set_up fail_page_alloc
fi

status=0
TERN_RETRY=1 "$@" || status=$?

echo 0 >"$debugfs/failslab/probability"
echo 0 >"$debugfs/fail_page_alloc/probability"
for device in /sys/bus/pci/drivers/tern/0000:*; do
	echo "${device##*/}" >/sys/bus/pci/drivers/tern/unbind
done

# What is younger than five seconds is no leak yet, and what one scan finds may still
# be on its way from one list to another.
sleep 6
echo scan >"$debugfs/kmemleak"
echo scan >"$debugfs/kmemleak"
if grep -q tern "$debugfs/kmemleak"; then
	echo "# kmemleak found objects of the driver:"
	sed 's/^/# /' "$debugfs/kmemleak"
	exit 1
fi
exit "$status"
