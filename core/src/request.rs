//! What a shard does with each kind of request: look, decide, add to the batch, owe an answer.
//!
//! Lives inside the shard. Words of the wire become words of the engine here and nowhere else. A request either
//! is answered or refused at once, or leaves an owed answer in the open proposal of its group.

use crate::command::{
    COMMAND_HEADER_BYTES, MessageHead, Outcome, PUBLISH_HEAD_BYTES, PublishHead, QueueId, RUN_BYTES, Run,
    STORED_HEAD_BYTES, SessionId,
};
use crate::connection::{ConnectionId, Stage};
use crate::engine::registry::ordinal_of;
use crate::engine::{Admission, LevelInfo, Refusal, SettleRun};
use crate::group::Group;
use crate::proposal::Published;
use crate::queue::Settings;
use crate::queue::consumer::{CREDIT_MAX, ConsumerId};
use crate::reads::Read;
use crate::reply::{self, Asked, PublishNumber, Reason};
use crate::session::WINDOW;
use crate::shard::Shard;
use crate::time::Time;
use ringmain_net::frame::Frame;
use ringmain_net::protocol::{
    self, Cluster, Code, CreateQueue, Done, Hello, ListQueues, OpenQueue, OpenSession, Pong, PublishView,
    QueueList, QueueOpened, QueueShown, RECEIPT_DUPLICATE, Receipt, Refused, Request, SettleView, Settled,
    ShardAddress, Subscribe, Subscribed, Welcome,
};
use ringmain_net::route;
use ringmain_wal::Log;

/// What became of a frame.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    Done,
    /// There is no room for it now: it stays where it is and is offered again.
    Later,
}

const DISK_FULL: Reason = (Code::DiskFull, "the disk has no room for another log segment");
const SHUTTING_DOWN: Reason = (Code::ShuttingDown, "this node is shutting down");
pub(crate) const NO_HELLO: &str = "the first frame must be a hello";
const NOT_READY: Reason = (Code::Busy, "this shard is not ready yet");
/// A purge names what it keeps: at most 65,536 runs.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// Room that a command without a body takes in a batch, name and settings included.
const SMALL_COMMAND_BYTES: usize = 1024;

impl Shard {
    pub(crate) fn on_frame(&mut self, now: Time, id: ConnectionId, frame: &Frame<'_>) -> Flow {
        let asked = Asked { connection: id, request: frame.request };
        let is_open = self.outbox.connection(id).is_some_and(|connection| connection.stage == Stage::Open);
        if !is_open && self.on_first_of_peer(now, id, frame) {
            return Flow::Done;
        }
        let request = match Request::decode(frame) {
            Ok(request) => request,
            Err(error) => {
                if !is_open {
                    self.note_stranger(&error.to_string());
                }
                self.outbox.close(id, error.code(), &error.to_string());
                return Flow::Done;
            }
        };
        match request {
            Request::Hello(hello) if !is_open => self.on_hello(asked, &hello),
            Request::Hello(_) => {
                self.outbox.close(id, Code::Malformed, "a second hello");
                Flow::Done
            }
            _ if !is_open => {
                self.note_stranger(NO_HELLO);
                self.outbox.close(id, Code::Malformed, NO_HELLO);
                Flow::Done
            }
            Request::Publish(publish) => self.on_publish(now, asked, &publish),
            Request::Settle(settle) => self.on_settle(now, asked, &settle),
            Request::Subscribe(subscribe) => self.on_subscribe(asked, subscribe),
            Request::Unsubscribe(unsubscribe) => self.on_unsubscribe(asked, unsubscribe.consumer),
            Request::CreateQueue(create) => self.on_create_queue(now, asked, &create),
            Request::DeleteQueue(delete) => self.on_change_queue(now, asked, delete.name, Change::Delete),
            Request::PurgeQueue(purge) => self.on_change_queue(now, asked, purge.name, Change::Purge),
            Request::OpenSession(open) => self.on_open_session(now, asked, &open),
            Request::OpenQueue(open) => self.on_open_queue(asked, &open),
            Request::ShowQueue(show) => self.on_show_queue(asked, show.name),
            Request::ListQueues(list) => self.on_list_queues(asked, &list),
            Request::Metadata => self.on_metadata(asked),
            Request::ShowGroups => {
                self.on_show_groups(asked);
                Flow::Done
            }
            Request::MoveLeader(wanted) => {
                self.on_move_leader(asked, wanted);
                Flow::Done
            }
            Request::ChangeMembers(wanted) => {
                self.on_change_members(asked, &wanted);
                Flow::Done
            }
            Request::Ping => {
                self.outbox.send(id, asked.request, &Pong);
                Flow::Done
            }
        }
    }
}

