use crate::platter::{IDENTITY, Machine, Platter, Row, options};
use crate::{
    Error, Identity, LogOptions, LogStart, PAGE_BYTES, Position, PrepareSegment, RecordKind, SEGMENT_DATA_AT,
    Sequence, Superblock, Verdict,
};

mod destruction;

const SEGMENT: u64 = 64 << 10;

fn machine() -> Machine {
    Machine::new(options())
}

/// The payloads of the entries.
fn payloads(rows: &[Row]) -> Vec<&[u8]> {
    let entries = rows.iter().filter(|row| row.header.kind == RecordKind::Entry);
    entries.map(|row| row.payload.as_slice()).collect()
}

fn verdicts(platter: &Platter) -> Vec<(u64, Verdict)> {
    platter.recover().unwrap().0.verdicts
}

fn expect_rot(platter: &Platter) -> (u64, u64, u64) {
    match platter.recover() {
        Err(Error::Rot { segment, offset, bytes, .. }) => (segment, offset, bytes),
        Err(other) => panic!("not rot: {other}"),
        Ok((recovered, rows)) => panic!("no rot: {} records, {:?}", rows.len(), recovered.verdicts),
    }
}

#[test]
fn empty_directory_is_an_empty_log() {
    let (recovered, rows) = Platter::new(options()).recover().unwrap();
    assert!(rows.is_empty());
    assert!(recovered.verdicts.is_empty());
    assert_eq!(recovered.start, LogStart::empty());
}

#[test]
fn segments_without_a_record_are_an_empty_log() {
    let machine = machine();
    let (recovered, rows) = machine.platter.recover().unwrap();
    assert!(rows.is_empty());
    assert_eq!(recovered.verdicts, [(1, Verdict::Intact), (2, Verdict::Unused), (3, Verdict::Unused)]);
    let (machine, _) = machine.restart();
    assert_eq!(machine.log.boot(), 1);
    assert_eq!(machine.log.tail(), Position(SEGMENT + SEGMENT_DATA_AT + 104));
}

#[test]
fn whole_log_is_intact() {
    let mut machine = machine();
    for round in 0..100usize {
        machine.write(&vec![round as u8; round * 37]);
    }
    let (recovered, rows) = machine.platter.recover().unwrap();
    assert_eq!(payloads(&rows).len(), 100);
    assert_eq!(recovered.records, 101);
    for (at, payload) in payloads(&rows).iter().enumerate() {
        assert_eq!(*payload, vec![at as u8; at * 37]);
    }
    let last = rows.last().unwrap().position.segment(SEGMENT);
    for (number, verdict) in recovered.verdicts {
        assert_eq!(verdict, if number <= last { Verdict::Intact } else { Verdict::Unused });
    }
}

#[test]
fn torn_tail_is_cut_and_written_over() {
    let mut machine = machine();
    machine.write(b"kept");
    let torn = machine.put(&[7; 10_000]);
    let at = machine.take().unwrap();
    machine.land(0);
    // The last page of the write never reached the disk; nobody was told that it did.
    machine.platter.zero(1, at.offset + 8192, 4096);
    let offset = torn.record.offset(SEGMENT);
    assert_eq!(verdicts(&machine.platter)[0], (1, Verdict::TornTail { offset }));
    let (mut machine, rows) = machine.restart();
    assert_eq!(payloads(&rows), [b"kept"]);
    let after = machine.write(b"after");
    assert_eq!(after.record.0, torn.record.0 + 104, "right behind the boot record, on the torn page");
    let (_, rows) = machine.platter.recover().unwrap();
    assert_eq!(payloads(&rows), [&b"kept"[..], b"after"]);
}

#[test]
fn torn_write_of_several_records_keeps_its_whole_ones() {
    let mut machine = machine();
    machine.flush();
    machine.put(&[1; 3000]);
    let torn = machine.put(&[2; 5000]);
    machine.put(&[3; 100]);
    let at = machine.take().unwrap();
    machine.land(0);
    machine.platter.zero(1, at.offset + PAGE_BYTES, PAGE_BYTES);
    assert_ne!(torn.record.offset(SEGMENT) % PAGE_BYTES, 0);
    let offset = torn.record.offset(SEGMENT);
    assert_eq!(verdicts(&machine.platter)[0], (1, Verdict::TornTail { offset }));
    let (mut machine, rows) = machine.restart();
    assert_eq!(payloads(&rows), [[1; 3000]]);
    // The first page stays as it is; the log goes on behind it, and over the rest of the torn write.
    machine.write(b"after");
    let (mut machine, rows) = machine.restart();
    assert_eq!(payloads(&rows), [&[1; 3000][..], b"after"]);
    machine.write(b"later");
    let (_, rows) = machine.restart();
    assert_eq!(payloads(&rows), [&[1; 3000][..], b"after", b"later"]);
}

