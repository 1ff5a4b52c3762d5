//! What exists only while this replica leads: desks, leases, consumers, timers, and what is on its way into the log.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::queue_slot;
use super::registry::Registry;
use crate::command::{Outcome, QueueId, SessionId, Settlement, note_settled};
use crate::queue::Queue;
use crate::queue::consumer::{ConnectionId, Consumer, ConsumerId, Consumers};
use crate::queue::desk::{Desk, TURN_DELIVERIES};
use crate::queue::lease::{By, Leases, NO_LEASE};
use crate::session::{Session, Window};
use crate::time::Time;

/// Producers whose sessions are being opened at the same time.
pub(crate) const OPENINGS_MAX: usize = 65_536;

#[derive(Debug)]
pub(crate) struct Leader {
    /// By queue slot; one for each queue.
    desks: Vec<Option<Box<Desk>>>,
    /// By session slot; one for each session in which something was admitted or proposed.
    producers: Vec<Option<Box<Producer>>>,
    pub(crate) leases: Leases,
    pub(crate) consumers: Consumers,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,

    /// Queues in turn. Holds every one that has an offer and a taker; others leave when their turn comes.
    pub(crate) round: VecDeque<QueueId>,
    /// One for each queue with waiting leases, at the first deadline or before it; may name deleted queues.
    pub(crate) timers: BinaryHeap<Reverse<(Time, QueueId)>>,
    /// Consumers that have ended and still hold leases.
    pub(crate) ended: VecDeque<ConsumerId>,
    /// Openings on their way, by the producer's name: the epoch that publishes now is fenced already.
    pub(crate) openings: BTreeMap<Box<str>, u32>,
    /// Admitted messages that are not applied.
    pub(crate) unapplied: u64,
    /// The latest time it was told; never goes back.
    pub(crate) now: Time,
}

#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) is_paused: bool,
    pub(crate) consumers: Vec<ConsumerId>,
}

/// A session as it will be when everything on its way is applied.
#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) session: SessionId,
    pub(crate) window: Window,
    /// Publishes admitted and not applied.
    pub(crate) unapplied: u32,
    /// Its end is on its way.
    pub(crate) is_expiring: bool,
}

impl Leader {
    pub(crate) fn new(queues: &Registry<Queue>, ordinal: u32, now: Time) -> Self {
        let mut leader = Self {
            desks: Vec::new(),
            producers: Vec::new(),
            leases: Leases::new(),
            consumers: Consumers::new(ordinal),
            connections: BTreeMap::new(),
            round: VecDeque::new(),
            timers: BinaryHeap::new(),
            ended: VecDeque::new(),
            openings: BTreeMap::new(),
            unapplied: 0,
            now,
        };
        for queue in queues.iter() {
            leader.open_desk(queue_slot(queue.id), queue);
        }
        leader
    }

    pub(crate) fn desk(&self, slot: usize) -> Option<&Desk> {
        self.desks.get(slot)?.as_deref()
    }

    pub(crate) fn desks(&self) -> impl Iterator<Item = &Desk> {
        self.desks.iter().flatten().map(|desk| &**desk)
    }

    pub(crate) fn desk_mut(&mut self, slot: usize) -> &mut Desk {
        let desk = self.desks.get_mut(slot).and_then(Option::as_deref_mut);
        desk.expect("there is a desk for each queue")
    }

    pub(crate) fn open_desk(&mut self, slot: usize, queue: &Queue) {
        if self.desks.len() <= slot {
            self.desks.resize_with(slot + 1, || None);
        }
        assert!(self.desks[slot].is_none());
        self.desks[slot] = Some(Box::new(Desk::new(queue)));
    }

    pub(crate) fn producer_mut(&mut self, slot: usize, session: &Session) -> &mut Producer {
        if self.producers.len() <= slot {
            self.producers.resize_with(slot + 1, || None);
        }
        let place = &mut self.producers[slot];
        place.take_if(|producer| producer.session != session.id);
        place.get_or_insert_with(|| {
            Box::new(Producer {
                session: session.id,
                window: session.window.clone(),
                unapplied: 0,
                is_expiring: false,
            })
        })
    }

    pub(crate) fn close_producer(&mut self, slot: usize) {
        if let Some(place) = self.producers.get_mut(slot) {
            *place = None;
        }
    }

    pub(crate) fn begin_opening(&mut self, producer: &str) {
        if !producer.is_empty() {
            *self.openings.entry(producer.into()).or_default() += 1;
        }
    }

    pub(crate) fn end_opening(&mut self, producer: &str) {
        let Some(openings) = self.openings.get_mut(producer) else { return };
        *openings -= 1;
        if *openings == 0 {
            self.openings.remove(producer);
        }
    }

