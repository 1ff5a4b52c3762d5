//! Calls: requests that are made once and answered once, at any shard.

use std::time::{Duration, Instant};

use ringmain_net::protocol::{
    Cluster, Code, CreateQueue, DeleteQueue, Done, ListQueues, Metadata, PurgeQueue, QueueInfo, QueueList,
    QueueSettings, Refused, Reply, ShowQueue,
};

use super::link::Pending;
use super::{HOPS_MAX, Machine, refusal};
use crate::error::Error;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    CreateQueue { name: String, settings: QueueSettings },
    ShowQueue { name: String },
    DeleteQueue { name: String },
    PurgeQueue { name: String },
    ListQueues { shard: u32, after: String, limit: u32 },
    Metadata,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done(Done),
    Queue(Box<QueueInfo>),
    Queues(QueueList),
    Cluster(Cluster),
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
    pub(crate) link: Option<usize>,
    /// Sent, and not answered.
    asking: bool,
    retry_at: Option<Instant>,
    attempts: u32,
    hops: u32,
    hindrance: Option<Error>,
}

impl Call {
    pub(crate) fn next_deadline(&self) -> Instant {
        self.retry_at.map_or(self.deadline, |at| at.min(self.deadline))
    }
}

impl Request {
    /// Whether asking twice is the same as asking once.
    fn is_repeatable(&self) -> bool {
        match self {
            Self::CreateQueue { .. } | Self::ShowQueue { .. } | Self::ListQueues { .. } | Self::Metadata => {
                true
            }
            // A second time would answer that there is no such queue, or count other messages.
            Self::DeleteQueue { .. } | Self::PurgeQueue { .. } => false,
        }
    }

    fn what(&self) -> &'static str {
        match self {
            Self::CreateQueue { .. } => "creating a queue",
            Self::ShowQueue { .. } => "showing a queue",
            Self::DeleteQueue { .. } => "deleting a queue",
            Self::PurgeQueue { .. } => "purging a queue",
            Self::ListQueues { .. } => "listing queues",
            Self::Metadata => "asking for the cluster",
        }
    }
}

impl Machine {
    /// Asks; the answer, or the error after `timeout`, comes from [`Machine::take_answer`].
    pub(crate) fn call(&mut self, request: Request, timeout: Duration, now: Instant) -> u64 {
        let id = self.next_id();
        let call = Call {
            request,
            deadline: now + timeout,
            timeout,
            link: None,
            asking: false,
            retry_at: None,
            attempts: 0,
            hops: 0,
            hindrance: None,
        };
        self.calls.insert(id, call);
        self.advance_call(id, now);
        id
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

    pub(super) fn advance_calls(&mut self, now: Instant) {
        if self.calls.is_empty() {
            return;
        }
        let ids: Vec<u64> = self.calls.keys().copied().collect();
        for id in ids {
            self.advance_call(id, now);
        }
    }

    fn advance_call(&mut self, id: u64, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.asking || call.retry_at.is_some_and(|at| at > now) {
            return;
        }
        call.retry_at = None;
        let up = call.link.filter(|link| self.links[*link].is_up());
        let request = call.request.clone();
        let Some(index) = up.or_else(|| self.link_for(&request, now)) else { return };
        let ready = self.links[index].is_up() && self.links[index].has_room_for_requests();
        if ready {
            self.send_call(index, id, &request);
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.link = Some(index);
            call.asking = ready;
        }
    }

    fn link_for(&mut self, request: &Request, now: Instant) -> Option<usize> {
        match request {
            Request::CreateQueue { name, .. }
            | Request::ShowQueue { name }
            | Request::DeleteQueue { name }
            | Request::PurgeQueue { name } => self.route(name, now),
            Request::ListQueues { shard, .. } => self.link_to_shard(*shard, now),
            Request::Metadata => {
                let up = self.links.iter().position(super::link::Link::is_up);
                up.or_else(|| self.link_to_shard(0, now))
            }
        }
    }

    fn send_call(&mut self, index: usize, id: u64, request: &Request) {
        let link = &mut self.links[index];
        let pending = Pending::Call { call: id };
        match request {
            Request::CreateQueue { name, settings } => {
                link.request(pending, &CreateQueue { name, settings: settings.clone() });
            }
            Request::ShowQueue { name } => link.request(pending, &ShowQueue { name }),
            Request::DeleteQueue { name } => link.request(pending, &DeleteQueue { name }),
            Request::PurgeQueue { name } => link.request(pending, &PurgeQueue { name }),
            Request::ListQueues { after, limit, .. } => {
                link.request(pending, &ListQueues { group: 0, after, limit: *limit });
            }
            Request::Metadata => link.request(pending, &Metadata),
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
            Reply::Cluster(cluster) => Answer::Cluster(cluster),
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
        let target = self.redirect(index, refused, now);
        let error = refusal(refused);
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.asking = false;
        call.hindrance = Some(error.clone());
        match refused.code() {
            Code::NotLeader | Code::WrongShard if target.is_some() && call.hops < HOPS_MAX => {
                call.hops += 1;
                call.link = target;
                self.advance_call(id, now);
            }
            Code::NotLeader | Code::WrongShard | Code::Busy | Code::ShuttingDown => {
                let attempts = call.attempts;
                call.attempts = attempts.saturating_add(1);
                call.hops = 0;
                call.link = None;
                let at = now + self.pause(attempts, refused.retry_after_ms);
                if let Some(call) = self.calls.get_mut(&id) {
                    call.retry_at = Some(at);
                }
            }
            _ => self.answer(id, Err(error)),
        }
    }

    pub(super) fn on_call_lost(&mut self, id: u64, lost: &Error, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.asking = false;
        call.hindrance = Some(lost.clone());
        if call.request.is_repeatable() {
            // Asked again when a connection is up.
            call.retry_at = Some(now);
        } else {
            self.answer(id, Err(lost.clone()));
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
            let last = call.hindrance.clone().or_else(|| self.hindrance());
            let error =
                Error::Timeout { what: call.request.what(), after: call.timeout, last: last.map(Box::new) };
            self.answer(id, Err(error));
        }
    }
}
