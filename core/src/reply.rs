//! Answers that are given in more than one place.
//!
//! Lives inside the shard. What the engine decided becomes words of the wire.

use crate::connection::ConnectionId;
use crate::engine::{Answer, Refusal};
use crate::outbox::Outbox;
use crate::shard::Address;
use ringmain_net::protocol::{Code, Done, Refused, SessionOpened};
use ringmain_wal::Index;

/// Who waits for an answer, and to which of its requests.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) connection: ConnectionId,
    pub(crate) request: u64,
}

/// One publish, as its producer numbers it.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct PublishNumber {
    pub(crate) session: u64,
    pub(crate) sequence: u64,
}

/// A reason, for a program and for a person.
pub(crate) type Reason = (Code, &'static str);

pub(crate) fn refuse(outbox: &mut Outbox, asked: Asked, (code, detail): Reason) {
    let refused = Refused { code: code as u16, detail, ..Refused::default() };
    outbox.send(asked.connection, asked.request, &refused);
}

/// A publish is refused by its number too, since one receipt may answer many requests.
pub(crate) fn refuse_publish(
    outbox: &mut Outbox,
    asked: Asked,
    number: PublishNumber,
    (code, detail): Reason,
) {
    let PublishNumber { session, sequence } = number;
    let refused = Refused { code: code as u16, session, sequence, detail, ..Refused::default() };
    outbox.send(asked.connection, asked.request, &refused);
}

/// This node does not lead the queue; a publish or a settle that it took while it did has an unknown outcome.
pub(crate) fn redirect(
    outbox: &mut Outbox,
    asked: Asked,
    number: Option<PublishNumber>,
    leader: Option<&Address>,
) {
    if let (Some(number), Some(connection)) = (number, outbox.connections.get_mut(asked.connection)) {
        connection.note_refused(number.session, number.sequence);
    }
    let PublishNumber { session, sequence } = number.unwrap_or_default();
    let detail = match leader {
        Some(_) => "another node leads this queue",
        None => "no node leads this queue at the moment",
    };
    let (redirect_host, redirect_port) = leader.map_or(("", 0), |leader| (leader.host.as_str(), leader.port));
    let code = Code::NotLeader as u16;
    let refused =
        Refused { code, session, sequence, detail, redirect_host, redirect_port, ..Refused::default() };
    outbox.send(asked.connection, asked.request, &refused);
}

/// This node has taken the request and leads no more: whether it is carried out is for the next leader to say.
pub(crate) fn leave_open(outbox: &mut Outbox, asked: Asked, leader: Option<&Address>) {
    let detail = "another node leads this queue since, and knows whether this was done";
    let (redirect_host, redirect_port) = leader.map_or(("", 0), |leader| (leader.host.as_str(), leader.port));
    let code = Code::LeaderLost as u16;
    let refused = Refused { code, detail, redirect_host, redirect_port, ..Refused::default() };
    outbox.send(asked.connection, asked.request, &refused);
}

/// The answer to a command that depended on the order of the log.
pub(crate) fn answer(outbox: &mut Outbox, asked: Asked, index: Index, answer: &Answer) {
    let Asked { connection, request } = asked;
    match *answer {
        Answer::QueueCreated { .. } | Answer::QueueKept { .. } => {
            outbox.send(connection, request, &Done { index: index.0, count: 0 });
        }
        Answer::QueueDeleted { messages } | Answer::QueuePurged { messages } => {
            outbox.send(connection, request, &Done { index: index.0, count: messages });
        }
        Answer::SessionOpened { session, epoch, last_sequence } => {
            outbox.send(connection, request, &SessionOpened { session: session.0, epoch, last_sequence });
        }
        Answer::SessionsExpired { .. } => {}
        Answer::Refused(refusal) => refuse(outbox, asked, in_words(refusal)),
    }
}

pub(crate) fn in_words(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::NotLeader => (Code::Busy, "this shard does not serve yet"),
        Refusal::NoSuchQueue => (Code::NoSuchQueue, "there is no such queue"),
        Refusal::QueueExists => (Code::QueueExists, "a queue of this name has other settings"),
        Refusal::InvalidName => {
            (Code::InvalidName, "a name has 1 to 255 of the characters A-Z a-z 0-9 . _ : / -")
        }
        Refusal::InvalidSettings => (Code::InvalidSettings, "these settings are out of range"),
        Refusal::Unsupported => (Code::Unsupported, "one of these settings is not supported yet"),
        Refusal::InvalidPriority => (Code::InvalidSettings, "the queue does not have this priority"),
        Refusal::Full => (Code::Full, "the queue is at its limit"),
        Refusal::Busy => (Code::Busy, "this shard is at a limit: try again"),
        Refusal::NoSuchSession => (Code::NoSuchSession, "the session is unknown or has expired"),
        Refusal::Fenced => (Code::Fenced, "a newer session of this producer took over"),
        Refusal::OutOfOrder => {
            (Code::OutOfOrder, "later publishes of this session were decided before this one")
        }
        Refusal::NoSuchConsumer => (Code::NoSuchConsumer, "this connection has no such consumer"),
        Refusal::TooMany => (Code::TooMany, "there are as many as there may be"),
        Refusal::Malformed => (Code::Malformed, "the request makes no sense"),
    }
}
