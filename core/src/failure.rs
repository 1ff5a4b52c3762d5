//! Why a node does not start, or must end: nothing here can be answered to a client and lived with.

use crate::error::Error;
use crate::identity::IdentityError;
use ringmain_net::socket::BindError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub enum Failure {
    /// The data directory is not to be used.
    Identity(IdentityError),
    /// The log cannot be read, or could not be written.
    Wal(ringmain_wal::Error),
    /// The log is whole, but what it says cannot be.
    Replay {
        why: &'static str,
    },
    /// A committed entry or a checkpoint does not fit the state.
    State(Error),
    /// The log is whole, but the consensus engine refuses it.
    Replica(ringmain_replication::Error),
    /// The leader knows of entries that this node had on its disk and has no more.
    LostEntries {
        commit: u64,
        last: u64,
    },
    /// The cluster goes on without this node.
    Removed {
        detail: String,
    },
    /// Not even the first segment of a log fits.
    NoSpace {
        directory: PathBuf,
    },
    /// Live messages lie in a segment whose file is gone.
    LostSegment {
        segment: u64,
    },
    /// A stored message is not what was stored.
    Rot {
        segment: u64,
        offset: u64,
        bytes: u32,
    },
    /// No such address to listen on.
    Listen {
        host: String,
        port: u16,
        source: io::Error,
    },
    Bind(BindError),
    System {
        doing: &'static str,
        source: io::Error,
    },
    /// What is wrong with the log of one shard.
    OfShard {
        directory: PathBuf,
        failure: Box<Self>,
    },
    /// It was told to stop before the cluster was formed.
    Stopped,
    /// The executor of a shard.
    Runtime {
        why: String,
    },
}

impl Failure {
    /// The log is not what was written to it: nothing that it says can be relied on.
    pub fn is_rot(&self) -> bool {
        match self {
            Self::OfShard { failure, .. } => failure.is_rot(),
            Self::Wal(error) => matches!(error, ringmain_wal::Error::Rot { .. }),
            Self::Replay { .. }
            | Self::State(_)
            | Self::Replica(_)
            | Self::LostEntries { .. }
            | Self::LostSegment { .. }
            | Self::Rot { .. } => true,
            _ => false,
        }
    }

    /// Names the shard whose log it is, where the words do not name it already.
    pub(crate) fn of_shard(self, directory: &Path) -> Self {
        match self {
            Self::Wal(ringmain_wal::Error::Io { .. } | ringmain_wal::Error::Refused { .. }) => self,
            Self::Wal(_)
            | Self::Replay { .. }
            | Self::State(_)
            | Self::Replica(_)
            | Self::LostEntries { .. }
            | Self::LostSegment { .. }
            | Self::Rot { .. } => {
                Self::OfShard { directory: directory.to_path_buf(), failure: Box::new(self) }
            }
            _ => self,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(error) => error.fmt(f),
            Self::Wal(error) => error.fmt(f),
            Self::Replay { why } => write!(f, "the log cannot be replayed: {why}"),
            Self::State(error) => write!(f, "the log cannot be replayed: {error}"),
            Self::Replica(error) => write!(f, "the log cannot be replayed: {error}"),
            Self::LostEntries { commit, last } => write!(
                f,
                "the leader counts on entry {commit} here, and the log ends at {last}: the disk has lost entries that \
                 were acknowledged"
            ),
            Self::Removed { detail } => write!(f, "this node was removed from the cluster: {detail}"),
            Self::NoSpace { directory } => {
                write!(f, "{}: the disk has no room for a log segment", directory.display())
            }
            Self::LostSegment { segment } => {
                write!(f, "segment {segment} is missing, and live messages lie in it")
            }
            Self::Rot { segment, offset, bytes } => write!(
                f,
                "segment {segment}: rot in a live message, bytes {offset} to {}: `ringmain wal verify` tells more",
                offset + u64::from(*bytes)
            ),
            Self::Listen { host, port, source } => write!(f, "cannot listen on {host}:{port}: {source}"),
            Self::Bind(error) => error.fmt(f),
            Self::System { doing, source } => write!(f, "{doing}: {source}"),
            Self::OfShard { directory, failure } => write!(f, "{}: {failure}", directory.display()),
            Self::Stopped => f.write_str("stopped while it waited for other nodes"),
            Self::Runtime { why } => write!(f, "the shard's executor ended: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::State(error)
    }
}

impl From<ringmain_wal::Error> for Failure {
    fn from(error: ringmain_wal::Error) -> Self {
        Self::Wal(error)
    }
}
