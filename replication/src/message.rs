//! What peers say to each other, and what is checked before the engine hears it.
//!
//! The engine trusts its peers: a message that no correct peer would send can end the process. A message comes from
//! outside, so everything the engine takes for granted is examined here, and a bad message is refused and counted.
//! Cluster, group and incarnation are the transport's to check: they are in its frames, not in the message.

use std::fmt;

use raft::eraftpb::{EntryType, MessageType};

pub use raft::eraftpb::Message;

use crate::membership;

/// Terms and indices above this are nobody's: arithmetic on what passes cannot overflow.
const NUMBER_MAX: u64 = 1 << 62;
/// A read's number, or why somebody stands for election.
const CONTEXT_BYTES_MAX: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageError {
    /// For another replica, or from none.
    Address { from: u64, to: u64 },
    /// Not a kind that peers send each other: a proposal to be forwarded, a command to oneself.
    Kind,
    /// Terms, indices or entries that contradict each other.
    Malformed { why: &'static str },
    /// The sender is not a member and answers a question that was not put to it.
    Stranger { from: u64 },
    /// The leader knows that this replica had entries on its disk which it no longer has. It must not vote or
    /// acknowledge: its disk has lost what it promised.
    LostEntries { commit: u64, last: u64 },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { from, to } => write!(f, "message from replica {from} to replica {to} came here"),
            Self::Kind => write!(f, "message of a kind that peers do not send"),
            Self::Malformed { why } => write!(f, "malformed message: {why}"),
            Self::Stranger { from } => write!(f, "answer from replica {from}, which is not a member"),
            Self::LostEntries { commit, last } => {
                write!(
                    f,
                    "the leader counts on entry {commit} here, but the log ends at {last}: entries are lost"
                )
            }
        }
    }
}

impl std::error::Error for MessageError {}

/// The leader asks the receiver to lead in its place.
pub fn is_handover(message: &Message) -> bool {
    message.msg_type == MessageType::MsgTimeoutNow
}

/// What follows on entries that were sent before it, whether it carries some itself or not.
pub fn speaks_of_entries(message: &Message) -> bool {
    message.msg_type == MessageType::MsgAppend
}

/// Where the log of the receiver stands.
pub(crate) struct Receiver {
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) last_index: u64,
    pub(crate) is_leader: bool,
}

pub(crate) fn examine(message: &Message, receiver: &Receiver) -> Result<(), MessageError> {
    if message.to != receiver.id || message.from == 0 || message.from == receiver.id {
        return Err(MessageError::Address { from: message.from, to: message.to });
    }
    examine_numbers(message)?;
    match message.msg_type {
        MessageType::MsgAppend => examine_entries(message),
        MessageType::MsgHeartbeat => examine_heartbeat(message, receiver),
        MessageType::MsgAppendResponse => examine_answer(message, receiver),
        MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgHeartbeatResponse => without_entries(message),
        MessageType::MsgSnapshot => examine_snapshot(message),
        // A forwarded proposal would be answered to nobody and might be stored twice.
        MessageType::MsgPropose | MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            Err(MessageError::Kind)
        }
        // Whom to hand over to is for the leader's own node to say.
        MessageType::MsgTransferLeader => Err(MessageError::Kind),
        // These a replica says to itself only.
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => Err(MessageError::Kind),
    }
}

fn malformed<T>(why: &'static str) -> Result<T, MessageError> {
    Err(MessageError::Malformed { why })
}

fn examine_numbers(message: &Message) -> Result<(), MessageError> {
    let numbers = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
    ];
    if numbers.iter().any(|&number| number > NUMBER_MAX) {
        return malformed("a number beyond all terms and indices");
    }
    // The engine takes term 0 for a message from itself and skips every check of terms.
    if message.term == 0 {
        return malformed("no term");
    }
    if message.log_term > message.term {
        return malformed("its log is ahead of its term");
    }
    if message.context.len() > CONTEXT_BYTES_MAX {
        return malformed("a context that no peer sends");
    }
    if message.msg_type != MessageType::MsgSnapshot && message.has_snapshot() {
        return malformed("a checkpoint in a message that carries none");
    }
    Ok(())
}

fn without_entries(message: &Message) -> Result<(), MessageError> {
    if message.entries.is_empty() { Ok(()) } else { malformed("entries in a message that carries none") }
}

fn examine_entries(message: &Message) -> Result<(), MessageError> {
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.entries.iter() {
        index += 1;
        if entry.index != index {
            return malformed("entries are not consecutive");
        }
        if entry.term < term || entry.term > message.term || entry.term == 0 {
            return malformed("an entry of an impossible term");
        }
        term = entry.term;
        match entry.entry_type {
            EntryType::EntryNormal => {}
            EntryType::EntryConfChangeV2 if membership::read_change(&entry.data).is_some() => {}
            EntryType::EntryConfChangeV2 | EntryType::EntryConfChange => {
                return malformed("a membership change that cannot be read");
            }
        }
    }
    Ok(())
}

fn examine_snapshot(message: &Message) -> Result<(), MessageError> {
    let snapshot = message.get_snapshot();
    let metadata = snapshot.get_metadata();
    if metadata.index == 0 || metadata.index > NUMBER_MAX {
        return malformed("a checkpoint of an impossible index");
    }
    if metadata.term == 0 || metadata.term > message.term {
        return malformed("a checkpoint of an impossible term");
    }
    if snapshot.data.len() != 8 {
        return malformed("a checkpoint without a name");
    }
    if !membership::is_sound(metadata.get_conf_state()) {
        return malformed("a checkpoint with an impossible membership");
    }
    without_entries(message)
}

fn examine_heartbeat(message: &Message, receiver: &Receiver) -> Result<(), MessageError> {
    // A leader never names more than it has seen acknowledged by us.
    if message.term >= receiver.term && message.commit > receiver.last_index {
        return Err(MessageError::LostEntries { commit: message.commit, last: receiver.last_index });
    }
    without_entries(message)
}

fn examine_answer(message: &Message, receiver: &Receiver) -> Result<(), MessageError> {
    if message.request_snapshot != 0 {
        return Err(MessageError::Kind);
    }
    // A leader that crashed before its own entries were durable may hear of them afterwards, as a follower.
    let counts = receiver.is_leader && message.term == receiver.term && !message.reject;
    if counts && message.index > receiver.last_index {
        return malformed("acknowledges an entry that does not exist");
    }
    without_entries(message)
}

#[cfg(test)]
mod tests;
