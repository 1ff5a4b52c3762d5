//! What was promised, and whether it was kept.
//!
//! It hears clients when they speak and shards when they do, so it knows at least what any client can know, and no less
//! than that must be true. Where an answer is not certain to have come of one truth it keeps bounds:
//!
//! ```text
//! durable   what was acknowledged comes, unless it was settled or a purge may have taken it; members' states are equal;
//!           for a queue that is content with memory, unless a node crashed before a majority's disks had it
//! once      one message has one place, one place has one message; what was refused on its only way is never there
//! ordered   of what one leader delivers for the first time, a queue's priority comes in the order of the log
//! priority  nothing is delivered while something of a higher priority waits that was acknowledged before
//! exact     counts lie between what was certain when they were asked for and what is possible when they are told,
//!           and agree with the receipts of what is before and behind the index they are of
//! bounded   no count is above its queue's limit
//! leased    nobody gets what another one holds of the same leader; what was settled never comes again
//! alive     at most one leader in a term
//! ```

use std::collections::{BTreeMap, BTreeSet};

use ringmain_net::frame::{self, FRAME_BYTES_MAX, Frame};
use ringmain_net::protocol::{Code, DeliveryView, QueueInfo, QueueSettings, Reply, SettleRun};

use super::Report;
use super::client::id_in;

/// Where a shard has a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) queue: u64,
    pub(super) priority: u8,
    pub(super) sequence: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stored {
    /// Offered, and not answered.
    Perhaps,
    Surely,
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    term: u64,
    pipe: u64,
    consumer: u32,
    until: u64,
    is_returning: bool,
}

#[derive(Clone, Debug)]
struct Message {
    queue: usize,
    priority: u8,
    checksum: u32,
    stored: Stored,
    /// Its receipt was given: in this term, and it is applied at the latest with this index.
    acknowledged: Option<(u64, u64)>,
    place: Option<Place>,
    /// The last term in which it was delivered.
    delivered: Option<u64>,
    /// Its end was asked for.
    may_be_gone: bool,
    /// A purge or a deletion may have taken it.
    may_be_purged: bool,
    /// Crashes until it was first offered.
    crashes: u64,
    /// Memory is all that had it when a node lost its memory.
    may_be_lost: bool,
    /// Its end was answered, in this term.
    gone: Option<u64>,
    lease: Option<Lease>,
}

impl Message {
    /// At the end of a run: memory was all that had it, and that was not enough.
    fn is_lost(&self) -> bool {
        let never_came = self.delivered.is_none() && !self.may_be_purged;
        self.may_be_lost && never_came
    }
}

#[derive(Debug)]
struct Queue {
    name: String,
    group: usize,
    settings: QueueSettings,
    offered: u64,
    refused: u64,
    /// Acknowledged or delivered.
    stored: u64,
    may_be_gone: u64,
    gone: u64,
    acked: u64,
    may_be_acked: u64,
    /// Acknowledged, and perhaps lost.
    lost: u64,
    /// How many messages the entry of an index brought, as their receipts say.
    published: BTreeMap<u64, u64>,
    /// A purge or deletion was asked for: what is counted says little.
    is_purged: bool,
    /// So many of them are not answered, and may happen at any time.
    purges: u64,
    /// Acknowledged and never delivered, by priority.
    waiting: BTreeMap<u8, BTreeSet<u64>>,
    /// When it was last shown empty.
    empty: Option<u64>,
}

#[derive(Clone, Debug)]
struct Shown {
    queue: usize,
    stored: u64,
    gone: u64,
    acked: u64,
    /// Messages that are leased to somebody.
    held: Vec<(u64, Lease)>,
}

/// Settles that wait for their answer: messages, and whether they are acknowledged rather than rejected.
type Settling = Vec<(u64, bool)>;

#[derive(Default)]
pub(super) struct Oracle {
    messages: BTreeMap<u64, Message>,
    places: BTreeMap<Place, u64>,
    /// By session and sequence.
    frames: BTreeMap<(u64, u64), Vec<u64>>,
    queues: Vec<Queue>,
    /// By number, which queue it is.
    numbers: BTreeMap<u64, usize>,
    shows: BTreeMap<(u64, u64), Shown>,
    settles: BTreeMap<(u64, u64), Settling>,
    purges: BTreeMap<(u64, u64), usize>,
    /// By queue, priority and term: the last one delivered for the first time.
    orders: BTreeMap<(u64, u8, u64), u64>,
    leaders: BTreeMap<(usize, u64), (usize, u64)>,
    digests: BTreeMap<(usize, u64), (u64, usize)>,
    /// Acknowledged because a majority had it in memory, and not known to be on disks: by group, with the term.
    in_memory: BTreeMap<usize, Vec<InMemory>>,
    crashes: u64,
    /// Connections that are over, and consumers that are, at one end at least.
    gone_pipes: BTreeSet<u64>,
    gone_consumers: BTreeSet<(u64, u32)>,
    shown: u64,
    facts: Report,
}

