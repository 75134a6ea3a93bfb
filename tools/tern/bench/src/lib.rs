// SPDX-License-Identifier: MIT OR Apache-2.0

//! Figures: what is measured in the guest, and what is made of it.

pub mod figures;
pub mod measured;
pub mod profile;
