//! The order of eviction: lanes of places, and which lane's first place goes next.
//!
//! Within a lane the least recently used goes first. Lanes compare by how long their agent is
//! expected to stay away: at least its `floor`, and at least as long as its first place has not been
//! used. So a lane's worth stands still until its crossing time and falls from then on, all such
//! lanes at the same pace; both kinds are kept sorted, and a choice costs O(log lanes).

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A list within the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Lane(pub(crate) u32);

/// How a lane compares with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    /// The highest class goes first, whatever the times.
    pub(crate) class: u8,
    /// At least so long nobody will ask, counted from now.
    pub(crate) floor_ms: u64,
    /// Added to the time since the last use.
    pub(crate) bonus_ms: u64,
}

impl Default for Standing {
    fn default() -> Self {
        Self { class: 1, floor_ms: 0, bonus_ms: 0 }
    }
}

/// How little something is worth: the greater goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Dispensable {
    class: u8,
    away_ms: u64,
}

impl Standing {
    /// How little something is worth that is used now.
    pub(crate) fn when_used(self) -> Dispensable {
        Dispensable { class: self.class, away_ms: self.floor_ms.max(self.bonus_ms) }
    }
}

const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    before: u32,
    after: u32,
    lane: Lane,
    is_here: bool,
    /// When it was last used, in time and in order.
    used_at: u64,
    use_number: u64,
}

const APART: Links = Links {
    before: NOBODY,
    after: NOBODY,
    lane: Lane(0),
    is_here: false,
    used_at: 0,
    use_number: 0,
};

/// Where a lane is sorted in: by its floor, or by since when it has been away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Filed {
    Floor { class: u8, floor_ms: u64, first: Reverse<u64>, lane: Lane },
    Away { class: u8, since: Reverse<i64>, first: Reverse<u64>, lane: Lane },
}

#[derive(Clone, Debug)]
struct LaneState {
    first: u32,
    last: u32,
    standing: Standing,
    /// Since when its first place counts as away, and where that has put the lane.
    filed: Option<(i64, Filed)>,
    is_dirty: bool,
}

impl Default for LaneState {
    fn default() -> Self {
        let standing = Standing::default();
        Self { first: NOBODY, last: NOBODY, standing, filed: None, is_dirty: false }
    }
}

/// Places in the order of their eviction.
#[derive(Debug, Default)]
pub(crate) struct Order {
    links: Vec<Links>,
    lanes: Vec<LaneState>,
    /// Lanes whose worth stands still, the least worth last.
    resting: BTreeSet<Filed>,
    /// Lanes whose worth falls with time, the least worth last.
    falling: BTreeSet<Filed>,
    /// When the worth of resting lanes begins to fall.
    crossings: BTreeSet<(i64, Lane)>,
    /// Lanes to be sorted in again.
    dirty: Vec<Lane>,
    /// The lane that went first at that time, until something is sorted in again.
    chosen: Option<(u64, Lane, Dispensable)>,
    uses: u64,
    len: usize,
}

impl Order {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn contains(&self, place: u32) -> bool {
        self.links.get(place as usize).is_some_and(|links| links.is_here)
    }

    /// Make a place the last of a lane to go, whether or not it was here.
    pub(crate) fn touch(&mut self, place: u32, lane: Lane, now: u64) {
        self.remove(place);
        if self.links.len() <= place as usize {
            self.links.resize(place as usize + 1, APART);
        }
        if self.lanes.len() <= lane.0 as usize {
            self.lanes.resize_with(lane.0 as usize + 1, LaneState::default);
        }
        self.uses += 1;
        let state = &mut self.lanes[lane.0 as usize];
        let before = std::mem::replace(&mut state.last, place);
        self.links[place as usize] = Links {
            before,
            after: NOBODY,
            lane,
            is_here: true,
            used_at: now,
            use_number: self.uses,
        };
        if before == NOBODY {
            state.first = place;
            self.soil(lane);
        } else {
            self.links[before as usize].after = place;
        }
        self.len += 1;
    }

    /// A place and those behind it in its lane that were used when it was.
    pub(crate) fn row(&self, place: u32) -> impl Iterator<Item = u32> {
        let alike = |&place: &u32| {
            let Links { after, used_at, .. } = *self.links.get(place as usize)?;
            let next = self.links.get(after as usize)?;
            (next.used_at == used_at).then_some(after)
        };
        std::iter::successors(Some(place), alike)
    }

