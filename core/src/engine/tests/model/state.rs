//! The replicated state as plainly as it can be said, and what each command does to it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::command::{Outcome, PublishHead, QueueId, Run, SessionId, Settlement};
use crate::engine::{Answer, Refusal};
use crate::queue::Settings;
use crate::time::Time;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    /// Session, publish and number within it: what the payload says.
    pub(super) payload: (u64, u64, u8),
    pub(super) bytes: u64,
    pub(super) deliveries: u16,
}

#[derive(Clone, Debug)]
pub(super) struct ModelQueue {
    pub(super) name: String,
    pub(super) settings: Settings,
    /// In the order of delivery.
    pub(super) messages: BTreeMap<(Reverse<u8>, u64), Message>,
    pub(super) next: BTreeMap<u8, u64>,
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) rejected: u64,
    pub(super) purged: u64,
}

#[derive(Clone, Debug)]
pub(super) struct ModelSession {
    pub(super) producer: String,
    pub(super) epoch: u32,
    pub(super) last: u64,
    pub(super) stored: BTreeSet<u64>,
    pub(super) used: Time,
}

/// The replicated state.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) queues: BTreeMap<QueueId, ModelQueue>,
    pub(super) sessions: BTreeMap<SessionId, ModelSession>,
}

#[derive(Clone, Debug)]
pub(super) enum Deed {
    Publish { head: PublishHead, priorities: Vec<u8>, bytes: u32 },
    Settle(Vec<Settlement>),
    Create { name: String, settings: Settings },
    Delete(QueueId),
    Purge { queue: QueueId, kept: Vec<Run> },
    Open { producer: String },
    Expire(Vec<SessionId>),
}

pub(super) fn key(priority: u8, sequence: u64) -> (Reverse<u8>, u64) {
    (Reverse(priority), sequence)
}

impl State {
    pub(super) fn apply(&mut self, stamp: Time, deed: &Deed, answer: Option<Answer>) {
        match deed {
            Deed::Publish { head, priorities, bytes } => self.publish(stamp, head, priorities, *bytes),
            Deed::Settle(settlements) => settlements.iter().for_each(|settlement| self.settle(settlement)),
            Deed::Create { name, settings } => self.create(name, settings, answer.unwrap()),
            Deed::Delete(queue) => {
                let messages = self.queues.remove(queue).map(|queue| queue.messages.len() as u64);
                let expected = messages.map(|messages| Answer::QueueDeleted { messages });
                assert_eq!(answer.unwrap(), expected.unwrap_or(Answer::Refused(Refusal::NoSuchQueue)));
            }
            Deed::Purge { queue, kept } => {
                let expected = self.purge(*queue, kept);
                assert_eq!(answer.unwrap(), expected.unwrap_or(Answer::Refused(Refusal::NoSuchQueue)));
            }
            Deed::Open { producer } => self.open(stamp, producer, answer.unwrap()),
            Deed::Expire(sessions) => {
                sessions.iter().for_each(|session| assert!(self.sessions.remove(session).is_some()));
                assert_eq!(answer.unwrap(), Answer::SessionsExpired { sessions: sessions.len() as u32 });
            }
        }
    }

    fn publish(&mut self, stamp: Time, head: &PublishHead, priorities: &[u8], bytes: u32) {
        let session = self.sessions.get_mut(&head.session).unwrap();
        assert!(session.stored.insert(head.sequence));
        session.last = head.sequence;
        session.used = stamp;
        let queue = self.queues.get_mut(&head.queue).expect("nothing is admitted behind a delete");
        for (number, &priority) in priorities.iter().enumerate() {
            let next = queue.next.entry(priority).or_insert(1);
            let payload = (head.session.0 & 0xff, head.sequence, number as u8);
            let message = Message { payload, bytes: u64::from(bytes), deliveries: 0 };
            assert!(queue.messages.insert(key(priority, *next), message).is_none());
            *next += 1;
            queue.published += 1;
        }
    }

    fn settle(&mut self, settlement: &Settlement) {
        let Some(queue) = self.queues.get_mut(&settlement.queue) else { return };
        for sequence in settlement.run.sequence..settlement.run.end() {
            let place = key(settlement.run.priority, sequence);
            match settlement.outcome {
                Outcome::Ack => queue.acknowledged += queue.messages.remove(&place).map_or(0, |_| 1),
                Outcome::Reject => queue.rejected += queue.messages.remove(&place).map_or(0, |_| 1),
                Outcome::Requeue => {
                    if let Some(message) = queue.messages.get_mut(&place) {
                        message.deliveries += 1;
                    }
                }
            }
        }
    }

    fn create(&mut self, name: &str, settings: &Settings, answer: Answer) {
        let same_name = self.queues.iter().find(|(_, queue)| queue.name == name);
        match (same_name, answer) {
            (Some((id, queue)), Answer::QueueKept { queue: kept }) => {
                assert_eq!((*id, &queue.settings), (kept, settings));
            }
            (Some((_, queue)), Answer::Refused(Refusal::QueueExists)) => {
                assert_ne!(queue.settings, *settings)
            }
            (None, Answer::QueueCreated { queue }) => {
                let created = ModelQueue {
                    name: name.to_owned(),
                    settings: settings.clone(),
                    messages: BTreeMap::new(),
                    next: BTreeMap::new(),
                    published: 0,
                    acknowledged: 0,
                    rejected: 0,
                    purged: 0,
                };
                assert!(self.queues.insert(queue, created).is_none());
            }
            other => panic!("{other:?}"),
        }
    }

    fn purge(&mut self, queue: QueueId, kept: &[Run]) -> Option<Answer> {
        let queue = self.queues.get_mut(&queue)?;
        let before = queue.messages.len() as u64;
        queue.messages.retain(|(Reverse(priority), sequence), _| {
            kept.iter().any(|run| run.priority == *priority && (run.sequence..run.end()).contains(sequence))
        });
        let messages = before - queue.messages.len() as u64;
        queue.purged += messages;
        Some(Answer::QueuePurged { messages })
    }

    fn open(&mut self, stamp: Time, producer: &str, answer: Answer) {
        let Answer::SessionOpened { session, epoch, last_sequence } = answer else { panic!("{answer:?}") };
        let known =
            self.sessions.iter_mut().find(|(_, known)| !producer.is_empty() && known.producer == producer);
        if let Some((id, known)) = known {
            known.epoch += 1;
            known.used = stamp;
            assert_eq!((*id, known.epoch, known.last), (session, epoch, last_sequence));
            return;
        }
        assert_eq!((epoch, last_sequence), (1, 0));
        let opened = ModelSession {
            producer: producer.to_owned(),
            epoch: 1,
            last: 0,
            stored: BTreeSet::new(),
            used: stamp,
        };
        assert!(self.sessions.insert(session, opened).is_none());
    }
}
