//! The queues of one group: the replicated state machine and, on the leader, the bookkeeping of who holds what.
//!
//! Lives on the group's shard, on every replica. Pure: no clock, file, socket or hash order; everything is an input.
//! Three kinds of deed, kept apart:
//!
//! - **Admission** (`admission`): what the leader decides when it proposes. It counts what it has admitted and not yet
//!   applied, so that a limit is never overshot and a retry never stored twice, and remembers what it has promised to
//!   the log (a delete, a purge, a session's end), so that nothing is admitted that would come behind it in vain.
//!   Publishes and settles are answered when their entry is committed, with what was decided here.
//! - **Application** (`application`): what every replica does with a committed entry. It depends on the entry and the
//!   state only. Creations, deletions, purges and session openings are answered from here, by the order of the log.
//! - **Dispatch** (`dispatch`): leases, consumers, credit, who gets what next. Leader-local, never logged; only the end
//!   of a lease is. A new leader finds everything unsettled ready again.
//!
//! ```text
//!                    admit ─► Batch ─► log ─► commit ─► apply ─► ready ─► poll_delivery ─► leased
//!                                       ▲                          ▲                         │
//!                                       │                          └── requeue ◄─ apply ◄─┐  │
//!                                       └──── Settle ◄──── begin_settle, expire_leases ◄──┴──┘
//! ```
//!
//! The leader applies entries of its own term only: it starts to lead (`lead`) when everything before is applied.

mod admission;
mod application;
mod dispatch;
mod leader;
pub(crate) mod registry;
mod sweep;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use ringmain_wal::{GroupId, Index, Term};

pub use crate::queue::consumer::{CONSUMERS_PER_QUEUE_MAX, CREDIT_MAX, ConnectionId, ConsumerId};
pub use admission::{Admission, Refusal};
pub use application::{Answer, Applied, EngineEffects};
pub use dispatch::{Dispatch, SettleRun, SettleSplit};
pub use sweep::{Stray, Sweep};

use crate::checkpoint::{Checkpoint, Digest, Restored, StateHead};
use crate::command::{Extent, QueueId, SessionId};
use crate::error::Error;
use crate::queue::level::{Chunk, Level};
use crate::queue::{Queue, Settings, body_bytes};
use crate::session::Session;
use crate::time::Time;
use leader::Leader;
use registry::Registry;
use sweep::SweepCursor;

const QUEUE_SLOT_BITS: u32 = 17;
const SESSION_SLOT_BITS: u32 = 16;
pub const QUEUES_MAX: u32 = 1 << QUEUE_SLOT_BITS;
pub const SESSIONS_MAX: u32 = 1 << SESSION_SLOT_BITS;

/// Where a queue is found; see `registry`.
pub(crate) fn queue_slot(queue: QueueId) -> usize {
    (queue.0 & u64::from(QUEUES_MAX - 1)) as usize
}

fn session_slot(session: SessionId) -> usize {
    (session.0 & u64::from(SESSIONS_MAX - 1)) as usize
}

#[derive(Copy, Clone, Debug)]
pub struct EngineOptions {
    pub group: GroupId,
    /// Of the group among those of its shard: its queues, sessions and consumers carry it in their numbers.
    pub ordinal: u32,
    /// Messages in all queues of the group; 20 bytes of memory each.
    pub messages_max: u64,
}

#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,

    queues: Registry<Queue>,
    /// Invariant: one name for each queue.
    names: BTreeMap<Arc<str>, QueueId>,
    sessions: Registry<Session>,
    /// Invariant: one for each session with a producer's name.
    producers: BTreeMap<Box<str>, SessionId>,
    applied: (Index, Term),
    /// The latest stamp; never goes back.
    clock: Time,
    /// Live messages of all queues.
    messages: u64,
    /// Queues that are content with memory.
    memory_queues: u32,

    /// Only while this replica leads and has applied everything from before.
    leader: Option<Box<Leader>>,
    /// Chunks of purged and deleted queues whose messages still hold the log; see `reap`.
    buried: VecDeque<Arc<Chunk>>,
    sweep: SweepCursor,
}

