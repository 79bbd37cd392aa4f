//! `MemoryBudget`: one number of bytes for several pools.

use pyo3::prelude::*;
use semantic_core::Memory;

use crate::arguments::Setting;
use crate::errors::raise;
use crate::pool::Pool;
use crate::shared::Shared;

#[pyclass(module = "semantic._native", subclass, frozen)]
pub(crate) struct MemoryBudget {
    pub(crate) shared: Shared,
}

#[pymethods]
impl MemoryBudget {
    #[new]
    fn new(py: Python<'_>, total: Setting) -> PyResult<Self> {
        let memory = Memory::new(total.0).map_err(|error| raise(py, error))?;
        Ok(Self { shared: Shared::new(memory) })
    }

    #[getter]
    fn total(&self, py: Python<'_>) -> PyResult<u64> {
        self.shared.brief(py, |memory| Ok(memory.total()))
    }

    #[getter]
    fn used(&self, py: Python<'_>) -> PyResult<u64> {
        self.shared.brief(py, |memory| Ok(memory.used()))
    }

    #[getter]
    fn cached(&self, py: Python<'_>) -> PyResult<u64> {
        self.shared.brief(py, |memory| Ok(memory.cached()))
    }

    #[getter]
    fn free(&self, py: Python<'_>) -> PyResult<u64> {
        self.shared.brief(py, |memory| Ok(memory.free()))
    }

    fn resize(slf: &Bound<'_, Self>, total: Setting) -> PyResult<()> {
        let (done, told) = slf.get().shared.step(slf, true, |memory| memory.resize(total.0));
        done.and(told)
    }

    #[pyo3(signature = (n_bytes, spared = None))]
    fn evict(slf: &Bound<'_, Self>, n_bytes: Setting, spared: Option<&Pool>) -> PyResult<u64> {
        let spared = spared.map(Pool::key);
        let work = |memory: &mut Memory| Ok(memory.evict(n_bytes.0, spared));
        let (evicted, told) = slf.get().shared.step(slf, true, work);
        told.and(evicted)
    }

    // Called by name, so that a subclass can be the one who is told.
    #[expect(clippy::unused_self, unused_variables, reason = "a method of the class in Python")]
    fn on_gone(&self, block_ids: &Bound<'_, PyAny>) {}

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        self.shared.brief(py, |memory| {
            let (total, used) = (memory.total(), memory.used());
            Ok(format!("MemoryBudget(total={total}, used={used}, free={})", memory.free()))
        })
    }
}
