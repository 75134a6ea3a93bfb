// SPDX-License-Identifier: GPL-2.0

//! Access to the registers and doorbells.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    io::Io,
    pci::{
        self,
        DevresBar, //
    },
    prelude::*,
    sync::barrier, //
};

use crate::hw;

/// BAR 0. Every access fails with `ENODEV` once the driver is unbound.
pub(crate) struct Regs {
    bar: DevresBar<{ hw::REGS_SIZE }>,
    lost: AtomicBool,
}

impl Regs {
    /// Maps BAR 0 and checks that this is a device that the driver knows.
    pub(crate) fn new(pdev: &pci::Device<Bound>) -> Result<Self> {
        let bar = pdev.iomap_region_sized::<{ hw::REGS_SIZE }>(hw::BAR_REGS, c"tern")?;
        let (id, version): (u32, u32) = (bar.read32(hw::REG_ID), bar.read32(hw::REG_VERSION));

        if id != hw::ID || version >> 16 != hw::VERSION >> 16 {
            dev_err!(
                pdev,
                "unknown device: ID {:#x}, interface {:#x}\n",
                id,
                version
            );
            return Err(ENODEV);
        }
        Ok(Self {
            bar: bar.into_devres()?,
            lost: AtomicBool::new(false),
        })
    }

    /// Reads a 32-bit register.
    pub(crate) fn read32(&self, offset: usize) -> Result<u32> {
        self.bar.try_access().ok_or(ENODEV)?.try_read32(offset)
    }

    /// Reads a 64-bit register.
    pub(crate) fn read64(&self, offset: usize) -> Result<u64> {
        self.bar.try_access().ok_or(ENODEV)?.try_read64(offset)
    }

    /// Writes a 32-bit register.
    pub(crate) fn write32(&self, offset: usize, value: u32) -> Result {
        self.bar
            .try_access()
            .ok_or(ENODEV)?
            .try_write32(value, offset)
    }

    /// Writes a 64-bit register.
    pub(crate) fn write64(&self, offset: usize, value: u64) -> Result {
        self.bar
            .try_access()
            .ok_or(ENODEV)?
            .try_write64(value, offset)
    }

    /// Stores `value` in the doorbell at `offset` and wakes the device if it sleeps.
    ///
    /// Everything stored before is visible to the device when it sees the doorbell.
    ///
    /// Errors: `EIO` if the device is lost.
    pub(crate) fn doorbell(&self, offset: usize, value: u64) -> Result {
        if self.lost.load(Ordering::Relaxed) {
            return Err(EIO);
        }
        let bar = self.bar.try_access().ok_or(ENODEV)?;

        barrier::mb(barrier::Write);
        bar.try_write64(value, offset)?;
        // The device clears POLLING, then looks at the doorbells once more, then sleeps. With a
        // full barrier between our store and our load, one of us sees the other.
        barrier::mb(barrier::Full);
        if bar.try_read64(hw::DOORBELL_STATE)? & hw::DOORBELL_POLLING == 0 {
            bar.write32(1, hw::REG_KICK);
        }
        Ok(())
    }

    /// Gives the device up because it did not answer in time.
    ///
    /// When this returns it accesses no memory any more, so that what was lent to it can be used
    /// again. From now on all work fails. Does not sleep.
    pub(crate) fn give_up(&self) {
        self.lost.store(true, Ordering::Relaxed);
        // Where these fail there is no device any more. The read waits for the write to arrive,
        // with which the reset takes effect.
        let _ = self.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
        let _ = self.read32(hw::REG_STATUS);
    }

    /// Resets the device and waits until it is ready.
    ///
    /// Afterwards no engine runs, no ring is set up, and the device accesses no memory.
    pub(crate) fn reset(&self, dev: &Device<Bound>) -> Result {
        use kernel::{
            io::poll::read_poll_timeout,
            time::Delta, //
        };

        self.write32(hw::REG_CONTROL, hw::CONTROL_RESET)?;
        read_poll_timeout(
            || self.read32(hw::REG_STATUS),
            |status| status & hw::STATUS_READY != 0,
            Delta::from_micros(100),
            Delta::from_secs(2),
        )
        .inspect_err(|e| dev_err!(dev, "no reset: {:?}\n", e))?;
        Ok(())
    }
}
