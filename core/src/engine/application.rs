//! What every replica does with a committed entry.

use std::sync::Arc;

use ringmain_wal::{Index, Position, Term};

use super::{Engine, Refusal, queue_slot, session_slot};
use crate::command::{Command, Entry, Extent, Outcome, Publish, QueueId, Run, Runs, SessionId, SessionIds};
use crate::error::Error;
use crate::queue::consumer::{ConnectionId, ConsumerId};
use crate::queue::lease::NO_LEASE;
use crate::queue::{NAME_BYTES_MAX, Queue, Settings, is_queue_name};
use crate::session::{Seen, Session, Window};

/// A committed entry and where its first byte lies in this replica's log.
#[derive(Copy, Clone, Debug)]
pub struct Applied<'a> {
    pub index: Index,
    pub term: Term,
    pub position: Position,
    pub data: &'a [u8],
}

/// What application wants done; reused, the caller drains it.
#[derive(Debug, Default)]
pub struct EngineEffects {
    /// New live messages. Each stretch lies within one entry.
    pub held: Vec<Extent>,
    /// Messages that are gone.
    pub released: Vec<Extent>,
    /// One for each command of the entry that is not a publish or a settle, in their order.
    pub answers: Vec<Answer>,
    /// Consumers that ended with their queue.
    pub ended: Vec<(ConnectionId, ConsumerId)>,
}

/// The answer to a command that depends on the order of the log.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    QueueCreated {
        queue: QueueId,
    },
    /// It was there, with the same settings.
    QueueKept {
        queue: QueueId,
    },
    QueueDeleted {
        messages: u64,
    },
    QueuePurged {
        messages: u64,
    },
    SessionOpened {
        session: SessionId,
        epoch: u32,
        last_sequence: u64,
    },
    SessionsExpired {
        sessions: u32,
    },
    Refused(Refusal),
}

impl EngineEffects {
    pub fn clear(&mut self) {
        self.held.clear();
        self.released.clear();
        self.answers.clear();
        self.ended.clear();
    }
}

/// Adds a message to the extents, as part of the last one where it follows on it.
pub(crate) fn note_extent(extents: &mut Vec<Extent>, position: Position, stored_bytes: u32) {
    let bytes = u64::from(stored_bytes);
    if let Some(last) = extents.last_mut()
        && last.position.0 + last.bytes == position.0
    {
        last.bytes += bytes;
        return;
    }
    extents.push(Extent { position, bytes });
}

impl Engine {
    /// Applies the next entry. After an error the state is not to be used any more: it and the log have parted.
    pub fn apply(&mut self, entry: Applied<'_>, effects: &mut EngineEffects) -> Result<(), Error> {
        if entry.index <= self.applied.0 || entry.term < self.applied.1 {
            return Err(Error::Diverged { what: "entry applied before, index", id: entry.index.0 });
        }
        let commands = Entry::parse(entry.data)?;
        self.clock = self.clock.max(commands.stamp());
        for command in commands {
            match command? {
                Command::Publish(publish) => self.on_publish(entry.position, publish, effects)?,
                Command::Settle { queue, runs } => self.on_settle(queue, runs, effects)?,
                Command::CreateQueue { name, settings } => self.on_create_queue(name, settings, effects),
                Command::DeleteQueue { queue } => self.on_delete_queue(queue, effects),
                Command::PurgeQueue { queue, kept } => self.on_purge_queue(queue, kept, effects)?,
                Command::OpenSession { producer } => self.on_open_session(producer, effects),
                Command::ExpireSessions { sessions } => self.on_expire_sessions(sessions, effects),
            }
        }
        self.applied = (entry.index, entry.term);
        Ok(())
    }

    fn on_publish(
        &mut self,
        entry: Position,
        publish: Publish<'_>,
        effects: &mut EngineEffects,
    ) -> Result<(), Error> {
        let (count, id) = (u64::from(publish.count), publish.queue);
        let slot = queue_slot(id);
        self.note_published(&publish)?;
        let queue =
            self.queues.find_mut(id.0).ok_or(Error::Diverged { what: "publish to queue", id: id.0 })?;
        let mut desk = self.leader.as_mut().map(|leader| leader.desk_mut(slot));
        let bytes_before = queue.totals.live_bytes();
        // Most publishes hold one priority: its level is looked up when it changes.
        let mut level: Option<(u8, usize)> = None;
        for message in publish {
            let message = message?;
            let priority = message.message.priority;
            if u16::from(priority) >= queue.settings.priorities {
                return Err(Error::Diverged { what: "publish of priority", id: u64::from(priority) });
            }
            let rank = match level {
                Some((last, rank)) if last == priority => rank,
                previous => {
                    let (rank, is_new) = queue.open_level(priority);
                    if let Some(desk) = &mut desk {
                        if is_new {
                            desk.open_level(rank);
                        }
                        // A new level moves those above it up.
                        if let Some((last, _)) = previous {
                            refresh(desk, queue, last);
                        }
                    }
                    level = Some((priority, rank));
                    rank
                }
            };
            let position = Position(entry.0 + message.offset as u64);
            queue.push(rank, position, message.bytes);
            note_extent(&mut effects.held, position, message.bytes);
        }
        self.messages += count;
        if let (Some(desk), Some((priority, _))) = (desk, level) {
            refresh(desk, queue, priority);
            let bytes = queue.totals.live_bytes() - bytes_before;
            assert!(desk.unapplied >= count, "a leader admits what it proposes");
            assert!(desk.unapplied_bytes >= bytes, "a publish is admitted with its bytes");
            desk.unapplied -= count;
            desk.unapplied_bytes -= bytes;
        }
        if let Some(leader) = &mut self.leader {
            leader.unapplied -= count;
            leader.offer(slot);
        }
        Ok(())
    }

