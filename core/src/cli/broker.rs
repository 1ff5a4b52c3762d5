//! The one place where the program touches the broker itself: everything else it does, it does as a client.

use ringmain_core::config::{Address, Config};
use ringmain_core::failure::Failure as NodeFailure;
use ringmain_core::formation::StopFlag;
use ringmain_core::identity::Identity;
use ringmain_core::node::{Node, Stopper};

use super::Failure;

/// A node that runs in this process.
pub(crate) struct Broker {
    node: Node,
    identity: Identity,
    addresses: Vec<Address>,
}

impl Broker {
    /// Returns once every shard serves.
    pub(crate) fn start(config: &Config) -> Result<Self, Failure> {
        Self::around(Node::start(config).map_err(Failure::told)?, config)
    }

    /// As [`Broker::start`]; none if the flag ended the wait for the other nodes of the cluster.
    pub(crate) fn start_unless(stop: &StopFlag, config: &Config) -> Result<Option<Self>, Failure> {
        match Node::start_unless(stop, config) {
            Ok(node) => Self::around(node, config).map(Some),
            Err(NodeFailure::Stopped) => Ok(None),
            Err(failure) => Err(Failure::told(failure)),
        }
    }

    fn around(node: Node, config: &Config) -> Result<Self, Failure> {
        let identity = Identity::read(&config.data).map_err(Failure::told)?;
        let host = &config.listen.host;
        let address = |port: &u16| Address { host: host.clone(), port: *port };
        let addresses = node.ports().iter().map(address).collect();
        Ok(Self { node, identity, addresses })
    }

    /// Where the shards listen, by shard.
    pub(crate) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Ends the broker from another thread.
    pub(crate) fn stopper(&self) -> Stopper {
        self.node.stopper()
    }

    /// Waits until the broker has been stopped, or cannot go on.
    pub(crate) fn join(self) -> Result<(), Failure> {
        self.node.join().map_err(Failure::told)
    }

    /// Ends at once, as if the process had died.
    pub(crate) fn kill(self) {
        self.node.kill();
    }
}
