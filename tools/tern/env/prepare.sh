#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Makes the toolchain root, a Debian tree with everything that builds and runs
# the series, unless it is there. Works as root and as an ordinary user.
#
# The tree is built in a temporary directory and renamed when it is complete
# and holds what the pins say, so that an interrupted run leaves nothing that
# a later one could take for a root.

set -euo pipefail
# shellcheck source=tools/tern/env/common.sh
. "$(dirname "$0")/common.sh"

work=$cache/$digest
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# Space for the root, the caches and the builds in the checkout, in GB.
cache_space=5
build_space=7

took() { printf '%d:%02d' $((($(date +%s) - $1) / 60)) $((($(date +%s) - $1) % 60)); }

# Installs the host's packages given, which are all in Debian and Ubuntu.
install_packages() {
	local sudo=
	command -v apt-get >/dev/null ||
		die "$* must be installed, and this is no Debian or Ubuntu: install them, or use TOOLCHAIN=host"
	if [ "$(id -u)" != 0 ]; then
		sudo -n true 2>/dev/null || die "these packages are missing: sudo apt-get install $*"
		sudo="sudo -n"
	fi
	say "installing $*"
	{ $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y --no-install-recommends "$@"; } </dev/null >"$work/install.log" 2>&1 || {
		tail -n 5 "$work/install.log" >&2
		die "apt-get install $* failed (all of it: $work/install.log)"
	}
}

check_host() {
	local missing=()
	command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
	[ -e $keyring ] || missing+=(debian-archive-keyring)
	[ "$(id -u)" = 0 ] || command -v newuidmap >/dev/null || missing+=(uidmap)
	[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
	"${in_namespace[@]}" true || explain_namespace
}

# Free space of a directory's file system in GB.
free_space() { df --output=avail -BG "$1" | tail -n 1 | tr -dc 0-9; }

check_space() {
	if [ "$(stat -c %d "$cache")" = "$(stat -c %d "$top")" ]; then
		require_space "$cache" $((cache_space + build_space))
	else
		require_space "$cache" $cache_space
		require_space "$top" $build_space
	fi
}

require_space() {
	local free
	free=$(free_space "$1")
	[ "$free" -ge "$2" ] ||
		die "$1 has $free GB free, and $2 GB are needed: free some, or put the cache elsewhere with TERN_CACHE=DIR"
}

# Prints the base addresses that the host's apt uses for a suite of its own.
host_archives() {
	apt-get --print-uris update 2>/dev/null | sed -n "s#^'\(.*\)/dists/$1/InRelease'.*#\1#p"
}

# Prints the first of the addresses given that serves a Debian suite.
first_serving() {
	local suite=$1 uri found=$work/InRelease
	shift
	for uri; do
		/usr/lib/apt/apt-helper download-file "$uri/dists/$suite/InRelease" "$found" \
			>/dev/null 2>&1 || continue
		grep -q '^Origin: Debian' "$found" || continue
		echo "$uri"
		return
	done
}

# Prints the apt source lines of the root: the host's own mirrors where it is
# a Debian. Prints nothing elsewhere, which leaves the choice to mmdebstrap.
sources() {
	local codename archive security options="[signed-by=$keyring]"
	codename=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}") || return 0
	# shellcheck disable=SC2046 # addresses hold no blanks
	archive=$(first_serving "$BACKPORTS" $(host_archives "$codename"))
	[ -n "$archive" ] || return 0
	# shellcheck disable=SC2046
	security=$(first_serving "$SUITE-security" $(host_archives "$codename-security"))
	echo "deb $options $archive $SUITE main"
	echo "deb $options $archive $SUITE-updates main"
	[ -z "$security" ] || echo "deb $options $security $SUITE-security main"
}

# Run by mmdebstrap on the empty tree: adds the backports suite of whatever
# archive the tree has, and lets apt take only the packages listed in the pins
# from it. What cannot be had as pinned is found out here, before the download
# of all the rest.
setup_hook() {
	local tree=$1 archive
	archive=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG host_archives "$SUITE" | head -n 1)
	[ -n "$archive" ] || die "the new tree has no apt source for $SUITE"
	echo "deb [signed-by=$keyring] $archive $BACKPORTS main" \
		>"$tree/etc/apt/sources.list.d/backports.list"
	printf 'Package: %s\nPin: release n=%s\nPin-Priority: 900\n' \
		"$PACKAGES_BACKPORTS" "$BACKPORTS" >"$tree/etc/apt/preferences.d/tern"
	check_pins
	get_kernel "$tree" "$archive"
}

# Puts the kernel's source in place, which the pinned digest vouches for: the
# caller's own file, else what is in the package of that version. It keeps its
# time, by which tern-series knows a tarball that it has taken in before.
get_kernel() {
	local tree=$1 archive=$2 deb=$work/kernel.deb
	if [ -n "$given_tarball" ]; then
		mkdir -p "$(dirname "$tree$pinned_tarball")"
		cp --preserve=timestamps "$given_tarball" "$tree$pinned_tarball"
	else
		download_kernel "$deb" "$archive" "$SNAPSHOT"
		dpkg-deb --fsys-tarfile "$deb" | tar --extract --directory="$tree" ".$pinned_tarball"
		rm "$deb"
	fi
	check_tarball "$tree$pinned_tarball"
}

# Downloads the kernel's package from the first of the archives that has it.
download_kernel() {
	local deb=$1 name=${KERNEL_PACKAGE}_${KERNEL_VERSION}_all.deb archive
	shift
	for archive; do
		! /usr/lib/apt/apt-helper download-file "$archive/pool/main/l/linux/$name" "$deb" || return 0
		say "  $name is not to be had from $archive"
	done
	die "the kernel's source of the pinned version is in no archive: give it with KERNEL_TARBALL=FILE ($pinned_tarball of $name), or change $env_dir/pins"
}

