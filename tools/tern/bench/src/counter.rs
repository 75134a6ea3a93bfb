// SPDX-License-Identifier: MIT OR Apache-2.0

//! The instruction counter of the plugin in QEMU, see the crate `tern-count`.

use std::arch::asm;

use anyhow::{ensure, Result};

/// Instructions that the guest has executed; 0 where nobody counts.
fn read() -> u64 {
    let mut count = 0u64;
    // SAFETY: a `nop`, which accesses no memory. The plugin sets nothing but this register.
    unsafe {
        asm!(".byte 0x0f, 0x1f, 0x80", ".ascii \"Ter0\"", inout("rax") count, options(nostack));
    }
    count
}

/// Ends a section of the profile; its number, or 0 where nobody counts.
fn section() -> u64 {
    let mut number = 0u64;
    // SAFETY: as above.
    unsafe {
        asm!(".byte 0x0f, 0x1f, 0x80", ".ascii \"Ter1\"", inout("rax") number, options(nostack));
    }
    number
}

/// Checks that there is a counter.
///
/// # Errors
///
/// Where there is none.
pub fn check() -> Result<()> {
    ensure!(
        read() > 0,
        "nobody counts instructions here; `make bench` loads the plugin that does"
    );
    Ok(())
}

/// The instructions that the guest executes for `action`.
///
/// # Errors
///
/// Those of `action`.
pub fn count(action: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = read();
    action()?;
    Ok((read() - start) as f64)
}

/// Makes `action` a section of the profile; its number.
///
/// # Errors
///
/// Those of `action`.
pub fn profile(action: impl FnOnce() -> Result<()>) -> Result<u64> {
    section();
    action()?;
    Ok(section())
}
