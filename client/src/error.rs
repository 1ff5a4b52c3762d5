//! Everything that can go wrong, in one enum.

use std::fmt;
use std::time::Duration;

pub use ringmain_net::protocol::Code;

/// Why something was not done.
///
/// [`Error::is_retryable`] says whether the same call may succeed later; [`Error::is_uncertain`] whether it may
/// have been done all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// An address is not `HOST:PORT`.
    Address { text: String },
    /// A setting of the client makes no sense.
    Setting { what: &'static str },
    /// A message with its key and headers is larger than the broker accepts, or a batch larger than a frame.
    TooLarge { bytes: u64, max: u64 },
    /// A batch without messages, or with more than 16,384.
    BatchCount { count: usize },
    /// The client's own bounded buffers are full: poll, then try again.
    Full,
    /// The call's deadline passed. `last` is what stood in the way, if something did.
    Timeout { what: &'static str, after: Duration, last: Option<Box<Self>> },
    /// No connection, or it ended before the answer came, or its node ceased to lead before it knew the outcome.
    Lost { address: String, reason: String },
    /// The shard refused.
    Refused { code: Code, detail: String, retry_after: Duration },
    /// The producer's session had expired while it was unconnected: whether these messages were stored cannot be
    /// told any more.
    SessionLost,
    /// The message's lease had ended before it was settled: it was, or will be, delivered again.
    Stale,
    /// The client was closed.
    Closed,
    /// `close` gave up with messages that had no receipt yet.
    Undrained { messages: u64 },
    /// The thread for input and output could not be started, or a thread could not be pinned.
    System { reason: String },
}

impl Error {
    /// Whether the same call may succeed if it is made again, perhaps after a while.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full | Self::Timeout { .. } | Self::Lost { .. } | Self::SessionLost => true,
            Self::Refused { code, .. } => code.is_retryable(),
            Self::Address { .. }
            | Self::Setting { .. }
            | Self::TooLarge { .. }
            | Self::BatchCount { .. }
            | Self::Stale
            | Self::Closed
            | Self::Undrained { .. }
            | Self::System { .. } => false,
        }
    }

    /// Whether it may have been done although this error came back. Sending such a message again as a new one
    /// can store it twice.
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Lost { .. } | Self::SessionLost | Self::Undrained { .. })
    }

    /// The code of the refusal, if the shard refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { text } => write!(f, "{text:?} is not an address like host:7411"),
            Self::Setting { what } => f.write_str(what),
            Self::TooLarge { bytes, max } => write!(f, "{bytes} bytes are more than the {max} accepted"),
            Self::BatchCount { count } => write!(f, "a batch of {count} messages: 1 to 16384 are accepted"),
            Self::Full => f.write_str("the client's buffers are full"),
            Self::Timeout { what, after, last: None } => write!(f, "{what}: no answer within {after:?}"),
            Self::Timeout { what, after, last: Some(last) } => {
                write!(f, "{what}: not done within {after:?}: {last}")
            }
            Self::Lost { address, reason } => write!(f, "connection to {address}: {reason}"),
            Self::Refused { code, detail, .. } if detail.is_empty() => write!(f, "refused: {code}"),
            Self::Refused { code, detail, .. } => write!(f, "refused: {code}: {detail}"),
            Self::SessionLost => f.write_str("the session expired before the outcome was known"),
            Self::Stale => f.write_str("the lease had ended before the message was settled"),
            Self::Closed => f.write_str("the client is closed"),
            Self::Undrained { messages } => write!(f, "closed with {messages} messages unacknowledged"),
            Self::System { reason } => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_to_try_again() {
        let refused = |code| Error::Refused { code, detail: String::new(), retry_after: Duration::ZERO };
        for error in [Error::Full, Error::SessionLost, refused(Code::Busy), refused(Code::Full)] {
            assert!(error.is_retryable(), "{error}");
        }
        for error in [Error::Closed, Error::Stale, refused(Code::Fenced), refused(Code::NoSuchQueue)] {
            assert!(!error.is_retryable(), "{error}");
        }
        assert!(Error::SessionLost.is_uncertain());
        assert!(!refused(Code::Busy).is_uncertain());
        assert_eq!(refused(Code::Busy).to_string(), "refused: busy");
    }
}
