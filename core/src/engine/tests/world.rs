//! One engine with a log that is a vector: proposes, applies, delivers, and reads payloads back by position.

use bytes::Bytes;
use ringmain_wal::{GroupId, Index, Position, Term};

use crate::checkpoint::Restore;
use crate::command::{
    Batch, Extent, MessageHead, Outcome, PublishHead, QueueId, Run, SessionId, Settlement, StoredMessage,
};
use crate::engine::{
    Admission, Answer, Applied, ConnectionId, ConsumerId, Dispatch, Engine, EngineEffects, EngineOptions,
    SettleRun, SettleSplit,
};
use crate::queue::Settings;
use crate::time::Time;

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) batch: Batch,
    pub(crate) now: Time,
    pub(crate) term: Term,
    pub(crate) log: Vec<Logged>,
    /// Entries of the log that are applied.
    pub(crate) applied: usize,
    /// Of the last entry applied.
    pub(crate) effects: EngineEffects,
    /// Live bytes as the effects tell them, by position.
    held: std::collections::BTreeMap<u64, u64>,
    options: EngineOptions,
}

pub(crate) struct Logged {
    pub(crate) term: Term,
    pub(crate) position: Position,
    pub(crate) data: Bytes,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionOpened {
    pub(crate) session: SessionId,
    pub(crate) epoch: u32,
    pub(crate) last_sequence: u64,
}

pub(crate) fn settle(
    outcome: Outcome,
    priority: u8,
    sequence: u64,
    count: u32,
    deliveries: u16,
) -> SettleRun {
    SettleRun { run: Run { priority, sequence, count }, deliveries, outcome }
}

/// Writes messages of ten bytes whose payload begins with the session's and the publish's number.
pub(crate) fn put_publish(
    batch: &mut Batch,
    queue: QueueId,
    session: SessionOpened,
    sequence: u64,
    priorities: &[u8],
) {
    let head = publish_head(queue, session, sequence, priorities, 10);
    put_messages(batch, &head, priorities, 10);
}

pub(crate) fn publish_head(
    queue: QueueId,
    session: SessionOpened,
    sequence: u64,
    priorities: &[u8],
    bytes: u32,
) -> PublishHead {
    PublishHead {
        queue,
        session: session.session,
        epoch: session.epoch,
        sequence,
        count: priorities.len() as u32,
        bytes: u64::from(bytes) * priorities.len() as u64,
        priority_max: priorities.iter().copied().max().unwrap_or(0),
    }
}

pub(crate) fn put_messages(batch: &mut Batch, head: &PublishHead, priorities: &[u8], bytes: u32) {
    let mut body = Vec::new();
    for number in 0..priorities.len() {
        let from = body.len();
        body.extend_from_slice(&head.sequence.to_le_bytes());
        body.push(number as u8);
        body.resize(from + bytes as usize, head.session.0 as u8);
    }
    let heads = priorities.iter().map(|&priority| MessageHead {
        payload_bytes: bytes,
        priority,
        ..MessageHead::default()
    });
    batch.publish(head, heads, &body);
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_messages_max(1 << 40)
    }

    pub(crate) fn with_messages_max(messages_max: u64) -> Self {
        Self::with(EngineOptions { group: GroupId(1), ordinal: 0, messages_max })
    }

    pub(crate) fn with(options: EngineOptions) -> Self {
        let now = Time(1_000_000_000);
        let mut batch = Batch::new();
        batch.begin(now);
        Self {
            engine: Engine::new(options),
            batch,
            now,
            term: Term(0),
            log: Vec::new(),
            applied: 0,
            effects: EngineEffects::default(),
            held: std::collections::BTreeMap::new(),
            options,
        }
    }

    /// A new term, with the empty entry that a leader begins it with.
    pub(crate) fn lead(&mut self) {
        self.term.0 += 1;
        let position = self.next_position();
        self.log.push(Logged { term: self.term, position, data: Bytes::new() });
        while self.applied < self.log.len() {
            self.apply_next();
        }
        self.engine.lead(self.now);
        self.batch.begin(self.now);
    }

    /// Time passes, with nothing in the batch.
    pub(crate) fn pass(&mut self, ns: u64) {
        assert!(self.batch.is_empty());
        self.now.0 += ns;
        self.batch.begin(self.now);
    }

