// SPDX-License-Identifier: GPL-2.0

//! Streaming DMA mappings of folios.

use super::{
    Attrs,
    DataDirection,
    DmaAddress, //
};
use crate::{
    bindings,
    device::{
        self,
        Bound, //
    },
    mm::folio::Folio,
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef, //
};
use core::ops::Range;

mod private {
    pub trait Sealed {}
}

/// How a [`Mapping`] knows its device.
pub trait DeviceHandle: private::Sealed {
    /// Returns the device.
    #[doc(hidden)]
    fn as_raw(&self) -> *mut bindings::device;
}

impl private::Sealed for &device::Device<Bound> {}
impl DeviceHandle for &device::Device<Bound> {
    #[inline]
    fn as_raw(&self) -> *mut bindings::device {
        (**self).as_raw()
    }
}

impl private::Sealed for ARef<device::Device> {}
impl DeviceHandle for ARef<device::Device> {
    #[inline]
    fn as_raw(&self) -> *mut bindings::device {
        (**self).as_raw()
    }
}

/// Pages of a folio that a device can access at a DMA address. Dropping it unmaps them.
///
/// What the device writes is certain to be visible to the CPU only when the mapping is dropped, and
/// what the CPU writes is certain to be visible to the device only if it was written before the
/// mapping was made; where DMA is not coherent, or goes through bounce buffers, it makes a
/// difference.
///
/// Normally the mapping borrows the bound device and has a reference to the folio, see
/// [`Mapping::new`]. [`Mapping::new_owned`] is for page tables that mirror those of a process:
/// there no borrow can be kept, and a reference would hold on to pages that the memory management
/// wants back. An MMU notifier tells the driver to drop the mapping then.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::{Bound, Device},
///     dma::{Attrs, DataDirection, Mapping},
///     mm::folio::Folio,
///     sync::aref::ARef,
/// };
///
/// fn send(dev: &Device<Bound>, folio: ARef<Folio>) -> Result {
///     let pages = 0..folio.nr_pages();
///     let mapping = Mapping::new(dev, folio, pages, DataDirection::ToDevice, Attrs::NONE)?;
///     dev_dbg!(dev, "{} bytes at {:x}\n", mapping.size(), mapping.dma_address());
///     Ok(())
/// }
/// ```
///
/// The mapping does not outlive the time in which the device is bound:
///
/// ```ignore,compile_fail,E0521
/// # use kernel::{
/// #     device::{Bound, Device}, dma::{Attrs, DataDirection, Mapping}, mm::folio::Folio,
/// #     prelude::*, sync::aref::ARef,
/// # };
/// # fn keep(_mapping: Mapping<&'static Device<Bound>>) {}
/// fn probe(dev: &Device<Bound>, folio: ARef<Folio>) -> Result {
///     let mapping = Mapping::new(dev, folio, 0..1, DataDirection::ToDevice, Attrs::NONE)?;
///     keep(mapping);
///     Ok(())
/// }
/// ```
///
/// The folio is not given up before the mapping, which owns a reference to it:
///
/// ```ignore,compile_fail,E0308
/// # use kernel::{
/// #     device::{Bound, Device}, dma::{Attrs, DataDirection, Mapping}, mm::folio::Folio,
/// #     prelude::*,
/// # };
/// fn borrowed(dev: &Device<Bound>, folio: &Folio) -> Result {
///     Mapping::new(dev, folio, 0..1, DataDirection::ToDevice, Attrs::NONE)?;
///     Ok(())
/// }
/// ```
///
/// # Invariants
///
/// - `address` and `size` are those of a mapping made for `dev`, which is bound, with `direction`
///   and `attrs`.
/// - The pages are allocated until the mapping is dropped; by `_folio` if it is some.
pub struct Mapping<D: DeviceHandle> {
    dev: D,
    _folio: Option<ARef<Folio>>,
    address: DmaAddress,
    size: usize,
    direction: DataDirection,
    attrs: Attrs,
}

impl<'a> Mapping<&'a device::Device<Bound>> {
    /// Maps `pages` of `folio`, counted from the start of the folio, for `dev`.
    ///
    /// Can be called in any context. Fails with [`EINVAL`] if `pages` is empty or not within the
    /// folio, or if the folio is device-private, and with [`ENOMEM`] if the pages cannot be mapped.
    /// Wraps `dma_map_page_attrs()`.
    pub fn new(
        dev: &'a device::Device<Bound>,
        folio: ARef<Folio>,
        pages: Range<usize>,
        direction: DataDirection,
        attrs: Attrs,
    ) -> Result<Self> {
        let (address, size) = map(dev, &folio, pages, direction, attrs)?;

        // INVARIANT: The mapping was just made. `dev` is bound as long as it is borrowed, and the
        // reference to the folio is dropped after the mapping.
        Ok(Self {
            dev,
            _folio: Some(folio),
            address,
            size,
            direction,
            attrs,
        })
    }
}

