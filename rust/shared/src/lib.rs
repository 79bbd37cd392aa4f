//! The lock around the core, without Python.
//!
//! There is one lock for each budget and no other, so there is no order of locks to get wrong: what
//! runs inside is the core alone, which cannot call back. A thread that cannot have the lock at
//! once gets its work back, and decides itself how to wait.
//!
//! A panic inside would be a bug of the core. The books may be wrong then, and every later call says
//! so instead of panicking too; only finalisers, which have nobody to tell, go on.

#![forbid(unsafe_code)]

mod lock;

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

pub use lock::Lock;
use semantic_core::{Error, Memory, PoolKey};

/// One budget, its pools, and their lock.
#[derive(Debug, Default)]
pub struct Shared<L = Mutex<Memory>>(Arc<L>);

impl<L> Clone for Shared<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Lock<Value = Memory>> Shared<L> {
    /// Put a lock around a budget.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        Self(Arc::new(L::new(memory)))
    }

    /// Work that is over soon: done at once, or given back when another thread holds the lock.
    ///
    /// # Errors
    ///
    /// The outer one is the work itself; the inner one is what the work says, or
    /// [`Error::Broken`] after a panic.
    #[inline]
    pub fn brief<R, W>(&self, work: W) -> Result<Result<R, Error>, W>
    where
        W: FnOnce(&mut Memory) -> Result<R, Error>,
    {
        match self.0.try_lock() {
            Ok(mut memory) => Ok(work(&mut memory)),
            Err(TryLockError::WouldBlock) => Err(work),
            Err(TryLockError::Poisoned(_)) => Ok(Err(poisoned())),
        }
    }

    /// Work that waits for its turn.
    ///
    /// # Errors
    ///
    /// What the work says, or [`Error::Broken`] after a panic.
    pub fn long<R>(&self, work: impl FnOnce(&mut Memory) -> Result<R, Error>) -> Result<R, Error> {
        match self.0.lock() {
            Ok(mut memory) => work(&mut memory),
            Err(_) => Err(poisoned()),
        }
    }

    /// Work of a finaliser, which has nobody to raise to.
    pub fn quietly(&self, work: impl FnOnce(&mut Memory)) {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Close a pool that nobody has any more.
    pub fn close(&self, key: &PoolKey) {
        self.quietly(|memory| memory.close(key));
    }
}

fn poisoned() -> Error {
    Error::Broken { detail: "an earlier operation stopped in the middle".into() }
}
