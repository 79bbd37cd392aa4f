//! Finding nodes by their tokens: the path that a prompt has in common with the tree, and siblings that
//! have something in common with it.

use std::cmp::Ordering;
use std::ops::Range;

use crate::group::BLOCK;
use crate::prefix::node::NodeId;
use crate::prefix::nodes::Nodes;
use crate::prefix::siblings::Place;
use crate::prefix::table::Width;
use crate::tokens::TokenSlice;

/// The most token blocks that are compared at once: little is read beyond a difference.
const RUN_BLOCKS: usize = 16;

impl Nodes {
    /// The nodes whose full blocks are the beginning of `tokens`.
    pub(crate) fn full_path(&self, top: NodeId, tokens: TokenSlice<'_>) -> Vec<NodeId> {
        let n_blocks = tokens.len() / BLOCK;
        let mut path = Vec::with_capacity(n_blocks);
        let mut parent = top;
        while path.len() < n_blocks {
            let rest = tokens.slice(path.len() * BLOCK, n_blocks * BLOCK);
            let run = self.run(parent, rest);
            path.extend(run.clone().map(NodeId::at));
            if run.is_empty() {
                let Some(child) = self.child(parent, rest.slice(0, BLOCK)) else { break };
                path.push(child);
            }
            parent = path[path.len() - 1];
        }
        path
    }

    /// The places of nodes that follow one another behind `parent`, each an only child and a
    /// neighbour of the one before it, with the beginning of `tokens`.
    fn run(&self, parent: NodeId, tokens: TokenSlice<'_>) -> Range<u32> {
        let (Some(first), TokenSlice::Narrow(ids)) = (self[parent].only, tokens) else {
            return 0..0;
        };
        let first = first.place();
        let rows = self.tokens.behind(first);
        let most = RUN_BLOCKS.min(rows.len() / BLOCK).min(ids.len() / BLOCK);
        let mut n = 0;
        for node in self.entries[first as usize..].iter().take(most) {
            if !node.is_full() || node.width != Width::Narrow {
                break;
            }
            n += 1;
            if node.only.map(NodeId::place) != Some(first + n) {
                break;
            }
        }
        let len = n as usize * BLOCK;
        let (mine, theirs) = (&rows[..len], &ids[..len]);
        if mine != theirs {
            n = 0;
            for (mine, theirs) in mine.chunks(BLOCK).zip(theirs.chunks(BLOCK)) {
                if mine != theirs {
                    break;
                }
                n += 1;
            }
        }
        first..first + n
    }

    /// The child whose tokens are exactly these.
    #[inline]
    fn child(&self, parent: NodeId, tokens: TokenSlice<'_>) -> Option<NodeId> {
        let has = |&child: &NodeId| self.tokens(child) == tokens;
        let node = &self[parent];
        if !node.is_forked {
            return node.only.filter(has);
        }
        let guess = self.forks.guess(parent, self.forks.hash(tokens)).filter(has);
        let bisected = || self.children(parent).from(self.place(parent, tokens)).next();
        guess.or_else(|| bisected().filter(has))
    }

    /// The first place among the children whose tokens are not below these.
    pub(super) fn place(&self, parent: NodeId, tokens: TokenSlice<'_>) -> Place {
        let is_below = |child| self.tokens(child).compare(tokens).0 == Ordering::Less;
        self.children(parent).partition(is_below)
    }

    /// The child that has most in common with these tokens, and how many of them.
    pub(crate) fn most_alike(
        &self,
        parent: NodeId,
        tokens: TokenSlice<'_>,
    ) -> Option<(NodeId, usize)> {
        let children = self.children(parent);
        let is_forked = self[parent].is_forked;
        let place = if is_forked { self.place(parent, tokens) } else { Place::default() };
        let neighbours = children.from(place).take(1).chain(children.before(place).take(1));
        let common = |child| (child, self.tokens(child).common(tokens));
        neighbours.map(common).max_by_key(|&(_, common)| common)
    }

    /// The children that have more than `floor` tokens in common with these, and how many.
    pub(crate) fn alike(
        &self,
        parent: NodeId,
        tokens: TokenSlice<'_>,
        floor: usize,
    ) -> impl Iterator<Item = (NodeId, usize)> {
        let children = self.children(parent);
        let place = self.place(parent, tokens);
        let common = move |child| (child, self.tokens(child).common(tokens));
        let near = move |&(_, common): &(NodeId, usize)| common > floor;
        let behind = children.from(place).map(common).take_while(near);
        behind.chain(children.before(place).map(common).take_while(near))
    }

    /// The children that begin with these tokens.
    pub(crate) fn longer(
        &self,
        parent: NodeId,
        tokens: TokenSlice<'_>,
    ) -> impl Iterator<Item = NodeId> {
        let begins = move |child: &NodeId| self.tokens(*child).slice(0, tokens.len()) == tokens;
        self.children(parent).from(self.place(parent, tokens)).take_while(begins)
    }

