//! Who gets which message next: leases, consumers, credit. Leader-local.

use std::cmp::Reverse;

use ringmain_wal::Position;

use super::leader::{Connection, Leader};
use super::{Engine, Refusal, queue_slot};
use crate::command::{Outcome, QueueId, Run, Settlement, note_settled};
use crate::queue::consumer::{CONSUMERS_PER_QUEUE_MAX, CREDIT_MAX, ConnectionId, ConsumerId};
use crate::queue::desk::TURN_DELIVERIES;
use crate::queue::lease::{By, NO_LEASE};
use crate::time::Time;

/// The next message to be sent, and where it lies. It is leased once `delivered` is told so.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    pub connection: ConnectionId,
    pub consumer: ConsumerId,
    pub queue: QueueId,
    pub priority: u8,
    pub sequence: u64,
    /// This delivery included, as far as the ends of earlier ones were logged.
    pub deliveries: u16,
    /// It was, or may have been, delivered before.
    pub is_redelivered: bool,
    /// Of the stored message; `bytes` is all of it, head included.
    pub position: Position,
    pub bytes: u32,
}

/// What a consumer says about messages that it was delivered `deliveries` times.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SettleRun {
    pub run: Run,
    pub deliveries: u16,
    pub outcome: Outcome,
}

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct SettleSplit {
    /// Their leases end when what was noted is committed.
    pub accepted: u32,
    /// Their leases were over, or never this consumer's.
    pub stale: u32,
}

impl Engine {
    /// This replica leads, and has applied everything from before its term. Everything unsettled is ready.
    pub fn lead(&mut self, now: Time) {
        assert!(self.leader.is_none());
        self.leader = Some(Box::new(Leader::new(&self.queues, self.options.ordinal, now)));
    }

    /// As [`Engine::lead`], after another replica: what it had delivered is not known here, so everything that is there may
    /// be a redelivery.
    pub fn succeed(&mut self, now: Time) {
        self.lead(now);
        let leader = self.leader.as_mut().expect("it leads from here on");
        for queue in self.queues.iter() {
            leader.desk_mut(queue_slot(queue.id)).note_past(queue);
        }
    }

    /// This replica leads no longer: leases, consumers and what was on its way are forgotten. Says which consumers ended.
    pub fn follow(&mut self, ended: &mut Vec<(ConnectionId, ConsumerId)>) {
        let Some(leader) = self.leader.take() else { return };
        let is_live = |consumer: &&crate::queue::consumer::Consumer| !consumer.has_ended;
        ended.extend(
            leader.consumers.iter().filter(is_live).map(|consumer| (consumer.connection, consumer.id)),
        );
        for desk in leader.desks() {
            for list in [desk.waiting, desk.settling] {
                for (_, lease) in leader.leases.iter(list, By::Queue) {
                    let Some(queue) = self.queues.find_mut(lease.queue.0) else { continue };
                    let Some(rank) = queue.rank(lease.priority) else { continue };
                    if let Some(slot) = queue.slot_mut(rank, lease.sequence) {
                        slot.lease = NO_LEASE;
                        slot.was_delivered = true;
                    }
                }
            }
        }
    }

    pub fn subscribe(
        &mut self,
        connection: ConnectionId,
        queue: QueueId,
        credit: u32,
    ) -> Result<ConsumerId, Refusal> {
        let leader = self.leader.as_mut().ok_or(Refusal::NotLeader)?;
        self.queues.find(queue.0).ok_or(Refusal::NoSuchQueue)?;
        let slot = queue_slot(queue);
        let desk = leader.desk_mut(slot);
        if desk.is_deleting {
            return Err(Refusal::NoSuchQueue);
        }
        if !(1..=CREDIT_MAX).contains(&credit) {
            return Err(Refusal::Malformed);
        }
        if desk.consumers.len() == CONSUMERS_PER_QUEUE_MAX {
            return Err(Refusal::TooMany);
        }
        let id = leader.consumers.open(connection, queue, credit)?;
        leader.desk_mut(slot).consumers.push(id);
        let place: &mut Connection = leader.connections.entry(connection).or_default();
        place.consumers.push(id);
        let is_paused = place.is_paused;
        leader.consumers.holder_mut(id.slot()).is_paused = is_paused;
        leader.enlist(slot, id.slot());
        Ok(id)
    }

