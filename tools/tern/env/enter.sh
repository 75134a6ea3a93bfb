#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# enter.sh CMD...: runs a command with the pinned tools, in the checkout. The
# toolchain root is shown read-only, with
#
#   /tern   the checkout
#   /cache  what outlives a checkout: ccache's and cargo's files
#   /host   the directory of the caller (HOSTDIR, or the current one)
#
# mounted into it. At their own paths are the kernel tree KDIR, if one is named,
# and what git trees name: the cache again, and the repositories that the
# checkout and KDIR borrow from. All mounts are private and end with the command.
# TOOLCHAIN=host runs the command on the host's own tools instead.

set -euo pipefail
# shellcheck source=tools/tern/env/common.sh
. "$(dirname "$0")/common.sh"

# Variables of the caller that the command sees, if they are not empty.
passed=(TERM CI NO_COLOR RUST_BACKTRACE RUST_LOG
	KERNEL ACCEL TIMEOUT MEMORY CPUS VRAM GPUS JOBS ONLY
	http_proxy https_proxy ftp_proxy all_proxy no_proxy
	HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY
	"${!CARGO_HTTP_@}" "${!CARGO_NET_@}" "${!CARGO_REGISTRIES_@}" "${!CARGO_SOURCE_@}")

# Mounts a directory of the host, and all that is mounted below it.
show() {
	[ -d "$1" ] || die "$1 is no directory"
	mount --rbind "$1" "$root/$2" || die "$1 cannot be shown in the toolchain root"
}

# Mounts a file of the host, if there is one, over one of the root.
show_file() {
	[ ! -r "$1" ] || mount --bind "$(readlink -f "$1")" "$root/$2"
}

# Mounts a directory at the path that it has on the host, unless it is there as
# part of another one.
show_in_place() {
	[ ! "$1" -ef "$root$1" ] || return 0
	mkdir -p "$root$1"
	show "$1" "${1#/}"
}

# Prints the directories that a git checkout needs apart from its own: the
# repository of a linked worktree or submodule, and the object stores that a
# repository borrows from.
git_directories() {
	[ -e "$1/.git" ] || return 0
	local git=(git -C "$1" -c "safe.directory=*")
	"${git[@]}" rev-parse --path-format=absolute --git-common-dir
	"${git[@]}" count-objects --verbose | sed -n 's/^alternate: //p'
}

show_repositories() {
	local dir dirs
	mapfile -t dirs < <(git_directories "$1" 2>/dev/null)
	for dir in "${dirs[@]}"; do
		[ "$dir" = "$1/.git" ] || [ ! -d "$dir" ] || show_in_place "$dir"
	done
}

# The file .git of a linked worktree may name its repository from where the
# checkout is on the host.
show_git_file() {
	local dir
	[ -f "$top/.git" ] || return 0
	dir=$(git -C "$top" -c "safe.directory=*" rev-parse --absolute-git-dir) || return 0
	echo "gitdir: $dir" >"$root/tmp/.git-file"
	mount --bind "$root/tmp/.git-file" "$root/tern/.git"
}

# A user namespace may not drop the flags that the host has set on a mount.
make_read_only() {
	local flags
	flags=$(findmnt --noheadings --output VFS-OPTIONS --mountpoint "$root" | tail -n 1 |
		tr , '\n' | grep -xE 'nosuid|nodev|noatime|nodiratime|relatime' | tr '\n' ,) || true
	mount -o "remount,bind,ro,${flags%,}" "$root"
}

mount_all() {
	local dir
	mount --bind "$root" "$root"
	show "$top" tern
	show "$cache" cache
	show "$caller" host
	for dir in proc sys dev; do show /$dir $dir; done
	mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
	show_in_place "$cache"
	show_repositories "$top"
	show_git_file
	if [ -e "$KDIR/Kbuild" ]; then
		show_in_place "$KDIR"
		show_repositories "$KDIR"
	fi
	show_file /etc/resolv.conf etc/resolv.conf
	show_file /etc/hosts etc/hosts
	show_file "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" etc/ssl/certs/ca-certificates.crt
	make_read_only
}

# Prints the settings that git needs to write commits as the caller.
git_settings() {
	local key value count=1
	printf '%s\n' GIT_CONFIG_KEY_0=safe.directory 'GIT_CONFIG_VALUE_0=*'
	for key in user.name user.email; do
		value=$(git -C "$top" config "$key" 2>/dev/null) || continue
		printf '%s\n' "GIT_CONFIG_KEY_$count=$key" "GIT_CONFIG_VALUE_$count=$value"
		count=$((count + 1))
	done
	echo GIT_CONFIG_COUNT=$count
}

