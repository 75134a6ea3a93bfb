#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# trace-recipe.sh SEEN: does in the guest what Documentation/gpu/tern.rst says about trace
# events, with a program that has the device use a huge page and then reads it: a test of
# the selftest SEEN. The report must tell of that, and of no other huge page.

set -e
tern=$(cd "$(dirname "$0")/../../.." && pwd)
seen=$1
recipe=$(grep '^  trace-cmd record ' "$tern/Documentation/gpu/tern.rst")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"

cat >program <<END
#!/bin/sh
exec "$seen" -r seen.trace_off
END
chmod +x program
status=0
eval "$recipe" >report || status=$?
cat report
[ "$status" = 0 ]

huge='2M=1 mthp=0 4K=0 bytes=2097152 ns=[1-9][0-9]* ret=0$'
start=$(sed -n "s/.*: tern_migrate: .*range=\(0x[0-9a-f]*\)-.* to=device $huge/\1/p" report)
end=$(printf 0x%x $((start + 0x200000)))
range=range=$start-$end

fail() {
	echo "trace-recipe.sh: $*" >&2
	exit 1
}

# expect N PATTERN: so many lines of the report have it.
expect() {
	found=$(grep -c -- "$2" report || true)
	[ "$found" = "$1" ] || fail "$found lines, not $1, with: $2"
}

# Events of a kind with an address in the huge page, by the rest of their line.
touched() {
	sed -n "s/.*: $1: .* addr=\(0x[0-9a-f]*\) $2$/\1/p" report | while read -r addr; do
		if [ $((addr & ~0x1fffff)) = $((start)) ]; then
			echo "$addr"
		fi
	done | wc -l
}

# One huge page went there and came back whole, as one fault of the CPU wanted it.
expect 1 ": tern_migrate: .* to=device 2M=[1-9]"
expect 1 ": tern_migrate: .* $range to=device $huge"
expect 1 ": tern_migrate: .* to=system 2M=[1-9]"
expect 1 ": tern_migrate: .* $range to=system $huge"
expect 1 ": tern_cpu_fault: "
[ "$(touched tern_cpu_fault 'level=pmd ret=0')" = 1 ] || fail "no CPU fault in $range"
[ "$(touched tern_fault 'access=[a-z]*')" -ge 1 ] || fail "no fault of the device in $range"
# The core tells of each move; on the way back the device had it mapped.
expect 1 ": tern_invalidate: .* $range event=migrate mapped=1$"
