//! A follower that lacks entries which have left memory: they are read back from the log and sent, in order.
//!
//! Lives inside the group of a leader, one for each such follower. The engine of consensus says which entry is next
//! (`Replica::lacking`); here a few windows of the log behind it are read ahead, so that the disk and the peer are both
//! kept busy, and what has come back is handed to the engine, which sends it:
//!
//! ```text
//!   matched        next                    planned           base
//!   ──┴──────────────┴───────────────────────┴─────────────────┴────────
//!     sent, unanswered │ windows, some of them read │ on the disk │ in memory
//! ```
//!
//! Nothing of it outlives the need: when the follower has what it lacked, stands elsewhere than was believed, or this
//! replica leads no more, the windows are dropped, and a read that comes back then is nobody's.
//!
//! Every record proves that it is the entry asked for: its checksums cover its position and whose log it is in, and its
//! group, index and term must be those that the engine knows. What does not prove itself is rot.

use crate::dispatch::rot;
use crate::failure::Failure;
use crate::group::{Group, Turn, entry_kind};
use crate::member::node_of;
use crate::pace::Help;
use crate::readback::ReadWindow;
use crate::shard::{Output, Shard};
use crate::time::Time;
use crate::trail::{Step, Trail};
use bytes::Bytes;
use ringmain_replication::{Entry, Lacking};
use ringmain_wal::{GroupId, Identity, Index, PAGE_BYTES, Position, RecordHeader, RecordKind, Term};
use std::collections::VecDeque;

/// One read, but for a single larger entry.
const WINDOW_BYTES: u64 = 512 << 10;
/// Of the log between two entries of the group: more than that is not read along.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// Read ahead for one follower: 4 × 512 KiB = 2 MiB of memory, and more than a fast disk needs to be busy.
const WINDOWS_MAX: usize = 4;
/// Reads under way for all followers of a shard.
const READS_MAX: usize = 16;
/// Handed to the engine in one turn for one follower, but for a single larger entry: what others are sent meanwhile waits no
/// longer than this takes to be copied.
const TURN_BYTES_MAX: u64 = 256 << 10;
/// A follower that acknowledges nothing of what it was sent for so long has lost it; its disk may take a while.
const LOST_AFTER_NS: u64 = 1_000_000_000;
/// More than this unsent to the peer, whatever it is: that goes first.
const UNSENT_MAX: usize = 2 << 20;

/// What a checkpoint says of each message, rounded up.
const CHECKPOINT_BYTES_PER_MESSAGE: u64 = 64;
/// The log must be so many times as long as what a checkpoint moves, whose messages the follower may have already.
const CHECKPOINT_WORTH: u64 = 2;
/// Entries that are looked at to tell how long the log is.
const ENTRIES_WEIGHED: u64 = 64;

pub(crate) struct CatchUp {
    to: u64,
    /// What it lacks is not worth reading: it is to be brought a checkpoint.
    is_by_checkpoint: bool,
    /// The first entry that was not handed to the engine.
    next: Index,
    /// The first entry that is in no window. Invariant: next ≤ planned.
    planned: Index,
    /// Invariant: consecutive, from next to planned.
    windows: VecDeque<Window>,
    /// When it last acknowledged something, or nothing was left to be.
    progressed: Time,
    /// Last index and bytes of what was sent and not acknowledged.
    sent: VecDeque<(Index, u64)>,
    sent_bytes: u64,
}

/// A stretch of the log that holds some of the entries.
struct Window {
    read: u64,
    position: Position,
    last: Index,
    /// Once it was read.
    bytes: Option<Bytes>,
}

/// Reads of all catch-ups of a shard that are under way.
#[derive(Default)]
pub(crate) struct CatchUpReads {
    /// How many there were; also the number of the last one.
    count: u64,
    /// Invariant: at most `READS_MAX`.
    outstanding: Vec<Outstanding>,
}

#[derive(Copy, Clone)]
struct Outstanding {
    read: u64,
    window: ReadWindow,
    /// Of the group.
    ordinal: usize,
}

impl CatchUpReads {
    fn has_room(&self) -> bool {
        self.outstanding.len() < READS_MAX
    }

    fn begin(&mut self, ordinal: usize, window: ReadWindow) -> u64 {
        assert!(self.has_room());
        self.count += 1;
        self.outstanding.push(Outstanding { read: self.count, window, ordinal });
        self.count
    }

