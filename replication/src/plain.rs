//! A message in plain words, for whoever carries it: the engine's own structs stay inside this crate.

use bytes::Bytes;
use raft::eraftpb::{self, MessageType};

use crate::message::Message;
use crate::{Entry, Error, Index, Term, entry, membership};

/// What peers say to each other; the numbers are those of the wire.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
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

impl Kind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Append,
            2 => Self::AppendResponse,
            3 => Self::RequestVote,
            4 => Self::RequestVoteResponse,
            5 => Self::Heartbeat,
            6 => Self::HeartbeatResponse,
            7 => Self::RequestPreVote,
            8 => Self::RequestPreVoteResponse,
            9 => Self::Snapshot,
            10 => Self::TimeoutNow,
            _ => return None,
        })
    }

    fn of(message: MessageType) -> Option<Self> {
        Some(match message {
            MessageType::MsgAppend => Self::Append,
            MessageType::MsgAppendResponse => Self::AppendResponse,
            MessageType::MsgRequestVote => Self::RequestVote,
            MessageType::MsgRequestVoteResponse => Self::RequestVoteResponse,
            MessageType::MsgHeartbeat => Self::Heartbeat,
            MessageType::MsgHeartbeatResponse => Self::HeartbeatResponse,
            MessageType::MsgRequestPreVote => Self::RequestPreVote,
            MessageType::MsgRequestPreVoteResponse => Self::RequestPreVoteResponse,
            MessageType::MsgSnapshot => Self::Snapshot,
            MessageType::MsgTimeoutNow => Self::TimeoutNow,
            _ => return None,
        })
    }

    fn message_type(self) -> MessageType {
        match self {
            Self::Append => MessageType::MsgAppend,
            Self::AppendResponse => MessageType::MsgAppendResponse,
            Self::RequestVote => MessageType::MsgRequestVote,
            Self::RequestVoteResponse => MessageType::MsgRequestVoteResponse,
            Self::Heartbeat => MessageType::MsgHeartbeat,
            Self::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
            Self::RequestPreVote => MessageType::MsgRequestPreVote,
            Self::RequestPreVoteResponse => MessageType::MsgRequestPreVoteResponse,
            Self::Snapshot => MessageType::MsgSnapshot,
            Self::TimeoutNow => MessageType::MsgTimeoutNow,
        }
    }
}

/// A checkpoint that the receiver is to continue from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainSnapshot {
    pub index: Index,
    pub term: Term,
    pub transfer: u64,
    pub conf_state: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    pub kind: Kind,
    pub from: u64,
    pub to: u64,
    pub term: u64,
    pub log_term: u64,
    pub index: u64,
    pub commit: u64,
    pub commit_term: u64,
    pub reject_hint: u64,
    pub request_snapshot: u64,
    pub priority: i64,
    pub reject: bool,
    pub context: Bytes,
    pub snapshot: Option<PlainSnapshot>,
    pub entries: Vec<Entry>,
}

impl Plain {
    /// `None`: not a message for a peer. The payloads are shared, not copied.
    pub fn of(message: &Message) -> Option<Self> {
        let snapshot = message.snapshot.as_ref().filter(|snapshot| !snapshot.is_empty());
        let snapshot = snapshot.map(|snapshot| PlainSnapshot {
            index: Index(snapshot.get_metadata().index),
            term: Term(snapshot.get_metadata().term),
            transfer: snapshot.data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            conf_state: membership::encode(snapshot.get_metadata().get_conf_state()),
        });
        Some(Self {
            kind: Kind::of(message.msg_type)?,
            from: message.from,
            to: message.to,
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            commit: message.commit,
            commit_term: message.commit_term,
            reject_hint: message.reject_hint,
            request_snapshot: message.request_snapshot,
            priority: message.priority,
            reject: message.reject,
            context: message.context.clone(),
            snapshot,
            entries: message.entries.iter().map(entry::from_engine).collect(),
        })
    }

    /// What `Replica::on_message` examines: only what cannot be said at all is an error here.
    pub fn into_message(self) -> Result<Message, Error> {
        if self.entries.iter().any(|entry| entry.index.0 == 0) {
            return Err(Error::Gap { expected: 1, found: 0 });
        }
        let mut message = Message {
            msg_type: self.kind.message_type(),
            from: self.from,
            to: self.to,
            term: self.term,
            log_term: self.log_term,
            index: self.index,
            commit: self.commit,
            commit_term: self.commit_term,
            reject_hint: self.reject_hint,
            request_snapshot: self.request_snapshot,
            priority: self.priority,
            reject: self.reject,
            context: self.context,
            ..Default::default()
        };
        message.set_entries(self.entries.into_iter().map(entry::to_engine).collect::<Vec<_>>().into());
        if let Some(plain) = self.snapshot {
            let mut snapshot = eraftpb::Snapshot::default();
            snapshot.mut_metadata().index = plain.index.0;
            snapshot.mut_metadata().term = plain.term.0;
            snapshot.mut_metadata().set_conf_state(membership::decode(&plain.conf_state)?);
            snapshot.data = Bytes::copy_from_slice(&plain.transfer.to_le_bytes());
            message.set_snapshot(snapshot);
        }
        Ok(message)
    }

    /// Entries that a follower would have to write.
    pub fn entry_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.data.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EntryKind;

    #[test]
    fn a_message_survives_its_plain_form() {
        let entry =
            |index, kind| Entry { term: Term(3), index: Index(index), kind, data: Bytes::from_static(b"") };
        let plain = Plain {
            kind: Kind::Append,
            from: 7 << 32 | 1,
            to: 8 << 32 | 2,
            term: 3,
            log_term: 2,
            index: 41,
            commit: 40,
            commit_term: 2,
            reject_hint: 5,
            request_snapshot: 0,
            priority: -1,
            reject: false,
            context: Bytes::from_static(b"CampaignTransfer"),
            snapshot: Some(PlainSnapshot {
                index: Index(9),
                term: Term(2),
                transfer: 77,
                conf_state: membership::encode(&membership::initial(&[3, 1]).unwrap()),
            }),
            entries: vec![entry(42, EntryKind::Normal), entry(43, EntryKind::Membership)],
        };
        let message = plain.clone().into_message().unwrap();
        assert_eq!(Plain::of(&message), Some(plain));
    }

    #[test]
    fn an_entry_without_a_place_is_an_error() {
        let entry = Entry { term: Term(1), index: Index(0), kind: EntryKind::Normal, data: Bytes::new() };
        let message = Message { msg_type: MessageType::MsgAppend, ..Default::default() };
        let plain = Plain { entries: vec![entry], ..Plain::of(&message).unwrap() };
        assert!(plain.into_message().is_err());
    }

    #[test]
    fn what_a_replica_says_to_itself_is_for_no_peer() {
        for kind in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgReadIndex] {
            assert!(Plain::of(&Message { msg_type: kind, ..Default::default() }).is_none());
        }
    }
}
