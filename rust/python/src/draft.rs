//! `Draft`: a publication on its way, given back when nobody publishes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use semantic_core::Draft as CoreDraft;

use crate::arguments::Name;
use crate::errors::Class;
use crate::hold::Spans;
use crate::prefix::Namespace;

#[pyclass(module = "semantic._native", frozen)]
pub(crate) struct Draft {
    namespace: Arc<Namespace>,
    n_tokens: u64,
    bytes_short: u64,
    unspent: Mutex<Option<CoreDraft>>,
    is_published: AtomicBool,
}

impl Draft {
    pub(crate) fn new(namespace: Arc<Namespace>, draft: CoreDraft) -> Self {
        let (n_tokens, bytes_short) = (draft.n_tokens, draft.bytes_short);
        Self {
            namespace,
            n_tokens,
            bytes_short,
            unspent: Mutex::new(Some(draft)),
            is_published: AtomicBool::new(false),
        }
    }

    fn take(&self) -> Option<CoreDraft> {
        self.unspent.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn spent(py: Python<'_>) -> PyErr {
        Class::BlockOperation.bare(py, "the draft was published or abandoned before")
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = self.take() {
            self.namespace.quietly(|pool| pool.prefixes().abandon(draft));
        }
    }
}

#[pymethods]
impl Draft {
    #[getter]
    fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    #[getter]
    fn bytes_short(&self) -> u64 {
        self.bytes_short
    }

    #[getter]
    fn spans(&self, py: Python<'_>) -> PyResult<Spans> {
        let draft = self.unspent.lock().unwrap_or_else(PoisonError::into_inner);
        let draft = draft.as_ref().ok_or_else(|| Self::spent(py))?;
        let mut spans: Spans = Vec::new();
        for span in &draft.spans {
            let name = self.namespace.group_name(span.group);
            let row = (span.block.raw(), span.lo, span.hi);
            match spans.last_mut() {
                Some((group, rows)) if group == name => rows.push(row),
                _ => spans.push((name.to_owned(), vec![row])),
            }
        }
        Ok(spans)
    }

    fn publish(&self, py: Python<'_>, agent_id: Name<'_>, kind: u8) -> PyResult<(u64, bool, bool)> {
        let draft = self.take().ok_or_else(|| Self::spent(py))?;
        let published = self.namespace.call(py, |prefixes| {
            let published = prefixes.publish(draft, agent_id.0, kind)?;
            self.is_published.store(true, Ordering::Relaxed);
            Ok(published)
        })?;
        Ok((published.end.raw(), published.is_new_end, published.is_new_agent))
    }

    fn abandon(&self, py: Python<'_>) -> PyResult<bool> {
        if let Some(draft) = self.take() {
            self.namespace.call(py, |prefixes| {
                prefixes.abandon(draft);
                Ok(())
            })?;
        }
        Ok(!self.is_published.load(Ordering::Relaxed))
    }
}