#[derive(Clone, Copy, Debug)]
struct InMemory {
    id: u64,
    term: u64,
    index: u64,
}

/// A queue that clients speak of.
pub(super) struct QueueSpec {
    pub(super) name: String,
    pub(super) group: usize,
    pub(super) settings: QueueSettings,
}

impl Queue {
    fn new(spec: QueueSpec) -> Self {
        let QueueSpec { name, group, settings } = spec;
        Self {
            name,
            group,
            settings,
            offered: 0,
            refused: 0,
            stored: 0,
            may_be_gone: 0,
            gone: 0,
            acked: 0,
            may_be_acked: 0,
            lost: 0,
            published: BTreeMap::new(),
            is_purged: false,
            purges: 0,
            waiting: BTreeMap::new(),
            empty: None,
        }
    }

    fn is_in_memory(&self) -> bool {
        self.settings.durability == 1
    }
}

/// How a node is in a group.
pub(super) struct Standing {
    pub(super) term: u64,
    pub(super) is_serving: bool,
    pub(super) applied: u64,
}

/// Who speaks: the time on its clock, and how it is in each group.
pub(super) struct Speaker<'a> {
    pub(super) now: u64,
    pub(super) terms: &'a [Standing],
}

struct Delivered {
    id: u64,
    place: Place,
    pipe: u64,
    consumer: u32,
    checksum: u32,
}

fn group_of(number: u64) -> usize {
    (number >> 52) as usize
}

impl Oracle {
    pub(super) fn new(queues: Vec<QueueSpec>) -> Self {
        Self { queues: queues.into_iter().map(Queue::new).collect(), ..Self::default() }
    }

    pub(super) fn fill(&self, report: &mut Report) {
        let facts = self.facts;
        *report = Report {
            acknowledged: facts.acknowledged,
            duplicates: facts.duplicates,
            delivered: facts.delivered,
            redelivered: facts.redelivered,
            settled: facts.settled,
            stale: facts.stale,
            shown: self.shown,
            full: facts.full,
            purged: facts.purged,
            redirected: facts.redirected,
            ended: facts.ended,
            in_memory: facts.in_memory,
            lost: self.messages.values().filter(|message| message.is_lost()).count() as u64,
            perhaps_lost: self.queues.iter().map(|queue| queue.lost).sum(),
            leaders: self.leaders.len() as u64,
            digests: facts.digests,
            ..*report
        };
    }

    pub(super) fn shown(&self) -> u64 {
        self.shown
    }

    pub(super) fn all_empty_since(&self, shown: u64) -> bool {
        self.queues.iter().all(|queue| queue.empty.is_some_and(|at| at > shown))
    }

    pub(super) fn describe(&self) -> String {
        let shown: Vec<_> = self.queues.iter().map(|queue| (&queue.name, queue.group, queue.empty)).collect();
        format!("last shown empty {shown:?} of {}", self.shown)
    }

    pub(super) fn leads(&mut self, of: (usize, u64), who: (usize, u64)) -> Result<(), String> {
        let known = *self.leaders.entry(of).or_insert(who);
        if known != who {
            return Err(format!("alive: {known:?} and {who:?} both lead group {} in term {}", of.0, of.1));
        }
        Ok(())
    }

    /// The leader of this term has so much on the disks of a majority; if it serves, so has everything before its term.
    pub(super) fn committed(&mut self, group: usize, of: (u64, bool), committed: u64) {
        let (led, is_serving) = of;
        if let Some(all) = self.in_memory.get_mut(&group) {
            all.retain(|one| {
                let is_safe = one.term == led && one.index <= committed || one.term < led && is_serving;
                !is_safe
            });
        }
    }

    /// A node has lost its memory. Whatever memory alone held may be lost with it: should those who still hold it not be
    /// heard, the others elect a leader without it.
    pub(super) fn crashed(&mut self) {
        self.crashes += 1;
        for one in std::mem::take(&mut self.in_memory).into_values().flatten() {
            self.may_be_lost(one.id);
        }
    }

