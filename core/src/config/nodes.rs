//! The nodes of the cluster, as the configuration lists them. The list is what a new cluster is formed from: it must read
//! the same on every node of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Address, Config, Peer};

/// Nodes that one list may have. A majority of seven survives three losses; more nodes only make each write slower.
pub const NODES_MAX: usize = 7;
/// The longest host name that the wire carries.
const HOST_BYTES_MAX: usize = ringmain_net::protocol::NAME_BYTES_MAX as usize;

/// Where others reach a node, as far as that is not where it listens: `HOST`, or `HOST:PORT` where a port is mapped to it.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Empty: the host by which they came.
    pub host: String,
    /// Of the first shard; shard `i` is reached at the port `i` further. `None`: the ports that it listens on.
    pub port: Option<u16>,
}

impl Config {
    /// Takes what the node is told of its own place, and the list of nodes, which must not contradict it.
    pub fn advertise_among(&mut self, advertise: Option<Advertised>, nodes: Vec<Peer>) -> Result<(), String> {
        if let Some(advertise) = &advertise {
            self.advertise = advertise.clone();
        }
        self.list_nodes(nodes)?;
        match advertise {
            Some(advertise) if advertise != self.advertise => Err(format!(
                "advertise is {advertise}, and the list of nodes says that this one is at {}",
                self.own_address()
            )),
            _ => Ok(()),
        }
    }

    /// Lists the nodes of the cluster. This node may be among them, with the address that the others dial, or be left out.
    pub fn list_nodes(&mut self, nodes: Vec<Peer>) -> Result<(), String> {
        for (place, node) in nodes.iter().enumerate() {
            if nodes[..place].iter().any(|earlier| earlier.node == node.node) {
                return Err(format!("nodes: node {} stands there twice", node.node));
            }
        }
        let (own, peers): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.node == self.node);
        self.peers = peers;
        let Some(own) = own.into_iter().next() else {
            return Ok(());
        };
        let reached = self.own_address().port;
        if own.address.port != reached {
            let how = if self.advertise.port.is_some() { "it is advertised with" } else { "it listens on" };
            return Err(format!(
                "nodes: node {} is this node, and listed at {}; {how} port {reached}: where a port is mapped to it, \
                 advertise must say {}",
                own.node, own.address, own.address
            ));
        }
        self.advertise.host = own.address.host;
        Ok(())
    }

    /// Where the other nodes and the clients reach the first shard of this one. A node alone may not know: an empty host.
    pub fn own_address(&self) -> Address {
        Address { host: self.advertise.host.clone(), port: self.advertise.port.unwrap_or(self.listen.port) }
    }

    /// All nodes of the cluster, this one included, by id.
    pub fn nodes(&self) -> Vec<Peer> {
        let mut nodes = self.peers.clone();
        nodes.push(Peer { node: self.node, address: self.own_address() });
        nodes.sort_by_key(|node| node.node);
        nodes
    }

    pub(super) fn advertise_refusal(&self) -> Option<String> {
        if !host_is_plain(&self.advertise.host) {
            return Some(format!("advertise is {:?}, which is no host", self.advertise.host));
        }
        match self.advertise.port {
            Some(0) => Some("advertise names port 0, and nobody can dial that".to_owned()),
            Some(port) if self.listen.port == 0 => Some(format!(
                "advertise: port {port} cannot be mapped to ports that the system chooses; listen must name one"
            )),
            _ => None,
        }
    }

    pub(super) fn nodes_refusal(&self) -> Option<String> {
        if self.peers.is_empty() {
            return None;
        }
        if self.listen.port == 0 {
            return Some(
                "listen: a node of a cluster needs a fixed port, since the others dial it".to_owned(),
            );
        }
        if self.advertise.host.is_empty() {
            let (node, port) = (self.node, self.own_address().port);
            return Some(format!(
                "nodes: this node listens on every address and cannot tell by which the others reach it: \
                 list it too, as {node}=HOST:{port}"
            ));
        }
        let nodes = self.nodes();
        if nodes.len() > NODES_MAX {
            return Some(format!("nodes: {} are listed, and at most {NODES_MAX} may be", nodes.len()));
        }
        for (place, Peer { node, address }) in nodes.iter().enumerate() {
            if *node == 0 {
                return Some("nodes: an id is 0, and must be at least 1".to_owned());
            }
            if address.port == 0 {
                return Some(format!(
                    "nodes: node {node} is listed at port 0, and needs the one it is reached at"
                ));
            }
            if !host_is_plain(&address.host) {
                return Some(format!("nodes: node {node} is listed at {:?}, which is no host", address.host));
            }
            for earlier in &nodes[..place] {
                if earlier.node == *node {
                    return Some(format!("nodes: node {node} stands there twice"));
                }
                if earlier.address == *address {
                    return Some(format!("nodes: nodes {} and {node} are both at {address}", earlier.node));
                }
            }
        }
        None
    }
}

impl Advertised {
    /// A node that listens on every address cannot know by which one a client reaches it.
    pub(super) fn from_listening(host: &str) -> Self {
        let is_every = host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        Self { host: if is_every { String::new() } else { host.to_owned() }, port: None }
    }
}

