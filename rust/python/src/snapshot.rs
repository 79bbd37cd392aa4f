//! `PoolSnapshot` and `GroupSnapshot`: a reading of the pool as values.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use semantic_core::{GroupUsage, Usage};

#[pyclass(module = "semantic._native", frozen, get_all, eq)]
#[derive(PartialEq, Eq)]
pub(crate) struct GroupSnapshot {
    name: String,
    bytes_per_block: u64,
    held_blocks: u64,
    staged_blocks: u64,
    leased_blocks: u64,
    cached_blocks: u64,
    free_slots: u64,
}

impl From<&GroupUsage> for GroupSnapshot {
    fn from(usage: &GroupUsage) -> Self {
        Self {
            name: usage.name.clone(),
            bytes_per_block: usage.bytes_per_block,
            held_blocks: usage.held_blocks,
            staged_blocks: usage.staged_blocks,
            leased_blocks: usage.leased_blocks,
            cached_blocks: usage.cached_blocks,
            free_slots: usage.free_slots,
        }
    }
}

#[pymethods]
impl GroupSnapshot {
    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("name", &self.name)?;
        dict.set_item("bytes_per_block", self.bytes_per_block)?;
        dict.set_item("held_blocks", self.held_blocks)?;
        dict.set_item("staged_blocks", self.staged_blocks)?;
        dict.set_item("leased_blocks", self.leased_blocks)?;
        dict.set_item("cached_blocks", self.cached_blocks)?;
        dict.set_item("free_slots", self.free_slots)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        format!(
            "GroupSnapshot({:?}, held={}, staged={}, leased={}, cached={})",
            self.name, self.held_blocks, self.staged_blocks, self.leased_blocks, self.cached_blocks
        )
    }
}

#[pyclass(module = "semantic._native", frozen, eq)]
#[derive(PartialEq, Eq)]
pub(crate) struct PoolSnapshot(Usage);

impl PoolSnapshot {
    pub(crate) fn new(usage: Usage) -> Self {
        Self(usage)
    }
}

#[pymethods]
impl PoolSnapshot {
    #[getter]
    fn total(&self) -> u64 {
        self.0.total
    }

    #[getter]
    fn free(&self) -> u64 {
        self.0.free
    }

    #[getter]
    fn held(&self) -> u64 {
        self.0.held
    }

    #[getter]
    fn live(&self) -> u64 {
        self.0.live
    }

    #[getter]
    fn staging(&self) -> u64 {
        self.0.staging
    }

    #[getter]
    fn cached(&self) -> u64 {
        self.0.cached
    }

    #[getter]
    fn used(&self) -> u64 {
        self.0.used()
    }

    #[getter]
    fn available(&self) -> u64 {
        self.0.available()
    }

    #[getter]
    fn arrays_used(&self) -> u64 {
        self.0.arrays_used
    }

    #[getter]
    fn arrays_max(&self) -> u64 {
        self.0.arrays_max
    }

    #[getter]
    fn agents(&self) -> u64 {
        self.0.agents
    }

    #[getter]
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.groups.iter().map(GroupSnapshot::from))
    }

    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("total", self.0.total)?;
        dict.set_item("free", self.0.free)?;
        dict.set_item("held", self.0.held)?;
        dict.set_item("live", self.0.live)?;
        dict.set_item("staging", self.0.staging)?;
        dict.set_item("cached", self.0.cached)?;
        dict.set_item("used", self.0.used())?;
        dict.set_item("available", self.0.available())?;
        dict.set_item("arrays_used", self.0.arrays_used)?;
        dict.set_item("arrays_max", self.0.arrays_max)?;
        dict.set_item("agents", self.0.agents)?;
        let groups = self.0.groups.iter().map(|group| GroupSnapshot::from(group).as_dict(py));
        dict.set_item("groups", groups.collect::<PyResult<Vec<_>>>()?)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let Usage { total, free, held, live, staging, cached, .. } = &self.0;
        format!(
            "PoolSnapshot(total={total}, free={free}, held={held}, live={live}, \
             staging={staging}, cached={cached})"
        )
    }
}