/// What is asked of a queue that exists.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Change {
    Delete,
    Purge,
}

impl Shard {
    fn on_hello(&mut self, asked: Asked, hello: &Hello<'_>) -> Flow {
        let cluster = self.options.identity.cluster;
        if hello.protocol != protocol::PROTOCOL {
            let detail = format!("protocol {}: this node speaks {}", hello.protocol, protocol::PROTOCOL);
            return self.refuse_client(asked, hello, Code::UnsupportedVersion, &detail);
        }
        if hello.cluster != 0 && hello.cluster != cluster {
            let detail = format!("cluster {:016x} was expected, this is {cluster:016x}", hello.cluster);
            return self.refuse_client(asked, hello, Code::WrongCluster, &detail);
        }
        if !self.outbox.connections.has_room_for_client() {
            let most = self.options.limits.connections_max;
            let detail = format!("this shard has as many clients as it may (connections_max = {most})");
            return self.refuse_client(asked, hello, Code::TooMany, &detail);
        }
        self.outbox.connections.greet(asked.connection);
        let welcome = Welcome {
            protocol: protocol::PROTOCOL,
            cluster,
            node: self.options.identity.node,
            incarnation: self.options.identity.incarnation,
            shard: self.options.identity.shard,
            groups: self.groups.len() as u32,
            nodes: self.node_addresses(),
            message_bytes_max: self.options.message_bytes_max(),
            frame_bytes_max: self.options.limits.frame_bytes_max(),
            inflight_frames_max: WINDOW as u32,
            shards: self.shard_addresses(),
        };
        self.outbox.send(asked.connection, asked.request, &welcome);
        Flow::Done
    }

    fn refuse_client(&mut self, asked: Asked, hello: &Hello<'_>, code: Code, detail: &str) -> Flow {
        self.note_client(hello.agent, code, detail);
        self.outbox.close(asked.connection, code, detail);
        Flow::Done
    }

    fn on_metadata(&mut self, asked: Asked) -> Flow {
        let identity = self.options.identity;
        let cluster = Cluster {
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            shard: identity.shard,
            groups: self.groups.len() as u32,
            shards: self.shard_addresses(),
            nodes: self.node_addresses(),
        };
        self.outbox.send(asked.connection, asked.request, &cluster);
        Flow::Done
    }

    fn shard_addresses(&self) -> Vec<ShardAddress> {
        let address =
            |address: &crate::shard::Address| ShardAddress { host: address.host.clone(), port: address.port };
        self.options.addresses.iter().map(address).collect()
    }

    fn on_publish(&mut self, now: Time, asked: Asked, publish: &PublishView<'_>) -> Flow {
        let number = PublishNumber { session: publish.session, sequence: publish.sequence };
        let (head, reason) = self.examine(publish);
        if let Some(reason) = reason {
            reply::refuse_publish(&mut self.outbox, asked, number, reason);
            return Flow::Done;
        }
        let Some(ordinal) = self.serving(asked, Some(number), ordinal_of(publish.queue)) else {
            return Flow::Done;
        };
        if self.must_stay_behind(asked, number) {
            return Flow::Done;
        }
        let group = &mut self.groups[ordinal];
        match room(group, &mut self.log, now, command_bytes(publish), Reserve::ForSettles) {
            Room::Here => {}
            Room::Later => return Flow::Later,
            Room::DiskFull => {
                reply::refuse_publish(&mut self.outbox, asked, number, DISK_FULL);
                return Flow::Done;
            }
        }
        let is_memory = group.engine.is_memory_queue(head.queue);
        let published = Published { asked, number, flags: 0, is_memory };
        let duplicate = Published { flags: RECEIPT_DUPLICATE, ..published };
        match group.engine.admit_publish(&head) {
            Admission::Fresh => {
                let heads = publish.heads.iter().map(|head| message_head(&head.to_native()));
                group.open_batch(now).publish(&head, heads, publish.body);
                group.open.owe_receipt(published);
            }
            Admission::Pending if group.owe_duplicate(duplicate) => {}
            Admission::Pending | Admission::Stored => {
                let receipt = duplicate_receipt(group, number);
                self.outbox.send(asked.connection, asked.request, &receipt);
            }
            Admission::Refused(refusal) => {
                reply::refuse_publish(&mut self.outbox, asked, number, reply::in_words(refusal));
            }
        }
        Flow::Done
    }