    fn note_published(&mut self, publish: &Publish<'_>) -> Result<(), Error> {
        let id = publish.session.0;
        let session = self.sessions.find_mut(id).ok_or(Error::Diverged { what: "publish in session", id })?;
        if session.window.look(publish.sequence) != Seen::Fresh {
            return Err(Error::Diverged { what: "publish of sequence", id: publish.sequence });
        }
        session.window.store(publish.sequence);
        session.used = self.clock;
        if let Some(leader) = &mut self.leader {
            leader.producer_mut(session_slot(publish.session), session).unapplied -= 1;
        }
        Ok(())
    }

    /// Messages and queues that are gone already are passed over: a purge or a delete may have come first.
    fn on_settle(&mut self, id: QueueId, runs: Runs<'_>, effects: &mut EngineEffects) -> Result<(), Error> {
        let slot = queue_slot(id);
        for run in runs {
            let (run, outcome) = run?;
            let Some(queue) = self.queues.find_mut(id.0) else { continue };
            let Some(rank) = queue.rank(run.priority) else { continue };
            let end = run.end().min(queue.levels()[rank].next());
            for sequence in run.sequence..end {
                let lease = match outcome {
                    Outcome::Requeue => requeue(queue, rank, sequence),
                    Outcome::Ack | Outcome::Reject => queue.remove(rank, sequence).map(|message| {
                        note_extent(&mut effects.released, message.position, message.stored_bytes);
                        self.messages -= 1;
                        match outcome {
                            Outcome::Reject => queue.totals.rejected += 1,
                            Outcome::Ack | Outcome::Requeue => queue.totals.acknowledged += 1,
                        }
                        (message.lease, message.stored_bytes)
                    }),
                };
                let (Some((lease, stored_bytes)), Some(leader)) = (lease, &mut self.leader) else { continue };
                if lease == NO_LEASE {
                    continue;
                }
                leader.close_lease(slot, lease);
                let desk = leader.desk_mut(slot);
                desk.untake(rank, stored_bytes);
                if outcome == Outcome::Requeue {
                    desk.give_back(rank, sequence);
                }
            }
            if let Some(leader) = &mut self.leader {
                leader.desk_mut(slot).refresh(rank, &queue.levels()[rank]);
                leader.offer(slot);
            }
        }
        Ok(())
    }

    fn on_create_queue(&mut self, name: &str, settings: Settings, effects: &mut EngineEffects) {
        let answer = self.create_queue(name, settings).unwrap_or_else(Answer::Refused);
        effects.answers.push(answer);
    }

    fn create_queue(&mut self, name: &str, settings: Settings) -> Result<Answer, Refusal> {
        if !is_queue_name(name) {
            return Err(Refusal::InvalidName);
        }
        settings.validate()?;
        if let Some(queue) = self.names.get(name).and_then(|queue| self.queues.find(queue.0)) {
            let is_same = queue.settings == settings;
            return if is_same {
                Ok(Answer::QueueKept { queue: queue.id })
            } else {
                Err(Refusal::QueueExists)
            };
        }
        if self.queues.is_full() {
            return Err(Refusal::TooMany);
        }
        let name: Arc<str> = Arc::from(name);
        self.memory_queues += u32::from(settings.is_quorum_memory());
        let id = self.queues.insert(|id| Queue::new(QueueId(id), Arc::clone(&name), settings));
        self.names.insert(name, QueueId(id));
        if let (Some(leader), Some(queue)) = (&mut self.leader, self.queues.find(id)) {
            leader.open_desk(queue_slot(QueueId(id)), queue);
        }
        Ok(Answer::QueueCreated { queue: QueueId(id) })
    }

