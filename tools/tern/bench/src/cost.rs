// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is measured the same way in instructions and in time.

use std::io;

use anyhow::{ensure, Result};
use tern::Stats;
use tern_bench::measured::{Drivers, Large, Random, Sizes, There, Ways};

use crate::dmirror::Mirror;
use crate::gpu::{Gpu, Plan};
use crate::region::{Pages, Region, HUGE, LARGE, PAGE};

/// Tells what an action costs.
pub type Measure = fn(&mut dyn FnMut() -> Result<()>) -> Result<f64>;

/// Middle of an odd number of measurements.
pub fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

fn median_of_ways(ways: &[Ways]) -> Ways {
    Ways {
        to_device: median(ways.iter().map(|ways| ways.to_device).collect()),
        to_system: median(ways.iter().map(|ways| ways.to_system).collect()),
    }
}

/// The middle of `rounds` measurements, an odd number.
fn median_of_rounds(rounds: usize, one: impl Fn() -> Result<Ways>) -> Result<Ways> {
    // The first is for what is made once.
    one()?;
    let ways: Result<Vec<_>> = (0..rounds).map(|_| one()).collect();
    Ok(median_of_ways(&ways?))
}

/// Moves `length` bytes there and back `rounds` times, an odd number, with both drivers.
///
/// # Errors
///
/// Where something fails, or does not move as it must.
pub fn drivers(measure: Measure, length: usize, rounds: usize) -> Result<Drivers> {
    let (gpu, mirror) = (Gpu::new()?, Mirror::open()?);
    Ok(Drivers {
        tern: sizes(rounds, |pages| tern(&gpu, measure, length, pages, pages))?,
        test_hmm: peer(&mirror, measure, length, rounds)?,
    })
}

/// The same with `lib/test_hmm` alone.
///
/// # Errors
///
/// Where something fails, or does not move as it must.
pub fn peer(mirror: &Mirror, measure: Measure, length: usize, rounds: usize) -> Result<Sizes> {
    sizes(rounds, |pages| test_hmm(mirror, measure, length, pages))
}

fn sizes(rounds: usize, one: impl Fn(Pages) -> Result<Ways>) -> Result<Sizes> {
    Ok(Sizes {
        huge: median_of_rounds(rounds, || one(Pages::Huge))?,
        single: median_of_rounds(rounds, || one(Pages::Single))?,
    })
}

/// Bytes that the CPU brings back by one access, at least.
fn step(pages: Pages) -> usize {
    match pages {
        Pages::Huge => HUGE,
        Pages::Large => LARGE,
        Pages::Single => PAGE,
    }
}

/// The device touches each block of 2 MiB by a lane of its own, then the CPU each page. The memory
/// is made of `pages`, and moves as `moving`.
///
/// To the device, it is the cost of a dispatch that faults above that of the same dispatch when
/// all is there: from the faults to their replay, with the interrupt and all that it wakes.
fn tern(gpu: &Gpu, measure: Measure, length: usize, pages: Pages, moving: Pages) -> Result<Ways> {
    let mut region = Region::new(length, pages)?;
    region.fill();
    let plan = gpu.plan(&region.words_at(HUGE))?;
    let trip = trip(gpu, measure, &region, &plan, moving)?;
    let folios = (length / step(moving)) as u64;
    ensure!(
        trip.there == folios && trip.back == folios,
        "{} of {folios} folios moved to the device and {} back",
        trip.there,
        trip.back
    );
    region.check(HUGE, 2)?;
    Ok(trip.cost)
}

/// What `lanes` threads cost that touch the words of a plan, which are in system memory, above what
/// they cost when all is there; and what moved.
///
/// # Errors
///
/// Where something fails, or the device faults again.
pub fn faults(gpu: &Gpu, measure: Measure, plan: &Plan, lanes: usize) -> Result<(f64, Stats)> {
    let mut touch = || gpu.touch(plan, lanes);

    let before = gpu.stats()?;
    let faulting = measure(&mut touch)?;
    let moved = gpu.stats()? - before;
    // Else the second would have to pay for what is left of the first.
    let settled = gpu.settle(plan)?;
    let resident = measure(&mut touch)?;
    gpu.check_no_faults(&settled)?;
    Ok((faulting - resident, moved))
}

