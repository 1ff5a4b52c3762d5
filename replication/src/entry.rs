//! One entry of a group's log, and how it looks to the engine.

use bytes::Bytes;
use raft::eraftpb;

use crate::{Index, Term};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub term: Term,
    pub index: Index,
    pub kind: EntryKind,
    pub data: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A batch of commands; without data, the first entry of a new leader.
    Normal,
    /// A change of the voters, in the engine's encoding; without data, the end of a joint configuration.
    Membership,
}

/// The payload is shared, never copied.
pub(crate) fn from_engine(entry: &eraftpb::Entry) -> Entry {
    let kind = match entry.entry_type {
        eraftpb::EntryType::EntryNormal => EntryKind::Normal,
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Membership,
        // We propose the second version only, and neither a peer's entries nor a disk's can be of the first:
        // `message::examine` refuses those, `to_engine` cannot make one.
        eraftpb::EntryType::EntryConfChange => {
            unreachable!("a membership entry of the engine's first version")
        }
    };
    assert!(entry.index > 0);
    Entry { term: Term(entry.term), index: Index(entry.index), kind, data: entry.data.clone() }
}

pub(crate) fn to_engine(entry: Entry) -> eraftpb::Entry {
    assert!(entry.index.0 > 0);
    let entry_type = match entry.kind {
        EntryKind::Normal => eraftpb::EntryType::EntryNormal,
        EntryKind::Membership => eraftpb::EntryType::EntryConfChangeV2,
    };
    let (term, index) = (entry.term.0, entry.index.0);
    eraftpb::Entry { entry_type, term, index, data: entry.data, ..Default::default() }
}
