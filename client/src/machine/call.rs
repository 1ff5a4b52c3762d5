//! Calls: requests that are answered once, by the leader of a group or by one shard.

use std::time::{Duration, Instant};

use ringmain_net::protocol::{
    Cluster, Code, CreateQueue, DeleteQueue, Done, GroupsShown, ListQueues, Metadata, MoveLeader, PurgeQueue,
    QueueInfo, QueueList, QueueSettings, Refused, Reply, ShowGroups, ShowQueue,
};

use super::link::{Link, Pending};
use super::places::{Goal, Group, Hearsay};
use super::seat::{Seat, SeatOf, Turn, is_elsewhere};
use super::{Machine, refusal};
use crate::cluster::Change;
use crate::error::Error;
use crate::options::Address;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    CreateQueue {
        name: String,
        settings: QueueSettings,
    },
    ShowQueue {
        name: String,
    },
    DeleteQueue {
        name: String,
    },
    PurgeQueue {
        name: String,
    },
    ListQueues {
        shard: u32,
        group: u32,
        after: String,
        limit: u32,
    },
    Metadata,
    /// `Metadata` of whoever listens there.
    Identify {
        address: Address,
    },
    /// The groups of one shard of one node.
    ShowGroups {
        node: u32,
        shard: u32,
    },
    MoveLeader {
        group: u32,
        node: u32,
    },
    ChangeMembers {
        group: u32,
        change: Change,
    },
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done(Done),
    Queue(Box<QueueInfo>),
    Queues(QueueList),
    Cluster(Cluster),
    Groups(GroupsShown),
}

impl Answer {
    /// The error of a call that is answered with something else than it asked for.
    #[cold]
    pub(crate) fn unexpected(&self) -> Error {
        Error::System { reason: format!("the shard answered {self:?} to another question") }
    }
}

#[derive(Debug)]
pub(crate) struct Call {
    request: Request,
    deadline: Instant,
    timeout: Duration,
    /// It may have been carried out already, and the answer was lost.
    is_uncertain: bool,
    pub(super) seat: Seat,
}

impl Call {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What a refusal means for whoever asked.
    fn refused(&self, refused: &Refused<'_>) -> Result<Answer, Error> {
        let is_gone = refused.code() == Code::NoSuchQueue && self.is_uncertain;
        match self.request {
            // An earlier try of this very call has deleted it, or somebody else has: it is gone as was asked.
            Request::DeleteQueue { .. } if is_gone => Ok(Answer::Done(Done { index: 0, count: 0 })),
            _ => Err(refusal(refused)),
        }
    }
}

impl Request {
    fn what(&self) -> &'static str {
        match self {
            Self::CreateQueue { .. } => "creating a queue",
            Self::ShowQueue { .. } => "showing a queue",
            Self::DeleteQueue { .. } => "deleting a queue",
            Self::PurgeQueue { .. } => "purging a queue",
            Self::ListQueues { .. } => "listing queues",
            Self::Metadata => "asking for the cluster",
            Self::Identify { .. } => "asking who listens there",
            Self::ShowGroups { .. } => "showing groups",
            Self::MoveLeader { .. } => "moving a leader",
            Self::ChangeMembers { .. } => "changing members",
        }
    }
}

impl Machine {
    /// Asks; the answer, or the error after `timeout`, comes from [`Machine::take_answer`].
    pub(crate) fn call(&mut self, request: Request, timeout: Duration, now: Instant) -> u64 {
        let id = self.next_id();
        match self.goal(&request, now) {
            Ok(goal) => {
                let (deadline, seat) = (now + timeout, Seat::new(goal));
                let call = Call { request, deadline, timeout, is_uncertain: false, seat };
                self.calls.insert(id, call);
                self.advance_call(id, now);
            }
            Err(error) => self.answers.push_back((id, Err(error))),
        }
        id
    }

