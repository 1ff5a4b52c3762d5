//! Who belongs to a group, and where each of them is reached.
//!
//! Lives inside the shard. The engine of consensus knows members by number alone; the *book* beside it says where they
//! listen, and who was removed. A change of membership carries the whole new book in its entry, and a checkpoint carries
//! it too, so a replica knows how to reach whoever it votes with, from its own log.
//!
//! ```text
//! book, little endian
//!   0  u16  members     then each: u32 node · u32 incarnation · u16 port · u8 host bytes · host
//!      u16  removed     then each: u64 replica
//! ```

use crate::shard::Address;

/// Of one group.
const MEMBERS_MAX: usize = 64;
/// So many of those removed last are told that they are.
const REMOVED_MAX: usize = 64;

/// A node as one life of its data directory: a directory that was lost comes back as another member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub node: u32,
    pub incarnation: u32,
    /// Of the node's first shard; shard `i` listens on `port + i`.
    pub address: Address,
}

impl Member {
    pub fn replica(&self) -> u64 {
        replica_id(self.node, self.incarnation)
    }

    /// Where its shard of this index listens.
    pub(crate) fn shard_address(&self, shard: u32) -> Address {
        // A configuration whose ports run past the last one is refused; a peer's that does is not reached.
        let port = u32::from(self.address.port).saturating_add(shard).min(u32::from(u16::MAX)) as u16;
        Address { host: self.address.host.clone(), port }
    }
}

/// What consensus calls a member: never given to another data directory.
pub fn replica_id(node: u32, incarnation: u32) -> u64 {
    u64::from(incarnation) << 32 | u64::from(node)
}

pub(crate) fn node_of(replica: u64) -> u32 {
    (replica & 0xffff_ffff) as u32
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Book {
    pub(crate) members: Vec<Member>,
    /// Oldest first.
    pub(crate) removed: Vec<u64>,
}

impl Book {
    pub(crate) fn new(members: Vec<Member>) -> Self {
        Self { members, removed: Vec::new() }
    }

    pub(crate) fn find(&self, replica: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.replica() == replica)
    }

    pub(crate) fn find_node(&self, node: u32) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    pub(crate) fn add(&mut self, member: Member) {
        self.members.retain(|other| other.replica() != member.replica());
        self.members.push(member);
        self.members.sort_by_key(Member::replica);
    }

    pub(crate) fn remove(&mut self, replica: u64) {
        self.members.retain(|member| member.replica() != replica);
        self.removed.retain(|other| *other != replica);
        self.removed.push(replica);
        let excess = self.removed.len().saturating_sub(REMOVED_MAX);
        self.removed.drain(..excess);
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.members.len() <= MEMBERS_MAX);
        out.extend_from_slice(&(self.members.len() as u16).to_le_bytes());
        for member in &self.members {
            // A host's name is at most 255 bytes: whoever told it has checked that.
            let host = &member.address.host.as_bytes()[..member.address.host.len().min(255)];
            out.extend_from_slice(&member.node.to_le_bytes());
            out.extend_from_slice(&member.incarnation.to_le_bytes());
            out.extend_from_slice(&member.address.port.to_le_bytes());
            out.push(host.len() as u8);
            out.extend_from_slice(host);
        }
        out.extend_from_slice(&(self.removed.len() as u16).to_le_bytes());
        self.removed.iter().for_each(|replica| out.extend_from_slice(&replica.to_le_bytes()));
    }

    /// `None`: these bytes are no book.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let members_count = u16::from_le_bytes(take(&mut bytes)?);
        if usize::from(members_count) > MEMBERS_MAX {
            return None;
        }
        let mut book = Self::default();
        for _ in 0..members_count {
            let node = u32::from_le_bytes(take(&mut bytes)?);
            let incarnation = u32::from_le_bytes(take(&mut bytes)?);
            let port = u16::from_le_bytes(take(&mut bytes)?);
            let [host_bytes] = take(&mut bytes)?;
            let (host, rest) = bytes.split_at_checked(usize::from(host_bytes))?;
            bytes = rest;
            let host = std::str::from_utf8(host).ok()?.to_owned();
            book.members.push(Member { node, incarnation, address: Address { host, port } });
        }
        let removed_count = u16::from_le_bytes(take(&mut bytes)?);
        if usize::from(removed_count) > REMOVED_MAX {
            return None;
        }
        for _ in 0..removed_count {
            book.removed.push(u64::from_le_bytes(take(&mut bytes)?));
        }
        bytes.is_empty().then_some(book)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// What a checkpoint says of the membership: who votes, and the book.
///
/// ```text
///   0  u32  bytes of the first part · the engine's configuration · the book
/// ```
pub(crate) fn encode_membership(conf_state: &[u8], book: &Book) -> Vec<u8> {
    let mut out = (conf_state.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(conf_state);
    book.encode(&mut out);
    out
}

/// `None`: these bytes are no membership.
pub(crate) fn decode_membership(mut bytes: &[u8]) -> Option<(Vec<u8>, Book)> {
    let conf_state_bytes = u32::from_le_bytes(take(&mut bytes)?);
    let (conf_state, book) = bytes.split_at_checked(conf_state_bytes as usize)?;
    Some((conf_state.to_vec(), Book::decode(book)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u32, incarnation: u32) -> Member {
        Member { node, incarnation, address: Address { host: format!("node{node}"), port: 7411 } }
    }

    #[test]
    fn a_membership_survives_its_encoding() {
        let mut book = Book::new(vec![member(1, 7), member(2, 8)]);
        book.add(member(3, 9));
        book.remove(member(1, 7).replica());
        let bytes = encode_membership(b"votes", &book);
        assert_eq!(decode_membership(&bytes), Some((b"votes".to_vec(), book)));
        for cut in 0..bytes.len() {
            assert_eq!(decode_membership(&bytes[..cut]), None);
        }
    }

    #[test]
    fn a_node_with_a_new_directory_is_another_member() {
        assert_ne!(member(2, 8).replica(), member(2, 9).replica());
        assert_eq!(node_of(replica_id(2, 9)), 2);
    }

    #[test]
    fn those_removed_long_ago_are_forgotten() {
        let mut book = Book::default();
        (0..100).for_each(|incarnation| book.remove(replica_id(1, incarnation)));
        assert_eq!(book.removed.len(), REMOVED_MAX);
        assert_eq!(book.removed.last(), Some(&replica_id(1, 99)));
    }
}
