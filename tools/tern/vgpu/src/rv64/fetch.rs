// SPDX-License-Identifier: MIT OR Apache-2.0

//! Instruction fetch.

use std::collections::HashMap;

use super::compressed::expand;
use super::decode::{decode, is_compressed, Insn, Op};
use super::memory::{Cell, Missed, Tlb, PAGE};
use super::{Access, Memory};

/// Places in a page where an instruction can begin.
const HALVES: usize = PAGE as usize / 2;

/// Pages that a cache holds before it starts anew.
const LIMIT: usize = 512;

/// Not the number of any page.
const NO_PAGE: u64 = u64::MAX;

/// A page of instructions: a copy of its bytes, and what was decoded from them so far.
struct Page {
    halves: [u16; HALVES],
    insns: [Insn; HALVES],
}

/// Decoded instructions of one address space.
///
/// It does not see when the code changes: whoever owns it calls [`clear`](Self::clear) when translations of the
/// address space were invalidated, and before a dispatch starts. `fence.i` clears it too.
pub struct ICache {
    pages: Vec<Box<Page>>,
    numbers: HashMap<u64, usize>,
    /// The page of the last fetch: its number, and its index in `pages`.
    last: (u64, usize),
}

impl Default for ICache {
    fn default() -> Self {
        Self::new()
    }
}

impl ICache {
    /// Makes an empty one.
    pub fn new() -> Self {
        Self {
            pages: Vec::new(),
            numbers: HashMap::new(),
            last: (NO_PAGE, 0),
        }
    }

    /// Forgets all instructions.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.numbers.clear();
        self.last = (NO_PAGE, 0);
    }

    /// Gives the instruction at `pc`, an even address.
    #[inline(always)]
    pub(super) fn fetch<M: Memory>(
        &mut self,
        pc: u64,
        tlb: &mut Tlb<'_, M>,
    ) -> Result<Insn, Missed> {
        if self.last.0 == pc / PAGE {
            if let Some(page) = self.pages.get(self.last.1) {
                let insn = page.insns[(pc % PAGE / 2) as usize];
                if insn.op != Op::Unknown {
                    return Ok(insn);
                }
            }
        }
        self.fetch_new(pc, tlb)
    }

    #[cold]
    #[inline(never)]
    fn fetch_new<M: Memory>(&mut self, pc: u64, tlb: &mut Tlb<'_, M>) -> Result<Insn, Missed> {
        if self.pages.len() + 2 > LIMIT {
            self.clear();
        }
        let index = self.page(pc, tlb)?;
        let half = (pc % PAGE / 2) as usize;
        let mut insn = self.pages[index].insns[half];
        if insn.op == Op::Unknown {
            let low = self.pages[index].halves[half];
            insn = if is_compressed(low) {
                Insn {
                    len: 2,
                    ..decode(expand(low).unwrap_or(0))
                }
            } else {
                let high = match self.pages[index].halves.get(half + 1) {
                    Some(&high) => high,
                    None => {
                        let next = self.page(pc.wrapping_add(2), tlb)?;
                        self.pages[next].halves[0]
                    }
                };
                decode((u32::from(high) << 16) | u32::from(low))
            };
            self.pages[index].insns[half] = insn;
        }
        self.last = (pc / PAGE, index);
        Ok(insn)
    }

    /// Gives the index of the page that `va` is in, copied now if it is new.
    fn page<M: Memory>(&mut self, va: u64, tlb: &mut Tlb<'_, M>) -> Result<usize, Missed> {
        if let Some(&index) = self.numbers.get(&(va / PAGE)) {
            return Ok(index);
        }
        let ptr = tlb
            .find(va, Access::Fetch)?
            .wrapping_sub((va % PAGE) as usize);
        let halves = std::array::from_fn(|i| {
            // SAFETY: `find` makes the whole page around `va` accessible, and it is aligned.
            unsafe { u16::load(ptr.wrapping_add(2 * i)) }
        });
        self.pages.push(Box::new(Page {
            halves,
            insns: [Insn::UNKNOWN; HALVES],
        }));
        self.numbers.insert(va / PAGE, self.pages.len() - 1);
        Ok(self.pages.len() - 1)
    }
}
