//! Producers: sessions, sequences, and what becomes of publishes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ringmain_net::frame::FrameBuilder;
use ringmain_net::protocol::{
    self, Code, ITEMS_PER_FRAME_MAX, MessageHead, OpenSession, Publish, Refused, SessionOpened,
    publish_frame_bytes,
};

use super::link::{Limits, Pending};
use super::window::{InFlight, Window};
use super::{HOPS_MAX, Machine, Seat, refusal};
use crate::error::Error;
use crate::event::Event;
use crate::message::Message;
use crate::receipt::{Completion, Receipt, Sequence};

#[derive(Copy, Clone, Debug)]
struct Session {
    id: u64,
    epoch: u32,
}

/// One producer: a session and a window.
///
/// Invariant: unfetched completions and frames in the window together stay within the window's limit.
#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) seat: Seat,
    /// What the session is called at the shard; "": anonymous.
    name: String,
    session: Option<Session>,
    /// A first session was opened: the numbers that the user sees are settled.
    opened: bool,
    next_sequence: u64,
    next_ticket: u64,
    pub(crate) window: Window,
    completions: VecDeque<Completion>,
    /// Heads of the frame being built; kept for its memory.
    heads: Vec<MessageHead>,
    limits: Limits,
    /// Whether it is among its link's `sendable`.
    pub(crate) queued: bool,
    /// Nobody will fetch completions; it goes when its window is empty.
    leaving: bool,
}

impl Producer {
    pub(crate) fn is_ready(&self) -> bool {
        self.opened && self.seat.failed.is_none()
    }

    /// The last publish that was stored before this producer was opened, or that was offered since.
    pub(crate) fn last_sequence(&self) -> Sequence {
        Sequence(self.next_ticket - 1)
    }

    pub(crate) fn message_bytes_max(&self) -> u32 {
        self.limits.message_bytes_max
    }

    /// Encodes a publish into the window. Nothing is sent by this alone.
    fn offer(&mut self, messages: &[Message<'_>], now: Instant) -> Result<Sequence, Error> {
        if let Some(error) = &self.seat.failed {
            return Err(error.clone());
        }
        let (Some(session), Some(queue)) = (self.session, self.seat.queue) else {
            return Err(Error::Full);
        };
        let body_bytes = self.measure(messages)?;
        let bytes = publish_frame_bytes(messages.len(), body_bytes);
        if bytes > u64::from(self.limits.frame_bytes_max) {
            return Err(Error::TooLarge { bytes, max: u64::from(self.limits.frame_bytes_max) });
        }
        if !self.window.has_room(bytes as usize, self.completions.len()) {
            return Err(Error::Full);
        }
        let Self { window, heads, next_sequence, next_ticket, .. } = self;
        let Session { id: session, epoch } = session;
        let (sequence, ticket) = (*next_sequence, *next_ticket);
        let frame = InFlight::new(ticket, sequence, messages.len() as u32, now);
        window.push(frame, bytes as usize, |out| {
            let words = Publish { queue, session, epoch, sequence, messages: heads };
            let mut frame = FrameBuilder::new(out, sequence, &words);
            for part in messages.iter().flat_map(Message::parts) {
                frame.body(part);
            }
            frame.finish();
        });
        *next_sequence += 1;
        *next_ticket += 1;
        Ok(Sequence(ticket))
    }

    /// Fills `heads`; answers the length of the body.
    fn measure(&mut self, messages: &[Message<'_>]) -> Result<u64, Error> {
        let count = messages.len();
        if count == 0 || count > ITEMS_PER_FRAME_MAX as usize {
            return Err(Error::BatchCount { count });
        }
        self.heads.clear();
        let mut body_bytes = 0;
        for message in messages {
            let head = message.head(self.limits.message_bytes_max)?;
            body_bytes += head.bytes();
            self.heads.push(head);
        }
        Ok(body_bytes)
    }
}

/// Tells the user what became of a publish, if anybody still wants to know.
fn complete(completions: &mut VecDeque<Completion>, frame: &InFlight, result: Result<Receipt, Error>) {
    if !frame.abandoned {
        completions.push_back(Completion {
            sequence: Sequence(frame.ticket),
            messages: frame.messages,
            result,
        });
    }
}

fn micros(us: u32) -> Duration {
    Duration::from_micros(u64::from(us))
}

impl Machine {
    /// Adds a producer for this queue; it becomes ready, or fails, in time.
    pub(crate) fn open_producer(&mut self, queue: &str, name: &str, now: Instant) -> u64 {
        let id = self.next_id();
        let options = self.options();
        let producer = Producer {
            seat: Seat::new(queue),
            name: name.to_owned(),
            session: None,
            opened: false,
            next_sequence: 1,
            next_ticket: 1,
            window: Window::new(options.window_frames, options.window_bytes),
            completions: VecDeque::new(),
            heads: Vec::new(),
            limits: Limits { message_bytes_max: 0, frame_bytes_max: 0, inflight_frames_max: 0 },
            queued: false,
            leaving: false,
        };
        self.producers.insert(id, producer);
        self.advance_producer(id, now);
        id
    }

    /// Nobody uses this producer any more. What it has offered is still sent.
    pub(crate) fn leave_producer(&mut self, id: u64) {
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.leaving = true;
            producer.completions.clear();
        }
        self.remove_if_left(id);
    }

    fn remove_if_left(&mut self, id: u64) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        if !producer.leaving {
            return;
        }
        producer.completions.clear();
        let waiting = producer.window.frames() > 0 && producer.seat.failed.is_none();
        if !waiting {
            assert!(!producer.queued);
            let session = producer.session;
            self.producers.remove(&id);
            if let Some(session) = session {
                self.sessions.remove(&(session.id, id));
            }
        }
    }

