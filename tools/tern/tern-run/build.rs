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

/// What the tests of the library run on the device, and its tests in C.
const LIBRARY: [&str; 4] = ["kernels.c", "library.h", "capi.c", "capi.h"];

/// For both sides: the same arithmetic, and warnings that matter.
const COMMON: [&str; 5] = ["-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"];

/// What compiles for the device.
const DEVICE: &str = "../tern/kernel.cfg";

fn main() {
    let headers = Path::new("../tern/include");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    for header in ["tern-kernel.h", "tern.h"] {
        println!("cargo::rerun-if-changed={}", headers.join(header).display());
    }
    println!("cargo::rerun-if-changed={DEVICE}");
    println!("cargo::rerun-if-env-changed=CLANG");

    let mut host = for_host(&clang, headers);
    for kernel in KERNELS {
        let source = PathBuf::from(format!("kernels/{kernel}.c"));
        println!("cargo::rerun-if-changed={}", source.display());
        compile_for_device(&clang, &source, &out.join(kernel).with_extension("elf"));
        host.file(source);
    }
    host.compile("kernels");

    let library = Path::new("library");
    for source in LIBRARY {
        println!("cargo::rerun-if-changed={}", library.join(source).display());
    }
    compile_for_device(&clang, &library.join("kernels.c"), &out.join("library.elf"));
    for_host(&clang, headers)
        .file(library.join("capi.c"))
        .compile("capi");
}

/// Compiles for the CPU.
fn for_host(clang: &str, headers: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build.compiler(clang).include(headers).warnings(false);
    COMMON.iter().for_each(|flag| {
        build.flag(flag);
    });
    build
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
