// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `tern-bench` measures in the guest and prints as JSON.

use serde::{Deserialize, Serialize};

/// Cost of the two directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ways {
    /// From system memory to the device.
    pub to_device: f64,
    /// From the device to system memory.
    pub to_system: f64,
}

/// Cost by what the memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// Huge pages of 2 MiB.
    pub huge: Ways,
    /// Single pages of 4 KiB, as many bytes of them.
    pub single: Ways,
}

/// Both drivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drivers {
    /// This one.
    pub tern: Sizes,
    /// The kernel's `lib/test_hmm`.
    pub test_hmm: Sizes,
}

/// 2 MiB in folios of 64 KiB, all of which move as wholes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Large {
    /// What it costs.
    pub cost: Ways,
    /// How many there are.
    pub folios: u64,
    /// How many still move whole, there and back, after they were moved ten times.
    pub whole: u64,
    /// What is done to them on the device.
    pub there: There,
    /// The same with single pages.
    pub there_single: There,
}

/// Cost of what a process does with 2 MiB that are on the device and stay there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct There {
    /// A child is forked and exits.
    pub fork: f64,
    /// The memory is unmapped.
    pub unmap: f64,
}

/// Cost of a number of random pages that the device faults on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Random {
    /// Each by a lane of its own, all in one dispatch.
    pub at_once: f64,
    /// One after another, by one lane.
    pub one_by_one: f64,
}

/// Cost of memory that the device touches for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// The memory in MiB, all of it huge pages.
    pub mib: u64,
    /// Instructions for each 2 MiB.
    pub per_huge_page: f64,
}

/// A section of the profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// What was done.
    pub name: String,
    /// Its number.
    pub number: u64,
}

/// Guest instructions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// For 2 MiB.
    pub move_2m: Drivers,
    /// For 2 MiB.
    pub large: Large,
    /// From little to much memory.
    pub growth: Vec<Growth>,
    /// For all pages.
    pub random: Random,
    /// What was profiled.
    pub sections: Vec<Section>,
}

/// Guest instructions of `lib/test_hmm` alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TestHmm {
    /// For 2 MiB.
    pub move_2m: Sizes,
    /// What was profiled.
    pub sections: Vec<Section>,
}

/// Kernel memory that is taken while memory is on the device, above its `struct page`s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Bytes per GiB of huge pages.
    pub huge: f64,
    /// Bytes per GiB of single pages.
    pub single: f64,
}

/// Times in nanoseconds, and what does not depend on how instructions are executed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// MiB that are moved.
    pub mib: u64,
    /// For all of it.
    pub moved: Drivers,
    /// Part of the time that is the copy, from 0 to 1, one huge page after another.
    pub copy: Ways,
    /// For all pages.
    pub random: Random,
    /// Kernel memory.
    pub metadata: Metadata,
}
