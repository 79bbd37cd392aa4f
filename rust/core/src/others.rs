//! The pools that share a budget with one of them, and what they have cached and would give for it.

use crate::member::{Member, Worth};

/// All members of a memory but one, which lies between them.
#[derive(Debug, Default)]
pub(crate) struct Others<'m> {
    before: &'m mut [Member],
    after: &'m mut [Member],
}

impl<'m> Others<'m> {
    /// The members on both sides of a place, and the one that is there.
    pub(crate) fn around(members: &'m mut [Member], at: usize) -> Option<(&'m mut Member, Self)> {
        let (before, rest) = members.split_at_mut_checked(at)?;
        let (member, after) = rest.split_first_mut()?;
        Some((member, Self { before, after }))
    }

    /// Every member.
    pub(crate) fn all(members: &'m mut [Member]) -> Self {
        Self { before: members, after: &mut [] }
    }

    /// What they cannot or need not give, in bytes.
    pub(crate) fn floors(&self) -> u64 {
        self.iter().map(|member| member.share.floor()).sum()
    }

    /// The time that the latest of their indexes was told.
    pub(crate) fn now(&self) -> u64 {
        self.iter().map(|member| member.index.now()).max().unwrap_or(0)
    }

    /// Who has the least wanted of all that may go, above the minimums; those in `stuck` are not
    /// asked.
    pub(crate) fn least_wanted(&mut self, now: u64, stuck: &[u64]) -> Option<(Worth, &mut Member)> {
        let all = self.before.iter_mut().chain(self.after.iter_mut());
        let may_give = all.filter(|m| !stuck.contains(&m.key) && m.share.gives());
        let found = may_give.filter_map(|member| Some((member.least_wanted(now)?, member)));
        found.max_by_key(|(worth, _)| *worth)
    }

    fn iter(&self) -> impl Iterator<Item = &Member> {
        self.before.iter().chain(self.after.iter())
    }
}
