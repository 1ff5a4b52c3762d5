//! Messages of the consensus engine.
//!
//! The engine's own type has heads and data of entries in one list. Here the heads are in the archive and the data in
//! the body, so that a frame is built with one copy of the data, or none, and read with none.

use std::iter::Empty;
use std::slice;

use rkyv::rancor::{Fallible, Source};
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Deserialize, Place, Serialize};

use super::{CONTEXT_BYTES_MAX, ENTRIES_MAX, MEMBERSHIP_BYTES_MAX, PEER_FRAME_BYTES_MAX, check_body_max};
use crate::archive;
use crate::frame::{Frame, FrameBuilder, FrameError};
use crate::protocol::{Kind, Words, check_body, check_count, words};

/// What a message of the engine is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
#[repr(u8)]
pub enum MessageKind {
    Append = 1,
    AppendResponse = 2,
    RequestVote = 3,
    RequestVoteResponse = 4,
    Heartbeat = 5,
    HeartbeatResponse = 6,
    RequestPreVote = 7,
    RequestPreVoteResponse = 8,
    Snapshot = 9,
    TimeoutNow = 10,
}

/// Whether a message may overtake bulk: what carries no entries and starts no transfer.
pub fn is_urgent(kind: MessageKind) -> bool {
    match kind {
        MessageKind::Append | MessageKind::Snapshot => false,
        MessageKind::AppendResponse
        | MessageKind::RequestVote
        | MessageKind::RequestVoteResponse
        | MessageKind::Heartbeat
        | MessageKind::HeartbeatResponse
        | MessageKind::RequestPreVote
        | MessageKind::RequestPreVoteResponse
        | MessageKind::TimeoutNow => true,
    }
}

/// A message of the engine without its entries.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ReplicateHead<'a> {
    pub cluster: u64,
    pub group: u32,
    /// Ids of replicas.
    pub from: u64,
    pub to: u64,
    pub kind: MessageKind,
    pub reject: bool,
    pub term: u64,
    pub log_term: u64,
    pub index: u64,
    pub commit: u64,
    pub commit_term: u64,
    pub reject_hint: u64,
    pub request_snapshot: u64,
    pub priority: i64,
    /// At most [`CONTEXT_BYTES_MAX`].
    pub context: &'a [u8],
    /// Invariant: it is there in a [`MessageKind::Snapshot`], and in no other.
    pub snapshot: Option<SnapshotHead<'a>>,
}

/// Which checkpoint a follower is given; it comes by the transfer named.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead<'a> {
    /// Never 0.
    pub index: u64,
    pub term: u64,
    pub transfer: u64,
    /// The engine's conf state at this index, encoded; at most [`MEMBERSHIP_BYTES_MAX`].
    pub membership: &'a [u8],
}

/// What a log says about one entry; its data lie in the body.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct EntryHead {
    pub term: u64,
    pub index: u64,
    /// Of its data.
    pub bytes: u32,
    pub kind: EntryKind,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
#[repr(u8)]
pub enum EntryKind {
    Normal = 0,
    Membership = 1,
}

/// The sender has all entries to this index in memory, not on its disk. The engine does not hear of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Received {
    pub cluster: u64,
    pub group: u32,
    /// Ids of replicas.
    pub from: u64,
    pub to: u64,
    pub term: u64,
    pub index: u64,
}

/// As it is on the wire. `I` yields the heads when it is written, and does not matter when it is read.
#[derive(Archive, Serialize)]
struct Replicate<I: ExactSizeIterator<Item = EntryHead> + Clone> {
    cluster: u64,
    group: u32,
    from: u64,
    to: u64,
    kind: MessageKind,
    reject: bool,
    term: u64,
    log_term: u64,
    index: u64,
    commit: u64,
    commit_term: u64,
    reject_hint: u64,
    request_snapshot: u64,
    priority: i64,
    context_bytes: u8,
    context: [u8; CONTEXT_BYTES_MAX],
    snapshot_index: u64,
    snapshot_term: u64,
    snapshot_transfer: u64,
    membership_bytes: u32,
    entries: Heads<I>,
}

type ReplicateRoot = ArchivedReplicate<Empty<EntryHead>>;

/// Bytes of the root of a `Replicate` archive.
pub(super) const ROOT_BYTES: usize = 147;
pub(super) const ENTRY_HEAD_BYTES: usize = 21;

const _: () = assert!(size_of::<ReplicateRoot>() == ROOT_BYTES);
const _: () = assert!(size_of::<ArchivedEntryHead>() == ENTRY_HEAD_BYTES);
const _: () = assert!(size_of::<ArchivedReceived>() == 44);

