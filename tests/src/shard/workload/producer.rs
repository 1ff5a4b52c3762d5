//! A producer: a session, a window of unanswered publishes, and the patience to send them again in order.

use std::collections::{BTreeMap, VecDeque};

use ringmain_net::frame;
use ringmain_net::protocol::{Code, OpenQueue, OpenSession, Publish, Refused, Reply};

use super::{Context, Spec, hello};
use crate::world::MILLISECOND;

#[derive(Debug)]
struct Unanswered {
    sequence: u64,
    queue: String,
    specs: Vec<Spec>,
    is_sent: bool,
    not_before: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Waits {
    Welcome,
    Queue(String),
    Session,
}

#[derive(Debug)]
pub(super) struct Producer {
    name: String,
    queues: Vec<(String, u16)>,
    window_max: usize,

    handles: BTreeMap<String, u64>,
    /// The numbers that queues had last.
    known: BTreeMap<String, u64>,
    /// Id and epoch.
    session: Option<(u64, u32)>,
    last_epoch: u32,
    next_sequence: u64,
    window: VecDeque<Unanswered>,
    waits: BTreeMap<u64, Waits>,
    request: u64,
    is_greeted: bool,
    /// Queues to look for again, from then on.
    looks_again: u64,
    reopens: u64,
    /// To be published although all is calm.
    encore: u32,
}

impl Producer {
    pub(super) fn new(name: &str, queues: Vec<(String, u16)>, window_max: usize) -> Self {
        Self {
            name: name.to_owned(),
            queues,
            window_max,
            handles: BTreeMap::new(),
            known: BTreeMap::new(),
            session: None,
            last_epoch: 0,
            next_sequence: 1,
            window: VecDeque::new(),
            waits: BTreeMap::new(),
            request: 0,
            is_greeted: false,
            looks_again: 0,
            reopens: 0,
            encore: 0,
        }
    }

    pub(super) fn has_name(&self) -> bool {
        !self.name.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.window.is_empty() && self.encore == 0
    }

    pub(super) fn encore(&mut self) {
        self.encore = 3;
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "producer {:?}: greeted {}, session {:?}, handles {:?}, first {:?}",
            self.name,
            self.is_greeted,
            self.session,
            self.handles,
            self.window.front()
        )
    }

    pub(super) fn disconnected(&mut self) {
        self.is_greeted = false;
        self.waits.clear();
    }

    pub(super) fn connected(&mut self, context: &mut Context<'_>) {
        self.request += 1;
        self.waits.insert(self.request, Waits::Welcome);
        context.say(self.request, &hello());
        // One that has a name may have been somebody else's meanwhile.
        if !self.name.is_empty() && context.rng.one_in(3) {
            self.session = None;
        }
        self.window.iter_mut().for_each(|frame| frame.is_sent = false);
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        if !self.is_greeted {
            return;
        }
        if !context.is_calm && context.rng.one_in(300) {
            context.hangs_up = true;
        }
        let has_asked = |waits: &Waits| self.waits.values().any(|asked| asked == waits);
        if self.session.is_none() {
            if !has_asked(&Waits::Session) && self.reopens <= context.now {
                self.open_session(context);
            }
            return;
        }
        if self.looks_again <= context.now {
            self.looks_again = context.now + 4 * MILLISECOND;
            self.open_queues(context);
        }
        if !context.is_calm || self.encore > 0 {
            for _ in 0..context.rng.skewed(8) {
                self.make_frame(context);
            }
        }
        self.send(context);
    }

    fn make_frame(&mut self, context: &mut Context<'_>) {
        if self.window.len() >= self.window_max {
            return;
        }
        let (queue, priorities) = context.rng.pick(&self.queues).clone();
        if !self.handles.contains_key(&queue) {
            return;
        }
        let count = if context.rng.one_in(4) { context.rng.skewed(20) } else { 1 };
        // Now and then one that fills much of a segment; seldom, for it takes its time.
        let bytes_max = match (queue.as_str(), context.rng.below(12)) {
            (_, 0) => 120_000 / count.min(12),
            ("bulk", _) => 100_000 / count.min(12),
            _ => 900,
        };
        let specs = (0..count).map(|_| {
            *context.next_message += 1;
            Spec::draw(*context.next_message, priorities, bytes_max, context.rng)
        });
        let specs = specs.collect();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.window.push_back(Unanswered { sequence, queue, specs, is_sent: false, not_before: 0 });
        self.encore = self.encore.saturating_sub(1);
    }

