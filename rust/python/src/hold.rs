//! `Hold`: a hit that is held until it is released, or until nobody has it any more.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use semantic_core::{HitPlan, Hold as CoreHold};

use crate::arguments::{Count, Name};
use crate::prefix::Namespace;

/// For each group its name and `(block_id, lo, hi)` of its blocks in the order of positions.
pub(crate) type Spans = Vec<(String, Vec<(u64, u64, u64)>)>;

#[pyclass(module = "semantic._native", frozen)]
pub(crate) struct Hold {
    namespace: Arc<Namespace>,
    plan: Arc<HitPlan>,
    held: Mutex<Option<CoreHold>>,
}

impl Hold {
    pub(crate) fn new(namespace: Arc<Namespace>, held: CoreHold) -> Self {
        Self { namespace, plan: Arc::clone(&held.plan), held: Mutex::new(Some(held)) }
    }

    fn take(&self) -> Option<CoreHold> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(held) = self.take() {
            self.namespace.quietly(|prefixes| prefixes.release(held));
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

    fn used(&self, py: Python<'_>, agent_id: Name<'_>, now_ms: Count) -> PyResult<()> {
        let (plan, root) = (&self.plan, self.namespace.root);
        self.namespace.call(py, |prefixes| {
            prefixes.set_time(now_ms.0);
            prefixes.used(root, plan, agent_id.0);
            Ok(())
        })
    }

    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let Some(held) = self.take() else { return Ok(()) };
        self.namespace.call(py, |prefixes| {
            prefixes.release(held);
            Ok(())
        })
    }
}