    /// This node leads again, but did not when it refused the publish before this one: stored now, it would overtake, and
    /// the one before would come too late. The producer begins again with the first that has no answer.
    fn must_stay_behind(&mut self, asked: Asked, number: PublishNumber) -> bool {
        let connection = self.outbox.connections.get_mut(asked.connection);
        let must = connection.is_some_and(|one| one.follows_refused(number.session, number.sequence));
        if must {
            reply::redirect(&mut self.outbox, asked, Some(number), None);
        }
        must
    }

    /// What can be said against a publish without knowing the queue.
    fn examine(&self, publish: &PublishView<'_>) -> (PublishHead, Option<Reason>) {
        let mut head = PublishHead {
            queue: QueueId(publish.queue),
            session: SessionId(publish.session),
            epoch: publish.epoch,
            sequence: publish.sequence,
            count: publish.heads.len() as u32,
            bytes: publish.body.len() as u64,
            priority_max: 0,
        };
        let mut reason = None;
        let message_bytes_max = u64::from(self.options.message_bytes_max());
        for message in publish.heads {
            let message = message.to_native();
            head.priority_max = head.priority_max.max(message.priority);
            if message_bytes_max < message.bytes() {
                reason = Some((Code::TooLarge, "a message is larger than this node accepts"));
            }
            if message.ttl_ms != 0 || message.delay_ms != 0 || message.flags != 0 {
                reason = Some((Code::Unsupported, "time to live and delay are not supported yet"));
            }
        }
        (head, reason)
    }

    /// The group of this ordinal, if it can be asked here and now. Otherwise the asker has been told why not: that there
    /// is none, that another node leads it, or that it is not ready.
    pub(crate) fn serving(
        &mut self,
        asked: Asked,
        number: Option<PublishNumber>,
        ordinal: usize,
    ) -> Option<usize> {
        let mut refuse = |reason| match number {
            Some(number) => reply::refuse_publish(&mut self.outbox, asked, number, reason),
            None => reply::refuse(&mut self.outbox, asked, reason),
        };
        let Some(group) = self.groups.get(ordinal) else {
            refuse(reply::in_words(Refusal::NoSuchQueue));
            return None;
        };
        if self.is_stopping {
            refuse(SHUTTING_DOWN);
        } else if !group.is_serving() && !group.is_alone() {
            let leader = group.leader_address();
            reply::redirect(&mut self.outbox, asked, number, leader.as_ref());
        } else if !group.is_serving() {
            refuse(NOT_READY);
        } else {
            return Some(ordinal);
        }
        None
    }

    /// Refuses, asks to wait, or finds room for one small command; `Ok` means go on.
    fn admit_small(&mut self, now: Time, asked: Asked, ordinal: usize, bytes: usize) -> Result<(), Flow> {
        let Some(ordinal) = self.serving(asked, None, ordinal) else { return Err(Flow::Done) };
        match room(&mut self.groups[ordinal], &mut self.log, now, bytes, Reserve::None) {
            Room::Here => Ok(()),
            Room::Later => Err(Flow::Later),
            Room::DiskFull => {
                reply::refuse(&mut self.outbox, asked, DISK_FULL);
                Err(Flow::Done)
            }
        }
    }
}

/// Whether a command fits now.
enum Room {
    Here,
    /// Once something in flight is done.
    Later,
    /// Not before the disk has space, or something is acknowledged.
    DiskFull,
}

/// What a command must leave of the log's room. Settles free space, so publishes must not take the last of it.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Reserve {
    None,
    ForSettles,
}

/// The share of a segment that publishes leave to settles.
const SETTLES_SHARE: u64 = 16;

fn room(group: &mut Group, log: &mut Log, now: Time, bytes: usize, reserve: Reserve) -> Room {
    if group.must_seal(bytes) {
        group.seal(now, log);
    }
    let reserve = match reserve {
        Reserve::None => 0,
        Reserve::ForSettles => log.options().segment_bytes / SETTLES_SHARE,
    };
    match group.has_room(log, bytes, reserve) {
        true => Room::Here,
        false if log.segments_refused() => Room::DiskFull,
        false => Room::Later,
    }
}