    pub(crate) fn offer(
        &mut self,
        id: u64,
        messages: &[Message<'_>],
        now: Instant,
    ) -> Result<Sequence, Error> {
        self.check_open()?;
        let Some(producer) = self.producers.get_mut(&id) else {
            return Err(Error::Closed);
        };
        let sequence = producer.offer(messages, now)?;
        if !producer.queued {
            self.queue_producer(id);
        }
        Ok(sequence)
    }

    /// Puts the producer among those whose frames are sent, if it can send.
    fn queue_producer(&mut self, id: u64) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        let Some(index) = producer.seat.link else { return };
        let ready =
            producer.session.is_some() && producer.seat.queue.is_some() && producer.seat.retry_at.is_none();
        if ready && !producer.queued && producer.window.has_unsent() && self.links[index].is_up() {
            producer.queued = true;
            self.links[index].sendable.push_back(id);
        }
    }

    pub(crate) fn poll_completion(&mut self, id: u64) -> Option<Completion> {
        self.producers.get_mut(&id)?.completions.pop_front()
    }

    /// The completion of this publish, wherever it stands among those not fetched.
    pub(crate) fn take_completion(&mut self, id: u64, sequence: Sequence) -> Option<Completion> {
        let completions = &mut self.producers.get_mut(&id)?.completions;
        let index = completions.iter().position(|completion| completion.sequence == sequence)?;
        completions.remove(index)
    }

    /// Publishes and bytes that the producer's window holds.
    pub(crate) fn window_limits(&self, id: u64) -> (usize, usize) {
        self.producers.get(&id).map_or((0, 0), |producer| producer.window.limits())
    }

    /// Whether the producer is ready, or has failed; `None`: not yet known.
    pub(crate) fn producer_verdict(&self, id: u64) -> Option<Result<(), Error>> {
        let producer = self.producers.get(&id)?;
        match &producer.seat.failed {
            Some(error) => Some(Err(error.clone())),
            None => producer.is_ready().then_some(Ok(())),
        }
    }

