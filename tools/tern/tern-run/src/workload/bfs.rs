// SPDX-License-Identifier: MIT OR Apache-2.0

//! Breadth-first search in a graph: small reads all over memory, and threads that meet.

use std::collections::VecDeque;
use std::path::Path;
use std::{fs, ptr};

use anyhow::{bail, Context, Result};

use super::{Done, Options};
use crate::check::compare;
use crate::executor::Executor;
use crate::kernels::{BfsArgs, BFS};
use crate::memory::{check_size, scramble, Buffer, Thp};

/// Level of a node that was not reached.
const UNREACHED: u32 = u32::MAX;

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    check_size(options.size)?;
    let graph = match &options.graph {
        Some(path) => read(path)?,
        None => random(options.share()),
    };
    let start = graph
        .busiest()
        .context("a graph needs a node to start at")?;
    let (levels, bytes) = search(executor, &graph, start, options.thp)?;

    let expected = levels_of(&graph, start);
    compare("levels", 0, &levels, &expected)?;
    let reached = expected.iter().filter(|&&level| level != UNREACHED);
    let (count, depth) = (reached.clone().count(), reached.max().unwrap_or(&0));
    let (nodes, edges) = (graph.neighbours.len(), graph.edges());
    let name = &graph.names[start];
    Ok(Done {
        bytes,
        note: format!("{nodes} nodes, {edges} edges; {count} nodes within {depth} steps of {name}"),
        ..Default::default()
    })
}

/// A directed graph.
#[derive(Debug, Default, PartialEq, Eq)]
struct Graph {
    names: Vec<String>,
    /// Neighbours of each node, by their numbers.
    neighbours: Vec<Vec<u32>>,
}

impl Graph {
    fn edges(&self) -> usize {
        self.neighbours.iter().map(Vec::len).sum()
    }

    /// The first of the nodes with the most neighbours.
    fn busiest(&self) -> Option<usize> {
        let nodes = (0..self.neighbours.len()).rev();
        nodes.max_by_key(|&node| self.neighbours[node].len())
    }
}

/// Reads a graph from a file. Each line is a node: its name, and the numbers of its neighbours;
/// the first line has the number 0.
fn read(path: &Path) -> Result<Graph> {
    let failed = || format!("cannot read the graph {}", path.display());
    let text = fs::read_to_string(path).with_context(failed)?;
    let nodes = text.lines().count();
    let mut graph = Graph::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let neighbours = words.map(|word| match word.parse() {
            Ok(node) if (node as usize) < nodes => Ok(node),
            _ => bail!("\"{word}\" is not the number of a line, after {name}"),
        });
        graph
            .neighbours
            .push(neighbours.collect::<Result<_>>().with_context(failed)?);
        graph.names.push(name.into());
    }
    Ok(graph)
}

/// A graph of about `bytes` bytes that looks random and is the same every time.
fn random(bytes: u64) -> Graph {
    const EDGES: u64 = 6;
    const BYTES: u64 = 8 + 3 * 4 + EDGES * 4;
    let nodes = (bytes / BYTES).clamp(1, u64::from(u32::MAX - 1));
    // None to eleven each, so that not all nodes can be reached.
    let neighbours = |node: u64| {
        let numbers = (0..scramble(node) % (2 * EDGES)).map(move |i| scramble(node << 8 | i + 1));
        numbers.map(|number| (number % nodes) as u32).collect()
    };
    Graph {
        names: (0..nodes).map(|node| format!("node {node}")).collect(),
        neighbours: (0..nodes).map(neighbours).collect(),
    }
}

