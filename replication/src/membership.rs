//! Who has a vote: how it is written into a checkpoint, and how a change of it is proposed.
//!
//! ```text
//!  0  u8   version = 1
//!  1  u8   flags: bit 0 = leaves the joint configuration by itself
//!  2  u16  zero
//!  4  u16  voters          6  u16  learners
//!  8  u16  voters of the outgoing half (0 unless joint)
//! 10  u16  learners once the outgoing half has left
//! 12  u32  zero
//! 16  u64  one id each, in the order of the counts; rising within each list
//! ```
//! All little endian. Whoever stores it checksums it; a checkpoint does.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};

use crate::Error;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 16;
/// Of each list. More voters than this make every commit slow; nobody runs so many.
pub(crate) const MEMBERS_MAX: usize = 64;
/// What may stand beside a change.
pub(crate) const CONTEXT_BYTES_MAX: usize = 4096;

pub(crate) fn encode(state: &ConfState) -> Vec<u8> {
    let lists = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next];
    let ids: usize = lists.iter().map(|list| list.len()).sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + 8 * ids);
    out.extend_from_slice(&[VERSION, u8::from(state.auto_leave), 0, 0]);
    for list in lists {
        assert!(list.len() <= MEMBERS_MAX);
        out.extend_from_slice(&(list.len() as u16).to_le_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    assert_eq!(out.len(), HEADER_BYTES);
    for list in lists {
        // The engine keeps sets: their order is of no meaning, and one membership must have one encoding.
        let mut ids = list.clone();
        ids.sort_unstable();
        ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    }
    assert_eq!(out.len(), HEADER_BYTES + 8 * ids);
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<ConfState, Error> {
    let wrong = |why| Err(Error::Membership { why });
    let Some((header, mut rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return wrong("shorter than its header");
    };
    if header[0] != VERSION {
        return wrong("unknown version");
    }
    if header[1] > 1 || header[2..4] != [0; 2] || header[12..16] != [0; 4] {
        return wrong("bits are set that this version does not know");
    }
    let mut lists: [Vec<u64>; 4] = Default::default();
    for (at, list) in lists.iter_mut().enumerate() {
        let count = usize::from(u16::from_le_bytes([header[4 + 2 * at], header[5 + 2 * at]]));
        if count > MEMBERS_MAX {
            return wrong("more members than a group can have");
        }
        let Some((ids, behind)) = rest.split_at_checked(8 * count) else {
            return wrong("fewer ids than it counts");
        };
        rest = behind;
        // chunks_exact yields nothing but chunks of eight.
        list.extend(ids.chunks_exact(8).map(|id| u64::from_le_bytes(id.try_into().expect("eight bytes"))));
        if list.first() == Some(&0) || !list.is_sorted_by(|a, b| a < b) {
            return wrong("ids are not rising from 1");
        }
    }
    if !rest.is_empty() {
        return wrong("longer than its ids");
    }
    if lists[0].is_empty() {
        return wrong("no voters");
    }
    let [voters, learners, voters_outgoing, learners_next] = lists;
    let auto_leave = header[1] == 1;
    Ok(ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..Default::default() })
}

/// Whether a configuration that came in a message can be one: the engine takes it for granted.
pub(crate) fn is_sound(state: &ConfState) -> bool {
    let lists = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next];
    let is_list = |list: &Vec<u64>| {
        let mut sorted = list.clone();
        sorted.sort_unstable();
        list.len() <= MEMBERS_MAX && sorted.first() != Some(&0) && sorted.is_sorted_by(|a, b| a < b)
    };
    let learners_vote =
        state.learners.iter().any(|id| state.voters.contains(id) || state.voters_outgoing.contains(id));
    let will_learn = |id: &u64| state.voters_outgoing.contains(id) && !state.voters.contains(id);
    let next_are_outgoing = state.learners_next.iter().all(will_learn);
    let has_what_to_leave = !state.auto_leave || !state.voters_outgoing.is_empty();
    lists.into_iter().all(is_list)
        && !state.voters.is_empty()
        && !learners_vote
        && next_are_outgoing
        && has_what_to_leave
}

/// Whether each list stays within its limit. Whoever proposes sees to it; a peer's bytes may say otherwise.
pub(crate) fn has_room(present: &ConfState, change: &ConfChangeV2) -> bool {
    let mut voters: BTreeSet<u64> = present.voters.iter().copied().collect();
    let mut learners: BTreeSet<u64> =
        present.learners.iter().chain(&present.learners_next).copied().collect();
    for one in change.changes.iter() {
        voters.remove(&one.node_id);
        learners.remove(&one.node_id);
        match one.get_change_type() {
            ConfChangeType::AddNode => _ = voters.insert(one.node_id),
            ConfChangeType::AddLearnerNode => _ = learners.insert(one.node_id),
            ConfChangeType::RemoveNode => {}
        }
    }
    voters.len() <= MEMBERS_MAX && learners.len() <= MEMBERS_MAX
}

/// The voters a group starts with.
pub(crate) fn initial(voters: &[u64]) -> Result<ConfState, Error> {
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    if voters.is_empty() || voters.len() > MEMBERS_MAX {
        return Err(Error::Options { why: "a group has 1 to 64 voters" });
    }
    if voters[0] == 0 || !voters.is_sorted_by(|a, b| a < b) {
        return Err(Error::Options { why: "voters are different ids, none of them 0" });
    }
    Ok(ConfState { voters, ..Default::default() })
}

/// From the present members to these; more than one difference goes through a joint configuration, which is left by
/// itself. None if there is no difference.
pub(crate) fn change(
    present: &ConfState,
    voters: &[u64],
    learners: &[u64],
    context: Bytes,
) -> Option<ConfChangeV2> {
    assert!(present.voters_outgoing.is_empty());
    let promoted = voters.iter().filter(|id| !present.voters.contains(id));
    let learning = learners.iter().filter(|id| !present.learners.contains(id));
    let known = present.voters.iter().chain(&present.learners);
    let removed = known.filter(|id| !voters.contains(id) && !learners.contains(id));
    let mut changes: Vec<ConfChangeSingle> = Vec::new();
    changes.extend(promoted.map(|&id| single(ConfChangeType::AddNode, id)));
    changes.extend(learning.map(|&id| single(ConfChangeType::AddLearnerNode, id)));
    changes.extend(removed.map(|&id| single(ConfChangeType::RemoveNode, id)));
    if changes.is_empty() {
        return None;
    }
    let mut change = ConfChangeV2::default();
    change.set_changes(changes.into());
    change.context = context;
    Some(change)
}

/// What the proposer of a change has put beside it; empty at the end of a joint configuration. `None`: the data of a
/// membership entry are not these.
pub fn membership_context(data: &[u8]) -> Option<Vec<u8>> {
    read_change(data).map(|change| change.context.to_vec())
}

fn single(kind: ConfChangeType, id: u64) -> ConfChangeSingle {
    let mut change = ConfChangeSingle::default();
    change.set_change_type(kind);
    change.node_id = id;
    change
}

/// Reads the data of a membership entry. Empty data is the end of a joint configuration.
pub(crate) fn read_change(data: &[u8]) -> Option<ConfChangeV2> {
    let mut change = ConfChangeV2::default();
    protobuf::Message::merge_from_bytes(&mut change, data).ok()?;
    let is_sound = change.changes.len() <= 2 * MEMBERS_MAX
        && change.context.len() <= CONTEXT_BYTES_MAX
        && change.changes.iter().all(|one| one.node_id != 0);
    is_sound.then_some(change)
}

#[cfg(test)]
mod tests;