    fn send(&mut self, context: &mut Context<'_>) {
        let Some((session, epoch)) = self.session else { return };
        for unanswered in self.window.iter_mut().filter(|one| !one.is_sent) {
            let Some(&queue) = self.handles.get(&unanswered.queue) else { continue };
            if unanswered.not_before > context.now {
                continue;
            }
            unanswered.is_sent = true;
            let mut body = Vec::new();
            let messages: Vec<_> = unanswered.specs.iter().map(|spec| spec.append(&mut body)).collect();
            let sequence = unanswered.sequence;
            self.request += 1;
            let publish = Publish { queue, session, epoch, sequence, messages: &messages };
            frame::encode(context.out, self.request, &publish, &[&body]);
        }
    }

    fn open_session(&mut self, context: &mut Context<'_>) {
        self.request += 1;
        self.waits.insert(self.request, Waits::Session);
        context.say(self.request, &OpenSession { queue: 0, producer: &self.name });
    }

    fn open_queues(&mut self, context: &mut Context<'_>) {
        for (name, _) in &self.queues {
            let waits = Waits::Queue(name.clone());
            if !self.handles.contains_key(name) && !self.waits.values().any(|asked| *asked == waits) {
                self.request += 1;
                self.waits.insert(self.request, waits);
                context.say(self.request, &OpenQueue { name });
            }
        }
    }

    pub(super) fn heard(&mut self, request: u64, reply: &Reply<'_>, context: &mut Context<'_>) {
        if let Reply::Refused(refused) = reply
            && refused.session != 0
        {
            return self.publish_refused(refused, context);
        }
        match (reply, self.waits.remove(&request)) {
            (Reply::Welcome(_), Some(Waits::Welcome)) => {
                self.is_greeted = true;
                // What was found before may have been deleted since.
                self.looks_again = 0;
                self.handles.clear();
            }
            (Reply::QueueOpened(opened), Some(Waits::Queue(name))) => {
                // Another queue of the same name: what was meant for the one before went with it.
                if self.known.insert(name.clone(), opened.queue).is_some_and(|known| known != opened.queue) {
                    self.window.retain(|frame| frame.queue != name);
                }
                self.handles.insert(name, opened.queue);
            }
            (Reply::SessionOpened(opened), Some(Waits::Session)) => {
                // Somebody else of this name was here: their numbers are not ours, and ours may be theirs.
                if opened.epoch != self.last_epoch + 1 {
                    self.window.clear();
                    self.next_sequence = 1;
                }
                (self.session, self.last_epoch) = (Some((opened.session, opened.epoch)), opened.epoch);
                self.next_sequence = self.next_sequence.max(opened.last_sequence + 1);
                self.window.iter_mut().for_each(|frame| frame.is_sent = false);
            }
            (Reply::Receipt(receipt), _) if self.session.is_some_and(|(id, _)| id == receipt.session) => {
                let answered = receipt.first_sequence..=receipt.last_sequence;
                self.window.retain(|frame| !answered.contains(&frame.sequence));
            }
            (Reply::Refused(_), Some(Waits::Queue(name))) => {
                self.window.retain(|frame| frame.queue != name);
            }
            _ => {}
        }
    }

    fn publish_refused(&mut self, refused: &Refused<'_>, context: &mut Context<'_>) {
        let Some(at) = self.window.iter().position(|frame| frame.sequence == refused.sequence) else {
            return;
        };
        match refused.code() {
            Code::Fenced | Code::NoSuchSession => {
                // Somebody of the same name came later: let them have their time.
                self.session = None;
                self.reopens = context.now + 20 * MILLISECOND;
            }
            Code::NoSuchQueue => {
                let gone = self.window.remove(at);
                if let Some(gone) = gone {
                    self.handles.remove(&gone.queue);
                }
            }
            Code::Full | Code::Busy | Code::DiskFull if context.is_calm || context.rng.one_in(2) => {
                self.window[at].is_sent = false;
                self.window[at].not_before = context.now + 2 * MILLISECOND;
            }
            _ => _ = self.window.remove(at),
        }
    }
}
