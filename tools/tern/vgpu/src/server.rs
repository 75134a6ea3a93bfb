// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device on a vfio-user socket.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{
    vfio_region_info, vfio_region_sparse_mmap_area, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_user::{
    DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea,
};

use crate::config::{self, Config, Effect};
use crate::device::Device;
use crate::hw;

/// A region of the device: its size, and the part of a file that the guest maps for it.
fn region(index: u32, size: u64, mapped: Option<(&File, u64)>) -> ServerRegion {
    let mut flags = 0;
    if size > 0 {
        flags |= VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    }
    if mapped.is_some() {
        flags |= VFIO_REGION_INFO_FLAG_MMAP;
    }
    let sparse_areas = mapped.iter().map(|(_, offset)| SparseArea {
        area: vfio_region_sparse_mmap_area {
            offset: *offset,
            size: size - offset,
        },
    });
    ServerRegion {
        region_info: vfio_region_info {
            argsz: size_of::<vfio_region_info>() as u32,
            flags,
            index,
            cap_offset: 0,
            size,
            offset: 0,
        },
        sparse_areas: sparse_areas.collect(),
        mmap_fd: mapped.map(|(file, _)| file.as_raw_fd()),
    }
}

/// Size of a region, 0 if there is none.
fn size(device: &Device, index: u32) -> u64 {
    match index {
        hw::BAR_REGS => hw::REGS_SIZE as u64,
        hw::BAR_VRAM => device.core.options.aperture,
        hw::BAR_MSIX => config::MSIX_BAR_SIZE,
        VFIO_PCI_CONFIG_REGION_INDEX => config::SIZE as u64,
        _ => 0,
    }
}

fn regions(device: &Device) -> Vec<ServerRegion> {
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let mapped = match index {
                hw::BAR_REGS => Some((&device.bells, hw::DOORBELL_BASE as u64)),
                hw::BAR_VRAM => Some((&device.vram, 0)),
                _ => None,
            };
            region(index, size(device, index), mapped)
        })
        .collect()
}

fn irqs() -> Vec<IrqInfo> {
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| match index {
            VFIO_PCI_MSIX_IRQ_INDEX => IrqInfo {
                index,
                flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
                count: hw::VECTORS,
            },
            _ => IrqInfo {
                index,
                flags: 0,
                count: 0,
            },
        })
        .collect()
}

/// A socket that a virtual machine can connect to. The file goes when this is dropped.
pub struct Socket {
    server: Server,
    device: Arc<Device>,
}

impl Socket {
    /// Makes the socket and listens on it.
    ///
    /// # Errors
    ///
    /// If the path is in use, or a socket cannot be made there.
    pub fn new(path: &Path, device: &Arc<Device>) -> Result<Self, vfio_user::Error> {
        let server = Server::new(path, true, irqs(), regions(device))?;
        Ok(Self {
            server,
            device: device.clone(),
        })
    }

    /// Serves one client until it disconnects. The device is reset then.
    ///
    /// # Errors
    ///
    /// If the connection breaks in the middle of a message.
    pub fn serve(&self) -> Result<(), vfio_user::Error> {
        let mut backend = Backend::new(&self.device);
        let result = self.server.run(&mut backend);
        backend.disconnect();
        result
    }
}

/// One connection: what the device does for each kind of message.
pub struct Backend {
    device: Arc<Device>,
    config: Config,
    /// The device was seen to be gone, and stopped.
    gone: bool,
}

fn invalid() -> Error {
    ErrorKind::InvalidInput.into()
}

impl Backend {
    /// Makes one for a client that has just connected.
    pub fn new(device: &Arc<Device>) -> Self {
        Self {
            device: device.clone(),
            config: Config::new(),
            gone: false,
        }
    }

    /// Fails unless `len` bytes at `offset`, at least one, are all in a region.
    fn check(&self, region: u32, offset: u64, len: usize) -> Result<(), Error> {
        let end = offset.checked_add(len as u64);
        match end.filter(|end| *end <= size(&self.device, region)) {
            Some(_) if len > 0 => Ok(()),
            _ => Err(invalid()),
        }
    }

    fn set_master(&self, on: bool) {
        self.device.core.bus.set_master(on);
        self.device.core.irqs.set_master(on);
    }

    /// Whether the device has vanished. Before the CPU can know, it has stopped to touch memory.
    fn has_vanished(&mut self) -> bool {
        if !self.device.core.mischief.is_gone() {
            return false;
        }
        if !self.gone {
            self.gone = true;
            self.device.reset();
            self.set_master(false);
        }
        true
    }

