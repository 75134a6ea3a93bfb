// SPDX-License-Identifier: GPL-2.0

//! Handlers of the interrupts.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    irq::{
        IrqReturn,
        ThreadedHandler, //
    },
    sync::Arc,
};

use crate::{
    gpu::Gpu,
    svm::fault::FaultRing, //
};

/// Threads wait for faults.
pub(crate) struct FaultHandler(pub(crate) Arc<FaultRing>);

impl ThreadedHandler for FaultHandler {
    fn handle_threaded(&self) -> IrqReturn {
        self.0.interrupt();
        IrqReturn::Handled
    }
}

/// Copies completed.
pub(crate) struct CopyHandler(pub(crate) Arc<Gpu>);

impl ThreadedHandler for CopyHandler {
    fn handle_threaded(&self) -> IrqReturn {
        self.0.memory.copies.interrupt();
        IrqReturn::Handled
    }
}

/// Dispatches completed.
pub(crate) struct ComputeHandler(pub(crate) Arc<Gpu>);

impl ThreadedHandler for ComputeHandler {
    fn handle_threaded(&self) -> IrqReturn {
        self.0.complete_dispatches();
        IrqReturn::Handled
    }
}

/// The device reports an error.
pub(crate) struct ErrorHandler<'bound> {
    pub(crate) dev: &'bound Device<Bound>,
    pub(crate) gpu: Arc<Gpu>,
}

impl ThreadedHandler for ErrorHandler<'_> {
    fn handle_threaded(&self) -> IrqReturn {
        // There is nothing to report of a device that is gone.
        let _ = self.gpu.report_errors(self.dev);
        IrqReturn::Handled
    }
}
