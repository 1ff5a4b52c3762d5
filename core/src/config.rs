//! What a node is told, once, at its start: a TOML file or the command line becomes a [`Config`] that cannot be wrong, and
//! nothing behind it checks again. Unknown keys are errors: a misspelt limit that is ignored is worse than none.

mod limits;
mod nodes;
mod quantity;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

#[cfg(test)]
pub(crate) use limits::STRANGERS_MAX;
pub(crate) use limits::{CUT_MAX, DIALS_MAX, PEERS_MAX};
pub use limits::{Limits, MESSAGE_BYTES_MAX_MOST};
pub(crate) use nodes::host_is_plain;
pub use nodes::{Advertised, NODES_MAX};
pub use quantity::{Bytes, Period};

/// A node runs one thread per shard and shards share nothing; more than the cores of the largest machines serve nobody.
pub const SHARDS_MAX: u32 = 1024;

/// The port that a client dials when it is told none.
pub const PORT_DEFAULT: u16 = 7411;

/// One node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least 1: 0 means "no node" everywhere.
    pub node: u32,
    /// The directory that holds everything the node must not forget.
    pub data: PathBuf,
    /// Shard `i` listens on `listen.port + i`.
    pub listen: Address,
    /// Where clients are told to dial, and other nodes dial.
    pub advertise: Advertised,
    /// The other nodes of the cluster; see [`Config::list_nodes`].
    pub peers: Vec<Peer>,
    /// `None`: as many as the data directory has, or one for every core when it is new.
    pub shards: Option<u32>,
    /// Shards poll without sleeping: lower latency, a whole core each.
    pub spin: bool,
    pub limits: Limits,
}

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

/// A node of the cluster: its id and the address of its first shard. Shard `i` is at the port `i` further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: u32,
    pub address: Address,
}

/// Why a configuration is refused, with the place where it stands.
#[derive(Debug)]
pub enum ConfigError {
    Unreadable { path: PathBuf, source: std::io::Error },
    Malformed { path: PathBuf, why: String },
    Refused { why: String },
}

/// The configuration file as it is written; see [`Config`] for what each key means.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    node: u32,
    data: PathBuf,
    listen: String,
    advertise: Option<String>,
    shards: Option<u32>,
    #[serde(default)]
    spin: bool,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    nodes: Vec<Listed>,
}

/// One `[[nodes]]` of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    id: u32,
    address: String,
}

