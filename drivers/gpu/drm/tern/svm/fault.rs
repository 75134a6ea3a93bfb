// SPDX-License-Identifier: GPL-2.0

//! Service of GPU faults: drain, sort, merge by block of 2 MiB, serve, one replay.

use core::ops::Range;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    irq::{
        IrqReturn,
        ThreadedHandler, //
    },
    mm::{
        migrate,
        virt::VmaRef,
        MmWithUser,
        MmapReadGuard, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

use crate::{
    gpu::Gpu,
    hw,
    mmu::{
        BLOCK_PAGES,
        BLOCK_SIZE, //
    },
    ring::InRing,
    svm::{
        block::{
            Block,
            Installer, //
        },
        migrate::ToDevice,
        Vm, //
    },
};

/// Faults that are served together.
const BATCH: usize = 512;
/// Parts of VMAs that move at the same time, so that the copy engines always have work.
const IN_FLIGHT: usize = 8;

/// Handler of the fault interrupt.
#[pin_data]
pub(crate) struct FaultHandler<'bound> {
    dev: &'bound Device<Bound>,
    gpu: Arc<Gpu>,
    #[pin]
    service: Mutex<Service>,
}

impl<'bound> FaultHandler<'bound> {
    /// `ring` is the fault ring, which the device has been told of. May sleep.
    pub(crate) fn new(
        dev: &'bound Device<Bound>,
        gpu: Arc<Gpu>,
        ring: InRing<hw::FaultEntry>,
    ) -> Result<impl PinInit<Self, Error> + use<'bound>> {
        let service = Service::new(ring)?;

        Ok(try_pin_init!(Self {
            dev,
            gpu,
            service <- new_mutex!(service, "tern::FaultHandler"),
        }))
    }
}

impl ThreadedHandler for FaultHandler<'_> {
    fn handle_threaded(&self) -> IrqReturn {
        let mut service = self.service.lock();

        // An error leaves the threads of the device waiting; their watchdogs or the end of their
        // queue free them.
        while service
            .serve_batch(self.dev, &self.gpu)
            .inspect_err(|e| dev_err!(self.dev, "fault service: {:?}\n", e))
            .unwrap_or(false)
        {}
        IrqReturn::Handled
    }
}

/// State of the service. Only one thread serves at a time.
struct Service {
    ring: InRing<hw::FaultEntry>,
    faults: KVec<hw::FaultEntry>,
    blocks: KVec<Block>,
    buffers: KVec<migrate::Buffer>,
    installer: Installer,
}

