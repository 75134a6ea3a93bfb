#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# with-faults.sh N LEAST CMD...: runs a command in the guest while the kernel refuses every
# Nth allocation that is made by the driver, or by what it calls, of slab objects and
# of pages alike, those of processes included; 0 is none. Fails unless at least LEAST of them
# were single pages that memory of the device was to move to. Then the driver is unbound,
# which fails as often, and which DMA-API debugging looks at, and kmemleak is asked for
# what anybody has left. For the debug kernel. The selftests make calls again that fail for
# want of memory.

set -e
every=$1
least=$2
shift 2
debugfs=/sys/kernel/debug
# More than there are.
times=1000000000

# Prints where functions begin and end that are next to each other, of which the names
# have the pattern.
range() {
	sort /proc/kallsyms | awk -v pattern="$1" '
		last && $1 != last { end = $1; last = "" }
		$2 ~ /[tT]/ && $3 ~ pattern { if (!start) start = $1; last = $1 }
		END { print "0x" start, "0x" end }'
}

# DMA-API debugging switches itself off when it has no memory.
set_up() {
	cd "$debugfs/$1"
	read -r start end <<-RANGE
		$(range '9tern_main[0-9]')
	RANGE
	echo "$start" >require-start
	echo "$end" >require-end
	read -r start end <<-RANGE
		$(range '^(debug_dma_|add_dma_entry$|dma_entry_alloc$|active_cacheline_)')
	RANGE
	echo "$start" >reject-start
	echo "$end" >reject-end
	echo 32 >stacktrace-depth
	echo N >ignore-gfp-wait
	echo 0 >verbose
	echo "$times" >times
	echo "$every" >interval
	echo 100 >probability
	cd - >/dev/null
}

# Whether something was refused.
has_refused() {
	refused=$((times - $(cat "$debugfs/$1/times")))
	echo "# $1 has refused $refused allocations"
	[ "$refused" != 0 ]
}

# Whether enough of what was refused was to be the memory of a process. As long as the
# driver is bound.
has_refused_memory() {
	sed -n 's/^lacking-/# refused for what moves to the system: /p' "$debugfs"/dri/0000:*/stats
	pages=$(awk '$1 == "lacking-4K:" { n += $2 } END { print +n }' "$debugfs"/dri/0000:*/stats)
	[ "$pages" -ge "$least" ] || {
		echo "# $pages pages are fewer than $least"
		return 1
	}
}

if [ "$every" != 0 ]; then
	set_up failslab
	echo 0 >"$debugfs/fail_page_alloc/min-order"
	# By its flags all memory of processes is of this kind, whatever the machine has.
	echo N >"$debugfs/fail_page_alloc/ignore-gfp-highmem"
	set_up fail_page_alloc
fi

status=0
TERN_RETRY=1 "$@" || status=$?

has_refused_memory || status=1
for device in /sys/bus/pci/drivers/tern/0000:*; do
	echo "${device##*/}" >/sys/bus/pci/drivers/tern/unbind
done
echo 0 >"$debugfs/failslab/probability"
echo 0 >"$debugfs/fail_page_alloc/probability"
if [ "$every" != 0 ]; then
	has_refused failslab || status=1
	has_refused fail_page_alloc || status=1
fi
if grep -q Y "$debugfs/dma-api/disabled"; then
	echo "# DMA-API debugging is off"
	status=1
fi

# What is younger than five seconds is no leak yet, and what one scan finds may still
# be on its way from one list to another. Whoever allocated it: what the driver calls
# may leave its own behind.
sleep 6
if ! echo scan >"$debugfs/kmemleak" || ! echo scan >"$debugfs/kmemleak"; then
	echo "# kmemleak is off"
	exit 1
fi
sed 's/^/# /' "$debugfs/kmemleak" >/tmp/kmemleak
if [ -s /tmp/kmemleak ]; then
	echo "# kmemleak found:"
	cat /tmp/kmemleak
	exit 1
fi
exit "$status"
