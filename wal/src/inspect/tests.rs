use std::path::Path;

use super::{Report, dump, verify};
use crate::platter::{IDENTITY, Machine, Platter, Random, options};
use crate::{
    Identity, PAGE_BYTES, RecordKind, SEGMENT_DATA_AT, SegmentHeader, Superblock, Verdict, segment_file_name,
};

const SEGMENT: u64 = 64 << 10;

/// The platter as files.
fn lay_down(platter: &Platter, directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    for (&number, bytes) in &platter.segments {
        std::fs::write(directory.join(segment_file_name(number)), bytes).unwrap();
    }
    let mut slots = platter.slots.clone();
    slots[0].resize(PAGE_BYTES as usize, 0);
    std::fs::write(directory.join("superblock"), slots.concat()).unwrap();
}

fn verify_platter(platter: &Platter) -> Report {
    let directory = tempfile::tempdir().unwrap();
    lay_down(platter, &directory.path().join("shard-0000"));
    let report = verify(directory.path()).unwrap();
    let mut json = Vec::new();
    report.write_json(&mut json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["sound"], report.is_sound());
    assert_eq!(json["shards"][0]["faults"].as_array().unwrap().len(), report.shards[0].faults.len());
    report
}

fn text(report: &Report) -> String {
    let mut text = Vec::new();
    report.write_text(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Eight records, the last vouched for, over four segments.
fn machine() -> Machine {
    let mut machine = Machine::new(options());
    for round in 0..8u8 {
        machine.write(&vec![b'a' + round; 25_000]);
    }
    assert!(machine.log.vouch());
    machine.flush();
    machine
}

fn checkpoint_at(machine: &mut Machine, row: usize) {
    let (_, rows) = machine.platter.recover().unwrap();
    let row = &rows[row];
    machine.platter.write_superblock(Superblock {
        identity: IDENTITY,
        boot: 1,
        counter: 1,
        checkpoint: row.position,
        sequence: row.header.sequence,
        durable_upto: machine.log.durable_upto(),
    });
}

#[test]
fn sound_log_is_said_to_be_sound() {
    let report = verify_platter(&machine().platter);
    assert!(report.is_sound());
    let shard = &report.shards[0];
    assert_eq!((shard.records, shard.last_sequence, shard.boot), (10, 10, 1));
    assert_eq!(shard.identity, Some(IDENTITY));
    assert_eq!(shard.segments[&1].verdict, Verdict::Intact);
    assert_eq!((shard.segments[&2].first_sequence, shard.segments[&2].last_sequence), (4, 5));
    assert!(shard.segments[&1].needed);
    assert!(
        text(&report).contains("sound: 10 records, the last is 10; started 1 times"),
        "{}",
        text(&report)
    );
    assert!(text(&report).contains("segment 6: unused"), "{}", text(&report));
}

#[test]
fn flipped_byte_is_named_with_its_place() {
    let mut machine = machine();
    let (_, rows) = machine.platter.recover().unwrap();
    let broken = &rows[4];
    let offset = broken.position.offset(SEGMENT);
    machine.platter.flip(2, offset + 5000);
    let report = verify_platter(&machine.platter);
    assert!(!report.is_sound());
    let shard = &report.shards[0];
    assert_eq!(shard.faults.len(), 1);
    assert_eq!((shard.faults[0].segment, shard.faults[0].offset), (Some(2), offset));
    assert!(matches!(shard.segments[&2].verdict, Verdict::Rot { .. }));
    // The rest is looked at all the same.
    assert_eq!(shard.segments[&1].verdict, Verdict::Intact);
    assert_eq!(shard.segments[&3].verdict, Verdict::Intact);
    assert_eq!(shard.last_sequence, 10);
    let text = text(&report);
    assert!(text.contains("FAULT in segment 2 (segment-00000000000000000002.wal), bytes"), "{text}");
    assert!(text.contains("the checksum of a payload does not match"), "{text}");
    assert!(text.contains("DAMAGED"), "{text}");
}

#[test]
fn rot_before_the_checkpoint_is_found_too() {
    let mut machine = machine();
    checkpoint_at(&mut machine, 6);
    assert!(verify_platter(&machine.platter).is_sound());
    machine.platter.flip(1, SEGMENT_DATA_AT + 500);
    assert!(machine.platter.recover().is_ok(), "recovery does not read it");
    let report = verify_platter(&machine.platter);
    assert_eq!(report.shards[0].faults.len(), 1);
    assert!(!report.shards[0].segments[&1].needed);
    assert!(text(&report).contains("segment 1: ROT in bytes"), "{}", text(&report));
}

#[test]
fn old_segment_without_neighbours_is_read_on_its_own() {
    let mut machine = machine();
    checkpoint_at(&mut machine, 6);
    machine.platter.segments.remove(&2);
    let report = verify_platter(&machine.platter);
    assert!(report.is_sound(), "{}", text(&report));
    assert_eq!(report.shards[0].segments[&1].records, 3);
    assert!(text(&report).contains("before the checkpoint"));
    let (_, rows) = machine.platter.recover().unwrap();
    assert_eq!(rows[0].header.kind, RecordKind::Entry);
    machine.platter.flip(1, 40_000);
    assert_eq!(verify_platter(&machine.platter).shards[0].faults.len(), 1);
}

#[test]
fn torn_tail_and_hole_are_no_faults() {
    let mut machine = machine();
    machine.put(&[1; 9000]);
    let at = machine.take().unwrap();
    machine.land(0);
    let mut torn = machine.platter.clone();
    torn.zero(at.segment, at.offset + 8192, PAGE_BYTES);
    let report = verify_platter(&torn);
    assert!(report.is_sound());
    assert!(text(&report).contains("torn tail: a write from byte"), "{}", text(&report));

    machine.put(b"missing");
    machine.take();
    machine.put(b"landed");
    machine.take();
    machine.land(1);
    let report = verify_platter(&machine.platter);
    assert!(report.is_sound());
    assert!(text(&report).contains("hole: a write at byte"), "{}", text(&report));
}

#[test]
fn stranger_and_missing_and_short_segments_are_faults() {
    let mut machine = machine();
    checkpoint_at(&mut machine, 1);
    let mut stranger = machine.platter.clone();
    let page = &mut stranger.segments.get_mut(&2).unwrap()[..PAGE_BYTES as usize];
    let identity = Identity { node: 99, ..IDENTITY };
    SegmentHeader { number: 2, segment_bytes: SEGMENT, identity }.encode(page);
    let report = verify_platter(&stranger);
    assert!(text(&report).contains("it belongs to cluster c1a57e1200000001 node 99"), "{}", text(&report));

    let mut missing = machine.platter.clone();
    missing.slots = Default::default();
    missing.segments.remove(&1);
    let report = verify_platter(&missing);
    assert!(!report.is_sound());
    assert!(text(&report).contains("the first segment is missing"), "{}", text(&report));

    machine.platter.segments.get_mut(&3).unwrap().truncate(20_000);
    let report = verify_platter(&machine.platter);
    assert!(text(&report).contains("the file has 20000 bytes, a segment has 65536"), "{}", text(&report));
}

#[test]
fn destroyed_superblock_is_a_fault_and_a_torn_slot_is_not() {
    let mut machine = machine();
    checkpoint_at(&mut machine, 1);
    machine.platter.slots[0] = vec![7; PAGE_BYTES as usize];
    let report = verify_platter(&machine.platter);
    assert!(report.is_sound());
    assert_eq!(report.shards[0].notes.len(), 1);
    machine.platter.slots[1][20] ^= 1;
    assert!(!verify_platter(&machine.platter).is_sound());
}

#[test]
fn dump_has_a_line_for_each_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(options());
    machine.write(b"said \"so\"\n");
    lay_down(&machine.platter, directory.path());
    let mut out = Vec::new();
    assert!(dump(directory.path(), &mut out).unwrap().is_sound());
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("segment 1 byte 4096: record 1 boot boot 1 durable_upto 0"), "{out}");
    let entry =
        "record 2 entry boot 1 durable_upto 0 group 2 term 4 index 1 tag 9 hard_state 4/1/1 payload 10";
    assert!(lines[1].contains(entry), "{out}");
    assert!(lines[1].ends_with(r#""said \"so\"\n""#), "{out}");
}

#[test]
fn directory_without_a_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(verify(directory.path()).unwrap_err().to_string().contains("no segments"));
    assert!(verify(&directory.path().join("absent")).is_err());
    std::fs::create_dir(directory.path().join("shard-0000")).unwrap();
    let report = verify(directory.path()).unwrap();
    assert!(report.is_sound());
    assert!(text(&report).contains("an empty log"));
}

#[test]
fn garbage_is_described_and_not_believed() {
    let sound = machine();
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut platter = sound.platter.clone();
        for _ in 0..1 + random.below(3) {
            let numbers: Vec<u64> = platter.segments.keys().copied().collect();
            let number = numbers[random.below(numbers.len() as u64) as usize];
            let length = random.below(SEGMENT) as usize;
            let segment = platter.segments.get_mut(&number).unwrap();
            match random.below(5) {
                0 => segment.truncate(length),
                1 => *segment = random.bytes(length),
                2 => segment[..PAGE_BYTES as usize].fill(random.next() as u8),
                3 => {
                    let moved = segment.clone();
                    platter.segments.insert(random.next(), moved);
                }
                _ => platter.slots[1] = random.bytes(100),
            }
            platter.segments.retain(|_, bytes| bytes.len() >= PAGE_BYTES as usize);
            if platter.segments.is_empty() {
                break;
            }
        }
        let report = verify_platter(&platter);
        assert!(report.shards[0].records <= 10, "seed {seed}");
        assert!(!text(&report).is_empty());
    }
}
