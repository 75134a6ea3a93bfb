// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernels compute the same bits as RISC-V code, which QEMU runs here, and as the CPU's own.

use std::env;
use std::path::Path;
use std::process::{Command, Output};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels.c");
const HEADERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tern/include");

const RISCV: &[&str] = &[
    "--target=riscv64",
    "-march=rv64gc",
    "-mabi=lp64d",
    "-mcmodel=medany",
    "-ffreestanding",
    "-nostdlib",
    "-static",
    "-fuse-ld=lld",
    "-Wno-unused-command-line-argument",
];

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{errors}",
        output.status
    );
    output
}

fn compile(flags: &[&str], program: &Path) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    run(Command::new(clang)
        .args(flags)
        .args([
            "-O2",
            "-ffp-contract=off",
            "-Wall",
            "-Werror",
            "-I",
            HEADERS,
            "-o",
        ])
        .arg(program)
        .arg(SOURCE));
}

#[test]
fn riscv_and_cpu_give_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let (host, riscv) = (
        directory.path().join("host"),
        directory.path().join("riscv"),
    );
    compile(&[], &host);
    compile(RISCV, &riscv);

    let expected = run(&mut Command::new(&host)).stdout;
    let got = run(Command::new("qemu-riscv64").arg(&riscv)).stdout;
    // All members of the results, and 4 bytes of padding after the matrix and the counts.
    let size =
        2 * 1000 * 8 + 19 * 19 * 4 + 37 * 8 + 4 + 2 * 8 + 1000 * 4 + 8 + 4 * 1000 * 8 + 5 * 8;
    assert_eq!(expected.len(), size);
    let empty = |part: &&[u8]| part.iter().all(|&byte| byte == 0);
    assert_eq!(expected.chunks(512).filter(empty).count(), 0);
    let difference = expected.iter().zip(&got).position(|(a, b)| a != b);
    assert_eq!((got.len(), difference), (expected.len(), None));
}
