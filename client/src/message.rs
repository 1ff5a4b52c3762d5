//! What a producer sends.

use std::borrow::Cow;

use ringmain_net::headers;
use ringmain_net::protocol::MessageHead;

use crate::error::Error;

/// A message to publish: a payload that is never interpreted, a priority, and optionally a key and headers.
///
/// Everything is borrowed where it can be, so that building one costs nothing; `Message<'static>` owns its parts
/// and is what the asynchronous client takes.
///
/// Limits: payload, key and headers together at most what the broker accepts (1 MiB unless it says otherwise), the
/// key at most 65,535 bytes.
///
/// ```
/// use ringmain_client::Message;
/// let order = Message::new(b"buy 100").priority(3).key(b"ACME").header("trace", b"4bf92f35")?;
/// # Ok::<(), ringmain_client::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message<'a> {
    payload: Cow<'a, [u8]>,
    key: Cow<'a, [u8]>,
    /// See [`ringmain_net::headers`].
    headers: Vec<u8>,
    priority: u8,
}

impl<'a> Message<'a> {
    /// A message of priority 0 without key and headers.
    pub fn new(payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { payload: Cow::Borrowed(payload.as_ref()), ..Self::default() }
    }

    /// A message that owns its payload.
    pub fn owned(payload: impl Into<Vec<u8>>) -> Message<'static> {
        Message { payload: Cow::Owned(payload.into()), ..Message::default() }
    }

    /// 0 is the lowest; a queue has 1 to 256 levels, and one that it does not have is refused.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// A name for what the message is about, at most 65,535 bytes; consumers get it back.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Cow::Borrowed(key.as_ref());
        self
    }

    /// Adds a header: a name of at most 65,535 bytes and a value. Names may repeat, their order is kept.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, Error> {
        headers::append(&mut self.headers, name, value.as_ref())
            .map_err(|_| Error::Setting { what: "a header is longer than its length can say" })?;
        Ok(self)
    }

    /// Copies what is borrowed.
    pub fn into_owned(self) -> Message<'static> {
        Message {
            payload: Cow::Owned(self.payload.into_owned()),
            key: Cow::Owned(self.key.into_owned()),
            headers: self.headers,
            priority: self.priority,
        }
    }

    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Payload, key and headers in bytes, which is what the limits count.
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.key.len() + self.headers.len()
    }

    /// What the wire says about this message; an error if its parts exceed what the wire can say.
    pub(crate) fn head(&self, message_bytes_max: u32) -> Result<MessageHead, Error> {
        let bytes = self.bytes() as u64;
        if bytes > u64::from(message_bytes_max) {
            return Err(Error::TooLarge { bytes, max: u64::from(message_bytes_max) });
        }
        let Ok(key_bytes) = u16::try_from(self.key.len()) else {
            return Err(Error::TooLarge { bytes: self.key.len() as u64, max: u64::from(u16::MAX) });
        };
        Ok(MessageHead {
            payload_bytes: self.payload.len() as u32,
            headers_bytes: self.headers.len() as u32,
            key_bytes,
            priority: self.priority,
            ..MessageHead::default()
        })
    }

    /// In the order of the wire.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        [&self.key, &self.headers, &self.payload]
    }
}

impl From<Vec<u8>> for Message<'static> {
    fn from(payload: Vec<u8>) -> Self {
        Message::owned(payload)
    }
}