    /// Puts the queue into the round if it has something to give and may have someone to take it.
    pub(crate) fn offer(&mut self, slot: usize) {
        let desk = self.desk_mut(slot);
        if desk.is_in_round || desk.takers.is_empty() || !desk.has_offer() {
            return;
        }
        desk.is_in_round = true;
        let queue = desk.queue;
        self.round.push_back(queue);
        // Deleted queues leave the round when their turn comes; without consumers it never comes.
        if self.round.len() > 2 * self.desks.len() + 64 {
            let desks = &self.desks;
            let is_there = |queue: &QueueId| {
                desks
                    .get(queue_slot(*queue))
                    .and_then(Option::as_ref)
                    .is_some_and(|desk| desk.queue == *queue)
            };
            self.round.retain(is_there);
        }
    }

    /// Puts the consumer into its queue's round if it can take something.
    pub(crate) fn enlist(&mut self, queue_slot: usize, consumer_slot: u32) {
        let consumer = self.consumers.holder_mut(consumer_slot);
        if consumer.is_taker || !consumer.can_take() {
            return;
        }
        consumer.is_taker = true;
        let id = consumer.id;
        self.desk_mut(queue_slot).takers.push_back(id);
        self.offer(queue_slot);
    }

    /// Whose turn it is to take a message of the queue. Those that cannot take any leave the round of takers.
    pub(crate) fn next_taker(&mut self, queue_slot: usize) -> Option<(ConsumerId, ConnectionId)> {
        let desk = self.desks.get_mut(queue_slot)?.as_mut()?;
        while let Some(&id) = desk.takers.front() {
            let consumer = self.consumers.holder_mut(id.slot());
            if consumer.can_take() {
                return Some((id, consumer.connection));
            }
            consumer.is_taker = false;
            desk.takers.pop_front();
        }
        None
    }

    /// A new lease begins to wait, for its queue and its consumer.
    pub(crate) fn lend(&mut self, queue_slot: usize, at: u32) {
        let consumer = self.consumers.holder_mut(self.leases[at].consumer);
        assert!(consumer.can_take());
        consumer.held += 1;
        self.leases.push(&mut consumer.leases, By::Consumer, at);
        let desk = self.desks[queue_slot].as_mut().expect("there is a desk for each queue");
        self.leases.push(&mut desk.waiting, By::Queue, at);
    }

    /// After a delivery the next taker has its turn and, after some, the next queue.
    pub(crate) fn turn(&mut self, queue_slot: usize, taker: ConsumerId) {
        let desk = self.desks[queue_slot].as_mut().expect("there is a desk for each queue");
        assert_eq!(desk.takers.front(), Some(&taker));
        desk.takers.rotate_left(1);
        desk.turn_left -= 1;
        if desk.turn_left == 0 {
            desk.turn_left = TURN_DELIVERIES;
            assert_eq!(self.round.front(), Some(&desk.queue));
            self.round.rotate_left(1);
        }
    }

    /// The lease is to be requeued.
    pub(crate) fn expire(&mut self, at: u32, log: &mut Vec<Settlement>) {
        let lease = self.leases[at];
        self.begin_settling(queue_slot(lease.queue), at);
        note_settled(log, lease.queue, Outcome::Requeue, (lease.priority, lease.sequence));
    }

    /// A lease's end is proposed: the consumer may take another message, the lease neither expires nor settles again.
    pub(crate) fn begin_settling(&mut self, queue_slot: usize, at: u32) {
        let consumer = self.leases[at].consumer;
        self.leases.begin_settling(at);
        let desk = self.desks[queue_slot].as_mut().expect("there is a desk for each queue");
        self.leases.unlink(&mut desk.waiting, By::Queue, at);
        self.leases.push(&mut desk.settling, By::Queue, at);
        self.release_credit(queue_slot, consumer, at);
    }

    /// The message is removed or ready again: its lease is over.
    pub(crate) fn close_lease(&mut self, queue_slot: usize, at: u32) {
        let lease = self.leases[at];
        let desk = self.desks[queue_slot].as_mut().expect("there is a desk for each queue");
        if lease.is_settling {
            self.leases.unlink(&mut desk.settling, By::Queue, at);
        } else {
            self.leases.unlink(&mut desk.waiting, By::Queue, at);
            self.release_credit(queue_slot, lease.consumer, at);
        }
        self.leases.close(at);
    }

    fn release_credit(&mut self, queue_slot: usize, consumer_slot: u32, at: u32) {
        let consumer = self.consumers.holder_mut(consumer_slot);
        self.leases.unlink(&mut consumer.leases, By::Consumer, at);
        consumer.held -= 1;
        self.enlist(queue_slot, consumer_slot);
    }

