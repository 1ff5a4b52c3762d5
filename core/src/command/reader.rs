//! Reads little-endian integers and stretches out of bytes that may be anything.

use crate::error::Error;

#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    /// What the bytes are meant to be; for the error.
    what: &'static str,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, offset: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.offset == self.bytes.len()
    }

    pub(crate) fn malformed(&self) -> Error {
        Error::Malformed { what: self.what, offset: self.offset as u64 }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Error> {
        let end = self.offset.checked_add(bytes).ok_or_else(|| self.malformed())?;
        let taken = self.bytes.get(self.offset..end).ok_or_else(|| self.malformed())?;
        self.offset = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Error> {
        let rest = self.bytes.get(self.offset..).ok_or_else(|| self.malformed())?;
        let taken = rest.first_chunk::<N>().ok_or_else(|| self.malformed())?;
        self.offset += N;
        Ok(taken)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        self.offset = self.bytes.len();
        rest
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(*self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(*self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(*self.array()?))
    }

    /// Zero bytes that a later version may use.
    pub(crate) fn zero(&mut self, bytes: usize) -> Result<(), Error> {
        let error = self.malformed();
        if self.take(bytes)?.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(error) }
    }

    /// Seven bits a byte, lowest first, the top bit says that more follow; ten bytes at most.
    pub(crate) fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.malformed());
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    /// A signed difference: 0, -1, 1, -2 … as 0, 1, 2, 3 …
    pub(crate) fn signed(&mut self) -> Result<i64, Error> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(crate) fn text(&mut self, bytes: usize) -> Result<&'a str, Error> {
        let error = self.malformed();
        std::str::from_utf8(self.take(bytes)?).map_err(|_| error)
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_size_come_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_signed(&mut out, value as i64);
            let mut reader = Reader::new("test", &out);
            assert_eq!(reader.varint(), Ok(value));
            assert_eq!(reader.signed(), Ok(value as i64));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn endless_integers_are_refused() {
        assert!(Reader::new("test", &[0xff; 16]).varint().is_err());
        assert!(Reader::new("test", &[0x80; 9]).varint().is_err());
    }
}
