//! A node: one process's data directory, its shards' threads, and the way to end them.
//!
//! Lives on the thread of whoever starts it; it shares nothing with the shards but their command channels.

mod descriptors;

use crate::config::{Config, Limits};
use crate::failure::Failure;
use crate::formation::{self, Founder, StopFlag};
use crate::identity::DataDirectory;
use crate::member::Member;
use crate::runtime::{Command, Launch, ShardThread, launch};
use crate::shard::{Address, ShardOptions};
use ringmain_net::socket::{BindError, Listener};
use ringmain_wal::disk::preflight;
use ringmain_wal::{GroupId, Identity, LogOptions};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// How long the port of a process that is just gone is waited for.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(2);
const PORT_ASKED_EVERY: Duration = Duration::from_millis(5);

/// A running node. Dropping it leaves the shards running: end it with [`Node::stop`] or [`Node::kill`].
pub struct Node {
    shards: Vec<ShardThread>,
    /// Told by each shard that is over.
    over: flume::Receiver<()>,
    addresses: Vec<Address>,
    /// Held for its lock.
    _directory: DataDirectory,
}

impl Node {
    /// Opens the data directory, recovers every shard and serves. Returns once all shards serve. A directory that is part of
    /// no cluster yet waits here until all nodes that the configuration lists are there.
    pub fn start(config: &Config) -> Result<Self, Failure> {
        Self::start_unless(&StopFlag::default(), config)
    }

    /// As [`Node::start`]; the flag ends the wait for the other nodes, and [`Failure::Stopped`] says that it has.
    pub fn start_unless(stop: &StopFlag, config: &Config) -> Result<Self, Failure> {
        let cpus = affinity::get_thread_affinity().unwrap_or_default();
        let cores = cpus.len().max(1) as u32;
        let mut directory = DataDirectory::open(config, cores).map_err(Failure::Identity)?;
        formation::form(&mut directory, config, stop)?;
        let connections_max = descriptors::connections_max(config, directory.identity().shards)?;
        let listeners = listen(config, directory.identity().shards)?;
        let addresses = addresses(config, &listeners);
        for warning in preflight(directory.path())? {
            eprintln!("{warning}");
        }
        let mut started = Vec::new();
        let (ended, over) = flume::bounded(listeners.len());
        let mut node = Self { shards: Vec::new(), over, addresses, _directory: directory };
        for (shard, listener) in listeners.into_iter().enumerate() {
            let shard = shard as u32;
            let (ready, outcome) = flume::bounded(1);
            let start = Launch {
                options: node.shard_options(config, shard, connections_max),
                directory: node._directory.shard_path(shard),
                listener,
                cpu: cpus.get((shard % cores) as usize).copied(),
                is_spinning: config.spin,
                ready,
                ended: ended.clone(),
            };
            node.shards.push(launch(start)?);
            started.push(outcome);
        }
        for started in started {
            // A shard that panics says nothing, but its end of the channel goes with it.
            let outcome =
                started.recv().unwrap_or(Err(Failure::Runtime { why: "it did not start".to_owned() }));
            if let Err(failure) = outcome {
                node.kill();
                return Err(failure);
            }
        }
        Ok(node)
    }

    /// Where the shards listen, by shard index.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Stops accepting, finishes what was admitted, and ends.
    pub fn stop(self) -> Result<(), Failure> {
        self.end(Command::Stop)
    }

    /// Ends as if the process had died: what is not durable yet is not made durable, nothing is answered.
    pub fn kill(self) {
        // Whatever a shard says when it is cut down is of no interest.
        let _ = self.end(Command::Kill);
    }

    /// Waits until a shard ends by itself, which only a failure makes it do, and answers why.
    pub fn join(self) -> Result<(), Failure> {
        self.finish()
    }

    /// Asks every shard to finish; `join` then returns when they have.
    pub fn stopper(&self) -> Stopper {
        Stopper { commands: self.shards.iter().map(|shard| shard.commands.clone()).collect() }
    }

