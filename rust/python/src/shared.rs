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
//! What is left of it without Python is `semantic-shared`'s, where it is tested.

use pyo3::prelude::*;
use semantic_core::{Error, Memory, PoolKey};

use crate::errors::raise;

/// One budget, its pools, and their lock.
#[derive(Clone)]
pub(crate) struct Shared(semantic_shared::Shared);

impl Shared {
    pub(crate) fn new(memory: Memory) -> Self {
        Self(semantic_shared::Shared::new(memory))
    }

    /// Work that is over sooner than the GIL could be handed around.
    #[inline]
    pub(crate) fn brief<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Memory) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        match self.0.brief(work) {
            Ok(done) => done.map_err(|error| raise(py, error)),
            Err(work) => self.long(py, work),
        }
    }

    /// Work in proportion to the pool, or to a long list.
    pub(crate) fn long<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Memory) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        py.detach(|| self.0.long(work)).map_err(|error| raise(py, error))
    }

    /// Work of a finaliser, which has nobody to raise to.
    pub(crate) fn quietly(&self, work: impl FnOnce(&mut Memory)) {
        self.0.quietly(work);
    }

    /// Close a pool that Python has let go of.
    pub(crate) fn close(&self, key: &PoolKey) {
        self.0.close(key);
    }
}