    fn may_be_lost(&mut self, id: u64) {
        let message = self.messages.get_mut(&id).expect("it was acknowledged");
        if message.delivered.is_some() || std::mem::replace(&mut message.may_be_lost, true) {
            return;
        }
        let queue = &mut self.queues[message.queue];
        queue.lost += 1;
        if let Some(waiting) = queue.waiting.get_mut(&message.priority) {
            waiting.remove(&id);
        }
    }

    pub(super) fn applied(&mut self, at: (usize, u64), digest: u64, node: usize) -> Result<(), String> {
        self.facts.digests += 1;
        let (known, first) = *self.digests.entry(at).or_insert((digest, node));
        if known != digest {
            return Err(format!(
                "durable: group {} has another state at {} on node {} than on node {}",
                at.0,
                at.1,
                node + 1,
                first + 1
            ));
        }
        Ok(())
    }

    /// A producer says it, for the first time or again.
    pub(super) fn offered(&mut self, queue: usize, key: (u64, u64), messages: &[(u64, u8, u32)]) {
        let ids: Vec<u64> = messages.iter().map(|(id, ..)| *id).collect();
        self.frames.insert(key, ids);
        let crashes = self.crashes;
        for &(id, priority, checksum) in messages {
            let known = &mut self.queues[queue];
            let is_doomed = known.purges > 0;
            let message = self.messages.entry(id).or_insert_with(|| {
                known.offered += 1;
                Message {
                    queue,
                    priority,
                    checksum,
                    stored: Stored::Perhaps,
                    acknowledged: None,
                    place: None,
                    delivered: None,
                    may_be_gone: false,
                    may_be_purged: false,
                    crashes,
                    may_be_lost: false,
                    gone: None,
                    lease: None,
                }
            });
            message.may_be_purged |= is_doomed;
        }
    }

    /// The only offer there was is refused.
    pub(super) fn refused(&mut self, ids: impl Iterator<Item = u64>) -> Result<(), String> {
        for id in ids {
            let message =
                self.messages.get_mut(&id).ok_or_else(|| format!("once: {id} was never offered"))?;
            match message.stored {
                Stored::Surely => return Err(format!("once: {id} is stored and was refused")),
                Stored::Perhaps => self.queues[message.queue].refused += 1,
                Stored::Refused => {}
            }
            message.stored = Stored::Refused;
        }
        Ok(())
    }

    fn is_stored(&mut self, id: u64) -> Result<(), String> {
        let message = self.messages.get_mut(&id).ok_or_else(|| format!("once: {id} was never offered"))?;
        match message.stored {
            Stored::Refused => return Err(format!("once: {id} was refused, and is stored")),
            Stored::Perhaps => self.queues[message.queue].stored += 1,
            Stored::Surely => {}
        }
        message.stored = Stored::Surely;
        Ok(())
    }

    pub(super) fn show_asked(&mut self, pipe: u64, request: u64, queue: usize) {
        let Queue { stored, gone, acked, .. } = self.queues[queue];
        // A count is of what is committed, and that is not.
        let in_memory = self.in_memory.values().flatten().filter(|one| self.messages[&one.id].queue == queue);
        let stored = stored.saturating_sub(in_memory.count() as u64);
        let of_queue = self.messages.iter().filter(|(_, message)| message.queue == queue);
        let held = of_queue.filter_map(|(id, message)| Some((*id, message.lease?))).collect();
        self.shows.insert((pipe, request), Shown { queue, stored, gone, acked, held });
    }

    pub(super) fn purge_asked(&mut self, pipe: u64, request: u64, queue: usize) {
        self.purges.insert((pipe, request), queue);
        let known = &mut self.queues[queue];
        (known.is_purged, known.purges) = (true, known.purges + 1);
        known.waiting.clear();
        self.messages.values_mut().filter(|one| one.queue == queue).for_each(|one| one.may_be_purged = true);
    }

    pub(super) fn settle_asked(&mut self, pipe: u64, request: u64, queue: u64, runs: &[SettleRun]) {
        use ringmain_net::protocol::Outcome;
        let mut settling = Settling::new();
        for run in runs {
            for sequence in run.sequence..run.sequence + u64::from(run.count) {
                let place = Place { queue, priority: run.priority, sequence };
                let Some(id) = self.places.get(&place) else { continue };
                let message = self.messages.get_mut(id).expect("what has a place is known");
                if run.outcome == Outcome::Nack {
                    message.lease.iter_mut().for_each(|lease| lease.is_returning = true);
                    continue;
                }
                let known = &mut self.queues[message.queue];
                known.may_be_gone += u64::from(!message.may_be_gone);
                known.may_be_acked += u64::from(run.outcome == Outcome::Ack);
                message.may_be_gone = true;
                settling.push((*id, run.outcome == Outcome::Ack));
            }
        }
        self.settles.insert((pipe, request), settling);
    }