    /// A read came back: which one, and of which group, if it is one of these. Another reader may have asked for the very
    /// same bytes; then it does not matter whose come first.
    pub(crate) fn end(&mut self, position: Position, bytes: usize) -> Option<(usize, u64)> {
        let window = ReadWindow { position, bytes };
        let at = self.outstanding.iter().position(|one| one.window == window)?;
        let Outstanding { read, ordinal, .. } = self.outstanding.remove(at);
        Some((ordinal, read))
    }
}

impl CatchUp {
    fn new(one: &Lacking, now: Time) -> Self {
        Self {
            to: one.id,
            is_by_checkpoint: false,
            next: one.next,
            planned: one.next,
            windows: VecDeque::new(),
            progressed: now,
            sent: VecDeque::new(),
            sent_bytes: 0,
        }
    }

    /// What the engine knows of the follower now.
    fn follow(&mut self, one: &Lacking, now: Time) {
        assert_eq!(self.to, one.id);
        if self.sent.front().is_none_or(|(last, _)| *last <= one.matched) {
            self.progressed = now;
        }
        while let Some((last, bytes)) = self.sent.front().copied()
            && last <= one.matched
        {
            self.sent.pop_front();
            self.sent_bytes -= bytes;
        }
        // Before it has answered, the engine may speak of what it was sent last.
        if one.may_be_sent && one.next != self.next {
            *self = Self::new(one, now);
        }
    }

    /// What was sent is lost: the follower had no room for it, say, and says nothing of what it dropped. The engine takes it
    /// for sent, and would wait.
    fn is_lost(&self, now: Time) -> bool {
        !self.sent.is_empty() && self.progressed.after_ns(LOST_AFTER_NS) <= now
    }

    /// Plans a window behind those that are planned, so that `ahead_bytes` are read before they are sent. `None`: there are
    /// enough, or there is nothing more to read.
    fn plan(&mut self, trail: &Trail, base: Index, ahead_bytes: u64) -> Option<ReadWindow> {
        let window_bytes = WINDOW_BYTES.min(ahead_bytes);
        let windows_max = WINDOWS_MAX.min((ahead_bytes / window_bytes) as usize);
        if windows_max <= self.windows.len() || base < self.planned {
            return None;
        }
        let first = trail.at(self.planned)?;
        let position = Position(first.record.0 / PAGE_BYTES * PAGE_BYTES);
        let (mut last, mut end) = (self.planned, first.end());
        while last < base
            && let Some(step) = trail.at(Index(last.0 + 1))
        {
            let is_near = step.record.0 - end.0 <= GAP_BYTES_MAX;
            let is_here = trail.are_in_one_segment(position, step.record);
            if !is_near || !is_here || window_bytes < step.end().0 - position.0 {
                break;
            }
            (last, end) = (Index(last.0 + 1), step.end());
        }
        let bytes = (end.0 - position.0).next_multiple_of(PAGE_BYTES) as usize;
        self.planned = Index(last.0 + 1);
        self.windows.push_back(Window { read: 0, position, last, bytes: None });
        Some(ReadWindow { position, bytes })
    }

    fn on_read(&mut self, read: u64, bytes: &Bytes) {
        if let Some(window) = self.windows.iter_mut().find(|window| window.read == read) {
            window.bytes = Some(bytes.clone());
        }
    }

    /// The next entry is at hand.
    fn is_ready(&self) -> bool {
        self.windows.front().is_some_and(|window| window.bytes.is_some())
    }

    /// Entries that are at hand, a turn's share at most; `prove` says what a record holds, or why it is not the one.
    fn take(
        &mut self,
        trail: &Trail,
        prove: impl Fn(Index, Step, &Bytes) -> Result<Entry, Failure>,
    ) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        let mut taken_bytes = 0;
        while let Some(window) = self.windows.front()
            && let Some(bytes) = &window.bytes
        {
            // What is planned is known until it is forgotten, and then this follower is helped no more.
            let step = trail.at(self.next).expect("the place of an entry that can be read back");
            if !entries.is_empty() && TURN_BYTES_MAX < taken_bytes + step.bytes() {
                break;
            }
            let at = (step.record.0 - window.position.0) as usize;
            entries.push(prove(self.next, step, &bytes.slice(at..at + step.bytes() as usize))?);
            taken_bytes += step.bytes();
            if self.next == window.last {
                self.windows.pop_front();
            }
            self.next = Index(self.next.0 + 1);
        }
        if !entries.is_empty() {
            self.sent.push_back((Index(self.next.0 - 1), taken_bytes));
            self.sent_bytes += taken_bytes;
        }
        Ok(entries)
    }

    fn check(&self) {
        assert!(self.next <= self.planned);
        assert!(self.windows.len() <= WINDOWS_MAX);
        assert!(self.windows.iter().is_sorted_by(|a, b| a.last < b.last));
        let last = self.windows.back().map_or(self.next.0, |window| window.last.0 + 1);
        assert_eq!(last, self.planned.0);
        assert_eq!(self.sent_bytes, self.sent.iter().map(|(_, bytes)| bytes).sum::<u64>());
    }
}

