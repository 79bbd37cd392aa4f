//! `semantic._native`: the list of what Python sees of the core.
//!
//! The modules beside this one convert arguments, call, and convert results; they decide nothing.
//! What a class means is written in `python/semantic/_native.pyi`.

mod arguments;
mod budget;
mod draft;
mod errors;
mod hold;
mod pool;
mod prefix;
mod shared;
mod snapshot;
mod store;
mod tokens;

use pyo3::pymodule;

#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::budget::MemoryBudget;
    #[pymodule_export]
    use crate::draft::Draft;
    #[pymodule_export]
    use crate::hold::Hold;
    #[pymodule_export]
    use crate::pool::Pool;
    #[pymodule_export]
    use crate::prefix::PrefixIndex;
    #[pymodule_export]
    use crate::snapshot::{GroupSnapshot, PoolSnapshot};
    #[pymodule_export]
    use crate::store::{BlockFile, BlockFolder, StoreSecret};
    #[pymodule_export]
    use crate::tokens::TokenIds;
}