words! {
    Received => Received;
}

impl<I: ExactSizeIterator<Item = EntryHead> + Clone> Words for Replicate<I> {
    const KIND: Kind = Kind::Replicate;
}

/// Heads archived as a vector straight from where the caller has them: no list of them is made first.
struct Heads<I>(I);

impl<I: ExactSizeIterator<Item = EntryHead> + Clone> Archive for Heads<I> {
    type Archived = ArchivedVec<ArchivedEntryHead>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(self.0.len(), resolver, out);
    }
}

impl<I, S> Serialize<S> for Heads<I>
where
    I: ExactSizeIterator<Item = EntryHead> + Clone,
    S: Fallible<Error: Source> + Allocator + Writer + ?Sized,
{
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedVec::serialize_from_unknown_length_iter::<EntryHead, _, _>(&mut self.0.clone(), serializer)
    }
}

/// Data of an entry that a frame has not got: they are to be sent behind what was written before `at`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// Which entry of the message, counted from 0.
    pub entry: usize,
    pub at: usize,
}

/// Appends one `Replicate` frame to `out` and returns its length.
///
/// The data of each entry are copied once; nothing is allocated beyond the growth of `out`. `entries` is walked over
/// twice, and a head must have the length of its data.
pub fn encode_replicate<'a>(
    out: &mut Vec<u8>,
    head: &ReplicateHead<'_>,
    entries: impl ExactSizeIterator<Item = (EntryHead, &'a [u8])> + Clone,
) -> usize {
    encode_replicate_apart(out, head, entries, usize::MAX, |_| {})
}

/// The same, but data of `apart_bytes_min` or more are not copied: `on_apart` is told where they belong, in order.
pub fn encode_replicate_apart<'a>(
    out: &mut Vec<u8>,
    head: &ReplicateHead<'_>,
    entries: impl ExactSizeIterator<Item = (EntryHead, &'a [u8])> + Clone,
    apart_bytes_min: usize,
    mut on_apart: impl FnMut(Apart),
) -> usize {
    assert!(entries.len() <= ENTRIES_MAX as usize);
    assert!(entries.len() == 0 || head.kind == MessageKind::Append);
    let heads = entries.clone().map(|(head, _)| head);
    let mut frame = FrameBuilder::new(out, 0, &Replicate::new(head, heads));
    if let Some(snapshot) = &head.snapshot {
        frame.body(snapshot.membership);
    }
    for (entry, (head, data)) in entries.enumerate() {
        assert!(data.len() == head.bytes as usize);
        if data.len() < apart_bytes_min {
            frame.body(data);
        } else {
            on_apart(Apart { entry, at: frame.end() });
            frame.body_apart(data);
        }
    }
    let bytes = frame.finish();
    assert!(bytes <= PEER_FRAME_BYTES_MAX as usize);
    bytes
}

impl<I: ExactSizeIterator<Item = EntryHead> + Clone> Replicate<I> {
    fn new(head: &ReplicateHead<'_>, heads: I) -> Self {
        assert!(head.context.len() <= CONTEXT_BYTES_MAX);
        assert!(head.snapshot.is_some() == (head.kind == MessageKind::Snapshot));
        let mut context = [0; CONTEXT_BYTES_MAX];
        context[..head.context.len()].copy_from_slice(head.context);
        let snapshot =
            head.snapshot.unwrap_or(SnapshotHead { index: 0, term: 0, transfer: 0, membership: &[] });
        assert!((snapshot.index > 0) == head.snapshot.is_some());
        assert!(snapshot.membership.len() <= MEMBERSHIP_BYTES_MAX as usize);
        Self {
            cluster: head.cluster,
            group: head.group,
            from: head.from,
            to: head.to,
            kind: head.kind,
            reject: head.reject,
            term: head.term,
            log_term: head.log_term,
            index: head.index,
            commit: head.commit,
            commit_term: head.commit_term,
            reject_hint: head.reject_hint,
            request_snapshot: head.request_snapshot,
            priority: head.priority,
            context_bytes: head.context.len() as u8,
            context,
            snapshot_index: snapshot.index,
            snapshot_term: snapshot.term,
            snapshot_transfer: snapshot.transfer,
            membership_bytes: snapshot.membership.len() as u32,
            entries: Heads(heads),
        }
    }
}

/// A received `Replicate`. The lengths in it add up to its body.
#[derive(Clone, Debug)]
pub struct ReplicateView<'a> {
    pub head: ReplicateHead<'a>,

    entries: Entries<'a>,
}

/// The entries of a `Replicate` in order, with their data.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    /// Invariant: the lengths in the heads left add up to the data left.
    heads: slice::Iter<'a, ArchivedEntryHead>,
    data: &'a [u8],
}

