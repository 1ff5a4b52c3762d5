//! Records as recovery would hand them over, made by hand.

use super::*;
use crate::config::Limits;
use crate::member::Member;
use crate::shard::Address;
use ringmain_wal::{Identity, LogOptions, Position, RecordHeader, Recovery};

const GROUP: GroupId = GroupId(0);

fn options() -> ShardOptions {
    let identity = Identity { cluster: 7, node: 1, shard: 0, incarnation: 1 };
    ShardOptions {
        identity,
        log: LogOptions::new(identity),
        limits: Limits::default(),
        groups: vec![GROUP],
        addresses: vec![Address { host: "localhost".to_owned(), port: 7411 }],
        founders: vec![Member {
            node: 1,
            incarnation: 1,
            address: Address { host: "localhost".to_owned(), port: 7411 },
        }],
        layout: None,
        seed: 1,
    }
}

struct Records {
    replay: Replay,
    sequence: u64,
}

impl Records {
    /// A log of which the records before `sequence` are gone.
    fn from(sequence: u64) -> Self {
        Self { replay: Replay::new(options()), sequence }
    }

    fn record(
        &mut self,
        kind: RecordKind,
        (index, commit): (u64, u64),
        payload: &[u8],
    ) -> Result<(), Failure> {
        let header = RecordHeader {
            kind,
            tag: 0,
            payload_crc: 0,
            payload_bytes: payload.len() as u32,
            sequence: Sequence(self.sequence),
            boot: 1,
            previous: 0,
            durable_upto: Sequence(self.sequence - 1),
            identity: options().identity,
            group: GROUP,
            term: Term(1),
            index: Index(index),
            hard_state: HardState { term: 1, vote: 1 << 32 | 1, commit },
        };
        let position = Position((1 << 26) + self.sequence * 4096);
        self.sequence += 1;
        let payload_position = position.advance(104);
        self.replay.on_record(&RecordView { header: &header, position, payload, payload_position })
    }

    fn entry(&mut self, index: u64, commit: u64) -> Result<(), Failure> {
        self.record(RecordKind::Entry, (index, commit), &[])
    }

    /// A checkpoint of one part.
    fn checkpoint(&mut self, number: u64, applied: u64) -> Result<(), Failure> {
        let mut engine = Engine::new(EngineOptions { group: GROUP, ordinal: 0, messages_max: 1 });
        let at = Applied { index: Index(applied), term: Term(1), position: Position(0), data: &[] };
        engine.apply(at, &mut EngineEffects::default()).unwrap();
        let mut payload = Vec::new();
        payload.extend_from_slice(&number.to_le_bytes());
        payload.extend_from_slice(&0_u32.to_le_bytes());
        payload.extend_from_slice(&1_u32.to_le_bytes());
        payload.extend_from_slice(&applied.to_le_bytes());
        payload.extend_from_slice(&1_u64.to_le_bytes());
        payload.extend_from_slice(&0_u32.to_le_bytes());
        assert!(engine.checkpoint().encode_some(&mut payload, 4096));
        self.record(RecordKind::Checkpoint, (applied, applied), &payload)
    }

    /// What the shard has applied, if it starts.
    fn applied(self) -> Result<u64, Failure> {
        let recovered = Recovery::new(&options().log, [&[], &[]], Vec::new()).unwrap().finish().unwrap();
        self.replay.finish(recovered).map(|shard| shard.groups[0].applied().0)
    }
}

#[test]
fn checkpoint_whose_entries_are_not_read_any_more_is_passed_over() {
    let mut records = Records::from(820);
    records.entry(760, 755).unwrap();
    records.checkpoint(1, 755).unwrap();
    records.entry(761, 759).unwrap();
    records.checkpoint(2, 759).unwrap();
    records.entry(762, 761).unwrap();
    assert_eq!(records.applied().unwrap(), 761);
}

#[test]
fn so_is_one_that_is_whole_before_any_entry() {
    let mut records = Records::from(820);
    records.checkpoint(1, 755).unwrap();
    records.entry(760, 755).unwrap();
    records.checkpoint(2, 759).unwrap();
    assert_eq!(records.applied().unwrap(), 759);
}

#[test]
fn entries_behind_a_gap_are_not_applied() {
    let mut records = Records::from(820);
    records.checkpoint(1, 755).unwrap();
    records.entry(756, 755).unwrap();
    records.entry(760, 757).unwrap();
    let why = records.applied().unwrap_err().to_string();
    assert_eq!(why, "the log cannot be replayed: no complete checkpoint was found");
    let mut records = Records::from(1);
    records.entry(1, 0).unwrap();
    let why = records.entry(3, 1).unwrap_err().to_string();
    assert_eq!(why, "the log cannot be replayed: an entry is missing");
}
