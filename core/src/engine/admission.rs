//! What the leader decides when it proposes.

use super::{Engine, queue_slot, session_slot};
use crate::command::{PublishHead, QueueId, Run, SessionId};
use crate::engine::leader::{Leader, OPENINGS_MAX};
use crate::queue::lease::By;
use crate::queue::{NAME_BYTES_MAX, Settings, is_queue_name};
use crate::session::Seen;
use crate::time::Time;

/// Runs that one purge may keep: 65,536 × 16 bytes is an entry of 1 MiB.
const KEPT_RUNS_MAX: usize = 65_536;

/// What becomes of a publish.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Counted; it must be written into the batch now.
    Fresh,
    /// A retry of one that is applied: answer at once.
    Stored,
    /// A retry of one that is on its way: answer when the batch under construction is committed or, if that is empty,
    /// the last one proposed.
    Pending,
    Refused(Refusal),
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This replica does not lead, or has not applied everything from before it led.
    NotLeader,
    NoSuchQueue,
    /// With other settings.
    QueueExists,
    InvalidName,
    InvalidSettings,
    /// A setting that is not built.
    Unsupported,
    /// The queue has fewer priorities.
    InvalidPriority,
    /// The queue's length or bytes would exceed its limit.
    Full,
    /// A bound of this node: later it may fit.
    Busy,
    NoSuchSession,
    /// A newer epoch of the producer took over.
    Fenced,
    /// The sequence was refused before and later ones stored, or it is outside the session's window.
    OutOfOrder,
    NoSuchConsumer,
    /// A count limit.
    TooMany,
    /// The request makes no sense.
    Malformed,
}

impl Engine {
    /// Decides on a publish and, if it is fresh, counts it as on its way.
    pub fn admit_publish(&mut self, publish: &PublishHead) -> Admission {
        match self.try_admit(publish) {
            Ok(admission) => admission,
            Err(refusal) => Admission::Refused(refusal),
        }
    }

    fn try_admit(&mut self, publish: &PublishHead) -> Result<Admission, Refusal> {
        let leader = self.leader.as_mut().ok_or(Refusal::NotLeader)?;
        let session = self.sessions.find(publish.session.0).ok_or(Refusal::NoSuchSession)?;
        if publish.epoch != session.epoch {
            return Err(if publish.epoch < session.epoch { Refusal::Fenced } else { Refusal::NoSuchSession });
        }
        let session_slot = session_slot(publish.session);
        let producer = leader.producer_mut(session_slot, session);
        match producer.window.look(publish.sequence) {
            Seen::OutOfOrder => return Err(Refusal::OutOfOrder),
            Seen::Stored if session.window.look(publish.sequence) == Seen::Stored => {
                return Ok(Admission::Stored);
            }
            Seen::Stored => return Ok(Admission::Pending),
            Seen::Fresh => {}
        }
        if producer.is_expiring {
            return Err(Refusal::NoSuchSession);
        }
        if !leader.openings.is_empty() && leader.openings.contains_key(&session.producer) {
            return Err(Refusal::Fenced);
        }

        let queue = self.queues.find(publish.queue.0).ok_or(Refusal::NoSuchQueue)?;
        let unapplied = leader.unapplied;
        let desk = leader.desk_mut(queue_slot(publish.queue));
        if desk.is_deleting {
            return Err(Refusal::NoSuchQueue);
        }
        if publish.count == 0 {
            return Err(Refusal::Malformed);
        }
        if u16::from(publish.priority_max) >= queue.settings.priorities {
            return Err(Refusal::InvalidPriority);
        }
        let count = u64::from(publish.count);
        if self.messages + unapplied + count > self.options.messages_max {
            return Err(Refusal::Busy);
        }
        let length = queue.totals.live + desk.unapplied + count;
        let bytes = (queue.totals.live_bytes() + desk.unapplied_bytes).saturating_add(publish.bytes);
        let is_too_long = queue.settings.max_length > 0 && length > queue.settings.max_length;
        let is_too_big = queue.settings.max_bytes > 0 && bytes > queue.settings.max_bytes;
        if is_too_long || is_too_big {
            return Err(Refusal::Full);
        }

        desk.unapplied += count;
        desk.unapplied_bytes += publish.bytes;
        leader.unapplied += count;
        let producer = leader.producer_mut(session_slot, session);
        producer.window.store(publish.sequence);
        producer.unapplied += 1;
        Ok(Admission::Fresh)
    }

