// SPDX-License-Identifier: MIT OR Apache-2.0

//! Times, and memory that the driver takes.

use std::fs;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use tern::Stats;
use tern_bench::measured::{Metadata, Times, Ways};

use crate::cost;
use crate::gpu::Gpu;
use crate::region::{Pages, Region, HUGE, PAGE};

/// Measurements of which the middle one counts.
const ROUNDS: usize = 5;
/// Bytes that are moved.
const LENGTH: usize = 256 << 20;
/// Bytes for which memory of the driver is measured.
const GIB: usize = 1 << 30;

/// Measures all.
///
/// # Errors
///
/// Where something fails.
pub fn times() -> Result<Times> {
    Ok(Times {
        mib: (LENGTH >> 20) as u64,
        moved: cost::drivers(nanoseconds, LENGTH, ROUNDS)?,
        copy: copy()?,
        random: cost::random(nanoseconds, ROUNDS)?,
        metadata: Metadata {
            huge: metadata(Pages::Huge)?,
            single: metadata(Pages::Single)?,
        },
    })
}

fn nanoseconds(action: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    action()?;
    Ok(start.elapsed().as_nanos() as f64)
}

/// The copy's part of the time where huge pages move one after another, so that nothing hides
/// behind the copy of another one.
fn copy() -> Result<Ways> {
    let gpu = Gpu::new()?;
    let mut region = Region::new(LENGTH, Pages::Huge)?;
    region.fill();
    let plan = gpu.plan(&region.words_at(HUGE))?;
    let part = |action: &mut dyn FnMut() -> Result<()>| -> Result<(f64, Stats)> {
        let before = gpu.stats()?;
        let total = nanoseconds(action)?;
        let stats = gpu.stats()? - before;
        Ok((stats.copy_ns as f64 / total, stats))
    };
    let (to_device, there) = part(&mut || gpu.touch(&plan, 1))?;
    let (to_system, back) = part(&mut || {
        region.read_each(HUGE);
        Ok(())
    })?;
    let folios = plan.count() as u64;
    ensure!(
        there.to_device_huge == folios && back.to_system_huge == folios,
        "{} of {folios} huge pages moved to the device and {} back",
        there.to_device_huge,
        back.to_system_huge
    );
    region.check(HUGE, 1)?;
    Ok(Ways {
        to_device,
        to_system,
    })
}

/// Bytes that the kernel takes while 1 GiB is on the device, above those that it took while that
/// was in system memory, less the GiB that it got back.
fn metadata(pages: Pages) -> Result<f64> {
    let gpu = Gpu::new()?;
    let mut region = Region::new(GIB, pages)?;
    for page in 0..GIB / PAGE {
        region.fill_page(page);
    }
    let plan = gpu.plan(&region.words_at(HUGE))?;
    let before = used()?;
    let stats = gpu.stats()?;
    gpu.touch(&plan, plan.count())?;
    let moved = gpu.stats()? - stats;
    let after = used()?;
    let moved = moved.to_device_huge * HUGE as u64 + moved.to_device_small * PAGE as u64;
    ensure!(
        moved == GIB as u64,
        "{moved} bytes of {GIB} moved; the device's memory must be larger"
    );
    Ok(after + GIB as f64 - before)
}

/// Bytes of memory that are in use, exactly.
fn used() -> Result<f64> {
    // Folds in what processors count by themselves.
    fs::write("/proc/sys/vm/stat_refresh", "1").context("cannot refresh statistics")?;
    let zones = fs::read_to_string("/proc/zoneinfo").context("cannot read /proc/zoneinfo")?;
    used_pages(&zones)
        .map(|pages| (pages * PAGE as i64) as f64)
        .context("/proc/zoneinfo is not as it was")
}

/// Pages of all zones that are neither free nor in the lists of a processor.
fn used_pages(zones: &str) -> Option<i64> {
    let mut used = 0;
    for line in zones.lines() {
        let mut words = line.split_whitespace();
        let sign = match words.next() {
            Some("managed") => 1,
            Some("nr_free_pages" | "count:") => -1,
            _ => continue,
        };
        used += sign * words.next()?.parse::<i64>().ok()?;
    }
    Some(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_pages_and_those_of_processors_are_not_used() {
        let zones = "\
Node 0, zone      DMA
  pages free     3840
        managed  3840
      nr_free_pages 3800
  pagesets
    cpu: 0
              count:    10
              high:     0
    cpu: 1
              count:    20
Node 0, zone    DMA32
        managed  100
      nr_free_pages 99
";
        assert_eq!(used_pages(zones), Some(40 - 30 + 1));
        assert_eq!(used_pages("  managed none"), None);
    }
}
