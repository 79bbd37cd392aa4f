//! The steps of a turn: a hit is held, a draft is made and published.

use std::sync::Arc;

use semantic_core::{Error, Policy, Refusal, Tokens};

use super::{Drafted, Held, Known, Outcome, Prompt, Whose, World, name, taken};
use crate::naive_index::common;

impl World {
    pub(super) fn draft(
        &mut self,
        (space, agent): Whose,
        prompt: &Prompt,
        known: Known,
    ) -> Outcome {
        let (root, ids, tokens) = (self.roots[space], prompt.ids(), Arc::new(prompt.tokens()));
        let known = self.known(known, prompt.len);
        let before = self.readings();
        let drafted =
            self.with(|prefixes| prefixes.draft(root, &tokens, &known, &name(agent)).unwrap());
        let draft = match drafted {
            Ok(draft) => draft,
            Err(refusal) => {
                let after = self.readings();
                if self.policy == Policy::Resident {
                    // What is worth even less may have gone before it was declined.
                    assert!(after.2.free >= before.2.free);
                } else {
                    assert_ne!(refusal, Refusal::Declined);
                    assert_eq!(before, after, "a refusal changes nothing");
                }
                // A kept front may need a block of its own.
                let blocks = prompt.len.div_ceil(256) + 1;
                let whole: u64 = self.groups.iter().map(|g| g.bytes_per_block * blocks).sum();
                let is_lost = matches!(refusal, Refusal::LostRows { .. });
                assert!(is_lost || before.2.free < whole, "{refusal:?}, and all of it was free");
                return match refusal {
                    Refusal::Budget { bytes_short } => vec![1, bytes_short],
                    Refusal::Declined => vec![2],
                    Refusal::LostRows { .. } => vec![3],
                };
            }
        };
        assert!(0 < draft.n_tokens && draft.n_tokens <= prompt.len);
        for span in &draft.spans {
            let rows = &known[span.group.index()];
            assert!(
                rows.iter().any(|&(lo, hi)| lo <= span.lo && span.hi <= hi),
                "rows from where?"
            );
        }
        let outcome = vec![0, draft.n_tokens, draft.bytes_short, draft.spans.len() as u64];
        self.drafts.push(Drafted { draft, space: self.spaces[space], root, agent, ids });
        outcome
    }

    pub(super) fn publish(&mut self, pick: usize, kind: u8, with_keys: bool) -> Outcome {
        let Some(drafted) = taken(&mut self.drafts, pick) else { return vec![] };
        let Drafted { mut draft, space, root, agent, ids } = drafted;
        if with_keys {
            draft.compute_keys();
        }
        let n_tokens = draft.n_tokens;
        let is_open = self.spaces.contains(&space);
        if is_open {
            self.twin.capture(space, &draft.spans, &ids);
        }
        let published = self.with(|prefixes| prefixes.publish(draft, &name(agent), kind));
        if !is_open {
            assert_eq!(published, Err(Error::PoolClosed));
            return vec![];
        }
        let published = published.unwrap();
        self.keep_up();
        self.ends.push(published.end);
        let tokens: Tokens = ids[..usize::try_from(n_tokens).unwrap()].iter().copied().collect();
        assert_eq!(self.plan(root, tokens.all()), n_tokens, "what was published is found");
        vec![n_tokens, u64::from(published.is_new_end), u64::from(published.is_new_agent)]
    }

    pub(super) fn hold(&mut self, space: usize, prompt: &Prompt, limit: u64) -> Outcome {
        let (root, ids, tokens) = (self.roots[space], prompt.ids(), prompt.tokens());
        let hold = self.with(|prefixes| prefixes.hold(root, tokens.all(), limit).unwrap());
        let (n_tokens, matched) = (hold.plan.n_tokens, hold.plan.matched);
        self.twin.check_plan(&self.groups, self.spaces[space], &ids, limit, &hold.plan);
        let ends = self.with(|prefixes| {
            let ends = prefixes.ends(root).into_iter();
            let tokens = ends.map(|end| prefixes.tokens_of(end.handle).expect("an end"));
            tokens.collect::<Vec<_>>()
        });
        let all_global = self.groups.iter().all(|group| !group.reach.is_bounded());
        for end in ends {
            let alike = common(&end, &ids);
            // Where every position is legal, a part of an end is as good as a whole one.
            let served = if all_global { alike.min(limit) } else { end.len() as u64 };
            assert!(served > alike.min(limit) || n_tokens >= served, "{n_tokens} of {served}");
        }
        self.holds.push(Held { hold, space: self.spaces[space], root });
        vec![n_tokens, matched]
    }
}