/// What a queue is and holds, exact at the engine's applied index. In flight is zero where this replica does not lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo<'a> {
    pub queue: QueueId,
    pub name: &'a str,
    pub settings: &'a Settings,
    pub consumers: u32,
    pub ready: u64,
    pub ready_bytes: u64,
    pub in_flight: u64,
    pub in_flight_bytes: u64,
    pub published: u64,
    pub acknowledged: u64,
    pub rejected: u64,
    pub purged: u64,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct LevelInfo {
    pub priority: u8,
    pub ready: u64,
    pub ready_bytes: u64,
    pub in_flight: u64,
    pub in_flight_bytes: u64,
}

impl Engine {
    pub fn new(options: EngineOptions) -> Self {
        let (sessions, queues) = Self::registries(options.ordinal);
        Self {
            options,
            queues,
            names: BTreeMap::new(),
            sessions,
            producers: BTreeMap::new(),
            applied: (Index(0), Term(0)),
            clock: Time::ZERO,
            messages: 0,
            memory_queues: 0,
            leader: None,
            buried: VecDeque::new(),
            sweep: SweepCursor::default(),
        }
    }

    pub(crate) fn registries(ordinal: u32) -> (Registry<Session>, Registry<Queue>) {
        (Registry::new(SESSION_SLOT_BITS, ordinal), Registry::new(QUEUE_SLOT_BITS, ordinal))
    }

    pub(crate) fn restored(options: EngineOptions, restored: Restored) -> Result<Self, Error> {
        let Restored { head, sessions, queues } = restored;
        let mut engine = Self { applied: (head.index, head.term), clock: head.clock, ..Self::new(options) };
        for queue in queues.iter() {
            engine.messages += queue.totals.live;
            engine.memory_queues += u32::from(queue.settings.is_quorum_memory());
            if engine.names.insert(Arc::clone(&queue.name), queue.id).is_some() {
                return Err(Error::Diverged { what: "checkpoint: name of queue", id: queue.id.0 });
            }
        }
        for session in sessions.iter().filter(|session| !session.producer.is_empty()) {
            if engine.producers.insert(session.producer.clone(), session.id).is_some() {
                return Err(Error::Diverged { what: "checkpoint: name of session", id: session.id.0 });
            }
        }
        engine.sessions = sessions;
        engine.queues = queues;
        Ok(engine)
    }

    pub fn applied(&self) -> (Index, Term) {
        self.applied
    }

    pub fn is_leading(&self) -> bool {
        self.leader.is_some()
    }

    /// Some queue is acknowledged from memory, so its leader wants to know what its followers have.
    pub(crate) fn has_memory_queues(&self) -> bool {
        self.memory_queues > 0
    }

    pub(crate) fn is_memory_queue(&self, queue: QueueId) -> bool {
        self.memory_queues > 0
            && self.queues.find(queue.0).is_some_and(|queue| queue.settings.is_quorum_memory())
    }

    pub fn queues_count(&self) -> u32 {
        self.queues.count()
    }

    pub fn messages_count(&self) -> u64 {
        self.messages
    }