    /// Whatever is held over this connection comes back.
    pub(super) fn hung_up(&mut self, pipe: u64) {
        self.gone_pipes.insert(pipe);
        self.returns(|lease| lease.pipe == pipe);
    }

    pub(super) fn unsubscribed(&mut self, pipe: u64, consumer: u32) {
        self.gone_consumers.insert((pipe, consumer));
        self.returns(|lease| (lease.pipe, lease.consumer) == (pipe, consumer));
    }

    fn returns(&mut self, is_one: impl Fn(&Lease) -> bool) {
        let leases = self.messages.values_mut().filter_map(|message| message.lease.as_mut());
        leases.filter(|lease| is_one(lease)).for_each(|lease| lease.is_returning = true);
    }

    /// What a shard leaves for its clients in one turn.
    pub(super) fn spoken(
        &mut self,
        speaker: &Speaker<'_>,
        all: &[(u64, usize, Vec<u8>)],
    ) -> Result<(), String> {
        let mut deliveries = Vec::new();
        for (pipe, _, bytes) in all {
            let mut rest = &bytes[..];
            while let Ok(Some(frame)) = frame::split(rest, FRAME_BYTES_MAX) {
                rest = &rest[frame.bytes..];
                self.said(speaker, *pipe, &frame, &mut deliveries)?;
            }
            if !rest.is_empty() {
                return Err("honest: the shard cuts a frame".to_owned());
            }
        }
        // Over all connections they were chosen by priority and then in the order of the log.
        deliveries.sort_by_key(|one| (one.place.queue, u8::MAX - one.place.priority, one.place.sequence));
        deliveries.iter().try_for_each(|one| self.delivered(speaker, one))
    }

    fn said(
        &mut self,
        speaker: &Speaker<'_>,
        pipe: u64,
        frame: &Frame<'_>,
        deliveries: &mut Vec<Delivered>,
    ) -> Result<(), String> {
        let reply = Reply::decode(frame).map_err(|why| format!("honest: no client can read {why}"))?;
        let asked = (pipe, frame.request);
        match reply {
            Reply::Receipt(receipt) => {
                for sequence in receipt.first_sequence..=receipt.last_sequence {
                    let ids = self.frames.get(&(receipt.session, sequence)).cloned();
                    let Some(ids) = ids else {
                        return Err(format!("honest: {receipt:?} is for what nobody published"));
                    };
                    ids.into_iter().try_for_each(|id| {
                        self.acknowledged(id, (receipt.term, receipt.index), receipt.is_duplicate())
                    })?;
                }
            }
            Reply::Settled(settled) => {
                let Some(settling) = self.settles.remove(&asked) else {
                    return Err(format!("honest: {settled:?} is for what nobody settled"));
                };
                self.facts.settled += u64::from(settled.accepted);
                self.facts.stale += u64::from(settled.stale);
                if settled.stale == 0 {
                    settling.into_iter().for_each(|(id, is_ack)| self.is_gone(id, is_ack));
                }
            }
            Reply::QueueShown(shown) => {
                if let Some(asked) = self.shows.remove(&asked) {
                    self.counted(speaker, &asked, &shown.info)?;
                }
            }
            Reply::QueueOpened(_) | Reply::Subscribed(_) => {}
            Reply::Done(done) => {
                if let Some(queue) = self.purges.remove(&asked) {
                    self.queues[queue].purges -= 1;
                    self.facts.purged += done.count;
                }
            }
            Reply::Refused(refused) => {
                self.facts.full += u64::from(refused.code() == Code::Full);
                self.facts.redirected +=
                    u64::from(matches!(refused.code(), Code::NotLeader | Code::LeaderLost));
                self.shows.remove(&asked);
            }
            Reply::ConsumerEnded(ended) => {
                self.facts.ended += 1;
                self.unsubscribed(pipe, ended.consumer);
            }
            Reply::Delivery(delivery) => Self::list(pipe, &delivery, deliveries)?,
            Reply::Closing(closing) => match closing.code() {
                Code::TooMany | Code::ShuttingDown => {}
                // Clocks jump, and processes stand still.
                Code::Malformed if closing.detail.contains("in time") => {}
                code => {
                    return Err(format!("honest: {code:?}, {}, is told to a sound client", closing.detail));
                }
            },
            _ => {}
        }
        Ok(())
    }

