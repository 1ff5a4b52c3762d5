//! A shard made of one queue table and a thread per connection: it speaks the real frames, keeps the promises that a
//! client relies on (once, order, leases), and misbehaves on request. Several nodes share one table, as if it were
//! replicated, and one of them leads.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "it is part of the tests, though not marked so")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ringmain_net::frame::{self, FRAME_BYTES_MAX};
use ringmain_net::protocol::{
    Cluster, Code, ConsumerEnded, Delivery, DeliveryHead, Done, GroupInfo, GroupsShown, MemberInfo,
    NodeAddress, Outcome, Pong, PublishView, QueueInfo, QueueList, QueueOpened, QueueSettings, QueueShown,
    RECEIPT_DUPLICATE, Receipt, Refused, Request, SessionOpened, SettleView, Settled, ShardAddress,
    Subscribed, Welcome, Words,
};
use ringmain_net::route;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) priority: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) headers: Vec<u8>,
    pub(crate) deliveries: u16,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) number: u64,
    pub(crate) ready: Vec<Stored>,
    /// Every message ever stored, in order.
    pub(crate) log: Vec<Vec<u8>>,
    pub(crate) acked: Vec<u64>,
    pub(crate) in_flight: usize,
    pub(crate) consumers: u32,
    /// By priority.
    next: BTreeMap<u8, u64>,
}

#[derive(Debug)]
struct Session {
    epoch: u32,
    last: u64,
    /// Refused sequences: a retry of one of them is refused again.
    gaps: Vec<u64>,
}

/// How the answer to something that was done is lost.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    OfConnection,
    OfLeader,
}

