//! The headers that a user attaches to a message: names and values, kept in the order given.
//!
//! ```text
//! repeated:  0 u16 name bytes · 2 name (UTF-8) · u32 value bytes · value
//! ```
//!
//! Integers are little endian. The broker carries the blob and never looks inside.

use std::fmt;

/// Appends one header to a blob. A name has at most 65,535 bytes, a value less than 4 GiB.
pub fn append(blob: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), HeadersError> {
    let Ok(name_bytes) = u16::try_from(name.len()) else {
        return Err(HeadersError::NameTooLong { bytes: name.len() });
    };
    let Ok(value_bytes) = u32::try_from(value.len()) else {
        return Err(HeadersError::ValueTooLong { bytes: value.len() });
    };
    blob.extend_from_slice(&name_bytes.to_le_bytes());
    blob.extend_from_slice(name.as_bytes());
    blob.extend_from_slice(&value_bytes.to_le_bytes());
    blob.extend_from_slice(value);
    Ok(())
}

/// Walks over the headers of a blob. The walk ends after the first error.
pub fn iterate(blob: &[u8]) -> Headers<'_> {
    Headers { rest: blob }
}

/// The value of the first header of this name.
pub fn find<'a>(blob: &'a [u8], name: &str) -> Option<&'a [u8]> {
    iterate(blob).map_while(Result::ok).find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// Why a blob is not a list of headers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum HeadersError {
    Truncated { missing: usize },
    NameNotText,
    NameTooLong { bytes: usize },
    ValueTooLong { bytes: usize },
}

impl std::error::Error for HeadersError {}

impl fmt::Display for HeadersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { missing } => write!(f, "headers end {missing} bytes too early"),
            Self::NameNotText => write!(f, "header name is not UTF-8"),
            Self::NameTooLong { bytes } => {
                write!(f, "header name of {bytes} bytes: at most 65535 are accepted")
            }
            Self::ValueTooLong { bytes } => write!(f, "header value of {bytes} bytes does not fit 32 bits"),
        }
    }
}

/// The walk of [`iterate`].
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    /// What is still to be read; empty after an error.
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], HeadersError> {
        let Some((taken, rest)) = self.rest.split_at_checked(bytes) else {
            return Err(HeadersError::Truncated { missing: bytes - self.rest.len() });
        };
        self.rest = rest;
        Ok(taken)
    }

    fn take_one(&mut self) -> Result<(&'a str, &'a [u8]), HeadersError> {
        let length = self.take(2)?;
        let name = self.take(usize::from(u16::from_le_bytes([length[0], length[1]])))?;
        let name = std::str::from_utf8(name).map_err(|_| HeadersError::NameNotText)?;
        let length = self.take(4)?;
        let value = self.take(u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize)?;
        Ok((name, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<(&'a str, &'a [u8]), HeadersError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let header = self.take_one();
        if header.is_err() {
            self.rest = &[];
        }
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Vec<u8> {
        let mut blob = Vec::new();
        append(&mut blob, "trace", b"\x01\x02").unwrap();
        append(&mut blob, "", b"").unwrap();
        append(&mut blob, "trace", b"second").unwrap();
        blob
    }

    #[test]
    fn headers_come_back_in_their_order() {
        let read: Vec<_> =
            iterate(&blob()).map(|h| h.map(|(n, v)| (n.to_owned(), v.to_vec())).unwrap()).collect();
        let expected = [("trace", &b"\x01\x02"[..]), ("", b""), ("trace", b"second")];
        assert_eq!(read, expected.map(|(n, v)| (n.to_owned(), v.to_vec())));
        assert_eq!(find(&blob(), "trace"), Some(&b"\x01\x02"[..]));
        assert_eq!(find(&blob(), "other"), None);
    }

    #[test]
    fn the_layout_is_fixed() {
        assert_eq!(&blob()[..13], b"\x05\x00trace\x02\x00\x00\x00\x01\x02");
    }

    #[test]
    fn a_cut_blob_ends_in_one_error() {
        let blob = blob();
        for cut in 0..blob.len() {
            let read: Vec<_> = iterate(&blob[..cut]).collect();
            assert!(read.iter().rev().skip(1).all(Result::is_ok), "cut at {cut}");
        }
        assert_eq!(iterate(b"\xff\xff").next(), Some(Err(HeadersError::Truncated { missing: 65_535 })));
        assert_eq!(iterate(b"\x01\x00\xff\0\0\0\0").next(), Some(Err(HeadersError::NameNotText)));
    }

    #[test]
    fn a_name_beyond_the_limit_is_refused() {
        let mut blob = Vec::new();
        let error = append(&mut blob, &"x".repeat(65_536), b"").unwrap_err();
        assert_eq!(error.to_string(), "header name of 65536 bytes: at most 65535 are accepted");
        assert!(blob.is_empty());
    }
}
