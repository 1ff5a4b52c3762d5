//! The text of `identity.toml`. Format 2 is written; format 1, which knew no other nodes, is read as a node alone.

use serde::{Deserialize, Serialize};

use super::Identity;
use crate::config::Address;
use crate::formation::{Founder, State};

/// The format that is written.
pub(super) const FORMAT: u32 = 2;

pub(super) enum Refusal {
    Why(String),
    NewerFormat(u32),
}

/// Only the one key that every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document1 {
    #[serde(rename = "format")]
    _format: u32,
    cluster: String,
    node: u32,
    incarnation: u32,
    shards: u32,
    segment_bytes: u64,
    created: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document2 {
    format: u32,
    state: Stage,
    /// Hexadecimal: TOML's integers have a sign, and the id uses all 64 bits.
    cluster: String,
    node: u32,
    incarnation: u32,
    shards: u32,
    groups: u32,
    segment_bytes: u64,
    created: String,
    #[serde(default, skip_serializing_if = "is_none")]
    replaces: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    aside: String,
    founders: Vec<Entry>,
}

fn is_none(incarnation: &u32) -> bool {
    *incarnation == 0
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    Forming,
    Formed,
    Joining,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    node: u32,
    incarnation: u32,
    host: String,
    port: u16,
}

pub(super) fn parse(text: &str) -> Result<Identity, Refusal> {
    let why = |error: toml::de::Error| Refusal::Why(error.message().to_owned());
    let Format { format } = toml::from_str(text).map_err(why)?;
    let identity = match format {
        0 => return Err(Refusal::Why("format must be at least 1".to_owned())),
        1 => toml::from_str::<Document1>(text).map_err(why)?.identity()?,
        2 => toml::from_str::<Document2>(text).map_err(why)?.identity()?,
        newer => return Err(Refusal::NewerFormat(newer)),
    };
    match identity.layout().refusal() {
        Some(why) => Err(Refusal::Why(why.to_owned())),
        None => Ok(identity),
    }
}

pub(super) fn write(identity: &Identity) -> String {
    let entry = |founder: &Founder| Entry {
        node: founder.node,
        incarnation: founder.incarnation,
        host: founder.address.host.clone(),
        port: founder.address.port,
    };
    let document = Document2 {
        format: FORMAT,
        state: match identity.state {
            State::Forming => Stage::Forming,
            State::Formed => Stage::Formed,
            State::Joining => Stage::Joining,
        },
        cluster: format!("{:#018x}", identity.cluster),
        node: identity.node,
        incarnation: identity.incarnation,
        shards: identity.shards,
        groups: identity.groups,
        segment_bytes: identity.segment_bytes,
        created: identity.created.clone(),
        replaces: identity.replaces,
        aside: identity.aside.clone(),
        founders: identity.founders.iter().map(entry).collect(),
    };
    let body = toml::to_string(&document).expect("numbers and short texts are always TOML");
    format!("# Whose data this directory holds. A node that finds it changed does not start.\n{body}")
}

impl Document1 {
    fn identity(self) -> Result<Identity, Refusal> {
        // Incarnations were drawn from 1 on, but not checked.
        if self.incarnation == 0 {
            return Err(Refusal::Why("incarnation must be at least 1".to_owned()));
        }
        let address = Address { host: String::new(), port: 0 };
        Ok(Identity {
            cluster: cluster(&self.cluster)?,
            node: self.node,
            incarnation: self.incarnation,
            shards: self.shards,
            groups: 1,
            segment_bytes: self.segment_bytes,
            created: self.created,
            state: State::Formed,
            founders: vec![Founder { node: self.node, incarnation: self.incarnation, address }],
            replaces: 0,
            aside: String::new(),
        })
    }
}

impl Document2 {
    fn identity(self) -> Result<Identity, Refusal> {
        if self.incarnation == 0 {
            return Err(Refusal::Why("incarnation must be at least 1".to_owned()));
        }
        let founder = |Entry { node, incarnation, host, port }: Entry| {
            let address = Address { host, port };
            Founder { node, incarnation, address }
        };
        Ok(Identity {
            cluster: cluster(&self.cluster)?,
            node: self.node,
            incarnation: self.incarnation,
            shards: self.shards,
            groups: self.groups,
            segment_bytes: self.segment_bytes,
            created: self.created,
            state: match self.state {
                Stage::Forming => State::Forming,
                Stage::Formed => State::Formed,
                Stage::Joining => State::Joining,
            },
            founders: self.founders.into_iter().map(founder).collect(),
            replaces: self.replaces,
            aside: self.aside,
        })
    }
}

