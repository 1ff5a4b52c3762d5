//! The thread of an async client: drives the machine, and carries commands to it and answers back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ringmain_net::protocol::{DeliveryHead, Outcome};

use super::Signals;
use super::budget::Budget;
use super::consumer::{Arrived, Status};
use crate::cluster::Survey;
use crate::driver::Driver;
use crate::error::Error;
use crate::event::Event;
use crate::machine::call::{Answer, Request};
use crate::machine::settler::{Lease, Settler};
use crate::message::Message;
use crate::receipt::{Receipt, Sequence};

/// Where an answer goes. Nobody has to be there to hear it.
pub(crate) type Reply<T> = flume::Sender<Result<T, Error>>;

/// Commands taken before sockets have their turn.
const COMMANDS_PER_TURN: usize = 1024;

/// What is said to the thread.
#[derive(Debug)]
pub(crate) enum Command {
    Connect(Reply<()>),
    OpenProducer { queue: String, name: String, reply: Reply<OpenedProducer> },
    OpenConsumer { queue: String, credit: u32, reply: Reply<OpenedConsumer> },
    Publish(Publish),
    Settle { consumer: u64, lease: Lease, outcome: Outcome, reply: Option<Reply<()>> },
    Unsettled { consumer: u64, lease: Lease },
    Call { request: Request, timeout: Option<Duration>, reply: Reply<Answer> },
    Survey { reply: Reply<Survey> },
    LeaveProducer { producer: u64 },
    LeaveConsumer { consumer: u64 },
    Close { timeout: Duration, reply: Reply<()> },
}

#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) producer: u64,
    pub(crate) messages: Vec<Message<'static>>,
    /// What it took from the budget.
    pub(crate) bytes: usize,
    pub(crate) reply: Reply<Receipt>,
}

#[derive(Debug)]
pub(crate) struct OpenedProducer {
    pub(crate) id: u64,
    pub(crate) budget: Arc<Budget>,
    pub(crate) first_sequence: Sequence,
    pub(crate) message_bytes_max: u32,
}

#[derive(Debug)]
pub(crate) struct OpenedConsumer {
    pub(crate) id: u64,
    pub(crate) arrived: flume::Receiver<Arrived>,
    pub(crate) status: Arc<Status>,
}

#[derive(Debug)]
struct Producer {
    budget: Arc<Budget>,
    /// Taken, and not in the machine's window yet. Bounded by the budget.
    waiting: VecDeque<Publish>,
    /// In the window, by sequence. Bounded by the budget.
    sent: VecDeque<(Sequence, usize, Reply<Receipt>)>,
    /// Nobody can publish any more.
    left: bool,
}

#[derive(Debug)]
struct Consumer {
    name: String,
    status: Arc<Status>,
    deliver: flume::Sender<Arrived>,
    /// Taken from the machine, and not in the channel yet. Bounded by the credit.
    outbox: VecDeque<Arrived>,
    settler: Settler,
    /// Who waits for what is in the settler.
    waiting: Vec<Reply<()>>,
    unsettled: u64,
}

/// Something that is ready, or fails, in time.
#[derive(Debug)]
enum Opening {
    Connection { reply: Reply<()> },
    Producer { id: u64, reply: Reply<OpenedProducer> },
    Consumer { id: u64, name: String, credit: u32, reply: Reply<OpenedConsumer> },
}

#[derive(Debug)]
pub(crate) struct Worker {
    driver: Driver,
    commands: flume::Receiver<Command>,
    signals: Arc<Signals>,
    /// The other end too: the oldest event goes when there are too many.
    events: (flume::Sender<Event>, flume::Receiver<Event>),

    producers: BTreeMap<u64, Producer>,
    consumers: BTreeMap<u64, Consumer>,
    openings: Vec<(Instant, Duration, Opening)>,
    calls: BTreeMap<u64, Reply<Answer>>,
    settles: BTreeMap<u64, Vec<Reply<()>>>,
    next_token: u64,
    /// Producers with something waiting, and consumers with something to settle.
    offering: Vec<u64>,
    settling: Vec<u64>,
    /// Until when to drain, and who waits for that.
    closing: Option<(Instant, Option<Reply<()>>)>,
}