/// Bytes of the entries from `next` to `base`, told from some of them.
fn weigh(trail: &Trail, next: Index, base: Index) -> u64 {
    let count = (base.0 + 1).saturating_sub(next.0);
    let looked_at = count.min(ENTRIES_WEIGHED);
    let places = (0..looked_at).map(|nth| Index(next.0 + nth * count / looked_at));
    let bytes: u64 = places.filter_map(|index| trail.at(index)).map(Step::bytes).sum();
    bytes * count / looked_at.max(1)
}

/// What a record has to agree with.
#[derive(Copy, Clone)]
struct Proof<'a> {
    identity: &'a Identity,
    group: GroupId,
    index: Index,
    term: Option<Term>,
    step: Step,
}

impl Proof<'_> {
    /// The entry, if `record` proves to be the one that is meant.
    fn entry(&self, record: &Bytes) -> Option<Entry> {
        let (header, payload) = RecordHeader::prove(record, self.step.record, self.identity)?;
        let is_it = header.kind == RecordKind::Entry
            && (header.group, header.index, Some(header.term)) == (self.group, self.index, self.term)
            && header.payload_bytes == self.step.payload_bytes;
        let kind = entry_kind(header.tag).filter(|_| is_it)?;
        Some(Entry { term: header.term, index: header.index, kind, data: record.slice_ref(payload) })
    }
}

impl Shard {
    /// What a follower lacks stays in the log for a while, though nothing else needs it: otherwise a follower that was away
    /// under load would find that what it missed has just been used again.
    pub(crate) fn keep_for_followers(&mut self) {
        let oldest = self.log.tail().0.saturating_sub(self.options.limits.catch_up_bytes_max.0);
        let places = |group: &Group| {
            let missing = group.replica.missing().filter_map(|index| group.trail.at(index));
            missing.map(|step| step.record).filter(|record| oldest <= record.0).min()
        };
        let needed = self.groups.iter().filter_map(places).min();
        self.log.keep_from(needed);
    }

    /// A turn's share of every catch-up.
    pub(crate) fn advance_catch_ups(&mut self, now: Time, output: &mut Output) {
        for ordinal in 0..self.groups.len() {
            let (group, mut turn) = self.group_turn(now, ordinal);
            match group.advance_catch_ups(&mut turn, ordinal, &mut output.reads) {
                Ok(is_unfinished) => output.is_unfinished |= is_unfinished,
                Err(failure) => _ = output.failure.get_or_insert(failure),
            }
        }
    }
}

impl Group {
    /// True: there is more to be sent at once.
    fn advance_catch_ups(
        &mut self,
        turn: &mut Turn<'_>,
        ordinal: usize,
        issue: &mut Vec<ReadWindow>,
    ) -> Result<bool, Failure> {
        let mut lacking = std::mem::take(&mut self.lacking);
        lacking.clear();
        lacking.extend(self.replica.lacking());
        // The engine has them in no order.
        lacking.sort_unstable_by_key(|one| one.id);
        let mut catch_ups = std::mem::take(&mut self.catch_ups);
        catch_ups.retain(|catch_up| lacking.iter().any(|one| one.id == catch_up.to));
        let mut is_unfinished = false;
        for one in &lacking {
            let at = catch_ups.iter().position(|catch_up| catch_up.to == one.id).unwrap_or_else(|| {
                let is_by_checkpoint = self.is_better_helped_by_checkpoint(one);
                catch_ups.push(CatchUp { is_by_checkpoint, ..CatchUp::new(one, turn.now) });
                catch_ups.len() - 1
            });
            is_unfinished |= self.advance_catch_up(&mut catch_ups[at], one, turn, (ordinal, &mut *issue))?;
        }
        (self.lacking, self.catch_ups) = (lacking, catch_ups);
        Ok(is_unfinished)
    }

