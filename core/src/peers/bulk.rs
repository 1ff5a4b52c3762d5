//! The connections for checkpoints between this node and one peer: one that this node dials when it has a checkpoint to
//! send, and one that the peer dials when it has.
//!
//! Lives inside the shard. Each stands beside a connection for messages and ends with it: over that one the target answers,
//! and by it the peer is known to be there. So nothing is said to keep one of these alive; and what is heard over them is
//! no sign of life for the other, which could be dead while the kernel still delivers a checkpoint.

use super::{Standing, pause_ns};
use crate::connection::{ConnectionId, Connections};
use crate::outbox::Outbox;
use crate::time::Time;
use ringmain_net::peer::Lane;

/// A peer that does not answer the hello within this time is dialled anew.
const GREET_WITHIN_NS: u64 = 1_000_000_000;
/// The next checkpoint for a peer often follows soon: another group's, or a newer one.
const UNWANTED_MAX_NS: u64 = 5_000_000_000;

pub(super) struct Bulk {
    /// Over which this node is the source.
    source: Source,
    /// When somebody last had something to send.
    wanted: Option<Time>,
    /// Tries in a row that led to nothing.
    attempts: u32,
    /// Over which this node is the target.
    target: Option<Beside>,
}

/// A connection, and the one for messages that it stands beside.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Beside {
    connection: ConnectionId,
    messages: ConnectionId,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Source {
    Down { retry_at: Time },
    Dialling,
    Greeting { beside: Beside, until: Time },
    Up { beside: Beside },
}

impl Source {
    fn beside(self) -> Option<Beside> {
        match self {
            Self::Down { .. } | Self::Dialling => None,
            Self::Greeting { beside, .. } | Self::Up { beside } => Some(beside),
        }
    }
}

impl Bulk {
    pub(super) fn new() -> Self {
        Self { source: Source::Down { retry_at: Time(0) }, wanted: None, attempts: 0, target: None }
    }

    pub(super) fn want(&mut self, now: Time) {
        self.wanted = Some(now);
    }

    fn is_wanted(&self, now: Time) -> bool {
        self.wanted.is_some_and(|wanted| now < wanted.after_ns(UNWANTED_MAX_NS))
    }

    /// Whether it is to be dialled now; then it is being dialled.
    pub(super) fn poll_dial(&mut self, now: Time) -> bool {
        let is_due = matches!(self.source, Source::Down { retry_at } if retry_at <= now);
        if !is_due || !self.is_wanted(now) {
            return false;
        }
        self.source = Source::Dialling;
        true
    }

    /// False: nobody asked for it, or it would stand beside nothing.
    pub(super) fn dialled(
        &mut self,
        connection: ConnectionId,
        messages: Option<ConnectionId>,
        now: Time,
    ) -> bool {
        if self.source != Source::Dialling {
            return false;
        }
        let Some(messages) = messages else {
            self.fall(now);
            return false;
        };
        let beside = Beside { connection, messages };
        self.source = Source::Greeting { beside, until: now.after_ns(GREET_WITHIN_NS) };
        true
    }

    pub(super) fn dial_failed(&mut self, now: Time) {
        if self.source == Source::Dialling {
            self.fall(now);
        }
    }

    /// The peer's welcome has come over this connection.
    pub(super) fn came_up(&mut self, connection: ConnectionId) {
        if let Source::Greeting { beside, .. } = self.source
            && beside.connection == connection
        {
            self.source = Source::Up { beside };
            self.attempts = 0;
        }
    }

    /// The peer has dialled. Answers the connection that this one replaces.
    pub(super) fn accept(
        &mut self,
        connection: ConnectionId,
        messages: ConnectionId,
    ) -> Option<ConnectionId> {
        let before = self.target.replace(Beside { connection, messages });
        before.map(|before| before.connection)
    }

    /// The connection to the target, while the one for messages is the one it was dialled beside.
    pub(super) fn with_target(&self, messages: ConnectionId) -> Option<ConnectionId> {
        match self.source {
            Source::Up { beside } if beside.messages == messages => Some(beside.connection),
            Source::Down { .. } | Source::Dialling | Source::Greeting { .. } | Source::Up { .. } => None,
        }
    }

    /// The connection from the source, likewise.
    pub(super) fn with_source(&self, messages: ConnectionId) -> Option<ConnectionId> {
        self.target.filter(|beside| beside.messages == messages).map(|beside| beside.connection)
    }

    pub(super) fn standing(&self, connection: ConnectionId) -> Option<Standing> {
        let is_it = |beside: Beside| beside.connection == connection;
        match self.source {
            Source::Greeting { beside, .. } if is_it(beside) => return Some(Standing::Greeting(Lane::Bulk)),
            Source::Up { beside } if is_it(beside) => return Some(Standing::ToTarget),
            Source::Down { .. } | Source::Dialling | Source::Greeting { .. } | Source::Up { .. } => {}
        }
        self.target.filter(|beside| is_it(*beside)).map(|_| Standing::FromSource)
    }

    /// The connection is over. False: it is none of these.
    pub(super) fn closed(&mut self, connection: ConnectionId, now: Time) -> bool {
        if self.source.beside().is_some_and(|beside| beside.connection == connection) {
            self.fall(now);
            return true;
        }
        let is_targets = self.target.is_some_and(|beside| beside.connection == connection);
        if is_targets {
            self.target = None;
        }
        is_targets
    }

    /// Ends what stands beside nothing any more, what is not welcomed, and what nobody wants.
    pub(super) fn tend(&mut self, now: Time, messages: Option<ConnectionId>, outbox: &mut Outbox) {
        let is_alone = |beside: &Beside| Some(beside.messages) != messages;
        if let Some(target) = self.target.filter(is_alone) {
            outbox.drop_connection(target.connection);
            self.target = None;
        }
        let is_over = match self.source {
            Source::Down { .. } | Source::Dialling => false,
            Source::Greeting { beside, until } => is_alone(&beside) || until <= now,
            Source::Up { beside } => is_alone(&beside) || !self.is_wanted(now),
        };
        if is_over {
            self.give_up(now, outbox);
        }
    }

    /// Ours ends. The next one begins with nothing on its way.
    pub(super) fn give_up(&mut self, now: Time, outbox: &mut Outbox) {
        if let Some(beside) = self.source.beside() {
            outbox.drop_connection(beside.connection);
            self.fall(now);
        }
    }

    /// The peer is not known any more.
    pub(super) fn end(self, outbox: &mut Outbox) {
        let both = [self.source.beside(), self.target];
        both.into_iter().flatten().for_each(|beside| outbox.drop_connection(beside.connection));
    }

    fn fall(&mut self, now: Time) {
        self.source = Source::Down { retry_at: now.after_ns(pause_ns(self.attempts)) };
        self.attempts = self.attempts.saturating_add(1);
    }

    pub(super) fn check(&self, connections: &Connections) {
        let both = [self.source.beside(), self.target];
        for beside in both.into_iter().flatten() {
            assert!(connections.get(beside.connection).is_some());
            assert_ne!(beside.connection, beside.messages);
        }
    }
}
