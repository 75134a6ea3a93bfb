// SPDX-License-Identifier: MIT OR Apache-2.0

//! Accesses of the regions that no virtual machine asks for, as its bus does not let them through.

mod support;

use support::options;
use tern_vgpu::config;
use tern_vgpu::device::Running;
use tern_vgpu::hw;
use tern_vgpu::server::Backend;
use vfio_user::ServerBackend;

const CONFIG: u32 = 7;

#[test]
fn accesses_stay_within_their_region() {
    let running = Running::new(options()).unwrap();
    let mut backend = Backend::new(running.device());
    let regions = [
        (hw::BAR_REGS, hw::REGS_SIZE as u64),
        (hw::BAR_VRAM, options().aperture),
        (hw::BAR_MSIX, config::MSIX_BAR_SIZE),
        (CONFIG, config::SIZE as u64),
    ];
    for (region, size) in regions {
        let mut byte = [0];
        backend.region_read(region, size - 1, &mut byte).unwrap();
        backend.region_write(region, size - 1, &[0]).unwrap();
        let beyond = [
            (0, 0),
            (size, 0),
            (size, 1),
            (size - 1, 2),
            (size - 4, 8),
            (1, size as usize),
            (u64::MAX, 1),
            (u64::MAX - 3, 8),
        ];
        for (offset, len) in beyond {
            let mut data = vec![0xff; len];
            let read = backend.region_read(region, offset, &mut data);
            assert!(read.is_err(), "{region}: {offset:#x}+{len}");
            let write = backend.region_write(region, offset, &data);
            assert!(write.is_err(), "{region}: {offset:#x}+{len}");
        }
        backend.region_read(region, size - 1, &mut byte).unwrap();
        assert_eq!(byte, [0]);
    }
    // Not all of VRAM is behind the BAR.
    let dma = running.device().core.bus.dma();
    assert_eq!(dma.vram(options().aperture, 8).unwrap().load(0), 0);
    assert_eq!(running.device().read(hw::REG_ERROR, 4), 0);
}

#[test]
fn regions_that_do_not_exist() {
    let running = Running::new(options()).unwrap();
    let mut backend = Backend::new(running.device());
    for region in [1, 3, 5, 6, 8, 9, u32::MAX] {
        assert!(backend.region_read(region, 0, &mut [0; 4]).is_err());
        assert!(backend.region_write(region, 0, &[0; 4]).is_err());
    }
}
