//! The accounting of a KV cache in blocks: who holds which bytes, and what may go when memory is
//! short. Pure state: no tensors, no Python, no I/O, no lock.
//!
//! A [`Memory`] is one budget of bytes. [`Pool`]s are opened in it, one per model, and each hands
//! out blocks of its layer groups:
//!
//! ```
//! use semantic_core::{GroupSpec, Memory, Reach, Terms};
//!
//! let global = GroupSpec {
//!     name: "global".into(),
//!     reach: Reach::All,
//!     bytes_per_block: 2 << 20,
//!     max_blocks_per_agent: None,
//!     arrays_per_block: 2,
//! };
//! let window = GroupSpec {
//!     name: "sliding_window".into(),
//!     reach: Reach::Window { size: 1024, keep: 0 },
//!     max_blocks_per_agent: Some(4),
//!     ..global.clone()
//! };
//! let mut memory = Memory::new(1 << 30)?;
//! let key = memory.open(Terms::default(), vec![global, window], semantic_core::DEFAULT_ARRAYS_MAX)?;
//! let mut pool = memory.pool(&key)?;
//!
//! assert_eq!(pool.max_batch_size(4096)?, 25);
//! let held = pool.allocate_tokens("a1", 4096)?;
//! assert_eq!(held.blocks[0].1.len() + held.blocks[1].1.len(), 16 + 4);
//! assert_eq!(pool.used() + pool.available(), pool.total());
//! assert_eq!(pool.free_agent("a1")?, 20);
//! # Ok::<(), semantic_core::Error>(())
//! ```
//!
//! # What is promised
//!
//! - **Conservation.** After every operation, refused ones included,
//!   `free + held + live + staging + cached == total`, in bytes. [`Pool::check`] walks the slots and
//!   says so.
//! - **All or nothing.** A refused operation has changed nothing.
//! - **No id twice.** A freed, foreign or outdated [`BlockId`] is refused by name, in release
//!   builds too.
//! - **The predictor is the allocator.** [`Pool::max_batch_size`] asks what `allocate_tokens` asks.
//!
//! # The life of a block
//!
//! | state | counted as | comes with | goes with |
//! |---|---|---|---|
//! | held | held | `allocate`, `allocate_tokens` | `free`, `free_agent` |
//! | staged | staging | `stage` | `publish`, `abandon` |
//! | leased | held | `publish` with leases, `acquire` | the last `release` |
//! | cached | cached | `publish`, the last `release` | `acquire`, `evict`, or any request that needs the room |
//!
//! # Where to read
//!
//! `id` and `slot` say what a block is, `blocks` keeps them, `held` and `free_list` their order, `budget` and `ledger` count bytes, and
//! `pool` joins both in its operations. Nothing here panics on what a caller says; sums that cannot
//! be represented are refused like any other request that is too large.

#![forbid(unsafe_code)]

mod agent;
mod blocks;
mod books;
mod budget;
mod chain;
mod error;
mod free_list;
mod group;
mod held;
mod id;
mod key;
mod ledger;
mod member;
mod memory;
mod others;
mod pool;
mod prefix;
mod reach;
mod slot;
mod tokens;
mod usage;
mod visits;

pub use budget::Terms;
pub use error::Error;
pub use group::{BLOCK_TOKENS, GroupId, GroupSpec, LayerType};
pub use id::BlockId;
pub use key::{Key, KeyWidth};
pub use ledger::Charge;
pub use memory::{DEFAULT_ARRAYS_MAX, Memory, PoolKey};
pub use pool::{AgentHolding, Pool};
pub use prefix::{
    Change, Draft, EndHandle, EndReading, Event, Hint, HitPlan, Hold, Kind, Policy, Prefixes,
    Priority, Published, Refusal, Root, RowSpan, StagedSpan,
};
pub use reach::{Reach, Span};
pub use tokens::{TokenSlice, Tokens};
pub use usage::{GroupUsage, Usage};
