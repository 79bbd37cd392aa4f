//! Which child of a fork has which tokens: a guess by hash, which the tokens then confirm.
//!
//! Nothing is found by its hash alone. Where two children have the same one, the guess is that of the
//! later, and the other is found by bisection; so it is where nobody is guessed.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::prefix::node::NodeId;
use crate::tokens::TokenSlice;

/// The children of all forks that are full token blocks.
#[derive(Debug, Default)]
pub(crate) struct Forks {
    children: HashMap<(NodeId, u64), NodeId, RandomState>,
}

impl Forks {
    /// What tokens are entered as.
    pub(crate) fn hash(&self, tokens: TokenSlice<'_>) -> u64 {
        self.children.hasher().hash_one(tokens)
    }

    pub(crate) fn enter(&mut self, parent: NodeId, hash: u64, child: NodeId) {
        self.children.insert((parent, hash), child);
    }

    pub(crate) fn strike(&mut self, parent: NodeId, hash: u64, child: NodeId) {
        if self.children.get(&(parent, hash)) == Some(&child) {
            self.children.remove(&(parent, hash));
        }
    }

    /// The child that most likely has the tokens of that hash.
    pub(crate) fn guess(&self, parent: NodeId, hash: u64) -> Option<NodeId> {
        self.children.get(&(parent, hash)).copied()
    }

    /// How many children are entered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Tokens;

    #[test]
    fn a_child_is_guessed_by_its_parent_and_its_ids_however_wide() {
        let (a, b): (Tokens, Tokens) = ((0..256).collect(), (1..257).collect());
        let wide = Tokens::Wide((0..256).collect());
        let [top, other, first, second] = [0, 1, 2, 3].map(NodeId::at);
        let mut forks = Forks::default();
        let [a, wide, b] = [&a, &wide, &b].map(|tokens| forks.hash(tokens.all()));
        forks.enter(top, a, first);
        forks.enter(top, b, second);
        assert_eq!((forks.guess(top, wide), forks.guess(other, a)), (Some(first), None));
        forks.strike(top, a, second);
        forks.strike(top, b, second);
        assert_eq!((forks.guess(top, a), forks.guess(top, b)), (Some(first), None));
        assert_eq!(forks.len(), 1);
    }

    #[test]
    fn of_two_children_with_one_hash_the_later_is_guessed() {
        let [top, first, second] = [0, 1, 2].map(NodeId::at);
        let mut forks = Forks::default();
        forks.enter(top, 7, first);
        forks.enter(top, 7, second);
        forks.strike(top, 7, first);
        assert_eq!(forks.guess(top, 7), Some(second));
    }
}
