//! Where the demo's nodes live: a data directory for each and a run of loopback ports, the same before and after the kill.
//!
//! ```text
//! DIR                     the data directory of a demo with one node
//! DIR/node-1, DIR/node-2  those of a demo with several
//! ```

use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ringmain_core::config::{Address, Config, Peer};
use ringmain_core::identity::Identity;
use tempfile::TempDir;

use crate::cli::Failure;

/// Ports from here on are for everybody.
const PORT_LEAST: u16 = 10_240;
/// The system's own choices begin here unless it says otherwise.
const PORT_EPHEMERAL: u16 = 32_768;

pub(super) struct Site {
    /// One for each node, by id from 1.
    configs: Vec<Config>,
    path: PathBuf,
    /// Removed with everything in it when the demo ends, unless a person asked for a directory.
    _temporary: Option<TempDir>,
}

/// How large the demo is.
#[derive(Copy, Clone, Debug)]
pub(super) struct Size {
    pub(super) nodes: u32,
    /// Of each node.
    pub(super) shards: u32,
}

impl Site {
    pub(super) fn open(data: Option<PathBuf>, size: Size) -> Result<Self, Failure> {
        let (path, temporary) = match data {
            Some(path) => (path, None),
            None => {
                let directory = temporary_directory()?;
                (directory.path().to_owned(), Some(directory))
            }
        };
        let ports = match earlier_ports(&path, size)? {
            Some(ports) => ports,
            None => {
                let first = free_ports(size.nodes * size.shards)?;
                (0..size.nodes).map(|node| first + (node * size.shards) as u16).collect()
            }
        };
        let configs = configs(&path, size, &ports)?;
        Ok(Self { configs, path, _temporary: temporary })
    }

    pub(super) fn configs(&self) -> &[Config] {
        &self.configs
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where each node's first shard listens.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.configs.iter().map(|config| config.listen.clone()).collect()
    }
}

fn configs(path: &Path, size: Size, ports: &[u16]) -> Result<Vec<Config>, Failure> {
    assert_eq!(ports.len(), size.nodes as usize);
    let address = |port: u16| Address { host: Ipv4Addr::LOCALHOST.to_string(), port };
    let nodes = (1..).zip(ports).map(|(node, port)| Peer { node, address: address(*port) });
    let nodes: Vec<Peer> = nodes.collect();
    let config = |own: &Peer| {
        let mut config = Config::new(own.node, directory(path, own.node, size.nodes), own.address.clone());
        config.shards = Some(size.shards);
        if size.nodes > 1 {
            config.list_nodes(nodes.clone()).map_err(Failure::told)?;
        }
        config.checked().map_err(Failure::told)
    };
    nodes.iter().map(config).collect()
}

fn directory(path: &Path, node: u32, nodes: u32) -> PathBuf {
    if nodes == 1 { path.to_owned() } else { path.join(format!("node-{node}")) }
}

/// The ports of an earlier demo in this directory: its nodes know each other by them for good.
fn earlier_ports(path: &Path, size: Size) -> Result<Option<Vec<u16>>, Failure> {
    if size.nodes == 1 {
        // Nobody knows the port of a node alone.
        return Ok(None);
    }
    let other = |nodes: usize| {
        let nodes = if nodes == 1 { "one node".to_owned() } else { format!("{nodes} nodes") };
        Failure::told(format!("{} holds a demo with {nodes}: say so with --nodes", path.display()))
    };
    if path.join("identity.toml").exists() {
        return Err(other(1));
    }
    for node in 1..=size.nodes {
        let directory = directory(path, node, size.nodes);
        if !directory.join("identity.toml").exists() {
            continue;
        }
        let founders = Identity::read(&directory).map_err(Failure::told)?.founders;
        match founders.len() {
            0 => {}
            nodes if nodes == size.nodes as usize => {
                return Ok(Some(founders.iter().map(|founder| founder.address.port).collect()));
            }
            nodes => return Err(other(nodes)),
        }
    }
    Ok(None)
}

/// A new directory on a filesystem that takes direct writes; the one for temporary files is often in memory and does not.
fn temporary_directory() -> Result<TempDir, Failure> {
    let candidates = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
    let mut reasons = Vec::new();
    for candidate in candidates {
        let made = tempfile::Builder::new().prefix("ringmain-demo-").tempdir_in(&candidate);
        match made.and_then(|directory| takes_direct_writes(directory.path()).map(|()| directory)) {
            Ok(directory) => return Ok(directory),
            Err(error) => reasons.push(format!("{}: {error}", candidate.display())),
        }
    }
    let reasons = reasons.join("; ");
    Err(Failure::told(format!(
        "no temporary directory takes direct writes ({reasons}); name one on a disk with --data DIR"
    )))
}

fn takes_direct_writes(directory: &Path) -> std::io::Result<()> {
    let path = directory.join("probe");
    OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&path)?;
    fs::remove_file(&path)
}

/// The first of a run of free ports. They lie below those that the system gives to outgoing connections: while the broker is
/// down its ports belong to nobody, and a client that dials one of them must not be given that very port to dial from.
fn free_ports(count: u32) -> Result<u16, Failure> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ephemeral = range.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
    let end = ephemeral.filter(|first| *first > PORT_LEAST).unwrap_or(PORT_EPHEMERAL);
    let count = u16::try_from(count).ok().filter(|count| *count < end - PORT_LEAST);
    let Some(count) = count else {
        return Err(Failure::told("there are not so many ports"));
    };
    // Demos that run side by side start looking at different places.
    let places = u32::from(end - PORT_LEAST - count);
    let start = std::process::id() % places;
    let bases = (0..places).map(|step| PORT_LEAST + ((start + step) % places) as u16);
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut bases = bases.step_by(usize::from(count).max(1));
    bases
        .find(|base| (*base..base + count).all(free))
        .ok_or_else(|| Failure::told("no free ports on loopback"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_follow_each_other() {
        let base = free_ports(3).unwrap();
        assert!((PORT_LEAST..PORT_EPHEMERAL).contains(&base));
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, base + 1)).unwrap();
        let other = free_ports(3).unwrap();
        assert!(!(other..other + 3).contains(&(base + 1)));
        drop(held);
    }

    #[test]
    fn a_temporary_site_leaves_nothing_behind() {
        let site = Site::open(None, Size { nodes: 1, shards: 2 }).unwrap();
        let path = site.path().to_owned();
        assert_eq!(site.configs()[0].data, path);
        assert!(path.is_dir());
        drop(site);
        assert!(!path.exists());
    }

    #[test]
    fn nodes_list_each_other_and_share_no_port() {
        let directory = tempfile::tempdir().unwrap();
        let size = Size { nodes: 3, shards: 2 };
        let site = Site::open(Some(directory.path().to_owned()), size).unwrap();
        let ports: Vec<u16> = site.addresses().iter().map(|address| address.port).collect();
        assert_eq!(ports, [ports[0], ports[0] + 2, ports[0] + 4]);
        assert!(site.configs()[2].data.ends_with("node-3"));
        assert_eq!(site.configs()[0].nodes(), site.configs()[2].nodes());
    }

    #[test]
    fn an_earlier_demo_of_another_size_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("identity.toml"), "").unwrap();
        let size = Size { nodes: 3, shards: 1 };
        let refused = Site::open(Some(directory.path().to_owned()), size).err().unwrap();
        assert!(refused.to_string().ends_with("holds a demo with one node: say so with --nodes"));
    }
}
