//! A node: one process's data directory, its shards' threads, and the way to end them.
//!
//! Lives on the thread of whoever starts it; it shares nothing with the shards but their command channels.

mod descriptors;

use crate::config::{Config, Limits};
use crate::failure::Failure;
use crate::formation::{self, ClusterLayout, Founder, State, StopFlag};
use crate::identity::DataDirectory;
use crate::member::Member;
use crate::runtime::{Command, Launch, News, ShardThread, launch};
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
    /// What the shards tell.
    news: flume::Receiver<News>,
    /// Where the shards are reached, by shard.
    addresses: Vec<Address>,
    /// On which they listen, by shard.
    ports: Vec<u16>,
    /// Its lock is held as long as the node lives.
    directory: DataDirectory,
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
        loop {
            formation::form(&mut directory, config, stop)?;
            let failure = match Self::launch(config, directory, &cpus) {
                Ok(node) => return Ok(node),
                Err((failure, rest)) => {
                    directory = *rest;
                    failure
                }
            };
            if !failure.is_rot() || !directory.is_spared() {
                return Err(failure);
            }
            quarantine(&mut directory, &failure)?;
        }
    }

    /// Starts every shard. The directory comes back with the failure.
    fn launch(
        config: &Config,
        directory: DataDirectory,
        cpus: &[usize],
    ) -> Result<Self, (Failure, Box<DataDirectory>)> {
        let prepared = Self::prepare(config, &directory);
        let (listeners, connections_max) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => return Err((failure, Box::new(directory))),
        };
        let cores = cpus.len().max(1) as u32;
        let (news, heard) = flume::bounded(2 * listeners.len());
        let addresses = addresses(config, &listeners);
        let ports = listeners.iter().map(|listener| listener.local_addr().port()).collect();
        let mut node = Self { shards: Vec::new(), news: heard, addresses, ports, directory };
        let mut started = Vec::new();
        let mut outcome = Ok(());
        for (shard, listener) in listeners.into_iter().enumerate() {
            let shard = shard as u32;
            let (ready, told) = flume::bounded(1);
            let start = Launch {
                options: node.shard_options(config, shard, connections_max),
                directory: node.directory.shard_path(shard),
                spared: node.directory.spared(shard),
                listener,
                cpu: cpus.get((shard % cores) as usize).copied(),
                is_spinning: config.spin,
                ready,
                news: news.clone(),
            };
            match launch(start) {
                Ok(thread) => node.shards.push(thread),
                Err(failure) => outcome = outcome.and(Err(failure)),
            }
            started.push(told);
        }
        for started in started {
            // A shard that panics says nothing, but its end of the channel goes with it.
            let not_started = || Err(Failure::Runtime { why: "it did not start".to_owned() });
            outcome = outcome.and(started.recv().unwrap_or_else(|_| not_started()));
        }
        match outcome {
            Ok(()) => Ok(node),
            Err(failure) => {
                node.stopper().send(Command::Kill);
                let directory = node.wind_up().1;
                Err((failure, Box::new(directory)))
            }
        }
    }

    fn prepare(config: &Config, directory: &DataDirectory) -> Result<(Vec<Listener>, u32), Failure> {
        let connections_max = descriptors::connections_max(config, directory.identity().shards)?;
        let listeners = listen(config, directory.identity().shards)?;
        for warning in preflight(directory.path())? {
            eprintln!("{warning}");
        }
        Ok((listeners, connections_max))
    }

    /// The ports that the shards listen on, by shard index.
    pub fn ports(&self) -> &[u16] {
        &self.ports
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

    fn finish(self) -> Result<(), Failure> {
        let (outcome, mut directory) = self.wind_up();
        if let Err(failure) = &outcome
            && failure.is_rot()
            && directory.is_spared()
        {
            quarantine(&mut directory, failure)?;
        }
        outcome
    }

    /// Waits until a shard is over, and ends the others with it.
    fn wind_up(mut self) -> (Result<(), Failure>, DataDirectory) {
        let mut joined = 0;
        let mut outcome = Ok(());
        while let Ok(news) = self.news.recv() {
            match news {
                // One shard without the others is no node: the first one that is over, whichever, takes them along.
                News::Over => break,
                News::Joined => {
                    joined += 1;
                    if joined == self.shards.len() {
                        outcome = outcome.and(self.settle());
                    }
                }
            }
        }
        self.stopper().send(Command::Stop);
        for shard in self.shards.drain(..) {
            outcome = outcome.and(shard.join());
        }
        (outcome, self.directory)
    }

    /// Every group has taken this node in.
    fn settle(&mut self) -> Result<(), Failure> {
        let layout = ClusterLayout { state: State::Formed, ..self.directory.identity().layout() };
        eprintln!("node {} is a member of the cluster", layout.node);
        self.directory.settle(&layout).map_err(Failure::Identity)
    }

    fn shard_options(&self, config: &Config, shard: u32, connections_max: u32) -> ShardOptions {
        let identity = self.directory.identity();
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
                segment_bytes: self.directory.identity().segment_bytes,
                writes_in_flight_max: limits.writes_in_flight_max,
                cache_bytes_max: limits.cache_bytes_max.0,
                ..LogOptions::new(identity)
            },
            limits,
            groups: self.directory.identity().layout().groups_of(shard).map(GroupId).collect(),
            addresses: self.addresses.clone(),
            founders: founders(&self.directory.identity().founders),
            layout: Some(self.directory.identity().layout()),
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

fn quarantine(directory: &mut DataDirectory, failure: &Failure) -> Result<(), Failure> {
    let aside = directory.quarantine().map_err(Failure::Identity)?;
    eprintln!("{failure}");
    eprintln!(
        "the log is set aside in {}: this node votes no more until the others have made it whole",
        aside.display()
    );
    Ok(())
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

/// Where the shards are reached, by shard.
fn addresses(config: &Config, listeners: &[Listener]) -> Vec<Address> {
    let address = |(shard, listener): (u16, &Listener)| Address {
        host: config.advertise.host.clone(),
        port: config.advertise.port.map_or_else(|| listener.local_addr().port(), |first| first + shard),
    };
    (0..).zip(listeners).map(address).collect()
}

#[cfg(test)]
mod tests;