impl FromStr for Advertised {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An IPv6 address has colons and may have no port.
        if !text.contains(':') || text.parse::<IpAddr>().is_ok() {
            return Ok(Self { host: text.to_owned(), port: None });
        }
        let address =
            text.parse::<Address>().map_err(|_| format!("`{text}` is no host, and no HOST:PORT"))?;
        Ok(Self { host: address.host, port: Some(address.port) })
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => formatter.write_str(&self.host),
            Some(port) => Address { host: self.host.clone(), port }.fmt(formatter),
        }
    }
}

/// Whether this may stand where hosts stand: in a file, in a message to a person. It may be empty, for an unknown one.
pub(crate) fn host_is_plain(host: &str) -> bool {
    host.len() <= HOST_BYTES_MAX
        && !host.contains(|letter: char| letter.is_control() || letter.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str) -> Config {
        Config::new(2, "d".into(), listen.parse().unwrap())
    }

    fn listed(listen: &str, nodes: &str) -> Result<Config, String> {
        let mut config = config(listen);
        config.list_nodes(nodes.split(',').map(|node| node.parse().unwrap()).collect())?;
        config.checked().map_err(|error| error.to_string())
    }

    #[test]
    fn own_entry_is_what_others_dial() {
        let config = listed("0.0.0.0:7411", "3=c:7411,2=b:7411,1=a:7411").unwrap();
        assert_eq!(config.advertise.to_string(), "b");
        assert_eq!(config.peers.iter().map(|peer| peer.node).collect::<Vec<_>>(), [3, 1]);
        let nodes: Vec<String> = config.nodes().iter().map(ToString::to_string).collect();
        assert_eq!(nodes, ["1=a:7411", "2=b:7411", "3=c:7411"]);
    }

    #[test]
    fn node_that_is_left_out_is_where_it_listens() {
        let config = listed("10.0.0.2:7411", "1=a:7411,3=c:7411").unwrap();
        assert_eq!(config.nodes()[1].to_string(), "2=10.0.0.2:7411");
    }

    #[test]
    fn list_that_cannot_hold_is_refused_in_plain_words() {
        for (listen, nodes, fragment) in [
            ("h:7411", "1=a:1,1=b:1", "node 1 stands there twice"),
            ("h:7411", "1=a:1,2=h:1,2=h:2", "node 2 stands there twice"),
            (
                "h:7411",
                "1=a:1,2=h:7412",
                "node 2 is this node, and listed at h:7412; it listens on port 7411",
            ),
            ("h:7411", "1=a:1,3=a:1", "nodes 1 and 3 are both at a:1"),
            ("h:7411", "1=a:0", "node 1 is listed at port 0"),
            ("h:0", "1=a:1", "needs a fixed port"),
            ("0.0.0.0:7411", "1=a:1", "list it too, as 2=HOST:7411"),
            ("h:7411", "1=a:1,3=a:3,4=a:4,5=a:5,6=a:6,7=a:7,8=a:8", "8 are listed, and at most 7"),
        ] {
            let why = listed(listen, nodes).unwrap_err();
            assert!(why.contains(fragment), "{nodes} was refused with {why:?}");
        }
        for host in ["h".repeat(256), "\u{1b}[2J".to_owned()] {
            assert!(listed("h:7411", &format!("1={host}:1")).unwrap_err().contains("which is no host"));
        }
    }

    #[test]
    fn node_behind_a_mapped_port_says_where_it_is_reached() {
        let mapped = |advertise: &str, nodes: &str| {
            let mut config = config("0.0.0.0:7411");
            let nodes = nodes.split(',').map(|node| node.parse().unwrap()).collect();
            config.advertise_among(Some(advertise.parse()?), nodes)?;
            config.checked().map_err(|error| error.to_string())
        };
        let own = |config: Config| (config.own_address().to_string(), config.listen.port);
        let reached = Ok(("b:17411".to_owned(), 7411));
        assert_eq!(mapped("b:17411", "1=a:7411").map(own), reached);
        assert_eq!(mapped("b:17411", "1=a:7411,2=b:17411").map(own), reached);
        for (advertise, nodes, fragment) in [
            ("b:17411", "1=a:1,2=b:7411", "listed at b:7411; it is advertised with port 17411"),
            ("b:17411", "1=a:1,2=c:17411", "advertise is b:17411, and the list"),
            (
                "b",
                "1=a:1,2=b:17411",
                "it listens on port 7411: where a port is mapped to it, advertise must say b:17411",
            ),
            ("b:0", "1=a:1", "advertise names port 0"),
        ] {
            let why = mapped(advertise, nodes).unwrap_err();
            assert!(why.contains(fragment), "{advertise} {nodes} was refused with {why:?}");
        }
        let mut config = config("b:0");
        config.advertise.port = Some(1);
        assert!(config.checked().unwrap_err().to_string().contains("listen must name one"));
    }

    #[test]
    fn an_advertised_place_is_a_host_with_or_without_a_port() {
        for (text, host, port) in [
            ("mq1", "mq1", None),
            ("::1", "::1", None),
            ("mq1:1", "mq1", Some(1)),
            ("[::1]:2", "::1", Some(2)),
        ] {
            let advertised: Advertised = text.parse().unwrap();
            assert_eq!((advertised.host.as_str(), advertised.port), (host, port));
            assert_eq!(advertised.to_string(), text);
        }
    }

    #[test]
    fn node_alone_may_leave_its_port_to_the_system() {
        assert!(config("127.0.0.1:0").checked().is_ok());
    }
}