#[test]
fn write_that_did_not_happen_before_one_that_did_is_a_hole() {
    let mut machine = machine();
    machine.write(b"kept");
    let missing = machine.put(b"missing");
    machine.take().unwrap();
    machine.put(b"landed");
    machine.take().unwrap();
    machine.land(1);
    let offset = missing.record.offset(SEGMENT);
    assert_eq!(verdicts(&machine.platter)[0], (1, Verdict::Hole { offset }));
    let (mut machine, rows) = machine.restart();
    assert_eq!(payloads(&rows), [b"kept"]);
    machine.flush();
    machine.write(b"after");
    let (_, rows) = machine.restart();
    assert_eq!(payloads(&rows), [&b"kept"[..], b"after"]);
}

#[test]
fn leftover_of_an_older_boot_is_not_evidence() {
    let mut machine = machine();
    machine.write(b"kept");
    let lost: Vec<_> = (0..4)
        .map(|_| {
            let appended = machine.put(b"lost");
            machine.take().unwrap();
            appended
        })
        .collect();
    for _ in 0..3 {
        machine.land(1);
    }
    // The start writes its boot record where the lost write should be; behind it lie three of the older boot, which
    // have the very sequences that come next.
    let (mut machine, _) = machine.restart();
    machine.flush();
    assert_eq!(machine.log.tail().0, lost[0].record.0 + PAGE_BYTES);
    let (recovered, rows) = machine.platter.recover().unwrap();
    assert_eq!(payloads(&rows), [b"kept"]);
    assert_eq!(recovered.verdicts[0], (1, Verdict::Intact));
    assert_eq!(recovered.start.last_sequence(), Sequence(3));
    assert_eq!(recovered.start.boot(), 3);
    let (mut machine, _) = machine.restart();
    machine.write(b"after");
    let (_, rows) = machine.restart();
    assert_eq!(payloads(&rows), [&b"kept"[..], b"after"]);
}

#[test]
fn hole_that_reaches_into_the_next_segment_is_cut() {
    let mut machine = machine();
    machine.write(&[1; 40_000]);
    let missing = machine.put(&[2; 10_000]);
    machine.take().unwrap();
    machine.put(&[3; 40_000]);
    machine.take().unwrap();
    machine.land(1);
    let offset = missing.record.offset(SEGMENT);
    assert_eq!(verdicts(&machine.platter)[..2], [(1, Verdict::Hole { offset }), (2, Verdict::Unused)]);
    let (mut machine, rows) = machine.restart();
    assert_eq!(payloads(&rows).len(), 1);
    // The same place, the same sequence, an older boot: not taken for what follows.
    machine.write(&[4; 10_000]);
    let (machine, rows) = machine.restart();
    assert_eq!(payloads(&rows).len(), 2);
    assert_eq!(machine.log.boot(), 3);
}

#[test]
fn destroyed_record_that_a_later_one_vouches_for_is_rot() {
    let mut machine = machine();
    machine.write(b"kept");
    let destroyed = machine.write(b"destroyed");
    let after = machine.write(b"after");
    machine.platter.flip(1, destroyed.payload.offset(SEGMENT));
    // `after` was submitted when `destroyed` was durable.
    let offset = destroyed.record.offset(SEGMENT);
    assert_eq!(expect_rot(&machine.platter), (1, offset, after.record.0 - destroyed.record.0));
}

#[test]
fn destroyed_last_record_is_rot_only_when_vouched_for() {
    let mut machine = machine();
    machine.write(b"kept");
    let destroyed = machine.write(b"destroyed");
    let mut unvouched = machine.platter.clone();
    unvouched.flip(1, destroyed.record.offset(SEGMENT) + 20);
    assert_eq!(payloads(&unvouched.recover().unwrap().1), [b"kept"]);
    assert!(machine.log.vouch());
    machine.flush();
    machine.platter.flip(1, destroyed.record.offset(SEGMENT) + 20);
    assert_eq!(expect_rot(&machine.platter).1, destroyed.record.offset(SEGMENT));
}