/// A way there and back.
struct Trip {
    cost: Ways,
    /// Folios of the size in question that moved.
    there: u64,
    back: u64,
}

fn trip(gpu: &Gpu, measure: Measure, region: &Region, plan: &Plan, pages: Pages) -> Result<Trip> {
    let (to_device, moved) = faults(gpu, measure, plan, plan.count())?;
    let before = gpu.stats()?;
    let step = step(pages);
    let touched = measure(&mut || {
        region.read_each(step);
        Ok(())
    })?;
    let back = gpu.stats()? - before;
    let here = measure(&mut || {
        region.read_each(step);
        Ok(())
    })?;

    let back = match pages {
        Pages::Huge => back.to_system_huge,
        Pages::Large => back.to_system_mid,
        Pages::Single => back.to_system_small,
    };
    Ok(Trip {
        cost: Ways {
            to_device,
            to_system: touched - here,
        },
        there: arrived(&moved, pages),
        back,
    })
}

/// How many of such pages moved to the device.
fn arrived(moved: &Stats, pages: Pages) -> u64 {
    match pages {
        Pages::Huge => moved.to_device_huge,
        Pages::Large => moved.to_device_mid,
        Pages::Single => moved.to_device_small,
    }
}

/// Round trips before the one that shows whether folios are still whole.
const TRIPS: usize = 10;

/// Moves 2 MiB in folios of 64 KiB there and back, `rounds` times, an odd number, each time new
/// ones; then the same ones again and again.
///
/// # Errors
///
/// Where something fails, or does not move whole from the start.
pub fn large(measure: Measure, rounds: usize) -> Result<Large> {
    let gpu = Gpu::new()?;
    let cost = median_of_rounds(rounds, || {
        tern(&gpu, measure, HUGE, Pages::Large, Pages::Large)
    })?;

    let mut region = Region::new(HUGE, Pages::Large)?;
    region.fill();
    let plan = gpu.plan(&region.words_at(HUGE))?;
    let mut last = trip(&gpu, measure, &region, &plan, Pages::Large)?;
    for _ in 0..TRIPS {
        last = trip(&gpu, measure, &region, &plan, Pages::Large)?;
    }
    region.check(HUGE, 2 * (1 + TRIPS as u64))?;
    Ok(Large {
        cost,
        folios: (HUGE / LARGE) as u64,
        whole: last.there.min(last.back),
        there: there(&gpu, measure, rounds, Pages::Large)?,
        there_single: there(&gpu, measure, rounds, Pages::Single)?,
    })
}

/// Moves 2 MiB in folios of 64 KiB there and back as the driver does that splits them, `rounds`
/// times, an odd number, each time new ones.
///
/// # Errors
///
/// Where something fails, or the driver moves them whole.
pub fn split(measure: Measure, rounds: usize) -> Result<Ways> {
    let gpu = Gpu::new()?;
    median_of_rounds(rounds, || {
        tern(&gpu, measure, HUGE, Pages::Large, Pages::Single)
    })
}

/// Forks and unmaps with 2 MiB on the device, `rounds` times, an odd number.
fn there(gpu: &Gpu, measure: Measure, rounds: usize, pages: Pages) -> Result<There> {
    // The first is for what is made once.
    fork_and_unmap(gpu, measure, pages)?;
    let costs: Result<Vec<_>> = (0..rounds)
        .map(|_| fork_and_unmap(gpu, measure, pages))
        .collect();
    let costs = costs?;
    Ok(There {
        fork: median(costs.iter().map(|cost| cost.fork).collect()),
        unmap: median(costs.iter().map(|cost| cost.unmap).collect()),
    })
}

/// The cost of a fork is that above a fork without the memory.
fn fork_and_unmap(gpu: &Gpu, measure: Measure, pages: Pages) -> Result<There> {
    let mut region = Region::new(HUGE, pages)?;
    let plan = gpu.plan(&region.words_at(HUGE))?;
    let without = measure(&mut fork)?;
    region.fill();
    let (_, moved) = faults(gpu, measure, &plan, plan.count())?;
    let (moved, folios) = (arrived(&moved, pages), (HUGE / step(pages)) as u64);
    ensure!(
        moved == folios,
        "{moved} of {folios} folios moved to the device"
    );
    let before = gpu.stats()?;
    let with = measure(&mut fork)?;
    let mut region = Some(region);
    let unmap = measure(&mut || {
        region.take();
        Ok(())
    })?;
    let back = gpu.stats()? - before;
    ensure!(
        back.to_system_mid + back.to_system_small == 0,
        "memory came back from the device meanwhile"
    );
    Ok(There {
        fork: with - without,
        unmap,
    })
}