# Prints mmdebstrap's options for the host's apt settings of the network, and
# for its passwords where they can be read, which stay on the host.
network_options() {
	local line
	[ ! -r /etc/apt/auth.conf ] || echo '--aptopt=Dir::Etc::netrc "/etc/apt/auth.conf"'
	[ ! -r /etc/apt/auth.conf.d ] || echo '--aptopt=Dir::Etc::netrcparts "/etc/apt/auth.conf.d"'
	apt-config dump | grep -E '^Acquire::(https?::|Retries)' | grep -v ' "";$' |
		while read -r line; do echo "--aptopt=$line"; done
}

# Shows mmdebstrap's phases as they come, with the time since the start.
show_phases() {
	local start line
	start=$(date +%s)
	while IFS= read -r line; do
		case $line in
		"I: main() received signal"*) ;;
		"I: "*) say "  $(took "$start") ${line#I: }" ;;
		"tern: "*) printf '%s\n' "$line" >&2 ;;
		esac
	done
}

bootstrap() {
	local tree=$1 log=$work/prepare.log list options
	mapfile -t list < <(sources)
	mapfile -t options < <(network_options)
	say "toolchain root: Debian $SUITE into $root"
	# A process namespace of its own lets mmdebstrap mount /proc as a user, and
	# ends whatever it started when it is interrupted. The hook is this script
	# again, and takes the tarball from the environment as this one did.
	KERNEL_TARBALL=$given_tarball "${in_namespace[@]}" unshare --pid --fork --kill-child -- \
		mmdebstrap --mode=root --variant=minbase --format=directory \
		--include="$(echo "$PACKAGES_TOOLCHAIN $PACKAGES_KERNEL $PACKAGES_SELFTESTS $PACKAGES_GUEST $PACKAGES_PEOPLE" | tr ' ' ,)" \
		--setup-hook="'$env_dir/prepare.sh' --setup-hook \"\$1\"" \
		--dpkgopt=force-unsafe-io \
		--aptopt='APT::Install-Recommends "false"' "${options[@]}" \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		"$SUITE" "$tree" "${list[@]}" </dev/null 2>&1 | tee "$log" | show_phases || explain_bootstrap "$log"
}

explain_bootstrap() {
	# The hook has said why.
	! grep -q '^tern: error: ' "$1" || exit 1
	tail -n 15 "$1" >&2
	if grep -qE 'Temporary failure resolving|Could not resolve|Could not connect|Network is unreachable|[Cc]onnection (timed out|refused|failed)' "$1"; then
		die "no network: the Debian mirror cannot be reached. Set http_proxy or apt's Acquire::http::Proxy if this machine needs a proxy"
	fi
	if grep -qE 'Unable to locate package|no installation candidate' "$1"; then
		die "the archive no longer has a package that the pins name (see above): change $env_dir/pins"
	fi
	die "making the toolchain root failed (all of it: $1)"
}

# Fails unless apt would install the pinned version of a package.
check_pin() {
	local pin=$1 package=$2 wanted=${!1} found
	found=$(apt-cache policy "$package" | sed -n 's/^  Candidate: //p')
	case ${found#*:} in
	"$wanted" | "$wanted"[.+~-]*) ;;
	*) die "pin $pin no longer holds: the archive has $package ${found:-(none)}, the pin says $wanted. Change $env_dir/pins, and see that the tests pass" ;;
	esac
}

check_pins() {
	local -x APT_CONFIG=$MMDEBSTRAP_APT_CONFIG LC_ALL=C
	apt-get -o APT::Update::Error-Mode=any update || exit 1
	check_pin LLVM_VERSION "clang-$LLVM_VERSION"
	check_pin RUSTC_VERSION rustc
	check_pin BINDGEN_VERSION bindgen
	check_pin QEMU_VERSION qemu-system-x86
}

# Mount points of enter.sh, which shows the root read-only.
finish() {
	local tree=$1 file
	mkdir -p "$tree"/{tern,cache,host}
	for file in resolv.conf hosts; do
		rm -f "$tree/etc/$file"
		: >"$tree/etc/$file"
	done
	ln -sf "clang-$LLVM_VERSION" "$tree/usr/bin/clang"
}

# What an interrupted or failed preparation left.
remove_stale() {
	local dir
	for dir in "$cache"/*/root.new.*; do
		[ ! -e "$dir" ] || "${in_namespace[@]}" rm -rf --one-file-system "$dir"
	done
}

prepare() {
	local start tree
	[ ! -e "$root" ] || return 0
	mkdir -p "$work" "$cache/ccache" "$cache/cargo"
	exec 9>"$cache/lock"
	flock -n 9 || { say "another preparation is at work: waiting for it"; flock 9; }
	# The other one may have made it.
	[ ! -e "$root" ] || return 0
	start=$(date +%s)
	[ -z "$given_tarball" ] || check_tarball "$given_tarball"
	check_host
	check_space
	remove_stale
	tree=$root.new.$$
	trap remove_stale EXIT
	trap 'say "interrupted: the next run starts the preparation again"; exit 130' INT TERM
	bootstrap "$tree"
	"${in_namespace[@]}" "$env_dir/prepare.sh" --finish "$tree"
	mv "$tree" "$root"
	say "toolchain root is ready ($(took "$start") min)"
}

case ${1:-} in
--setup-hook) setup_hook "$2" ;;
--finish) finish "$2" ;;
"") prepare ;;
*) die "usage: $0" ;;
esac
