# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The one entry for people: `make` alone lists what there is. Each target is
# one command of ./tern, which passes on the exit status that it got, where
# make knows only 0 and 2.

MAKEFLAGS += --no-print-directory
top := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))

# What ./tern reads from the environment. The values are taken as they are
# typed, so that CMD='echo $HOME' needs no quoting against make.
variables := KERNEL ACCEL TIMEOUT MEMORY CPUS VRAM GPUS JOBS ONLY TOOLCHAIN KERNEL_TARBALL KDIR CMD HOSTDIR
$(foreach name,$(variables),$(if $(filter undefined,$(origin $(name))),,$(eval override $(name) := $$(value $(name)))$(eval export $(name))))

# The directory that make was called from, also where -C took it elsewhere.
ifeq ($(origin HOSTDIR),undefined)
export HOSTDIR := $(if $(shell tr '\0' '\n' </proc/$$PPID/cmdline | grep -E '^(-C|--directory)'),$(PWD),$(CURDIR))
endif

.PHONY: help run test test-debug test-hmm prove prove-debug shell guest bench build tree refresh series apply bisect-check clean

help:
	@echo "Two commands do everything on a fresh Debian or Ubuntu machine:"
	@echo "  make run               boot the kernel with the virtual GPU and run the workloads"
	@echo "  make test              run the tests; the last line is the total"
	@echo
	@echo "In the guest:"
	@echo "  make guest CMD='…'     run a command, with the current directory as /host"
	@echo "  ./tern guest '…'       the same, from any directory, with the exit status of the command"
	@echo "                         (make has only 0 and 2, and with -C it prints its own lines)"
	@echo "  make shell             a shell"
	@echo "  make bench             figures"
	@echo "  make test-debug        the tests on the debug kernel (KASAN, lockdep, DEBUG_VM), with those that"
	@echo "                         take long"
	@echo "  make test KERNEL=kmsan those that need neither driver nor Rust, on a kernel with KMSAN, whose"
	@echo "                         guests get three times as much memory"
	@echo "  make test-hmm          the kernel's HMM tests, on its own test device and on virtual GPUs, compared"
	@echo "  make prove             what the series mends in the kernel: each test fails without it and"
	@echo "                         passes with it"
	@echo "  make prove-debug       the same on debug kernels"
	@echo
	@echo "The series:"
	@echo "  make build             build kernel and selftests"
	@echo "  make tree              the kernel with the series as commits, in build/tree"
	@echo "  make refresh           take edits and commits in build/tree back"
	@echo "  make series            write the mails to build/series"
	@echo "  make apply KDIR=DIR    put the series on another kernel tree"
	@echo "  make bisect-check      build every commit"
	@echo "  make clean             remove build/"
	@echo
	@echo "Variables: KERNEL=tern|base|debug|base-debug|kmsan|release  ACCEL=auto|tcg|kvm"
	@echo "  MEMORY=3G CPUS=2 VRAM=512M GPUS=1        the virtual machine; at most CPUS=8 and GPUS=2, and a"
	@echo "                                           size without K, M or G counts MiB"
	@echo "  TIMEOUT=3600                             seconds that a command may take, 0 for any number;"
	@echo "                                           in the tests, each suite that runs in the guest"
	@echo "  TOOLCHAIN=host                           the host's own tools"
	@echo "  KERNEL_TARBALL=FILE                      the kernel's source, instead of Debian's package"
	@echo "  TERN_CACHE=DIR                           in place of ~/.cache/tern"
	@echo "  JOBS=N                                   jobs of a build"
	@echo "  ONLY=NAME                                one suite of the tests; * stands for any characters, as"
	@echo "                                           in ONLY='tern-*'; ./tern test -- --list shows them;"
	@echo "                                           of make prove, a defect or a test"

run test-hmm prove shell bench build tree refresh series bisect-check:
	@exec $(top)/tern $@

test:
	@exec $(top)/tern test

test-debug:
	@exec $(top)/tern test --debug

prove-debug:
	@exec $(top)/tern prove --debug

guest:
	@test -n "$$CMD" || { echo "make guest needs CMD='…': the command to run in the guest" >&2; exit 2; }
	@exec $(top)/tern guest -- "$$CMD"

apply:
	@test -n "$$KDIR" || { echo "make apply needs KDIR=DIR: a kernel tree" >&2; exit 2; }
	@exec $(top)/tern apply

clean:
	@rm -rf $(top)/build
