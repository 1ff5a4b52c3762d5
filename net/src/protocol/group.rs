//! How a shard's groups are: who leads, who belongs, how far each is.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    GROUPS_PER_SHARD_MAX, Kind, MEMBERS_MAX, NAME_BYTES_MAX, Words, check_count_max, check_text, read_alone,
};
use crate::frame::{Frame, FrameError};

/// The answer to `ShowGroups`: the groups of one shard as one node sees them.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct GroupsShown {
    /// The node that answers.
    pub node: u32,
    pub incarnation: u32,
    pub shard: u32,
    /// At most [`GROUPS_PER_SHARD_MAX`].
    pub groups: Vec<GroupInfo>,
}

/// A group at one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GroupInfo {
    /// The group's number in the cluster.
    pub group: u32,
    /// The node that leads, as far as this one knows; 0: none.
    pub leader: u32,
    /// Whether the node that answers leads.
    pub is_leader: bool,
    pub term: u64,
    /// Invariant: applied ≤ committed ≤ last, all at this node.
    pub committed: u64,
    pub applied: u64,
    pub last: u64,
    /// At most [`MEMBERS_MAX`].
    pub members: Vec<MemberInfo>,
}

/// A member of a group. What is said of its progress is known to the leader only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct MemberInfo {
    pub node: u32,
    pub incarnation: u32,
    /// Where it listens, shard 0 of it. "": the host that the client dialled.
    pub host: String,
    pub port: u16,
    /// Whether its vote counts; it does once it has caught up.
    pub is_voter: bool,
    /// From the leader: whether it was heard lately.
    pub is_active: bool,
    /// From the leader: a [`MemberState`].
    pub state: u8,
    /// From the leader: the last entry that it is known to have.
    pub matched: u64,
}

/// How far a member is, in the eyes of the leader.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemberState {
    #[default]
    Unknown = 0,
    /// It gets entries as they come.
    Current = 1,
    /// It gets older entries.
    Behind = 2,
    /// It gets a checkpoint, because the entries that it lacks are gone.
    ReceivesCheckpoint = 3,
    /// It does not answer.
    Unreachable = 4,
}

impl From<u8> for MemberState {
    fn from(state: u8) -> Self {
        match state {
            1 => Self::Current,
            2 => Self::Behind,
            3 => Self::ReceivesCheckpoint,
            4 => Self::Unreachable,
            _ => Self::Unknown,
        }
    }
}

impl MemberInfo {
    /// `state`, by name.
    pub fn state(&self) -> MemberState {
        MemberState::from(self.state)
    }
}

const _: () = assert!(size_of::<ArchivedGroupsShown>() == 20);
const _: () = assert!(size_of::<ArchivedGroupInfo>() == 49);
const _: () = assert!(size_of::<ArchivedMemberInfo>() == 29);

words! {
    GroupsShown => GroupsShown;
}

impl GroupsShown {
    pub(super) fn decode(frame: &Frame<'_>) -> Result<Self, FrameError> {
        let kind = Kind::GroupsShown;
        let archived: &ArchivedGroupsShown = read_alone(kind, frame)?;
        check_count_max(kind, archived.groups.len(), GROUPS_PER_SHARD_MAX)?;
        let groups = archived.groups.iter().map(|group| GroupInfo::read(kind, group));
        Ok(Self {
            node: archived.node.to_native(),
            incarnation: archived.incarnation.to_native(),
            shard: archived.shard.to_native(),
            groups: groups.collect::<Result<_, _>>()?,
        })
    }
}

impl GroupInfo {
    fn read(kind: Kind, archived: &ArchivedGroupInfo) -> Result<Self, FrameError> {
        check_count_max(kind, archived.members.len(), MEMBERS_MAX)?;
        for member in archived.members.iter() {
            check_text(kind, member.host.as_str(), NAME_BYTES_MAX)?;
        }
        rkyv::api::low::deserialize::<_, rkyv::rancor::Failure>(archived)
            .map_err(|_| FrameError::Archive { kind })
    }
}
