# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash disable=SC2034
#
# Sourced by prepare.sh and enter.sh: where things are, and the namespace that
# both work in.

# chroot and others are there, where an ordinary user's shell does not look.
PATH=$PATH:/usr/sbin:/sbin

env_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
top=$(cd "$env_dir/../../.." && pwd -P)

# The directory that the caller stands in, from which the paths that it names
# count.
caller=${HOSTDIR:-$PWD}
absolute() { [ -z "$1" ] || (cd "$caller" && realpath -m -- "$1"); }

# A tarball that the caller brings goes before the package's.
given_tarball=$(absolute "${KERNEL_TARBALL:-}")
# shellcheck source=tools/tern/env/pins
. "$env_dir/pins"
pinned_tarball=$KERNEL_TARBALL
unset KERNEL_TARBALL

# Everything that is kept between runs and is not part of the checkout. The
# root lives under a digest of what it is made from; the caches of ccache and
# cargo outlive it.
cache=${TERN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set it, or TERN_CACHE}/.cache}/tern}
cache=$(realpath -m -- "$cache")
digest=$(cat "$env_dir/pins" "$env_dir/prepare.sh" | sha256sum | cut -c1-16)
root=$cache/$digest/root

say() { printf '%s\n' "tern: $*" >&2; }
die() { say "error: $*"; exit 1; }

# Starts a command in a mount namespace of its own, as user 0 of it: root as it
# is, anybody else in a user namespace in which their own files belong to 0, so
# that what is made in the checkout is theirs outside.
if [ "$(id -u)" = 0 ]; then
	in_namespace=(unshare --mount --)
else
	in_namespace=(unshare --user --map-root-user --map-auto --mount --)
fi

# Says why a namespace cannot be had here and what to do about it.
explain_namespace() {
	local user file settings=/proc/sys/kernel
	user=$(id -un)
	if [ "$(id -u)" = 0 ]; then
		die "mounting is not allowed here (a container without CAP_SYS_ADMIN?): run it privileged, e.g. docker run --privileged"
	fi
	unshare --help | grep -q -- --map-auto ||
		die "unshare(1) is too old: util-linux 2.38 or later is needed (Debian 12, Ubuntu 24.04); or run as root"
	command -v newuidmap >/dev/null ||
		die "newuidmap is missing: sudo apt-get install uidmap"
	for file in /etc/subuid /etc/subgid; do
		grep -q "^\($user\|$(id -u)\):" $file ||
			die "$user has no subordinate ids: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $user"
	done
	[ "$(cat "$settings/unprivileged_userns_clone" 2>/dev/null)" != 0 ] ||
		die "user namespaces are turned off: sudo sysctl kernel.unprivileged_userns_clone=1, or run as root"
	[ "$(cat "$settings/apparmor_restrict_unprivileged_userns" 2>/dev/null)" != 1 ] ||
		die "AppArmor restricts user namespaces: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
	die "user namespaces do not work here (see above; user.max_user_namespaces is $(cat /proc/sys/user/max_user_namespaces 2>/dev/null)): allow them, or run as root"
}

# Fails unless the kernel's source is the very one that the series is made for.
check_tarball() {
	local found
	[ -r "$1" ] || die "there is no file $1, which is to be the kernel's source"
	found=$(sha256sum "$1" | cut -d' ' -f1)
	[ "$found" = "$KERNEL_SHA256" ] ||
		die "pin KERNEL_SHA256 no longer holds: $1 has digest $found, the pin says $KERNEL_SHA256. Give the pinned one with KERNEL_TARBALL=FILE, or change $env_dir/pins"
}
