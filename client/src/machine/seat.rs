//! How producers, consumers and calls find the shard that serves them.
//!
//! A seat asks one connection, and moves on when that refuses or ends. Only the leader of a group serves
//! it; everybody else refuses, and points to the leader if there is one. So a seat that has lost its place
//!
//! 1. asks the connection that was last heard to lead its group, or else any of its shard, in turn;
//! 2. follows the redirect at once, up to `HOPS_MAX` times in a row;
//! 3. where nobody knows a leader, as during an election, asks the next one after a few milliseconds;
//! 4. goes on to the next one, too, where a connection that is up says nothing.
//!
//! Meanwhile that shard is dialled at *all* nodes, side by side: a node that is dead or unreachable costs its own
//! connection the time, and nobody else. Whichever comes up first is asked first.

use std::time::{Duration, Instant};

use ringmain_net::protocol::{Code, Refused};

use super::link::{Link, Phase};
use super::places::{Destination, Goal, Group, Places};
use super::{LINKS_MAX, Machine, backoff};
use crate::error::Error;
use crate::event::Event;
use crate::options::Address;

/// Redirects followed in a row before taking a breath.
pub(super) const HOPS_MAX: u32 = 8;
/// Pauses while a group has no leader: short against an election, so that they add little to it, and long enough that
/// asking every time costs a shard next to nothing.
const ELECTION_PAUSE_MIN: Duration = Duration::from_millis(2);
const ELECTION_PAUSE_MAX: Duration = Duration::from_millis(20);
/// How long one connection may take to come up before all other nodes are dialled too.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long one shard may take to say whether it leads before the next is asked too. What it says later counts as well,
/// so a slow network costs some more questions and no more.
const ASK_PATIENCE: Duration = Duration::from_millis(100);

/// Where a producer, a consumer or a call stands on its way to the shard that serves it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) goal: Goal,

    /// The connection that is asked, or serves. It is up.
    pub(crate) link: Option<usize>,
    /// A request of this seat is under way. While it is hunting, the next step waits for the answer until `retry_at`.
    pub(crate) asking: bool,
    /// Nothing is asked before.
    pub(crate) retry_at: Option<Instant>,
    /// Refusals in a row.
    pub(crate) attempts: u32,
    /// Redirects in a row.
    hops: u32,
    /// Its place is gone, or slow to answer: all nodes are dialled.
    hunting: bool,
    /// Who refused last is asked again only if there is nobody else.
    refused_by: Option<usize>,
    /// Where the last redirect pointed: the same twice is no news.
    moved_to: Option<usize>,
    /// What stood in the way last, for the error of a call that gives up.
    pub(crate) hindrance: Option<Error>,
}

/// What a seat looks for, apart from the seat.
#[derive(Copy, Clone, Debug)]
pub(super) struct Search {
    pub(super) destination: Option<Destination>,
    hunting: bool,
    refused_by: Option<usize>,
}

/// What follows from a refusal.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The seat has a new link: ask it.
    Ask,
    /// Nobody can be asked before [`Seat::retry_at`].
    Pause,
}

impl Seat {
    pub(super) fn new(goal: Goal) -> Self {
        Self {
            goal,
            link: None,
            asking: false,
            retry_at: None,
            attempts: 0,
            hops: 0,
            hunting: false,
            refused_by: None,
            moved_to: None,
            hindrance: None,
        }
    }

    /// The queue's name; "" where there is none.
    pub(crate) fn name(&self) -> &str {
        match &self.goal {
            Goal::Queue(name) => name,
            Goal::Group(_) | Goal::Link(_) | Goal::Anywhere => "",
        }
    }

    pub(super) fn may_ask(&self) -> bool {
        !self.asking && self.retry_at.is_none()
    }

    /// The question whether the shard serves this seat is under way.
    pub(super) fn on_asked(&mut self, now: Instant) {
        self.asking = true;
        if self.hunting {
            self.retry_at = Some(now + ASK_PATIENCE);
        }
    }

    /// Whether it waits for a shard that serves it, and not for its turn at one.
    pub(super) fn is_searching(&self) -> bool {
        self.asking || self.link.is_none()
    }

    /// The pause is over, or the shard that was asked says nothing.
    pub(super) fn on_retry(&mut self) {
        self.retry_at = None;
        if std::mem::take(&mut self.asking) {
            self.refused_by = self.link.take();
        }
    }

    /// The shard at this link serves this seat.
    pub(super) fn on_served_by(&mut self, link: usize) {
        self.link = Some(link);
        self.retry_at = None;
        self.on_progress();
    }