    /// Take a place out, if it is here.
    pub(crate) fn remove(&mut self, place: u32) {
        if self.contains(place) {
            self.remove_row(std::iter::once(place));
        }
    }

    /// Take out places that are here, one right after the other in one lane.
    pub(crate) fn remove_row(&mut self, row: impl DoubleEndedIterator<Item = u32> + Clone) {
        let (Some(first), Some(last)) = (row.clone().next(), row.clone().next_back()) else {
            return;
        };
        let Links { before, lane, used_at, .. } = self.links[first as usize];
        let after = self.links[last as usize].after;
        let state = &mut self.lanes[lane.0 as usize];
        match before {
            NOBODY => state.first = after,
            before => self.links[before as usize].after = after,
        }
        match after {
            NOBODY => state.last = before,
            after => self.links[after as usize].before = before,
        }
        for place in row {
            self.links[place as usize].is_here = false;
            self.len -= 1;
        }
        // What was used together is worth the same: the lane stays where it is.
        let is_alike = after != NOBODY && self.links[after as usize].used_at == used_at;
        if before == NOBODY && !is_alike {
            self.soil(lane);
        }
    }

    /// Say how a lane compares from now on.
    pub(crate) fn set_standing(&mut self, lane: Lane, standing: Standing) {
        if self.lanes.len() <= lane.0 as usize {
            self.lanes.resize_with(lane.0 as usize + 1, LaneState::default);
        }
        let state = &mut self.lanes[lane.0 as usize];
        if state.standing != standing {
            state.standing = standing;
            self.soil(lane);
        }
    }

    /// Whether nothing is in a lane.
    pub(crate) fn is_empty(&self, lane: Lane) -> bool {
        self.lanes.get(lane.0 as usize).is_none_or(|state| state.first == NOBODY)
    }

    fn soil(&mut self, lane: Lane) {
        let state = &mut self.lanes[lane.0 as usize];
        if !state.is_dirty {
            state.is_dirty = true;
            self.dirty.push(lane);
        }
    }

    /// The next to go, and how little it is worth.
    pub(crate) fn first(&mut self, now: u64) -> Option<(u32, Dispensable)> {
        let (_, lane, dispensable) = match self.chosen {
            Some(chosen) if chosen.0 == now && self.dirty.is_empty() => chosen,
            _ => self.choose(now)?,
        };
        Some((self.lanes[lane.0 as usize].first, dispensable))
    }

    fn choose(&mut self, at: u64) -> Option<(u64, Lane, Dispensable)> {
        let now = i64::try_from(at).unwrap_or(i64::MAX);
        while let Some(lane) = self.dirty.pop() {
            self.lanes[lane.0 as usize].is_dirty = false;
            self.file(lane, now);
        }
        while let Some(&(crossing, lane)) = self.crossings.first() {
            if crossing > now {
                break;
            }
            self.file(lane, now);
        }
        let resting = self.resting.last().map(|filed| Self::described(filed, now));
        let falling = self.falling.last().map(|filed| Self::described(filed, now));
        self.chosen = resting.max(falling).map(|(dispensable, _, lane)| (at, lane, dispensable));
        self.chosen
    }

    fn described(filed: &Filed, now: i64) -> (Dispensable, Reverse<u64>, Lane) {
        let (Filed::Floor { class, first, lane, .. } | Filed::Away { class, first, lane, .. }) =
            *filed;
        let away_ms = match *filed {
            Filed::Floor { floor_ms, .. } => floor_ms,
            Filed::Away { since, .. } => u64::try_from(now.saturating_sub(since.0)).unwrap_or(0),
        };
        (Dispensable { class, away_ms }, first, lane)
    }

    /// Sort a lane in where it belongs now.
    fn file(&mut self, lane: Lane, now: i64) {
        let state = &mut self.lanes[lane.0 as usize];
        if let Some((crossing, filed)) = state.filed.take() {
            self.crossings.remove(&(crossing, lane));
            self.resting.remove(&filed);
            self.falling.remove(&filed);
        }
        if state.first == NOBODY {
            return;
        }
        let Standing { class, floor_ms, bonus_ms } = state.standing;
        let Links { used_at, use_number, .. } = self.links[state.first as usize];
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let since = signed(used_at).saturating_sub(signed(bonus_ms));
        let crossing = since.saturating_add(signed(floor_ms));
        let first = Reverse(use_number);
        let filed = if crossing > now {
            let filed = Filed::Floor { class, floor_ms, first, lane };
            self.resting.insert(filed);
            self.crossings.insert((crossing, lane));
            filed
        } else {
            let filed = Filed::Away { class, since: Reverse(since), first, lane };
            self.falling.insert(filed);
            filed
        };
        state.filed = Some((crossing, filed));
    }

