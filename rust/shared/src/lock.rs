//! What a lock has to offer: the standard one does, and a model checker's does in tests.

use std::ops::DerefMut;
use std::sync::{LockResult, Mutex, MutexGuard, TryLockResult};

/// A lock that lets one thread in at a time and remembers a panic inside.
pub trait Lock {
    /// What is locked.
    type Value;
    /// The permission to use it.
    type Guard<'l>: DerefMut<Target = Self::Value>
    where
        Self: 'l;

    /// A lock around a value.
    fn new(value: Self::Value) -> Self;

    /// Wait for it.
    ///
    /// # Errors
    ///
    /// After a panic inside; the guard comes with it.
    fn lock(&self) -> LockResult<Self::Guard<'_>>;

    /// Take it if nobody has it.
    ///
    /// # Errors
    ///
    /// While another thread has it, and after a panic inside.
    fn try_lock(&self) -> TryLockResult<Self::Guard<'_>>;
}

impl<T> Lock for Mutex<T> {
    type Value = T;
    type Guard<'l>
        = MutexGuard<'l, T>
    where
        T: 'l;

    fn new(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.lock()
    }

    #[inline]
    fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        self.try_lock()
    }
}
