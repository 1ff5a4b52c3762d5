//! What can be wrong with bytes that the engine is given: an entry of the log, a stored message, a checkpoint.

use std::fmt;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes do not have the form of `what`.
    Malformed { what: &'static str, offset: u64 },
    /// Written by a version of the format that this program does not know.
    Version { what: &'static str, found: u8 },
    /// Well-formed, but it cannot follow on the state that is here: the log and the state have parted.
    Diverged { what: &'static str, id: u64 },
    /// More parts were needed, or fewer.
    Incomplete { what: &'static str },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { what, offset } => write!(f, "{what}: malformed at byte {offset}"),
            Self::Version { what, found } => write!(f, "{what}: version {found} is not known"),
            Self::Diverged { what, id } => write!(f, "state and log have parted: {what} {id:#x}"),
            Self::Incomplete { what } => write!(f, "{what}: incomplete"),
        }
    }
}

impl std::error::Error for Error {}