    /// What all messages take in the log, heads included; looks at every queue.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.queues.iter().map(|queue| queue.totals.live_stored_bytes).sum()
    }

    /// Heap bytes that the places of all messages take.
    pub fn index_bytes(&self) -> usize {
        let levels = self.queues.iter().flat_map(|queue| queue.levels());
        levels.map(|level| level.heap_bytes()).sum()
    }

    pub fn find(&self, name: &str) -> Option<QueueId> {
        self.names.get(name).copied()
    }

    pub fn info(&self, queue: QueueId) -> Option<QueueInfo<'_>> {
        let found = self.queues.find(queue.0)?;
        let totals = found.totals;
        let (mut in_flight, mut in_flight_bytes) = (0, 0);
        for level in self.levels(queue) {
            in_flight += level.in_flight;
            in_flight_bytes += level.in_flight_bytes;
        }
        let desk = self.leader.as_ref().and_then(|leader| leader.desk(queue_slot(queue)));
        Some(QueueInfo {
            queue,
            name: &found.name,
            settings: &found.settings,
            consumers: desk.map_or(0, |desk| desk.consumers.len() as u32),
            ready: totals.live - in_flight,
            ready_bytes: totals.live_bytes() - in_flight_bytes,
            in_flight,
            in_flight_bytes,
            published: totals.published,
            acknowledged: totals.acknowledged,
            rejected: totals.rejected,
            purged: totals.purged,
        })
    }

    /// The levels of a queue that hold messages, lowest priority first.
    pub fn levels(&self, queue: QueueId) -> impl Iterator<Item = LevelInfo> {
        let levels = self.queues.find(queue.0).map_or(&[][..], |queue| queue.levels());
        let desk = self.leader.as_ref().and_then(|leader| leader.desk(queue_slot(queue)));
        let info = move |(rank, level): (usize, &Level)| {
            let (in_flight, stored_bytes) = desk.map_or((0, 0), |desk| desk.in_flight(rank));
            let in_flight_bytes = body_bytes(in_flight, stored_bytes);
            LevelInfo {
                priority: level.priority(),
                ready: level.live() - in_flight,
                ready_bytes: body_bytes(level.live(), level.stored_bytes()) - in_flight_bytes,
                in_flight,
                in_flight_bytes,
            }
        };
        levels.iter().enumerate().filter(|(_, level)| level.live() > 0).map(info)
    }

    /// Queues in name order behind `after`.
    pub fn queues_after<'a>(&'a self, after: &str) -> impl Iterator<Item = (&'a str, QueueId)> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.names.range::<str, _>(behind).map(|(name, queue)| (&**name, *queue))
    }

    /// Everything live: what a restored engine holds in the log.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        let levels = self.queues.iter().flat_map(|queue| queue.levels());
        let slots = levels.flat_map(|level| level.iter());
        slots.map(|(_, slot)| Extent { position: slot.position, bytes: u64::from(slot.stored_bytes) })
    }

    /// The state at the applied index. Costs a pointer for each 64 queues and sessions; what is written to while the
    /// image is held is copied first.
    pub fn checkpoint(&self) -> Checkpoint {
        let head = StateHead {
            group: self.options.group,
            index: self.applied.0,
            term: self.applied.1,
            clock: self.clock,
            queue_serial: self.queues.serial(),
            session_serial: self.sessions.serial(),
        };
        Checkpoint::new(head, self.sessions.image(), self.queues.image())
    }

    /// A number that is equal on replicas with equal state. Walks over everything.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new(self.applied, self.clock);
        digest.state(&self.sessions, &self.queues);
        digest.value()
    }

    /// Every invariant; walks over everything.
    pub fn check(&self) {
        let (mut messages, mut memory_queues) = (0, 0);
        for queue in self.queues.iter() {
            queue.check();
            assert_eq!(self.names.get(&*queue.name), Some(&queue.id));
            messages += queue.totals.live;
            memory_queues += u32::from(queue.settings.is_quorum_memory());
        }
        assert_eq!(memory_queues, self.memory_queues);
        assert_eq!(messages, self.messages);
        assert_eq!(self.names.len(), self.queues.count() as usize);
        let mut named = 0;
        for session in self.sessions.iter() {
            assert!(session.used <= self.clock);
            if !session.producer.is_empty() {
                assert_eq!(self.producers.get(&session.producer), Some(&session.id));
                named += 1;
            }
        }
        assert_eq!(named, self.producers.len());
        match &self.leader {
            Some(leader) => leader.check(&self.queues, &self.sessions),
            None => assert!(
                self.queues
                    .iter()
                    .flat_map(|queue| queue.levels())
                    .all(|level| { level.iter().all(|(_, slot)| slot.is_ready()) })
            ),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