    /// Who can answer this.
    fn goal(&mut self, request: &Request, now: Instant) -> Result<Goal, Error> {
        let goal = match request {
            Request::CreateQueue { name, .. }
            | Request::ShowQueue { name }
            | Request::DeleteQueue { name }
            | Request::PurgeQueue { name } => Goal::Queue(name.clone()),
            Request::ListQueues { shard, group, .. } => Goal::Group(Group { shard: *shard, ordinal: *group }),
            Request::Metadata => Goal::Anywhere,
            Request::Identify { address } => {
                let link = self.link_to_stranger(address, now).ok_or_else(too_many_links)?;
                self.dial_now(link, now);
                Goal::Link(link)
            }
            Request::ShowGroups { node, shard } => {
                let node = self.places.position(*node);
                let link = node.and_then(|node| self.link_to_place(node, *shard, now));
                let link = link.ok_or_else(too_many_links)?;
                self.dial_now(link, now);
                Goal::Link(link)
            }
            Request::MoveLeader { group, .. } | Request::ChangeMembers { group, .. } => {
                Goal::Group(self.group(*group)?)
            }
        };
        Ok(goal)
    }

    /// The group of this number in the cluster.
    fn group(&self, number: u32) -> Result<Group, Error> {
        let groups = self.places.groups().max(1);
        let group = Group { shard: number / groups, ordinal: number % groups };
        if group.shard >= self.places.shards() {
            return Err(Error::Setting { what: "the cluster has no group of this number" });
        }
        Ok(group)
    }

    /// The answer to this call, once.
    pub(crate) fn take_answer(&mut self, id: u64) -> Option<Result<Answer, Error>> {
        let index = self.answers.iter().position(|(answered, _)| *answered == id)?;
        self.answers.remove(index).map(|(_, answer)| answer)
    }

    /// Any answer.
    pub(crate) fn poll_answer(&mut self) -> Option<(u64, Result<Answer, Error>)> {
        self.answers.pop_front()
    }

    fn answer(&mut self, id: u64, answer: Result<Answer, Error>) {
        if self.calls.remove(&id).is_some() {
            self.answers.push_back((id, answer));
        }
    }

    /// A connection has come up: those without one may need it.
    pub(super) fn attach_calls(&mut self, index: usize, now: Instant) {
        let ids: Vec<u64> = self.calls.keys().copied().collect();
        for id in ids {
            let Some(seat) = self.calls.get(&id).map(|call| &call.seat) else { continue };
            let suits = seat.link.is_none() && self.suits(index, seat.search(&self.places));
            if let Some(call) = self.calls.get_mut(&id).filter(|_| suits) {
                call.seat.link = Some(index);
                call.seat.retry_at = None;
            }
            self.advance_call(id, now);
        }
    }

    /// The connection ended. Calls are repeated elsewhere, since asking twice comes to the same as asking once, later;
    /// those meant for it alone end with it.
    pub(super) fn detach_calls(&mut self, index: usize, lost: &Error, now: Instant) {
        let here = |seat: &Seat| seat.link == Some(index) || seat.goal == Goal::Link(index);
        let ids: Vec<u64> =
            self.calls.iter().filter(|(_, call)| here(&call.seat)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.is_uncertain |= call.seat.asking;
            if call.seat.goal == Goal::Link(index) {
                self.answer(id, Err(lost.clone()));
            } else {
                call.seat.on_unseated(index, lost.clone(), now);
            }
        }
    }

    pub(super) fn retry_calls(&mut self, now: Instant) {
        if self.calls.is_empty() {
            return;
        }
        let ids: Vec<u64> = self.calls.keys().copied().collect();
        for id in ids {
            if let Some(call) =
                self.calls.get_mut(&id).filter(|c| c.seat.retry_at.is_some_and(|at| at <= now))
            {
                call.seat.retry_at = None;
            }
            // Those that found no room for requests are here too.
            self.advance_call(id, now);
        }
    }

