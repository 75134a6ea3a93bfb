// SPDX-License-Identifier: MIT OR Apache-2.0

//! Guest instructions.

use std::path::Path;

use anyhow::{ensure, Result};
use tern_bench::measured::{Counts, Growth, Section, TestHmm, Ways};

use crate::cost;
use crate::counter;
use crate::dmirror::Mirror;
use crate::gpu::Gpu;
use crate::region::{Pages, Region, HUGE, PAGE};

/// Measurements of which the middle one counts.
const ROUNDS: usize = 9;
/// A page somewhere in a huge page, for a profile of it alone.
const LONE_PAGE: usize = 100;
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

/// Counts what folios of 64 KiB take where the driver splits them.
///
/// # Errors
///
/// Where something fails, nobody counts, or they move whole.
pub fn split() -> Result<Ways> {
    counter::check()?;
    cost::split(|action| counter::count(action), ROUNDS)
}

/// Counts what `lib/test_hmm` takes, which is loaded from the file `module`.
///
/// # Errors
///
/// Where something fails, or nobody counts.
pub fn test_hmm(module: &Path) -> Result<TestHmm> {
    counter::check()?;
    let mirror = Mirror::of(module)?;
    Ok(TestHmm {
        move_2m: cost::peer(&mirror, |action| counter::count(action), HUGE, ROUNDS)?,
        sections: test_hmm_sections(&mirror)?,
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

/// Profiles the two directions, and a page that is in no order with others.
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
        sections.push(section(format!("{what} to device"), || {
            gpu.touch(&plan, 1)
        })?);
        sections.push(section(format!("{what}, there already"), || {
            gpu.touch(&plan, 1)
        })?);
        sections.push(section(format!("{what} to system"), || {
            region.read_each(PAGE);
            Ok(())
        })?);
    }

    let mut region = Region::new(HUGE, Pages::Single)?;
    region.fill_page(LONE_PAGE);
    let plan = gpu.plan(&[region.word(LONE_PAGE)])?;
    sections.push(section("page among holes to device".into(), || {
        gpu.touch(&plan, 1)
    })?);
    Ok(sections)
}

/// The same with `lib/test_hmm`; to the device it is with the copy that the call ends with.
fn test_hmm_sections(mirror: &Mirror) -> Result<Vec<Section>> {
    let mut sections = Vec::new();
    for (pages, what) in [
        (Pages::Huge, "huge page"),
        (Pages::Single, "512 single pages"),
    ] {
        let mut region = Region::new(HUGE, pages)?;
        let mut copy = Region::new(HUGE, pages)?;
        region.fill();
        copy.fill();
        sections.push(section(format!("test_hmm, {what} to device"), || {
            mirror.migrate_to_device(&region, &mut copy)
        })?);
        sections.push(section(format!("test_hmm, {what} to system"), || {
            region.read_each(PAGE);
            Ok(())
        })?);
    }
    Ok(sections)
}

fn section(name: String, action: impl FnOnce() -> Result<()>) -> Result<Section> {
    Ok(Section {
        name,
        number: counter::profile(action)?,
    })
}
