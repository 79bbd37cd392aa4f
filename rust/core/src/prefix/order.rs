//! The order of eviction: lanes of places, and which lane's first place goes next.
//!
//! Within a lane the least recently used goes first. A place that may not go now is set aside and comes
//! back where it was: to be passed over is no use. Lanes compare by how long their agent is
//! expected to stay away: at least its `floor`, and at least as long as its first place has not been
//! used. So a lane's worth stands still until its crossing time and falls from then on, all such
//! lanes at the same pace; both kinds are kept sorted, and a choice costs O(log lanes).

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A list within the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Lane(pub(crate) u32);

/// When something was used: in time, and in the order of all uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Use {
    pub(crate) number: u64,
    pub(crate) at: u64,
}

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
    /// Taken out for a while, to come back where it was.
    is_aside: bool,
    last_use: Use,
}

const APART: Links = Links {
    before: NOBODY,
    after: NOBODY,
    lane: Lane(0),
    is_here: false,
    is_aside: false,
    last_use: Use { number: 0, at: 0 },
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
    n_aside: usize,
}

impl Order {
    pub(crate) fn contains(&self, place: u32) -> bool {
        self.links.get(place as usize).is_some_and(|links| links.is_here)
    }

    /// Whether a place was set aside, to be put back.
    pub(crate) fn is_aside(&self, place: u32) -> bool {
        self.links.get(place as usize).is_some_and(|links| links.is_aside)
    }

    /// A use that is later than all before.
    pub(crate) fn next_use(&mut self, now: u64) -> Use {
        self.uses += 1;
        Use { at: now, number: self.uses }
    }

    /// Put a place into a lane by its last use, whether or not it was here.
    pub(crate) fn enter(&mut self, place: u32, lane: Lane, last_use: Use) {
        self.remove(place);
        if self.links.len() <= place as usize {
            self.links.resize(place as usize + 1, APART);
        }
        self.state(lane);
        let links = &mut self.links[place as usize];
        (links.lane, links.last_use) = (lane, last_use);
        self.insert(place);
    }

    /// What was used when `place` was takes its place in the order.
    pub(crate) fn succeed(&mut self, place: u32, by: u32) {
        self.remove(by);
        if self.links.len() <= by as usize {
            self.links.resize(by as usize + 1, APART);
        }
        let links = self.links[place as usize];
        self.join(links, by, by);
        self.links[by as usize] = links;
        self.links[place as usize].is_here = false;
    }

    fn state(&mut self, lane: Lane) -> &mut LaneState {
        if self.lanes.len() <= lane.0 as usize {
            self.lanes.resize_with(lane.0 as usize + 1, LaneState::default);
        }
        &mut self.lanes[lane.0 as usize]
    }

    /// Put a place that is not here into its lane, right behind another one or as the first.
    fn link(&mut self, place: u32, before: u32) {
        let lane = self.links[place as usize].lane;
        let state = &mut self.lanes[lane.0 as usize];
        let next = match before {
            NOBODY => &mut state.first,
            before => &mut self.links[before as usize].after,
        };
        let after = std::mem::replace(next, place);
        match after {
            NOBODY => state.last = place,
            after => self.links[after as usize].before = place,
        }
        let links = &mut self.links[place as usize];
        (links.before, links.after, links.is_here) = (before, after, true);
        self.len += 1;
        if before == NOBODY {
            self.soil(lane);
        }
    }

    /// Take a place out for a while: it may not go now, but it was not used either.
    pub(crate) fn set_aside(&mut self, place: u32) {
        if self.contains(place) {
            self.remove(place);
            self.links[place as usize].is_aside = true;
            self.n_aside += 1;
        }
    }

    /// Put a place that was set aside back where it was.
    pub(crate) fn restore(&mut self, place: u32) {
        if self.is_aside(place) {
            self.forget_aside(place);
            self.insert(place);
        }
    }

    /// Put a place into another lane, among those that were used when it was.
    pub(crate) fn move_to(&mut self, place: u32, lane: Lane) {
        let (is_here, is_aside) = (self.contains(place), self.is_aside(place));
        if !is_here && !is_aside || self.links[place as usize].lane == lane {
            return;
        }
        self.remove(place);
        self.state(lane);
        self.links[place as usize].lane = lane;
        self.insert(place);
        if is_aside {
            self.set_aside(place);
        }
    }

