//! What a group reads back from its log: entries, stored messages, checkpoints.

use ringmain_core::checkpoint::Restore;
use ringmain_core::command::{
    Batch, Command, Entry, MessageHead, Outcome, PublishHead, QueueId, Run, SessionId, Settlement,
    StoredMessage,
};
use ringmain_core::engine::{Answer, Applied, ConnectionId, Engine, EngineEffects, EngineOptions};
use ringmain_core::queue::Settings;
use ringmain_core::time::Time;
use ringmain_wal::{GroupId, Index, Position, Term};

use super::Target;
use super::mutation::leave;
use super::{chunks, join};

pub(super) const ENTRY: Target = Target {
    name: "entry",
    samples: || script().0,
    repair: leave,
    feed: feed_entry,
    // The settings of a queue own the name of its dead-letter queue.
    memory_bytes: 1024,
    memory_per_byte: 2,
};

pub(super) const APPLICATION: Target = Target {
    name: "application",
    samples: || vec![join(&script().0)],
    repair: leave,
    feed: feed_application,
    // The first queue and session of an engine make room for more of them, and each has levels.
    memory_bytes: 512 << 10,
    memory_per_byte: 64,
};

pub(super) const CHECKPOINT: Target = Target {
    name: "checkpoint",
    samples: || {
        let engine = script().1;
        [engine.checkpoint(), crowd().checkpoint()]
            .into_iter()
            .map(|mut checkpoint| {
                let mut parts = Vec::new();
                loop {
                    let mut part = Vec::new();
                    let is_last = checkpoint.encode_some(&mut part, 0);
                    parts.push(part);
                    if is_last {
                        break join(&parts);
                    }
                }
            })
            .collect()
    },
    repair: leave,
    feed: feed_checkpoint,
    // "The same again" is a few bytes for up to 16,384 messages of 20 bytes each, in chunks that double; a part has at
    // least 16 bytes.
    memory_bytes: 2 << 20,
    memory_per_byte: 64 << 10,
};

const OPTIONS: EngineOptions = EngineOptions { group: GroupId(0), ordinal: 0, messages_max: 1 << 20 };

/// An engine that is led through its life, and every entry on the way.
struct Life {
    engine: Engine,
    batch: Batch,
    entries: Vec<Vec<u8>>,
    effects: EngineEffects,
}

impl Life {
    fn new() -> Self {
        Self {
            engine: Engine::new(OPTIONS),
            batch: Batch::new(),
            entries: Vec::new(),
            effects: EngineEffects::default(),
        }
    }

    fn entry(&mut self, fill: impl FnOnce(&mut Batch)) -> Option<Answer> {
        let index = self.entries.len() as u64 + 1;
        self.batch.begin(Time(index * 1_000_000));
        fill(&mut self.batch);
        let data = self.batch.seal();
        self.effects.clear();
        self.engine.apply(applied(index, &data), &mut self.effects).expect("what the batch wrote is valid");
        self.entries.push(data.to_vec());
        self.effects.answers.first().copied()
    }

    fn queue(&mut self, name: &str, priorities: u16) -> QueueId {
        let settings = Settings { priorities, ..Settings::default() };
        match self.entry(|batch| batch.create_queue(name, &settings)) {
            Some(Answer::QueueCreated { queue }) => queue,
            answer => panic!("a queue is created: {answer:?}"),
        }
    }

    fn session(&mut self, producer: &str) -> SessionId {
        match self.entry(|batch| batch.open_session(producer)) {
            Some(Answer::SessionOpened { session, .. }) => session,
            answer => panic!("a session is opened: {answer:?}"),
        }
    }

    fn publish(&mut self, queue: QueueId, session: SessionId, sequence: u64, priorities: &[u8]) {
        let message = |&priority: &u8| MessageHead {
            payload_bytes: 3,
            headers_bytes: 1,
            key_bytes: 1,
            priority,
            ..MessageHead::default()
        };
        let messages: Vec<_> = priorities.iter().map(message).collect();
        let body = vec![b'x'; 5 * messages.len()];
        let head = PublishHead {
            queue,
            session,
            epoch: 1,
            sequence,
            count: messages.len() as u32,
            bytes: body.len() as u64,
            priority_max: priorities.iter().copied().max().unwrap_or(0),
        };
        self.entry(|batch| batch.publish(&head, messages, &body));
    }

    fn settle(&mut self, queue: QueueId, outcome: Outcome, run: Run) {
        let settlement = Settlement { queue, outcome, run };
        self.entry(|batch| batch.settle(&[settlement]));
    }
}

fn applied(index: u64, data: &[u8]) -> Applied<'_> {
    Applied { index: Index(index), term: Term(1), position: Position((1 << 20) + index * 4096), data }
}

