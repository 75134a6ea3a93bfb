// SPDX-License-Identifier: GPL-2.0

//! Files in the DRM device's directory of debugfs.
//!
//! They show what the driver knows. The device is not asked, so that they can be read when it does
//! not answer.

use kernel::{
    drm::{
        debugfs::File,
        Registered, //
    },
    seq_file::{
        seq_print,
        SeqFile, //
    },
};

use crate::{
    driver::{
        TernDevice,
        TernDriver, //
    },
    gpu::Gpu,
};

pub(crate) const FILES: &[File<TernDriver>] = &[
    File::new(c"stats", stats),
    File::new(c"vram", vram),
    File::new(c"spaces", spaces),
    File::new(c"queues", queues),
    File::new(c"engines", engines),
];

/// Counters of all address spaces since the driver was bound, what was evicted of that which moved
/// to the system, and which folios the system did not have for it.
fn stats(dev: &TernDevice<Registered>, m: &SeqFile) {
    let gpu: &Gpu = dev;
    let monitor = &gpu.memory.monitor;

    for (name, count) in monitor.stats.counts() {
        seq_print!(m, "{}:\t{}\n", name, count.get());
    }
    for (name, folios) in [("evicted", &monitor.evicted), ("lacking", &monitor.lacking)] {
        let [huge, mid, small] = folios.counts();

        seq_print!(m, "{}-2M:\t{}\n", name, huge);
        seq_print!(m, "{}-mthp:\t{}\n", name, mid);
        seq_print!(m, "{}-4K:\t{}\n", name, small);
    }
    seq_print!(m, "invalidations:\t{}\n", monitor.invalidations.get());
}

/// Device memory in KiB, and the free blocks of each order.
fn vram(dev: &TernDevice<Registered>, m: &SeqFile) {
    let gpu: &Gpu = dev;
    let vram = &gpu.memory.vram;

    seq_print!(m, "total:\t{} KiB\n", vram.pages() * 4);
    seq_print!(m, "free:\t{} KiB\n", vram.free_pages() * 4);
    for (order, blocks) in vram.free_blocks().into_iter().enumerate() {
        seq_print!(m, "free-{}K:\t{}\n", 4 << order, blocks);
    }
}

/// A line for each address space: its number, the process that made it, and counters.
fn spaces(dev: &TernDevice<Registered>, m: &SeqFile) {
    let gpu: &Gpu = dev;

    gpu.for_each_space(|vm| {
        seq_print!(m, "asid={} pid={}", vm.notifier.asid(), vm.owner);
        seq_print!(m, " resident={}", vm.origin.stats.resident_bytes.get());
        for (name, count) in vm.origin.stats.counts() {
            seq_print!(m, " {}={}", name, count.get());
        }
        seq_print!(m, "\n");
    });
}

/// A line for each queue: its number, its address space, and its dispatches.
fn queues(dev: &TernDevice<Registered>, m: &SeqFile) {
    let gpu: &Gpu = dev;

    gpu.for_each_queue(|queue| {
        let (asid, now) = (queue.vm.notifier.asid(), queue.progress());

        seq_print!(m, "queue={} asid={} ", queue.id(), asid);
        seq_print!(m, "submitted={} started={} ", now.submitted, now.started);
        seq_print!(
            m,
            "completed={} stopped={}\n",
            now.completed,
            u8::from(now.stopped)
        );
    });
}

/// Whether the device works, and how many packets of its rings it has taken.
fn engines(dev: &TernDevice<Registered>, m: &SeqFile) {
    let gpu: &Gpu = dev;
    let state = if gpu.regs.is_lost() {
        "lost"
    } else {
        "running"
    };
    let (put, taken) = gpu.control.progress();

    seq_print!(m, "device:\t{}\n", state);
    seq_print!(m, "control:\tsubmitted={} taken={}\n", put, taken);
    for (i, (put, taken)) in gpu.memory.copies.progress().enumerate() {
        seq_print!(m, "copy{}:\tsubmitted={} taken={}\n", i, put, taken);
    }
}
