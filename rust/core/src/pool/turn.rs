//! What one running sequence has of a pool: the blocks of its hit, and bytes for its buffers.

use crate::error::Error;
use crate::ledger::Charge;
use crate::pool::Pool;
use crate::prefix::{Hold, Root};

impl Pool<'_> {
    /// Start a turn: charge live bytes and arrays to a hold, evicting when need be, and have its
    /// agent use what it hit: that goes last from now on.
    ///
    /// # Errors
    ///
    /// Those of [`charge`](Self::charge); nothing has changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use semantic_core::{Error, GroupSpec, Key, KeyWidth, Memory, Reach, Terms, Tokens};
    /// # let group = GroupSpec {
    /// #     name: "global".into(),
    /// #     reach: Reach::All,
    /// #     bytes_per_block: 1024,
    /// #     max_blocks_per_agent: None,
    /// #     arrays_per_block: 2,
    /// # };
    /// let mut memory = Memory::new(4 * 1024)?;
    /// let key = memory.open(Terms::default(), vec![group], 100)?;
    /// let mut pool = memory.pool(&key)?;
    /// let root = pool.prefixes().open(Key::default(), KeyWidth::default());
    /// let tokens: Tokens = (0..600).collect();
    ///
    /// let mut hold = pool.prefixes().hold(root, tokens.all(), 599)?;
    /// pool.enter(root, &mut hold, "a1", 3000, 2)?;
    /// pool.grow(&mut hold, 4000)?;
    /// assert!(pool.grow(&mut hold, 5000).is_err());
    /// assert_eq!((pool.used(), hold.live_bytes(), hold.live_arrays()), (4000, 4000, 2));
    /// pool.leave(root, hold, Some("a1"))?;
    /// assert_eq!(pool.used(), 0);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn enter(
        &mut self,
        root: Root,
        hold: &mut Hold,
        agent: &str,
        bytes: u64,
        arrays: u64,
    ) -> Result<(), Error> {
        self.charge(Charge::Live, bytes, arrays)?;
        hold.live.bytes += bytes;
        hold.live.arrays += arrays;
        self.index.used(&self.books, root, &hold.plan, agent);
        Ok(())
    }

    /// Charge what is missing to `bytes` live bytes in all; fewer than there are change nothing.
    ///
    /// # Errors
    ///
    /// Those of [`charge`](Self::charge); nothing has changed then.
    pub fn grow(&mut self, hold: &mut Hold, bytes: u64) -> Result<(), Error> {
        let more = bytes.saturating_sub(hold.live.bytes);
        self.charge(Charge::Live, more, 0)?;
        hold.live.bytes += more;
        Ok(())
    }

    /// End a hold with all that was charged to it. The agent whose turn it was is away from now on.
    ///
    /// # Errors
    ///
    /// Those of [`discharge`](Self::discharge), when somebody has discharged what is not theirs: the
    /// blocks go their way all the same.
    pub fn leave(&mut self, root: Root, hold: Hold, agent: Option<&str>) -> Result<(), Error> {
        let live = hold.live;
        self.prefixes().release(hold);
        if let Some(agent) = agent {
            self.index.depart(root, agent);
        }
        self.discharge(Charge::Live, live.bytes, live.arrays)
    }
}