    fn advance_call(&mut self, id: u64, now: Instant) {
        let Some(call) = self.calls.get(&id) else { return };
        if !call.seat.may_ask() {
            return;
        }
        let (link, search) = (call.seat.link, call.seat.search(&self.places));
        let found = link.or_else(|| self.look(search, now));
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.seat.link = found;
        let Some(index) = found else { return call.seat.on_nobody(now) };
        let link = &mut self.links[index];
        if link.has_room_for_requests() {
            call.seat.asking = true;
            send(link, Pending::Call { call: id }, &call.request);
        }
    }

    pub(super) fn on_call_answered(
        &mut self,
        index: usize,
        id: u64,
        reply: Reply<'_>,
        now: Instant,
    ) -> Result<(), String> {
        let answer = match reply {
            Reply::Done(done) => Answer::Done(done),
            Reply::QueueShown(shown) => Answer::Queue(Box::new(shown.info)),
            Reply::QueueList(list) => Answer::Queues(list),
            Reply::Cluster(cluster) => {
                let link = &self.links[index];
                if !link.stranger && cluster.cluster == self.places.cluster() {
                    self.places.learn(Hearsay::from(&cluster), &link.address.host);
                }
                Answer::Cluster(cluster)
            }
            Reply::GroupsShown(shown) => Answer::Groups(shown),
            Reply::Refused(refused) => {
                self.on_call_refused(index, id, &refused, now);
                return Ok(());
            }
            _ => return Err("answered a call with something else".to_owned()),
        };
        self.answer(id, Ok(answer));
        Ok(())
    }

    fn on_call_refused(&mut self, index: usize, id: u64, refused: &Refused<'_>, now: Instant) {
        // A call that has been asked elsewhere meanwhile waits for that answer.
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.seat.link == Some(index)) else { return };
        call.is_uncertain |= refused.code() == Code::LeaderLost;
        let pinned = matches!(call.seat.goal, Goal::Link(_));
        match refused.code() {
            code if is_elsewhere(code) && !pinned => {
                if self.on_elsewhere(index, SeatOf::Call(id), refused, now) == Turn::Ask {
                    self.advance_call(id, now);
                }
            }
            Code::Busy | Code::MembershipPending => {
                let attempts = call.seat.attempts;
                call.seat.asking = false;
                call.seat.attempts = attempts.saturating_add(1);
                call.seat.hindrance = Some(refusal(refused));
                let at = now + self.pause(attempts, refused.retry_after_ms);
                if let Some(call) = self.calls.get_mut(&id) {
                    call.seat.retry_at = Some(at);
                }
            }
            _ => {
                let answer = call.refused(refused);
                self.answer(id, answer);
            }
        }
    }

    pub(super) fn expire_calls(&mut self, now: Instant) {
        if self.calls.is_empty() {
            return;
        }
        let late: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let Some(call) = self.calls.get(&id) else { continue };
            let last = call.seat.hindrance.clone().or_else(|| self.hindrance());
            let error =
                Error::Timeout { what: call.request.what(), after: call.timeout, last: last.map(Box::new) };
            self.answer(id, Err(error));
        }
    }
}

#[cold]
fn too_many_links() -> Error {
    Error::System { reason: "no connection to that address can be made: there are too many".to_owned() }
}

fn send(link: &mut Link, pending: Pending, request: &Request) {
    match request {
        Request::CreateQueue { name, settings } => {
            link.request(pending, &CreateQueue { name, settings: settings.clone() });
        }
        Request::ShowQueue { name } => link.request(pending, &ShowQueue { name }),
        Request::DeleteQueue { name } => link.request(pending, &DeleteQueue { name }),
        Request::PurgeQueue { name } => link.request(pending, &PurgeQueue { name }),
        Request::ListQueues { group, after, limit, .. } => {
            link.request(pending, &ListQueues { group: *group, after, limit: *limit });
        }
        Request::Metadata | Request::Identify { .. } => link.request(pending, &Metadata),
        Request::ShowGroups { .. } => link.request(pending, &ShowGroups),
        Request::MoveLeader { group, node } => {
            link.request(pending, &MoveLeader { group: *group, node: *node });
        }
        Request::ChangeMembers { group, change } => link.request(pending, &change.words(*group)),
    }
}