/// Has the device find the level of each node, one launch for each step. Gives the bytes that it
/// works on, too.
fn search(
    executor: &dyn Executor,
    graph: &Graph,
    start: usize,
    thp: Thp,
) -> Result<(Buffer<u32>, u64)> {
    let (nodes, edges) = (graph.neighbours.len(), graph.edges());
    let mut offsets = Buffer::<u64>::new(nodes + 1, thp)?;
    let mut targets = Buffer::<u32>::new(edges, thp)?;
    let mut levels = Buffer::<u32>::new(nodes, thp)?;
    let mut frontiers = [Buffer::<u32>::new(nodes, thp)?, Buffer::new(nodes, thp)?];
    let mut end = 0;
    for (node, neighbours) in graph.neighbours.iter().enumerate() {
        targets[end..end + neighbours.len()].copy_from_slice(neighbours);
        end += neighbours.len();
        offsets[node + 1] = end as u64;
    }
    levels.fill(UNREACHED);
    levels[start] = 0;
    frontiers[0][0] = start as u32;

    let (mut count, mut level) = (1, 0);
    while count != 0 {
        level += 1;
        let [frontier, next] = &mut frontiers;
        let mut args = BfsArgs {
            offsets: offsets.as_ptr(),
            edges: targets.as_ptr(),
            levels: levels.as_mut_ptr(),
            frontier: frontier.as_ptr(),
            next: next.as_mut_ptr(),
            count,
            next_count: 0,
            level,
        };
        // SAFETY: all edges lead to nodes, each of which is reached once, so that there is room
        // for those of a step; nothing is used until this returns.
        unsafe {
            executor.run(
                &BFS,
                ptr::from_mut(&mut args).cast(),
                (nodes + edges) as u64,
            )
        }?;
        count = args.next_count;
        frontiers.swap(0, 1);
    }
    let bytes = (nodes + 1) * size_of::<u64>() + (edges + 3 * nodes) * size_of::<u32>();
    Ok((levels, bytes as u64))
}

/// The levels as the CPU finds them: node by node, from a queue.
fn levels_of(graph: &Graph, start: usize) -> Vec<u32> {
    let mut levels = vec![UNREACHED; graph.neighbours.len()];
    let mut queue = VecDeque::from([start]);
    levels[start] = 0;
    while let Some(node) = queue.pop_front() {
        for &neighbour in &graph.neighbours[node] {
            let neighbour = neighbour as usize;
            if levels[neighbour] == UNREACHED {
                levels[neighbour] = levels[node] + 1;
                queue.push_back(neighbour);
            }
        }
    }
    levels
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use super::super::tests::{finds, options};
    use super::*;
    use crate::executor::tests::Cpu;

    /// Writes a graph to a file and searches in it.
    fn search_in(text: &str) -> Result<Done> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("graph");
        fs::write(&path, text)?;
        let graph = Some(path);
        run(&Cpu::new(3), &Options { graph, ..options() })
    }

    #[test]
    fn equal_with_any_number_of_threads() {
        for threads in [1, 7, 1000] {
            let done = run(&Cpu::new(threads), &options()).unwrap();
            assert!(done.note.starts_with("5957 nodes, "), "{}", done.note);
            assert!(done.bytes > 1 << 17, "{}", done.bytes);
        }
    }

    #[test]
    fn a_graph_is_read_from_a_file() {
        let done = search_in("a 1\nb 2 0 3\nc\nd 4\ne 1\nalone\n").unwrap();
        assert_eq!(done.note, "6 nodes, 6 edges; 5 nodes within 2 steps of b");
        let done = search_in("alone\n").unwrap();
        assert_eq!(
            done.note,
            "1 nodes, 0 edges; 1 nodes within 0 steps of alone"
        );
    }

    #[test]
    fn what_is_no_graph_is_an_error() {
        for (text, what) in [
            ("", "needs a node"),
            ("a 1\n", "\"1\" is not the number of a line, after a"),
            ("a b\n", "\"b\" is not the number"),
        ] {
            let error = format!("{:#}", search_in(text).unwrap_err());
            assert!(error.contains(what), "{error}");
        }
        let graph = Some("/nonexistent/graph".into());
        let error = run(&Cpu::new(1), &Options { graph, ..options() }).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/graph"), "{error}");
    }

    #[test]
    fn a_wrong_level_is_found() {
        fn nearer(args: *mut c_void) {
            // SAFETY: the workload gives these arguments, and the graph has more nodes.
            unsafe { *(*args.cast::<BfsArgs>()).levels.add(17) = 1 }
        }
        finds(run, nearer, "levels[17]");
    }
}