    fn on_delete_queue(&mut self, id: QueueId, effects: &mut EngineEffects) {
        let Some(mut queue) = self.queues.remove(id.0) else {
            effects.answers.push(Answer::Refused(Refusal::NoSuchQueue));
            return;
        };
        self.names.remove(&*queue.name);
        let queue = Arc::make_mut(&mut queue);
        let messages = queue.totals.live;
        self.memory_queues -= u32::from(queue.settings.is_quorum_memory());
        for rank in 0..queue.levels().len() {
            queue.purge_level(rank, &[], &mut |chunk| self.buried.push_back(chunk), &mut |_| ());
        }
        self.messages -= messages;
        if let Some(leader) = &mut self.leader {
            leader.close_desk(queue_slot(id), &mut effects.ended);
        }
        effects.answers.push(Answer::QueueDeleted { messages });
    }

    fn on_purge_queue(
        &mut self,
        id: QueueId,
        kept: Runs<'_>,
        effects: &mut EngineEffects,
    ) -> Result<(), Error> {
        let kept: Vec<Run> = kept.map(|run| run.map(|(run, _)| run)).collect::<Result<_, _>>()?;
        if !kept.is_sorted_by(|a, b| (a.priority, a.end()) <= (b.priority, b.sequence)) {
            return Err(Error::Malformed { what: "kept runs of a purge", offset: 0 });
        }
        let Some(queue) = self.queues.find_mut(id.0) else {
            effects.answers.push(Answer::Refused(Refusal::NoSuchQueue));
            return Ok(());
        };
        let live = queue.totals.live;
        for rank in 0..queue.levels().len() {
            let priority = queue.levels()[rank].priority();
            let from = kept.partition_point(|run| run.priority < priority);
            let to = kept.partition_point(|run| run.priority <= priority);
            queue.purge_level(
                rank,
                &kept[from..to],
                &mut |chunk| self.buried.push_back(chunk),
                &mut |gone| note_extent(&mut effects.released, gone.position, gone.stored_bytes),
            );
        }
        let messages = live - queue.totals.live;
        self.messages -= messages;
        if let Some(leader) = &mut self.leader {
            let slot = queue_slot(id);
            let desk = leader.desk_mut(slot);
            assert!(desk.purges > 0, "a leader begins the purges it proposes");
            desk.purges -= 1;
            for (rank, level) in queue.levels().iter().enumerate() {
                desk.refresh(rank, level);
            }
            leader.offer(slot);
        }
        effects.answers.push(Answer::QueuePurged { messages });
        Ok(())
    }

    fn on_open_session(&mut self, producer: &str, effects: &mut EngineEffects) {
        if let Some(leader) = &mut self.leader {
            leader.end_opening(producer);
        }
        let answer = self.open_session(producer).unwrap_or_else(Answer::Refused);
        effects.answers.push(answer);
    }

    fn open_session(&mut self, name: &str) -> Result<Answer, Refusal> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::InvalidName);
        }
        let known = self.producers.get(name).copied();
        if let Some(session) = known.and_then(|id| self.sessions.find_mut(id.0)) {
            session.epoch = session.epoch.checked_add(1).ok_or(Refusal::TooMany)?;
            session.used = self.clock;
            let last_sequence = session.window.last();
            return Ok(Answer::SessionOpened { session: session.id, epoch: session.epoch, last_sequence });
        }
        if self.sessions.is_full() {
            return Err(Refusal::TooMany);
        }
        let used = self.clock;
        let id = self.sessions.insert(|id| Session {
            id: SessionId(id),
            producer: name.into(),
            epoch: 1,
            window: Window::default(),
            used,
        });
        if !name.is_empty() {
            self.producers.insert(name.into(), SessionId(id));
        }
        Ok(Answer::SessionOpened { session: SessionId(id), epoch: 1, last_sequence: 0 })
    }

    fn on_expire_sessions(&mut self, sessions: SessionIds<'_>, effects: &mut EngineEffects) {
        let mut expired = 0;
        for id in sessions {
            let Some(session) = self.sessions.remove(id.0) else { continue };
            if !session.producer.is_empty() {
                self.producers.remove(&session.producer);
            }
            if let Some(leader) = &mut self.leader {
                leader.close_producer(session_slot(id));
            }
            expired += 1;
        }
        effects.answers.push(Answer::SessionsExpired { sessions: expired });
    }
}

fn refresh(desk: &mut crate::queue::desk::Desk, queue: &Queue, priority: u8) {
    if let Some(rank) = queue.rank(priority) {
        desk.refresh(rank, &queue.levels()[rank]);
    }
}

/// One delivery more on the message's account; says its lease and bytes.
fn requeue(queue: &mut Queue, rank: usize, sequence: u64) -> Option<(u32, u32)> {
    let slot = queue.slot_mut(rank, sequence)?;
    slot.deliveries = slot.deliveries.saturating_add(1);
    slot.was_delivered = false;
    let lease = std::mem::replace(&mut slot.lease, NO_LEASE);
    Some((lease, slot.stored_bytes))
}
