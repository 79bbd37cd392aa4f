//! The children of a fork, sorted, in runs that are short enough to be searched and moved.
//!
//! A fork may have thousands, and whoever strikes one knows neither its place nor wants to read the
//! tokens of others to find it. So each child remembers its run, by a number that the run keeps.

use crate::prefix::node::NodeId;

/// A run that is as long is halved before it grows.
const RUN_MAX: usize = 256;

#[derive(Debug)]
struct Run {
    number: u64,
    /// Never empty.
    nodes: Vec<NodeId>,
}

/// Children that are more than one.
#[derive(Debug, Default)]
pub(crate) struct Siblings {
    runs: Vec<Run>,
    /// How many runs there have been.
    n_numbers: u64,
}

/// Where a child stands, or would: its run, and how many stand before it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    run: usize,
    at: usize,
}

impl Siblings {
    /// Enter a child, and say for each one that has come into a run which one that is.
    pub(crate) fn insert(
        &mut self,
        Place { mut run, mut at }: Place,
        child: NodeId,
        mut stands: impl FnMut(NodeId, u64),
    ) {
        if self.runs.is_empty() {
            self.begin(0, Vec::new());
        }
        if self.runs[run].nodes.len() == RUN_MAX {
            let upper = self.runs[run].nodes.split_off(RUN_MAX / 2);
            self.begin(run + 1, upper);
            let Run { number, nodes } = &self.runs[run + 1];
            for &id in nodes {
                stands(id, *number);
            }
            if at > RUN_MAX / 2 {
                (run, at) = (run + 1, at - RUN_MAX / 2);
            }
        }
        let Run { number, nodes } = &mut self.runs[run];
        nodes.insert(at, child);
        stands(child, *number);
    }

    fn begin(&mut self, at: usize, nodes: Vec<NodeId>) {
        self.runs.insert(at, Run { number: self.n_numbers, nodes });
        self.n_numbers += 1;
    }

    /// Strike a child of the run with this number.
    pub(crate) fn remove(&mut self, number: u64, child: NodeId) {
        let Some(run) = self.runs.iter().position(|run| run.number == number) else { return };
        let nodes = &mut self.runs[run].nodes;
        let Some(at) = nodes.iter().position(|&id| id == child) else { return };
        nodes.remove(at);
        if nodes.is_empty() {
            self.runs.remove(run);
        }
    }

    /// The last one, taken out, when it is the only one.
    pub(crate) fn take_only(&mut self) -> Option<NodeId> {
        let [Run { nodes, .. }] = self.runs.as_slice() else { return None };
        let &[last] = nodes.as_slice() else { return None };
        self.runs.clear();
        Some(last)
    }
}