impl Worker {
    pub(crate) fn new(
        driver: Driver,
        commands: flume::Receiver<Command>,
        signals: Arc<Signals>,
        events: (flume::Sender<Event>, flume::Receiver<Event>),
    ) -> Self {
        Self {
            driver,
            commands,
            signals,
            events,
            producers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            openings: Vec::new(),
            calls: BTreeMap::new(),
            settles: BTreeMap::new(),
            next_token: 1,
            offering: Vec::new(),
            settling: Vec::new(),
            closing: None,
        }
    }

    pub(crate) fn run(mut self) {
        loop {
            let mut moved = self.take_commands();
            self.offer_all();
            self.settle_all();
            moved |= self.driver.pass();
            moved |= self.hand_out();
            if self.is_over() {
                break;
            }
            if !moved {
                self.sleep();
            }
        }
        self.end();
    }

    /// Sleeps until a socket or a command has something to say, or a timer is due.
    fn sleep(&mut self) {
        self.signals.parked.store(true, Ordering::SeqCst);
        // Order: the intent to sleep is visible before the last look. See `Handle::wake`.
        fence(Ordering::SeqCst);
        let abandoned = self.commands.is_disconnected() && self.closing.is_none();
        if self.commands.is_empty() && !abandoned {
            let openings = self.openings.iter().map(|(deadline, ..)| *deadline);
            let closing = self.closing.iter().map(|(deadline, _)| *deadline);
            self.driver.idle(openings.chain(closing).min());
        }
        self.signals.parked.store(false, Ordering::SeqCst);
    }

    // Commands.

    fn take_commands(&mut self) -> bool {
        for taken in 0..COMMANDS_PER_TURN {
            match self.commands.try_recv() {
                Ok(command) => self.on_command(command),
                Err(flume::TryRecvError::Empty) => return taken > 0,
                Err(flume::TryRecvError::Disconnected) => {
                    self.on_abandoned();
                    return taken > 0;
                }
            }
        }
        true
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        let options = self.driver.machine.options();
        let (connect_timeout, call_timeout) = (options.connect_timeout, options.call_timeout);
        let open = self.closing.is_none();
        match command {
            Command::Connect(reply) => self.open(connect_timeout, Opening::Connection { reply }),
            Command::OpenProducer { queue, name, reply } if open => {
                let id = self.driver.machine.open_producer(&queue, &name, now);
                self.open(call_timeout, Opening::Producer { id, reply });
            }
            Command::OpenConsumer { queue, credit, reply } if open => {
                let id = self.driver.machine.open_consumer(&queue, credit, now);
                self.open(call_timeout, Opening::Consumer { id, name: queue, credit, reply });
            }
            Command::Publish(publish) if open => self.on_publish(publish),
            Command::Call { request, timeout, reply } if open => {
                let timeout = timeout.unwrap_or(call_timeout);
                let id = self.driver.machine.call(request, timeout, now);
                self.calls.insert(id, reply);
            }
            Command::Survey { reply } if open => {
                let _ = reply.send(Ok(self.driver.machine.survey()));
            }
            Command::Settle { consumer, lease, outcome, reply } => {
                self.on_settle(consumer, lease, outcome, reply)
            }
            Command::Unsettled { consumer, lease } => {
                if let Some(consumer) = self.consumers.get_mut(&consumer) {
                    consumer.unsettled += 1;
                }
                self.on_settle(consumer, lease, Outcome::Nack, None);
            }
            Command::LeaveProducer { producer } => {
                if let Some(producer) = self.producers.get_mut(&producer) {
                    producer.left = true;
                }
            }
            Command::LeaveConsumer { consumer } => {
                self.settle_all();
                self.consumers.remove(&consumer);
                self.driver.machine.leave_consumer(consumer);
            }
            Command::Close { timeout, reply } => self.closing = Some((now + timeout, Some(reply))),
            // Dropping the reply answers that the client is closed.
            Command::OpenProducer { .. }
            | Command::OpenConsumer { .. }
            | Command::Publish(_)
            | Command::Call { .. }
            | Command::Survey { .. } => {}
        }
    }

