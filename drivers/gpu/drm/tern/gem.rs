// SPDX-License-Identifier: GPL-2.0

//! Buffer objects. User space cannot make any: memory is shared by address.

use kernel::{
    drm::gem,
    prelude::*, //
};

use crate::driver::{
    TernDevice,
    TernDriver, //
};

/// The type of the buffer objects that every DRM driver names.
#[pin_data]
pub(crate) struct TernObject {}

impl gem::DriverObject for TernObject {
    type Driver = TernDriver;
    type Args = ();

    fn new(_dev: &TernDevice, _size: usize, _args: ()) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {})
    }
}
