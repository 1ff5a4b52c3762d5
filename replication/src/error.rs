//! What can be wrong with what a replica is started from, and why a proposal is refused.

use std::fmt;

/// The disk holds something that no run of this program wrote: the replica must not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// The log ends before what its own hard state calls committed.
    CommitBeyondLog {
        commit: u64,
        last: u64,
    },
    AppliedOutsideLog {
        applied: u64,
        base: u64,
        last: u64,
    },
    Gap {
        expected: u64,
        found: u64,
    },
    TermFell {
        index: u64,
        before: u64,
        found: u64,
    },
    TermBeyondHardState {
        index: u64,
        term: u64,
        hard_state: u64,
    },
    Membership {
        why: &'static str,
    },
    MembershipEntry {
        index: u64,
    },
    Options {
        why: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommitBeyondLog { commit, last } => {
                write!(f, "the log ends at index {last}, but index {commit} is recorded as committed")
            }
            Self::AppliedOutsideLog { applied, base, last } => {
                write!(f, "applied index {applied} is outside the log, which has {base} to {last}")
            }
            Self::Gap { expected, found } => write!(f, "entry {expected} is missing: entry {found} follows"),
            Self::TermFell { index, before, found } => {
                write!(f, "entry {index} has term {found}, after one of term {before}")
            }
            Self::TermBeyondHardState { index, term, hard_state } => {
                write!(f, "entry {index} has term {term}, but the recorded term is {hard_state}")
            }
            Self::Membership { why } => write!(f, "membership: {why}"),
            Self::MembershipEntry { index } => write!(f, "entry {index}: membership change cannot be read"),
            Self::Options { why } => write!(f, "options: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// A proposal that was not taken; nothing of it is in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    NotLeader {
        leader: Option<u64>,
    },
    /// Too many bytes wait for a majority, or leadership is being handed over: try again when something committed.
    Busy,
    /// The change names no voters, too many, or leaves out the leader itself, which must hand over first.
    Membership,
    /// The last change of membership is not finished.
    MembershipPending,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "not the leader: replica {leader} is"),
            Self::NotLeader { leader: None } => write!(f, "no leader is known"),
            Self::Busy => write!(f, "too much waits to be committed"),
            Self::Membership => write!(f, "not a membership that this leader can propose"),
            Self::MembershipPending => write!(f, "a change of membership is under way"),
        }
    }
}

impl std::error::Error for Refusal {}
