// SPDX-License-Identifier: MIT OR Apache-2.0

//! Guest instructions.

use anyhow::{ensure, Result};
use tern_bench::measured::{Counts, Growth, Section};

use crate::cost;
use crate::counter;
use crate::gpu::Gpu;
use crate::region::{Pages, Region, HUGE};

/// Measurements of which the middle one counts.
const ROUNDS: usize = 9;
/// Sizes in MiB.
const SIZES: [usize; 5] = [64, 128, 256, 512, 1024];

/// Counts all.
///
/// # Errors
///
/// Where something fails, or nobody counts.
pub fn counts() -> Result<Counts> {
    counter::check()?;
    // The first is for what is made once.
    growth(SIZES[0])?;
    let growth: Result<Vec<_>> = SIZES.iter().map(|&mib| growth(mib)).collect();
    let growth = growth?;
    let move_2m = cost::drivers(|action| counter::count(action), HUGE, ROUNDS)?;
    let large = cost::large(|action| counter::count(action), ROUNDS)?;
    let sections = sections()?;
    Ok(Counts {
        move_2m,
        large,
        growth,
        random: cost::random(|action| counter::count(action), 3)?,
        sections,
    })
}

/// The device touches each huge page by a lane of its own.
fn growth(mib: usize) -> Result<Growth> {
    let gpu = Gpu::new()?;
    let mut region = Region::new(mib << 20, Pages::Huge)?;
    region.fill();
    let plan = gpu.plan(&region.words_at(HUGE))?;
    let (cost, moved) = cost::faults(&gpu, |action| counter::count(action), &plan, plan.count())?;
    let moved = moved.to_device_huge;
    ensure!(
        moved == plan.count() as u64,
        "{moved} of {} huge pages moved; the device's memory must be larger than {mib} MiB",
        plan.count()
    );
    region.check(HUGE, 2)?;
    Ok(Growth {
        mib: mib as u64,
        per_huge_page: cost / plan.count() as f64,
    })
}

/// Profiles the two directions.
fn sections() -> Result<Vec<Section>> {
    let gpu = Gpu::new()?;
    let mut sections = Vec::new();
    for (pages, what) in [
        (Pages::Huge, "huge page"),
        (Pages::Large, "32 folios of 64 KiB"),
        (Pages::Single, "512 single pages"),
    ] {
        let mut region = Region::new(HUGE, pages)?;
        region.fill();
        let plan = gpu.plan(&region.words_at(HUGE))?;
        let mut section = |name: String, action: &dyn Fn() -> Result<()>| -> Result<()> {
            sections.push(Section {
                name,
                number: counter::profile(action)?,
            });
            Ok(())
        };
        section(format!("{what} to device"), &|| gpu.touch(&plan, 1))?;
        section(format!("{what}, there already"), &|| gpu.touch(&plan, 1))?;
        section(format!("{what} to system"), &|| {
            region.read_each(crate::region::PAGE);
            Ok(())
        })?;
    }
    Ok(sections)
}
