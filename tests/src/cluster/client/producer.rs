//! A producer: one queue, a session, a window of unanswered publishes, and the patience to send them again in order.

use std::collections::VecDeque;

use ringmain_net::frame;
use ringmain_net::protocol::{Code, MessageHead, OpenQueue, OpenSession, Publish, Refused, Reply};

use super::Context;
use crate::cluster::Plant;
use crate::rng::Rng;
use crate::world::MILLISECOND;

/// A message, as its producer can make it again at any time.
#[derive(Clone, Copy, Debug)]
struct Spec {
    id: u64,
    priority: u8,
    bytes: u32,
}

impl Spec {
    fn payload(&self) -> Vec<u8> {
        let mut payload = self.id.to_le_bytes().to_vec();
        payload.resize(8 + self.bytes as usize, 0);
        Rng::new(self.id).fill(&mut payload[8..]);
        payload
    }
}

#[derive(Debug)]
struct Unanswered {
    sequence: u64,
    specs: Vec<Spec>,
    is_sent: bool,
    tries: u32,
    not_before: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    Queue,
    Session,
}

#[derive(Debug)]
pub(super) struct Producer {
    name: String,
    queue: String,
    ordinal: usize,
    priorities: u16,
    window_max: usize,

    handle: Option<u64>,
    /// Of this connection: the queue was looked up.
    is_open: bool,
    /// Id and epoch.
    session: Option<(u64, u32)>,
    next_sequence: u64,
    window: VecDeque<Unanswered>,
    waits: Option<(u64, Waits)>,
    asked_at: u64,
    request: u64,
    /// To be published although all is calm.
    encore: u32,
}