    /// A step forward.
    pub(super) fn on_progress(&mut self) {
        self.asking = false;
        self.attempts = 0;
        self.hops = 0;
        self.hunting = false;
        self.refused_by = None;
        self.hindrance = None;
    }

    /// A publish was answered: redirects start over.
    pub(super) fn on_served(&mut self) {
        self.hops = 0;
    }

    /// Its connection has ended, or serves it no more: all others are asked at once.
    pub(super) fn on_unseated(&mut self, by: usize, why: Error, now: Instant) {
        self.link = None;
        self.asking = false;
        self.hunting = true;
        self.refused_by = Some(by);
        self.retry_at = Some(now);
        self.hindrance = Some(why);
    }

    /// A connection that it may have waited for could not be made.
    pub(super) fn on_missed(&mut self, now: Instant) {
        if self.link.is_none() && !self.hunting {
            self.hunting = true;
            self.retry_at = Some(now);
        }
    }

    /// Nobody could be asked. One connection is being made: if that takes long, all of them are.
    pub(super) fn on_nobody(&mut self, now: Instant) {
        if !self.hunting {
            self.hunting = true;
            self.retry_at = Some(now + PATIENCE);
        }
    }

    pub(super) fn search(&self, places: &Places) -> Search {
        Search { destination: places.resolve(&self.goal), hunting: self.hunting, refused_by: self.refused_by }
    }
}

/// Whether the refusal speaks of the shard and not of the request: somebody else may serve it.
pub(super) fn is_elsewhere(code: Code) -> bool {
    matches!(code, Code::NotLeader | Code::LeaderLost | Code::WrongShard | Code::ShuttingDown | Code::Removed)
}

impl Machine {
    /// A connection to ask now. Dials what may become one.
    pub(super) fn look(&mut self, search: Search, now: Instant) -> Option<usize> {
        match search.destination? {
            Destination::Link(index) => {
                self.wake_link(index, now);
                self.links[index].is_up().then_some(index)
            }
            Destination::Anywhere => {
                let found = self.next_up(None, search.refused_by);
                if found.is_none() {
                    self.dial(0, search.hunting, now);
                }
                found
            }
            Destination::Group(group) => self.look_for_group(group, search, now),
        }
    }

    fn look_for_group(&mut self, group: Group, search: Search, now: Instant) -> Option<usize> {
        let leader = self.places.leader(group);
        let ready = leader.filter(|leader| self.links[*leader].is_up() && search.refused_by != Some(*leader));
        let found = ready.or_else(|| self.next_up(Some(group.shard), search.refused_by));
        if search.hunting || found.is_none() {
            self.dial(group.shard, search.hunting, now);
        }
        found
    }

    /// A connection of this shard that is up, another one each time.
    fn next_up(&mut self, shard: Option<u32>, except: Option<usize>) -> Option<usize> {
        let usable =
            |link: &Link| link.is_up() && !link.stranger && shard.is_none_or(|s| link.shard == Some(s));
        let links = self.links.iter().enumerate();
        let others =
            links.filter(|(index, link)| except != Some(*index) && usable(link)).map(|(index, _)| index);
        let Some(turn) = self.turn.checked_rem(others.clone().count()) else {
            return except.filter(|index| usable(&self.links[*index]));
        };
        let found = others.clone().nth(turn);
        self.turn = self.turn.wrapping_add(1);
        found
    }

    /// Dials this shard: at all nodes, or at one.
    fn dial(&mut self, shard: u32, all: bool, now: Instant) {
        if !all {
            // The node that we know to be alive, if there is one.
            let alive =
                self.links.iter().find(|link| link.is_up() && !link.stranger).and_then(|link| link.node);
            let node = alive.and_then(|number| self.places.position(number)).unwrap_or(0);
            self.link_to_place(node, shard, now);
            return;
        }
        let nodes = self.places.nodes().len();
        for node in 0..nodes {
            self.link_to_place(node, shard, now);
        }
        // Perhaps the cluster has moved altogether, and only the addresses given still lead to it.
        if !self.links.iter().any(|link| link.is_up() && !link.stranger) {
            for given in 0..self.options.addresses.len() {
                let address = self.options.addresses[given].clone();
                self.link_to(&address, now);
            }
        }
    }