    /// The consumer takes nothing more. What it holds comes out of `expire_leases`.
    pub fn unsubscribe(&mut self, connection: ConnectionId, consumer: ConsumerId) -> Result<(), Refusal> {
        let leader = self.leader.as_mut().ok_or(Refusal::NotLeader)?;
        let found = leader.consumers.find(consumer).ok_or(Refusal::NoSuchConsumer)?;
        if found.connection != connection || found.has_ended {
            return Err(Refusal::NoSuchConsumer);
        }
        leader.end_consumer(queue_slot(found.queue), consumer);
        Ok(())
    }

    /// The connection is gone. What its consumers hold comes out of `expire_leases`.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        let Some(leader) = &mut self.leader else { return };
        let Some(gone) = leader.connections.remove(&connection) else { return };
        for id in gone.consumers {
            if let Some(consumer) = leader.consumers.find(id) {
                leader.end_consumer(queue_slot(consumer.queue), id);
            }
        }
    }

    /// The connection's send buffer is full: nothing is dispatched to it until `resume`.
    pub fn pause(&mut self, connection: ConnectionId) {
        let Some(leader) = &mut self.leader else { return };
        let Some(place) = leader.connections.get_mut(&connection) else { return };
        place.is_paused = true;
        for &id in &place.consumers {
            leader.consumers.holder_mut(id.slot()).is_paused = true;
        }
    }

    pub fn resume(&mut self, connection: ConnectionId) {
        let Some(leader) = &mut self.leader else { return };
        let Some(place) = leader.connections.get_mut(&connection) else { return };
        place.is_paused = false;
        // Taken out meanwhile: to enlist a consumer needs all of the leader.
        let consumers = std::mem::take(&mut place.consumers);
        for &id in &consumers {
            let consumer = leader.consumers.holder_mut(id.slot());
            consumer.is_paused = false;
            let slot = queue_slot(consumer.queue);
            leader.enlist(slot, id.slot());
        }
        leader.connections.entry(connection).or_default().consumers = consumers;
    }

    /// The next message and its taker: queues in turn, in a queue strictly by priority, then by sequence; consumers
    /// with credit in turn. Nothing changes until `delivered`, `park` or `pause` says what became of it.
    pub fn poll_delivery(&mut self) -> Option<Dispatch> {
        let leader = self.leader.as_mut()?;
        if leader.leases.is_full() {
            return None;
        }
        while let Some(&id) = leader.round.front() {
            let Some(queue) = self.queues.find(id.0) else {
                leader.round.pop_front();
                continue;
            };
            let slot = queue_slot(id);
            let (consumer, connection) = match leader.next_taker(slot) {
                Some(taker) if leader.desk(slot).is_some_and(|desk| desk.has_offer()) => taker,
                _ => {
                    leader.round.pop_front();
                    let desk = leader.desk_mut(slot);
                    desk.is_in_round = false;
                    desk.turn_left = TURN_DELIVERIES;
                    continue;
                }
            };
            // The desk has an offer and the message that it names is there: both were looked at just now.
            let (priority, sequence) = leader.desk_mut(slot).next(queue).expect("an offer has a message");
            let message =
                queue.level(priority).and_then(|level| level.slot(sequence)).expect("the message is live");
            let rank = queue.rank(priority).expect("a level that has a message is there");
            let is_past = leader.desk(slot).is_some_and(|desk| desk.is_past(rank, sequence));
            let deliveries = message.deliveries.saturating_add(1);
            return Some(Dispatch {
                connection,
                consumer,
                queue: id,
                priority,
                sequence,
                deliveries,
                is_redelivered: deliveries > 1 || message.was_delivered || is_past,
                position: message.position,
                bytes: message.stored_bytes,
            });
        }
        None
    }

    /// The message that `poll_delivery` named last is on its way to its consumer.
    pub fn delivered(&mut self, dispatch: &Dispatch, now: Time) {
        let leader = self.leader.as_mut().expect("only a leader dispatches");
        leader.now = leader.now.max(now);
        let slot = queue_slot(dispatch.queue);
        let queue = self.queues.find_mut(dispatch.queue.0).expect("the dispatched queue is there");
        let rank = queue.rank(dispatch.priority).expect("the dispatched level is there");
        let message = queue.slot_mut(rank, dispatch.sequence).expect("the dispatched message is there");
        assert!(message.is_ready());

        let deadline = leader.now.after_ms(u64::from(leader.desk_mut(slot).lease_ms));
        let place = (dispatch.priority, dispatch.sequence);
        let at = leader.leases.open(dispatch.queue, place, dispatch.consumer.slot(), deadline);
        message.lease = at;
        let stored_bytes = message.stored_bytes;
        leader.lend(slot, at);
        let desk = leader.desk_mut(slot);
        desk.take(rank, dispatch.sequence, stored_bytes);
        desk.refresh(rank, &queue.levels()[rank]);
        leader.arm_timer(slot);
        leader.turn(slot, dispatch.consumer);
    }

    /// The queue's next payload must be read from disk first: nothing of the queue is dispatched until `unpark`.
    pub fn park(&mut self, queue: QueueId) {
        let Some(leader) = &mut self.leader else { return };
        if self.queues.find(queue.0).is_some() {
            leader.desk_mut(queue_slot(queue)).is_parked = true;
        }
    }

    pub fn unpark(&mut self, queue: QueueId) {
        let Some(leader) = &mut self.leader else { return };
        if self.queues.find(queue.0).is_some() {
            leader.desk_mut(queue_slot(queue)).is_parked = false;
            leader.offer(queue_slot(queue));
        }
    }

    /// Ends leases as their consumer says and notes what must be logged; what is over already is counted as stale.
    pub fn begin_settle(
        &mut self,
        connection: ConnectionId,
        consumer: ConsumerId,
        runs: &[SettleRun],
        log: &mut Vec<Settlement>,
    ) -> Result<SettleSplit, Refusal> {
        let leader = self.leader.as_mut().ok_or(Refusal::NotLeader)?;
        let found = leader.consumers.find(consumer).ok_or(Refusal::NoSuchConsumer)?;
        if found.connection != connection || found.has_ended {
            return Err(Refusal::NoSuchConsumer);
        }
        // Nobody holds more than the largest credit: a longer list is not worth walking.
        let total = runs.iter().fold(0u64, |total, run| total.saturating_add(u64::from(run.run.count)));
        if total > u64::from(CREDIT_MAX) {
            return Err(Refusal::TooMany);
        }
        let id = found.queue;
        let slot = queue_slot(id);
        let queue = self.queues.find(id.0).ok_or(Refusal::NoSuchQueue)?;
        let mut split = SettleSplit::default();
        for SettleRun { run, deliveries, outcome } in runs {
            let level = queue.level(run.priority);
            for sequence in run.sequence..run.end() {
                let message = level.and_then(|level| level.slot(sequence));
                let lease = message
                    .filter(|message| message.deliveries.saturating_add(1) == *deliveries)
                    .map(|message| message.lease)
                    .filter(|&lease| lease != NO_LEASE)
                    .filter(|&lease| {
                        let lease = &leader.leases[lease];
                        !lease.is_settling && lease.consumer == consumer.slot()
                    });
                let Some(lease) = lease else { continue };
                leader.begin_settling(slot, lease);
                note_settled(log, id, *outcome, (run.priority, sequence));
                split.accepted += 1;
            }
        }
        split.stale = total as u32 - split.accepted;
        Ok(split)
    }

    /// Notes up to `leases_max` leases that are to be requeued: of ended consumers, and those past their deadline. The
    /// messages are ready again when that is applied. There may be more as long as `next_deadline` is not after `now`.
    pub fn expire_leases(&mut self, now: Time, leases_max: usize, log: &mut Vec<Settlement>) {
        let Some(leader) = &mut self.leader else { return };
        leader.now = leader.now.max(now);
        let mut left = leases_max;
        while left > 0
            && let Some(&id) = leader.ended.front()
        {
            let held = leader.consumers.find(id).and_then(|consumer| consumer.leases.first());
            let Some(at) = held else {
                leader.ended.pop_front();
                leader.consumers.close(id);
                continue;
            };
            leader.expire(at, log);
            left -= 1;
        }
        while left > 0
            && let Some(&Reverse((deadline, id))) = leader.timers.peek()
            && deadline <= leader.now
        {
            if self.queues.find(id.0).is_none() {
                leader.timers.pop();
                continue;
            }
            let slot = queue_slot(id);
            let first = leader.desk_mut(slot).waiting.first();
            match first.filter(|&at| leader.leases[at].deadline <= leader.now) {
                Some(at) => {
                    leader.expire(at, log);
                    left -= 1;
                }
                None => {
                    leader.timers.pop();
                    leader.desk_mut(slot).has_timer = false;
                    leader.arm_timer(slot);
                }
            }
        }
    }

    /// When `expire_leases` is due, or sooner; zero means now.
    pub fn next_deadline(&self) -> Option<Time> {
        let leader = self.leader.as_ref()?;
        if !leader.ended.is_empty() {
            return Some(Time::ZERO);
        }
        leader.timers.peek().map(|&Reverse((deadline, _))| deadline)
    }
}
