//! Every refusal, one variant each, with the numbers behind it.
//!
//! The binding matches this enum without a wildcard: a new refusal does not compile until it has a
//! name in Python.

use crate::id::BlockId;

/// Why an operation was refused. The pool and its budget are as they were.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Fewer bytes are free or evictable than the whole request costs. `requested` is `u64::MAX`
    /// when the cost itself does not fit into 64 bits.
    #[error("{requested} bytes are needed and {available} available: {} short", requested.saturating_sub(*available))]
    BytesExhausted {
        /// Bytes that the whole request costs.
        requested: u64,
        /// Bytes that were free or evictable.
        available: u64,
    },
    /// The request needs more arrays than may still be made.
    #[error("{requested} arrays are needed and {available} may still be made")]
    ArraysExhausted {
        /// Arrays that the whole request is made of.
        requested: u64,
        /// Arrays that may still be made, those of evictable blocks included.
        available: u64,
        /// Bytes that the whole request costs.
        bytes_requested: u64,
        /// Bytes that were free or evictable.
        bytes_available: u64,
    },
    /// The request needs more slots than block ids can name.
    #[error("{requested} new slots are needed and {available} can still be named")]
    SlotsExhausted {
        /// Slots that the request adds.
        requested: u64,
        /// Slots that can be added.
        available: u64,
        /// Bytes that the whole request costs.
        bytes_requested: u64,
        /// Bytes that were free or evictable.
        bytes_available: u64,
    },
    /// The bytes that a new pool is promised have been taken by others.
    #[error("a minimum of {requested} bytes was asked for, and others leave {available}")]
    MinimumTaken {
        /// The minimum of the new pool.
        requested: u64,
        /// What the others leave.
        available: u64,
    },

    /// This pool has never given out that id.
    #[error("block {id} is unknown: this pool never gave it out")]
    UnknownBlock {
        /// The id at fault.
        id: BlockId,
    },
    /// The id is another pool's, or from before `reconfigure`.
    #[error("block {id} belongs to another pool, or to this one before it was reconfigured")]
    ForeignBlock {
        /// The id at fault.
        id: BlockId,
    },
    /// The block has been freed or evicted since.
    #[error("block {id} is stale: it was freed or evicted before")]
    StaleBlock {
        /// The id at fault.
        id: BlockId,
    },
    /// The id stands twice in one list.
    #[error("block {id} is listed twice")]
    RepeatedBlock {
        /// The id at fault.
        id: BlockId,
    },
    /// The block is there, but not in the state that the operation is for.
    #[error("block {id} is {found}, not {wanted}")]
    WrongState {
        /// The id at fault.
        id: BlockId,
        /// What it is.
        found: &'static str,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// One more lease would not be counted.
    #[error("block {id} has as many leases as can be counted")]
    TooManyLeases {
        /// The id at fault.
        id: BlockId,
    },
    /// There is no such layer group in this pool.
    #[error("no layer group {name:?} in this pool; it has {known}")]
    UnknownGroup {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// There is no such word for a charge.
    #[error("bytes are charged as \"live\" or \"staging\", not as {name:?}")]
    UnknownCharge {
        /// The word that was given.
        name: String,
    },
    /// An agent needs a name.
    #[error("agent_id must not be empty")]
    UnnamedAgent,
    /// An agent of no tokens holds nothing.
    #[error("n_tokens must be at least 1")]
    NoTokens,
    /// More bytes or arrays are given back than were charged.
    #[error("{requested} {charge} {unit} cannot be discharged: {charged} are charged")]
    OverDischarge {
        /// "live" or "staging".
        charge: &'static str,
        /// "bytes" or "arrays".
        unit: &'static str,
        /// How much is to be given back.
        requested: u64,
        /// How much is charged.
        charged: u64,
    },
    /// The agent holds nothing in this pool.
    #[error("agent {agent:?} holds nothing in this pool")]
    AgentNotFound {
        /// The name that was asked for.
        agent: String,
    },

    /// There is no such layer type.
    #[error("unknown layer type {name:?}; one of global, sliding_window, chunked, state")]
    UnknownLayerType {
        /// The word that was given.
        name: String,
    },
    /// A pool needs at least one group, and can count 65,535.
    #[error("a pool needs 1 to 65535 layer groups, not {groups}")]
    GroupCount {
        /// Groups that were given.
        groups: usize,
    },
    /// A group needs a name.
    #[error("a layer group needs a name")]
    UnnamedGroup,
    /// Two groups of one name.
    #[error("two layer groups are named {group:?}")]
    RepeatedGroup {
        /// The name.
        group: String,
    },
    /// A block that costs nothing cannot be counted.
    #[error("a block of group {group:?} must cost at least 1 of its {unit}")]
    EmptyBlock {
        /// The group.
        group: String,
        /// "bytes" or "arrays".
        unit: &'static str,
    },
    /// A cap of 0 would make the group useless.
    #[error("group {group:?} lets an agent hold 0 blocks")]
    ZeroCap {
        /// The group.
        group: String,
    },
    /// A budget of no bytes.
    #[error("a budget must be at least 1 byte")]
    EmptyBudget,
    /// A budget of `u64::MAX` bytes or more: that number stands for what cannot be represented.
    #[error("a budget must be below 2^64 - 1 bytes")]
    HugeBudget,
    /// The pool may never take as much as one block.
    #[error("{limit} bytes do not hold one block: the smallest takes {block}")]
    BudgetBelowBlock {
        /// The most that the pool may take.
        limit: u64,
        /// Bytes of the smallest block.
        block: u64,
    },
    /// The pool may never make as many arrays as one block is made of.
    #[error("a limit of {limit} arrays does not hold one block: the smallest is made of {block}")]
    ArraysBelowBlock {
        /// The most arrays that the pool may make.
        limit: u64,
        /// Arrays of the smallest block.
        block: u64,
    },
    /// A minimum above its maximum.
    #[error("a minimum of {minimum} bytes is above the maximum of {maximum}")]
    MinimumAboveMaximum {
        /// Bytes promised.
        minimum: u64,
        /// Bytes allowed.
        maximum: u64,
    },
    /// The pools of a budget are promised more than there is.
    #[error("the minimums of the pools add up to {minimums} bytes, the budget is {total}")]
    MinimumsAboveTotal {
        /// Sum of the minimums, the new one included.
        minimums: u64,
        /// The budget.
        total: u64,
    },
    /// The groups cannot change while something is held.
    #[error(
        "something is in use: {held} bytes held, {live} live, {staging} staging; \
         free, release or discharge it first"
    )]
    InUse {
        /// Bytes of held and leased blocks.
        held: u64,
        /// Bytes charged as live.
        live: u64,
        /// Bytes of staged blocks and charged as staging.
        staging: u64,
    },
    /// The process has made as many pools as ids can tell apart.
    #[error("this process has made too many pools for their ids to be told apart")]
    PoolNumbersExhausted,
    /// The pool has left its budget.
    #[error("the pool is closed")]
    PoolClosed,

    /// `check` found the books wrong: a bug in this crate.
    #[error("a broken invariant: {detail}")]
    Broken {
        /// What does not agree with what.
        detail: String,
    },
}