impl Service {
    fn new(ring: InRing<hw::FaultEntry>) -> Result<Self> {
        let mut buffers = KVec::with_capacity(IN_FLIGHT, GFP_KERNEL)?;

        for _ in 0..IN_FLIGHT {
            buffers.push(migrate::Buffer::new(BLOCK_PAGES, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(Self {
            ring,
            faults: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            blocks: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            buffers,
            installer: Installer::new()?,
        })
    }

    /// Serves what is in the ring, up to one batch. False if there was nothing.
    fn serve_batch(&mut self, dev: &Device<Bound>, gpu: &Gpu) -> Result<bool> {
        self.faults.clear();
        if self.ring.drain(&gpu.regs, BATCH, &mut self.faults)? == 0 {
            return Ok(false);
        }
        self.faults
            .sort_unstable_by_key(|fault| (fault.asid, fault.addr));

        let mut start = 0;
        while start < self.faults.len() {
            let asid = self.faults[start].asid;
            let len = self.faults[start..]
                .iter()
                .take_while(|f| f.asid == asid)
                .count();

            self.serve_space(dev, gpu, asid, start..start + len)?;
            start += len;
        }
        gpu.control.replay()?;
        Ok(true)
    }

    /// Serves the faults of one address space.
    fn serve_space(
        &mut self,
        dev: &Device<Bound>,
        gpu: &Gpu,
        asid: u32,
        faults: Range<usize>,
    ) -> Result {
        let Some(vm) = gpu.space(asid) else {
            return cancel(gpu, None, &self.faults[faults]);
        };
        vm.stats.faults.add(faults.len() as u64);
        let Some(mm) = vm.mm() else {
            return cancel(gpu, Some(&vm), &self.faults[faults]);
        };

        merge(&self.faults[faults.clone()], &mut self.blocks)?;
        vm.stats.blocks.add(self.blocks.len() as u64);
        self.move_blocks(gpu, &vm, &mm);

        let mut rest = &self.faults[faults];
        for block in &self.blocks {
            let n = rest.iter().take_while(|f| in_block(f, block)).count();
            let (own, others) = rest.split_at(n);
            rest = others;

            match self.installer.install(dev, &gpu.memory, &vm, &mm, block) {
                Ok(failed) => {
                    for fault in own {
                        if failed.contains(page_of(fault)) {
                            cancel(gpu, Some(&vm), core::slice::from_ref(fault))?;
                        }
                    }
                }
                Err(e) => {
                    dev_dbg!(dev, "block {:#x}: {:?}\n", block.start, e);
                    cancel(gpu, Some(&vm), own)?;
                }
            }
        }
        // Not for the device.
        cancel(gpu, Some(&vm), rest)
    }

    /// Moves to the device what of the blocks can move. What fails to is mapped where it is.
    fn move_blocks(&mut self, gpu: &Gpu, vm: &Vm, mm: &MmWithUser) {
        let mmap = mm.mmap_read_lock();
        let mut parts = Parts::new(&self.blocks, &mmap);

        loop {
            let mut moving: [Option<ToDevice<'_>>; IN_FLIGHT] = Default::default();
            let mut any = false;

            for (slot, buffer) in moving.iter_mut().zip(self.buffers.iter_mut()) {
                let Some((block, vma, range)) = parts.next() else {
                    break;
                };
                any = true;
                *slot = ToDevice::begin(
                    &gpu.memory,
                    &vm.stats,
                    &mmap,
                    vma,
                    range,
                    &block.wanted(),
                    buffer,
                )
                .unwrap_or(None);
            }
            if !any {
                return;
            }
            for part in moving.into_iter().flatten() {
                // What could not be copied is back where it was.
                let _ = part.finish();
            }
        }
    }
}

/// The parts of VMAs that blocks consist of and that may move.
struct Parts<'a> {
    blocks: &'a [Block],
    mmap: &'a MmapReadGuard<'a>,
    /// Address in the first of `blocks` from which on it is not done.
    at: usize,
}

impl<'a> Parts<'a> {
    fn new(blocks: &'a [Block], mmap: &'a MmapReadGuard<'a>) -> Self {
        Self {
            blocks,
            mmap,
            at: 0,
        }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = (&'a Block, &'a VmaRef, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        while let [block, rest @ ..] = self.blocks {
            let end = block.start + BLOCK_SIZE;
            let from = self.at.max(block.start);
            let vma = self.mmap.find_vma_intersection(from..end);
            let Some(vma) = vma.filter(|_| from < end) else {
                self.blocks = rest;
                continue;
            };
            let range = from.max(vma.start())..end.min(vma.end());

            self.at = range.end;
            if may_move(vma) && wants_any(block, &range) {
                return Some((block, vma, range));
            }
        }
        None
    }
}

/// Only anonymous memory moves; the rest is used where it is.
fn may_move(vma: &VmaRef) -> bool {
    vma.is_anonymous() && !vma.is_hugetlb()
}

fn wants_any(block: &Block, range: &Range<usize>) -> bool {
    let wanted = block.wanted();
    let result = wanted
        .iter()
        .any(|page| range.contains(&(block.start + page * 4096)));
    result
}

fn page_of(fault: &hw::FaultEntry) -> usize {
    (fault.addr >> 12) as usize % BLOCK_PAGES
}

fn in_block(fault: &hw::FaultEntry, block: &Block) -> bool {
    fault.addr as usize & !(BLOCK_SIZE - 1) == block.start
}

/// Whether a process can have memory there. The device reports what its threads computed.
fn is_user(fault: &hw::FaultEntry) -> bool {
    fault.addr < 1 << (hw::VA_BITS - 1) && fault.reason != hw::FAULT_RANGE
}

/// Merges faults of one address space, sorted by address, to blocks.
fn merge(faults: &[hw::FaultEntry], blocks: &mut KVec<Block>) -> Result {
    blocks.clear();
    for fault in faults.iter().take_while(|fault| is_user(fault)) {
        let addr = fault.addr as usize;

        if !blocks.last().is_some_and(|block| in_block(fault, block)) {
            blocks.push(Block::at(addr), GFP_KERNEL)?;
        }
        if let Some(block) = blocks.last_mut() {
            block.want(addr, fault.access);
        }
    }
    Ok(())
}

/// Ends the dispatches that met `faults`.
fn cancel(gpu: &Gpu, vm: Option<&Vm>, faults: &[hw::FaultEntry]) -> Result {
    for fault in faults {
        if let Some(vm) = vm {
            vm.stats.cancels.add(1);
        }
        gpu.control.cancel(fault)?;
    }
    Ok(())
}

#[kunit_tests(tern_fault)]
mod tests {
    use super::*;

    fn fault(addr: u64, access: u32) -> hw::FaultEntry {
        hw::FaultEntry {
            addr,
            access,
            ..Default::default()
        }
    }

    #[test]
    fn faults_merge_by_block() -> Result {
        let mut blocks = KVec::new();
        let faults = [
            fault(0x20_0000, hw::ACCESS_READ),
            fault(0x20_0008, hw::ACCESS_WRITE),
            fault(0x3f_ffff, hw::ACCESS_READ),
            fault(0x40_0000, hw::ACCESS_FETCH),
        ];
        merge(&faults, &mut blocks)?;
        assert_eq!(blocks.len(), 2);
        assert!(blocks[0].read.contains(0) && blocks[0].write.contains(0));
        assert!(blocks[0].read.contains(511));
        assert!(blocks[1].read.contains(0) && blocks[1].write.is_empty());
        Ok(())
    }

    #[test]
    fn addresses_beyond_user_space_make_no_block() -> Result {
        let mut blocks = KVec::new();
        let faults = [fault(0x1000, 0), fault(1 << 47, 0), fault(u64::MAX, 0)];
        merge(&faults, &mut blocks)?;
        assert_eq!(blocks.len(), 1);
        Ok(())
    }
}
