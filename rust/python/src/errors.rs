//! One error map: each refusal of the core is one class of `semantic.domain.errors`.
//!
//! The match has no wildcard, so a new refusal does not compile without a name in Python.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PyType};
use semantic_core::{BlockId, Error};

/// The classes that native code raises.
#[derive(Clone, Copy)]
pub(crate) enum Class {
    PoolExhausted,
    BlockOperation,
    BlockArgumentType,
    PoolConfiguration,
    AgentNotFound,
    CacheCorruption,
    BlockValidation,
    CachePersistence,
}

impl Class {
    const ALL: [(Self, &'static str); 8] = [
        (Self::PoolExhausted, "PoolExhaustedError"),
        (Self::BlockOperation, "BlockOperationError"),
        (Self::BlockArgumentType, "BlockArgumentTypeError"),
        (Self::PoolConfiguration, "PoolConfigurationError"),
        (Self::AgentNotFound, "AgentNotFoundError"),
        (Self::CacheCorruption, "CacheCorruptionError"),
        (Self::BlockValidation, "BlockValidationError"),
        (Self::CachePersistence, "CachePersistenceError"),
    ];

    fn get(self, py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
        static CLASSES: PyOnceLock<Vec<Py<PyType>>> = PyOnceLock::new();
        let classes = CLASSES.get_or_try_init(py, || {
            let module = py.import(intern!(py, "semantic.domain.errors"))?;
            let class = |(_, name)| Ok(module.getattr(name)?.cast_into::<PyType>()?.unbind());
            Self::ALL.into_iter().map(class).collect::<PyResult<_>>()
        })?;
        Ok(classes[self as usize].bind(py))
    }

    /// An exception of this class; the facts become its attributes.
    pub(crate) fn with(self, message: &str, facts: &Bound<'_, PyDict>) -> PyErr {
        let py = facts.py();
        let error = self.get(py).and_then(|class| class.call((message,), Some(facts)));
        error.map_or_else(|broken| broken, PyErr::from_value)
    }

    pub(crate) fn bare(self, py: Python<'_>, message: &str) -> PyErr {
        self.with(message, &PyDict::new(py))
    }
}

/// The Python exception for a refusal.
#[cold]
#[expect(clippy::needless_pass_by_value, reason = "an error is spent by raising it")]
pub(crate) fn raise(py: Python<'_>, error: Error) -> PyErr {
    let (class, facts) = match &error {
        Error::BytesExhausted { requested, available }
        | Error::MinimumTaken { requested, available } => {
            (Class::PoolExhausted, bytes(*requested, *available))
        }
        Error::ArraysExhausted { requested, available, bytes_requested, bytes_available } => {
            let arrays = [("arrays_requested", *requested), ("arrays_available", *available)];
            let facts = bytes(*bytes_requested, *bytes_available).into_iter().chain(arrays);
            (Class::PoolExhausted, facts.collect())
        }
        Error::SlotsExhausted { bytes_requested, bytes_available, .. } => {
            (Class::PoolExhausted, bytes(*bytes_requested, *bytes_available))
        }
        Error::UnknownBlock { id }
        | Error::ForeignBlock { id }
        | Error::StaleBlock { id }
        | Error::RepeatedBlock { id }
        | Error::WrongState { id, .. }
        | Error::TooManyLeases { id } => (Class::BlockOperation, block(*id)),
        Error::OverDischarge { unit, requested, charged, .. } => {
            let names = match *unit {
                "arrays" => ["arrays_requested", "arrays_charged"],
                _ => ["bytes_requested", "bytes_charged"],
            };
            (Class::BlockOperation, names.into_iter().zip([*requested, *charged]).collect())
        }
        Error::UnknownGroup { .. }
        | Error::UnknownCharge { .. }
        | Error::UnnamedAgent
        | Error::NoTokens => (Class::BlockOperation, vec![]),
        Error::AgentNotFound { agent } => {
            let facts = [("agent_id", agent)].into_py_dict(py);
            return facts.map_or_else(
                |broken| broken,
                |facts| Class::AgentNotFound.with(&error.to_string(), &facts),
            );
        }
        Error::InUse { held, live, staging } => {
            let facts = vec![("held", *held), ("live", *live), ("staging", *staging)];
            (Class::PoolConfiguration, facts)
        }
        Error::BudgetBelowBlock { block: needed, .. }
        | Error::MinimumsAboveTotal { minimums: needed, .. } => {
            (Class::PoolConfiguration, vec![("bytes_needed", *needed)])
        }
        Error::UnknownLayerType { .. }
        | Error::GroupCount { .. }
        | Error::UnnamedGroup
        | Error::RepeatedGroup { .. }
        | Error::EmptyBlock { .. }
        | Error::ZeroCap { .. }
        | Error::EmptyBudget
        | Error::HugeBudget
        | Error::ArraysBelowBlock { .. }
        | Error::MinimumAboveMaximum { .. }
        | Error::PoolNumbersExhausted
        | Error::PoolClosed => (Class::PoolConfiguration, vec![]),
        Error::Broken { .. } => (Class::CacheCorruption, vec![]),
    };
    let facts = facts.into_py_dict(py);
    facts.map_or_else(|broken| broken, |facts| class.with(&error.to_string(), &facts))
}

fn bytes(requested: u64, available: u64) -> Vec<(&'static str, u64)> {
    let short = requested.saturating_sub(available);
    vec![("bytes_requested", requested), ("bytes_available", available), ("bytes_short", short)]
}

fn block(id: BlockId) -> Vec<(&'static str, u64)> {
    vec![("block_id", id.raw())]
}