impl Shard {
    fn on_settle(&mut self, now: Time, asked: Asked, settle: &SettleView<'_>) -> Flow {
        // A run may fall apart into as many as it has messages, of which nobody holds more than its credit.
        let counted: u64 = settle.items.iter().map(|run| u64::from(run.count.to_native())).sum();
        let bytes = counted.min(u64::from(CREDIT_MAX)) as usize * RUN_BYTES + SMALL_COMMAND_BYTES;
        let consumer = ConsumerId(settle.consumer);
        let ordinal = consumer.ordinal();
        if let Err(flow) = self.admit_small(now, asked, ordinal, bytes) {
            return flow;
        }
        self.runs.clear();
        self.runs.extend(settle.runs().map(settle_run));
        self.settlements.clear();
        let group = &mut self.groups[ordinal];
        let begun = group.engine.begin_settle(asked.connection, consumer, &self.runs, &mut self.settlements);
        match begun {
            Err(refusal) => reply::refuse(&mut self.outbox, asked, reply::in_words(refusal)),
            Ok(split) if split.accepted == 0 => {
                let settled = Settled { consumer: consumer.0, accepted: 0, stale: split.stale };
                self.outbox.send(asked.connection, asked.request, &settled);
            }
            Ok(split) => {
                group.open_batch(now).settle(&self.settlements);
                group.open.owe_settled(asked, consumer, split);
            }
        }
        Flow::Done
    }

    fn on_subscribe(&mut self, asked: Asked, subscribe: Subscribe) -> Flow {
        let Some(ordinal) = self.serving(asked, None, ordinal_of(subscribe.queue)) else {
            return Flow::Done;
        };
        let engine = &mut self.groups[ordinal].engine;
        match engine.subscribe(asked.connection, QueueId(subscribe.queue), subscribe.credit) {
            Ok(consumer) => {
                self.outbox.send(asked.connection, asked.request, &Subscribed { consumer: consumer.0 });
            }
            Err(refusal) => reply::refuse(&mut self.outbox, asked, reply::in_words(refusal)),
        }
        Flow::Done
    }

    fn on_unsubscribe(&mut self, asked: Asked, consumer: u32) -> Flow {
        let Some(ordinal) = self.serving(asked, None, ConsumerId(consumer).ordinal()) else {
            return Flow::Done;
        };
        let group = &mut self.groups[ordinal];
        match group.engine.unsubscribe(asked.connection, ConsumerId(consumer)) {
            Ok(()) => {
                let done = Done { index: group.applied().0, count: 0 };
                self.outbox.send(asked.connection, asked.request, &done);
            }
            Err(refusal) => reply::refuse(&mut self.outbox, asked, reply::in_words(refusal)),
        }
        Flow::Done
    }

    fn on_create_queue(&mut self, now: Time, asked: Asked, create: &CreateQueue<'_>) -> Flow {
        let Some(ordinal) = self.home(asked, create.name) else { return Flow::Done };
        if let Err(flow) = self.admit_small(now, asked, ordinal, SMALL_COMMAND_BYTES) {
            return flow;
        }
        let settings = settings_from_wire(&create.settings);
        let group = &mut self.groups[ordinal];
        match group.engine.begin_create(create.name, &settings) {
            Ok(()) => {
                group.open_batch(now).create_queue(create.name, &settings);
                group.open.owe_answer(asked);
            }
            Err(refusal) => reply::refuse(&mut self.outbox, asked, reply::in_words(refusal)),
        }
        Flow::Done
    }

    fn on_change_queue(&mut self, now: Time, asked: Asked, name: &str, change: Change) -> Flow {
        let Some(ordinal) = self.home(asked, name) else { return Flow::Done };
        if let Err(flow) = self.admit_small(now, asked, ordinal, KEPT_BYTES_MAX) {
            return flow;
        }
        let group = &mut self.groups[ordinal];
        let begun = group.engine.find(name).ok_or(Refusal::NoSuchQueue).and_then(|queue| match change {
            Change::Delete => group.engine.begin_delete(queue).map(|()| queue),
            Change::Purge => group.engine.begin_purge(queue, &mut self.kept).map(|()| queue),
        });
        match (begun, change) {
            (Ok(queue), Change::Delete) => group.open_batch(now).delete_queue(queue),
            (Ok(queue), Change::Purge) => group.open_batch(now).purge_queue(queue, &self.kept),
            (Err(refusal), _) => {
                reply::refuse(&mut self.outbox, asked, reply::in_words(refusal));
                return Flow::Done;
            }
        }
        self.groups[ordinal].open.owe_answer(asked);
        Flow::Done
    }