#[test]
fn destroyed_record_that_the_superblock_vouches_for_is_rot() {
    let mut machine = machine();
    let first = machine.write(b"first");
    let second = machine.write(b"second");
    machine.platter.write_superblock(superblock(1, first.record, first.sequence, second.sequence));
    let (recovered, rows) = machine.platter.recover().unwrap();
    assert_eq!(payloads(&rows), [&b"first"[..], b"second"]);
    assert_eq!(recovered.superblock.unwrap().counter, 1);
    machine.platter.flip(1, second.record.offset(SEGMENT));
    assert_eq!(expect_rot(&machine.platter).1, second.record.offset(SEGMENT));
}

fn superblock(counter: u64, checkpoint: Position, sequence: Sequence, durable_upto: Sequence) -> Superblock {
    Superblock { identity: IDENTITY, boot: 1, counter, checkpoint, sequence, durable_upto }
}

#[test]
fn evidence_of_a_later_boot_counts() {
    let mut machine = machine();
    let destroyed = machine.write(b"destroyed");
    let (mut machine, _) = machine.restart();
    machine.flush();
    machine.platter.flip(1, destroyed.record.offset(SEGMENT) + 70);
    assert_eq!(expect_rot(&machine.platter).1, destroyed.record.offset(SEGMENT));
}

#[test]
fn destroyed_boot_record_behind_a_torn_write_is_rot() {
    let mut machine = machine();
    machine.flush();
    machine.put(&[1; 100]);
    machine.put(&[2; 9000]);
    let at = machine.take().unwrap();
    machine.land(0);
    machine.platter.zero(1, at.offset + PAGE_BYTES, 2 * PAGE_BYTES);
    let (mut machine, rows) = machine.restart();
    assert_eq!(rows.len(), 2);
    machine.flush();
    machine.write(b"durable");
    assert!(machine.log.vouch());
    machine.flush();
    assert!(machine.platter.recover().is_ok());
    machine.platter.flip(1, at.offset + PAGE_BYTES + 30);
    expect_rot(&machine.platter);
}

#[test]
fn flipped_padding_is_noticed() {
    let mut machine = machine();
    machine.write(b"one");
    let two = machine.write(b"two");
    machine.write(b"three");
    machine.platter.flip(1, two.record.offset(SEGMENT) + 3000);
    expect_rot(&machine.platter);
}

#[test]
fn missing_segment_is_rot() {
    let mut machine = machine();
    for _ in 0..4 {
        machine.write(&[1; 40_000]);
    }
    let mut missing = machine.platter.clone();
    missing.segments.remove(&2);
    let first = Position::new(1, SEGMENT_DATA_AT, SEGMENT);
    missing.write_superblock(superblock(1, first, Sequence(1), Sequence(1)));
    assert_eq!(expect_rot(&missing), (2, 0, SEGMENT));
    let mut missing = machine.platter.clone();
    missing.segments.remove(&1);
    missing.write_superblock(superblock(1, first, Sequence(1), Sequence(1)));
    assert_eq!(expect_rot(&missing), (1, 0, SEGMENT));
    missing.slots = [Vec::new(), Vec::new()];
    assert_eq!(expect_rot(&missing), (1, 0, SEGMENT));
    let mut missing = machine.platter.clone();
    missing.segments.clear();
    missing.write_superblock(superblock(1, Position(0), Sequence(0), Sequence(3)));
    assert_eq!(expect_rot(&missing), (1, 0, SEGMENT));
}

#[test]
fn destroyed_beginning_of_a_segment_is_blamed_on_that_segment() {
    let mut machine = machine();
    machine.write(&[1; 40_000]);
    machine.write(&[2; 30_000]);
    let after = machine.write(&[3; 1000]);
    machine.platter.zero(2, SEGMENT_DATA_AT, PAGE_BYTES);
    let end = after.record.offset(SEGMENT);
    assert_eq!(expect_rot(&machine.platter), (2, SEGMENT_DATA_AT, end - SEGMENT_DATA_AT));
}

#[test]
fn damaged_header_page_of_a_used_segment_is_rot() {
    let mut machine = machine();
    for _ in 0..2 {
        machine.write(&[1; 40_000]);
    }
    for number in [1, 2] {
        let mut platter = machine.platter.clone();
        platter.flip(number, 1000);
        assert_eq!(expect_rot(&platter), (number, 0, PAGE_BYTES));
    }
    // The one that is ready holds nothing: it is made ready again.
    machine.prepare();
    machine.platter.flip(4, 1000);
    let (mut machine, rows) = machine.restart();
    assert_eq!(payloads(&rows).len(), 2);
    machine.write(&[1; 40_000]);
    assert_eq!(machine.log.tail().segment(SEGMENT), 3);
    machine.write(&[1; 40_000]);
    assert_eq!(payloads(&machine.platter.recover().unwrap().1).len(), 4);
}

