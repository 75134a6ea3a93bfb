// SPDX-License-Identifier: MIT OR Apache-2.0

//! The caller's terminal.

use std::io::{stdin, IsTerminal};
use std::os::fd::AsRawFd;

use anyhow::{bail, Context, Result};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};

use crate::proto::Size;

/// The terminal of stdin in raw mode: every key goes to the guest. The value
/// puts the old mode back when it is dropped.
#[derive(Debug)]
pub struct Raw {
    old: Termios,
}

impl Raw {
    /// Switches the terminal to raw mode.
    ///
    /// # Errors
    ///
    /// Fails when stdin is not a terminal.
    pub fn enter() -> Result<Self> {
        if !stdin().is_terminal() {
            bail!("a shell needs a terminal, and stdin is none; use: tern-guest run");
        }
        let old = tcgetattr(stdin()).context("cannot read the terminal's mode")?;
        let mut raw = old.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).context("cannot set the terminal's mode")?;
        Ok(Self { old })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone, and then has no mode.
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.old);
    }
}

mod ioctl {
    #![allow(missing_docs)]

    nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, libc::winsize);
}

/// Size of the terminal of stdin; 24 lines of 80 where it has none.
pub fn size() -> Size {
    let mut window = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which `window` is, and keeps no
    // pointer to it.
    let result = unsafe { ioctl::get_window_size(stdin().as_raw_fd(), &mut window) };
    if result.is_err() || window.ws_row == 0 || window.ws_col == 0 {
        return Size {
            rows: 24,
            columns: 80,
        };
    }
    Size {
        rows: window.ws_row,
        columns: window.ws_col,
    }
}
