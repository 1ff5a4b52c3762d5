//! Bytes on their way out of a shard: some written here, some shared with whoever else holds them.
//!
//! Lives inside the shard, and in the runtime from there to the socket. An entry's data leave for the followers from the
//! very buffer that goes to disk; between shared pieces stands what was written for them, such as the heads of frames.
//! Shared bytes stay in memory until they are sent, so they count as if they were written here.

use bytes::Bytes;
use ringmain_net::frame;
use ringmain_net::protocol::Words;
use std::collections::VecDeque;

/// A shorter piece is copied. On loopback a send of one piece of its own costs as much as the copy at 4 to 8 KiB; at 64 KiB
/// it saves a fifth of the processor time, at 1 MiB a third.
pub(crate) const SHARED_BYTES_MIN: usize = 8 << 10;

#[derive(Default, Debug)]
pub struct Outgoing {
    written: Vec<u8>,
    shared: Shared,
}

/// What stands between written bytes.
#[derive(Default, Debug)]
pub(crate) struct Shared {
    /// Their places never fall.
    pieces: VecDeque<Piece>,
    /// Of all pieces.
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    /// It goes out behind so many written bytes.
    at: usize,
    bytes: Bytes,
}

impl Shared {
    pub(crate) fn push(&mut self, at: usize, bytes: Bytes) {
        assert!(self.pieces.back().is_none_or(|last| last.at <= at));
        self.bytes += bytes.len();
        self.pieces.push_back(Piece { at, bytes });
    }

    fn pop_upto(&mut self, end: usize) -> Option<Piece> {
        let piece = self.pieces.pop_front_if(|piece| piece.at <= end)?;
        self.bytes -= piece.bytes.len();
        Some(piece)
    }
}

impl Outgoing {
    pub fn bytes(&self) -> usize {
        self.written.len() + self.shared.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    pub fn clear(&mut self) {
        self.written.clear();
        self.shared.pieces.clear();
        self.shared.bytes = 0;
    }

    /// All of it in order, piece by piece; none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        let shared = self.shared.pieces.iter().flat_map(move |piece| {
            let before = &self.written[from..piece.at];
            from = piece.at;
            [before, &piece.bytes[..]]
        });
        let last = self.shared.pieces.back().map_or(0, |piece| piece.at);
        shared.chain([&self.written[last..]]).filter(|piece| !piece.is_empty())
    }

    /// The same, without the first bytes.
    pub(crate) fn pieces_behind(&self, bytes: usize) -> impl Iterator<Item = &[u8]> {
        let mut left = bytes;
        self.pieces().filter_map(move |piece| {
            let skipped = left.min(piece.len());
            left -= skipped;
            Some(&piece[skipped..]).filter(|rest| !rest.is_empty())
        })
    }

    pub(crate) fn written(&mut self) -> &mut Vec<u8> {
        &mut self.written
    }

    pub(crate) fn written_bytes(&self) -> usize {
        self.written.len()
    }

    /// For whoever writes a frame, parts of which are shared: their places are counted in what is written.
    pub(crate) fn both(&mut self) -> (&mut Vec<u8>, &mut Shared) {
        (&mut self.written, &mut self.shared)
    }

    pub(crate) fn append_frame(&mut self, words: &impl Words, body: Bytes) {
        if body.len() < SHARED_BYTES_MIN {
            frame::encode(&mut self.written, 0, words, &[&body]);
        } else {
            frame::encode_before(&mut self.written, 0, words, &body);
            self.shared.push(self.written.len(), body);
        }
    }

    /// Everything moves behind what `to` has.
    pub(crate) fn move_all(&mut self, to: &mut Self) {
        self.move_between(0, self.written.len(), to);
        assert_eq!(self.shared.bytes, 0);
        self.clear();
    }

    /// What lies between two places in what is written, both ends of frames, moves behind what `to` has. What was written
    /// there stays until it is forgotten; what is shared goes.
    pub(crate) fn move_between(&mut self, from: usize, end: usize, to: &mut Self) {
        let base = to.written.len();
        while let Some(piece) = self.shared.pop_upto(end) {
            assert!(from <= piece.at);
            to.shared.push(base + piece.at - from, piece.bytes);
        }
        to.written.extend_from_slice(&self.written[from..end]);
    }

    /// So many written bytes have moved elsewhere, and all that is shared between them.
    pub(crate) fn forget(&mut self, bytes: usize) {
        self.written.drain(..bytes);
        self.shared.pieces.iter_mut().for_each(|piece| piece.at -= bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmain_net::protocol::Done;

    const WORDS: Done = Done { index: 1, count: 2 };

    fn all(outgoing: &Outgoing) -> Vec<u8> {
        outgoing.pieces().collect::<Vec<_>>().concat()
    }

    /// As one vector, and as pieces that are shared between written ones.
    fn mixed() -> (Vec<u8>, Outgoing) {
        let (mut whole, mut outgoing) = (Vec::new(), Outgoing::default());
        for bytes in [3, SHARED_BYTES_MIN, 0, SHARED_BYTES_MIN + 7, SHARED_BYTES_MIN - 1] {
            let body = Bytes::from(vec![bytes as u8; bytes]);
            frame::encode(&mut whole, 0, &WORDS, &[&body]);
            outgoing.append_frame(&WORDS, body);
        }
        (whole, outgoing)
    }

    #[test]
    fn shared_bytes_go_out_where_they_belong() {
        let (whole, outgoing) = mixed();
        assert_eq!(all(&outgoing), whole);
        assert_eq!(outgoing.bytes(), whole.len());
        assert_eq!(outgoing.pieces().count(), 5, "two are shared");
        assert!(outgoing.pieces().all(|piece| !piece.is_empty()));
    }

    #[test]
    fn sending_goes_on_at_any_byte() {
        let (whole, outgoing) = mixed();
        for sent in 0..=whole.len() {
            let rest: usize = outgoing.pieces_behind(sent).map(<[u8]>::len).sum();
            assert_eq!(rest, whole.len() - sent);
            let first = outgoing.pieces_behind(sent).next().unwrap_or_default();
            assert_eq!(first, &whole[sent..sent + first.len()]);
        }
    }

    #[test]
    fn what_is_shared_is_not_copied() {
        let body = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        let mut outgoing = Outgoing::default();
        outgoing.append_frame(&WORDS, body.clone());
        let is_it = |piece: &[u8]| std::ptr::eq(piece, &body[..]);
        assert!(outgoing.pieces().any(is_it));
        let mut moved = Outgoing::default();
        outgoing.move_all(&mut moved);
        assert!(moved.pieces().any(is_it));
        assert!(outgoing.is_empty());
        assert!(!body.is_unique());
        moved.clear();
        assert!(body.is_unique(), "it is let go of");
    }
}
