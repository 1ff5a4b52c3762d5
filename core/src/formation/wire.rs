//! Between what nodes tell each other on the wire and what the rules speak of. Whatever a peer says is checked here, once.

use std::fmt::Write as _;

use ringmain_net::peer::{self, FormReply, FormState, PEER_PROTOCOL};

use super::{ClusterLayout, Founder, State};
use crate::config::{Address, SHARDS_MAX, host_is_plain};

/// What a peer said of itself.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) node: u32,
    pub(super) incarnation: u32,
    pub(super) shards: u32,
    pub(super) segment_bytes: u64,
    pub(super) list_hash: u64,
    pub(super) stage: Stage,
}

/// How far it is, and what it knows.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// The nodes that it lists, with the incarnations it has heard; 0 for none.
    Forming {
        view: Vec<Founder>,
    },
    /// Its own layout.
    Formed(ClusterLayout),
    Joining {
        cluster: u64,
    },
}

/// The answer to a node that asks, before it has a cluster, how far this one is. `host` and `port` are those of this node's
/// first shard.
pub fn form_reply(layout: &ClusterLayout, host: &str, port: u16) -> FormReply {
    FormReply(card(layout, host, port))
}

pub(super) fn card(layout: &ClusterLayout, host: &str, port: u16) -> peer::Formation {
    peer::Formation {
        protocol: PEER_PROTOCOL,
        node: layout.node,
        incarnation: layout.incarnation,
        shards: layout.shards,
        groups: layout.groups,
        segment_bytes: layout.segment_bytes,
        state: match layout.state {
            State::Forming => FormState::Forming,
            State::Formed => FormState::Formed,
            State::Joining => FormState::Joining,
        },
        cluster: layout.cluster,
        host: host.to_owned(),
        port,
        list_hash: list_hash(layout.founders.iter().map(|founder| (founder.node, &founder.address))),
        founders: founders(&layout.founders),
    }
}

pub(super) fn founders(founders: &[Founder]) -> Vec<peer::Founder> {
    let founder = |founder: &Founder| peer::Founder {
        node: founder.node,
        incarnation: founder.incarnation,
        port: founder.address.port,
        host: founder.address.host.clone(),
    };
    founders.iter().map(founder).collect()
}

/// What the reply means, or why it cannot be used.
pub(super) fn heard(reply: peer::Formation) -> Result<Heard, String> {
    if reply.protocol != PEER_PROTOCOL {
        return Err(format!("it speaks protocol {}, and this node {PEER_PROTOCOL}", reply.protocol));
    }
    if reply.node == 0 || reply.incarnation == 0 {
        return Err("it says that its id or its incarnation is 0".to_owned());
    }
    if reply.shards == 0 || reply.shards > SHARDS_MAX {
        return Err(format!("it says that it has {} shards", reply.shards));
    }
    let founder = |founder: peer::Founder| {
        let address = Address { host: founder.host, port: founder.port };
        Founder { node: founder.node, incarnation: founder.incarnation, address }
    };
    let founders: Vec<Founder> = reply.founders.into_iter().map(founder).collect();
    let stage = match reply.state {
        FormState::Forming if founders.iter().all(|founder| host_is_plain(&founder.address.host)) => {
            Stage::Forming { view: founders }
        }
        FormState::Forming => return Err("it lists a host that is none".to_owned()),
        FormState::Joining => Stage::Joining { cluster: reply.cluster },
        FormState::Formed => {
            let layout = ClusterLayout {
                cluster: reply.cluster,
                node: reply.node,
                incarnation: reply.incarnation,
                shards: reply.shards,
                groups: reply.groups,
                segment_bytes: reply.segment_bytes,
                state: State::Formed,
                founders,
                replaces: 0,
            };
            if let Some(why) = layout.refusal() {
                return Err(format!("its cluster cannot be: {why}"));
            }
            Stage::Formed(layout)
        }
    };
    Ok(Heard {
        node: reply.node,
        incarnation: reply.incarnation,
        shards: reply.shards,
        segment_bytes: reply.segment_bytes,
        list_hash: reply.list_hash,
        stage,
    })
}