    fn full_reset(&mut self) {
        self.device.reset();
        self.config = Config::new();
        self.device.core.bus.set_master(false);
        self.device.core.irqs.reset();
    }

    fn disconnect(&mut self) {
        self.full_reset();
        self.device.core.bus.unmap_all();
        self.device.core.irqs.clear();
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        match self.config.write(offset, data).ok_or_else(invalid)? {
            Effect::None => {}
            Effect::Master => self.set_master(self.config.master()),
            Effect::Reset => self.full_reset(),
        }
        Ok(())
    }

    fn read_regs(&self, offset: u64, data: &mut [u8]) {
        if let Some(run) = self.device.core.bells.run(offset, data.len() as u64) {
            return run.read_bytes(data);
        }
        let value = self.device.read(offset as usize, data.len());
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write_regs(&self, offset: u64, data: &[u8]) {
        if let Some(run) = self.device.core.bells.run(offset, data.len() as u64) {
            return match data.try_into() {
                Ok(word) if offset % 8 == 0 => run.store(0, u64::from_le_bytes(word)),
                _ => run.write_bytes(data),
            };
        }
        let mut value = [0; 8];
        for (byte, data) in value.iter_mut().zip(data) {
            *byte = *data;
        }
        let value = u64::from_le_bytes(value);
        self.device.write(offset as usize, data.len(), value);
    }
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Error> {
        self.check(region, offset, data.len())?;
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => self.config.read(offset, data).ok_or_else(invalid)?,
            // What a bus answers for a device that does not.
            hw::BAR_REGS if self.has_vanished() => data.fill(0xff),
            hw::BAR_REGS => self.read_regs(offset, data),
            hw::BAR_VRAM => {
                let dma = self.device.core.bus.dma();
                let run = dma.whole(false, offset, data.len() as u64, false);
                run.ok_or_else(invalid)?.read_bytes(data);
            }
            hw::BAR_MSIX => {
                let pending = self.device.core.irqs.pending().to_le_bytes();
                for (at, byte) in (offset..).zip(data) {
                    let bit = at.checked_sub(config::MSIX_PENDING);
                    *byte = bit
                        .and_then(|i| pending.get(i as usize).copied())
                        .unwrap_or(0);
                }
            }
            _ => return Err(invalid()),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.check(region, offset, data.len())?;
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => self.write_config(offset, data)?,
            hw::BAR_REGS if self.has_vanished() => {}
            hw::BAR_REGS => self.write_regs(offset, data),
            hw::BAR_VRAM => {
                let dma = self.device.core.bus.dma();
                let run = dma.whole(false, offset, data.len() as u64, true);
                run.ok_or_else(invalid)?.write_bytes(data);
            }
            // The other end keeps the MSI-X table itself.
            hw::BAR_MSIX => {}
            _ => return Err(invalid()),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> Result<(), Error> {
        tracing::debug!(
            "map {address:#x}+{size:#x}, {}",
            if fd.is_some() { "memory" } else { "no file" }
        );
        // What comes without a file is not memory: the BARs of devices, this one's included.
        let Some(file) = fd else {
            return Ok(());
        };
        let writable = flags.contains(DmaMapFlags::WRITE);
        let bus = &self.device.core.bus;
        let result = bus.map(address, size, &file, offset, writable);
        if let Err(error) = &result {
            tracing::warn!(%error, "{address:#x}+{size:#x} cannot be mapped");
        }
        result
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> Result<(), Error> {
        tracing::debug!("unmap {address:#x}+{size:#x}");
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            self.device.core.bus.unmap_all();
        } else {
            self.device.core.bus.unmap(address, size);
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Error> {
        tracing::debug!("reset");
        self.full_reset();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> Result<(), Error> {
        if index != VFIO_PCI_MSIX_IRQ_INDEX || flags & VFIO_IRQ_SET_ACTION_TRIGGER == 0 {
            return Ok(());
        }
        let irqs = &self.device.core.irqs;
        if count == 0 {
            irqs.clear();
            return Ok(());
        }
        let end = start.checked_add(count).filter(|end| *end <= hw::VECTORS);
        let mut fds = fds.into_iter();
        for vector in start..end.ok_or_else(invalid)? {
            irqs.set(vector, fds.next());
        }
        Ok(())
    }
}
