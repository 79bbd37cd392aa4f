//! `Pool`: the core's pool behind the lock, ids as Python integers.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use semantic_core::{BlockId, Error, Memory, PoolKey, Terms};

use crate::arguments::{Count, GroupList, Ids, Name, Setting};
use crate::budget::MemoryBudget;
use crate::errors::{Class, raise};
use crate::shared::{Shared, Told, id_list};
use crate::snapshot::PoolSnapshot;

/// Calls for more blocks than this give the GIL away.
const MANY_BLOCKS: usize = 4096;

#[pyclass(module = "semantic._native", subclass, frozen)]
pub(crate) struct Pool {
    shared: Shared,
    key: PoolKey,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.close(&self.key);
    }
}

impl Pool {
    pub(crate) fn key(&self) -> &PoolKey {
        &self.key
    }

    #[inline]
    pub(crate) fn brief<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(semantic_core::Pool<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        self.shared.brief(py, |memory| work(memory.pool(&self.key)?))
    }

    pub(crate) fn long<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(semantic_core::Pool<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        self.shared.long(py, |memory| work(memory.pool(&self.key)?))
    }

    /// Work of a finaliser, where nobody could be told that the pool has gone.
    pub(crate) fn quietly(&self, work: impl FnOnce(semantic_core::Pool<'_>)) {
        self.shared.quietly(|memory| {
            if let Ok(pool) = memory.pool(&self.key) {
                work(pool);
            }
        });
    }

    #[inline]
    fn on_ids(
        &self,
        py: Python<'_>,
        ids: Ids,
        work: impl FnOnce(semantic_core::Pool<'_>, &[BlockId]) -> Result<(), Error> + Send,
    ) -> PyResult<()> {
        let Ids(ids) = ids;
        if ids.len() > MANY_BLOCKS {
            self.long(py, |pool| work(pool, &ids))
        } else {
            self.brief(py, |pool| work(pool, &ids))
        }
    }
}

impl Pool {
    /// One step, and whether those who hold the tensors of blocks that went by it know.
    #[inline]
    pub(crate) fn step<R: Send>(
        slf: &Bound<'_, Self>,
        is_long: bool,
        work: impl FnOnce(&mut semantic_core::Pool<'_>) -> Result<R, Error> + Send,
    ) -> Told<R> {
        let pool = slf.get();
        pool.shared.step(slf, is_long, |memory| work(&mut memory.pool(&pool.key)?))
    }

    /// Take something, which is not lost when telling of what had to go for it fails.
    #[inline]
    pub(crate) fn taking<R: Send>(
        slf: &Bound<'_, Self>,
        is_long: bool,
        take: impl FnOnce(&mut semantic_core::Pool<'_>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let (taken, told) = Self::step(slf, is_long, take);
        if let Err(error) = told {
            error.write_unraisable(slf.py(), Some(slf));
        }
        taken
    }
}

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (groups, total, minimum=Setting(0), maximum=None, arrays_max=Setting(semantic_core::DEFAULT_ARRAYS_MAX)),
           text_signature = "(groups, total, minimum=0, maximum=None, arrays_max=499000)")]
    fn new(
        py: Python<'_>,
        groups: GroupList,
        total: &Bound<'_, PyAny>,
        minimum: Setting,
        maximum: Option<Setting>,
        arrays_max: Setting,
    ) -> PyResult<Self> {
        let shared = if let Ok(budget) = total.cast::<MemoryBudget>() {
            budget.get().shared.clone()
        } else {
            let total: Setting = total.extract()?;
            Shared::new(Memory::new(total.0).map_err(|error| raise(py, error))?)
        };
        let terms = Terms { minimum: minimum.0, maximum: maximum.map(|maximum| maximum.0) };
        let key = shared.brief(py, |memory| memory.open(terms, groups.0, arrays_max.0))?;
        Ok(Self { shared, key })
    }

    // Agents' blocks ------------------------------------------------------------------------------

    #[pyo3(signature = (n, layer_type=Name("global"), agent_id=Name("default")),
           text_signature = "($self, n, layer_type='global', agent_id='default')")]
    fn allocate<'py>(
        slf: &Bound<'py, Self>,
        n: Count,
        layer_type: Name<'_>,
        agent_id: Name<'_>,
    ) -> PyResult<Bound<'py, PyList>> {
        let ids = Self::taking(slf, n.0 > MANY_BLOCKS as u64, |pool| {
            let group = pool.group(layer_type.0)?;
            pool.allocate(n.0, group, agent_id.0)
        })?;
        id_list(slf.py(), &ids)
    }

    fn extend_agent<'py>(
        slf: &Bound<'py, Self>,
        agent_id: Name<'_>,
        n_tokens: Count,
    ) -> PyResult<(u64, Bound<'py, PyDict>)> {
        let py = slf.py();
        let is_long = n_tokens.0 / semantic_core::BLOCK_TOKENS > MANY_BLOCKS as u64;
        let work =
            |pool: &mut semantic_core::Pool<'_>| pool.allocate_tokens(agent_id.0, n_tokens.0);
        let holding = Self::taking(slf, is_long, work)?;
        let blocks = PyDict::new(py);
        for (group, ids) in holding.blocks {
            blocks.set_item(group, id_list(py, &ids)?)?;
        }
        Ok((holding.total_tokens, blocks))
    }

    fn free(&self, py: Python<'_>, ids: Ids) -> PyResult<()> {
        self.on_ids(py, ids, |mut pool, ids| pool.free(ids))
    }

    fn free_agent(&self, py: Python<'_>, agent_id: Name<'_>) -> PyResult<u64> {
        self.brief(py, |mut pool| pool.free_agent(agent_id.0))
    }

    // Blocks with content -------------------------------------------------------------------------

    fn stage<'py>(
        slf: &Bound<'py, Self>,
        layer_type: Name<'_>,
        n: Count,
    ) -> PyResult<Bound<'py, PyList>> {
        let ids = Self::taking(slf, n.0 > MANY_BLOCKS as u64, |pool| {
            let group = pool.group(layer_type.0)?;
            pool.stage(&[(group, n.0)])
        })?;
        id_list(slf.py(), &ids)
    }

    fn abandon(&self, py: Python<'_>, ids: Ids) -> PyResult<()> {
        self.on_ids(py, ids, |mut pool, ids| pool.abandon(ids))
    }

    #[pyo3(signature = (ids, leases=Count(0)), text_signature = "($self, ids, leases=0)")]
    fn publish(&self, py: Python<'_>, ids: Ids, leases: Count) -> PyResult<()> {
        let leases = u32::try_from(leases.0).map_err(|_| {
            Class::BlockOperation.bare(py, "a block cannot have that many leases at once")
        })?;
        self.on_ids(py, ids, |mut pool, ids| pool.publish(ids, leases))
    }

    fn acquire(&self, py: Python<'_>, ids: Ids) -> PyResult<()> {
        self.on_ids(py, ids, |mut pool, ids| pool.acquire(ids))
    }

    fn release(&self, py: Python<'_>, ids: Ids) -> PyResult<()> {
        self.on_ids(py, ids, |mut pool, ids| pool.release(ids))
    }

    fn touch(&self, py: Python<'_>, ids: Ids) -> PyResult<()> {
        self.on_ids(py, ids, |mut pool, ids| pool.touch(ids))
    }

    fn evict(&self, py: Python<'_>, ids: Ids) -> PyResult<()> {
        self.on_ids(py, ids, |mut pool, ids| pool.evict(ids))
    }

    fn drain_evicted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        id_list(py, &self.brief(py, |mut pool| Ok(pool.drain_evicted()))?)
    }

    // Plain bytes ---------------------------------------------------------------------------------

    #[pyo3(signature = (kind, n_bytes, n_arrays=Count(0)),
           text_signature = "($self, kind, n_bytes, n_arrays=0)")]
    fn charge(
        slf: &Bound<'_, Self>,
        kind: Name<'_>,
        n_bytes: Count,
        n_arrays: Count,
    ) -> PyResult<()> {
        Self::taking(slf, false, |pool| pool.charge(kind.charge()?, n_bytes.0, n_arrays.0))
    }

    #[pyo3(signature = (kind, n_bytes, n_arrays=Count(0)),
           text_signature = "($self, kind, n_bytes, n_arrays=0)")]
    fn discharge(
        &self,
        py: Python<'_>,
        kind: Name<'_>,
        n_bytes: Count,
        n_arrays: Count,
    ) -> PyResult<()> {
        self.brief(py, |mut pool| pool.discharge(kind.charge()?, n_bytes.0, n_arrays.0))
    }

    // Called by name, so that a subclass can be the one who is told.
    #[expect(clippy::unused_self, unused_variables, reason = "a method of the class in Python")]
    fn on_gone(&self, block_ids: &Bound<'_, PyAny>) {}

    // Readings ------------------------------------------------------------------------------------

    fn used_memory(&self, py: Python<'_>) -> PyResult<u64> {
        self.brief(py, |pool| Ok(pool.used()))
    }

    fn available_memory(&self, py: Python<'_>) -> PyResult<u64> {
        self.brief(py, |pool| Ok(pool.available()))
    }

    fn total_memory(&self, py: Python<'_>) -> PyResult<u64> {
        self.brief(py, |pool| Ok(pool.total()))
    }

    fn most_memory(&self, py: Python<'_>) -> PyResult<u64> {
        self.brief(py, |pool| Ok(pool.most()))
    }

    #[pyo3(signature = (layer_type=Name("global")), text_signature = "($self, layer_type='global')")]
    fn available_blocks(&self, py: Python<'_>, layer_type: Name<'_>) -> PyResult<u64> {
        self.brief(py, |pool| pool.available_blocks(pool.group(layer_type.0)?))
    }

    fn max_batch_size(&self, py: Python<'_>, n_tokens: Count) -> PyResult<u64> {
        self.brief(py, |pool| pool.max_batch_size(n_tokens.0))
    }

    fn snapshot(&self, py: Python<'_>) -> PyResult<PoolSnapshot> {
        self.brief(py, |pool| Ok(pool.usage())).map(PoolSnapshot::new)
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.shared.long(py, Memory::check)
    }

    fn regroup<'py>(&self, py: Python<'py>, groups: GroupList) -> PyResult<Bound<'py, PyList>> {
        let gone = self.shared.long(py, |memory| {
            memory.pool(&self.key)?.reconfigure(groups.0)?;
            Ok(memory.take_news().unwrap_or_default())
        })?;
        id_list(py, &gone)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let reading = |pool: semantic_core::Pool<'_>| Ok((pool.total(), pool.used()));
        let (total, used) = slf.get().brief(slf.py(), reading)?;
        let class = slf.get_type().name()?;
        Ok(format!("{class}(total_memory={total}, used_memory={used})"))
    }
}
