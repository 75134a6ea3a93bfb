// SPDX-License-Identifier: MIT OR Apache-2.0

//! A hash map with chained entries, each from malloc: the device looks up keys, half of which are
//! there.

use std::ptr;

use anyhow::Result;

use super::{Done, Options};
use crate::check::compare;
use crate::executor::Executor;
use crate::kernels::{Entry, HashmapArgs, HASHMAP};
use crate::memory::{check_size, scattered, scramble, Buffer, Objects};

/// Bytes for each entry: itself, its part of the buckets, and two keys that are looked up.
const BYTES: u64 = size_of::<Entry>() as u64 + 8 + 2 * 16;

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    check_size(options.size)?;
    let count = (options.share() / BYTES).max(1) as usize;
    let mut map = Map::new(count, options)?;

    let lookups = 2 * count;
    let mut keys = Buffer::<u64>::new(lookups, options.thp)?;
    let mut values = Buffer::<u64>::new(lookups, options.thp)?;
    for (key, number) in keys.iter_mut().zip(scattered(lookups)) {
        *key = key_of(number);
    }
    let mut args = HashmapArgs {
        buckets: map.buckets.as_mut_ptr(),
        shift: map.shift.into(),
        keys: keys.as_ptr(),
        values: values.as_mut_ptr(),
        count: lookups as u64,
    };
    // SAFETY: the chains hold entries of ours and end, there is a value for each key, and none is
    // used until this returns.
    unsafe { executor.run(&HASHMAP, ptr::from_mut(&mut args).cast(), lookups as u64) }?;

    check(&values, &map)?;
    Ok(Done {
        bytes: count as u64 * BYTES,
        note: format!("{count} entries, {lookups} keys looked up"),
        ..Default::default()
    })
}

/// The key with this number; no two are the same.
fn key_of(number: usize) -> u64 {
    scramble(number as u64)
}

struct Map {
    entries: Objects<Entry>,
    buckets: Buffer<*mut Entry>,
    /// 64 less the bits that number a bucket.
    shift: u32,
    /// The entry that follows each one, as it was linked.
    links: Vec<*mut Entry>,
}

impl Map {
    /// A map of the first `count` keys, with about as many buckets.
    fn new(count: usize, options: &Options) -> Result<Self> {
        let shift = (64 - count.ilog2()).min(63);
        let entries = Objects::new((0..count).map(|number| Entry {
            next: ptr::null_mut(),
            key: key_of(number),
            value: number as u64 + 1,
            hits: 0,
        }))?;
        let buckets = Buffer::new(1 << (64 - shift), options.thp)?;
        let mut map = Self {
            entries,
            buckets,
            shift,
            links: Vec::with_capacity(count),
        };
        for number in 0..count {
            map.link(number);
        }
        Ok(map)
    }

    /// Puts an entry in front of its chain.
    fn link(&mut self, number: usize) {
        let bucket = key_of(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift;
        let first = &mut self.buckets[bucket as usize];
        self.links.push(*first);
        self.entries.get_mut(number).next = *first;
        *first = self.entries.pointers()[number];
    }
}

/// Checks every byte by the numbers of the keys, without a lookup: the first half of them is in
/// the map, and was looked up once.
fn check(values: &[u64], map: &Map) -> Result<()> {
    let count = map.links.len();
    let expected: Vec<_> = scattered(2 * count)
        .map(|number| if number < count { number as u64 + 1 } else { 0 })
        .collect();
    compare("values", 0, values, &expected)?;
    for number in 0..count {
        let entry = std::slice::from_ref(map.entries.get(number));
        let expected = Entry {
            next: map.links[number],
            key: key_of(number),
            value: number as u64 + 1,
            hits: 1,
        };
        compare("entries", number, entry, &[expected])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use super::super::tests::{finds, options};
    use super::*;
    use crate::executor::tests::Cpu;

    #[test]
    fn equal_with_any_number_of_threads() {
        for threads in [1, 7, 1000] {
            let done = run(&Cpu::new(threads), &options()).unwrap();
            assert_eq!(done.note, "3640 entries, 7280 keys looked up");
        }
    }

    #[test]
    fn one_entry_is_a_map() {
        let options = Options {
            size: 4,
            ..options()
        };
        let done = run(&Cpu::new(1), &options).unwrap();
        assert_eq!(done.note, "1 entries, 2 keys looked up");
    }

    #[test]
    fn a_wrong_value_and_a_wrong_entry_are_found() {
        fn wrong_value(args: *mut c_void) {
            // SAFETY: the workload gives these arguments, and there is a fifth key.
            unsafe { *(*args.cast::<HashmapArgs>()).values.add(5) ^= 1 << 40 }
        }
        fn found_twice(args: *mut c_void) {
            // SAFETY: as above; a value is the number of an entry, and the buckets have chains.
            unsafe {
                let buckets = (*args.cast::<HashmapArgs>()).buckets;
                let mut first = (0..1000).map(|i| *buckets.add(i)).filter(|b| !b.is_null());
                (*first.next().unwrap()).hits += 1;
            }
        }
        finds(run, wrong_value, "values[5]");
        finds(run, found_twice, "entries[");
    }
}