    /// Sees to it that the queue's first deadline is not missed.
    pub(crate) fn arm_timer(&mut self, queue_slot: usize) {
        let Some(desk) = self.desks[queue_slot].as_mut() else { return };
        if desk.has_timer {
            return;
        }
        let Some(first) = desk.waiting.first() else { return };
        desk.has_timer = true;
        self.timers.push(Reverse((self.leases[first].deadline, desk.queue)));
        // Deleted queues leave their timers behind.
        if self.timers.len() > 2 * self.desks.len() + 64 {
            let desks = &mut self.desks;
            let leases = &self.leases;
            self.timers.clear();
            for desk in desks.iter_mut().flatten() {
                desk.has_timer = desk.waiting.first().is_some();
                if let Some(first) = desk.waiting.first() {
                    self.timers.push(Reverse((leases[first].deadline, desk.queue)));
                }
            }
        }
    }

    /// The consumer takes nothing more; its leases wait for `expire_leases`.
    pub(crate) fn end_consumer(&mut self, queue_slot: usize, id: ConsumerId) {
        let Some(consumer) = self.consumers.find_mut(id) else { return };
        consumer.has_ended = true;
        let (held, connection) = (consumer.held, consumer.connection);
        let desk = self.desk_mut(queue_slot);
        desk.consumers.retain(|&other| other != id);
        desk.takers.retain(|&other| other != id);
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.consumers.retain(|&other| other != id);
        }
        if held > 0 {
            self.ended.push_back(id);
        } else {
            self.consumers.close(id);
        }
    }

    /// The queue is deleted: its leases and consumers end; says who they were.
    pub(crate) fn close_desk(&mut self, slot: usize, ended: &mut Vec<(ConnectionId, ConsumerId)>) {
        for list in [self.desk_mut(slot).waiting, self.desk_mut(slot).settling] {
            let leases: Vec<u32> = self.leases.iter(list, By::Queue).map(|(at, _)| at).collect();
            leases.into_iter().for_each(|at| self.close_lease(slot, at));
        }
        for id in std::mem::take(&mut self.desk_mut(slot).consumers) {
            if let Some(Consumer { connection, .. }) = self.consumers.find(id) {
                ended.push((*connection, id));
            }
            self.end_consumer(slot, id);
        }
        let desk = self.desks[slot].take();
        self.unapplied -= desk.map_or(0, |desk| desk.unapplied);
    }

    pub(crate) fn check(&self, queues: &Registry<Queue>, sessions: &Registry<Session>) {
        assert_eq!(self.desks.iter().flatten().count(), queues.count() as usize);
        let (mut leases, mut unapplied) = (0, 0);
        for queue in queues.iter() {
            let desk = self.desk(queue_slot(queue.id)).expect("there is a desk for each queue");
            desk.check(queue);
            self.check_takers(desk);
            unapplied += desk.unapplied;
            let mut deadline = Time::ZERO;
            for (list, is_settling) in [(desk.waiting, false), (desk.settling, true)] {
                for (at, lease) in self.leases.iter(list, By::Queue) {
                    assert_eq!(lease.is_settling, is_settling);
                    assert!(is_settling || deadline <= lease.deadline);
                    deadline = lease.deadline;
                    let slot = queue.level(lease.priority).and_then(|level| level.slot(lease.sequence));
                    assert!(slot.is_some_and(|slot| slot.lease == at && at != NO_LEASE));
                    leases += 1;
                }
            }
        }
        assert_eq!(leases, self.leases.count());
        assert_eq!(unapplied, self.unapplied);
        for consumer in self.consumers.iter() {
            assert!(consumer.held <= consumer.credit);
            assert_eq!(self.leases.iter(consumer.leases, By::Consumer).count(), consumer.held as usize);
            assert_eq!(consumer.has_ended, self.ended.contains(&consumer.id));
        }
        for producer in self.producers.iter().flatten() {
            let session = sessions.find(producer.session.0).expect("a producer's session is there");
            assert!(session.window.last() <= producer.window.last());
            if producer.unapplied == 0 {
                assert_eq!(session.window, producer.window);
            }
        }
    }

    fn check_takers(&self, desk: &Desk) {
        let mut can_take = false;
        for &id in &desk.consumers {
            let consumer = self.consumers.find(id).expect("a desk names consumers that are there");
            assert_eq!(consumer.is_taker, desk.takers.contains(&id));
            assert!(consumer.is_taker || !consumer.can_take());
            can_take |= consumer.can_take();
        }
        assert_eq!(desk.is_in_round, self.round.contains(&desk.queue));
        assert!(desk.is_in_round || !can_take || !desk.has_offer());
        if let Some(first) = desk.waiting.first() {
            let is_armed = |timer: &Reverse<(Time, QueueId)>| {
                timer.0.1 == desk.queue && timer.0.0 <= self.leases[first].deadline
            };
            assert!(self.timers.iter().any(is_armed));
        }
    }
}
