//! What clients say: to whoever leads, and to the next one when that has gone.

mod admin;
mod consumer;
mod operator;
mod producer;
mod stranger;

use ringmain_core::member::Member;
use ringmain_net::protocol::{Code, Hello, PROTOCOL, QueueSettings, Refused, Reply, Words};
use ringmain_net::{frame, route};

use super::oracle::{Oracle, QueueSpec};
use super::{MACHINES, Plant, Report, machine_at};
use crate::rng::Rng;
use crate::world::{MICROSECOND, MILLISECOND};
use admin::Admin;
use consumer::Consumer;
use operator::Operator;
use producer::Producer;
use stranger::Stranger;

pub(super) const LEASE_NS: u64 = 300 * MILLISECOND;
/// Somebody who says nothing for so long is given up.
const SILENCE_NS: u64 = 600 * MILLISECOND;

/// What a client may do in its turn.
pub(super) struct Context<'a> {
    pub(super) now: u64,
    pub(super) rng: &'a mut Rng,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) next_message: &'a mut u64,
    pub(super) oracle: &'a mut Oracle,
    pub(super) goal: &'a [Member],
    pub(super) report: &'a mut Report,
    pub(super) pipe: u64,
    pub(super) plant: Plant,
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
    Operator(Operator),
    Stranger(Stranger),
}

pub(super) struct Client {
    pub(super) pipe: Option<u64>,
    role: Role,
    pause_max: u64,

    is_greeted: bool,
    /// Where the leader was said to be.
    hint: Option<usize>,
    not_before: u64,
    heard_at: u64,
    /// Redirections in a row.
    redirections: u64,
}

impl Client {
    fn new(role: Role, pause_max: u64) -> Self {
        Self {
            pipe: None,
            role,
            pause_max,
            is_greeted: false,
            hint: None,
            not_before: 0,
            heard_at: 0,
            redirections: 0,
        }
    }

    pub(super) fn pause(&self, rng: &mut Rng, is_calm: bool) -> u64 {
        let pause_max = if is_calm { self.pause_max.min(10 * MILLISECOND) } else { self.pause_max };
        rng.between(pause_max / 4, pause_max)
    }

    pub(super) fn is_stranger(&self) -> bool {
        matches!(self.role, Role::Stranger(_))
    }

    pub(super) fn next_machine(&mut self, now: u64, rng: &mut Rng) -> Option<usize> {
        if now < self.not_before {
            return None;
        }
        let drawn = rng.below(MACHINES as u64) as usize;
        Some(self.hint.take().unwrap_or(drawn))
    }

    pub(super) fn failed(&mut self, now: u64) {
        self.not_before = now + 5 * MILLISECOND;
    }

    pub(super) fn connected(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        (self.is_greeted, self.heard_at) = (false, context.now);
        if let Role::Stranger(stranger) = &mut self.role {
            stranger.connected(context);
            return Ok(());
        }
        context.say(0, &Hello { protocol: PROTOCOL, cluster: 0, agent: "simulated" });
        Ok(())
    }

    /// The connection is over, or given up.
    pub(super) fn lost(&mut self, now: u64) {
        self.pipe = None;
        self.not_before = self.not_before.max(now + 2 * MILLISECOND);
        match &mut self.role {
            Role::Producer(producer) => producer.lost(),
            Role::Consumer(consumer) => consumer.lost(),
            Role::Operator(operator) => operator.lost(),
            Role::Admin(admin) => admin.lost(),
            Role::Stranger(_) => {}
        }
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        if let Role::Stranger(stranger) = &mut self.role {
            stranger.act(context);
            return Ok(());
        }
        if self.heard_at + SILENCE_NS < context.now {
            context.hangs_up = true;
        } else if self.is_greeted {
            match &mut self.role {
                Role::Producer(producer) => producer.act(context),
                Role::Consumer(consumer) => consumer.act(context),
                Role::Admin(admin) => admin.act(context),
                Role::Operator(operator) => operator.act(context),
                Role::Stranger(_) => {}
            }
            if context.out.is_empty() && context.rng.one_in(8) {
                context.say(PING, &ringmain_net::protocol::Ping);
            }
        }
        Ok(())
    }

