//! How a client is set up; the same for both kinds.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use ringmain_net::protocol::AGENT_BYTES_MAX;

use crate::error::Error;

/// What a waiting thread does with its time.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum IdleStrategy {
    /// Polls without a pause: the lowest latency, a whole core. For a thread with a core of its own.
    Spin,
    /// Polls, and lets other threads run in between.
    Yield,
    /// Sleeps in the kernel until a socket has something to say: no load, some tens of microseconds to wake.
    #[default]
    Park,
}

/// A host and a port, as given or as a shard announced it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Address { text: text.to_owned() };
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port: u16 = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || port == 0 {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }

    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>, Error> {
        text.split(',').map(Self::parse).collect()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) addresses: Vec<Address>,
    pub(crate) cluster: u64,
    pub(crate) agent: String,
    pub(crate) idle: IdleStrategy,
    /// For dialling and for the answer to the hello.
    pub(crate) connect_timeout: Duration,
    /// For calls that wait.
    pub(crate) call_timeout: Duration,
    /// Nothing heard for so long: ping.
    pub(crate) ping_after: Duration,
    /// Nothing heard for so long: the connection is dead.
    pub(crate) silence_max: Duration,
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
    pub(crate) window_frames: u32,
    pub(crate) window_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            cluster: 0,
            agent: concat!("ringmain-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            idle: IdleStrategy::default(),
            connect_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(10),
            ping_after: Duration::from_millis(500),
            silence_max: Duration::from_millis(1500),
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_secs(1),
            window_frames: 4096,
            window_bytes: 16 << 20,
        }
    }
}

/// Sets up a client: `blocking::Client::builder()` or `asynchronous::Client::builder()`, then `connect`.
#[derive(Clone, Debug)]
pub struct Builder<C> {
    pub(crate) options: Options,
    client: PhantomData<fn() -> C>,
}

impl<C> Builder<C> {
    pub(crate) fn new() -> Self {
        Self { options: Options::default(), client: PhantomData }
    }

    /// Connects only to the cluster with this number; 0, the default: to any.
    #[must_use]
    pub fn cluster(mut self, cluster: u64) -> Self {
        self.options.cluster = cluster;
        self
    }

    /// How this program calls itself in the broker's log; at most 64 bytes.
    #[must_use]
    pub fn agent(mut self, agent: &str) -> Self {
        agent.clone_into(&mut self.options.agent);
        self
    }

    /// How long dialling, and then the broker's welcome, may take each; default 3 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long calls wait that have no deadline of their own; default 10 s.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.options.call_timeout = timeout;
        self
    }

    /// A connection that is silent for `ping_after` (default 500 ms) is asked whether it lives; one that is silent for
    /// `silence_max` (default 1500 ms) is given up and replaced. A process that stopped, or a network that swallows
    /// everything, is so noticed within `silence_max`; a process that died is noticed at once, by its operating system.
    ///
    /// The default is short because a silent leader holds up everything that goes to it, and long enough for a lost
    /// packet to be sent again a few times, or for a busy machine to pause, without a change of place that nobody
    /// needs. It costs two frames of 24 bytes each half second, and only while a connection has nothing else to say.
    #[must_use]
    pub fn heartbeat(mut self, ping_after: Duration, silence_max: Duration) -> Self {
        self.options.ping_after = ping_after;
        self.options.silence_max = silence_max;
        self
    }

    /// Pauses between tries to reach an address that does not answer, and before a refused request is made again: the first is `min` (default 10 ms), each further one twice as long up to
    /// `max` (default 1 s), all of them with some chance in it. While a group elects a leader its nodes are asked at
    /// shorter pauses of their own, up to some 20 ms.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.options.retry_min = min;
        self.options.retry_max = max;
        self
    }

    /// Limits for each producer: publishes (default 4096, and never more than the broker allows) and bytes (default
    /// 16 MiB) that have no receipt yet, the receipts not fetched yet included. Beyond them `offer` says `Full`.
    #[must_use]
    pub fn window(mut self, publishes: u32, bytes: usize) -> Self {
        self.options.window_frames = publishes;
        self.options.window_bytes = bytes;
        self
    }

    /// The options with the addresses, checked.
    pub(crate) fn finish(mut self, addresses: &str) -> Result<Options, Error> {
        self.options.addresses = Address::parse_list(addresses)?;
        let options = &self.options;
        if options.agent.len() > AGENT_BYTES_MAX as usize {
            return Err(Error::Setting { what: "the agent has more than 64 bytes" });
        }
        if options.window_frames == 0 || options.window_bytes == 0 {
            return Err(Error::Setting { what: "a window of nothing lets nothing through" });
        }
        if options.ping_after >= options.silence_max {
            return Err(Error::Setting { what: "a ping must be sent before the connection is given up" });
        }
        if options.retry_min > options.retry_max {
            return Err(Error::Setting { what: "the shortest pause is longer than the longest" });
        }
        Ok(self.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        let parsed = Address::parse_list("node1:7400, 10.0.0.1:7401,[::1]:7402").unwrap();
        let shown: Vec<_> = parsed.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["node1:7400", "10.0.0.1:7401", "[::1]:7402"]);
        for wrong in ["", "node1", "node1:", ":7400", "node1:70000", "node1:0", "a:1,,b:2"] {
            assert!(matches!(Address::parse_list(wrong), Err(Error::Address { .. })), "{wrong}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let builder = Builder::<()>::new;
        assert!(builder().finish("a:1").is_ok());
        assert!(builder().window(0, 1).finish("a:1").is_err());
        assert!(builder().agent(&"x".repeat(65)).finish("a:1").is_err());
        let second = Duration::from_secs(1);
        assert!(builder().heartbeat(second, second).finish("a:1").is_err());
        assert!(builder().backoff(second, Duration::ZERO).finish("a:1").is_err());
    }
}
