//! Where the demo's broker lives: a data directory and a run of loopback ports, both the same before and after the kill.

use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ringmain_core::config::{Address, Config};
use tempfile::TempDir;

use crate::cli::Failure;

/// Ports from here on are for everybody.
const PORT_LEAST: u16 = 10_240;
/// The system's own choices begin here unless it says otherwise.
const PORT_EPHEMERAL: u16 = 32_768;

pub(super) struct Site {
    config: Config,
    shards: u32,
    /// Removed with everything in it when the demo ends, unless a person asked for a directory.
    _temporary: Option<TempDir>,
}

impl Site {
    pub(super) fn open(data: Option<PathBuf>, shards: u32) -> Result<Self, Failure> {
        let (path, temporary) = match data {
            Some(path) => (path, None),
            None => {
                let directory = temporary_directory()?;
                (directory.path().to_owned(), Some(directory))
            }
        };
        let listen = Address { host: Ipv4Addr::LOCALHOST.to_string(), port: free_ports(shards)? };
        let mut config = Config::new(1, path, listen);
        config.shards = Some(shards);
        let config = config.checked().map_err(Failure::told)?;
        Ok(Self { config, shards, _temporary: temporary })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Every shard's address.
    pub(super) fn addresses(&self) -> Vec<Address> {
        let Address { host, port } = &self.config.listen;
        let shards = u16::try_from(self.shards).expect("free_ports has found so many ports");
        (0..shards).map(|shard| Address { host: host.clone(), port: port + shard }).collect()
    }
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
        let site = Site::open(None, 2).unwrap();
        let path = site.config().data.clone();
        assert!(path.is_dir());
        assert_eq!(site.addresses()[1].port, site.addresses()[0].port + 1);
        drop(site);
        assert!(!path.exists());
    }
}