/// What the test wants to see or to break.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) queues: BTreeMap<String, Queue>,
    sessions: BTreeMap<u64, Session>,
    names: BTreeMap<String, u64>,
    next: u64,
    pub(crate) connections: u64,
    pub(crate) settle_frames: u64,
    pub(crate) pings: u64,
    pub(crate) duplicates: u64,
    /// The largest number of bytes that one read returned.
    pub(crate) largest_read: usize,
    pub(crate) publish_frames: u64,
    /// Refuse that many publishes so.
    pub(crate) refuse: VecDeque<(Code, u32)>,
    /// Refuse that many publishes as busy, before looking at anything.
    pub(crate) unready: u32,
    /// Refuse requests about this queue with a redirect to this port.
    pub(crate) redirect: Option<(String, u16)>,
    /// Cut the next connections after so many bytes received; `true`: what was understood is done, but not answered.
    pub(crate) cuts: VecDeque<(usize, bool)>,
    /// Store the next publish, and end its connection without an answer.
    pub(crate) die_after_publish: bool,
    /// Carry out the next deletion or purge, and end its connection, or say that somebody else leads since.
    pub(crate) lose_answer: Option<Loss>,
    /// Read nothing and say nothing, while connections stay open.
    pub(crate) frozen: bool,
    /// The same at these nodes only.
    pub(crate) frozen_nodes: BTreeSet<u32>,
    /// All nodes and their ports; empty where one is all.
    pub(crate) nodes: Vec<(u32, u16)>,
    /// Of `nodes`, who leads; `None`: an election.
    pub(crate) leader: Option<u32>,
    /// Whom the others say to lead, if that is not so.
    pub(crate) rumour: Option<u32>,
    /// Nodes that refuse everybody because they are no members any more.
    pub(crate) removed: BTreeSet<u32>,
    /// Requests refused because their node does not lead.
    pub(crate) not_leader: u64,
    /// Changes of members asked for: those to refuse as pending, and those done.
    pub(crate) pending_changes: u32,
    /// Group, node to add, and node and incarnation to remove.
    pub(crate) changes: Vec<(u32, u32, (u32, u32))>,
    pub(crate) groups: u32,
    pub(crate) inflight_frames_max: u32,
    pub(crate) shards: Vec<u16>,
    pub(crate) shard: u32,
    pub(crate) cluster: u64,
    stopped: BTreeSet<u32>,
    streams: Vec<(u32, TcpStream)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Fake {
    pub(crate) port: u16,
    pub(crate) node: u32,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::start_shards(1).remove(0)
    }

    /// Shards of one node that know of each other.
    pub(crate) fn start_shards(count: usize) -> Vec<Self> {
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let start =
            |(shard, listener): (usize, TcpListener)| Self::serve(listener, shard as u32, ports.clone());
        listeners.into_iter().enumerate().map(start).collect()
    }

    /// Nodes of one shard each, which share what they store. The first leads.
    pub(crate) fn start_nodes(count: u32) -> Vec<Self> {
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let mut state = State::new(0, Vec::new());
        state.nodes = (1..=count).zip(listeners.iter().map(port)).collect();
        state.leader = Some(1);
        let state = Arc::new(Mutex::new(state));
        let start = |(node, listener)| Self::serve_with(listener, node, Arc::clone(&state));
        (1..=count).zip(listeners).map(start).collect()
    }

    /// From now on this node leads.
    pub(crate) fn lead(&self) {
        let mut state = self.state();
        state.leader = Some(self.node);
        state.rumour = None;
    }

    /// The same port again, with the queues and sessions of before.
    pub(crate) fn restart(&self) {
        let listener = bind_again(self.port);
        self.state().stopped.remove(&self.node);
        let fake = self.clone();
        thread::spawn(move || fake.accept(&listener));
    }

    /// Ends all connections, and takes no more.
    pub(crate) fn stop(&self) {
        self.state().stopped.insert(self.node);
        self.cut();
        // The listener's thread notices with the next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.state().streams.retain(|(node, stream)| {
            if *node == self.node {
                let _ = stream.shutdown(Shutdown::Both);
            }
            *node != self.node
        });
    }

    fn serve(listener: TcpListener, shard: u32, shards: Vec<u16>) -> Self {
        Self::serve_with(listener, 1, Arc::new(Mutex::new(State::new(shard, shards))))
    }

    fn serve_with(listener: TcpListener, node: u32, state: Arc<Mutex<State>>) -> Self {
        let port = listener.local_addr().unwrap().port();
        let fake = Self { port, node, state };
        let server = fake.clone();
        thread::spawn(move || server.accept(&listener));
        fake
    }

    fn accept(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut state = self.state();
            if state.stopped.contains(&self.node) {
                return;
            }
            state.connections += 1;
            state.streams.push((self.node, stream.try_clone().unwrap()));
            let cut = state.cuts.pop_front();
            drop(state);
            let fake = self.clone();
            thread::spawn(move || Connection::new(stream, fake, cut).run());
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn add_queue(&self, name: &str) {
        self.state().add_queue(name);
    }

    pub(crate) fn remove_queue(&self, name: &str) {
        self.state().queues.remove(name);
    }

    pub(crate) fn forget_sessions(&self) {
        self.state().forget_sessions();
    }

    /// All that was ever stored in a queue.
    pub(crate) fn log(&self, name: &str) -> Vec<Vec<u8>> {
        self.state().queues[name].log.clone()
    }

    /// Puts a message into a queue from behind.
    pub(crate) fn put(&self, name: &str, priority: u8, payload: &[u8]) {
        self.state().queues.get_mut(name).unwrap().store(priority, payload, &[], &[]);
    }
}

/// The old listener lives until its thread noticed that it should not.
fn bind_again(port: u16) -> TcpListener {
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(_) => thread::yield_now(),
        }
    }
}

impl State {
    fn new(shard: u32, shards: Vec<u16>) -> Self {
        Self {
            queues: BTreeMap::new(),
            sessions: BTreeMap::new(),
            names: BTreeMap::new(),
            next: 1,
            connections: 0,
            settle_frames: 0,
            pings: 0,
            duplicates: 0,
            largest_read: 0,
            publish_frames: 0,
            refuse: VecDeque::new(),
            unready: 0,
            redirect: None,
            cuts: VecDeque::new(),
            die_after_publish: false,
            lose_answer: None,
            frozen: false,
            frozen_nodes: BTreeSet::new(),
            nodes: Vec::new(),
            leader: None,
            rumour: None,
            removed: BTreeSet::new(),
            not_leader: 0,
            pending_changes: 0,
            changes: Vec::new(),
            groups: 1,
            inflight_frames_max: 4096,
            shards,
            shard,
            cluster: 77,
            stopped: BTreeSet::new(),
            streams: Vec::new(),
        }
    }

