//! What nodes tell each other before they are a cluster.
//!
//! These frames are exchanged by a plain thread, once, so they own what they carry.

use rkyv::rancor::Failure;
use rkyv::{Archive, Deserialize, Serialize};

use super::{FORM_BYTES_MAX, FOUNDERS_MAX};
use crate::frame::{Frame, FrameError, HEADER_BYTES};
use crate::protocol::{Kind, NAME_BYTES_MAX, Words, check_count, check_text, read_alone, words};

/// A node's question; answered by `FormReply`.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct FormHello(pub Formation);

/// What the node asked says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct FormReply(pub Formation);

/// A node as it is before it serves.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Formation {
    /// [`super::PEER_PROTOCOL`].
    pub protocol: u16,
    pub node: u32,
    pub incarnation: u32,
    pub shards: u32,
    pub groups: u32,
    pub segment_bytes: u64,
    pub state: FormState,
    /// 0 while forming.
    pub cluster: u64,
    /// Where the node can be called; "": nothing is advertised.
    pub host: String,
    /// Of its shard 0.
    pub port: u16,
    /// Hash of the list of founders that it was configured with.
    pub list_hash: u64,
    /// Who founded the cluster, at most [`FOUNDERS_MAX`]; nobody while forming.
    pub founders: Vec<Founder>,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum FormState {
    /// A founder that waits for the others.
    Forming = 0,
    /// A member of a cluster.
    Formed = 1,
    /// On its way into a cluster that others founded.
    Joining = 2,
}

#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Founder {
    pub node: u32,
    pub incarnation: u32,
    /// Of its shard 0.
    pub port: u16,
    pub host: String,
}

const ROOT_BYTES: usize = 61;
const FOUNDER_BYTES: usize = 18;

const _: () = assert!(size_of::<ArchivedFormHello>() == ROOT_BYTES);
const _: () = assert!(size_of::<ArchivedFormReply>() == ROOT_BYTES);
const _: () = assert!(size_of::<ArchivedFounder>() == FOUNDER_BYTES);
const _: () = assert!(
    HEADER_BYTES
        + ROOT_BYTES
        + NAME_BYTES_MAX as usize
        + FOUNDERS_MAX as usize * (FOUNDER_BYTES + NAME_BYTES_MAX as usize)
        <= FORM_BYTES_MAX as usize
);

words! {
    FormHello => FormHello;
    FormReply => FormReply;
}

/// Both kinds have the same bytes.
pub(super) fn decode(kind: Kind, frame: &Frame<'_>) -> Result<Formation, FrameError> {
    if frame.bytes > FORM_BYTES_MAX as usize {
        return Err(FrameError::TooLong { length: frame.bytes as u32, max: FORM_BYTES_MAX });
    }
    let archived: &ArchivedFormation = read_alone(kind, frame)?;
    check_text(kind, archived.host.as_str(), NAME_BYTES_MAX)?;
    if !archived.founders.is_empty() {
        check_count(kind, archived.founders.len(), FOUNDERS_MAX)?;
    }
    for founder in archived.founders.iter() {
        check_text(kind, founder.host.as_str(), NAME_BYTES_MAX)?;
    }
    rkyv::api::low::deserialize::<Formation, Failure>(archived).map_err(|_| FrameError::Archive { kind })
}