    fn forget_aside(&mut self, place: u32) {
        self.links[place as usize].is_aside = false;
        self.n_aside -= 1;
    }

    /// Put a place that is not here into its lane by its last use, looked for from both sides.
    fn insert(&mut self, place: u32) {
        let Links { lane, last_use, .. } = self.links[place as usize];
        let state = &self.lanes[lane.0 as usize];
        let (mut oldest, mut latest) = (state.first, state.last);
        let before = loop {
            if latest == NOBODY || self.links[latest as usize].last_use.number < last_use.number {
                break latest;
            }
            let Links { before, after, last_use: other, .. } = self.links[oldest as usize];
            if other.number > last_use.number {
                break before;
            }
            (oldest, latest) = (after, self.links[latest as usize].before);
        };
        self.link(place, before);
    }

    /// Take a place out for good, if it is here or was set aside.
    pub(crate) fn remove(&mut self, place: u32) {
        if self.contains(place) {
            self.unlink(place);
        } else if self.is_aside(place) {
            self.forget_aside(place);
        }
    }

    fn unlink(&mut self, place: u32) {
        let links = self.links[place as usize];
        self.join(links, links.after, links.before);
        self.links[place as usize].is_here = false;
        self.len -= 1;
        if links.before == NOBODY {
            self.soil(links.lane);
        }
    }

    /// Let what stands before and after a place have other neighbours.
    fn join(&mut self, Links { before, after, lane, .. }: Links, next: u32, previous: u32) {
        let state = &mut self.lanes[lane.0 as usize];
        match before {
            NOBODY => state.first = next,
            before => self.links[before as usize].after = next,
        }
        match after {
            NOBODY => state.last = previous,
            after => self.links[after as usize].before = previous,
        }
    }

    /// Say how a lane compares from now on.
    pub(crate) fn set_standing(&mut self, lane: Lane, standing: Standing) {
        let state = self.state(lane);
        if state.standing != standing {
            state.standing = standing;
            self.soil(lane);
        }
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
        let Use { at: used_at, number } = self.links[state.first as usize].last_use;
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let since = signed(used_at).saturating_sub(signed(bonus_ms));
        let crossing = since.saturating_add(signed(floor_ms));
        let first = Reverse(number);
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

    /// When a place was last used in time, while it is here or set aside.
    pub(crate) fn used_at(&self, place: u32) -> Option<u64> {
        let links = self.links.get(place as usize)?;
        (links.is_here || links.is_aside).then_some(links.last_use.at)
    }

    /// The places that are here and were last used before that time, lane by lane.
    pub(crate) fn due(&self, before: u64) -> Vec<u32> {
        let is_due = |place: &u32| self.links[*place as usize].last_use.at < before;
        let lanes = (0..).map(Lane).zip(&self.lanes).filter(|(_, state)| state.first != NOBODY);
        lanes.flat_map(|(lane, _)| self.lane(lane).take_while(is_due)).collect()
    }

    /// The places of a lane, the next to go first.
    pub(crate) fn lane(&self, lane: Lane) -> impl Iterator<Item = u32> {
        let known = |place: u32| (place != NOBODY).then_some(place);
        let first = self.lanes.get(lane.0 as usize).and_then(|state| known(state.first));
        std::iter::successors(first, move |&place| known(self.links[place as usize].after))
    }

    /// The lane of a place that is here or set aside.
    pub(crate) fn lane_of(&self, place: u32) -> Option<Lane> {
        let links = self.links.get(place as usize)?;
        (links.is_here || links.is_aside).then_some(links.lane)
    }

    /// How many places are here or set aside, and whether each lane is in the order of uses.
    pub(crate) fn counted(&self) -> (usize, bool) {
        let mut lanes = (0..).map(Lane).take(self.lanes.len());
        let number = |place: u32| self.links[place as usize].last_use.number;
        let is_sorted = |lane| self.lane(lane).map(number).is_sorted();
        (self.len + self.n_aside, lanes.all(is_sorted))
    }
}

#[cfg(test)]
mod tests;
