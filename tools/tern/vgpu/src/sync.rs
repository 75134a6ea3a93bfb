// SPDX-License-Identifier: MIT OR Apache-2.0

//! Locks that outlive a panic, and a way to wake a thread.
//!
//! A thread that panics must not take the whole device along, so a poisoned lock is taken anyway:
//! all state behind the locks is consistent between any two statements.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

/// Locks a mutex.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a condition variable.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Tells one thread that there is something to do.
#[derive(Default)]
pub struct Signal {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Sets it, and wakes the thread that waits.
    pub fn set(&self) {
        let mut set = lock(&self.set);
        if !*set {
            *set = true;
            self.changed.notify_one();
        }
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        *lock(&self.set)
    }

    /// Waits until it is set, and clears it.
    pub fn wait(&self) {
        let mut set = lock(&self.set);
        while !*set {
            set = wait(&self.changed, set);
        }
        *set = false;
    }
}