    pub(crate) fn create(&mut self, name: &str, settings: Settings) -> QueueId {
        self.engine.begin_create(name, &settings).unwrap();
        self.batch.create_queue(name, &settings);
        self.commit();
        match self.effects.answers.last() {
            Some(Answer::QueueCreated { queue }) => *queue,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn begin_open(&mut self, producer: &str) {
        self.engine.begin_open_session(producer).unwrap();
        self.batch.open_session(producer);
    }

    pub(crate) fn open(&mut self, producer: &str) -> SessionOpened {
        self.begin_open(producer);
        self.commit();
        self.opened()
    }

    pub(crate) fn opened(&self) -> SessionOpened {
        match self.effects.answers.last() {
            Some(&Answer::SessionOpened { session, epoch, last_sequence }) => {
                SessionOpened { session, epoch, last_sequence }
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn publish(
        &mut self,
        queue: QueueId,
        session: SessionId,
        sequence: u64,
        p: &[u8],
    ) -> Admission {
        self.publish_bytes(queue, session, sequence, (p, 10))
    }

    pub(crate) fn publish_as(&mut self, queue: QueueId, session: SessionOpened, sequence: u64) -> Admission {
        self.publish_with(&publish_head(queue, session, sequence, &[0], 10), &[0], 10)
    }

    pub(crate) fn publish_bytes(
        &mut self,
        queue: QueueId,
        session: SessionId,
        sequence: u64,
        (priorities, bytes): (&[u8], u32),
    ) -> Admission {
        let session = SessionOpened { session, epoch: 1, last_sequence: 0 };
        self.publish_with(&publish_head(queue, session, sequence, priorities, bytes), priorities, bytes)
    }

    pub(crate) fn publish_with(&mut self, head: &PublishHead, priorities: &[u8], bytes: u32) -> Admission {
        let admission = self.engine.admit_publish(head);
        if admission == Admission::Fresh {
            put_messages(&mut self.batch, head, priorities, bytes.max(9));
        }
        admission
    }

    pub(crate) fn settle(
        &mut self,
        connection: ConnectionId,
        consumer: ConsumerId,
        runs: &[SettleRun],
    ) -> SettleSplit {
        let mut log: Vec<Settlement> = Vec::new();
        let split = self.engine.begin_settle(connection, consumer, runs, &mut log).unwrap();
        self.batch.settle(&log);
        split
    }

    /// Delivers up to `count` messages; each is read back from the log.
    pub(crate) fn deliver(&mut self, count: usize) -> Vec<Dispatch> {
        let mut sent = Vec::new();
        while sent.len() < count
            && let Some(dispatch) = self.engine.poll_delivery()
        {
            assert_eq!(self.engine.poll_delivery(), Some(dispatch), "asking changes nothing");
            let message =
                StoredMessage::parse(self.read(dispatch.position, dispatch.bytes), dispatch.queue).unwrap();
            assert_eq!(message.head.priority, dispatch.priority);
            self.engine.delivered(&dispatch, self.now);
            sent.push(dispatch);
        }
        sent
    }

    pub(crate) fn read(&self, position: Position, bytes: u32) -> &[u8] {
        let at = self.log.partition_point(|logged| logged.position <= position) - 1;
        let from = (position.0 - self.log[at].position.0) as usize;
        &self.log[at].data[from..from + bytes as usize]
    }

    pub(crate) fn propose(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let position = self.next_position();
        self.log.push(Logged { term: self.term, position, data: self.batch.seal() });
        self.batch.begin(self.now);
    }

    /// Proposes what is pending and applies everything.
    pub(crate) fn commit(&mut self) {
        self.propose();
        while self.applied < self.log.len() {
            self.apply_next();
        }
    }

    pub(crate) fn apply_next(&mut self) {
        self.apply_at(self.applied);
        self.applied += 1;
    }

    fn apply_at(&mut self, at: usize) {
        self.effects.clear();
        let Logged { term, position, data } = &self.log[at];
        let entry = Applied { index: Index(at as u64 + 1), term: *term, position: *position, data };
        self.engine.apply(entry, &mut self.effects).unwrap();
        for extent in &self.effects.held {
            assert!(self.held.insert(extent.position.0, extent.bytes).is_none());
        }
        let released = std::mem::take(&mut self.effects.released);
        released.iter().for_each(|extent| self.release(*extent));
        self.effects.released = released;
    }

    /// The log's live bytes are those of the live messages.
    pub(crate) fn check_extents(&mut self) {
        let mut released = Vec::new();
        while self.engine.reap(100, &mut released) {}
        released.into_iter().for_each(|extent| self.release(extent));
        let held: u64 = self.held.values().sum();
        let live: u64 = self.engine.extents().map(|extent| extent.bytes).sum();
        assert_eq!(held, live);
        for extent in self.engine.extents() {
            let (from, bytes) = self.held.range(..=extent.position.0).next_back().unwrap();
            assert!(extent.position.0 + extent.bytes <= from + bytes);
        }
    }

    /// What is held together may be released in pieces, and the other way round.
    fn release(&mut self, extent: Extent) {
        let (mut at, end) = (extent.position.0, extent.position.0 + extent.bytes);
        while at < end {
            let (&from, &bytes) = self.held.range(..=at).next_back().unwrap();
            let until = end.min(from + bytes);
            assert!(at < until, "released twice, or never held");
            self.held.remove(&from);
            if from < at {
                self.held.insert(from, at - from);
            }
            if until < from + bytes {
                self.held.insert(until, from + bytes - until);
            }
            at = until;
        }
    }

    /// The process starts again from the log alone.
    pub(crate) fn restart(&mut self) {
        let entries = 0..self.applied;
        self.restart_with(Engine::new(self.options), entries);
    }

    /// The process starts again from a checkpoint and what follows on it in the log.
    pub(crate) fn restart_from(&mut self, parts: &[Vec<u8>]) {
        let mut restore = Restore::new(self.options);
        parts.iter().for_each(|part| restore.feed(part).unwrap());
        let engine = restore.finish().unwrap();
        engine.check();
        let from = engine.applied().0.0 as usize;
        self.restart_with(engine, from..self.applied);
    }

    fn restart_with(&mut self, engine: Engine, entries: std::ops::Range<usize>) {
        self.held = engine.extents().map(|extent| (extent.position.0, extent.bytes)).collect();
        self.engine = engine;
        self.batch.begin(self.now);
        entries.for_each(|at| self.apply_at(at));
        self.engine.check();
    }

    fn next_position(&self) -> Position {
        // Something lies between any two entries of a log.
        self.log.last().map_or(Position(4_096), |last| last.position.advance(last.data.len() as u64 + 104))
    }
}

/// The parts of a checkpoint.
pub(crate) fn encode(engine: &Engine, budget_bytes: usize) -> Vec<Vec<u8>> {
    let mut checkpoint = engine.checkpoint();
    let mut parts = Vec::new();
    loop {
        let mut part = Vec::new();
        let is_last = checkpoint.encode_some(&mut part, budget_bytes);
        parts.push(part);
        if is_last {
            return parts;
        }
    }
}