fn cluster(text: &str) -> Result<u64, Refusal> {
    let digits = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    digits.ok_or_else(|| Refusal::Why(format!("`{text}` is no cluster id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let founder = |node: u32| {
            let address = Address { host: format!("mq{node}"), port: 7411 };
            Founder { node, incarnation: node * 10, address }
        };
        Identity {
            cluster: 0xfedc_ba98_7654_3210,
            node: 2,
            incarnation: 20,
            shards: 4,
            groups: 3,
            segment_bytes: 64 << 20,
            created: "2026-03-21T17:04:05Z".to_owned(),
            state: State::Formed,
            founders: (1..=3).map(founder).collect(),
            replaces: 0,
            aside: String::new(),
        }
    }

    fn refused(text: &str) -> String {
        match parse(text) {
            Err(Refusal::Why(why)) => why,
            Err(Refusal::NewerFormat(format)) => format!("format {format} is newer"),
            Ok(identity) => format!("{identity:?} was accepted"),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let formed = identity();
        let joining = Identity { node: 9, state: State::Joining, ..identity() };
        let forming =
            Identity { cluster: 0, groups: 0, founders: Vec::new(), state: State::Forming, ..identity() };
        let aside = Identity { replaces: 7, aside: "quarantined-1".to_owned(), ..joining.clone() };
        for identity in [formed, joining, forming, aside] {
            assert_eq!(parse(&write(&identity)).ok(), Some(identity));
        }
    }

    #[test]
    fn format_one_is_a_cluster_of_one_node() {
        let text = "format = 1\ncluster = \"0xab\"\nnode = 5\nincarnation = 7\nshards = 2\n\
                    segment_bytes = 67108864\ncreated = \"2026-03-21T17:04:05Z\"\n";
        let identity = parse(text).ok().unwrap();
        assert_eq!((identity.cluster, identity.groups, identity.state), (0xab, 1, State::Formed));
        assert_eq!(identity.layout().founding_replicas(), [7 << 32 | 5]);
        assert_eq!(refused(&text.replace("0xab", "0x0")), "the cluster id is 0");
        assert!(refused(&format!("{text}groups = 1\n")).contains("unknown field"));
    }

    #[test]
    fn what_no_node_has_written_is_refused() {
        let whole = write(&identity());
        for (from, to, why) in [
            ("format = 2", "format = 3", "format 3 is newer"),
            ("format = 2", "format = 0", "format must be at least 1"),
            ("formed", "former", "unknown variant"),
            ("\"formed\"", "\"forming\"", "has no cluster yet"),
            ("groups = 3", "groups = 0", "groups must be between 1 and 16"),
            ("groups = 3", "groups = 17", "groups must be between 1 and 16"),
            ("shards = 4", "shards = 4000", "too many shards"),
            ("incarnation = 30", "incarnation = 0", "must be at least 1"),
            ("node = 3", "node = 1", "each once"),
            ("host = \"mq3\"\nport = 7411\n", "host = \"mq3\"\n", "missing field"),
            ("port = 7411", "port = 74110", "74110"),
        ] {
            assert!(whole.contains(from), "{from} is not in {whole}");
            let found = refused(&whole.replace(from, to));
            assert!(found.contains(why), "{to} was refused with {found:?}");
        }
    }

    #[test]
    fn longest_identity_fits_the_limit() {
        let founder = |node: u32| {
            let address = Address { host: "h".repeat(255), port: u16::MAX };
            Founder { node, incarnation: u32::MAX, address }
        };
        let identity =
            Identity { founders: (1..=7).map(|n| founder(u32::MAX - 7 + n)).collect(), ..identity() };
        assert!(write(&identity).len() as u64 <= super::super::IDENTITY_BYTES_MAX);
    }
}
