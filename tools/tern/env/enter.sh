#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# enter.sh CMD...: runs a command with the pinned tools, in the checkout. The
# toolchain root is shown read-only, with
#
#   /tern   the checkout
#   /cache  what outlives a checkout: ccache's and cargo's files
#   /host   the directory of the caller (HOSTDIR, or the current one)
#   /kdir   the kernel tree KDIR, if one is named
#
# mounted into it. All mounts are private and end with the command.
# TOOLCHAIN=host runs the command on the host's own tools instead.

set -euo pipefail
# shellcheck source=tools/tern/env/common.sh
. "$(dirname "$0")/common.sh"

# Variables of the caller that the command sees, if they are not empty.
passed=(TERM CI NO_COLOR RUST_BACKTRACE RUST_LOG
	KERNEL ACCEL TIMEOUT MEMORY CPUS VRAM GPUS JOBS ONLY
	http_proxy https_proxy ftp_proxy all_proxy no_proxy
	HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY)

# Mounts a directory of the host, and all that is mounted below it.
show() {
	[ -d "$1" ] || die "$1 is no directory"
	mount --rbind "$1" "$root/$2" || die "$1 cannot be shown in the toolchain root"
}

# Mounts a file of the host, if there is one, over one of the root.
show_file() {
	[ ! -r "$1" ] || mount --bind "$(readlink -f "$1")" "$root/$2"
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
	[ -z "$KDIR" ] || show "$KDIR" kdir
	for dir in proc sys dev; do show /$dir $dir; done
	mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
	show_file /etc/resolv.conf etc/resolv.conf
	show_file /etc/hosts etc/hosts
	show_file "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" etc/ssl/certs/ca-certificates.crt
	make_read_only
}

# Of the host's cargo settings, those of the network hold in the root too.
copy_cargo_settings() {
	local from=${CARGO_HOME:-${HOME:-/nonexistent}/.cargo}/config.toml to=$cache/cargo/config.toml
	mkdir -p "$cache/cargo" "$cache/ccache"
	rm -f "$to"
	[ ! -r "$from" ] ||
		awk '/^\[/ { table = 1; keep = /^\[+ *"?(http|net|source|registry|registries)[]." ]/ }
		     table ? keep : /^ *(http|net|source|registry|registries)\./' "$from" >"$to"
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
set_environment() {
	local name
	settings=(LANG=C.UTF-8 USER=root
		TERN_TOP="$1" TERN_CACHE="$2" TERN_HOST="$3"
		TERN_BASE_TAR="$4" TERN_BASE_GIT="$2/base.git"
		CARGO_TARGET_DIR="$1/build/target"
		CCACHE_DIR="$2/ccache" CCACHE_MAXSIZE=8G)
	for name in "${passed[@]}"; do
		[ -z "${!name:-}" ] || settings+=("$name=${!name}")
	done
	while IFS= read -r name; do settings+=("$name"); done < <(git_settings)
}

enter_root() {
	copy_cargo_settings
	set_environment /tern /cache /host "$pinned_tarball"
	[ -z "$KDIR" ] || settings+=(KDIR=/kdir)
	mount_all
	exec chroot "$root" /usr/bin/env -i "${settings[@]}" HOME=/tmp \
		PATH=/usr/lib/llvm-19/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		CARGO_HOME=/cache/cargo SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
		/bin/sh -c 'cd /tern && exec "$@"' sh "$@"
}

# What of the host's own tools is missing, too old, or not the pinned one.
check_host_tools() {
	local tool missing=() version
	for tool in make clang ld.lld llvm-ar rustc cargo bindgen ccache pahole bc bison flex git perl python3 qemu-system-x86_64; do
		command -v "$tool" >/dev/null || missing+=("$tool")
	done
	[ ${#missing[@]} = 0 ] || die "TOOLCHAIN=host: not installed here: ${missing[*]}"
	version=$(rustc --version | cut -d' ' -f2)
	[ "$(printf '%s\n' 1.85.0 "$version" | sort -V | head -n 1)" = 1.85.0 ] ||
		die "TOOLCHAIN=host: rustc is $version, and 1.85 or later is needed"
	qemu-system-x86_64 -device help | grep -q '"vfio-user-pci"' ||
		die "TOOLCHAIN=host: qemu-system-x86_64 has no vfio-user-pci: 10.1 or later is needed"
}

enter_host() {
	local tarball=${given_tarball:-$pinned_tarball}
	check_host_tools
	[ -r "$tarball" ] || die "TOOLCHAIN=host: there is no $tarball: name the kernel's source with KERNEL_TARBALL=FILE"
	check_tarball "$tarball"
	mkdir -p "$cache/ccache"
	set_environment "$top" "$cache" "$caller" "$(readlink -f "$tarball")"
	[ -z "$KDIR" ] || settings+=(KDIR="$KDIR")
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