impl<'a> ReplicateView<'a> {
    /// At most [`ENTRIES_MAX`], and none unless it is a [`MessageKind::Append`].
    pub fn entries(&self) -> Entries<'a> {
        self.entries.clone()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (EntryHead, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.heads.next()?.to_native();
        let (data, rest) = self.data.split_at(head.bytes as usize);
        self.data = rest;
        Some((head, data))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.heads.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}

impl ArchivedEntryHead {
    fn to_native(&self) -> EntryHead {
        EntryHead {
            term: self.term.to_native(),
            index: self.index.to_native(),
            bytes: self.bytes.to_native(),
            kind: match self.kind {
                ArchivedEntryKind::Normal => EntryKind::Normal,
                ArchivedEntryKind::Membership => EntryKind::Membership,
            },
        }
    }
}

impl ArchivedMessageKind {
    fn to_native(&self) -> MessageKind {
        match self {
            Self::Append => MessageKind::Append,
            Self::AppendResponse => MessageKind::AppendResponse,
            Self::RequestVote => MessageKind::RequestVote,
            Self::RequestVoteResponse => MessageKind::RequestVoteResponse,
            Self::Heartbeat => MessageKind::Heartbeat,
            Self::HeartbeatResponse => MessageKind::HeartbeatResponse,
            Self::RequestPreVote => MessageKind::RequestPreVote,
            Self::RequestPreVoteResponse => MessageKind::RequestPreVoteResponse,
            Self::Snapshot => MessageKind::Snapshot,
            Self::TimeoutNow => MessageKind::TimeoutNow,
        }
    }
}

pub(super) fn decode<'a>(frame: &Frame<'a>) -> Result<ReplicateView<'a>, FrameError> {
    let kind = Kind::Replicate;
    check_body_max(kind, PEER_FRAME_BYTES_MAX, frame)?;
    let root: &ReplicateRoot = archive::read(frame.archive).ok_or(FrameError::Archive { kind })?;
    let heads = root.entries.as_slice();
    if !heads.is_empty() {
        check_count(kind, heads.len(), ENTRIES_MAX)?;
    }
    let membership_bytes = root.membership_bytes.to_native();
    let data_bytes: u64 = heads.iter().map(|head| u64::from(head.bytes.to_native())).sum();
    check_body(kind, u64::from(membership_bytes) + data_bytes, frame)?;
    let (membership, data) = frame.body.split_at(membership_bytes as usize);
    let head = root.head(membership).ok_or(FrameError::Archive { kind })?;
    if !heads.is_empty() && head.kind != MessageKind::Append {
        return Err(FrameError::Archive { kind });
    }
    Ok(ReplicateView { head, entries: Entries { heads: heads.iter(), data } })
}

impl ReplicateRoot {
    /// None if what it says contradicts itself.
    fn head<'a>(&'a self, membership: &'a [u8]) -> Option<ReplicateHead<'a>> {
        let (context, rest) = self.context.split_at_checked(usize::from(self.context_bytes))?;
        if rest.iter().any(|&byte| byte != 0) {
            return None;
        }
        let kind = self.kind.to_native();
        let snapshot = self.snapshot(membership)?;
        if snapshot.is_some() != (kind == MessageKind::Snapshot) {
            return None;
        }
        Some(ReplicateHead {
            cluster: self.cluster.to_native(),
            group: self.group.to_native(),
            from: self.from.to_native(),
            to: self.to.to_native(),
            kind,
            reject: self.reject,
            term: self.term.to_native(),
            log_term: self.log_term.to_native(),
            index: self.index.to_native(),
            commit: self.commit.to_native(),
            commit_term: self.commit_term.to_native(),
            reject_hint: self.reject_hint.to_native(),
            request_snapshot: self.request_snapshot.to_native(),
            priority: self.priority.to_native(),
            context,
            snapshot,
        })
    }

    /// An index of 0 says that there is none; nothing else may be said about it then.
    fn snapshot<'a>(&'a self, membership: &'a [u8]) -> Option<Option<SnapshotHead<'a>>> {
        let index = self.snapshot_index.to_native();
        let term = self.snapshot_term.to_native();
        let transfer = self.snapshot_transfer.to_native();
        if index == 0 {
            let is_nothing = term == 0 && transfer == 0 && membership.is_empty();
            return is_nothing.then_some(None);
        }
        let is_short = membership.len() <= MEMBERSHIP_BYTES_MAX as usize;
        is_short.then_some(Some(SnapshotHead { index, term, transfer, membership }))
    }
}