    /// Whether what happened since is much longer than what has come of it: most messages that came are gone again.
    fn is_better_helped_by_checkpoint(&self, one: &Lacking) -> bool {
        let log_bytes = weigh(&self.trail, one.next, self.replica.base().0);
        let messages = self.engine.messages_count();
        let moved_bytes = self.engine.stored_bytes() + messages * CHECKPOINT_BYTES_PER_MESSAGE;
        // For less than what is kept in memory anyway it is not worth beginning.
        self.entries_bytes_max + CHECKPOINT_WORTH * moved_bytes < log_bytes
    }

    /// Who should be brought a checkpoint though the log has what it lacks.
    pub(crate) fn checkpoint_preferred(&self) -> Option<u64> {
        self.catch_ups.iter().find(|catch_up| catch_up.is_by_checkpoint).map(|catch_up| catch_up.to)
    }

    /// It came to nothing: there is the log still.
    pub(crate) fn prefer_log(&mut self, to: u64) {
        let of_it = self.catch_ups.iter_mut().filter(|catch_up| catch_up.to == to);
        of_it.for_each(|catch_up| catch_up.is_by_checkpoint = false);
    }

    fn advance_catch_up(
        &mut self,
        catch_up: &mut CatchUp,
        one: &Lacking,
        turn: &mut Turn<'_>,
        (ordinal, issue): (usize, &mut Vec<ReadWindow>),
    ) -> Result<bool, Failure> {
        let up = turn.peers.up(node_of(one.id)).filter(|up| up.replica == one.id);
        let Some(up) = up.filter(|_| !catch_up.is_by_checkpoint) else { return Ok(false) };
        catch_up.follow(one, turn.now);
        if catch_up.is_lost(turn.now) {
            // It begins again behind what the follower is known to have.
            self.replica.report_unreachable(one.id);
            *catch_up = CatchUp::new(one, turn.now);
            return Ok(true);
        }
        let base = self.replica.base().0;
        let window_bytes = turn.pace.window_bytes();
        while turn.catch_up_reads.has_room()
            && let Some(window) = catch_up.plan(&self.trail, base, window_bytes)
        {
            // Whole pages are written, and these entries are applied.
            assert!(window.position.0 + window.bytes as u64 <= turn.log.durable_end().0);
            let read = turn.catch_up_reads.begin(ordinal, window);
            catch_up.windows.back_mut().expect("the window that was planned").read = read;
            issue.push(window);
        }
        let unsent = turn.outbox.connection(up.connection).map_or(0, |connection| connection.unsent());
        let may_be_sent = one.may_be_sent && unsent < UNSENT_MAX && catch_up.sent_bytes < window_bytes;
        let help = Help::Log(ordinal);
        if !may_be_sent || !catch_up.is_ready() || !turn.pace.may_help(help, turn.now) {
            return Ok(false);
        }
        let (group, log) = (self.id, &*turn.log);
        let entries = catch_up.take(&self.trail, |index, step, record| {
            let term = self.replica.term_of(index);
            let proof = Proof { identity: &log.options().identity, group, index, term, step };
            // A record is far smaller than 4 GiB: it lies in one segment.
            proof.entry(record).ok_or_else(|| rot(step.record, step.bytes() as u32, log))
        })?;
        turn.pace.on_help(turn.now);
        let count = entries.len() as u64;
        // Membership may have changed with what another follower was sent just now: then this one is looked at anew.
        if self.replica.on_read_back(one.id, entries) {
            self.entries_read_back += count;
            self.drive(turn)?;
        }
        Ok(catch_up.is_ready() && turn.pace.may_help(help, turn.now))
    }

    /// A read of a catch-up came back. What it was for may be over.
    pub(crate) fn on_catch_up_read(&mut self, read: u64, bytes: &Bytes) {
        self.catch_ups.iter_mut().for_each(|catch_up| catch_up.on_read(read, bytes));
    }

    pub(crate) fn check_catch_ups(&self) {
        self.catch_ups.iter().for_each(CatchUp::check);
    }
}

#[cfg(test)]
mod tests;
