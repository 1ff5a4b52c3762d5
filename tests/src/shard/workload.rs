//! What clients say: a producer, a consumer and an administrator in the plain protocol, and somebody who means no good.

mod admin;
mod consumer;
mod producer;
mod stranger;

use ringmain_net::frame;
use ringmain_net::protocol::{Hello, MessageHead, PROTOCOL, QueueSettings, Reply, Words};

use crate::checker::MessageId;
use crate::rng::Rng;
use crate::world::{MICROSECOND, MILLISECOND};
use admin::Admin;
use consumer::Consumer;
use producer::Producer;
use stranger::Stranger;

/// What a client may do in its turn.
pub(super) struct Context<'a> {
    pub(super) now: u64,
    pub(super) rng: &'a mut Rng,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) next_message: &'a mut u64,
    /// Nothing new is begun; what was begun is finished.
    pub(super) is_calm: bool,
    pub(super) hangs_up: bool,
}

impl Context<'_> {
    fn say<W: Words>(&mut self, request: u64, words: &W) {
        frame::encode(self.out, request, words, &[]);
    }
}

enum Role {
    Producer(Producer),
    Consumer(Consumer),
    Admin(Admin),
    Stranger(Stranger),
}

pub(super) struct Client {
    pub(super) connection: Option<u64>,
    role: Role,
    pause_max: u64,
}

impl Client {
    fn new(role: Role, pause_max: u64) -> Self {
        Self { connection: None, role, pause_max }
    }

    pub(super) fn pause(&self, rng: &mut Rng, is_calm: bool) -> u64 {
        let pause_max = if is_calm { self.pause_max.min(MILLISECOND) } else { self.pause_max };
        rng.between(pause_max / 4, pause_max)
    }

    pub(super) fn is_hostile(&self) -> bool {
        matches!(self.role, Role::Stranger(_))
    }

    pub(super) fn wants_exactness(&self) -> bool {
        matches!(self.role, Role::Admin(_))
    }

    pub(super) fn must_be_prompt(&self) -> bool {
        match &self.role {
            Role::Admin(_) | Role::Consumer(_) => true,
            Role::Producer(producer) => producer.has_name(),
            Role::Stranger(_) => false,
        }
    }

    pub(super) fn connected(&mut self, context: &mut Context<'_>) {
        match &mut self.role {
            Role::Producer(producer) => producer.connected(context),
            Role::Consumer(consumer) => consumer.connected(context),
            Role::Admin(admin) => admin.connected(context),
            Role::Stranger(stranger) => stranger.connected(context),
        }
    }

    pub(super) fn disconnected(&mut self) {
        match &mut self.role {
            Role::Producer(producer) => producer.disconnected(),
            Role::Consumer(consumer) => consumer.disconnected(),
            Role::Admin(admin) => admin.disconnected(),
            Role::Stranger(_) => {}
        }
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        match &mut self.role {
            Role::Producer(producer) => producer.act(context),
            Role::Consumer(consumer) => consumer.act(context),
            Role::Admin(admin) => admin.act(context),
            Role::Stranger(stranger) => stranger.act(context),
        }
    }

    pub(super) fn heard(&mut self, request: u64, reply: &Reply<'_>, context: &mut Context<'_>) {
        match &mut self.role {
            Role::Producer(producer) => producer.heard(request, reply, context),
            Role::Consumer(consumer) => consumer.heard(request, reply, context),
            Role::Admin(admin) => admin.heard(request, reply, context),
            Role::Stranger(_) => {}
        }
    }

    pub(super) fn is_done(&self) -> bool {
        match &self.role {
            Role::Producer(producer) => producer.is_done(),
            Role::Consumer(consumer) => consumer.is_done(),
            Role::Admin(_) | Role::Stranger(_) => true,
        }
    }

    /// Does a little of its work again.
    pub(super) fn encore(&mut self) {
        if let Role::Producer(producer) = &mut self.role {
            producer.encore();
        }
    }

    pub(super) fn describe(&self) -> String {
        match &self.role {
            Role::Producer(producer) => producer.describe(),
            Role::Consumer(consumer) => consumer.describe(),
            Role::Admin(_) => "admin".to_owned(),
            Role::Stranger(_) => "stranger".to_owned(),
        }
    }
}

