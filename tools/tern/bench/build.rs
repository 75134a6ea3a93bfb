// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compiles the kernel for the device, as `tern-kernel.h` says.

use std::env;
use std::path::PathBuf;
use std::process::{exit, Command};

const SOURCE: &str = "kernels/touch.c";
const HEADERS: &str = "../tern/include";

const FLAGS: [&str; 18] = [
    "--target=riscv64",
    "-march=rv64gc",
    "-mabi=lp64d",
    "-mcmodel=medany",
    "-mno-relax",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fpie",
    "-fvisibility=hidden",
    "-nostdlib",
    "-fuse-ld=lld",
    "-Wl,-pie",
    "-Wl,-e,0",
    "-Wl,-z,defs",
    "-Wl,--build-id=none",
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed={HEADERS}/tern-kernel.h");
    println!("cargo::rerun-if-env-changed=CLANG");

    let status = Command::new(&clang)
        .args(FLAGS)
        .args(["-I", HEADERS, "-o"])
        .arg(out.join("touch.elf"))
        .arg(SOURCE)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{clang} does not compile {SOURCE}: {status}")),
        Err(error) => fail(&format!(
            "cannot run {clang}: {error}; install clang and lld with the riscv64 target, or set CLANG"
        )),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1);
}