    fn on_open_session(&mut self, now: Time, asked: Asked, open: &OpenSession<'_>) -> Flow {
        let ordinal = ordinal_of(open.queue);
        if let Err(flow) = self.admit_small(now, asked, ordinal, SMALL_COMMAND_BYTES) {
            return flow;
        }
        let group = &mut self.groups[ordinal];
        match group.engine.begin_open_session(open.producer) {
            Ok(()) => {
                group.open_batch(now).open_session(open.producer);
                group.open.owe_answer(asked);
            }
            Err(refusal) => reply::refuse(&mut self.outbox, asked, reply::in_words(refusal)),
        }
        Flow::Done
    }

    fn on_open_queue(&mut self, asked: Asked, open: &OpenQueue<'_>) -> Flow {
        if let Some(ordinal) = self.home(asked, open.name) {
            self.ask(asked, ordinal, Read::Open { name: open.name.to_owned() });
        }
        Flow::Done
    }

    fn on_show_queue(&mut self, asked: Asked, name: &str) -> Flow {
        if let Some(ordinal) = self.home(asked, name) {
            self.ask(asked, ordinal, Read::Show { name: name.to_owned() });
        }
        Flow::Done
    }

    fn on_list_queues(&mut self, asked: Asked, list: &ListQueues<'_>) -> Flow {
        let limit = list.limit.clamp(1, protocol::QUEUES_PER_LIST_MAX) as usize;
        self.ask(asked, list.group as usize, Read::List { after: list.after.to_owned(), limit });
        Flow::Done
    }

    /// A question about the state. Before it is certain that what is applied here is all that was acknowledged anywhere,
    /// an answer could deny what another client was told.
    fn ask(&mut self, asked: Asked, ordinal: usize, read: Read) {
        let Some(ordinal) = self.serving(asked, None, ordinal) else { return };
        if self.groups[ordinal].is_alone() {
            self.answer(asked, ordinal, &read);
        } else if !self.groups[ordinal].reads.push(asked, read) {
            reply::refuse(&mut self.outbox, asked, reply::in_words(Refusal::Busy));
        }
    }

    /// Answers what has waited long enough.
    pub(crate) fn answer_reads(&mut self) {
        for ordinal in 0..self.groups.len() {
            let applied = self.groups[ordinal].applied();
            while let Some((asked, read)) = self.groups[ordinal].reads.pop_ready(applied) {
                self.answer(asked, ordinal, &read);
            }
        }
    }

    fn answer(&mut self, asked: Asked, ordinal: usize, read: &Read) {
        let engine = &self.groups[ordinal].engine;
        match read {
            Read::Open { name } => match engine.find(name).and_then(|queue| engine.info(queue)) {
                Some(info) => {
                    let settings = settings_to_wire(info.settings);
                    let opened = QueueOpened { queue: info.queue.0, settings };
                    self.outbox.send(asked.connection, asked.request, &opened);
                }
                None => reply::refuse(&mut self.outbox, asked, reply::in_words(Refusal::NoSuchQueue)),
            },
            Read::Show { name } => match engine.find(name).and_then(|queue| self.info(queue, Detail::Levels))
            {
                Some(info) => self.outbox.send(asked.connection, asked.request, &QueueShown { info }),
                None => reply::refuse(&mut self.outbox, asked, reply::in_words(Refusal::NoSuchQueue)),
            },
            Read::List { after, limit } => {
                let behind = engine.queues_after(after);
                let mut ids: Vec<QueueId> = behind.take(limit + 1).map(|(_, queue)| queue).collect();
                let more = *limit < ids.len();
                ids.truncate(*limit);
                let queues = ids.into_iter().filter_map(|queue| self.info(queue, Detail::Totals)).collect();
                self.outbox.send(asked.connection, asked.request, &QueueList { queues, more });
            }
        }
    }