/// Everything an entry can hold.
fn script() -> (Vec<Vec<u8>>, Engine) {
    let mut life = Life::new();
    let orders = life.queue("orders", 8);
    let logs = life.queue("logs", 1);
    let named = life.session("a producer with a name");
    let anonymous = life.session("");
    life.publish(orders, named, 1, &[0, 7, 3, 7, 7]);
    life.publish(orders, anonymous, 1, &[1]);
    life.publish(logs, anonymous, 5, &[0; 30]);
    life.settle(orders, Outcome::Ack, Run { priority: 7, sequence: 1, count: 2 });
    life.settle(orders, Outcome::Requeue, Run { priority: 3, sequence: 1, count: 1 });
    life.settle(logs, Outcome::Reject, Run { priority: 0, sequence: 11, count: 10 });
    life.entry(|batch| batch.purge_queue(orders, &[Run::one(0, 1)]));
    let gone = life.queue("gone", 2);
    life.publish(gone, named, 2, &[0, 1]);
    life.entry(|batch| batch.delete_queue(gone));
    life.entry(|batch| batch.expire_sessions(&[named]));
    life.engine.check();
    (life.entries, life.engine)
}

/// Many messages, most of them alike.
fn crowd() -> Engine {
    let mut life = Life::new();
    let queue = life.queue("crowd", 2);
    let session = life.session("");
    for sequence in 1..=20 {
        life.publish(queue, session, sequence, &[(sequence % 2) as u8; 100]);
    }
    life.settle(queue, Outcome::Ack, Run { priority: 0, sequence: 100, count: 333 });
    life.settle(queue, Outcome::Requeue, Run { priority: 1, sequence: 7, count: 3 });
    life.engine
}

fn feed_entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(bytes) {
        for command in entry.map_while(Result::ok) {
            match command {
                Command::Publish(publish) => {
                    let queue = publish.queue;
                    for message in publish.map_while(Result::ok) {
                        let stored = &bytes[message.offset..message.offset + message.bytes as usize];
                        if let Ok(stored) = StoredMessage::parse(stored, queue) {
                            assert_eq!(stored.head, message.message);
                        }
                    }
                }
                Command::Settle { runs, .. } | Command::PurgeQueue { kept: runs, .. } => {
                    std::hint::black_box(runs.count());
                }
                Command::ExpireSessions { sessions } => drop(std::hint::black_box(sessions.count())),
                Command::CreateQueue { .. } | Command::DeleteQueue { .. } | Command::OpenSession { .. } => {}
            }
        }
    }
    std::hint::black_box(StoredMessage::parse(bytes, QueueId(1)).is_ok());
}

/// A state that came out of any entries at all is whole, survives its checkpoint, and can be led.
fn feed_application(bytes: &[u8]) {
    let mut engine = Engine::new(OPTIONS);
    let mut effects = EngineEffects::default();
    for (index, entry) in chunks(bytes).enumerate() {
        effects.clear();
        if limits_a_queue(entry) {
            // Limits are the leader's to keep, before it writes an entry; who applies one only counts.
            return;
        }
        if engine.apply(applied(index as u64 + 1, entry), &mut effects).is_err() {
            // The node stops here: state and log have parted.
            return;
        }
        engine.check();
    }
    let mut checkpoint = engine.checkpoint();
    let mut restore = Restore::new(OPTIONS);
    loop {
        let mut part = Vec::new();
        let is_last = checkpoint.encode_some(&mut part, 4096);
        restore.feed(&part).expect("a part just written can be read");
        if is_last {
            break;
        }
    }
    let restored = restore.finish().expect("a checkpoint just written can be read");
    assert_eq!(restored.digest(), engine.digest());
    drop(restored);
    lead(&mut engine);
}

fn limits_a_queue(entry: &[u8]) -> bool {
    let mut commands = Entry::parse(entry).into_iter().flatten().map_while(Result::ok);
    commands.any(|command| match command {
        Command::CreateQueue { settings, .. } => settings.max_length != 0 || settings.max_bytes != 0,
        _ => false,
    })
}

fn lead(engine: &mut Engine) {
    engine.lead(Time(1));
    let queues: Vec<QueueId> = engine.queues_after("").map(|(_, queue)| queue).collect();
    for queue in queues {
        std::hint::black_box(engine.subscribe(ConnectionId(1), queue, 10).is_ok());
    }
    for _ in 0..50 {
        let Some(dispatch) = engine.poll_delivery() else { break };
        engine.delivered(&dispatch, Time(2));
    }
    engine.check();
}

fn feed_checkpoint(bytes: &[u8]) {
    let mut restore = Restore::new(OPTIONS);
    for part in chunks(bytes) {
        if restore.feed(part).is_err() {
            return;
        }
    }
    if let Ok(mut engine) = restore.finish() {
        engine.check();
        lead(&mut engine);
    }
}
