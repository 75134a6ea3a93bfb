// SPDX-License-Identifier: MIT OR Apache-2.0

//! The C interface from C: the headers compile as C and C++, a program that checks what works
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
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    succeed(
        Command::new(clang)
            .arg(format!("--config={ROOT}/kernel.cfg"))
            .args(WARNINGS)
            .arg("-o")
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
fn the_headers_are_c_and_cpp() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("header");
    for header in ["tern.h", "tern-kernel.h"] {
        fs::write(&source, format!("#include <{header}>\n")).unwrap();
        for (language, standard) in [("c", "-std=c99"), ("c++", "-std=c++11")] {
            succeed(
                clang()
                    .args(WARNINGS)
                    .args(["-fsyntax-only", standard, "-x", language])
                    .arg(&source),
            );
        }
    }
}

/// Functions that the header declares: the words before an opening parenthesis, out of comments.
fn declared() -> Vec<String> {
    let header = fs::read_to_string(Path::new(ROOT).join("include/tern.h")).unwrap();
    let code = header
        .split("/*")
        .filter_map(|part| part.split("*/").nth(1));
    let code: String = code.collect();
    let mut names = Vec::new();
    for (end, _) in code.match_indices('(') {
        let start = code[..end].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &code[start.map_or(0, |start| start + 1)..end];
        if name.starts_with("tern_") {
            names.push(name.to_string());
        }
    }
    names
}

/// A program in C++ that has only the header and the shared library, and refers to each function.
#[test]
fn header_and_shared_library_are_enough() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::copy(Path::new(ROOT).join("include/tern.h"), at("tern.h")).unwrap();
    fs::copy(libraries().join("libtern.so"), at("libtern.so")).unwrap();

    let names = declared();
    assert!(names.len() > 20 && names.iter().any(|name| name == "tern_wait_timeout"));
    let mut source = String::from("#include \"tern.h\"\nint main()\n{\n");
    for name in names {
        writeln!(
            source,
            "\tvoid (*volatile at_{name})() = (void (*)())&{name};"
        )
        .unwrap();
        writeln!(source, "\tif (!at_{name})\n\t\treturn 1;").unwrap();
    }
    source.push_str("\treturn tern_strerror(TERN_OK) == nullptr;\n}\n");
    fs::write(at("program.cpp"), source).unwrap();

    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    succeed(
        Command::new(clang)
            .current_dir(&directory)
            .args(WARNINGS)
            .args([
                "-std=c++11",
                "-o",
                "program",
                "program.cpp",
                "-L.",
                "-ltern",
            ]),
    );
    succeed(Command::new(at("program")).env("LD_LIBRARY_PATH", directory.path()));
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
        errors.starts_with("/dev/null is not a DRM device node"),
        "{errors}"
    );
}