    /// The child whose tokens are the beginning of these, without being all of them.
    pub(crate) fn shorter(&self, parent: NodeId, tokens: TokenSlice<'_>) -> Option<NodeId> {
        let child = self.children(parent).before(self.place(parent, tokens)).next()?;
        let mine = self.tokens(child);
        (mine.len() < tokens.len() && mine == tokens.slice(0, mine.len())).then_some(child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupId;
    use crate::key::Key;
    use crate::prefix::Root;
    use crate::tokens::Tokens;

    /// Numbers that nobody guesses.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            usize::try_from(self.0 >> 33).unwrap() % n
        }
    }

    /// Token blocks of four kinds, one of them with an id that is not narrow, of any length.
    fn text(dice: &mut Dice, n_blocks: usize) -> Vec<i64> {
        let block = |kind: usize| {
            (0..BLOCK).map(move |at| match (kind, at) {
                (3, 255) => -1,
                (_, 200) => i64::try_from(kind % 3).unwrap(),
                _ => 7,
            })
        };
        (0..n_blocks)
            .flat_map(|_| block(if dice.below(8) > 0 { 0 } else { dice.below(4) }))
            .collect()
    }

    /// What a walk from child to child finds.
    fn walked(nodes: &Nodes, top: NodeId, tokens: &[i64]) -> Vec<NodeId> {
        let mut path = vec![top];
        for block in tokens.chunks_exact(BLOCK) {
            let has = |id: &NodeId| nodes.tokens(*id).iter().eq(block.iter().copied());
            let Some(child) = nodes.children(path[path.len() - 1]).iter().find(has) else { break };
            path.push(child);
        }
        path.split_off(1)
    }

    #[test]
    fn a_path_is_what_a_walk_from_child_to_child_finds() {
        let mut dice = Dice(1);
        let mut nodes = Nodes::new(vec![GroupId(0)], 0);
        let top = nodes.plant(Root::default(), Key::default());
        let mut lengths = [0; 3];
        for round in 0..400 {
            let n_blocks = 1 + dice.below(40);
            let ids = text(&mut dice, n_blocks);
            let narrow: Tokens = ids.iter().copied().collect();
            for tokens in [narrow, Tokens::Wide(ids.clone())] {
                let path = nodes.full_path(top, tokens.all());
                assert_eq!(path, walked(&nodes, top, &ids), "round {round}");
                lengths[usize::from(!path.is_empty()) + usize::from(path.len() == n_blocks)] += 1;
            }
            let mut path = nodes.full_path(top, Tokens::Wide(ids.clone()).all());
            if round % 3 == 2 {
                while let Some(leaf) = path.pop().filter(|&id| !nodes[id].has_children()) {
                    nodes.cut(leaf);
                }
                continue;
            }
            for block in ids.chunks_exact(BLOCK).skip(path.len()) {
                let tokens = Tokens::Wide(block.to_vec());
                let parent = path.last().copied().unwrap_or(top);
                path.push(nodes.grow(parent, tokens.all(), Key::default()));
            }
        }
        assert!(lengths.iter().all(|&n| n > 10), "{lengths:?}");
    }

    #[test]
    fn a_wide_block_is_not_what_its_row_still_has() {
        let mut nodes = Nodes::new(vec![GroupId(0)], 0);
        let top = nodes.plant(Root::default(), Key::default());
        let narrow: Tokens = (0..256).collect();
        let wide: Tokens = (0..255).chain([-1]).collect();
        let before = nodes.grow(top, narrow.all(), Key::default());
        nodes.cut(before);
        assert_eq!(nodes.grow(top, wide.all(), Key::default()), before);
        assert_eq!(nodes.full_path(top, narrow.all()), []);
        assert_eq!(nodes.full_path(top, wide.all()), [before]);
    }

    #[test]
    fn all_that_forks_have_entered_goes_with_the_children() {
        let mut nodes = Nodes::new(vec![GroupId(0)], 0);
        let top = nodes.plant(Root::default(), Key::default());
        let block = |n: i64| -> Tokens { (0..256).map(|at| at * n).collect() };
        let children: Vec<NodeId> =
            (0..900).map(|n| nodes.grow(top, block(n * 7 % 900).all(), Key::default())).collect();
        assert_eq!(nodes.forks.len(), 900);
        for &child in &children[..899] {
            assert_eq!(nodes.full_path(top, nodes.tokens(child)), [child]);
            nodes.cut(child);
        }
        let left: Vec<NodeId> = nodes.children(top).iter().collect();
        assert_eq!((nodes.forks.len(), &left[..]), (0, &children[899..]));
    }
}