    fn end(self, command: Command) -> Result<(), Failure> {
        self.stopper().send(command);
        self.finish()
    }

    fn finish(mut self) -> Result<(), Failure> {
        // One shard without the others is no node: the first one that is over, whichever, takes them along.
        let _ = self.over.recv();
        self.stopper().send(Command::Stop);
        let mut outcome = Ok(());
        for shard in self.shards.drain(..) {
            outcome = outcome.and(shard.join());
        }
        outcome
    }

    fn shard_options(&self, config: &Config, shard: u32, connections_max: u32) -> ShardOptions {
        let identity = self._directory.identity();
        let limits = Limits { connections_max, ..config.limits.clone() };
        let identity = Identity {
            cluster: identity.cluster,
            node: identity.node,
            shard,
            incarnation: identity.incarnation,
        };
        ShardOptions {
            identity,
            log: LogOptions {
                segment_bytes: self._directory.identity().segment_bytes,
                writes_in_flight_max: limits.writes_in_flight_max,
                cache_bytes_max: limits.cache_bytes_max.0,
                ..LogOptions::new(identity)
            },
            limits,
            groups: self._directory.identity().layout().groups_of(shard).map(GroupId).collect(),
            addresses: self.addresses.clone(),
            founders: founders(&self._directory.identity().founders),
            layout: Some(self._directory.identity().layout()),
            seed: identity.cluster ^ u64::from(identity.node) << 32 ^ u64::from(shard),
        }
    }
}

fn founders(founders: &[Founder]) -> Vec<Member> {
    let member = |founder: &Founder| Member {
        node: founder.node,
        incarnation: founder.incarnation,
        address: Address { host: founder.address.host.clone(), port: founder.address.port },
    };
    founders.iter().map(member).collect()
}

/// Ends a node from another thread than the one that waits for it, on a signal for instance.
#[derive(Clone)]
pub struct Stopper {
    commands: Vec<flume::Sender<Command>>,
}

impl Stopper {
    /// Asks every shard to finish what was admitted and end.
    pub fn stop(&self) {
        self.send(Command::Stop);
    }

    fn send(&self, command: Command) {
        for commands in &self.commands {
            // A shard that is over, or was told eight times already, needs no other command.
            let _ = commands.try_send(command);
        }
    }
}

fn listen(config: &Config, shards: u32) -> Result<Vec<Listener>, Failure> {
    (0..shards)
        .map(|shard| {
            let port = if config.listen.port == 0 { 0 } else { config.listen.port + shard as u16 };
            let address = resolve(config, port)?;
            when_free(|| Listener::bind(address))
        })
        .collect()
}

/// The port of the first shard, before there is a shard.
pub(crate) fn listen_before_shards(config: &Config) -> Result<TcpListener, Failure> {
    let address = resolve(config, config.listen.port)?;
    when_free(|| TcpListener::bind(address).map_err(|source| BindError { address, source }))
}

fn resolve(config: &Config, port: u16) -> Result<SocketAddr, Failure> {
    let failure = |source| Failure::Listen { host: config.listen.host.clone(), port, source };
    let mut candidates = (config.listen.host.as_str(), port).to_socket_addrs().map_err(failure)?;
    candidates.next().ok_or_else(|| failure(io::ErrorKind::NotFound.into()))
}

/// The kernel takes the rings of a killed process apart after the process is gone, and only then its listeners: a node
/// that is started at once finds its port taken for some more milliseconds.
fn when_free<T>(bind: impl Fn() -> Result<T, BindError>) -> Result<T, Failure> {
    let deadline = Instant::now() + PORT_FREE_WITHIN;
    loop {
        match bind() {
            Err(error) if error.source.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(PORT_ASKED_EVERY);
            }
            bound => return bound.map_err(Failure::Bind),
        }
    }
}

fn addresses(config: &Config, listeners: &[Listener]) -> Vec<Address> {
    let address =
        |listener: &Listener| Address { host: config.advertise.clone(), port: listener.local_addr().port() };
    listeners.iter().map(address).collect()
}

#[cfg(test)]
mod tests;
