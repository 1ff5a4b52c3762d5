//! Entries from a leader that came before this node's log had room for them.
//!
//! Lives inside the group of a follower. A new segment takes its time, and what came meanwhile is kept in its order instead of
//! dropped: the leader would hear of a gap only with its next heartbeat, and send all from there again. While something waits,
//! everything that speaks of entries waits behind it; heartbeats and votes do not.

use ringmain_replication::{Message, speaks_of_entries};
use std::collections::VecDeque;

/// What a record and a message need beside their payloads, rounded up.
const OVERHEAD_BYTES: u64 = 256;

#[derive(Default)]
pub(crate) struct Late {
    messages: VecDeque<Message>,
    /// Of all of them. Invariant: at most what the caller allows, but for a single larger one.
    bytes: u64,
}

impl Late {
    /// What the log needs for it.
    pub(crate) fn bytes_of(message: &Message) -> u64 {
        let entries = message.entries.iter().map(|entry| entry.data.len() as u64 + OVERHEAD_BYTES);
        entries.sum::<u64>() + OVERHEAD_BYTES
    }

    /// Keeps a message that may not be looked at yet: there is no room for it, or others wait that came before. Answers it if
    /// it may be, and drops what is beyond `bytes_max`.
    pub(crate) fn pass(&mut self, message: Message, has_room: bool, bytes_max: u64) -> Option<Message> {
        if !speaks_of_entries(&message) {
            return Some(message).filter(|_| has_room);
        }
        if self.messages.is_empty() && has_room {
            return Some(message);
        }
        let bytes = Self::bytes_of(&message);
        if self.messages.is_empty() || self.bytes + bytes <= bytes_max {
            self.bytes += bytes;
            self.messages.push_back(message);
        }
        None
    }

    /// The next one, if there is room for it now.
    pub(crate) fn next(&mut self, has_room: impl FnOnce(u64) -> bool) -> Option<Message> {
        let bytes = Self::bytes_of(self.messages.front()?);
        if !has_room(bytes) {
            return None;
        }
        self.bytes -= bytes;
        self.messages.pop_front()
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.bytes, self.messages.iter().map(Self::bytes_of).sum::<u64>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ringmain_replication::{Entry, EntryKind, Index, Kind, Plain, Term};

    fn message(kind: Kind, index: u64, bytes: usize) -> Message {
        let data = Bytes::from(vec![0; bytes]);
        let entry = Entry { term: Term(1), index: Index(index + 1), kind: EntryKind::Normal, data };
        let entries = if bytes == 0 { Vec::new() } else { vec![entry] };
        let plain = Plain {
            kind,
            from: 2,
            to: 1,
            term: 1,
            log_term: 1,
            index,
            commit: 0,
            commit_term: 0,
            reject_hint: 0,
            request_snapshot: 0,
            priority: 0,
            reject: false,
            context: Bytes::new(),
            snapshot: None,
            entries,
        };
        plain.into_message().unwrap()
    }

    fn passes(late: &mut Late, message: Message, has_room: bool) -> bool {
        let passed = late.pass(message, has_room, 10_000).is_some();
        late.check();
        passed
    }

    #[test]
    fn entries_without_room_wait_in_their_order_and_heartbeats_do_not() {
        let mut late = Late::default();
        assert!(passes(&mut late, message(Kind::Append, 1, 100), true));
        assert!(!passes(&mut late, message(Kind::Append, 2, 100), false));
        assert!(
            !passes(&mut late, message(Kind::Append, 3, 0), true),
            "it speaks of what is behind the other"
        );
        assert!(passes(&mut late, message(Kind::Heartbeat, 0, 0), true));
        assert!(late.next(|_| false).is_none());
        assert_eq!(late.next(|_| true).map(|message| message.index), Some(2));
        assert_eq!(late.next(|_| true).map(|message| message.index), Some(3));
        assert!(late.next(|_| true).is_none());
        late.check();
        assert!(passes(&mut late, message(Kind::Append, 4, 100), true));
    }

    #[test]
    fn what_waits_is_bounded_but_for_a_single_larger_message() {
        let mut late = Late::default();
        assert!(!passes(&mut late, message(Kind::Append, 1, 20_000), false));
        assert!(!passes(&mut late, message(Kind::Append, 2, 100), false));
        assert!(late.next(|_| true).is_some());
        assert!(late.next(|_| true).is_none(), "the second was dropped");
    }

    #[test]
    fn what_promises_something_is_dropped_where_nothing_can_be_promised() {
        let mut late = Late::default();
        assert!(!passes(&mut late, message(Kind::RequestVote, 1, 0), false));
        assert!(late.next(|_| true).is_none());
    }
}