    /// When a place was last used in time, while it is here.
    pub(crate) fn used_at(&self, place: u32) -> Option<u64> {
        self.links.get(place as usize).filter(|links| links.is_here).map(|links| links.used_at)
    }

    /// The first place of every lane.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = u32> {
        self.lanes.iter().map(|lane| lane.first).filter(|&first| first != NOBODY)
    }

    /// The places of a lane, the next to go first.
    pub(crate) fn lane(&self, lane: Lane) -> impl Iterator<Item = u32> {
        let known = |place: u32| (place != NOBODY).then_some(place);
        let first = self.lanes.get(lane.0 as usize).and_then(|state| known(state.first));
        std::iter::successors(first, move |&place| known(self.links[place as usize].after))
    }

    /// Every place, lane by lane.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.lanes.len())
            .filter_map(|lane| u32::try_from(lane).ok())
            .map(Lane)
            .flat_map(|lane| self.lane(lane))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Lane = Lane(3);
    const B: Lane = Lane(0);

    /// Everything, in the order in which it goes when nothing happens meanwhile.
    fn drained(order: &mut Order, now: u64) -> Vec<u32> {
        let next = || {
            let (place, _) = order.first(now)?;
            order.remove(place);
            Some(place)
        };
        std::iter::from_fn(next).collect()
    }

    fn filled(uses: &[(u32, Lane, u64)]) -> Order {
        let mut order = Order::default();
        for &(place, lane, now) in uses {
            order.touch(place, lane, now);
        }
        order
    }

    #[test]
    fn without_floors_the_least_recently_used_goes_first_whatever_its_lane() {
        let uses = [(4, A, 10), (0, B, 20), (9, A, 30), (2, B, 40), (4, A, 50), (7, A, 50)];
        let mut order = filled(&uses);
        assert_eq!(order.len(), 5);
        assert_eq!(drained(&mut order, 60), [0, 9, 2, 4, 7]);
        assert_eq!((order.len(), order.first(60)), (0, None));
    }

    #[test]
    fn an_agent_that_is_expected_later_goes_first_until_another_is_away_for_longer() {
        let mut order = filled(&[(1, A, 0), (2, B, 5)]);
        order.set_standing(A, Standing { floor_ms: 10, ..Standing::default() });
        order.set_standing(B, Standing { floor_ms: 30, ..Standing::default() });
        assert_eq!(order.first(6).map(|(place, _)| place), Some(2));
        assert_eq!(order.first(30).map(|(place, _)| place), Some(1), "a tie: the older goes");
        assert_eq!(order.first(31).map(|(place, _)| place), Some(1));
        order.touch(1, A, 31);
        assert_eq!(drained(&mut order, 32), [2, 1]);
    }

    #[test]
    fn a_class_goes_before_all_times_and_a_bonus_makes_older() {
        let mut order = filled(&[(1, A, 0), (2, B, 50)]);
        order.set_standing(B, Standing { class: 2, ..Standing::default() });
        assert_eq!(drained(&mut order, 60), [2, 1]);
        let mut order = filled(&[(1, A, 0), (2, B, 50)]);
        order.set_standing(B, Standing { bonus_ms: 51, ..Standing::default() });
        assert_eq!(drained(&mut order, 60), [2, 1]);
    }

    #[test]
    fn a_row_is_of_one_time_and_one_lane() {
        let mut order = filled(&[(1, A, 0), (2, A, 0), (5, B, 0), (3, A, 0), (4, A, 1)]);
        assert_eq!(order.row(1).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(order.row(4).collect::<Vec<_>>(), [4]);
        order.remove_row([1, 2].into_iter());
        assert_eq!((order.len(), drained(&mut order, 2)), (3, vec![5, 3, 4]));
    }

    #[test]
    fn places_come_and_go() {
        let mut order = filled(&[(1, A, 0), (2, A, 0), (3, A, 0)]);
        order.remove(2);
        order.remove(2);
        order.remove(77);
        assert!(!order.contains(2) && order.contains(3));
        assert_eq!(order.lane(A).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(drained(&mut order, 0), [1, 3]);
        assert!(order.is_empty(A) && order.is_empty(Lane(99)));
        order.touch(2, A, 9);
        assert_eq!((order.used_at(2), drained(&mut order, 9)), (Some(9), vec![2]));
    }
}
