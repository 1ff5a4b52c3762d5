//! One connection to one shard: its life, its two buffers, and which answer belongs to which request.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ringmain_net::frame::{self, FRAME_BYTES_MAX, Frame, FrameError};
use ringmain_net::protocol::{Hello, PROTOCOL, Welcome, Words};

use crate::options::Address;

/// Requests of one connection that have no answer yet, publishes not counted. More are held back.
pub(crate) const REQUESTS_MAX: usize = 1024;

const INBOX_BYTES: usize = 256 << 10;
/// A read has at least this much room.
const READ_BYTES_MIN: usize = 64 << 10;

/// Where a connection stands.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Dialled once this moment has come.
    Waiting {
        until: Instant,
    },
    Dialling {
        since: Instant,
    },
    /// Connected; the welcome is awaited.
    Greeting {
        since: Instant,
    },
    Up,
}

/// What a request was for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    Call { call: u64 },
    ProducerQueue { producer: u64 },
    ProducerSession { producer: u64 },
    ConsumerQueue { consumer: u64 },
    Subscribe { consumer: u64 },
    Settle { consumer: u64, token: u64 },
    Unsubscribe,
    Ping,
}

/// What a shard accepts, as its welcome says.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) message_bytes_max: u32,
    pub(crate) frame_bytes_max: u32,
    pub(crate) inflight_frames_max: u32,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: Address,
    pub(crate) phase: Phase,
    /// Connections in a row that could not be made or did not last.
    pub(crate) attempts: u32,
    /// When the last welcome came.
    up_since: Instant,
    pub(crate) last_error: Option<String>,
    /// Whose it is; before the welcome, whose it is meant to be.
    pub(crate) node: Option<u32>,
    pub(crate) shard: Option<u32>,
    /// Dialled only because somebody named its address: it may belong to no cluster, or to another.
    pub(crate) stranger: bool,
    /// Nobody needed it when it was to be dialled.
    pub(crate) parked: bool,
    pub(crate) limits: Limits,
    /// When the shard last said anything.
    pub(crate) heard: Instant,
    /// When somebody was last found to need it.
    pub(crate) needed: Instant,
    /// When it was asked whether it lives, if it has said nothing since.
    pub(crate) pinged: Option<Instant>,
    /// Whose frames are to be sent, in turn. The first may be in the middle of a frame.
    pub(crate) sendable: VecDeque<u64>,
    /// Consumers by the number that this connection gave them.
    pub(crate) consumers: BTreeMap<u32, u64>,

    inbox: Inbox,
    /// Frames of all kinds but `Publish`, and how much of them is sent.
    control: Vec<u8>,
    control_sent: usize,
    /// By number, which rises. Answers come in about that order, so the first is usually the one.
    requests: VecDeque<(u64, Pending)>,
    next_request: u64,
}