    fn open(&mut self, timeout: Duration, opening: Opening) {
        self.openings.push((Instant::now() + timeout, timeout, opening));
    }

    fn on_publish(&mut self, publish: Publish) {
        let id = publish.producer;
        let Some(producer) = self.producers.get_mut(&id) else { return };
        if producer.waiting.is_empty() {
            self.offering.push(id);
        }
        producer.waiting.push_back(publish);
    }

    fn on_settle(&mut self, id: u64, lease: Lease, outcome: Outcome, reply: Option<Reply<()>>) {
        let generation = self.driver.machine.consumers.get(&id).map(|consumer| consumer.generation);
        let consumer = self.consumers.get_mut(&id).filter(|_| generation == Some(lease.generation));
        let Some(consumer) = consumer else {
            reply.into_iter().for_each(|reply| drop(reply.send(Err(Error::Stale))));
            return;
        };
        if consumer.settler.is_empty() {
            self.settling.push(id);
        }
        lease.settle(&mut consumer.settler, outcome);
        consumer.waiting.extend(reply);
    }

    /// All handles are gone: what was taken is sent, and nobody will know.
    fn on_abandoned(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let messages = self.unacknowledged();
        if messages > 0 {
            eprintln!(
                "ringmain: a client was dropped with {messages} messages unacknowledged: close it to wait for them"
            );
        }
        let timeout = self.driver.machine.options().call_timeout;
        self.closing = Some((Instant::now() + timeout, None));
    }

    fn unacknowledged(&self) -> u64 {
        let waiting = |producer: &Producer| {
            producer.waiting.iter().map(|publish| publish.messages.len() as u64).sum::<u64>()
        };
        self.driver.machine.unacknowledged() + self.producers.values().map(waiting).sum::<u64>()
    }

    // From commands to the machine.

    /// Puts what was taken into the windows, as far as there is room.
    fn offer_all(&mut self) {
        let Self { driver, producers, offering, .. } = self;
        offering.retain(|id| {
            let Some(producer) = producers.get_mut(id) else { return false };
            offer(driver, *id, producer);
            !producer.waiting.is_empty()
        });
    }

    fn settle_all(&mut self) {
        for id in std::mem::take(&mut self.settling) {
            let Some(consumer) = self.consumers.get_mut(&id) else { continue };
            let Some(generation) = self.driver.machine.consumers.get(&id).map(|c| c.generation) else {
                continue;
            };
            let waiting = std::mem::take(&mut consumer.waiting);
            let token = if waiting.is_empty() { 0 } else { self.next_token };
            if token > 0 {
                self.next_token += 1;
                self.settles.insert(token, waiting);
            }
            self.driver.machine.settle(id, &mut consumer.settler, generation, token);
        }
    }

    // From the machine to those who wait.

    fn hand_out(&mut self) -> bool {
        let mut moved = self.hand_out_receipts();
        moved |= self.hand_out_deliveries();
        while let Some((id, answer)) = self.driver.machine.poll_answer() {
            moved = true;
            if let Some(reply) = self.calls.remove(&id) {
                let _ = reply.send(answer);
            }
        }
        while let Some(settlement) = self.driver.machine.settlements.pop_front() {
            moved = true;
            for reply in self.settles.remove(&settlement.token).into_iter().flatten() {
                let _ = reply.send(settlement.result.clone());
            }
        }
        self.check_openings();
        while let Some(event) = self.driver.machine.poll_event() {
            if let Err(flume::TrySendError::Full(event)) = self.events.0.try_send(event) {
                let _ = self.events.1.try_recv();
                let _ = self.events.0.try_send(event);
            }
        }
        moved
    }