    fn leads(&self, node: u32) -> bool {
        self.nodes.is_empty() || self.leader == Some(node)
    }

    /// Where a node sends those who look for the leader; 0: nowhere.
    fn redirect_from(&self, node: u32) -> u16 {
        let leader = self.rumour.or(self.leader).filter(|leader| *leader != node);
        let port = self.nodes.iter().find(|(number, _)| Some(*number) == leader).map(|(_, port)| *port);
        port.unwrap_or(0)
    }

    fn addresses(&self, port: u16) -> (Vec<ShardAddress>, Vec<NodeAddress>) {
        let shards = if self.nodes.is_empty() { self.shards.clone() } else { vec![port] };
        let node = |(node, port): &(u32, u16)| NodeAddress { node: *node, host: String::new(), port: *port };
        (addresses(&shards), self.nodes.iter().map(node).collect())
    }

    pub(crate) fn add_queue(&mut self, name: &str) {
        let number = self.next;
        self.next += 1;
        self.queues.insert(name.to_owned(), Queue { number, ..Queue::default() });
    }

    pub(crate) fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    fn queue(&mut self, number: u64) -> Option<&mut Queue> {
        self.queues.values_mut().find(|queue| queue.number == number)
    }

    fn groups_shown(&self, node: u32) -> GroupsShown {
        let member = |(node, port): &(u32, u16)| MemberInfo {
            node: *node,
            incarnation: 5,
            port: *port,
            is_voter: true,
            state: 1,
            ..MemberInfo::default()
        };
        let group = GroupInfo {
            group: self.shard * self.groups,
            leader: self.leader.unwrap_or(0),
            is_leader: self.leader == Some(node),
            members: self.nodes.iter().map(member).collect(),
            ..GroupInfo::default()
        };
        GroupsShown { node, incarnation: 5, shard: self.shard, groups: vec![group] }
    }

    fn info(&self, name: &str) -> QueueInfo {
        let queue = &self.queues[name];
        QueueInfo {
            name: name.to_owned(),
            queue: queue.number,
            shard: self.shard,
            ready: queue.ready.len() as u64,
            in_flight: queue.in_flight as u64,
            published: queue.log.len() as u64,
            acknowledged: queue.acked.len() as u64,
            consumers: queue.consumers,
            ..QueueInfo::default()
        }
    }
}

impl Queue {
    fn store(&mut self, priority: u8, payload: &[u8], key: &[u8], headers: &[u8]) {
        let next = self.next.entry(priority).or_insert(1);
        let sequence = *next;
        *next += 1;
        self.log.push(payload.to_vec());
        self.put_back(Stored {
            sequence,
            priority,
            payload: payload.to_vec(),
            key: key.to_vec(),
            headers: headers.to_vec(),
            deliveries: 0,
        });
    }

    /// Highest priority first, then by sequence.
    fn put_back(&mut self, stored: Stored) {
        let place = |other: &Stored| (255 - other.priority, other.sequence);
        let at = self.ready.partition_point(|other| place(other) < place(&stored));
        self.ready.insert(at, stored);
    }
}

struct Consumer {
    queue: u64,
    credit: usize,
    leased: Vec<Stored>,
}

struct Connection {
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    /// Whose it is.
    node: u32,
    port: u16,
    cut: Option<(usize, bool)>,
    received: usize,
    dead: bool,
    inbox: Vec<u8>,
    out: Vec<u8>,
    consumers: BTreeMap<u32, Consumer>,
    /// By session, the last publish that was refused because another node leads: see `is_behind_refused`.
    refused: BTreeMap<u64, u64>,
    /// Receipts not sent yet: session, first, last, duplicate.
    receipts: Vec<(u64, u64, u64, bool)>,
}

