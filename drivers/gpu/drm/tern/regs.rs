// SPDX-License-Identifier: GPL-2.0

//! Access to the registers and doorbells.

use core::sync::atomic::{
    AtomicU32,
    Ordering, //
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    io::Io,
    new_spinlock,
    pci::{
        self,
        DevresBar, //
    },
    prelude::*,
    sync::{
        barrier,
        SpinLock, //
    },
};

use crate::{
    gpu::Loss,
    hw, //
};

/// BAR 0. Every access fails with `ENODEV` once the driver is unbound.
#[pin_data]
pub(crate) struct Regs {
    bar: DevresBar<{ hw::REGS_SIZE }>,
    /// How often the device was given up; it has forgotten what it was told before.
    epoch: AtomicU32,
    /// What is to be done when the device is lost.
    #[pin]
    pub(crate) on_loss: SpinLock<Option<Loss>>,
}

impl Regs {
    /// Maps BAR 0 and checks that this is a device that the driver knows.
    pub(crate) fn new(pdev: &pci::Device<Bound>) -> Result<impl PinInit<Self> + use<>> {
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
        let bar = bar.into_devres()?;

        Ok(pin_init!(Self {
            bar,
            epoch: AtomicU32::new(0),
            on_loss <- new_spinlock!(None, "tern::Regs::on_loss"),
        }))
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
    /// Errors: `EIO` if the device was given up since `epoch`.
    pub(crate) fn doorbell(&self, epoch: u32, offset: usize, value: u64) -> Result {
        if self.epoch() != epoch {
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

    /// Gives the device up because it did not answer in time, or not as it must.
    ///
    /// When this returns it accesses no memory any more that was lent to it in `epoch`, so that it
    /// can be used again. From now on all work fails, and what is under way ends; only the copy
    /// engines are started again, to bring memory back. Does not sleep.
    pub(crate) fn give_up(&self, epoch: u32) {
        let on_loss = self.on_loss.lock();

        if self.epoch() != epoch {
            return;
        }
        // Where these fail there is no device any more. The read waits for the write to arrive,
        // with which the reset takes effect.
        let _ = self.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
        let _ = self.read32(hw::REG_STATUS);
        self.epoch.store(epoch + 1, Ordering::Release);
        if let Some(loss) = &*on_loss {
            loss.happened();
        }
    }

    /// Lets all work fail from now on, since the device was reset for good.
    pub(crate) fn close(&self) {
        let _on_loss = self.on_loss.lock();

        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// How often the device was given up. What was begun in another epoch is over: the device
    /// accesses no memory for it any more.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether the device was given up, so that nothing runs on it any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.epoch() != 0
    }

    /// Whether the device has vanished: then reads give all ones.
    pub(crate) fn is_gone(&self) -> bool {
        self.read32(hw::REG_ID) != Ok(hw::ID)
    }

    /// Resets the device and waits until it is ready.
    ///
    /// Afterwards no engine runs, no ring is set up, and the device accesses no memory. `ENODEV` if
    /// it has vanished.
    pub(crate) fn reset(&self, dev: &Device) -> Result {
        use kernel::{
            io::poll::read_poll_timeout,
            time::Delta, //
        };

        if self.is_gone() {
            return Err(ENODEV);
        }
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