    fn list(pipe: u64, delivery: &DeliveryView<'_>, out: &mut Vec<Delivered>) -> Result<(), String> {
        for message in delivery.messages() {
            let head = message.head;
            let id = id_in(message.payload)
                .ok_or_else(|| format!("honest: {head:?} has a payload that nobody published"))?;
            let place = Place { queue: delivery.queue, priority: head.priority, sequence: head.sequence };
            let checksum = crc32c::crc32c(message.payload);
            out.push(Delivered { id, place, pipe, consumer: delivery.consumer, checksum });
        }
        Ok(())
    }

    fn acknowledged(&mut self, id: u64, at: (u64, u64), is_duplicate: bool) -> Result<(), String> {
        self.is_stored(id)?;
        self.facts.acknowledged += 1;
        self.facts.duplicates += u64::from(is_duplicate);
        let message = self.messages.get_mut(&id).expect("it was just there");
        if message.acknowledged.is_none() && !is_duplicate {
            *self.queues[message.queue].published.entry(at.1).or_default() += 1;
        }
        message.acknowledged = Some(message.acknowledged.map_or(at, |known| known.min(at)));
        if self.queues[message.queue].is_in_memory() && message.delivered.is_none() {
            self.facts.in_memory += 1;
            if message.crashes == self.crashes {
                let one = InMemory { id, term: at.0, index: at.1 };
                self.in_memory.entry(self.queues[message.queue].group).or_default().push(one);
            } else {
                self.may_be_lost(id);
                return Ok(());
            }
        }
        let message = &self.messages[&id];
        if message.delivered.is_none() && !message.may_be_purged {
            self.queues[message.queue].waiting.entry(message.priority).or_default().insert(id);
        }
        Ok(())
    }

    fn is_gone(&mut self, id: u64, is_ack: bool) {
        let message = self.messages.get_mut(&id).expect("what is settled is known");
        let queue = &mut self.queues[message.queue];
        if message.gone.is_none() {
            queue.gone += 1;
            queue.acked += u64::from(is_ack);
        }
        message.gone = message.gone.or(message.delivered);
        message.lease = None;
    }

    fn delivered(&mut self, speaker: &Speaker<'_>, one: &Delivered) -> Result<(), String> {
        let Delivered { id, place, .. } = *one;
        let Standing { term, is_serving, applied } = speaker.terms[group_of(place.queue)];
        if !is_serving {
            return Err(format!("alive: {place:?} is delivered by a node that does not lead in {term}"));
        }
        self.is_stored(id)?;
        self.facts.delivered += 1;
        let held = self.places.entry(place).or_insert(id);
        if *held != id {
            return Err(format!("once: {place:?} has message {held}, and is delivered as {id}"));
        }
        let message = self.messages.get_mut(&id).expect("it was just there");
        if message.checksum != one.checksum || message.priority != place.priority {
            return Err(format!("honest: message {id} is not what was published"));
        }
        if message.place.is_some_and(|known| known != place) {
            return Err(format!("once: message {id} is at {place:?} and at {:?}", message.place));
        }
        message.place = Some(place);
        if message.gone.is_some_and(|gone| gone <= term) {
            return Err(format!(
                "leased: {id} at {place:?} was settled in {:?}, and comes in {term}",
                message.gone
            ));
        }
        if let Some(lease) = message.lease
            && lease.term == term
            && speaker.now < lease.until
            && !lease.is_returning
        {
            return Err(format!("leased: {id} at {place:?} comes at {} in spite of {lease:?}", speaker.now));
        }
        let lease_ns = super::client::LEASE_NS;
        let (pipe, consumer) = (one.pipe, one.consumer);
        let is_returning = self.gone_pipes.contains(&pipe) || self.gone_consumers.contains(&(pipe, consumer));
        message.lease = Some(Lease { term, pipe, consumer, until: speaker.now + lease_ns, is_returning });
        let is_first = message.delivered.is_none();
        let is_first_of_term = message.delivered != Some(term);
        message.delivered = message.delivered.max(Some(term));
        self.facts.redelivered += u64::from(!is_first);
        let (queue, priority) = (message.queue, message.priority);
        self.numbers.insert(place.queue, queue);
        if let Some(waiting) = self.queues[queue].waiting.get_mut(&priority) {
            waiting.remove(&id);
        }
        if is_first_of_term {
            self.check_order(place, term)?;
        }
        self.check_priority(queue, place, (term, applied))
    }