/// Forks a child and waits for its end.
fn fork() -> Result<()> {
    let mut status = 0;
    // SAFETY: the child calls nothing but `_exit`, and `status` outlives the wait for it.
    let reaped = unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            child if child > 0 => libc::waitpid(child, &mut status, 0),
            _ => -1,
        }
    };
    ensure!(
        reaped > 0 && status == 0,
        "cannot fork: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// The same with `lib/test_hmm`, to whose device memory is moved by a call.
///
/// That call copies, to the end, what it moved back to its caller, which is measured by itself
/// and left out.
fn test_hmm(mirror: &Mirror, measure: Measure, length: usize, pages: Pages) -> Result<Ways> {
    let mut region = Region::new(length, pages)?;
    let mut copy = Region::new(length, pages)?;
    region.fill();
    copy.fill();

    let migrated = measure(&mut || mirror.migrate_to_device(&region, &mut copy))?;
    let read = measure(&mut || mirror.read(&region, &mut copy))?;
    copy.check(HUGE, 0)?;
    let step = step(pages);
    let touched = measure(&mut || {
        region.read_each(step);
        Ok(())
    })?;
    let here = measure(&mut || {
        region.read_each(step);
        Ok(())
    })?;
    region.check(HUGE, 0)?;
    Ok(Ways {
        to_device: migrated - read,
        to_system: touched - here,
    })
}

/// Pages that are touched at random.
const RANDOM_PAGES: usize = 512;
/// Bytes that they are in.
const RANDOM_LENGTH: usize = 1 << 30;

/// The device touches random pages, at once and one by one.
///
/// # Errors
///
/// Where something fails.
pub fn random(measure: Measure, rounds: usize) -> Result<Random> {
    let gpu = Gpu::new()?;
    let costs = |lanes| -> Result<f64> {
        let costs: Result<Vec<_>> = (0..rounds)
            .map(|_| touch_random(&gpu, measure, lanes))
            .collect();
        Ok(median(costs?))
    };
    Ok(Random {
        at_once: costs(RANDOM_PAGES)?,
        one_by_one: costs(1)?,
    })
}

fn touch_random(gpu: &Gpu, measure: Measure, lanes: usize) -> Result<f64> {
    let mut region = Region::new(RANDOM_LENGTH, Pages::Single)?;
    let pages = random_pages(RANDOM_PAGES, RANDOM_LENGTH / PAGE);
    for &page in &pages {
        region.fill_page(page);
    }
    let words: Vec<_> = pages.iter().map(|&page| region.word(page)).collect();
    let plan = gpu.plan(&words)?;
    let (cost, _) = faults(gpu, measure, &plan, lanes)?;
    for &page in &pages {
        region.check_page(page, 2)?;
    }
    Ok(cost)
}

/// Different numbers below `limit` that look random and are the same every time.
fn random_pages(count: usize, limit: usize) -> Vec<usize> {
    let mut pages = Vec::with_capacity(count);
    let mut state = 1u64;
    while pages.len() < count {
        // Knuth's linear congruential generator; its high bits are the better ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let page = (state >> 33) as usize % limit;
        if !pages.contains(&page) {
            pages.push(page);
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outlier_does_not_count() {
        assert_eq!(median(vec![3.0, 900.0, 2.0]), 3.0);
        let ways = |to_device, to_system| Ways {
            to_device,
            to_system,
        };
        let median = median_of_ways(&[ways(1.0, 9.0), ways(5.0, 8.0), ways(3.0, 1.0)]);
        assert_eq!(median, ways(3.0, 8.0));
    }

    #[test]
    fn random_pages_differ_and_are_in_range() {
        let mut pages = random_pages(512, 600);
        assert!(pages.iter().all(|&page| page < 600));
        assert!(pages.windows(2).any(|pair| pair[0] > pair[1]));
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), 512);
    }
}