impl Connection {
    fn new(stream: TcpStream, fake: Fake, cut: Option<(usize, bool)>) -> Self {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            state: fake.state,
            node: fake.node,
            port: fake.port,
            cut,
            received: 0,
            dead: false,
            inbox: Vec::new(),
            out: Vec::new(),
            consumers: BTreeMap::new(),
            refused: BTreeMap::new(),
            receipts: Vec::new(),
        }
    }

    fn run(mut self) {
        while self.turn() {}
        let _ = self.stream.shutdown(Shutdown::Both);
        let mut state = self.state.lock().unwrap();
        self.consumers.into_values().for_each(|consumer| return_leased(consumer, &mut state));
    }

    fn turn(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        let room = self.cut.map_or(buffer.len(), |(after, _)| (after - self.received).min(buffer.len()));
        let bytes = match self.stream.read(&mut buffer[..room]) {
            Ok(0) if room > 0 => return false,
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(_) => return false,
        };
        while self.is_frozen() {
            thread::park_timeout(Duration::from_millis(1));
        }
        self.received += bytes;
        self.inbox.extend_from_slice(&buffer[..bytes]);
        {
            let mut state = self.state.lock().unwrap();
            state.largest_read = state.largest_read.max(bytes);
        }
        if !self.frames() || self.dead {
            return false;
        }
        let cut_now = self.cut.is_some_and(|(after, _)| self.received >= after);
        if cut_now && self.cut.is_some_and(|(_, swallow)| swallow) {
            return false;
        }
        self.flush_receipts();
        self.end_consumers();
        self.deliver();
        let sent = self.stream.write_all(&self.out).is_ok();
        self.out.clear();
        sent && !cut_now
    }

    fn is_frozen(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.frozen || state.frozen_nodes.contains(&self.node)
    }

    /// A node that leads no more serves no consumers.
    fn end_consumers(&mut self) {
        let state = Arc::clone(&self.state);
        let mut state = state.lock().unwrap();
        if state.leads(self.node) {
            return;
        }
        for (id, consumer) in std::mem::take(&mut self.consumers) {
            return_leased(consumer, &mut state);
            let ended =
                ConsumerEnded { consumer: id, code: Code::NotLeader as u16, detail: "the test says so" };
            self.reply(0, &ended);
        }
    }

    /// Whether the request was refused because another node leads.
    fn refused_as_follower(&mut self, number: u64, request: &Request<'_>, state: &mut State) -> bool {
        let anywhere =
            matches!(request, Request::Hello(_) | Request::Ping | Request::Metadata | Request::ShowGroups);
        if anywhere || (state.leads(self.node) && !self.is_behind_refused(request)) {
            return false;
        }
        state.not_leader += 1;
        let mut refused = Refused {
            code: Code::NotLeader as u16,
            redirect_port: state.redirect_from(self.node),
            ..Refused::default()
        };
        if let Request::Publish(publish) = request {
            (refused.session, refused.sequence) = (publish.session, publish.sequence);
            self.refused.insert(publish.session, publish.sequence);
        }
        self.reply(number, &refused);
        true
    }

    /// Whether it was sent right behind a publish that was refused as not led here. It must not overtake that one,
    /// though this node may lead again by now.
    fn is_behind_refused(&mut self, request: &Request<'_>) -> bool {
        let Request::Publish(publish) = request else { return false };
        match self.refused.get(&publish.session) {
            Some(refused) if refused + 1 == publish.sequence => true,
            _ => {
                self.refused.remove(&publish.session);
                false
            }
        }
    }

    fn frames(&mut self) -> bool {
        let inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..];
        loop {
            match frame::split(rest, FRAME_BYTES_MAX) {
                Ok(Some(frame)) => {
                    let Ok(request) = Request::decode(&frame) else { return false };
                    self.request(frame.request, request);
                    rest = &rest[frame.bytes..];
                }
                Ok(None) => break,
                Err(_) => return false,
            }
        }
        self.inbox = rest.to_vec();
        true
    }

    fn reply(&mut self, request: u64, words: &impl Words) {
        frame::encode(&mut self.out, request, words, &[]);
    }

    fn refuse(&mut self, request: u64, code: Code) {
        self.reply(
            request,
            &Refused { code: code as u16, detail: "because the test says so", ..Refused::default() },
        );
    }

    fn request(&mut self, number: u64, request: Request<'_>) {
        let state = Arc::clone(&self.state);
        let mut state = state.lock().unwrap();
        if self.refused_as_follower(number, &request, &mut state) {
            return;
        }
        match request {
            Request::Hello(hello) if hello.cluster != 0 && hello.cluster != state.cluster => {
                self.refuse(number, Code::WrongCluster);
            }
            Request::Hello(_) if state.removed.contains(&self.node) => {
                self.refuse(number, Code::Removed);
            }
            Request::Hello(_) => {
                let (shards, nodes) = state.addresses(self.port);
                let welcome = Welcome {
                    protocol: 1,
                    cluster: state.cluster,
                    node: self.node,
                    incarnation: 5,
                    shard: state.shard,
                    groups: state.groups,
                    message_bytes_max: 1 << 20,
                    frame_bytes_max: FRAME_BYTES_MAX,
                    inflight_frames_max: state.inflight_frames_max,
                    shards,
                    nodes,
                };
                self.reply(number, &welcome);
            }
            Request::Ping => {
                state.pings += 1;
                self.reply(number, &Pong);
            }
            request @ (Request::Metadata
            | Request::ShowGroups
            | Request::MoveLeader(_)
            | Request::ChangeMembers(_)) => self.cluster(number, &request, &mut state),
            Request::Publish(publish) => self.publish(number, &publish, &mut state),
            Request::Settle(settle) => self.settle(number, &settle, &mut state),
            Request::OpenSession(open) => {
                let opened = open_session(&mut state, open.producer);
                self.reply(number, &opened);
            }
            Request::Subscribe(subscribe) => {
                let Some(queue) = state.queue(subscribe.queue) else {
                    return self.refuse(number, Code::NoSuchQueue);
                };
                queue.consumers += 1;
                let consumer =
                    Consumer { queue: subscribe.queue, credit: subscribe.credit as usize, leased: vec![] };
                let id = self.consumers.len() as u32 + 1;
                self.consumers.insert(id, consumer);
                self.reply(number, &Subscribed { consumer: id });
            }
            Request::Unsubscribe(unsubscribe) => {
                if let Some(consumer) = self.consumers.remove(&unsubscribe.consumer) {
                    return_leased(consumer, &mut state);
                }
                self.reply(number, &Done { index: 1, count: 0 });
            }
            request => self.admin(number, &request, &mut state),
        }
    }

    fn cluster(&mut self, number: u64, request: &Request<'_>, state: &mut State) {
        match request {
            Request::Metadata => {
                let (shards, nodes) = state.addresses(self.port);
                let cluster = Cluster {
                    cluster: state.cluster,
                    node: self.node,
                    incarnation: 5,
                    shard: state.shard,
                    groups: state.groups,
                    shards,
                    nodes,
                };
                self.reply(number, &cluster);
            }
            Request::ShowGroups => {
                let shown = state.groups_shown(self.node);
                self.reply(number, &shown);
            }
            Request::MoveLeader(words) => {
                state.leader = Some(words.node);
                self.reply(number, &Done { index: 1, count: 0 });
            }
            Request::ChangeMembers(_) if state.pending_changes > 0 => {
                state.pending_changes -= 1;
                self.refuse(number, Code::MembershipPending);
            }
            Request::ChangeMembers(words) => {
                let removed = (words.remove_node, words.remove_incarnation);
                state.changes.push((words.group, words.add_node, removed));
                self.reply(number, &Done { index: 1, count: 0 });
            }
            _ => self.refuse(number, Code::Unsupported),
        }
    }

    fn admin(&mut self, number: u64, request: &Request<'_>, state: &mut State) {
        let name = match request {
            Request::CreateQueue(words) => words.name,
            Request::ShowQueue(words) => words.name,
            Request::DeleteQueue(words) => words.name,
            Request::PurgeQueue(words) => words.name,
            Request::OpenQueue(words) => words.name,
            Request::ListQueues(words) => {
                let shards = state.shards.len().max(1) as u32;
                let here = |name: &&String| route::group_of(name, shards, state.groups) == words.group;
                let names = state.queues.keys().filter(|name| name.as_str() > words.after).filter(here);
                let names: Vec<_> = names.take(words.limit.min(2) as usize + 1).cloned().collect();
                let more = names.len() > words.limit.min(2) as usize;
                let queues = names.iter().take(2).map(|name| state.info(name)).collect();
                return self.reply(number, &QueueList { queues, more });
            }
            _ => return self.refuse(number, Code::Unsupported),
        };
        let target = state.redirect.as_ref().filter(|(queue, _)| queue == name).map(|(_, port)| *port);
        let right = route::shard_of(name, state.shards.len().max(1) as u32);
        let elsewhere = (right != state.shard).then(|| state.shards[right as usize]);
        if let Some(redirect_port) = target.or(elsewhere) {
            let code = Code::WrongShard as u16;
            return self.reply(number, &Refused { code, redirect_port, ..Refused::default() });
        }
        let known = state.queues.contains_key(name);
        match request {
            Request::CreateQueue(_) => {
                if !known {
                    state.add_queue(name);
                }
                self.reply(number, &Done { index: 1, count: 0 });
            }
            _ if !known => self.refuse(number, Code::NoSuchQueue),
            Request::ShowQueue(_) => self.reply(number, &QueueShown { info: state.info(name) }),
            Request::OpenQueue(_) => {
                let queue = state.queues[name].number;
                self.reply(number, &QueueOpened { queue, settings: QueueSettings::default() });
            }
            Request::PurgeQueue(_) => {
                let count = state.queues.get_mut(name).unwrap().ready.drain(..).count() as u64;
                self.changed(number, count, state);
            }
            _ => {
                let queue = state.queues.remove(name).unwrap();
                self.changed(number, queue.ready.len() as u64, state);
            }
        }
    }

    fn changed(&mut self, number: u64, count: u64, state: &mut State) {
        match state.lose_answer.take() {
            None => self.reply(number, &Done { index: 1, count }),
            Some(Loss::OfConnection) => self.dead = true,
            Some(Loss::OfLeader) => self.refuse(number, Code::LeaderLost),
        }
    }

    fn publish(&mut self, number: u64, publish: &PublishView<'_>, state: &mut State) {
        state.publish_frames += 1;
        let PublishView { session, sequence, .. } = *publish;
        let refuse = |this: &mut Self, code: Code, retry_after_ms: u32, redirect_port: u16| {
            this.flush_receipts();
            let code = code as u16;
            let detail = "because the test says so";
            this.reply(
                number,
                &Refused {
                    code,
                    session,
                    sequence,
                    retry_after_ms,
                    detail,
                    redirect_port,
                    ..Refused::default()
                },
            );
        };
        if state.unready > 0 {
            state.unready -= 1;
            return refuse(self, Code::Busy, 0, 0);
        }
        let Some(open) = state.sessions.get_mut(&session) else {
            return refuse(self, Code::NoSuchSession, 0, 0);
        };
        if open.epoch != publish.epoch {
            return refuse(self, Code::Fenced, 0, 0);
        }
        if sequence <= open.last {
            if open.gaps.contains(&sequence) {
                return refuse(self, Code::OutOfOrder, 0, 0);
            }
            state.duplicates += 1;
            return self.receipts.push((session, sequence, sequence, true));
        }
        if let Some((_, port)) = &state.redirect {
            let port = *port;
            return refuse(self, Code::NotLeader, 0, port);
        }
        assert_eq!(sequence, open.last + 1, "a publish was skipped");
        open.last = sequence;
        if let Some((code, retry_after_ms)) = state.refuse.pop_front() {
            open.gaps.push(sequence);
            return refuse(self, code, retry_after_ms, 0);
        }
        let Some(queue) = state.queue(publish.queue) else {
            return refuse(self, Code::NoSuchQueue, 0, 0);
        };
        for message in publish.messages() {
            queue.store(message.head.priority, message.payload, message.key, message.headers);
        }
        self.dead |= std::mem::take(&mut state.die_after_publish);
        self.receipts.push((session, sequence, sequence, false));
    }

    /// One receipt for as many publishes as can be.
    fn flush_receipts(&mut self) {
        let mut joined: Vec<(u64, u64, u64, bool)> = Vec::new();
        for (session, first, last, duplicate) in self.receipts.drain(..) {
            match joined.last_mut() {
                Some(run) if run.0 == session && run.2 + 1 == first && run.3 == duplicate => run.2 = last,
                _ => joined.push((session, first, last, duplicate)),
            }
        }
        for (session, first_sequence, last_sequence, duplicate) in joined {
            let receipt = Receipt {
                session,
                first_sequence,
                last_sequence,
                group: 1,
                term: 2,
                index: last_sequence,
                waited_us: 3,
                durable_us: 4,
                flags: if duplicate { RECEIPT_DUPLICATE } else { 0 },
            };
            self.reply(last_sequence, &receipt);
        }
    }

    fn settle(&mut self, number: u64, settle: &SettleView<'_>, state: &mut State) {
        state.settle_frames += 1;
        let (mut accepted, mut stale) = (0, 0);
        let Some(consumer) = self.consumers.get_mut(&settle.consumer) else {
            return self.refuse(number, Code::NoSuchConsumer);
        };
        for run in settle.runs() {
            for sequence in run.sequence..run.sequence + u64::from(run.count) {
                let wanted = |stored: &Stored| {
                    (stored.priority, stored.sequence, stored.deliveries)
                        == (run.priority, sequence, run.deliveries)
                };
                let Some(at) = consumer.leased.iter().position(wanted) else {
                    stale += 1;
                    continue;
                };
                accepted += 1;
                let stored = consumer.leased.remove(at);
                let Some(queue) = state.queue(consumer.queue) else { continue };
                queue.in_flight -= 1;
                match run.outcome {
                    Outcome::Ack => queue.acked.push(sequence),
                    Outcome::Nack => queue.put_back(stored),
                    Outcome::Reject => {}
                }
            }
        }
        self.reply(number, &Settled { consumer: settle.consumer, accepted, stale });
    }

    fn deliver(&mut self) {
        let mut state = self.state.lock().unwrap();
        for (id, consumer) in &mut self.consumers {
            let Some(queue) = state.queue(consumer.queue) else { continue };
            let count = (consumer.credit - consumer.leased.len()).min(queue.ready.len());
            if count == 0 {
                continue;
            }
            let mut messages: Vec<Stored> = queue.ready.drain(..count).collect();
            queue.in_flight += count;
            messages.iter_mut().for_each(|message| message.deliveries += 1);
            let heads: Vec<_> = messages.iter().map(head).collect();
            let parts: Vec<&[u8]> =
                messages.iter().flat_map(|m| [&m.key[..], &m.headers, &m.payload]).collect();
            let words = Delivery { consumer: *id, queue: consumer.queue, messages: &heads };
            frame::encode(&mut self.out, 0, &words, &parts);
            consumer.leased.extend(messages);
        }
    }
}

