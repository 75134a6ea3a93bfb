// SPDX-License-Identifier: MIT OR Apache-2.0

//! Linked lists whose nodes came from malloc one by one: the device follows the pointers.

use std::ptr;

use anyhow::Result;

use super::{Done, Options};
use crate::check::compare;
use crate::executor::Executor;
use crate::kernels::{List, ListArgs, Node, LIST};
use crate::memory::{check_size, scattered, scramble, Objects};

/// Lists; each is walked by one thread.
const LISTS: usize = 64;

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    check_size(options.size)?;
    let length = (options.share() as usize / size_of::<Node>() / LISTS).max(1);
    let (nodes, mut lists) = build(length)?;

    let mut args = ListArgs {
        lists: lists.as_mut_ptr(),
        count: LISTS as u64,
    };
    let count = LISTS * length;
    // SAFETY: the lists hold nodes of ours and end, and none is used until this returns.
    unsafe { executor.run(&LIST, ptr::from_mut(&mut args).cast(), count as u64) }?;

    check(&nodes, &lists, length)?;
    Ok(Done {
        bytes: (count * size_of::<Node>()) as u64,
        note: format!("{LISTS} lists of {length} nodes"),
        ..Default::default()
    })
}

/// Makes lists of `length` nodes. Nodes that follow each other in a list lie far apart.
fn build(length: usize) -> Result<(Objects<Node>, Vec<List>)> {
    let count = LISTS * length;
    let new = |i| Node {
        next: ptr::null_mut(),
        value: scramble(i),
        position: u64::MAX,
    };
    let mut nodes = Objects::new((0..count as u64).map(new))?;
    let order: Vec<_> = scattered(count).collect();
    let head = |list: &[usize]| List {
        head: nodes.pointers()[list[0]],
        nodes: 0,
        sum: 0,
    };
    let lists = order.chunks_exact(length).map(head).collect();
    for pair in order.chunks_exact(length).flat_map(|list| list.windows(2)) {
        nodes.get_mut(pair[0]).next = nodes.pointers()[pair[1]];
    }
    Ok((nodes, lists))
}

/// Checks every byte by the order in which the nodes were linked, without following a pointer.
fn check(nodes: &Objects<Node>, lists: &[List], length: usize) -> Result<()> {
    let order: Vec<_> = scattered(LISTS * length).collect();
    for (index, members) in order.chunks_exact(length).enumerate() {
        let mut sum = 0u64;
        for (position, &member) in members.iter().enumerate() {
            let next = members.get(position + 1);
            let expected = Node {
                next: next.map_or(ptr::null_mut(), |&next| nodes.pointers()[next]),
                value: scramble(member as u64),
                position: position as u64,
            };
            let node = std::slice::from_ref(nodes.get(member));
            compare("nodes", member, node, &[expected])?;
            sum = sum.wrapping_add(expected.value);
        }
        let expected = List {
            head: nodes.pointers()[members[0]],
            nodes: length as u64,
            sum,
        };
        compare("lists", index, &lists[index..=index], &[expected])?;
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
            let length = (1 << 18) / 24 / 64;
            assert_eq!(done.note, format!("64 lists of {length} nodes"));
            assert_eq!(done.bytes, 64 * length * 24);
        }
    }

    #[test]
    fn the_smallest_lists_have_one_node() {
        let options = Options {
            size: 4096,
            ..options()
        };
        let done = run(&Cpu::new(3), &options).unwrap();
        assert_eq!(done.note, "64 lists of 1 nodes");
    }

    #[test]
    fn a_wrong_node_and_a_wrong_sum_are_found() {
        fn first(args: *mut c_void) -> &'static mut List {
            // SAFETY: the workload gives these arguments, and there is a first list.
            unsafe { &mut *(*args.cast::<ListArgs>()).lists }
        }
        fn skipped(args: *mut c_void) {
            // SAFETY: the list has more than two nodes.
            unsafe { (*first(args).head).next = (*(*first(args).head).next).next }
        }
        fn miscounted(args: *mut c_void) {
            // SAFETY: as above.
            unsafe { (*(*first(args).head).next).position += 1 }
        }
        fn missing(args: *mut c_void) {
            first(args).sum -= 1;
        }
        finds(run, skipped, "nodes[0]");
        finds(run, miscounted, "nodes[");
        finds(run, missing, "lists[0]");
    }
}