    fn hand_out_receipts(&mut self) -> bool {
        let mut moved = false;
        let machine = &mut self.driver.machine;
        self.producers.retain(|id, producer| {
            while let Some(completion) = machine.poll_completion(*id) {
                moved = true;
                // Answers come in order but for refusals.
                let sent = producer.sent.iter().position(|(sequence, ..)| *sequence == completion.sequence);
                if let Some((_, bytes, reply)) = sent.and_then(|index| producer.sent.remove(index)) {
                    producer.budget.give(bytes);
                    let _ = reply.send(completion.result);
                }
            }
            let done = producer.left && producer.waiting.is_empty() && producer.sent.is_empty();
            if done {
                machine.leave_producer(*id);
            }
            !done
        });
        moved
    }

    fn hand_out_deliveries(&mut self) -> bool {
        let mut moved = false;
        let machine = &mut self.driver.machine;
        let mut events = Vec::new();
        self.consumers.retain(|id, consumer| {
            let Some(source) = machine.consumers.get_mut(id) else { return false };
            let generation = source.generation;
            if consumer.status.generation.swap(generation, Ordering::AcqRel) != generation {
                consumer.outbox.clear();
            }
            consumer.status.connected.store(source.is_ready(), Ordering::Release);
            if consumer.unsettled > 0 {
                let messages = std::mem::take(&mut consumer.unsettled);
                events.push(Event::Unsettled { queue: consumer.name.clone(), messages });
            }
            if let Some(error) = &source.failed {
                let mut failed = consumer.status.failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = Some(error.clone());
                return false;
            }
            if consumer.outbox.is_empty() && !source.mailbox_mut().is_empty() {
                moved = true;
                let (heads, bytes) = source.mailbox_mut().take();
                consumer.fill(heads, bytes, generation);
            }
            consumer.deliver();
            true
        });
        events.into_iter().for_each(|event| machine.event(event));
        moved
    }

    fn check_openings(&mut self) {
        let now = Instant::now();
        for (deadline, timeout, opening) in std::mem::take(&mut self.openings) {
            let machine = &self.driver.machine;
            let verdict = match &opening {
                Opening::Connection { .. } => match machine.refused() {
                    Some(error) => Some(Err(error.clone())),
                    None => (!machine.places().is_empty()).then_some(Ok(())),
                },
                Opening::Producer { id, .. } => machine.producer_verdict(*id),
                Opening::Consumer { id, .. } => machine.consumer_verdict(*id),
            };
            let late = || (now >= deadline).then(|| Err(self.late(&opening, timeout)));
            match verdict.or_else(late) {
                Some(verdict) => self.finish_opening(opening, verdict),
                None => self.openings.push((deadline, timeout, opening)),
            }
        }
    }

    fn late(&self, opening: &Opening, after: Duration) -> Error {
        let machine = &self.driver.machine;
        let (what, seat) = match opening {
            Opening::Connection { .. } => ("connecting", None),
            Opening::Producer { id, .. } => {
                ("opening a producer", machine.producers.get(id).map(|p| &p.seat))
            }
            Opening::Consumer { id, .. } => ("subscribing", machine.consumers.get(id).map(|c| &c.seat)),
        };
        let hindrance = seat.and_then(|seat| seat.hindrance.clone());
        Error::Timeout { what, after, last: hindrance.or_else(|| machine.hindrance()).map(Box::new) }
    }

    /// Tells whoever opened something. If nobody is there any more, it is taken away again.
    fn finish_opening(&mut self, opening: Opening, verdict: Result<(), Error>) {
        match opening {
            Opening::Connection { reply } => {
                if verdict.is_err() {
                    self.closing = Some((Instant::now(), None));
                }
                let _ = reply.send(verdict);
            }
            Opening::Producer { id, reply } => {
                let opened = verdict.map(|()| self.opened_producer(id));
                let failed = opened.is_err();
                if reply.send(opened).is_err() || failed {
                    self.producers.remove(&id);
                    self.driver.machine.leave_producer(id);
                }
            }
            Opening::Consumer { id, name, credit, reply } => {
                let opened = verdict.map(|()| self.opened_consumer(id, name, credit));
                let failed = opened.is_err();
                if reply.send(opened).is_err() || failed {
                    self.consumers.remove(&id);
                    self.driver.machine.leave_consumer(id);
                }
            }
        }
    }

