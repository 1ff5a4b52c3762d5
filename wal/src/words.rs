//! The words of the log: small numbers that must not be mistaken for one another.

/// Bytes are written, read and checked for evidence in pages of this size.
pub const PAGE_BYTES: u64 = 4096;

/// One Raft group. A shard's log is shared by all groups of the shard.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

/// A Raft term.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Term(pub u64);

/// The place of an entry in the Raft log of its group.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Index(pub u64);

/// The number of a record in the log of its shard: 1 for the first, one more for each next.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sequence(pub u64);

impl Sequence {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A byte of a shard's log: segment number × segment bytes + offset in the segment's file.
/// Segment numbers begin at 1 and are never used twice, so a position names one byte for ever; 0 names none.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub u64);

impl Position {
    pub fn new(segment: u64, offset: u64, segment_bytes: u64) -> Self {
        assert!(offset < segment_bytes);
        Self(segment * segment_bytes + offset)
    }

    pub fn segment(self, segment_bytes: u64) -> u64 {
        debug_assert!(segment_bytes.is_power_of_two());
        self.0 >> segment_bytes.trailing_zeros()
    }

    pub fn offset(self, segment_bytes: u64) -> u64 {
        debug_assert!(segment_bytes.is_power_of_two());
        self.0 & (segment_bytes - 1)
    }

    pub fn advance(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// Whose log this is. It is in every record and every segment, so that the bytes of another node, of another shard
/// or of an earlier life of this node are never taken for this log's.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster: u64,
    pub node: u32,
    pub shard: u32,
    pub incarnation: u32,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cluster, node, shard, incarnation } = self;
        write!(f, "cluster {cluster:016x} node {node} shard {shard} incarnation {incarnation}")
    }
}

/// What Raft must remember before it speaks. Every record carries its group's.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// The next multiple of the page size.
pub(crate) fn page_ceil(bytes: u64) -> u64 {
    (bytes + (PAGE_BYTES - 1)) & !(PAGE_BYTES - 1)
}

/// The page that holds this byte.
pub(crate) fn page_floor(bytes: u64) -> u64 {
    bytes & !(PAGE_BYTES - 1)
}

const _: () = assert!(PAGE_BYTES.is_power_of_two());