    fn check_order(&mut self, place: Place, term: u64) -> Result<(), String> {
        let last = self.orders.entry((place.queue, place.priority, term)).or_default();
        if place.sequence < *last {
            return Err(format!("ordered: {place:?} comes behind {last} in term {term}"));
        }
        *last = place.sequence;
        Ok(())
    }

    fn check_priority(&self, queue: usize, place: Place, (term, applied): (u64, u64)) -> Result<(), String> {
        let queue = &self.queues[queue];
        if queue.is_purged {
            return Ok(());
        }
        let above = queue.waiting.range(place.priority.saturating_add(1)..);
        let waits = above.flat_map(|(_, ids)| ids).find(|id| {
            let message = &self.messages[id];
            message.acknowledged.is_some_and(|known| known.0 <= term && known.1 <= applied)
        });
        match waits.filter(|_| place.priority < u8::MAX) {
            Some(id) => {
                Err(format!("priority: {place:?} comes in {term}, and {id} waits: {:?}", self.messages[id]))
            }
            None => Ok(()),
        }
    }

    /// What this node has leased since before it was asked, and nobody has tried to settle.
    fn held_since(&self, speaker: &Speaker<'_>, asked: &Shown, info: &QueueInfo) -> u64 {
        let is_held = |(id, lease): &&(u64, Lease)| {
            let message = &self.messages[id];
            let is_same = message.lease == Some(*lease) && lease.term == info.term;
            is_same && !lease.is_returning && speaker.now < lease.until && !message.may_be_gone
        };
        asked.held.iter().filter(is_held).count() as u64
    }

    /// Somewhere between the question and now, it was so.
    fn counted(&mut self, speaker: &Speaker<'_>, asked: &Shown, info: &QueueInfo) -> Result<(), String> {
        self.shown += 1;
        let held = self.held_since(speaker, asked, info);
        let queue = &mut self.queues[asked.queue];
        let QueueSettings { max_length, max_bytes, .. } = queue.settings;
        let is_over = |most: u64, found: u64| most > 0 && most < found;
        if is_over(max_length, info.ready + info.in_flight)
            || is_over(max_bytes, info.ready_bytes + info.in_flight_bytes)
        {
            return Err(format!("bounded: more than {max_length} messages or {max_bytes} bytes: {info:?}"));
        }
        let total = info.ready + info.in_flight;
        if total == 0 {
            queue.empty = Some(self.shown);
        }
        let levels: u64 = info.levels.iter().map(|level| level.ready + level.in_flight).sum();
        if levels != total {
            return Err(format!("exact: the levels do not add up: {info:?}"));
        }
        if queue.is_purged {
            return Ok(());
        }
        let possible = queue.offered - queue.refused;
        let before: u64 = queue.published.range(..=info.index).map(|(_, count)| count).sum();
        let behind: u64 = queue.published.range(info.index + 1..).map(|(_, count)| count).sum();
        let lost = queue.lost;
        let stored = asked.stored.saturating_sub(lost);
        let rows = [
            ("messages", stored.saturating_sub(queue.may_be_gone), total, possible - asked.gone),
            ("leased messages", held, info.in_flight, total),
            ("published", stored, info.published, possible),
            ("published at this index", before.saturating_sub(lost), info.published, possible - behind),
            ("acknowledged", asked.acked, info.acknowledged, queue.may_be_acked),
        ];
        for (what, low, found, high) in rows {
            if !(low..=high).contains(&found) {
                return Err(format!(
                    "exact: {what} of {} are {found}, not {low} to {high}: {info:?}",
                    queue.name
                ));
            }
        }
        Ok(())
    }

    /// Everything that can be consumed was consumed: nothing acknowledged is left.
    pub(super) fn drained(&self) -> Result<(), String> {
        let is_lost = |message: &Message| {
            let had_its_end = message.delivered.is_some() && message.may_be_gone;
            message.acknowledged.is_some() && !had_its_end && !message.may_be_purged && !message.may_be_lost
        };
        match self.messages.iter().find(|(_, message)| is_lost(message)) {
            Some((id, message)) => Err(format!("durable: {id} was acknowledged and is gone: {message:?}")),
            None => Ok(()),
        }
    }
}
