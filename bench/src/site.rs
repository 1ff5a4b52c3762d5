//! Where a node is measured: one that is running already, or one that is started for it and ended behind it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::machine::{Cores, Machine, Placement};
use crate::node::{Node, Start};
use crate::publisher::{Access, Idle};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// A running node; without it one is started with one shard on a core of its own
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,

    /// Directory on the disk to be measured; what is put there is deleted at the end
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data: PathBuf,

    /// The program that is started as a node [default: `ringmain` beside this program]
    #[arg(long, value_name = "PROGRAM")]
    server: Option<PathBuf>,

    /// Start the node with --spin
    #[arg(long)]
    pub(crate) spin: bool,

    /// What the publishing thread does while it waits
    #[arg(long, value_enum, default_value_t = Idle::Park)]
    idle: Idle,

    #[command(flatten)]
    placement: Placement,
}

impl Options {
    /// The disk to be measured.
    pub(crate) fn disk(&self) -> &Path {
        &self.data
    }

    pub(crate) fn directory(&self, what: &str) -> PathBuf {
        directory_on(&self.data, what)
    }

    /// How clients reach what listens at these addresses.
    pub(crate) fn access(&self, addresses: String, cores: Cores) -> Access {
        Access { addresses, core: cores.client, idle: self.idle }
    }

    pub(crate) fn server(&self) -> Result<PathBuf> {
        self.server.clone().map_or_else(beside_this_program, Ok)
    }
}

/// Where data of this process may lie; `what` tells it from other data of it.
pub(crate) fn directory_on(disk: &Path, what: &str) -> PathBuf {
    disk.join(format!("ringmain-bench-{}-{what}", std::process::id()))
}

pub(crate) struct Site {
    machine: Machine,
    idle: Idle,
    place: Place,
}

enum Place {
    Elsewhere {
        address: String,
    },
    /// The data is deleted with the site.
    Here {
        start: Start,
        node: Option<Node>,
    },
}

impl Site {
    pub(crate) fn open(options: &Options) -> Result<Self> {
        let machine = Machine::prepare(&options.placement, &options.data)?;
        let place = match &options.connect {
            Some(address) => Place::Elsewhere { address: address.clone() },
            None => {
                let start = Start {
                    server: options.server()?,
                    data: options.directory("node"),
                    id: 1,
                    listen: "127.0.0.1:0".to_owned(),
                    peers: None,
                    cores: vec![machine.cores.server],
                    spin: options.spin,
                };
                Place::Here { start, node: None }
            }
        };
        let mut site = Self { machine, idle: options.idle, place };
        site.start()?;
        Ok(site)
    }

    /// Starts the node on what data there is; says how long that took.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let Place::Here { start, node } = &mut self.place else { return Ok(Duration::ZERO) };
        let started = std::time::Instant::now();
        *node = Some(Node::start(start)?);
        Ok(started.elapsed())
    }

    /// Ends the node as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Place::Here { node, .. } = &mut self.place {
            *node = None;
        }
    }

    /// A node without data in place of this one.
    pub(crate) fn renew(&mut self) -> Result<()> {
        self.close()?;
        if let Some(directory) = self.directory() {
            std::fs::remove_dir_all(directory).doing(|| format!("deleting {}", directory.display()))?;
        }
        self.start().map(|_| ())
    }

    pub(crate) fn cores(&self) -> Cores {
        self.machine.cores
    }

    /// How its clients reach it.
    pub(crate) fn access(&self) -> Access {
        Access { addresses: self.address().to_owned(), core: self.cores().client, idle: self.idle }
    }

    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        self.machine.facts()
    }

    fn address(&self) -> &str {
        match &self.place {
            Place::Elsewhere { address } => address,
            Place::Here { node, .. } => node.as_ref().map_or("", Node::address),
        }
    }

    /// The node as a process, if it is one of ours.
    pub(crate) fn node(&self) -> Option<&Node> {
        match &self.place {
            Place::Elsewhere { .. } => None,
            Place::Here { node, .. } => node.as_ref(),
        }
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Elsewhere { .. } => None,
            Place::Here { start, .. } => Some(&start.data),
        }
    }

    /// Ends the node in good order.
    pub(crate) fn close(&mut self) -> Result<()> {
        let Place::Here { node, .. } = &mut self.place else { return Ok(()) };
        node.take().map_or(Ok(()), Node::stop)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
        if let Some(directory) = self.directory() {
            // What cannot be deleted is still there for the user to see.
            let _ = std::fs::remove_dir_all(directory);
            let _ = std::fs::remove_file(directory.with_extension("log"));
        }
    }
}

fn beside_this_program() -> Result<PathBuf> {
    let doing = || "looking for the program `ringmain`".to_owned();
    let path = std::env::current_exe().doing(doing)?.with_file_name("ringmain");
    if path.exists() {
        return Ok(path);
    }
    Err(Error::new(doing(), format!("{} does not exist: build it, or say --server", path.display())))
}