impl Mapping<ARef<device::Device>> {
    /// Like [`Mapping::new`], for a mapping that holds a reference to the device, and none to the
    /// folio.
    ///
    /// # Safety
    ///
    /// - The mapping must be dropped, and not be forgotten, before `dev` is unbound.
    /// - The pages must stay allocated until it is dropped. For the pages of a process it is enough
    ///   that an MMU notifier of its memory drops the mapping before it returns, and that the
    ///   mapping is made under the notifier's lock after a check that nothing has changed.
    pub unsafe fn new_owned(
        dev: &device::Device<Bound>,
        folio: &Folio,
        pages: Range<usize>,
        direction: DataDirection,
        attrs: Attrs,
    ) -> Result<Self> {
        let (address, size) = map(dev, folio, pages, direction, attrs)?;

        // INVARIANT: The mapping was just made. By the safety requirements it does not outlive the
        // time in which `dev` is bound, nor that in which the pages are allocated.
        Ok(Self {
            dev: dev.into(),
            _folio: None,
            address,
            size,
            direction,
            attrs,
        })
    }
}

impl<D: DeviceHandle> Mapping<D> {
    /// Returns the address at which the device finds the first byte.
    #[inline]
    pub fn dma_address(&self) -> DmaAddress {
        self.address
    }

    /// Returns the size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the direction that was asked for.
    #[inline]
    pub fn direction(&self) -> DataDirection {
        self.direction
    }
}

impl<D: DeviceHandle> Drop for Mapping<D> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, with the arguments of the mapping, and the device is
        // still bound.
        unsafe {
            bindings::dma_unmap_page_attrs(
                self.dev.as_raw(),
                self.address,
                self.size,
                self.direction.into(),
                self.attrs.as_raw(),
            )
        };
    }
}

/// Maps pages, and returns the DMA address and the size in bytes.
fn map(
    dev: &device::Device<Bound>,
    folio: &Folio,
    pages: Range<usize>,
    direction: DataDirection,
    attrs: Attrs,
) -> Result<(DmaAddress, usize)> {
    if pages.start >= pages.end || pages.end > folio.nr_pages() || folio.is_device_private() {
        return Err(EINVAL);
    }
    let size = pages.len() << PAGE_SHIFT;

    // SAFETY: The page is within the folio.
    let page = unsafe { bindings::folio_page(folio.as_raw(), pages.start) };

    // SAFETY: The device is bound, and the pages are memory that is accessible to devices.
    let address = unsafe {
        bindings::dma_map_page_attrs(
            dev.as_raw(),
            page,
            0,
            size,
            direction.into(),
            attrs.as_raw(),
        )
    };

    // SAFETY: The address was returned for this device.
    crate::error::to_result(unsafe { bindings::dma_mapping_error(dev.as_raw(), address) })?;
    Ok((address, size))
}

#[cfg(CONFIG_DEVICE_PRIVATE)]
#[macros::kunit_tests(rust_dma_mapping)]
mod tests {
    use super::*;
    use crate::{
        faux,
        mm::migrate::testing::{
            init_folio,
            vram, //
        },
        page::PAGE_SIZE, //
    };

    const DIRECTION: DataDirection = DataDirection::Bidirectional;

    /// A device that can address all memory.
    fn device() -> Result<faux::Registration> {
        let parent = faux::Registration::new(c"rust-dma-mapping", None)?;
        let dev = bound(&parent).as_raw();

        // SAFETY: The device is valid, has no driver, and nobody else knows of it.
        unsafe { (*dev).dma_mask = &raw mut (*dev).coherent_dma_mask };
        // SAFETY: As above, and its mask has a place.
        crate::error::to_result(unsafe { bindings::dma_set_mask_and_coherent(dev, u64::MAX) })?;
        Ok(parent)
    }

    fn bound(parent: &faux::Registration) -> &device::Device<Bound> {
        let dev: &faux::Device<Bound> = parent.as_ref();

        dev.as_ref()
    }

    #[test]
    fn pages_of_a_folio_are_mapped() -> Result {
        let parent = device()?;
        let dev = bound(&parent);
        let folio = Folio::alloc(2, GFP_KERNEL)?;

        let all = Mapping::new(dev, folio.clone(), 0..4, DIRECTION, Attrs::NONE)?;
        assert_eq!(all.size(), 4 * PAGE_SIZE);
        let one = Mapping::new(dev, folio.clone(), 3..4, DIRECTION, Attrs::NONE)?;
        assert_eq!(one.size(), PAGE_SIZE);
        assert_eq!(
            one.dma_address() - all.dma_address(),
            3 * PAGE_SIZE as DmaAddress
        );

        // Each has a reference.
        assert_eq!(folio.ref_count(), 3);
        drop((all, one));
        assert_eq!(folio.ref_count(), 1);

        // SAFETY: The mapping is dropped before `parent` and `folio` are.
        let owned = unsafe { Mapping::new_owned(dev, &folio, 1..3, DIRECTION, Attrs::NONE) }?;
        assert_eq!(owned.size(), 2 * PAGE_SIZE);
        assert_eq!(folio.ref_count(), 1);
        drop(owned);
        Ok(())
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() -> Result {
        let parent = device()?;
        let dev = bound(&parent);
        let vram = vram()?;
        let map = |folio, pages| Mapping::new(dev, folio, pages, DIRECTION, Attrs::NONE).err();

        let folio = Folio::alloc(1, GFP_KERNEL)?;
        assert_eq!(map(folio.clone(), 1..1), Some(EINVAL));
        assert_eq!(map(folio.clone(), 1..3), Some(EINVAL));
        assert_eq!(map(folio.clone(), 2..3), Some(EINVAL));
        assert_eq!(folio.ref_count(), 1);
        let folio = init_folio(&vram, 0, 0)?.unlock();
        assert_eq!(map(folio, 0..1), Some(EINVAL));
        Ok(())
    }
}