    fn opened_producer(&mut self, id: u64) -> OpenedProducer {
        let (publishes, bytes) = self.driver.machine.window_limits(id);
        let budget = Arc::new(Budget::new(publishes, bytes));
        let producer = Producer {
            budget: Arc::clone(&budget),
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            left: false,
        };
        self.producers.insert(id, producer);
        let opened = &self.driver.machine.producers[&id];
        let first_sequence = Sequence(opened.last_sequence().0 + 1);
        OpenedProducer { id, budget, first_sequence, message_bytes_max: opened.message_bytes_max() }
    }

    fn opened_consumer(&mut self, id: u64, name: String, credit: u32) -> OpenedConsumer {
        let (deliver, arrived) = flume::bounded(credit as usize);
        let status = Arc::new(Status::default());
        let generation = self.driver.machine.consumers.get(&id).map_or(0, |consumer| consumer.generation);
        status.generation.store(generation, Ordering::Release);
        status.connected.store(true, Ordering::Release);
        let consumer = Consumer {
            name,
            status: Arc::clone(&status),
            deliver,
            outbox: VecDeque::new(),
            settler: Settler::default(),
            waiting: Vec::new(),
            unsettled: 0,
        };
        self.consumers.insert(id, consumer);
        OpenedConsumer { id, arrived, status }
    }

    // The end.

    fn is_over(&self) -> bool {
        let Some((deadline, _)) = &self.closing else { return false };
        let empty = |producer: &Producer| producer.waiting.is_empty() && producer.sent.is_empty();
        let drained = self.driver.machine.is_drained()
            && self.settles.is_empty()
            && self.settling.is_empty()
            && self.producers.values().all(empty);
        drained || Instant::now() >= *deadline
    }

    fn end(mut self) {
        let messages = self.unacknowledged();
        self.driver.end();
        for producer in self.producers.values_mut() {
            for (_, _, reply) in producer.sent.drain(..) {
                let _ = reply.send(Err(Error::Undrained { messages: 1 }));
            }
        }
        let Some((_, Some(reply))) = self.closing.take() else { return };
        let _ = reply.send(if messages == 0 { Ok(()) } else { Err(Error::Undrained { messages }) });
    }
}

impl Drop for Worker {
    /// However the thread ends: nobody may wait for it any more.
    fn drop(&mut self) {
        self.signals.ended.store(true, Ordering::SeqCst);
        // Order: whoever speaks after this look sees that the thread has ended. See `Handle::wake`.
        fence(Ordering::SeqCst);
        while self.commands.drain().next().is_some() {}
        self.producers.values().for_each(|producer| producer.budget.close());
    }
}

fn offer(driver: &mut Driver, id: u64, producer: &mut Producer) {
    let now = Instant::now();
    while let Some(publish) = producer.waiting.pop_front() {
        match driver.machine.offer(id, &publish.messages, now) {
            Ok(sequence) => producer.sent.push_back((sequence, publish.bytes, publish.reply)),
            Err(Error::Full) => {
                producer.waiting.push_front(publish);
                return;
            }
            Err(error) => {
                producer.budget.give(publish.bytes);
                let _ = publish.reply.send(Err(error));
            }
        }
    }
}

impl Consumer {
    fn fill(&mut self, heads: Vec<DeliveryHead>, bytes: Vec<u8>, generation: u64) {
        let bytes = Arc::new(bytes);
        let mut start = 0;
        for head in heads {
            let end = start + head.bytes() as usize;
            self.outbox.push_back(Arrived { head, bytes: Arc::clone(&bytes), range: start..end, generation });
            start = end;
        }
    }

    fn deliver(&mut self) {
        while let Some(arrived) = self.outbox.pop_front() {
            if let Err(flume::TrySendError::Full(arrived)) = self.deliver.try_send(arrived) {
                self.outbox.push_front(arrived);
                return;
            }
        }
    }
}
