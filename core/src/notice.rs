//! What whoever looks after the node is told of those who call it, or whom it calls: seldom, and in words that can be printed.
//!
//! Lives inside the shard. The runtime says the same words once; but a stranger chooses his words, a number at a time, and
//! could fill the log of a node with them. So whatever follows from bytes of others is about a [`Topic`]: each is said once in
//! a period, and only so many of them are.

use crate::connection::{ConnectionId, Stage};
use crate::shard::Shard;
use crate::time::Time;
use ringmain_net::frame::FrameError;
use ringmain_net::peer::{PeerCode, PeerRefused};
use ringmain_net::protocol::Code;

const PERIOD_NS: u64 = 60_000_000_000;
/// In one period. More than there are nodes, each with a fault or two of its own: 16 lines a minute fill no disk.
const TOPICS_MAX: usize = 16;
/// Of a text that others have written. The longest sentence of ours, with two numbers in it, has about 100.
const CHARS_MAX: usize = 200;

const NOISE: &str = "a stranger is refused: what he says is nothing that ringmain's nodes and clients say";
const MORE: &str = "more strangers call than are named here: they are refused like those before";

/// What a notice is about.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Topic {
    /// This node refuses whoever calls himself a node of this number, or answers for it.
    Node { node: u32, code: PeerCode },
    /// The node of this number refuses this one.
    RefusedBy { node: u32, code: PeerCode },
    /// This node refuses clients.
    Client { code: Code },
    /// This node refuses whoever has not said who he is.
    Stranger,
    /// What is said on the port are no frames at all.
    Noise,
}

#[derive(Default, Debug)]
pub(crate) struct Notices {
    /// Not yet handed on. Invariant: at most `TOPICS_MAX` + 1 in a period.
    pub(crate) due: Vec<String>,
    /// In this period.
    said: Vec<Topic>,
    /// When it began.
    since: Time,
}

impl Notices {
    pub(crate) fn say(&mut self, now: Time, topic: Topic, text: impl FnOnce() -> String) {
        if self.since.after_ns(PERIOD_NS) <= now {
            self.since = now;
            self.said.clear();
        }
        if self.said.contains(&topic) || TOPICS_MAX < self.said.len() {
            return;
        }
        let is_named = self.said.len() < TOPICS_MAX;
        self.due.push(if is_named { text() } else { MORE.to_owned() });
        self.said.push(topic);
    }
}

impl Shard {
    /// Who calls himself a node of this number, to be reached at this host, is about to be refused.
    pub(crate) fn note_caller(&mut self, (node, host): (u32, &str), code: PeerCode, detail: &str) {
        self.notices.say(self.now, Topic::Node { node, code }, || match host {
            "" => format!("node {node} is refused: {code}: {detail}"),
            host => format!("node {node} at {} is refused: {code}: {detail}", printable(host)),
        });
    }

    /// Whoever is at the other end of a peer's connection is about to be refused.
    pub(crate) fn note_peer(&mut self, id: ConnectionId, code: PeerCode, detail: &str) {
        let Some((node, _)) = self.peers.at(id) else { return };
        let text = || format!("whoever speaks for node {node} is refused: {code}: {detail}");
        self.notices.say(self.now, Topic::Node { node, code }, text);
    }

    /// What a peer says against this node.
    pub(crate) fn note_refused_by(&mut self, node: u32, refused: &PeerRefused<'_>) {
        let code = refused.code();
        let text = || format!("node {node} refuses this one: {code}: {}", printable(refused.detail));
        self.notices.say(self.now, Topic::RefusedBy { node, code }, text);
    }

    pub(crate) fn note_client(&mut self, agent: &str, code: Code, detail: &str) {
        let text = || format!("a client ({}) is refused: {code}: {detail}", printable(agent));
        self.notices.say(self.now, Topic::Client { code }, text);
    }

    /// What came is no frame. A client hears of it, and nobody else is concerned.
    pub(crate) fn note_no_frame(&mut self, id: ConnectionId, error: &FrameError) {
        match self.outbox.connection(id).map(|connection| connection.stage) {
            Some(Stage::AwaitingHello) if error.code() == Code::UnsupportedVersion => {
                self.note_stranger(&error.to_string());
            }
            Some(Stage::AwaitingHello) => self.notices.say(self.now, Topic::Noise, || NOISE.to_owned()),
            Some(Stage::Peer) => self.note_peer(id, PeerCode::Malformed, &error.to_string()),
            Some(Stage::Open | Stage::Closing | Stage::Cut) | None => {}
        }
    }

    /// A whole frame, or one of another version, that nobody can begin with: a mistake of somebody who means this cluster.
    pub(crate) fn note_stranger(&mut self, detail: &str) {
        self.notices.say(self.now, Topic::Stranger, || format!("a stranger is refused: {detail}"));
    }
}

/// Text of others in our words: not longer than a line, and without anything that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(node: u32) -> Topic {
        Topic::Node { node, code: PeerCode::WrongCluster }
    }

    #[test]
    fn a_topic_is_said_once_in_a_period() {
        let mut notices = Notices::default();
        for (at_ns, expected) in [(0, 1), (1, 1), (PERIOD_NS - 1, 1), (PERIOD_NS, 2), (PERIOD_NS + 1, 2)] {
            notices.say(Time(at_ns), topic(2), || format!("at {at_ns}"));
            assert_eq!(notices.due.len(), expected, "{at_ns}");
        }
    }

    #[test]
    fn a_flood_of_topics_is_a_few_lines() {
        let mut notices = Notices::default();
        for node in 0..1_000 {
            notices.say(Time(1), topic(node), || format!("node {node}"));
        }
        assert_eq!(notices.due.len(), TOPICS_MAX + 1);
        assert_eq!(notices.due[TOPICS_MAX - 1], format!("node {}", TOPICS_MAX - 1));
        assert_eq!(notices.due[TOPICS_MAX], MORE);
    }

    #[test]
    fn text_of_others_is_cut_and_escaped() {
        assert_eq!(printable("mq2.example"), "mq2.example");
        assert_eq!(printable("a\nb\u{1b}[2J\u{202e}"), "a\\nb\\u{1b}[2J\\u{202e}");
        assert_eq!(printable(&"ä".repeat(1_000)).chars().count(), CHARS_MAX);
    }
}