    /// Nobody wants to hear of this publish any more.
    pub(crate) fn abandon(&mut self, id: u64, sequence: Sequence) {
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.window.abandon(sequence.0);
        }
    }

    /// Gives up what has no answer, and never dials again; nobody is told.
    pub(crate) fn forget(&mut self) {
        self.ended = true;
        self.producers.clear();
        self.sessions.clear();
        for link in &mut self.links {
            link.sendable.clear();
        }
    }

    /// Messages of all producers that have no answer yet.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.producers.values().map(|producer| producer.window.messages()).sum()
    }

    pub(super) fn attach_producers(&mut self, index: usize, now: Instant) {
        let ids: Vec<u64> = self.producers.keys().copied().collect();
        for id in ids {
            let moved = self.reroute_producer(id, now);
            let here = |producer: &Producer| producer.seat.link == Some(index);
            if moved || self.producers.get(&id).is_some_and(here) {
                self.settle_in(id, now);
            }
        }
    }

    /// A producer whose link is down goes where the newest table says. Answers whether that is elsewhere.
    fn reroute_producer(&mut self, id: u64, now: Instant) -> bool {
        let Some(seat) = self.producers.get(&id).map(|producer| &producer.seat) else { return false };
        let old = seat.link;
        if old.is_some_and(|link| self.links[link].is_up()) {
            return false;
        }
        let name = seat.name.clone();
        let new = self.route(&name, now).or(old);
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.seat.link = new;
        }
        new != old
    }

    /// On a new connection everything without an answer goes again.
    fn resend(&mut self, id: u64) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        assert!(!producer.queued);
        let publishes = producer.window.rewind();
        if publishes > 0 {
            let queue = producer.seat.name.clone();
            self.event(Event::Resent { queue, publishes });
        }
        self.queue_producer(id);
    }

    pub(super) fn detach_producers(&mut self, index: usize, lost: &Error) {
        for producer in self.producers.values_mut().filter(|producer| producer.seat.link == Some(index)) {
            producer.seat.asking = false;
            producer.seat.hindrance = Some(lost.clone());
            producer.queued = false;
            if producer.seat.failed.is_some() {
                // It will not be sent again; whether it is stored was on its way.
                let Producer { window, completions, .. } = producer;
                window.fail_all(|frame| complete(completions, frame, Err(lost.clone())));
            }
        }
    }

    /// Takes the next step towards being ready, if there is one to take.
    pub(super) fn advance_producer(&mut self, id: u64, now: Instant) {
        let Some(producer) = self.producers.get(&id) else { return };
        let seat = &producer.seat;
        if seat.failed.is_some() || seat.asking || seat.retry_at.is_some() {
            return;
        }
        let Some(index) = seat.link else {
            let name = seat.name.clone();
            let link = self.route(&name, now);
            if let Some(producer) = self.producers.get_mut(&id) {
                producer.seat.link = link;
            }
            self.settle_in(id, now);
            return;
        };
        if !self.links[index].is_up() || !self.links[index].has_room_for_requests() {
            return;
        }
        let (queue, session) = (seat.queue, producer.session);
        let (queue_name, name) = (seat.name.clone(), producer.name.clone());
        if queue.is_none() {
            self.open_queue(index, Pending::ProducerQueue { producer: id }, &queue_name);
        } else if session.is_none() {
            let pending = Pending::ProducerSession { producer: id };
            self.links[index].request(pending, &OpenSession { queue: queue.unwrap_or(0), producer: &name });
        } else {
            self.queue_producer(id);
            return;
        }
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.seat.asking = true;
        }
    }

    /// The producer has come to a link, or its link has come up.
    fn settle_in(&mut self, id: u64, now: Instant) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        let Some(index) = producer.seat.link else { return };
        if !self.links[index].is_up() {
            return;
        }
        producer.window.limit_frames(self.links[index].limits.inflight_frames_max);
        producer.limits = self.links[index].limits;
        self.resend(id);
        self.advance_producer(id, now);
    }

    pub(super) fn on_producer_queue(&mut self, id: u64, queue: u64, now: Instant) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.seat.on_progress();
        producer.seat.queue = Some(queue);
        self.advance_producer(id, now);
    }

    pub(super) fn on_session(&mut self, index: usize, id: u64, opened: &SessionOpened, now: Instant) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.seat.on_progress();
        producer.session = Some(Session { id: opened.session, epoch: opened.epoch });
        // Frames that outlived their session come first, so that order is kept.
        let first = opened.last_sequence + 1;
        producer.next_sequence = producer.window.restamp(opened.session, opened.epoch, first);
        if !producer.opened {
            producer.opened = true;
            producer.next_ticket = first;
        }
        self.sessions.remove(&(opened.session, id));
        if let Some(older) = self.producer_of(index, opened.session) {
            self.sessions.remove(&(opened.session, older));
            self.fence_producer(older, now);
        }
        self.sessions.insert((opened.session, id));
        self.advance_producer(id, now);
    }

    /// Another producer of this client has opened the same name: answers to the older one can no longer be told
    /// from answers to the newer one.
    fn fence_producer(&mut self, id: u64, now: Instant) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.session = None;
        self.unqueue_producer(id, now);
        let Some(producer) = self.producers.get_mut(&id) else { return };
        let Producer { window, completions, .. } = producer;
        window.answer(0, u64::MAX, |frame| complete(completions, frame, Err(Error::SessionLost)));
        let detail = "this client opened the producer again".to_owned();
        self.fail_producer(
            id,
            Error::Refused { code: Code::Fenced, detail, retry_after: Duration::ZERO },
            now,
        );
    }

    /// The producer that has this session with the shard at the other end of this link.
    fn producer_of(&self, index: usize, session: u64) -> Option<u64> {
        let mut among = self.sessions.range((session, 0)..=(session, u64::MAX)).map(|(_, id)| *id);
        among.find(|id| self.producers.get(id).is_some_and(|producer| producer.seat.link == Some(index)))
    }

    pub(super) fn on_receipt(&mut self, index: usize, receipt: &protocol::Receipt, now: Instant) {
        let Some(id) = self.producer_of(index, receipt.session) else { return };
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.seat.hops = 0;
        let Producer { window, completions, .. } = producer;
        window.answer(receipt.first_sequence, receipt.last_sequence, |frame| {
            let sequence = Sequence(frame.ticket);
            let receipt = Receipt {
                sequence,
                messages: frame.messages,
                group: receipt.group,
                term: receipt.term,
                index: receipt.index,
                duplicate: receipt.is_duplicate(),
                round_trip: now.saturating_duration_since(frame.offered),
                waited: micros(receipt.waited_us),
                durable: micros(receipt.durable_us),
            };
            complete(completions, frame, Ok(receipt));
        });
        if producer.leaving {
            self.remove_if_left(id);
        }
    }

    /// One publish was refused. What it means for the others depends on why.
    pub(super) fn on_publish_refused(&mut self, index: usize, refused: &Refused<'_>, now: Instant) {
        let Some(id) = self.producer_of(index, refused.session) else { return };
        let Some(producer) = self.producers.get_mut(&id) else { return };
        // Late answers of a link that the producer has left, and to frames that will be sent again, say nothing new.
        let found = producer.window.find(refused.sequence).filter(|_| producer.seat.link == Some(index));
        let Some(tries) = found.map(|frame| frame.tries) else { return };
        match refused.code() {
            // A shard that is not ready, or has no room, refuses before it looks whether an earlier try is stored.
            // Only asking again tells.
            Code::Busy | Code::DiskFull if tries > 1 => self.pause_producer(id, refused.retry_after_ms, now),
            Code::NotLeader | Code::WrongShard => self.move_producer(index, id, refused, now),
            // The shard is going; the window goes to its successor.
            Code::ShuttingDown => self.on_lost(index, refusal(refused).to_string(), now),
            Code::NoSuchSession => self.reopen_session(id, refused.sequence, now),
            code => {
                let error = refusal(refused);
                let Producer { window, completions, seat, .. } = producer;
                let sequence = refused.sequence;
                window.answer(sequence, sequence, |frame| complete(completions, frame, Err(error.clone())));
                if code == Code::NoSuchQueue {
                    // Perhaps there is a new queue of that name.
                    seat.queue = None;
                    self.unqueue_producer(id, now);
                    self.advance_producer(id, now);
                }
                if code == Code::Fenced {
                    self.fail_producer(id, error, now);
                }
                self.remove_if_left(id);
            }
        }
    }

    /// Takes the producer off its link's list. A frame that was sent in part cannot be taken back: then the
    /// connection goes with it.
    fn unqueue_producer(&mut self, id: u64, now: Instant) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        let Some(index) = producer.seat.link else { return };
        if producer.queued {
            producer.queued = false;
            self.links[index].sendable.retain(|queued| *queued != id);
            if producer.window.is_mid_frame() {
                self.lose(index, "left in the middle of a frame", now);
            }
        }
    }

    /// Another shard or node serves this queue.
    fn move_producer(&mut self, from: usize, id: u64, refused: &Refused<'_>, now: Instant) {
        self.unqueue_producer(id, now);
        let target = self.redirect(from, refused, now);
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.seat.asking = false;
        producer.seat.hindrance = Some(refusal(refused));
        producer.seat.hops += 1;
        match target {
            Some(link) if producer.seat.hops <= HOPS_MAX => {
                producer.seat.link = Some(link);
                let queue = producer.seat.name.clone();
                let address = self.links[link].address.to_string();
                self.event(Event::Moved { queue, address });
                self.settle_in(id, now);
            }
            _ => self.pause_producer(id, refused.retry_after_ms, now),
        }
    }

    /// Nobody knows better: look again later, where the table says.
    fn pause_producer(&mut self, id: u64, retry_after_ms: u32, now: Instant) {
        self.unqueue_producer(id, now);
        let Some(attempts) = self.producers.get(&id).map(|producer| producer.seat.attempts) else { return };
        let pause = self.pause(attempts, retry_after_ms);
        if let Some(producer) = self.producers.get_mut(&id) {
            let seat = &mut producer.seat;
            seat.asking = false;
            seat.attempts = attempts.saturating_add(1);
            seat.hops = 0;
            seat.retry_at = Some(now + pause);
            producer.window.rewind();
        }
    }

    pub(super) fn retry_producers(&mut self, now: Instant) {
        let due = |producer: &Producer| producer.seat.retry_at.is_some_and(|at| at <= now);
        let due: Vec<u64> = self.producers.iter().filter(|(_, p)| due(p)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(producer) = self.producers.get_mut(&id) {
                producer.seat.retry_at = None;
                producer.seat.link = None;
            }
            self.advance_producer(id, now);
        }
    }

    /// The session has expired before `sequence`. What was sent once, from there on, is refused and certainly not
    /// stored: it goes again, under a new session. What came before, or what an earlier connection may have
    /// delivered, is uncertain, and the user is told so.
    fn reopen_session(&mut self, id: u64, sequence: u64, now: Instant) {
        self.unqueue_producer(id, now);
        let Some(producer) = self.producers.get_mut(&id) else { return };
        let Producer { window, completions, .. } = producer;
        window.fail_uncertain(sequence, |frame| complete(completions, frame, Err(Error::SessionLost)));
        if let Some(session) = producer.session.take() {
            self.sessions.remove(&(session.id, id));
        }
        let queue = producer.seat.name.clone();
        self.event(Event::SessionReopened { queue });
        self.advance_producer(id, now);
    }

    /// The producer cannot go on. What is not sent yet ends so; what is sent still gets its own answers.
    fn fail_producer(&mut self, id: u64, error: Error, now: Instant) {
        self.unqueue_producer(id, now);
        let Some(producer) = self.producers.get_mut(&id) else { return };
        let Producer { window, completions, .. } = producer;
        window.fail_unsent(|frame| complete(completions, frame, Err(error.clone())));
        producer.seat.asking = false;
        let (queue, reason) = (producer.seat.name.clone(), error.to_string());
        producer.seat.failed = Some(error);
        self.event(Event::Failed { queue, reason });
        self.remove_if_left(id);
    }

    /// A step towards being ready was refused.
    pub(super) fn on_producer_refused(&mut self, index: usize, id: u64, refused: &Refused<'_>, now: Instant) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.seat.asking = false;
        let error = refusal(refused);
        producer.seat.hindrance = Some(error.clone());
        match refused.code() {
            Code::NotLeader | Code::WrongShard => self.move_producer(index, id, refused, now),
            code if code.is_retryable() => self.pause_producer(id, refused.retry_after_ms, now),
            _ => self.fail_producer(id, error, now),
        }
    }
}
