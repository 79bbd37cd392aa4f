//! `semantic._native`: the list of what Python sees of the core.
//!
//! The modules beside this one convert arguments, call, and convert results; they decide nothing.
//! What a class means is written in `python/semantic/_native.pyi`.

mod arguments;
mod budget;
mod errors;
mod pool;
mod shared;
mod snapshot;

use pyo3::pymodule;

#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::budget::MemoryBudget;
    #[pymodule_export]
    use crate::pool::Pool;
    #[pymodule_export]
    use crate::snapshot::{GroupSnapshot, PoolSnapshot};
}
