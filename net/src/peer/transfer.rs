//! The frames that carry a checkpoint to a follower that the log no longer reaches.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    PeerCode, TRANSFER_PAYLOAD_BYTES_MAX, TRANSFER_PAYLOADS_BYTES_MAX, check_body_max, read_beside_body,
};
use crate::archive::Str;
use crate::frame::{Frame, FrameError};
use crate::protocol::{
    DETAIL_BYTES_MAX, Kind, Words, check_body, check_count, check_text, read_alone, words,
};

/// A checkpoint is coming. The body is the engine's conf state at its index, encoded.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransferBegin {
    pub cluster: u64,
    pub group: u32,
    /// Ids of replicas.
    pub from: u64,
    pub to: u64,
    /// Chosen by the sender; the snapshot message of the engine names it too.
    pub transfer: u64,
    /// The checkpoint holds what all entries to this one made.
    pub index: u64,
    pub term: u64,
    /// How many parts it has; 0: not known yet.
    pub parts: u32,
}

/// One part of the checkpoint: the body, at most [`super::TRANSFER_PART_BYTES_MAX`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransferPart {
    pub cluster: u64,
    pub group: u32,
    pub from: u64,
    pub to: u64,
    pub transfer: u64,
    /// From 0.
    pub number: u32,
    pub is_last: bool,
}

/// Stored messages that are alive in the checkpoint, back to back in the body: at most
/// [`TRANSFER_PAYLOADS_BYTES_MAX`], or one message of at most [`TRANSFER_PAYLOAD_BYTES_MAX`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransferPayloads {
    pub cluster: u64,
    pub group: u32,
    pub from: u64,
    pub to: u64,
    pub transfer: u64,
    /// From 0, counted apart from the parts.
    pub number: u32,
    /// 0 only where there is nothing left to say but that it is the last.
    pub messages: u32,
    pub is_last: bool,
}

/// How many frames of each kind are durable at the receiver.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransferAck {
    pub cluster: u64,
    pub group: u32,
    pub from: u64,
    pub to: u64,
    pub transfer: u64,
    pub to_part: u32,
    pub to_payload: u32,
}

/// The checkpoint is whole and durable at the receiver.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransferStaged {
    pub cluster: u64,
    pub group: u32,
    pub from: u64,
    pub to: u64,
    pub transfer: u64,
    pub index: u64,
    pub term: u64,
}

/// The transfer is over, and what came of it is worth nothing. Either side says so.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct TransferAborted<'a> {
    pub cluster: u64,
    pub group: u32,
    pub from: u64,
    pub to: u64,
    pub transfer: u64,
    /// A [`PeerCode`].
    pub code: u16,
    /// One sentence for a person; at most 1024 bytes.
    #[rkyv(with = Str)]
    pub detail: &'a str,
}

const _: () = assert!(size_of::<ArchivedTransferBegin>() == 56);
const _: () = assert!(size_of::<ArchivedTransferPart>() == 41);
const _: () = assert!(size_of::<ArchivedTransferPayloads>() == 45);
const _: () = assert!(size_of::<ArchivedTransferAck>() == 44);
const _: () = assert!(size_of::<ArchivedTransferStaged>() == 52);
const _: () = assert!(size_of::<ArchivedTransferAborted<'_>>() == 46);

words! {
    TransferBegin => TransferBegin;
    TransferPart => TransferPart;
    TransferPayloads => TransferPayloads;
    TransferAck => TransferAck;
    TransferStaged => TransferStaged;
    TransferAborted<'_> => TransferAborted;
}

impl TransferAborted<'_> {
    pub fn code(&self) -> PeerCode {
        PeerCode::from(self.code)
    }
}

/// The messages are not told apart here: they are the shard's format, and each proves itself.
pub(super) fn decode_payloads(frame: &Frame<'_>) -> Result<TransferPayloads, FrameError> {
    let kind = Kind::TransferPayloads;
    check_body_max(kind, TRANSFER_PAYLOAD_BYTES_MAX, frame)?;
    let payloads: TransferPayloads = read_beside_body(frame)?;
    match payloads.messages {
        0 => check_body(kind, 0, frame)?,
        1 => {}
        messages => {
            check_body_max(kind, TRANSFER_PAYLOADS_BYTES_MAX, frame)?;
            // No message is stored in less than a byte.
            check_count(kind, messages as usize, frame.body.len() as u32)?;
        }
    }
    Ok(payloads)
}

pub(super) fn decode_aborted<'a>(frame: &Frame<'a>) -> Result<TransferAborted<'a>, FrameError> {
    let archived: &ArchivedTransferAborted<'_> = read_alone(Kind::TransferAborted, frame)?;
    Ok(TransferAborted {
        cluster: archived.cluster.to_native(),
        group: archived.group.to_native(),
        from: archived.from.to_native(),
        to: archived.to.to_native(),
        transfer: archived.transfer.to_native(),
        code: archived.code.to_native(),
        detail: check_text(Kind::TransferAborted, archived.detail.as_str(), DETAIL_BYTES_MAX)?,
    })
}
