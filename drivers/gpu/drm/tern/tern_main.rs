// SPDX-License-Identifier: GPL-2.0

//! Driver for the Tern GPU, which computes on the memory of the process that uses it.
//!
//! See `Documentation/gpu/tern.rst`.

mod compute;
mod control;
mod copy;
mod debugfs;
mod dmirror;
mod driver;
mod file;
mod gem;
mod gpu;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "described in whole, and for the virtual GPU too"
)]
mod hw;
mod irq;
mod memory;
mod mmu;
mod monitor;
mod regs;
mod ring;
mod stats;
mod svm;
mod trace;
mod vram;

use kernel::{
    driver::Registration,
    pci,
    prelude::*,
    InPlaceModule,
    ModuleMetadata, //
};

use crate::{
    driver::TernDriver,
    memory::Leftovers, //
};

/// Fields are dropped in this order.
#[pin_data]
struct TernModule {
    #[pin]
    driver: Registration<pci::Adapter<TernDriver>>,
    leftovers: Leftovers,
}

impl InPlaceModule for TernModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // SAFETY: This is called once, and before the line below.
            leftovers: unsafe { Leftovers::new() },
            driver <- Registration::new(<Self as ModuleMetadata>::NAME, module),
        })
    }
}

module! {
    type: TernModule,
    name: "tern",
    authors: ["Tern developers"],
    description: "Tern shared-virtual-memory GPU",
    license: "GPL v2",
    params: {
        dmirror: bool {
            default: false,
            description: "Make nodes for the kernel's HMM tests, in place of those of test_hmm",
        },
        mthp: bool {
            default: true,
            description: "Move large folios whole that are mapped by PTEs, or split them if 0",
        },
    },
}