impl Config {
    /// The configuration of a node that is told only what it must be told.
    pub fn new(node: u32, data: PathBuf, listen: Address) -> Self {
        let advertise = Advertised::from_listening(&listen.host);
        let limits = Limits::default();
        Self { node, data, listen, advertise, peers: Vec::new(), shards: None, spin: false, limits }
    }

    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|why| ConfigError::Malformed { path: path.to_owned(), why })
    }

    /// What the text of a file says, or what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let listen: Address = document.listen.parse().map_err(|why| format!("listen: {why}"))?;
        let advertise: Option<Advertised> = document
            .advertise
            .map(|text| text.parse())
            .transpose()
            .map_err(|why| format!("advertise: {why}"))?;
        let mut config = Self {
            shards: document.shards,
            spin: document.spin,
            limits: document.limits,
            ..Self::new(document.node, document.data, listen)
        };
        let node = |Listed { id, address }: Listed| {
            let address = address.parse().map_err(|why| format!("nodes: node {id}: {why}"))?;
            Ok(Peer { node: id, address })
        };
        let nodes = document.nodes.into_iter().map(node).collect::<Result<_, String>>()?;
        config.advertise_among(advertise, nodes)?;
        config.refusal().map_or(Ok(config), Err)
    }

    /// What the command line has put together is held to the same rules as a file.
    pub fn checked(self) -> Result<Self, ConfigError> {
        match self.refusal() {
            Some(why) => Err(ConfigError::Refused { why }),
            None => Ok(self),
        }
    }

    fn refusal(&self) -> Option<String> {
        if self.node == 0 {
            return Some("node is 0, and must be at least 1".to_owned());
        }
        if self.data.as_os_str().is_empty() {
            return Some("data is empty, and must name a directory".to_owned());
        }
        if let Some(shards) = self.shards {
            if shards == 0 || shards > SHARDS_MAX {
                return Some(format!("shards is {shards}, and must be between 1 and {SHARDS_MAX}"));
            }
            if let Some(refusal) = self.port_refusal(shards) {
                return Some(refusal);
            }
        }
        if let Some(refusal) = self.advertise_refusal() {
            return Some(refusal);
        }
        if let Some(refusal) = self.nodes_refusal() {
            return Some(refusal);
        }
        self.limits.refusal().map(|why| format!("limits: {why}"))
    }

    /// Each shard has a port of its own, counted from the base port; port 0 lets the system choose each of them.
    pub fn port_refusal(&self, shards: u32) -> Option<String> {
        let refusal = |place: &str, port: u16| {
            let (first, last) = (u32::from(port), u32::from(port) + shards - 1);
            let runs_over = first != 0 && last > u32::from(u16::MAX);
            runs_over.then(|| {
                format!("{place}: {shards} shards need the ports {first} to {last}, and ports end at 65535")
            })
        };
        let of_peer = |peer: &Peer| refusal(&format!("nodes: node {}", peer.node), peer.address.port);
        refusal("listen", self.listen.port)
            .or_else(|| refusal("advertise", self.advertise.port.unwrap_or(0)))
            .or_else(|| self.peers.iter().find_map(of_peer))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal =
            || format!("`{text}` is no address: write HOST:PORT, for example 127.0.0.1:{PORT_DEFAULT}");
        let (host, port) = text.rsplit_once(':').ok_or_else(refusal)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        // An IPv6 address without brackets has swallowed its port.
        if host.is_empty()
            || (bracketed.is_none() && host.contains(':'))
            || host.contains(char::is_whitespace)
        {
            return Err(refusal());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| refusal())? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal =
            || format!("`{text}` is no node: write ID=HOST:PORT, for example 2=10.0.0.2:{PORT_DEFAULT}");
        let (node, address) = text.split_once('=').ok_or_else(refusal)?;
        let node = node.parse().ok().filter(|node| *node != 0).ok_or_else(refusal)?;
        Ok(Self { node, address: address.parse()? })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.node, self.address)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(formatter, "{}: cannot be read: {source}", path.display())
            }
            Self::Malformed { path, why } => write!(formatter, "{}: {why}", path.display()),
            Self::Refused { why } => formatter.write_str(why),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "node = 1\ndata = \"/var/lib/ringmain\"\nlisten = \"0.0.0.0:7411\"\n";

    fn refused(addition: &str, fragment: &str) {
        let why = Config::parse(&format!("{LEAST}{addition}")).unwrap_err();
        assert!(why.contains(fragment), "{addition:?} was refused with {why:?}");
    }

    #[test]
    fn three_keys_make_a_node() {
        let config = Config::parse(LEAST).unwrap();
        let listen = Address { host: "0.0.0.0".to_owned(), port: 7411 };
        assert_eq!(config, Config::new(1, "/var/lib/ringmain".into(), listen));
        assert_eq!(config.advertise, Advertised::default());
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            node = 3
            data = "d"
            listen = "[::1]:9000"
            advertise = "mq3.example"
            shards = 4
            spin = true
            [limits]
            message_bytes_max = "2MiB"
            connections_max = 10
            segment_bytes = 134217728
            hello_timeout = "2s"
            [[nodes]]
            id = 1
            address = "mq1.example:9000"
            [[nodes]]
            id = 2
            address = "10.0.0.2:9000"
        "#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.listen.to_string(), "[::1]:9000");
        assert_eq!(config.advertise.to_string(), "mq3.example");
        let nodes: Vec<String> = config.nodes().iter().map(ToString::to_string).collect();
        assert_eq!(nodes, ["1=mq1.example:9000", "2=10.0.0.2:9000", "3=mq3.example:9000"]);
        assert_eq!((config.shards, config.spin), (Some(4), true));
        assert_eq!(config.limits.message_bytes_max, Bytes(2 << 20));
        assert_eq!(config.limits.segment_bytes, Bytes(128 << 20));
        assert_eq!(config.limits.connections_max, 10);
        assert_eq!(config.limits.messages_max, Limits::default().messages_max);
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it() {
        refused("shard = 4", "unknown field `shard`");
        refused("[limits]\nqueue_max = 10", "unknown field `queue_max`");
    }

    #[test]
    fn what_cannot_hold_is_refused_in_plain_words() {
        refused("shards = 0", "shards is 0");
        refused("shards = 2000", "between 1 and 1024");
        refused("advertise = \"my host\"", "advertise is \"my host\", which is no host");
        refused("advertise = \"h:70000\"", "advertise: `h:70000` is no host, and no HOST:PORT");
        refused("advertise = \"h:65535\"\nshards = 2", "advertise: 2 shards need the ports 65535 to 65536");
        refused("peers = [\"2=h:1\"]", "unknown field `peers`");
        refused("[[nodes]]\nid = 2\naddress = \"h\"", "nodes: node 2: `h` is no address");
        refused("advertise = \"h\"\n[[nodes]]\nid = 0\naddress = \"h:1\"", "an id is 0");
        refused(
            "advertise = \"h\"\n[[nodes]]\nid = 1\naddress = \"i:7411\"",
            "advertise is h, and the list of nodes says that this one is at i:7411",
        );
        refused("[limits]\nsegment_bytes = \"64\"", "segment_bytes is 64 B");
        refused("[limits]\nsegment_bytes = -1", "not negative");
        refused("[limits]\nhello_timeout = 5", "hello_timeout");
        refused("[limits]\nhello_timeout = \"5\"", "is no length of time");
        refused("node = 2", "duplicate key");
    }

    #[test]
    fn ports_do_not_run_past_the_last_one() {
        let listen = Address { host: "h".to_owned(), port: 65_534 };
        let config = Config::new(1, "d".into(), listen);
        assert_eq!(config.port_refusal(2), None);
        assert!(config.port_refusal(3).unwrap().contains("listen: 3 shards need the ports 65534 to 65536"));
        let mut config = Config::new(1, "d".into(), Address { host: "h".to_owned(), port: 7411 });
        config.list_nodes(vec!["2=i:65535".parse().unwrap()]).unwrap();
        assert!(config.port_refusal(2).unwrap().starts_with("nodes: node 2: 2 shards need the ports 65535"));
    }

    #[test]
    fn addresses_are_host_and_port() {
        for text in ["localhost:1", "10.0.0.1:7411", "[::1]:7411"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["localhost", ":1", "h:", "h:65536", "::1:7411", "a b:1", ""] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = Config::load(Path::new("/nowhere/ringmain.toml")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/ringmain.toml: cannot be read"));
    }
}