impl Producer {
    pub(super) fn new(name: String, queue: &str, ordinal: usize, priorities: u16, window_max: usize) -> Self {
        Self {
            name,
            queue: queue.to_owned(),
            ordinal,
            priorities,
            window_max,
            handle: None,
            is_open: false,
            session: None,
            next_sequence: 1,
            window: VecDeque::new(),
            waits: None,
            asked_at: 0,
            request: 0,
            encore: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.window.is_empty() && self.encore == 0
    }

    pub(super) fn encore(&mut self) {
        self.encore = 3;
    }

    pub(super) fn lost(&mut self) {
        (self.is_open, self.waits) = (false, None);
        self.window.iter_mut().for_each(|one| one.is_sent = false);
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        if !context.is_calm && context.rng.one_in(200) {
            context.hangs_up = true;
            return;
        }
        if self.waits.is_some() {
            return;
        }
        let (true, Some(handle)) = (self.is_open, self.handle) else {
            if self.asked_at + 10 * MILLISECOND < context.now {
                self.ask(Waits::Queue, context);
                context.say(self.request, &OpenQueue { name: &self.queue });
            }
            return;
        };
        if self.session.is_none() {
            self.ask(Waits::Session, context);
            context.say(self.request, &OpenSession { queue: handle, producer: &self.name });
            return;
        }
        if !context.is_calm || self.encore > 0 {
            for _ in 0..context.rng.skewed(3) {
                self.make(context);
            }
        }
        self.send(handle, context);
    }

    fn ask(&mut self, waits: Waits, context: &Context<'_>) {
        self.request += 1;
        (self.waits, self.asked_at) = (Some((self.request, waits)), context.now);
    }

    fn make(&mut self, context: &mut Context<'_>) {
        if self.window.len() >= self.window_max {
            return;
        }
        let count = if context.rng.one_in(4) { context.rng.skewed(8) } else { 1 };
        // Less than the bytes that any queue takes, or it would be refused for ever.
        let bytes_max = if context.rng.one_in(40) { 60_000 / count } else { 600 };
        let mut spec = || {
            *context.next_message += 1;
            let priority = context.rng.below(u64::from(self.priorities)) as u8;
            Spec { id: *context.next_message, priority, bytes: context.rng.skewed(bytes_max) as u32 }
        };
        let specs = (0..count).map(|_| spec()).collect();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.window.push_back(Unanswered { sequence, specs, is_sent: false, tries: 0, not_before: 0 });
        self.encore = self.encore.saturating_sub(1);
    }

    /// In order: nothing overtakes what has to wait.
    fn send(&mut self, queue: u64, context: &mut Context<'_>) {
        let Some((session, epoch)) = self.session else { return };
        for one in self.window.iter_mut().filter(|one| !one.is_sent) {
            if context.now < one.not_before {
                return;
            }
            (one.is_sent, one.tries) = (true, one.tries + 1);
            let payloads: Vec<Vec<u8>> = one.specs.iter().map(Spec::payload).collect();
            let head = |(spec, payload): (&Spec, &Vec<u8>)| MessageHead {
                payload_bytes: payload.len() as u32,
                priority: spec.priority,
                ..MessageHead::default()
            };
            let heads: Vec<MessageHead> = one.specs.iter().zip(&payloads).map(head).collect();
            let told: Vec<_> = one
                .specs
                .iter()
                .zip(&payloads)
                .map(|(spec, payload)| (spec.id, spec.priority, crc32c::crc32c(payload)))
                .collect();
            context.oracle.offered(self.ordinal, (session, one.sequence), &told);
            let body: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            self.request += 1;
            let publish = Publish { queue, session, epoch, sequence: one.sequence, messages: &heads };
            frame::encode(context.out, self.request, &publish, &body);
        }
    }

    pub(super) fn heard(
        &mut self,
        request: u64,
        reply: &Reply<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        if let Reply::Refused(refused) = reply
            && refused.session != 0
        {
            return self.refused(refused, context);
        }
        let waits = self.waits.filter(|(asked, _)| *asked == request).map(|(_, waits)| waits);
        if waits.is_some() {
            self.waits = None;
        }
        match (reply, waits) {
            (Reply::QueueOpened(opened), Some(Waits::Queue)) => {
                (self.handle, self.is_open) = (Some(opened.queue), true);
                let forgets = context.plant == Plant::SessionForgotten && !self.window.is_empty();
                if forgets {
                    self.forget();
                }
                // Named ones sometimes begin another epoch.
                if !self.name.is_empty() && context.rng.one_in(4) {
                    self.session = None;
                }
            }
            (Reply::SessionOpened(opened), Some(Waits::Session)) => {
                self.session = Some((opened.session, opened.epoch));
                self.next_sequence = self.next_sequence.max(opened.last_sequence + 1);
                // A receipt that came while there was no session was not understood.
                self.window.iter_mut().for_each(|one| one.is_sent = false);
            }
            (Reply::Receipt(receipt), _) if self.session.is_some_and(|(id, _)| id == receipt.session) => {
                let answered = receipt.first_sequence..=receipt.last_sequence;
                self.window.retain(|one| !answered.contains(&one.sequence));
            }
            _ => {}
        }
        Ok(())
    }

    /// Only ever planted.
    fn forget(&mut self) {
        self.session = None;
        self.name.clear();
        for (at, one) in self.window.iter_mut().enumerate() {
            one.sequence = at as u64 + 1;
        }
        self.next_sequence = self.window.len() as u64 + 1;
    }

    fn refused(&mut self, refused: &Refused<'_>, context: &mut Context<'_>) -> Result<(), String> {
        let is_it = |one: &Unanswered| one.sequence == refused.sequence;
        let Some(at) = self.window.iter().position(is_it) else { return Ok(()) };
        if self.session.is_none_or(|(id, _)| id != refused.session) {
            return Ok(());
        }
        match refused.code() {
            Code::Fenced => {
                (self.session, self.window[at].is_sent) = (None, false);
                return Ok(());
            }
            Code::NoSuchSession => {
                return Err(format!("durable: session {} is forgotten", refused.session));
            }
            Code::NoSuchQueue => (self.handle, self.is_open) = (None, false),
            Code::OutOfOrder => {}
            Code::Full | Code::Busy | Code::DiskFull | Code::ShuttingDown => {
                if self.window[at].tries > 1 || context.is_calm || context.rng.one_in(2) {
                    (self.window[at].is_sent, self.window[at].not_before) =
                        (false, context.now + 5 * MILLISECOND);
                    return Ok(());
                }
            }
            code => return Err(format!("honest: {code:?}, {}, is told to a sound producer", refused.detail)),
        }
        let gone = self.window.remove(at).expect("it was just there");
        if gone.tries == 1 {
            context.oracle.refused(gone.specs.iter().map(|spec| spec.id))?;
        }
        Ok(())
    }
}
