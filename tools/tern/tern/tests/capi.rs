// SPDX-License-Identifier: MIT OR Apache-2.0

//! The C interface from C: the header compiles as C and C++, a program that checks what works
//! without a device runs, and the example builds and says that there is no device.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"))
}

fn succeed(command: &mut Command) {
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{errors}",
        output.status
    );
}

fn clang() -> Command {
    let mut command = Command::new(env::var("CLANG").unwrap_or_else(|_| "clang".into()));
    command.arg("-I").arg(Path::new(ROOT).join("include"));
    command
}

/// Directory with the libraries that cargo built for this test.
fn libraries() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

/// The example's kernel, compiled for the device.
fn kernel(directory: &Path) -> PathBuf {
    let elf = directory.join("increment.elf");
    succeed(
        clang()
            .args([
                "--target=riscv64",
                "-march=rv64gc",
                "-mabi=lp64d",
                "-mcmodel=medany",
            ])
            .args([
                "-mno-relax",
                "-O2",
                "-ffreestanding",
                "-fpie",
                "-fvisibility=hidden",
            ])
            .args(["-ffp-contract=off", "-nostdlib", "-fuse-ld=lld", "-Wl,-pie"])
            .args(["-Wl,-e,0", "-Wl,-z,defs", "-o"])
            .arg(&elf)
            .arg(Path::new(ROOT).join("examples/increment-kernel.c")),
    );
    elf
}

/// Links a C program with the library, statically or not.
fn link(source: &Path, program: &Path, library: &[&str]) {
    succeed(
        clang()
            .args(WARNINGS)
            .args(["-std=c11", "-g", "-o"])
            .arg(program)
            .arg(source)
            .arg("-L")
            .arg(libraries())
            .args(library)
            .args(["-lpthread", "-ldl", "-lm"]),
    );
}

#[test]
fn the_header_is_c_and_cpp() {
    let directory = tempfile::tempdir().unwrap();
    for (language, standard) in [("c", "-std=c99"), ("c++", "-std=c++11")] {
        let source = directory.path().join("header");
        fs::write(&source, "#include <tern.h>\n").unwrap();
        succeed(
            clang()
                .args(WARNINGS)
                .args(["-fsyntax-only", standard, "-x", language])
                .arg(source),
        );
    }
}

#[test]
fn works_without_a_device_as_the_header_says() {
    let directory = tempfile::tempdir().unwrap();
    let elf = fs::read(kernel(directory.path())).unwrap();
    let mut source = String::from("static const unsigned char kernel_elf[] = {");
    for byte in elf {
        write!(source, "{byte},").unwrap();
    }
    write!(source, "}};\n#include \"{ROOT}/tests/capi.c\"\n").unwrap();
    let (file, program) = (
        directory.path().join("capi.c"),
        directory.path().join("capi"),
    );
    fs::write(&file, source).unwrap();

    for library in ["-l:libtern.a", "-l:libtern.so"] {
        link(&file, &program, &[library]);
        succeed(Command::new(&program).env("LD_LIBRARY_PATH", libraries()));
    }
}

#[test]
fn the_example_builds_and_tells_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let elf = kernel(directory.path());
    let program = directory.path().join("increment");
    link(
        &Path::new(ROOT).join("examples/increment.c"),
        &program,
        &["-l:libtern.a"],
    );
    let output = run(Command::new(&program)
        .arg(elf)
        .env("TERN_DEVICE", "/dev/null"));
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.starts_with("tern_open: /dev/null is not a DRM device node"),
        "{errors}"
    );
}