#[test]
fn damaged_header_page_of_a_log_without_records_costs_nothing() {
    let mut machine = machine();
    machine.platter.flip(1, 0);
    let (mut machine, _) = machine.restart();
    machine.write(b"x");
    let (_, rows) = machine.restart();
    assert_eq!(payloads(&rows), [b"x"]);
}

#[test]
fn log_that_lost_all_its_records_is_not_an_empty_one() {
    let mut machine = machine();
    for _ in 0..5 {
        machine.write(&[1; 40_000]);
    }
    machine.platter.segments.remove(&1);
    for (&number, _) in machine.platter.segments.clone().iter() {
        machine.platter.zero(number, PAGE_BYTES, SEGMENT - PAGE_BYTES);
    }
    expect_rot(&machine.platter);
}

#[test]
fn recovery_begins_at_the_checkpoint() {
    let mut machine = machine();
    let mut appended = Vec::new();
    for round in 0..6u8 {
        appended.push(machine.write(&[round; 40_000]));
    }
    let third = appended[2];
    machine.platter.write_superblock(superblock(4, third.record, third.sequence, third.sequence));
    machine.platter.write_superblock(superblock(3, appended[0].record, Sequence(2), Sequence(2)));
    // What lies before is not looked at.
    machine.platter.zero(2, 0, SEGMENT);
    let (recovered, rows) = machine.platter.recover().unwrap();
    assert_eq!(payloads(&rows).len(), 4);
    assert_eq!(recovered.start.last_sequence(), appended[5].sequence);
    assert_eq!(recovered.verdicts[0], (2, Verdict::Rot { offset: 0, bytes: PAGE_BYTES }));
    assert_eq!(recovered.verdicts[1], (3, Verdict::Intact));
    assert_eq!(recovered.superblock.unwrap().counter, 4);
}

#[test]
fn checkpoint_in_the_middle_of_a_page_is_found() {
    let mut machine = machine();
    machine.put(&[1; 100]);
    let second = machine.put(&[2; 100]);
    machine.put(&[3; 100]);
    machine.flush();
    machine.platter.write_superblock(superblock(1, second.record, second.sequence, second.sequence));
    let (_, rows) = machine.platter.recover().unwrap();
    assert_eq!(payloads(&rows), [[2; 100], [3; 100]]);
    machine.platter.flip(1, second.record.offset(SEGMENT) + 17);
    expect_rot(&machine.platter);
}

#[test]
fn torn_superblock_leaves_the_other_slot() {
    let mut machine = machine();
    let first = machine.write(b"first");
    let second = machine.write(b"second");
    machine.platter.write_superblock(superblock(1, first.record, first.sequence, first.sequence));
    machine.platter.write_superblock(superblock(2, second.record, second.sequence, second.sequence));
    assert_eq!(payloads(&machine.platter.recover().unwrap().1), [b"second"]);
    machine.platter.slots[0][60] ^= 1;
    assert_eq!(payloads(&machine.platter.recover().unwrap().1), [&b"first"[..], b"second"]);
    machine.platter.slots[1][2000] ^= 1;
    assert_eq!(payloads(&machine.platter.recover().unwrap().1), [&b"first"[..], b"second"]);
}

#[test]
fn damaged_superblock_falls_back_to_what_is_there() {
    let mut machine = machine();
    let mut appended = Vec::new();
    for round in 0..4u8 {
        appended.push(machine.write(&[round; 40_000]));
    }
    // The older slot names a segment that was recycled when the newer one was durable.
    let third = appended[2];
    machine.platter.write_superblock(superblock(1, appended[0].record, Sequence(2), Sequence(2)));
    machine.platter.write_superblock(superblock(2, third.record, third.sequence, third.sequence));
    machine.platter.segments.remove(&1);
    assert_eq!(payloads(&machine.platter.recover().unwrap().1).len(), 2);
    machine.platter.slots[0][70] ^= 1;
    assert_eq!(payloads(&machine.platter.recover().unwrap().1).len(), 3);
}

#[test]
fn sequence_of_a_checkpoint_goes_on_in_a_start_without_new_records() {
    let mut machine = machine();
    let only = machine.write(b"only");
    machine.platter.write_superblock(superblock(1, only.record, only.sequence, only.sequence));
    let (machine, _) = machine.restart();
    let (mut machine, _) = machine.restart();
    let next = machine.write(b"next");
    assert_eq!(next.sequence, Sequence(only.sequence.0 + 2));
    assert_eq!(payloads(&machine.platter.recover().unwrap().1), [&b"only"[..], b"next"]);
}