    pub(super) fn heard(
        &mut self,
        request: u64,
        reply: &Reply<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        self.heard_at = context.now;
        if let Reply::Welcome(_) = reply {
            self.is_greeted = true;
        } else if !matches!(reply, Reply::Refused(_) | Reply::Pong) {
            self.redirections = 0;
        }
        if let Reply::Refused(refused) = reply
            && matches!(refused.code(), Code::NotLeader | Code::LeaderLost)
            && self.follows(refused, context)
        {
            return Ok(());
        }
        match &mut self.role {
            Role::Producer(producer) => producer.heard(request, reply, context),
            Role::Consumer(consumer) => consumer.heard(request, reply, context),
            Role::Admin(admin) => admin.heard(request, reply, context),
            Role::Operator(operator) => {
                if let Some(leader) = operator.heard(request, reply, context) {
                    self.hint = Some(leader);
                    context.hangs_up = true;
                }
                Ok(())
            }
            Role::Stranger(_) => Ok(()),
        }
    }

    /// Somebody else leads: there, or nobody knows where.
    fn follows(&mut self, refused: &Refused<'_>, context: &mut Context<'_>) -> bool {
        context.hangs_up = true;
        self.redirections += 1;
        self.hint = machine_at(refused.redirect_host);
        // Whoever is sent to and fro is patient.
        let patience = if self.hint.is_some() && self.redirections == 1 { 0 } else { 30 * MILLISECOND };
        self.not_before = context.now + patience;
        true
    }

    pub(super) fn is_done(&self) -> bool {
        match &self.role {
            Role::Producer(producer) => producer.is_done(),
            Role::Consumer(consumer) => consumer.is_done(),
            Role::Admin(_) | Role::Operator(_) | Role::Stranger(_) => true,
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
            Role::Producer(producer) => format!("{producer:?}"),
            Role::Consumer(consumer) => format!("{consumer:?}"),
            Role::Admin(_) | Role::Operator(_) | Role::Stranger(_) => String::new(),
        }
    }
}

/// Never the number of anything else that is asked.
const PING: u64 = u64::MAX;

/// Every payload begins with the number of its message.
pub(super) fn id_in(payload: &[u8]) -> Option<u64> {
    payload.first_chunk::<8>().map(|id| u64::from_le_bytes(*id))
}

/// Everybody who has something to say, and the queues they speak of: three that are in different groups, and one that
/// comes and goes.
pub(super) fn all(groups: usize, rng: &mut Rng) -> (Vec<Client>, Vec<QueueSpec>) {
    let named = |group: usize| {
        let fits = |name: &String| route::group_of(name, 1, groups as u32) as usize == group;
        (0..).map(|number| format!("queue-{number}")).find(fits).expect("names spread over all groups")
    };
    let passing = "passing".to_owned();
    let passing_group = route::group_of(&passing, 1, groups as u32) as usize;
    let mut names: Vec<(String, usize)> = (0..3).map(|group| (named(group), group)).collect();
    names.push((passing, passing_group));
    let spec = |(name, group): (String, usize)| {
        let settings = QueueSettings {
            priorities: *rng.pick(&[1, 3, 256]),
            durability: u8::from(rng.one_in(4)),
            lease_ms: (LEASE_NS / MILLISECOND) as u32,
            max_length: if rng.one_in(3) { rng.between(20, 120) } else { 0 },
            max_bytes: if rng.one_in(4) { rng.between(70_000, 200_000) } else { 0 },
            ..QueueSettings::default()
        };
        QueueSpec { name, group, settings }
    };
    let queues: Vec<QueueSpec> = names.into_iter().map(spec).collect();
    let mut clients = Vec::new();
    for (at, QueueSpec { name, settings, .. }) in queues.iter().enumerate() {
        let pause = |rng: &mut Rng| rng.between(5, 40) * MILLISECOND;
        let admin = Admin::new(name, at, settings.clone(), name == "passing");
        clients.push(Client::new(Role::Admin(admin), 20 * MILLISECOND));
        for number in 0..rng.between(1, 2) {
            let producer_name = if rng.one_in(2) { format!("{name}-{number}") } else { String::new() };
            let window_max = rng.between(1, 12) as usize;
            let producer = Producer::new(producer_name, name, at, settings.priorities, window_max);
            clients.push(Client::new(Role::Producer(producer), pause(rng)));
        }
        for _ in 0..rng.between(1, 2) {
            let consumer = Consumer::new(name, rng.skewed(20) as u32);
            clients.push(Client::new(Role::Consumer(consumer), pause(rng)));
        }
    }
    clients.push(Client::new(Role::Operator(Operator::new(groups)), 10 * MILLISECOND));
    clients.push(Client::new(Role::Stranger(Stranger), 60 * MILLISECOND));
    assert!(clients.iter().all(|client| client.pause_max > MICROSECOND));
    (clients, queues)
}