    /// May this queue be created, as far as can be said now? The answer comes when it is applied.
    pub fn begin_create(&mut self, name: &str, settings: &Settings) -> Result<(), Refusal> {
        let leader = self.leader.as_ref().ok_or(Refusal::NotLeader)?;
        if !is_queue_name(name) {
            return Err(Refusal::InvalidName);
        }
        settings.validate()?;
        let Some(queue) = self.names.get(name).and_then(|queue| self.queues.find(queue.0)) else {
            return if self.queues.is_full() { Err(Refusal::TooMany) } else { Ok(()) };
        };
        let desk = leader.desk(queue_slot(queue.id));
        let is_deleting = desk.is_some_and(|desk| desk.is_deleting);
        if queue.settings == *settings || is_deleting { Ok(()) } else { Err(Refusal::QueueExists) }
    }

    /// From here on nothing is admitted to the queue; `Batch::delete_queue` must follow.
    pub fn begin_delete(&mut self, queue: QueueId) -> Result<(), Refusal> {
        let leader = self.leader.as_mut().ok_or(Refusal::NotLeader)?;
        let found = self.queues.find(queue.0).ok_or(Refusal::NoSuchQueue)?;
        let desk = leader.desk_mut(queue_slot(found.id));
        if desk.is_deleting {
            return Err(Refusal::NoSuchQueue);
        }
        desk.is_deleting = true;
        Ok(())
    }

    /// Says what a purge must keep because it is leased, and delivers nothing until the purge is applied, so that this
    /// stays true; `Batch::purge_queue` must follow.
    pub fn begin_purge(&mut self, queue: QueueId, kept: &mut Vec<Run>) -> Result<(), Refusal> {
        let leader = self.leader.as_mut().ok_or(Refusal::NotLeader)?;
        self.queues.find(queue.0).ok_or(Refusal::NoSuchQueue)?;
        let slot = queue_slot(queue);
        if leader.desk(slot).is_some_and(|desk| desk.is_deleting) {
            return Err(Refusal::NoSuchQueue);
        }
        kept.clear();
        leased_runs(leader, slot, kept);
        if kept.len() > KEPT_RUNS_MAX {
            kept.clear();
            return Err(Refusal::Busy);
        }
        leader.desk_mut(slot).purges += 1;
        Ok(())
    }

    /// Fences the producer's session, if it is there already; `Batch::open_session` must follow.
    pub fn begin_open_session(&mut self, producer: &str) -> Result<(), Refusal> {
        let leader = self.leader.as_mut().ok_or(Refusal::NotLeader)?;
        if producer.len() > NAME_BYTES_MAX {
            return Err(Refusal::InvalidName);
        }
        if !self.producers.contains_key(producer) && self.sessions.is_full() {
            return Err(Refusal::TooMany);
        }
        if leader.openings.len() >= OPENINGS_MAX {
            return Err(Refusal::Busy);
        }
        leader.begin_opening(producer);
        Ok(())
    }

    /// Names up to `sessions_max` sessions that were not used since `idle_since` and have nothing on its way; nothing
    /// is admitted in them from here on. `Batch::expire_sessions` must follow if there are any.
    pub fn begin_expire_sessions(
        &mut self,
        idle_since: Time,
        sessions_max: usize,
        expired: &mut Vec<SessionId>,
    ) {
        let Some(leader) = self.leader.as_mut() else { return };
        for session in self.sessions.iter().filter(|session| session.used < idle_since) {
            if expired.len() >= sessions_max {
                break;
            }
            let is_opening = leader.openings.contains_key(&session.producer);
            let producer = leader.producer_mut(session_slot(session.id), session);
            if producer.unapplied == 0 && !is_opening && !producer.is_expiring {
                producer.is_expiring = true;
                expired.push(session.id);
            }
        }
    }
}

/// Everything of the queue that is leased, in ascending runs.
fn leased_runs(leader: &Leader, slot: usize, runs: &mut Vec<Run>) {
    let Some(desk) = leader.desk(slot) else { return };
    let waiting = leader.leases.iter(desk.waiting, By::Queue);
    let settling = leader.leases.iter(desk.settling, By::Queue);
    let mut leased: Vec<(u8, u64)> =
        waiting.chain(settling).map(|(_, lease)| (lease.priority, lease.sequence)).collect();
    leased.sort_unstable();
    for (priority, sequence) in leased {
        if !runs.last_mut().is_some_and(|run| run.grow(priority, sequence)) {
            runs.push(Run::one(priority, sequence));
        }
    }
}
