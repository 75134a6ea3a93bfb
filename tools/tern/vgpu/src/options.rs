// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can be chosen about a device.

use std::time::Duration;

use thiserror::Error;

use crate::hw;
use crate::misbehave::Misbehave;
use crate::rv64;

/// Smallest aperture, and unit of the size of VRAM.
const UNIT: u64 = 2 << 20;

/// Properties of a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of VRAM, a multiple of 2 MiB.
    pub vram: u64,
    /// Bytes of VRAM that BAR 2 shows, a power of two of at least 2 MiB.
    pub aperture: u64,
    /// Copy engines, 1 to [`hw::MAX_COPY_ENGINES`].
    pub copy_engines: u32,
    /// Host threads that run waves, at least 1; a synchronous device has none.
    pub compute_threads: usize,
    /// Threads of one dispatch that are resident at a time, at least 1.
    pub resident: u32,
    /// Threads of a wave, 1 to [`rv64::LANES`].
    pub lanes: usize,
    /// How long an idle device looks at its doorbells before it sleeps.
    pub poll: Duration,
    /// Do all work within the KICK, without threads, and never poll.
    pub synchronous: bool,
    /// Seed of all that happens at random.
    pub seed: u64,
    /// What goes wrong on purpose.
    pub misbehave: Vec<Misbehave>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vram: 512 << 20,
            aperture: 256 << 20,
            copy_engines: 2,
            compute_threads: 1,
            resident: 1024,
            lanes: rv64::LANES,
            poll: Duration::from_micros(20),
            synchronous: false,
            seed: 1,
            misbehave: Vec::new(),
        }
    }
}

/// Options that make no device.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Invalid {
    #[error("the VRAM has {0} bytes, but must have a multiple of 2 MiB, at least one")]
    Vram(u64),
    #[error("the aperture has {0} bytes, but must have a power of two of at least 2 MiB")]
    Aperture(u64),
    #[error("the aperture ({aperture} bytes) is larger than the VRAM ({vram} bytes): make the VRAM larger or the aperture smaller")]
    ApertureBeyondVram { aperture: u64, vram: u64 },
    #[error("{0} copy engines were asked for, but there can be 1 to 8")]
    CopyEngines(u32),
    #[error("{0} compute threads were asked for, but there can be 1 to 64")]
    ComputeThreads(usize),
    #[error("{0} resident threads were asked for, but there can be 1 to 1048576")]
    Resident(u32),
    #[error("{0} lanes were asked for, but there can be 1 to 32")]
    Lanes(usize),
    #[error("{0:?} is not a size: give a number with K, M or G behind it, such as 512M")]
    Size(String),
}

impl Options {
    /// Checks all values.
    ///
    /// # Errors
    ///
    /// The first that is out of range.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.vram == 0 || self.vram % UNIT != 0 || self.vram > hw::ENTRY_ADDR {
            return Err(Invalid::Vram(self.vram));
        }
        if !self.aperture.is_power_of_two() || self.aperture < UNIT {
            return Err(Invalid::Aperture(self.aperture));
        }
        if self.aperture > self.vram {
            return Err(Invalid::ApertureBeyondVram {
                aperture: self.aperture,
                vram: self.vram,
            });
        }
        if !(1..=hw::MAX_COPY_ENGINES).contains(&self.copy_engines) {
            return Err(Invalid::CopyEngines(self.copy_engines));
        }
        if !(1..=64).contains(&self.compute_threads) {
            return Err(Invalid::ComputeThreads(self.compute_threads));
        }
        if !(1..=1 << 20).contains(&self.resident) {
            return Err(Invalid::Resident(self.resident));
        }
        if !(1..=rv64::LANES).contains(&self.lanes) {
            return Err(Invalid::Lanes(self.lanes));
        }
        Ok(())
    }
}

/// Reads a size such as `512M`.
///
/// # Errors
///
/// [`Invalid::Size`] where it is none, or more than 64 bits hold.
pub fn size(text: &str) -> Result<u64, Invalid> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(Invalid::Size(text.into())),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| Invalid::Size(text.into()))
}