    /// The link to a shard of a node, which is dialled if it is not up.
    pub(super) fn link_to_place(&mut self, node: usize, shard: u32, now: Instant) -> Option<usize> {
        let number = self.places.number(node)?;
        // The address that we were given may be another name of the same shard.
        let same = |link: &Link| {
            link.is_up() && !link.stranger && link.node == Some(number) && link.shard == Some(shard)
        };
        if let Some(index) = self.links.iter().position(same) {
            return Some(index);
        }
        let address = self.places.address(node, shard)?;
        let index = self.link_to(&address, now)?;
        let link = &mut self.links[index];
        if !link.is_up() {
            link.node = Some(number);
            link.shard = Some(shard);
        }
        Some(index)
    }

    /// The link to this address, which is dialled if it is not up.
    pub(super) fn link_to(&mut self, address: &Address, now: Instant) -> Option<usize> {
        self.link_as(address, false, now)
    }

    /// A link to this address of its own, from which nothing is learnt about the cluster.
    pub(super) fn link_to_stranger(&mut self, address: &Address, now: Instant) -> Option<usize> {
        self.link_as(address, true, now)
    }

    fn link_as(&mut self, address: &Address, stranger: bool, now: Instant) -> Option<usize> {
        let same = |link: &Link| link.stranger == stranger && link.address == *address;
        if let Some(index) = self.links.iter().position(same) {
            self.wake_link(index, now);
            return Some(index);
        }
        if self.links.len() == LINKS_MAX {
            return None;
        }
        let mut link = Link::new(address.clone(), now);
        link.stranger = stranger;
        self.links.push(link);
        Some(self.links.len() - 1)
    }

    /// Somebody needs this link.
    fn wake_link(&mut self, index: usize, now: Instant) {
        let link = &mut self.links[index];
        if std::mem::take(&mut link.parked) {
            link.phase = Phase::Waiting { until: now };
        }
    }

    /// Somebody waits for this very connection: it is not left to its pause.
    pub(super) fn dial_now(&mut self, index: usize, now: Instant) {
        let link = &mut self.links[index];
        if matches!(link.phase, Phase::Waiting { .. }) {
            link.phase = Phase::Waiting { until: now };
        }
    }

    /// Whether this connection may serve what the seat looks for, and nothing better is known.
    pub(super) fn suits(&self, index: usize, search: Search) -> bool {
        let link = &self.links[index];
        match search.destination {
            Some(Destination::Link(wanted)) => wanted == index,
            Some(Destination::Anywhere) => !link.stranger,
            Some(Destination::Group(group)) => match self.places.leader(group) {
                Some(leader) if leader == index => true,
                Some(leader) if self.links[leader].is_up() => false,
                _ => link.shard == Some(group.shard) && !link.stranger,
            },
            None => false,
        }
    }

    /// Whether a seat that is not served yet would use this connection.
    pub(super) fn would_use(&self, index: usize, seat: &Seat) -> bool {
        if seat.link.is_some() && !seat.hunting {
            return false;
        }
        let link = &self.links[index];
        match self.places.resolve(&seat.goal) {
            Some(Destination::Link(wanted)) => wanted == index,
            Some(Destination::Anywhere) | None => true,
            Some(Destination::Group(group)) => {
                let given = || self.options.addresses.contains(&link.address);
                self.places.leader(group) == Some(index) || link.shard == Some(group.shard) || given()
            }
        }
    }

    /// The shard at `from` does not serve this seat. Follows its redirect, or sees to it that somebody else is asked.
    pub(super) fn on_elsewhere(
        &mut self,
        from: usize,
        seat: SeatOf,
        refused: &Refused<'_>,
        now: Instant,
    ) -> Turn {
        let Some(search) = self.seat(seat).map(|seat| seat.search(&self.places)) else { return Turn::Pause };
        let target = self.redirect(from, search.destination, refused, now);
        if target.is_none() {
            self.places.on_not_leader(search.destination, from);
        }
        let up = target.filter(|link| self.links[*link].is_up());
        let coming = target.filter(|link| !self.links[*link].is_failing());
        let attempts = self.seat(seat).map_or(0, |seat| seat.attempts);
        let pause = self.election_pause(attempts, refused.retry_after_ms);
        let address = target.map(|link| self.links[link].address.to_string());
        let Some(seat) = self.seat_mut(seat) else { return Turn::Pause };
        seat.asking = false;
        seat.link = None;
        seat.retry_at = None;
        seat.hindrance = Some(super::refusal(refused));
        seat.refused_by = Some(from);
        let news = target.is_some() && std::mem::replace(&mut seat.moved_to, target) != target;
        let moved = address.filter(|_| news && !seat.name().is_empty());
        let moved = moved.map(|address| Event::Moved { queue: seat.name().to_owned(), address });
        let turn = if up.is_some() && seat.hops < HOPS_MAX {
            seat.hops += 1;
            seat.link = up;
            Turn::Ask
        } else if coming.is_some() && up.is_none() && !seat.hunting {
            seat.on_nobody(now);
            Turn::Pause
        } else {
            seat.hops = 0;
            seat.attempts = attempts.saturating_add(1);
            seat.hunting = true;
            seat.retry_at = Some(now + pause);
            Turn::Pause
        };
        moved.into_iter().for_each(|event| self.event(event));
        turn
    }