#[test]
fn recycled_segment_shows_nothing_of_its_earlier_life() {
    let mut machine = machine();
    for round in 0..30u8 {
        let appended = machine.write(&[round; 9000]);
        machine.log.set_floor(appended.record);
        machine.platter.write_superblock(superblock(
            u64::from(round) + 1,
            appended.record,
            appended.sequence,
            appended.sequence,
        ));
    }
    assert!(machine.platter.segments.len() <= 4);
    assert!(!machine.platter.segments.contains_key(&1));
    for round in 0..10u8 {
        machine.write(&[round; 500]);
        let (recovered, rows) = machine.platter.recover().unwrap();
        assert_eq!(payloads(&rows).len(), usize::from(round) + 2);
        assert!(
            recovered
                .verdicts
                .iter()
                .all(|(_, verdict)| matches!(verdict, Verdict::Intact | Verdict::Unused))
        );
    }
}

#[test]
fn write_that_landed_elsewhere_is_not_a_record() {
    let mut machine = machine();
    machine.write(b"kept");
    machine.put(b"misdirected");
    let at = machine.take().unwrap();
    let (at, bytes) = machine.flying.pop().map(|(_, bytes)| (at, bytes)).unwrap();
    machine.platter.write(crate::WriteAt { offset: at.offset + PAGE_BYTES, ..at }, &bytes);
    let (recovered, rows) = machine.platter.recover().unwrap();
    assert_eq!(payloads(&rows), [b"kept"]);
    assert_eq!(recovered.verdicts[0], (1, Verdict::Intact));
}

#[test]
fn data_of_another_node_is_refused() {
    let mut machine = machine();
    machine.write(b"x");
    let other = Identity { node: 8, ..IDENTITY };
    machine.platter.options.identity = other;
    let error = machine.platter.recover().map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Foreign { found: IDENTITY, .. }), "{error}");
    let mut alone = Platter::new(LogOptions { identity: other, ..options() });
    alone.write_superblock(superblock(1, Position(0), Sequence(0), Sequence(0)));
    assert!(matches!(alone.recover(), Err(Error::Foreign { .. })));
}

#[test]
fn other_segment_size_is_refused_with_the_right_one() {
    let mut machine = machine();
    machine.write(b"x");
    machine.platter.options.segment_bytes = 128 << 10;
    let error = machine.platter.recover().map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "segment 1 has 65536 bytes, configured are 131072: configure 65536");
}

#[test]
fn segment_under_the_name_of_another_is_noticed() {
    let mut machine = machine();
    for _ in 0..4 {
        machine.write(&[1; 40_000]);
    }
    let second = machine.platter.segments[&2].clone();
    machine.platter.segments.insert(3, second);
    expect_rot(&machine.platter);
}

#[test]
fn number_that_no_segment_has_is_refused() {
    for number in [0, u64::MAX / SEGMENT, u64::MAX] {
        let mut platter = Platter::new(options());
        platter.segments.insert(number, vec![0; SEGMENT as usize]);
        assert!(matches!(platter.recover(), Err(Error::SegmentNumber { .. })));
    }
}

#[test]
fn short_file_ends_the_log_where_it_ends() {
    let mut machine = machine();
    machine.write(&[1; 5000]);
    machine.write(&[2; 5000]);
    let mut short = machine.platter.clone();
    short.segments.get_mut(&1).unwrap().truncate(15_000);
    assert_eq!(payloads(&short.recover().unwrap().1).len(), 1);
    assert!(machine.log.vouch());
    machine.flush();
    // With a file behind it that vouches for what is gone, it is rot.
    machine.write(&[3; 50_000]);
    machine.platter.segments.get_mut(&1).unwrap().truncate(15_000);
    expect_rot(&machine.platter);
}

#[test]
fn segment_left_ready_by_a_crash_is_used_next() {
    let mut machine = machine();
    machine.write(&[1; 40_000]);
    let (mut machine, _) = machine.restart();
    assert_eq!(machine.log.poll_segment(), None, "2 and 3 are ready");
    machine.write(&[1; 40_000]);
    assert_eq!(machine.log.tail().segment(SEGMENT), 2);
    assert!(machine.platter.segments.contains_key(&3));
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Create { number: 4 }));
}