impl Link {
    pub(crate) fn new(address: Address, now: Instant) -> Self {
        let limits = Limits {
            message_bytes_max: 1 << 20,
            frame_bytes_max: FRAME_BYTES_MAX,
            inflight_frames_max: u32::MAX,
        };
        Self {
            address,
            phase: Phase::Waiting { until: now },
            attempts: 0,
            up_since: now,
            last_error: None,
            node: None,
            shard: None,
            stranger: false,
            parked: false,
            limits,
            heard: now,
            needed: now,
            pinged: None,
            sendable: VecDeque::new(),
            consumers: BTreeMap::new(),
            inbox: Inbox::default(),
            control: Vec::new(),
            control_sent: 0,
            requests: VecDeque::new(),
            next_request: 1,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. } | Phase::Up)
    }

    /// Whether it could not be made when last tried, and is not being tried now.
    pub(crate) fn is_failing(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. }) && self.attempts > 0
    }

    pub(crate) fn has_room_for_requests(&self) -> bool {
        self.requests.len() < REQUESTS_MAX
    }

    pub(crate) fn greet(&mut self, now: Instant, cluster: u64, agent: &str) {
        assert!(self.control.is_empty());
        self.phase = Phase::Greeting { since: now };
        self.heard = now;
        self.pinged = None;
        frame::encode(&mut self.control, 1, &Hello { protocol: PROTOCOL, cluster, agent }, &[]);
        self.next_request = 2;
    }

    /// Whether this connection has been up for so long.
    pub(crate) fn has_lasted(&self, duration: Duration, now: Instant) -> bool {
        self.is_up() && now.saturating_duration_since(self.up_since) >= duration
    }

    pub(crate) fn welcome(&mut self, welcome: &Welcome, now: Instant) {
        self.phase = Phase::Up;
        self.up_since = now;
        self.needed = now;
        self.last_error = None;
        self.node = Some(welcome.node);
        self.shard = Some(welcome.shard);
        self.limits = Limits {
            message_bytes_max: welcome.message_bytes_max,
            frame_bytes_max: welcome.frame_bytes_max.max(frame::HELLO_BYTES_MAX),
            inflight_frames_max: welcome.inflight_frames_max,
        };
    }

    /// Forgets everything of the connection that ended; answers what was waiting for it.
    pub(crate) fn reset(&mut self, until: Instant, reason: String) -> VecDeque<(u64, Pending)> {
        self.phase = Phase::Waiting { until };
        self.attempts = self.attempts.saturating_add(1);
        self.last_error = Some(reason);
        self.sendable.clear();
        self.consumers.clear();
        self.inbox.clear();
        self.control.clear();
        self.control_sent = 0;
        std::mem::take(&mut self.requests)
    }

    /// Sends a request, and remembers what it was for.
    pub(crate) fn request(&mut self, pending: Pending, words: &impl Words) {
        let request = self.next_request;
        self.next_request += 1;
        self.requests.push_back((request, pending));
        frame::encode(&mut self.control, request, words, &[]);
    }

    /// What the reply to this request is for; `None` if there was no such request.
    pub(crate) fn answered(&mut self, request: u64) -> Option<Pending> {
        let index = self.requests.binary_search_by_key(&request, |(number, _)| *number).ok()?;
        self.requests.remove(index).map(|(_, pending)| pending)
    }

    /// Whether it owes an answer to anything but a ping.
    pub(crate) fn owes(&self) -> bool {
        self.requests.iter().any(|(_, pending)| *pending != Pending::Ping)
    }

    /// Settles without an answer.
    pub(crate) fn settles(&self) -> usize {
        self.requests.iter().filter(|(_, pending)| matches!(pending, Pending::Settle { .. })).count()
    }

    pub(crate) fn control(&self) -> &[u8] {
        &self.control[self.control_sent..]
    }

    /// So many bytes were handed over; answers how many of them were not control frames.
    pub(crate) fn on_control_transmitted(&mut self, bytes: usize) -> usize {
        let sent = bytes.min(self.control.len() - self.control_sent);
        self.control_sent += sent;
        if self.control_sent == self.control.len() {
            self.control.clear();
            self.control_sent = 0;
        }
        bytes - sent
    }

    pub(crate) fn inbox(&mut self) -> &mut [u8] {
        self.inbox.space()
    }

    pub(crate) fn on_received(&mut self, bytes: usize) {
        self.inbox.end += bytes;
        assert!(self.inbox.end <= self.inbox.bytes.len());
    }

    /// Takes the received bytes out, so that frames can be read while the rest of the machine changes.
    pub(crate) fn take_inbox(&mut self) -> Inbox {
        std::mem::take(&mut self.inbox)
    }

    pub(crate) fn return_inbox(&mut self, inbox: Inbox) {
        self.inbox = inbox;
    }

    /// When something must be done about this connection by itself.
    pub(crate) fn deadline(
        &self,
        connect_timeout: Duration,
        ping_after: Duration,
        silence_max: Duration,
    ) -> Instant {
        match self.phase {
            Phase::Waiting { until } => until,
            Phase::Dialling { since } | Phase::Greeting { since } => since + connect_timeout,
            Phase::Up => match self.pinged {
                // A thread that was away sends its ping late: the answer has the same time to come.
                Some(pinged) => (self.heard + silence_max).max(pinged + (silence_max - ping_after)),
                None => self.heard + ping_after,
            },
        }
    }
}

/// Received bytes that are not read yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// All of it is initialised: reading fills what lies behind `end`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    fn space(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes.resize(INBOX_BYTES, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// The next whole frame, if it is there.
    pub(crate) fn next(&self, frame_bytes_max: u32) -> Result<Option<Frame<'_>>, FrameError> {
        frame::split(&self.bytes[self.start..self.end], frame_bytes_max)
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        assert!(self.start <= self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Makes room for the rest of a frame that is there in part. The length was checked against its limit.
    pub(crate) fn make_room(&mut self) {
        let rest = &self.bytes[self.start..self.end];
        let whole = match frame::length(rest, u32::MAX) {
            Ok(Some(length)) => length as usize,
            _ => 0,
        };
        if self.start > 0 && self.bytes.len() - self.end < READ_BYTES_MIN.max(whole) {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let needed = (self.start + whole).max(self.end + READ_BYTES_MIN);
        if needed > self.bytes.len() {
            self.bytes.resize(needed, 0);
        }
    }
}