# Fills `settings` with the environment that tern-dev and the tools expect,
# given where the checkout, the cache and the caller's directory are.
# TERN_TOP_NAME is what the caller calls the checkout.
set_environment() {
	local name top_name=$top
	[ ! "$caller" -ef "$top" ] || top_name=.
	settings=(LANG=C.UTF-8 USER=root
		TERN_TOP="$1" TERN_TOP_NAME="$top_name" TERN_CACHE="$2" TERN_HOST="$3"
		TERN_BASE_TAR="$4" TERN_BASE_GIT="$cache/base.git"
		CARGO_TARGET_DIR="$1/build/target"
		CCACHE_DIR="$2/ccache" CCACHE_MAXSIZE=8G)
	for name in "${passed[@]}"; do
		[ -z "${!name:-}" ] || settings+=("$name=${!name}")
	done
	[ -z "$KDIR" ] || settings+=("KDIR=$KDIR")
	while IFS= read -r name; do settings+=("$name"); done < <(git_settings)
}

# Of the host's cargo settings, those of the network hold in the root too. A
# certificate file that they name is copied, and named anew. Each file is put in
# place whole, as other commands may read it or do the same meanwhile.
copy_cargo_settings() {
	local from=${CARGO_HOME:-${HOME:-/nonexistent}/.cargo}/config.toml to=$cache/cargo/config.toml ca new
	mkdir -p "$cache/cargo" "$cache/ccache"
	new=$(mktemp "$to.XXXXXX")
	[ ! -r "$from" ] ||
		awk '/^\[/ { table = 1; keep = /^\[+ *"?(http|net|source|registry|registries)[]." ]/ }
		     table ? keep : /^ *(http|net|source|registry|registries)\./' "$from" >"$new"
	ca=${CARGO_HTTP_CAINFO:-$(sed -n "s/^ *\(http\.\)\?cainfo *= *[\"']\([^\"']*\).*/\2/p" "$new")}
	mv "$new" "$to"
	if [ -r "$ca" ]; then
		new=$(mktemp "$cache/cargo/cainfo.XXXXXX")
		cat "$ca" >"$new"
		mv "$new" "$cache/cargo/cainfo.pem"
		settings+=(CARGO_HTTP_CAINFO=/cache/cargo/cainfo.pem)
	fi
}

enter_root() {
	set_environment /tern /cache /host "$pinned_tarball"
	copy_cargo_settings
	mount_all
	exec chroot "$root" /usr/bin/env -i "${settings[@]}" HOME=/tmp \
		PATH="/usr/lib/llvm-$LLVM_VERSION/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
		CARGO_HOME=/cache/cargo SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
		/bin/sh -c 'cd /tern && exec "$@"' sh "$@"
}

# What of the host's own tools is missing, too old, or not the pinned one.
check_host_tools() {
	local tool missing=() version
	for tool in make clang ld.lld llvm-ar rustc cargo bindgen ccache pahole bc bison flex git perl python3 qemu-system-x86_64 qemu-riscv64; do
		command -v "$tool" >/dev/null || missing+=("$tool")
	done
	[ ${#missing[@]} = 0 ] || die "TOOLCHAIN=host: not installed here: ${missing[*]}"
	version=$(rustc --version | cut -d' ' -f2)
	[ "$(printf '%s\n' "$HOST_RUSTC_VERSION" "$version" | sort -V | head -n 1)" = "$HOST_RUSTC_VERSION" ] ||
		die "TOOLCHAIN=host: rustc is $version, and $HOST_RUSTC_VERSION or later is needed"
	qemu-system-x86_64 -device help | grep -q '"vfio-user-pci"' ||
		die "TOOLCHAIN=host: qemu-system-x86_64 has no vfio-user-pci: $HOST_QEMU_VERSION or later is needed"
}

enter_host() {
	local tarball=${given_tarball:-$pinned_tarball}
	check_host_tools
	[ -r "$tarball" ] || die "TOOLCHAIN=host: there is no $tarball: name the kernel's source with KERNEL_TARBALL=FILE"
	check_tarball "$tarball"
	mkdir -p "$cache/ccache"
	set_environment "$top" "$cache" "$caller" "$(readlink -f "$tarball")"
	cd "$top"
	exec env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS "${settings[@]}" "$@"
}

KDIR=$(absolute "${KDIR:-}")
case ${TOOLCHAIN:-root} in
root) ;;
host) enter_host "$@" ;;
*) die "TOOLCHAIN is '$TOOLCHAIN': root (the default) or host" ;;
esac
if [ "${1:-}" = --inside ]; then
	shift
	enter_root "$@"
fi
[ -d "$root" ] || die "there is no toolchain root: run $env_dir/prepare.sh first"
HOSTDIR=$caller KDIR=$KDIR exec "${in_namespace[@]}" "$env_dir/enter.sh" --inside "$@"
