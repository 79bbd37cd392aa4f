//! `PrefixIndex`: one namespace of a pool's index.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use semantic_core::{
    BlockId, Change, EndHandle, Error, GroupId, Hint, HitPlan, Key, KeyWidth, Policy, Prefixes,
    Priority, Refusal, Root, Span,
};

use crate::arguments::{Count, Name, Setting};
use crate::draft::Draft;
use crate::errors::Class;
use crate::hold::{Hold, Spans};
use crate::pool::Pool;
use crate::tokens::TokenIds;

/// A namespace of a pool, which lives as long as anything that was found in it is held.
pub(crate) struct Namespace {
    pool: Py<Pool>,
    pub(crate) root: Root,
    groups: Vec<String>,
}

impl Namespace {
    /// One step of the index, with the pool's lock held.
    pub(crate) fn call<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Prefixes<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        self.step(py, false, |pool| work(&mut pool.prefixes()))
    }

    fn long<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Prefixes<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        self.step(py, true, |pool| work(&mut pool.prefixes()))
    }

    /// One step of the pool, with its lock held.
    pub(crate) fn step<R: Send>(
        &self,
        py: Python<'_>,
        is_long: bool,
        work: impl FnOnce(&mut semantic_core::Pool<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let (done, told) = Pool::step(self.pool.bind(py), is_long, work);
        done.and_then(|done| told.map(|()| done))
    }

    /// A step of a finaliser, where nobody could be told that the pool has gone.
    pub(crate) fn quietly(&self, work: impl FnOnce(&mut semantic_core::Pool<'_>)) {
        self.pool.get().quietly(|mut pool| work(&mut pool));
    }

    pub(crate) fn group_name(&self, group: GroupId) -> &str {
        self.groups.get(group.index()).map_or("", String::as_str)
    }

    pub(crate) fn spans(&self, plan: &HitPlan) -> Spans {
        let rows = plan.spans.iter().map(|(group, spans)| {
            let rows = spans.iter().map(|span| (span.block.raw(), span.lo, span.hi));
            (self.group_name(*group).to_owned(), rows.collect())
        });
        rows.collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let root = self.root;
        self.quietly(|pool| pool.prefixes().close(root));
    }
}

type Ends = Vec<(u64, u64, u8, Vec<String>)>;
type EventRow<'py> =
    (&'static str, Option<u64>, String, Bound<'py, PyBytes>, Bound<'py, PyBytes>, u64, u64);

#[pyclass(module = "semantic._native", frozen)]
pub(crate) struct PrefixIndex {
    namespace: Arc<Namespace>,
}

impl PrefixIndex {
    fn call<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Prefixes<'_>, Root) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let root = self.namespace.root;
        self.namespace.call(py, |prefixes| work(prefixes, root))
    }

    /// A step that takes something, which is not lost when telling of what had to go for it fails.
    fn taking<R: Send>(
        &self,
        py: Python<'_>,
        is_long: bool,
        work: impl FnOnce(&mut Prefixes<'_>, Root) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let Namespace { pool, root, .. } = &*self.namespace;
        Pool::taking(pool.bind(py), is_long, |pool| work(&mut pool.prefixes(), *root))
    }
}

#[pymethods]
impl PrefixIndex {
    #[new]
    #[pyo3(signature = (pool, root, key_bytes=Setting(32)), text_signature = "(pool, root, key_bytes=32)")]
    fn new(py: Python<'_>, pool: Py<Pool>, root: &[u8], key_bytes: Setting) -> PyResult<Self> {
        let root = root.try_into().map_err(|_| {
            Class::BlockArgumentType.bare(py, "a root is 32 bytes, such as Namespace.root")
        })?;
        let key_width = KeyWidth(usize::try_from(key_bytes.0).unwrap_or(usize::MAX));
        if key_width.0 > KeyWidth::default().0 {
            let message = format!("a key has 32 bytes, not {}", key_width.0);
            return Err(Class::PoolConfiguration.bare(py, &message));
        }
        let (groups, root) = pool.get().brief(py, |mut pool| {
            let groups = pool.groups().map(|group| group.name.clone()).collect();
            Ok((groups, pool.prefixes().open(Key::from_bytes(root), key_width)))
        })?;
        Ok(Self { namespace: Arc::new(Namespace { pool, root, groups }) })
    }

    // Hits ----------------------------------------------------------------------------------------

    fn plan(&self, py: Python<'_>, tokens: &TokenIds, limit: Count) -> PyResult<(u64, u64, Spans)> {
        let plan = self.taking(py, tokens.is_long(), |prefixes, root| {
            prefixes.plan(root, tokens.0.all(), limit.0)
        })?;
        Ok((plan.n_tokens, plan.matched, self.namespace.spans(&plan)))
    }

    #[pyo3(signature = (tokens, limit, oldest_ms=Count(0)),
           text_signature = "($self, tokens, limit, oldest_ms=0)")]
    fn hold(
        &self,
        py: Python<'_>,
        tokens: &TokenIds,
        limit: Count,
        oldest_ms: Count,
    ) -> PyResult<Hold> {
        let expires = oldest_ms.0 > 0;
        let held = self.taking(py, expires || tokens.is_long(), |prefixes, root| {
            if expires {
                prefixes.expire(oldest_ms.0);
            }
            prefixes.hold(root, tokens.0.all(), limit.0)
        })?;
        Ok(Hold::new(Arc::clone(&self.namespace), held))
    }

    // Publication ---------------------------------------------------------------------------------

    #[expect(clippy::needless_pass_by_value, reason = "what Python's lists are extracted into")]
    fn draft<'py>(
        &self,
        py: Python<'py>,
        tokens: &TokenIds,
        known: Vec<Vec<Span>>,
        agent_id: Name<'_>,
        now_ms: Count,
    ) -> PyResult<Bound<'py, PyAny>> {
        let drafted = self.taking(py, tokens.is_long(), |prefixes, root| {
            prefixes.set_time(now_ms.0);
            prefixes.draft(root, &tokens.0, &known, agent_id.0)
        })?;
        match drafted {
            Ok(mut draft) => {
                py.detach(|| draft.compute_keys());
                let draft = Draft::new(Arc::clone(&self.namespace), draft);
                Ok(draft.into_pyobject(py)?.into_any())
            }
            Err(Refusal::Budget { bytes_short }) => {
                Ok(("budget", bytes_short).into_pyobject(py)?.into_any())
            }
            Err(Refusal::Declined) => Ok(("declined",).into_pyobject(py)?.into_any()),
            Err(Refusal::LostRows { group, lo, hi }) => {
                let group = self.namespace.group_name(group);
                Ok(("incomplete_window", group, lo, hi).into_pyobject(py)?.into_any())
            }
        }
    }

    fn settle(&self, py: Python<'_>, end: u64, agent_id: Name<'_>) -> PyResult<()> {
        self.call(py, |prefixes, root| {
            prefixes.settle(root, EndHandle::from_raw(end), agent_id.0);
            Ok(())
        })
    }

    fn withdraw(&self, py: Python<'_>, end: u64, agent_id: Name<'_>) -> PyResult<()> {
        self.call(py, |prefixes, root| {
            prefixes.withdraw(root, EndHandle::from_raw(end), agent_id.0);
            Ok(())
        })
    }

    // Eviction ------------------------------------------------------------------------------------

    fn evict_bytes(&self, py: Python<'_>, n_bytes: Count) -> PyResult<u64> {
        self.namespace.long(py, |prefixes| Ok(prefixes.evict_bytes(n_bytes.0)))
    }

    fn drop_oldest(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, |prefixes, root| Ok(prefixes.drop_oldest(root)))
    }

    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        let root = self.namespace.root;
        self.namespace.long(py, |prefixes| {
            prefixes.clear(root);
            Ok(())
        })
    }

    fn set_policy(&self, py: Python<'_>, order: Name<'_>) -> PyResult<()> {
        let policy = match order.0 {
            "lru" => Policy::Lru,
            "resident" => Policy::Resident,
            "scan_resistant" => Policy::ScanResistant,
            other => {
                let message = format!("unknown policy {other:?}: lru, resident or scan_resistant");
                return Err(Class::PoolConfiguration.bare(py, &message));
            }
        };
        self.namespace.long(py, |prefixes| {
            prefixes.set_policy(policy);
            Ok(())
        })
    }

    // Agents --------------------------------------------------------------------------------------

    fn depart(&self, py: Python<'_>, agent_id: Name<'_>, now_ms: Count) -> PyResult<()> {
        self.call(py, |prefixes, root| {
            prefixes.set_time(now_ms.0);
            prefixes.depart(root, agent_id.0);
            Ok(())
        })
    }

    fn hint(&self, py: Python<'_>, agent_id: Name<'_>, word: Name<'_>) -> PyResult<()> {
        let hint = match word.0 {
            "active" => Hint::Active,
            "waiting" => Hint::Waiting,
            "ended" => Hint::Ended,
            other => {
                let message = format!("unknown hint {other:?}: active, waiting or ended");
                return Err(Class::BlockOperation.bare(py, &message));
            }
        };
        self.call(py, |prefixes, root| {
            prefixes.hint(root, agent_id.0, hint);
            Ok(())
        })
    }

    fn prioritise(&self, py: Python<'_>, agent_id: Name<'_>, word: Name<'_>) -> PyResult<()> {
        let priority = match word.0 {
            "low" => Priority::Low,
            "normal" => Priority::Normal,
            "high" => Priority::High,
            other => {
                let message = format!("unknown priority {other:?}: low, normal or high");
                return Err(Class::BlockOperation.bare(py, &message));
            }
        };
        self.call(py, |prefixes, root| {
            prefixes.prioritise(root, agent_id.0, priority);
            Ok(())
        })
    }

    fn pin(&self, py: Python<'_>, agent_id: Name<'_>) -> PyResult<()> {
        self.call(py, |prefixes, root| {
            prefixes.pin(root, agent_id.0);
            Ok(())
        })
    }

    fn unpin(&self, py: Python<'_>, agent_id: Name<'_>) -> PyResult<()> {
        self.call(py, |prefixes, root| {
            prefixes.unpin(root, agent_id.0);
            Ok(())
        })
    }

    #[getter]
    fn pinned_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, |prefixes, root| Ok(prefixes.pinned_bytes(root)))
    }

    fn ends_of(&self, py: Python<'_>, agent_id: Name<'_>) -> PyResult<Vec<u64>> {
        let ends = self.call(py, |prefixes, root| Ok(prefixes.ends_of(root, agent_id.0)))?;
        Ok(ends.into_iter().map(EndHandle::raw).collect())
    }

    // Readings ------------------------------------------------------------------------------------

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.call(py, |prefixes, root| Ok(prefixes.n_ends(root)))
    }

    fn ends(&self, py: Python<'_>) -> PyResult<Ends> {
        let ends = self.call(py, |prefixes, root| Ok(prefixes.ends(root)))?;
        let row =
            |end: semantic_core::EndReading| (end.handle.raw(), end.n_tokens, end.kind, end.agents);
        Ok(ends.into_iter().map(row).collect())
    }

    fn tokens_of(&self, py: Python<'_>, end: u64) -> PyResult<Option<Vec<i64>>> {
        self.call(py, |prefixes, _| Ok(prefixes.tokens_of(EndHandle::from_raw(end))))
    }

    fn blocks(&self, py: Python<'_>) -> PyResult<Vec<(u8, String, u64)>> {
        let blocks = self.call(py, |prefixes, root| Ok(prefixes.blocks(root)))?;
        let named = |(kind, group, n)| (kind, self.namespace.group_name(group).to_owned(), n);
        Ok(blocks.into_iter().map(named).collect())
    }

    #[getter]
    fn evicted_blocks(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, |prefixes, root| Ok(prefixes.evicted_blocks(root)))
    }

    fn subscribe(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, |prefixes, root| {
            prefixes.subscribe(root);
            Ok(())
        })
    }

    fn drain_events<'py>(&self, py: Python<'py>) -> PyResult<Vec<EventRow<'py>>> {
        let events = self.call(py, |prefixes, root| Ok(prefixes.drain_events(root)))?;
        let key = |key: Key| PyBytes::new(py, key.as_bytes());
        let row = |event: semantic_core::Event| {
            let change = match event.change {
                Change::Stored => "stored",
                Change::Removed => "removed",
                Change::Cleared => "cleared",
            };
            let group = self.namespace.group_name(event.group).to_owned();
            let block = event.block.map(BlockId::raw);
            (change, block, group, key(event.key), key(event.parent), event.lo, event.hi)
        };
        Ok(events.into_iter().map(row).collect())
    }
}
