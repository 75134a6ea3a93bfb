// SPDX-License-Identifier: MIT OR Apache-2.0

//! PCI configuration space: a PCI Express endpoint with MSI-X and function-level reset.

use crate::hw;

/// Size of the configuration space.
pub const SIZE: usize = 4096;

const COMMAND: usize = 0x04;
const COMMAND_MASTER: u8 = 1 << 2;
const EXPRESS: usize = 0x40;
const DEVICE_CONTROL: usize = EXPRESS + 8;
/// Upper byte of Device Control: start a function-level reset.
const CONTROL_FLR: u8 = 1 << 7;
const MSIX: usize = 0x80;

/// Size of the BAR that holds the MSI-X table and the pending bits.
pub const MSIX_BAR_SIZE: u64 = 0x1000;
/// Offset of the pending bits in that BAR.
pub const MSIX_PENDING: u64 = 0x800;

/// What a write to the configuration space asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Command.BusMaster may have changed.
    Master,
    /// A function-level reset.
    Reset,
}

/// The configuration space.
pub struct Config {
    bytes: Box<[u8; SIZE]>,
    /// Bits that can be written.
    writable: Box<[u8; SIZE]>,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// Makes one as it is after a reset.
    pub fn new() -> Self {
        let mut config = Self {
            bytes: Box::new([0; SIZE]),
            writable: Box::new([0; SIZE]),
        };
        config.header();
        config.express();
        config.msix();
        config
    }

    fn header(&mut self) {
        self.put(0x00, &hw::PCI_VENDOR.to_le_bytes());
        self.put(0x02, &hw::PCI_DEVICE.to_le_bytes());
        // Status: there is a list of capabilities.
        self.put(0x06, &0x0010u16.to_le_bytes());
        // Revision, then the class: a 3D controller.
        self.put(0x08, &[(hw::VERSION >> 16) as u8, 0x00, 0x02, 0x03]);
        // BAR 0: 64-bit memory. BAR 2: the same, prefetchable. BAR 4: 32-bit memory.
        self.put(0x10, &4u32.to_le_bytes());
        self.put(0x18, &0xcu32.to_le_bytes());
        self.put(0x20, &0u32.to_le_bytes());
        self.put(0x2c, &hw::PCI_VENDOR.to_le_bytes());
        self.put(0x2e, &hw::PCI_DEVICE.to_le_bytes());
        self.put(0x34, &[EXPRESS as u8]);
        // Memory space, bus master; parity and SERR reporting; INTx disable.
        self.writable[COMMAND] = 0x46;
        self.writable[COMMAND + 1] = 0x05;
        self.writable[0x3c] = 0xff;
    }

    fn express(&mut self) {
        self.put(EXPRESS, &[0x10, MSIX as u8]);
        // Version 2, endpoint.
        self.put(EXPRESS + 2, &0x0002u16.to_le_bytes());
        // Role-based error reporting, function-level reset.
        self.put(EXPRESS + 4, &0x1000_8000u32.to_le_bytes());
        // Link: 16 lanes of 16 GT/s, up.
        self.put(EXPRESS + 0x0c, &0x0000_0104u32.to_le_bytes());
        self.put(EXPRESS + 0x12, &0x0104u16.to_le_bytes());
        self.writable[DEVICE_CONTROL] = 0xff;
        self.writable[DEVICE_CONTROL + 1] = 0x7f;
    }

    fn msix(&mut self) {
        self.put(MSIX, &[0x11, 0x00]);
        self.put(MSIX + 2, &(hw::VECTORS as u16 - 1).to_le_bytes());
        self.put(MSIX + 4, &hw::BAR_MSIX.to_le_bytes());
        let pending = MSIX_PENDING as u32 | hw::BAR_MSIX;
        self.put(MSIX + 8, &pending.to_le_bytes());
        self.writable[MSIX + 3] = 0xc0;
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Whether Command.BusMaster is set.
    pub fn master(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_MASTER != 0
    }

    /// Reads bytes. `None` if they are not all there.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(data.len())?;
        data.copy_from_slice(self.bytes.get(start..end)?);
        Some(())
    }

    /// Writes the bits that can be written. `None` if the bytes are not all there.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(data.len())?;
        if end > SIZE {
            return None;
        }
        let mut effect = Effect::None;
        for (at, new) in (start..end).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | new & mask;
            if at == DEVICE_CONTROL + 1 && new & CONTROL_FLR != 0 {
                effect = Effect::Reset;
            } else if at == COMMAND && effect == Effect::None {
                effect = Effect::Master;
            }
        }
        Some(effect)
    }
}