/// What a consumer has not settled is ready again.
fn return_leased(consumer: Consumer, state: &mut State) {
    let Some(queue) = state.queue(consumer.queue) else { return };
    queue.consumers -= 1;
    queue.in_flight -= consumer.leased.len();
    consumer.leased.into_iter().for_each(|stored| queue.put_back(stored));
}

fn head(stored: &Stored) -> DeliveryHead {
    DeliveryHead {
        sequence: stored.sequence,
        published_us: 1_700_000_000_000_000,
        payload_bytes: stored.payload.len() as u32,
        headers_bytes: stored.headers.len() as u32,
        key_bytes: stored.key.len() as u16,
        deliveries: stored.deliveries,
        priority: stored.priority,
        flags: u8::from(stored.deliveries > 1),
    }
}

fn addresses(ports: &[u16]) -> Vec<ShardAddress> {
    ports.iter().map(|port| ShardAddress { host: String::new(), port: *port }).collect()
}

fn open_session(state: &mut State, producer: &str) -> SessionOpened {
    let known = state.names.get(producer).copied().filter(|_| !producer.is_empty());
    if let Some(id) = known.filter(|id| state.sessions.contains_key(id)) {
        let session = state.sessions.get_mut(&id).unwrap();
        session.epoch += 1;
        return SessionOpened { session: id, epoch: session.epoch, last_sequence: session.last };
    }
    let id = state.next;
    state.next += 1;
    state.sessions.insert(id, Session { epoch: 1, last: 0, gaps: Vec::new() });
    state.names.insert(producer.to_owned(), id);
    SessionOpened { session: id, epoch: 1, last_sequence: 0 }
}