/// The list as it is configured, by id: `1=a:7411,2=b:7411`.
pub(super) fn list<'a>(nodes: impl Iterator<Item = (u32, &'a Address)>) -> String {
    let mut text = String::new();
    for (place, (node, address)) in nodes.enumerate() {
        let comma = if place == 0 { "" } else { "," };
        write!(text, "{comma}{node}={address}").expect("a String takes everything");
    }
    text
}

pub(super) fn list_hash<'a>(nodes: impl Iterator<Item = (u32, &'a Address)>) -> u64 {
    hash(list(nodes).bytes())
}

/// The id of the cluster of these founders, who are in the order of their ids: the same on each of them.
pub(super) fn cluster_id(founders: &[Founder]) -> u64 {
    assert!(founders.is_sorted_by(|earlier, later| earlier.node < later.node));
    let replica = |founder: &Founder| founder.replica().to_le_bytes();
    // 0 means "any cluster" to a client and "not yet" to a node.
    hash(founders.iter().flat_map(replica)).max(1)
}

/// FNV-1a, and then splitmix64's last step, which carries each bit everywhere. Fixed for ever: all nodes compute the same.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, fold);
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 0x0f50_7893_98d3_7249;
    const LIST: u64 = 0x05b3_59da_e97a_e947;

    fn founder(node: u32, incarnation: u32) -> Founder {
        let address = Address { host: format!("mq{node}"), port: 7411 };
        Founder { node, incarnation, address }
    }

    fn formed() -> ClusterLayout {
        ClusterLayout {
            cluster: 7,
            node: 2,
            incarnation: 20,
            shards: 4,
            groups: 2,
            segment_bytes: 1 << 24,
            state: State::Formed,
            founders: vec![founder(1, 10), founder(2, 20)],
            replaces: 0,
        }
    }

    #[test]
    fn a_layout_is_heard_as_it_was_told() {
        let FormReply(reply) = form_reply(&formed(), "mq2", 7411);
        let heard = heard(reply).unwrap();
        assert!(matches!(heard.stage, Stage::Formed(layout) if layout == formed()));
    }

    #[test]
    fn hashes_never_change() {
        let founders = formed().founders;
        assert_eq!(cluster_id(&founders), CLUSTER);
        let nodes = || founders.iter().map(|founder| (founder.node, &founder.address));
        assert_eq!(list(nodes()), "1=mq1:7411,2=mq2:7411");
        assert_eq!(list_hash(nodes()), LIST);
        assert_ne!(cluster_id(&[founder(1, 10), founder(2, 21)]), CLUSTER);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |change: fn(&mut peer::Formation), expected: &str| {
            let mut reply = card(&formed(), "mq2", 7411);
            change(&mut reply);
            let why = heard(reply).err().unwrap_or_default();
            assert!(why.contains(expected), "{expected}: {why}");
        };
        check(|reply| reply.protocol = 9, "protocol 9");
        check(|reply| reply.node = 0, "is 0");
        check(|reply| reply.incarnation = 0, "is 0");
        check(|reply| reply.shards = 0, "0 shards");
        check(|reply| reply.shards = u32::MAX, "4294967295 shards");
        check(|reply| reply.segment_bytes = 0, "segment_bytes must be at least 1");
        check(|reply| reply.cluster = 0, "cluster id is 0");
        check(|reply| reply.groups = 17, "groups must be between");
        check(|reply| reply.founders.clear(), "1 to 7 founders");
        check(|reply| reply.founders.swap(0, 1), "order of their ids");
        check(|reply| reply.founders[0].incarnation = 0, "at least 1");
        check(|reply| reply.founders[0].host = "\u{1b}[2J".to_owned(), "host of a founder");
        check(
            |reply| {
                reply.state = FormState::Forming;
                reply.founders[0].host = "a b".to_owned();
            },
            "lists a host that is none",
        );
    }
}