/// Large messages, small ones, some that stay for long, and a queue that comes and goes.
const QUEUES: [&str; 4] = ["bulk", "orders", "cold", "passing"];

pub(super) fn clients(rng: &mut Rng) -> Vec<Client> {
    let settings = |rng: &mut Rng| {
        QUEUES.map(|name| {
            let length_max = if rng.one_in(2) { 0 } else { rng.between(20, 120) };
            let settings = QueueSettings {
                priorities: [1, 2, 5, 256][rng.below(4) as usize],
                lease_ms: rng.skewed(if name == "cold" { 2_000 } else { 60 }) as u32 + 1,
                max_length: length_max,
                max_bytes: if rng.one_in(3) { rng.between(600_000, 6_000_000) } else { 0 },
                ..QueueSettings::default()
            };
            (name.to_owned(), settings)
        })
    };
    let settings = settings(rng);
    let priorities = |name: &str| {
        let found = settings.iter().find(|(known, _)| known == name);
        found.map_or(1, |(_, settings)| settings.priorities)
    };
    let mut clients = vec![Client::new(Role::Admin(Admin::new(settings.to_vec())), 2 * MILLISECOND)];
    for (name, queues) in [("", [0, 1]), ("feed", [0, 2]), ("", [1, 3]), ("feed", [0, 2])] {
        let queues = queues.map(|at| (QUEUES[at].to_owned(), priorities(QUEUES[at])));
        let pause_max = rng.between(200, 3_000) * MICROSECOND;
        let producer = Producer::new(name, queues.to_vec(), rng.between(1, 24) as usize);
        clients.push(Client::new(Role::Producer(producer), pause_max));
    }
    for name in ["bulk", "bulk", "orders", "orders", "cold", "passing"] {
        let credit = rng.skewed(60) as u32;
        let pause_max = if name == "cold" { 20 * MILLISECOND } else { rng.between(200, 4_000) * MICROSECOND };
        clients.push(Client::new(Role::Consumer(Consumer::new(name, credit)), pause_max));
    }
    clients.push(Client::new(Role::Stranger(Stranger::default()), 20 * MILLISECOND));
    clients
}

/// A message, as its producer can make it again at any time.
#[derive(Clone, Copy, Debug)]
struct Spec {
    id: u64,
    priority: u8,
    key_bytes: u16,
    has_headers: bool,
    payload_bytes: u32,
}

impl Spec {
    fn draw(id: u64, priorities: u16, bytes_max: u64, rng: &mut Rng) -> Self {
        let bytes = if bytes_max > 10_000 { rng.between(1, bytes_max) } else { rng.skewed(bytes_max) };
        Self {
            id,
            priority: rng.below(u64::from(priorities)) as u8,
            key_bytes: if rng.one_in(3) { rng.skewed(40) as u16 } else { 0 },
            has_headers: rng.one_in(4),
            payload_bytes: 8 + bytes as u32,
        }
    }

    fn append(&self, body: &mut Vec<u8>) -> MessageHead {
        let mut rng = Rng::new(self.id);
        let start = body.len();
        body.resize(start + usize::from(self.key_bytes), b'k');
        let headers = body.len();
        if self.has_headers {
            let appended = ringmain_net::headers::append(body, "trace", &self.id.to_le_bytes());
            appended.expect("a short header fits");
        }
        let payload = body.len();
        body.extend_from_slice(&self.id.to_le_bytes());
        body.resize(payload + self.payload_bytes as usize, 0);
        rng.fill(&mut body[payload + 8..]);
        MessageHead {
            payload_bytes: self.payload_bytes,
            headers_bytes: (payload - headers) as u32,
            key_bytes: self.key_bytes,
            priority: self.priority,
            ..MessageHead::default()
        }
    }
}

/// Every payload begins with the number of its message.
pub(super) fn id_in(payload: &[u8]) -> MessageId {
    let id = payload.first_chunk::<8>().expect("every payload has a number");
    MessageId(u64::from_le_bytes(*id))
}

pub(super) fn content_checksum(key: &[u8], headers: &[u8], payload: &[u8]) -> u32 {
    let lengths = [key.len() as u8, headers.len() as u8];
    [&lengths, key, headers, payload].iter().fold(0, |checksum, part| crc32c::crc32c_append(checksum, part))
}

fn hello() -> Hello<'static> {
    Hello { protocol: PROTOCOL, cluster: 0, agent: "simulated" }
}