    /// The link that a refusal points to, if it does.
    fn redirect(
        &mut self,
        from: usize,
        destination: Option<Destination>,
        refused: &Refused<'_>,
        now: Instant,
    ) -> Option<usize> {
        let points = matches!(refused.code(), Code::NotLeader | Code::LeaderLost | Code::WrongShard);
        if !points || refused.redirect_port == 0 {
            return None;
        }
        let host = match refused.redirect_host {
            "" => self.links[from].address.host.clone(),
            host => host.to_owned(),
        };
        let address = Address { host, port: refused.redirect_port };
        let target = match self.places.locate(&address) {
            Some((node, shard)) => self.link_to_place(node, shard, now)?,
            None => self.link_to(&address, now)?,
        };
        if target == from {
            return None;
        }
        self.places.on_leader(destination, target);
        Some(target)
    }

    /// How long to wait before somebody is asked again who leads.
    fn election_pause(&mut self, attempt: u32, retry_after_ms: u32) -> Duration {
        let advised = Duration::from_millis(u64::from(retry_after_ms)).min(ELECTION_PAUSE_MAX);
        backoff::pause(attempt, ELECTION_PAUSE_MIN, ELECTION_PAUSE_MAX, &mut self.random).max(advised)
    }

    /// How long a leader that is not ready yet, perhaps because it is new, is left alone.
    pub(super) fn pause_until_ready(&mut self, attempt: u32, retry_after_ms: u32) -> Duration {
        let advised = Duration::from_millis(u64::from(retry_after_ms)).min(self.options.retry_max);
        self.election_pause(attempt, 0).max(advised)
    }

    fn seat(&self, seat: SeatOf) -> Option<&Seat> {
        match seat {
            SeatOf::Producer(id) => self.producers.get(&id).map(|producer| &producer.seat),
            SeatOf::Consumer(id) => self.consumers.get(&id).map(|consumer| &consumer.seat),
            SeatOf::Call(id) => self.calls.get(&id).map(|call| &call.seat),
        }
    }

    fn seat_mut(&mut self, seat: SeatOf) -> Option<&mut Seat> {
        match seat {
            SeatOf::Producer(id) => self.producers.get_mut(&id).map(|producer| &mut producer.seat),
            SeatOf::Consumer(id) => self.consumers.get_mut(&id).map(|consumer| &mut consumer.seat),
            SeatOf::Call(id) => self.calls.get_mut(&id).map(|call| &mut call.seat),
        }
    }

    /// The seats that may still need a place.
    pub(super) fn seats(&self) -> impl Iterator<Item = (SeatOf, &Seat)> {
        let producers = self.producers.iter().filter(|(_, producer)| producer.failed.is_none());
        let producers = producers.map(|(id, producer)| (SeatOf::Producer(*id), &producer.seat));
        let consumers = self.consumers.iter().filter(|(_, consumer)| consumer.failed.is_none());
        let consumers = consumers.map(|(id, consumer)| (SeatOf::Consumer(*id), &consumer.seat));
        let calls = self.calls.iter().map(|(id, call)| (SeatOf::Call(*id), &call.seat));
        producers.chain(consumers).chain(calls)
    }

    /// A connection ended or could not be made: those that may have waited for it look further at once.
    pub(super) fn miss(&mut self, index: usize, now: Instant) {
        let waited = self.seats().filter(|(_, seat)| self.would_use(index, seat));
        let waited: Vec<SeatOf> = waited.map(|(whose, _)| whose).collect();
        for whose in waited {
            if let Some(seat) = self.seat_mut(whose) {
                seat.on_missed(now);
            }
        }
    }
}

/// Whose seat.
#[derive(Copy, Clone, Debug)]
pub(super) enum SeatOf {
    Producer(u64),
    Consumer(u64),
    Call(u64),
}
