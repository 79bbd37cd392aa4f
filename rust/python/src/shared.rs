//! The lock around the core, and the one rule that keeps it from ever deadlocking with the GIL:
//!
//! **Who holds the lock never needs Python.** Arguments are extracted before it is taken, results
//! are converted after it is given back, and what runs inside is the core alone, which cannot call
//! back. So a thread that waits for the lock waits for a short piece of Rust, whether or not it
//! holds the GIL itself. There is one lock for each budget and no other in here, so there is no
//! order of locks to get wrong.
//!
//! Waiting is done without the GIL all the same: an uncontended call takes the lock at once and
//! keeps the GIL, a contended one lets other Python threads run first, and long work always does.
//!
//! A panic inside would be a bug of the core. The books may be wrong then, and every later call says
//! so instead of panicking too.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use pyo3::prelude::*;
use semantic_core::{Error, Memory, PoolKey};

use crate::errors::raise;

/// One budget, its pools, and their lock.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Memory>>);

impl Shared {
    pub(crate) fn new(memory: Memory) -> Self {
        Self(Arc::new(Mutex::new(memory)))
    }

    /// Work that is over sooner than the GIL could be handed around.
    #[inline]
    pub(crate) fn brief<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Memory) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let done = match self.0.try_lock() {
            Ok(mut memory) => work(&mut memory),
            Err(TryLockError::WouldBlock) => return self.long(py, work),
            Err(TryLockError::Poisoned(_)) => Err(poisoned()),
        };
        done.map_err(|error| raise(py, error))
    }

    /// Work in proportion to the pool, or to a long list.
    pub(crate) fn long<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Memory) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let done = py.detach(|| match self.0.lock() {
            Ok(mut memory) => work(&mut memory),
            Err(_) => Err(poisoned()),
        });
        done.map_err(|error| raise(py, error))
    }

    /// Work of a finaliser, which has nobody to raise to.
    pub(crate) fn quietly(&self, work: impl FnOnce(&mut Memory)) {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Close a pool that Python has let go of.
    pub(crate) fn close(&self, key: &PoolKey) {
        self.quietly(|memory| memory.close(key));
    }
}

fn poisoned() -> Error {
    Error::Broken { detail: "an earlier operation stopped in the middle".into() }
}