/// All children of a node, sorted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Children<'n> {
    /// None, or the only one.
    Only(&'n [NodeId]),
    /// More than one.
    Forked(&'n Siblings),
}

impl<'n> Children<'n> {
    fn n_runs(self) -> usize {
        match self {
            Self::Only(_) => 1,
            Self::Forked(siblings) => siblings.runs.len(),
        }
    }

    fn run(self, at: usize) -> &'n [NodeId] {
        match self {
            Self::Only(nodes) => nodes,
            Self::Forked(siblings) => &siblings.runs[at].nodes,
        }
    }

    /// Where those begin of whom this is not so; it is so of those before.
    pub(crate) fn partition(self, mut is_before: impl FnMut(NodeId) -> bool) -> Place {
        let (mut run, mut beyond) = (0, self.n_runs() - 1);
        while run < beyond {
            let middle = run + (beyond - run) / 2;
            let is_all_before = self.run(middle).last().is_some_and(|&last| is_before(last));
            (run, beyond) = if is_all_before { (middle + 1, beyond) } else { (run, middle) };
        }
        Place { run, at: self.run(run).partition_point(|&id| is_before(id)) }
    }

    /// The children from a place on.
    pub(crate) fn from(self, Place { run, at }: Place) -> impl Iterator<Item = NodeId> + use<'n> {
        let rest = (run + 1..self.n_runs()).flat_map(move |run| self.run(run));
        self.run(run)[at..].iter().chain(rest).copied()
    }

    /// The children before a place, the nearest first.
    pub(crate) fn before(self, Place { run, at }: Place) -> impl Iterator<Item = NodeId> + use<'n> {
        let rest = (0..run).rev().flat_map(move |run| self.run(run).iter().rev());
        self.run(run)[..at].iter().rev().chain(rest).copied()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = NodeId> + use<'n> {
        self.from(Place::default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Siblings sorted by their places, with the runs that they were told of.
    #[derive(Default)]
    struct Sorted {
        siblings: Siblings,
        runs: HashMap<NodeId, u64>,
    }

    impl Sorted {
        fn place(&self, child: NodeId) -> Place {
            Children::Forked(&self.siblings).partition(|id| id < child)
        }

        fn insert(&mut self, child: NodeId) {
            let place = if self.runs.is_empty() { Place::default() } else { self.place(child) };
            let runs = &mut self.runs;
            self.siblings.insert(place, child, |id, run| {
                runs.insert(id, run);
            });
        }

        fn remove(&mut self, child: NodeId) {
            self.siblings.remove(self.runs.remove(&child).unwrap(), child);
        }

        fn all(&self) -> Vec<u32> {
            Children::Forked(&self.siblings).iter().map(NodeId::place).collect()
        }
    }

    /// All of 0 to 1,999, in an order of their own.
    fn shuffled() -> impl Iterator<Item = NodeId> {
        (0..2000).map(|n| NodeId::at(n * 777 % 2000))
    }

    #[test]
    fn children_stay_sorted_however_they_come_and_go() {
        let mut sorted = Sorted::default();
        shuffled().for_each(|child| sorted.insert(child));
        assert_eq!(sorted.all(), (0..2000).collect::<Vec<_>>());
        assert!(sorted.siblings.runs.len() >= 8);
        shuffled().filter(|child| child.place() % 3 > 0).for_each(|child| sorted.remove(child));
        assert_eq!(sorted.all(), (0..2000).step_by(3).collect::<Vec<_>>());
        shuffled().filter(|child| child.place() % 3 == 1).for_each(|child| sorted.insert(child));
        assert_eq!(sorted.all(), (0..2000).filter(|n| n % 3 < 2).collect::<Vec<_>>());
    }

    #[test]
    fn from_a_place_they_go_on_in_both_directions() {
        let mut sorted = Sorted::default();
        shuffled().filter(|child| child.place() % 2 == 0).for_each(|child| sorted.insert(child));
        for at in [0, 1, 2, 777, 1000, 1997, 1998, 1999] {
            let place = sorted.place(NodeId::at(at));
            let children = Children::Forked(&sorted.siblings);
            let (on, back) = (children.from(place), children.before(place));
            let on: Vec<u32> = on.map(NodeId::place).collect();
            let back: Vec<u32> = back.map(NodeId::place).collect();
            assert_eq!(on, (0..2000).step_by(2).filter(|&n| n >= at).collect::<Vec<_>>());
            assert_eq!(back, (0..2000).step_by(2).filter(|&n| n < at).rev().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_one_is_an_only_child() {
        let mut sorted = Sorted::default();
        shuffled().for_each(|child| sorted.insert(child));
        for child in shuffled().skip(1) {
            assert_eq!(sorted.siblings.take_only(), None);
            sorted.remove(child);
        }
        assert_eq!(sorted.siblings.take_only(), shuffled().next());
        assert!(sorted.siblings.runs.is_empty());
    }

    #[test]
    fn none_and_an_only_one_have_places_too() {
        let only = [NodeId::at(7)];
        for (nodes, is_before, n) in [(&only[..0], true, 0), (&only, true, 0), (&only, false, 1)] {
            let children = Children::Only(nodes);
            let place = children.partition(|_| is_before);
            assert_eq!(children.from(place).count(), n);
            assert_eq!(children.before(place).count(), nodes.len() - n);
        }
    }
}
