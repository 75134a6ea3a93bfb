// SPDX-License-Identifier: MIT OR Apache-2.0

//! First process of the guest: sets the system up, runs one command for
//! `tern-guest`, reports how it ended, and powers the machine off.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("tern-init is started by the kernel of a guest, as its first process");
        return ExitCode::from(2);
    }
    tern_guest::init::main()
}
