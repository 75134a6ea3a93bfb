// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compiles each kernel twice from one source: for the device, to an ELF file that is embedded,
//! and for the CPU, linked into the program.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{exit, Command};

const KERNELS: [&str; 8] = [
    "triad",
    "gemm",
    "wordcount",
    "pingpong",
    "bfs",
    "radix",
    "list",
    "hashmap",
];

/// For both sides: the same arithmetic, and warnings that matter.
const COMMON: [&str; 5] = ["-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"];

/// What compiles for the device.
const DEVICE: &str = "../tern/kernel.cfg";

fn main() {
    let headers = Path::new("../tern/include");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    println!(
        "cargo::rerun-if-changed={}",
        headers.join("tern-kernel.h").display()
    );
    println!("cargo::rerun-if-changed={DEVICE}");
    println!("cargo::rerun-if-env-changed=CLANG");

    let mut host = cc::Build::new();
    host.compiler(&clang).include(headers).warnings(false);
    COMMON.iter().for_each(|flag| {
        host.flag(flag);
    });
    for kernel in KERNELS {
        let source = PathBuf::from(format!("kernels/{kernel}.c"));
        println!("cargo::rerun-if-changed={}", source.display());
        compile_for_device(&clang, &source, &out.join(kernel).with_extension("elf"));
        host.file(source);
    }
    host.compile("kernels");
}

fn compile_for_device(clang: &str, source: &Path, elf: &Path) {
    let status = Command::new(clang)
        .arg(format!("--config={DEVICE}"))
        .args(COMMON)
        .arg("-o")
        .arg(elf)
        .arg(source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{clang} does not compile {}: {status}", source.display())),
        Err(error) => fail(&format!(
            "cannot run {clang}: {error}; install clang and lld with the riscv64 target, or set CLANG"
        )),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1);
}