    /// The ordinal of the group that has queues of this name. `None` once the client was sent to the shard that owns them.
    fn home(&mut self, asked: Asked, name: &str) -> Option<usize> {
        let shards = self.options.addresses.len() as u32;
        let owner = route::shard_of(name, shards);
        if owner == self.options.identity.shard {
            return Some(route::group_of(name, shards, self.groups.len() as u32) as usize);
        }
        let address = &self.options.addresses[owner as usize];
        let refused = Refused {
            code: Code::WrongShard as u16,
            detail: "another shard of this node owns this queue",
            redirect_host: &address.host,
            redirect_port: address.port,
            ..Refused::default()
        };
        self.outbox.send(asked.connection, asked.request, &refused);
        None
    }
}

/// How much of a queue is told.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Detail {
    Totals,
    Levels,
}

impl Shard {
    fn info(&self, queue: QueueId, detail: Detail) -> Option<protocol::QueueInfo> {
        let group = self.groups.get(ordinal_of(queue.0))?;
        let info = group.engine.info(queue)?;
        let level = |level: LevelInfo| protocol::LevelInfo {
            priority: level.priority,
            ready: level.ready,
            ready_bytes: level.ready_bytes,
            in_flight: level.in_flight,
            in_flight_bytes: level.in_flight_bytes,
        };
        let levels = match detail {
            Detail::Totals => Vec::new(),
            Detail::Levels => group.engine.levels(queue).map(level).collect(),
        };
        Some(protocol::QueueInfo {
            name: info.name.to_owned(),
            queue: info.queue.0,
            settings: settings_to_wire(info.settings),
            shard: self.options.identity.shard,
            group: group.id.0,
            term: group.term().0,
            index: group.applied().0,
            consumers: info.consumers,
            ready: info.ready,
            ready_bytes: info.ready_bytes,
            in_flight: info.in_flight,
            in_flight_bytes: info.in_flight_bytes,
            published: info.published,
            acknowledged: info.acknowledged,
            levels,
        })
    }
}

fn settings_from_wire(wire: &protocol::QueueSettings) -> Settings {
    Settings {
        priorities: wire.priorities,
        durability: wire.durability,
        overflow: wire.overflow,
        lease_ms: wire.lease_ms,
        max_length: wire.max_length,
        max_bytes: wire.max_bytes,
        ttl_ms: wire.ttl_ms,
        max_deliveries: wire.max_deliveries,
        dead_letter: wire.dead_letter.clone(),
    }
}

fn settings_to_wire(settings: &Settings) -> protocol::QueueSettings {
    protocol::QueueSettings {
        priorities: settings.priorities,
        durability: settings.durability,
        overflow: settings.overflow,
        max_length: settings.max_length,
        max_bytes: settings.max_bytes,
        lease_ms: settings.lease_ms,
        max_deliveries: settings.max_deliveries,
        ttl_ms: settings.ttl_ms,
        dead_letter: settings.dead_letter.clone(),
    }
}

fn message_head(wire: &protocol::MessageHead) -> MessageHead {
    MessageHead {
        payload_bytes: wire.payload_bytes,
        headers_bytes: wire.headers_bytes,
        key_bytes: wire.key_bytes,
        priority: wire.priority,
        flags: wire.flags,
        ttl_ms: wire.ttl_ms,
        delay_ms: wire.delay_ms,
    }
}

/// What a publish takes in a batch: its command and the heads that the log adds to each message.
fn command_bytes(publish: &PublishView<'_>) -> usize {
    COMMAND_HEADER_BYTES + PUBLISH_HEAD_BYTES + publish.heads.len() * STORED_HEAD_BYTES + publish.body.len()
}

fn settle_run(wire: protocol::SettleRun) -> SettleRun {
    let outcome = match wire.outcome {
        protocol::Outcome::Ack => Outcome::Ack,
        protocol::Outcome::Nack => Outcome::Requeue,
        protocol::Outcome::Reject => Outcome::Reject,
    };
    let run = Run { priority: wire.priority, sequence: wire.sequence, count: wire.count };
    SettleRun { run, deliveries: wire.deliveries, outcome }
}

/// It was stored by an earlier try, at the latest at what is applied now.
fn duplicate_receipt(group: &Group, number: PublishNumber) -> Receipt {
    Receipt {
        session: number.session,
        first_sequence: number.sequence,
        last_sequence: number.sequence,
        group: group.id.0,
        term: group.term().0,
        index: group.applied().0,
        flags: RECEIPT_DUPLICATE,
        ..Receipt::default()
    }
}
