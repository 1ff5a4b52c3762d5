//! Owns the demo's nodes: starts them, kills the one that leads and starts it again when told, and stops them when there is
//! nobody left to tell.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError};
use ringmain_client::blocking::Client;
use ringmain_core::config::{Address, Config};
use ringmain_core::formation::StopFlag;

use super::site::Site;
use super::stage::{Happening, Stage};
use super::standing;
use super::telemetry::Topic;
use crate::cli::Failure;
use crate::cli::broker::Broker;
use crate::cli::link;

const LOOK_PERIOD: Duration = Duration::from_millis(10);
/// Without a leader for so long there is nobody to kill.
const LEADER_WITHIN: Duration = Duration::from_secs(10);

/// What the director has the keeper do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    KillLeader,
    Restart,
}

pub(super) struct Keeper {
    configs: Vec<Config>,
    /// By id from 1; none while it is killed.
    brokers: Vec<Option<Broker>>,
}

impl Keeper {
    /// Returns once every node serves. They form their cluster like any other nodes, each from its own configuration.
    pub(super) fn start(site: &Site, interrupted: &AtomicBool) -> Result<Self, Failure> {
        let configs = site.configs().to_vec();
        let flags: Vec<StopFlag> = configs.iter().map(|_| StopFlag::default()).collect();
        let (sender, outcomes) = flume::bounded(configs.len());
        for (config, flag) in configs.iter().cloned().zip(flags.iter().cloned()) {
            let sender = sender.clone();
            thread::spawn(move || {
                take_cores(&config);
                // Whoever started this thread waits for what it says.
                let _ = sender.send((config.node, Broker::start_unless(&flag, &config)));
            });
        }
        drop(sender);
        let mut brokers: Vec<Option<Broker>> = configs.iter().map(|_| None).collect();
        let mut failure = None;
        loop {
            match outcomes.recv_timeout(LOOK_PERIOD) {
                Ok((node, Ok(broker))) => brokers[node as usize - 1] = broker,
                Ok((node, Err(why))) => {
                    failure.get_or_insert_with(|| Failure::told(format!("node {node}: {why}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // The others would wait for it for ever. One that does not wait yet is stopped as soon as it does.
            if failure.is_some() || interrupted.load(Ordering::Relaxed) {
                flags.iter().for_each(|flag| _ = flag.stop());
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None if brokers.iter().any(Option::is_none) => Err(Failure::told("interrupted before it began")),
            None => Ok(Self { configs, brokers }),
        }
    }

    /// Carries out orders until nobody can give any. `groups` are those of `Topic::ALL`.
    pub(super) fn keep(
        mut self,
        stage: &Stage,
        addresses: &[Address],
        groups: &[u32],
        orders: &Receiver<Order>,
    ) -> Result<(), Failure> {
        let outcome = link::dial_often(addresses).and_then(|client| {
            let mut killed = None;
            while let Ok(order) = orders.recv() {
                match order {
                    Order::KillLeader => killed = Some(self.kill_leader(stage, &client, groups)?),
                    Order::Restart => {
                        self.restart(stage, killed.expect("a node is killed before it is restarted"))?
                    }
                }
            }
            Ok(())
        });
        if let Err(failure) = outcome {
            stage.tell(Happening::Failed(failure.to_string()));
        }
        self.stop()
    }

    /// Answers the place of the node that it was.
    fn kill_leader(&mut self, stage: &Stage, client: &Client, groups: &[u32]) -> Result<usize, Failure> {
        let (node, leads) = self.leader(stage, client, groups)?;
        let place = node as usize - 1;
        let broker = self.brokers.get_mut(place).and_then(Option::take);
        let broker =
            broker.ok_or_else(|| Failure::told(format!("node {node} is said to lead, and is not here")))?;
        stage.tell(Happening::Killed { node, leads, at: stage.now() });
        broker.kill();
        stage.tell(Happening::Gone { at: stage.now() });
        Ok(place)
    }

    /// The node whose loss is felt most, and which queues it leads.
    fn leader(&self, stage: &Stage, client: &Client, groups: &[u32]) -> Result<(u32, Vec<Topic>), Failure> {
        if self.configs.len() == 1 {
            return Ok((1, Topic::ALL.to_vec()));
        }
        let deadline = Instant::now() + LEADER_WITHIN;
        while Instant::now() < deadline {
            let standing = standing::ask(client, stage, groups);
            if let Some(chief) = standing.as_ref().and_then(|standing| standing.chief()) {
                return Ok((chief.node, chief.leads.iter().map(|(topic, _)| *topic).collect()));
            }
            thread::sleep(LOOK_PERIOD);
        }
        Err(Failure::told("not every queue has a leader"))
    }

    fn restart(&mut self, stage: &Stage, place: usize) -> Result<(), Failure> {
        let config = &self.configs[place];
        stage.tell(Happening::Restarting { at: stage.now() });
        let started = thread::scope(|scope| {
            let starting = scope.spawn(|| {
                take_cores(config);
                Broker::start(config)
            });
            starting.join().expect("starting a broker does not panic")
        });
        let again = |why| Failure::told(format!("node {} does not start again: {why}", config.node));
        self.brokers[place] = Some(started.map_err(again)?);
        stage.tell(Happening::Restarted { at: stage.now() });
        Ok(())
    }

    fn stop(self) -> Result<(), Failure> {
        let is_alone = self.configs.len() == 1;
        for broker in self.brokers.into_iter().flatten() {
            if is_alone {
                broker.stopper().stop();
                broker.join()?;
            } else {
                // In good order each would hand over to the others, one after the other and at last to nobody.
                broker.kill();
            }
        }
        Ok(())
    }
}

/// Nodes pin their shards to the cores that they may use, from the first on. Those of one process would all take the same,
/// so each node of a cluster is started where it sees only its share.
fn take_cores(config: &Config) {
    let (Ok(cores), Some(shards)) = (affinity::get_thread_affinity(), config.shards) else { return };
    if config.peers.is_empty() || cores.is_empty() {
        return;
    }
    let first = (config.node - 1) * shards;
    let mut share: Vec<usize> =
        (first..first + shards).map(|place| cores[place as usize % cores.len()]).collect();
    share.sort_unstable();
    share.dedup();
    // Worse placed is no reason not to go on.
    let _ = affinity::set_thread_affinity(share);
}
