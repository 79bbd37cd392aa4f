//! `Hold`: a hit that is held until it is released, or until nobody has it any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use semantic_core::{Error, HitPlan, Hold as CoreHold, Pool};

use crate::arguments::{Count, Name};
use crate::errors::Class;
use crate::prefix::Namespace;

/// For each group its name and `(block_id, lo, hi)` of its blocks in the order of positions.
pub(crate) type Spans = Vec<(String, Vec<(u64, u64, u64)>)>;

#[pyclass(module = "semantic._native", frozen)]
pub(crate) struct Hold {
    namespace: Arc<Namespace>,
    plan: Arc<HitPlan>,
    /// None once it is released. Whoever locks it holds the pool's lock already, or needs no other.
    held: Mutex<Option<CoreHold>>,
}

impl Hold {
    pub(crate) fn new(namespace: Arc<Namespace>, held: CoreHold) -> Self {
        Self { namespace, plan: Arc::clone(&held.plan), held: Mutex::new(Some(held)) }
    }

    fn held(&self) -> MutexGuard<'_, Option<CoreHold>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of the pool on what is held; None when it was released.
    fn step<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Pool<'_>, &mut CoreHold) -> Result<R, Error> + Send,
    ) -> PyResult<Option<R>> {
        self.namespace
            .step(py, false, |pool| self.held().as_mut().map(|held| work(pool, held)).transpose())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = held {
            let root = self.namespace.root;
            // Nobody could be told that its bytes were discharged before.
            self.namespace.quietly(|pool| drop(pool.leave(root, held, None)));
        }
    }
}

#[pymethods]
impl Hold {
    #[getter]
    fn n_tokens(&self) -> u64 {
        self.plan.n_tokens
    }

    #[getter]
    fn matched(&self) -> u64 {
        self.plan.matched
    }

    #[getter]
    fn spans(&self) -> Spans {
        self.namespace.spans(&self.plan)
    }

    #[getter]
    fn block_ids(&self) -> Vec<u64> {
        self.plan.blocks().into_iter().map(semantic_core::BlockId::raw).collect()
    }

    #[getter]
    fn live_bytes(&self) -> u64 {
        self.held().as_ref().map_or(0, CoreHold::live_bytes)
    }

    #[getter]
    fn live_arrays(&self) -> u64 {
        self.held().as_ref().map_or(0, CoreHold::live_arrays)
    }

    #[pyo3(signature = (agent_id, now_ms, n_bytes=Count(0), n_arrays=Count(0)),
           text_signature = "($self, agent_id, now_ms, n_bytes=0, n_arrays=0)")]
    fn enter(
        &self,
        py: Python<'_>,
        agent_id: Name<'_>,
        now_ms: Count,
        n_bytes: Count,
        n_arrays: Count,
    ) -> PyResult<()> {
        let root = self.namespace.root;
        let entered = self.step(py, |pool, held| {
            pool.prefixes().set_time(now_ms.0);
            pool.enter(root, held, agent_id.0, n_bytes.0, n_arrays.0)
        })?;
        entered.ok_or_else(|| Class::BlockOperation.bare(py, "the hold was released before"))
    }

    fn grow(&self, py: Python<'_>, n_bytes: Count) -> PyResult<bool> {
        Ok(self.step(py, |pool, held| pool.grow(held, n_bytes.0))?.is_some())
    }

    fn forgo(&self, py: Python<'_>) -> PyResult<()> {
        self.step(py, |pool, held| {
            pool.prefixes().forgo(held);
            Ok(())
        })
        .map(|_| ())
    }

    #[pyo3(signature = (agent_id=None, now_ms=Count(0)),
           text_signature = "($self, agent_id=None, now_ms=0)")]
    fn release(&self, py: Python<'_>, agent_id: Option<Name<'_>>, now_ms: Count) -> PyResult<()> {
        let root = self.namespace.root;
        self.namespace.step(py, false, |pool| {
            let Some(held) = self.held().take() else { return Ok(()) };
            pool.prefixes().set_time(now_ms.0);
            pool.leave(root, held, agent_id.map(|name| name.0))
        })
    }
}
