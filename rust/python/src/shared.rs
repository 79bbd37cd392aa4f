//! The lock around the core, and the one rule that keeps it from ever deadlocking with the GIL:
//!
//! **Who holds the lock never needs Python.** Arguments are extracted before it is taken, results
//! are converted after it is given back, and what runs inside is the core alone, which cannot call
//! back. So a thread that waits for the lock waits for a short piece of Rust, whether or not it
//! holds the GIL itself. There is one lock for each budget; the small ones beside it (of a hold, of
//! a draft) guard one value each, and who has one of them waits for no other.
//!
//! Waiting is done without the GIL all the same: an uncontended call takes the lock at once and
//! keeps the GIL, a contended one lets other Python threads run first, and long work always does.
//!
//! What is left of it without Python is `semantic-shared`'s, where it is tested.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;
use semantic_core::{BlockId, Error, Memory, PoolKey};

use crate::errors::raise;

/// One budget, its pools, and their lock.
#[derive(Clone)]
pub(crate) struct Shared {
    core: semantic_shared::Shared,
    /// Blocks that have gone, of which telling has failed.
    untold: Arc<Mutex<Vec<BlockId>>>,
}

/// What a step answered, and whether those who had to hear of it have.
pub(crate) type Told<R> = (PyResult<R>, PyResult<()>);

impl Shared {
    pub(crate) fn new(memory: Memory) -> Self {
        Self { core: semantic_shared::Shared::new(memory), untold: Arc::default() }
    }

    /// Work after which blocks may have gone, or events be there: `owner.on_gone` hears of both,
    /// once the lock is given back and whether or not the work was refused.
    ///
    /// The caller has to see first that what was taken is not lost when telling failed.
    #[inline]
    pub(crate) fn step<R: Send>(
        &self,
        owner: &Bound<'_, PyAny>,
        is_long: bool,
        work: impl FnOnce(&mut Memory) -> Result<R, Error> + Send,
    ) -> Told<R> {
        let py = owner.py();
        let work = |memory: &mut Memory| {
            let done = work(memory);
            Ok((done, memory.take_news()))
        };
        match if is_long { self.long(py, work) } else { self.brief(py, work) } {
            Ok((done, news)) => {
                let told = news.map_or(Ok(()), |gone| self.tell(owner, gone));
                (done.map_err(|error| raise(py, error)), told)
            }
            Err(broken) => (Err(broken), Ok(())),
        }
    }

    /// Blocks that were not told of are told of again with the next ones: no tensors stay behind.
    #[cold]
    fn tell(&self, owner: &Bound<'_, PyAny>, gone: Vec<BlockId>) -> PyResult<()> {
        let mut ids = std::mem::take(&mut *self.untold());
        ids.extend(gone);
        let told = id_list(owner.py(), &ids)
            .and_then(|ids| owner.call_method1(intern!(owner.py(), "on_gone"), (ids,)));
        if told.is_err() {
            self.untold().extend(ids);
        }
        told.map(drop)
    }

    fn untold(&self) -> MutexGuard<'_, Vec<BlockId>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work that is over sooner than the GIL could be handed around.
    #[inline]
    pub(crate) fn brief<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Memory) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        match self.core.brief(work) {
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
        py.detach(|| self.core.long(work)).map_err(|error| raise(py, error))
    }

    /// Work of a finaliser, which has nobody to raise to.
    pub(crate) fn quietly(&self, work: impl FnOnce(&mut Memory)) {
        self.core.quietly(work);
    }

    /// Close a pool that Python has let go of.
    pub(crate) fn close(&self, key: &PoolKey) {
        self.core.close(key);
    }
}

pub(crate) fn id_list<'py>(py: Python<'py>, ids: &[BlockId]) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, ids.iter().map(|id| id.raw()))
}
