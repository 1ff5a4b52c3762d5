//! Producers: sessions, sequences, and what becomes of publishes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ringmain_net::frame::FrameBuilder;
use ringmain_net::protocol::{
    self, Code, ITEMS_PER_FRAME_MAX, MessageHead, OpenQueue, OpenSession, Publish, Refused, SessionOpened,
    publish_frame_bytes,
};

use super::link::{Limits, Pending};
use super::places::{Destination, Goal};
use super::seat::{Seat, SeatOf, Turn, is_elsewhere};
use super::window::{InFlight, Window};
use super::{Machine, refusal};
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
    /// The queue's number.
    queue: Option<u64>,
    /// The link of the seat has said, since the producer came to it, that it leads the queue's group.
    home: bool,
    /// For good.
    pub(crate) failed: Option<Error>,
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
        self.opened && self.failed.is_none()
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
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (Some(session), Some(queue)) = (self.session, self.queue) else {
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
            seat: Seat::new(Goal::Queue(queue.to_owned())),
            queue: None,
            home: false,
            failed: None,
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
        let waiting = producer.window.frames() > 0 && producer.failed.is_none();
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
        let ready = producer.session.is_some() && producer.home && producer.seat.retry_at.is_none();
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
        match &producer.failed {
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

    /// A connection has come up: those without one may need it.
    pub(super) fn attach_producers(&mut self, index: usize, now: Instant) {
        let ids: Vec<u64> = self.producers.keys().copied().collect();
        for id in ids {
            let Some(seat) = self.producers.get(&id).map(|producer| &producer.seat) else { continue };
            let suits = seat.link.is_none() && self.suits(index, seat.search(&self.places));
            if let Some(producer) = self.producers.get_mut(&id).filter(|_| suits) {
                producer.seat.link = Some(index);
                producer.seat.retry_at = None;
            }
            self.advance_producer(id, now);
        }
    }

    pub(super) fn detach_producers(&mut self, index: usize, lost: &Error, now: Instant) {
        for producer in self.producers.values_mut().filter(|producer| producer.seat.link == Some(index)) {
            producer.home = false;
            producer.queued = false;
            producer.window.rewind();
            producer.seat.on_unseated(index, lost.clone(), now);
            if producer.failed.is_some() {
                // It will not be sent again; whether it is stored was on its way.
                let Producer { window, completions, .. } = producer;
                window.fail_all(|frame| complete(completions, frame, Err(lost.clone())));
            }
        }
    }

    /// Takes the next step towards being ready, if there is one to take.
    ///
    /// The first question to a connection is always the queue's number, though it may be known: only a leader tells
    /// it. So the window, which may be large, goes only where it is served, and counts there as tried. Refusals that
    /// an earlier stay at the same connection has left on their way come before that answer.
    pub(super) fn advance_producer(&mut self, id: u64, now: Instant) {
        let Some(producer) = self.producers.get(&id) else { return };
        if producer.failed.is_some() || !producer.seat.may_ask() {
            return;
        }
        let (link, search) = (producer.seat.link, producer.seat.search(&self.places));
        let found = link.or_else(|| self.look(search, now));
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.seat.link = found;
        let Some(index) = found else { return producer.seat.on_nobody(now) };
        let link = &mut self.links[index];
        if producer.home && producer.session.is_some() {
            self.queue_producer(id);
            return;
        }
        if !link.has_room_for_requests() {
            return;
        }
        producer.seat.on_asked(now);
        match producer.queue {
            Some(queue) if producer.home => {
                let pending = Pending::ProducerSession { producer: id };
                link.request(pending, &OpenSession { queue, producer: &producer.name });
            }
            _ => {
                let pending = Pending::ProducerQueue { producer: id };
                link.request(pending, &OpenQueue { name: producer.seat.name() });
            }
        }
    }

    /// The shard leads the producer's group. Everything without an answer goes there, in order.
    pub(super) fn on_producer_queue(&mut self, index: usize, id: u64, queue: u64, now: Instant) {
        let limits = self.links[index].limits;
        let Some(producer) = self.producers.get_mut(&id) else { return };
        if producer.home || !producer.seat.is_searching() {
            // Somebody else has answered meanwhile.
            return;
        }
        assert!(!producer.queued);
        producer.seat.on_served_by(index);
        producer.home = true;
        producer.queue = Some(queue);
        producer.limits = limits;
        producer.window.limit_frames(limits.inflight_frames_max);
        let publishes = producer.window.rewind();
        let name = producer.seat.name().to_owned();
        self.places.on_leader(self.places.resolve(&producer.seat.goal), index);
        if publishes > 0 {
            self.event(Event::Resent { queue: name, publishes });
        }
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
    ///
    /// Groups number their sessions by themselves and put their ordinal into the number, so shard and number tell a
    /// session from all others of the cluster, whichever node speaks of it. A receipt of a leader that the producer
    /// has left is as true as the next one's: what is committed stays. It counts as far as the frames it speaks of
    /// have been sent again; for those that have not been, the leader they are sent to says the same once more.
    /// Refusals are another matter: they speak for their link only.
    fn producer_of(&self, index: usize, session: u64) -> Option<u64> {
        let among = || self.sessions.range((session, 0)..=(session, u64::MAX)).map(|(_, id)| *id);
        let here = |id: &u64| self.producers.get(id).is_some_and(|p| p.seat.link == Some(index));
        let shard = self.links[index].shard;
        let same_shard = |id: &u64| {
            let destination = self.producers.get(id).and_then(|p| self.places.resolve(&p.seat.goal));
            matches!(destination, Some(Destination::Group(group)) if Some(group.shard) == shard)
        };
        among().find(here).or_else(|| among().find(same_shard))
    }

    pub(super) fn on_receipt(&mut self, index: usize, receipt: &protocol::Receipt, now: Instant) {
        let Some(id) = self.producer_of(index, receipt.session) else { return };
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.seat.on_served();
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
        let unknown = |code| is_elsewhere(code) || (tries > 1 && matches!(code, Code::Busy | Code::DiskFull));
        match refused.code() {
            // It would have to be asked again, and a producer that has failed asks no more.
            code if unknown(code) && producer.failed.is_some() => {
                let address = self.links[index].address.to_string();
                let lost = Error::Lost { address, reason: refusal(refused).to_string() };
                let Producer { window, completions, .. } = producer;
                let sequence = refused.sequence;
                window.answer(sequence, sequence, |frame| complete(completions, frame, Err(lost.clone())));
                self.remove_if_left(id);
            }
            // A shard that is not ready, or has no room, refuses before it looks whether an earlier try is stored.
            // Only asking again tells.
            Code::Busy | Code::DiskFull if tries > 1 => self.pause_producer(id, refused, now),
            // Nobody knows here what becomes of it: the leader does.
            code if is_elsewhere(code) => self.move_producer(index, id, refused, now),
            Code::NoSuchSession => self.reopen_session(id, refused.sequence, now),
            code => {
                let error = refusal(refused);
                let Producer { window, completions, .. } = producer;
                let sequence = refused.sequence;
                window.answer(sequence, sequence, |frame| complete(completions, frame, Err(error.clone())));
                if code == Code::NoSuchQueue {
                    // Perhaps there is a new queue of that name.
                    producer.queue = None;
                    producer.home = false;
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

    /// Another shard or node serves this queue: the whole window goes there.
    ///
    /// What this link has got so far stays there and is refused there, or was taken before. Nothing more is sent to
    /// it, and what goes elsewhere starts with the first publish that has no answer; so each leader sees this
    /// producer's publishes in their order.
    fn move_producer(&mut self, from: usize, id: u64, refused: &Refused<'_>, now: Instant) {
        self.unqueue_producer(id, now);
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.home = false;
        producer.window.rewind();
        if self.on_elsewhere(from, SeatOf::Producer(id), refused, now) == Turn::Ask {
            self.advance_producer(id, now);
        }
    }

    /// The leader has no room for it now: the same again later.
    fn pause_producer(&mut self, id: u64, refused: &Refused<'_>, now: Instant) {
        self.unqueue_producer(id, now);
        let Some(producer) = self.producers.get(&id) else { return };
        let (attempts, home) = (producer.seat.attempts, producer.home);
        let pause = match refused.code() {
            Code::Busy if !home => self.pause_until_ready(attempts, refused.retry_after_ms),
            _ => self.pause(attempts, refused.retry_after_ms),
        };
        if let Some(producer) = self.producers.get_mut(&id) {
            let seat = &mut producer.seat;
            seat.asking = false;
            seat.attempts = attempts.saturating_add(1);
            seat.retry_at = Some(now + pause);
            seat.hindrance = Some(refusal(refused));
            producer.home = false;
            producer.window.rewind();
        }
    }

    pub(super) fn retry_producers(&mut self, now: Instant) {
        let due = |producer: &Producer| producer.seat.retry_at.is_some_and(|at| at <= now);
        let due: Vec<u64> = self.producers.iter().filter(|(_, p)| due(p)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(producer) = self.producers.get_mut(&id) {
                producer.seat.on_retry();
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
        let queue = producer.seat.name().to_owned();
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
        let (queue, reason) = (producer.seat.name().to_owned(), error.to_string());
        producer.failed = Some(error);
        self.event(Event::Failed { queue, reason });
        self.remove_if_left(id);
    }

    /// A step towards being ready was refused.
    pub(super) fn on_producer_refused(&mut self, index: usize, id: u64, refused: &Refused<'_>, now: Instant) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        if producer.seat.link != Some(index) || !producer.seat.asking {
            return;
        }
        producer.seat.asking = false;
        match refused.code() {
            code if is_elsewhere(code) => self.move_producer(index, id, refused, now),
            code if code.is_retryable() => self.pause_producer(id, refused, now),
            _ => self.fail_producer(id, refusal(refused), now),
        }
    }
}
