// SPDX-License-Identifier: GPL-2.0

//! Buffers: memory of the device that does not move.
//!
//! A buffer is mapped by its offset in the device's file, and then its address is good for CPU and
//! device alike. The CPU reaches it through the aperture, the device by entries of its page table
//! that the fault service makes from the area that maps it.

use core::cmp::Ordering;

use kernel::{
    drm::{
        gem::{
            self,
            private::MappedObject, //
        },
        Registered, //
    },
    prelude::*,
    sync::Arc, //
};

use crate::{
    copy::{
        Batch,
        Place, //
    },
    driver::{
        TernDevice,
        TernDriver, //
    },
    gpu::Gpu,
    memory::DeviceMemory,
    stats::Counter,
    vram::MAX_ORDER, //
};

/// The buffer objects of this driver.
pub(crate) type TernObject = gem::private::Object<Buffer>;

/// Pages of a buffer that are next to each other in VRAM.
struct Extent {
    /// The first page in the buffer.
    first: usize,
    /// The first page in VRAM.
    vram: usize,
    order: usize,
}

impl Extent {
    fn end(&self) -> usize {
        self.first + (1 << self.order)
    }
}

/// A buffer's memory.
pub(crate) struct Buffer {
    memory: Arc<DeviceMemory>,
    /// In order, without gaps.
    extents: KVVec<Extent>,
    /// The CPU may map it.
    cpu: bool,
    /// Bytes in buffers of the file that it is of.
    in_file: Arc<Counter>,
}

/// How a buffer is to be.
pub(crate) struct BufferArgs {
    /// All of it is within reach of the CPU.
    pub(crate) cpu: bool,
    /// Bytes in buffers of the file that it will be of.
    pub(crate) in_file: Arc<Counter>,
}

impl Buffer {
    /// A buffer of zeros. May sleep. Fails with `ENOSPC` if there is not as much memory, `EIO` if
    /// the device is lost.
    fn make(gpu: &Gpu, pages: usize, args: BufferArgs) -> Result<Self> {
        if gpu.regs.is_lost() {
            return Err(EIO);
        }
        let BufferArgs { cpu, in_file } = args;
        let mut buffer = Self {
            memory: gpu.memory.clone(),
            extents: KVVec::new(),
            cpu,
            in_file,
        };
        let limit = cpu.then(|| gpu.aperture_pages());

        buffer.allocate(pages, limit)?;
        buffer.clear()?;
        Ok(buffer)
    }

    /// Where page `page` is in VRAM, as a page number, and how many pages follow it there, itself
    /// included.
    pub(crate) fn place(&self, page: usize) -> Option<(usize, usize)> {
        let i = self
            .extents
            .binary_search_by(|extent| match extent {
                _ if extent.end() <= page => Ordering::Less,
                _ if extent.first > page => Ordering::Greater,
                _ => Ordering::Equal,
            })
            .ok()?;
        let extent = &self.extents[i];

        Some((extent.vram + page - extent.first, extent.end() - page))
    }

    /// Allocates `pages` pages, with `limit` before that page of VRAM, in blocks as large as there
    /// are.
    fn allocate(&mut self, pages: usize, limit: Option<usize>) -> Result {
        let mut first = 0;
        let mut largest = MAX_ORDER;

        if pages > limit.unwrap_or(self.memory.vram.pages()) {
            return Err(ENOSPC);
        }
        while first < pages {
            let order = largest.min((pages - first).ilog2() as usize);
            let Some(vram) = self.memory.vram.alloc_buffer(order, limit) else {
                largest = order.checked_sub(1).ok_or(ENOSPC)?;
                continue;
            };
            let extent = Extent { first, vram, order };

            first = extent.end();
            self.extents
                .push(extent, GFP_KERNEL_ACCOUNT)
                .inspect_err(|_| {
                    self.memory.vram.free_buffer(vram, order);
                })?;
            self.in_file.add(4096 << order);
        }
        Ok(())
    }

    /// Fills it with zeros.
    fn clear(&self) -> Result {
        let mut batch = Batch::with_capacity(self.extents.len())?;

        for extent in &self.extents {
            let place = Place::Vram((extent.vram as u64) << 12);

            batch.clear(place, 4096 << extent.order)?;
        }
        self.memory.copies.wait(self.memory.copies.start(batch))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Each mapping has a reference to the object, and ends only after the notifiers took it
        // from the device's page tables and waited until the device knows.
        for extent in &self.extents {
            self.memory.vram.free_buffer(extent.vram, extent.order);
            self.in_file.sub(4096 << extent.order);
        }
    }
}

impl gem::DriverObject for Buffer {
    type Driver = TernDriver;
    type Args = BufferArgs;

    fn new(dev: &TernDevice, size: usize, args: BufferArgs) -> impl PinInit<Self, Error> {
        Self::make(dev, size >> 12, args)
    }
}

// SAFETY: The frames are those of BAR 2 that reach the pages of this buffer, which nobody else has
// until it is freed. They are the device's memory, without `struct page`.
unsafe impl MappedObject for Buffer {
    fn pfn(&self, dev: &TernDevice<Registered>, page: usize) -> Option<usize> {
        let gpu: &Gpu = dev;
        let (vram, _) = self.place(page)?;

        (self.cpu && vram < gpu.aperture_pages()).then(|| gpu.aperture_pfn() + vram)
    }
}
