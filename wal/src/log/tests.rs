use bytes::Bytes;

use crate::platter::{Machine, options};
use crate::{
    GroupId, HardState, Index, LogStart, PAGE_BYTES, Position, PrepareSegment, Record, RecordKind,
    SEGMENT_DATA_AT, Sequence, Superblock, Term, record_bytes,
};

const SEGMENT: u64 = 64 << 10;

fn machine() -> Machine {
    Machine::new(options())
}

#[test]
fn first_record_of_a_start_is_its_boot_record() {
    let mut machine = machine();
    machine.write(b"hello");
    let (_, rows) = machine.platter.recover().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].header.kind, RecordKind::Boot);
    assert_eq!((rows[0].header.boot, rows[0].header.sequence), (1, Sequence(1)));
    assert_eq!(rows[0].position, Position(SEGMENT + SEGMENT_DATA_AT));
    assert_eq!(rows[1].payload, b"hello");
    assert_eq!(rows[1].header.index, Index(1));
    assert_eq!(rows[1].header.hard_state, HardState { term: 4, vote: 1, commit: 1 });
}

#[test]
fn nothing_fits_before_a_segment_is_ready() {
    let mut log = crate::Log::new(options(), LogStart::empty());
    assert!(!log.room(0));
    assert_eq!(log.next_write_bytes(), None);
    assert_eq!(log.tail(), Position(0));
    assert_eq!(log.poll_segment(), Some(PrepareSegment::Create { number: 1 }));
    assert_eq!(log.poll_segment(), None);
    log.on_segment_ready(1);
    assert!(log.room(0));
    assert_eq!(log.next_write_bytes(), Some(PAGE_BYTES as usize));
    assert_eq!(log.poll_segment(), Some(PrepareSegment::Create { number: 2 }));
}

#[test]
fn place_is_known_at_append_and_is_where_the_bytes_land() {
    let mut machine = machine();
    let mut placed = Vec::new();
    for round in 0..200usize {
        let payload = vec![round as u8; round * 7 % 900];
        placed.push((machine.put(&payload), payload));
        if round % 5 == 0 {
            machine.take();
        }
        if round % 7 == 0 {
            machine.flush();
        }
    }
    machine.flush();
    for (appended, payload) in placed {
        let (segment, offset) =
            (appended.payload.segment(SEGMENT), appended.payload.offset(SEGMENT) as usize);
        assert_eq!(machine.platter.segments[&segment][offset..offset + payload.len()], payload);
        assert_eq!(appended.payload.0 - appended.record.0, crate::RECORD_HEADER_BYTES as u64);
    }
}

#[test]
fn what_comes_while_a_write_is_under_way_leaves_together() {
    let mut machine = machine();
    machine.flush();
    machine.put(b"first");
    let first = machine.take().unwrap();
    let a = machine.put(&[1; 300]);
    let b = machine.put(&[2; 300]);
    assert_eq!(b.record.0 - a.record.0, record_bytes(300));
    let second = machine.take().unwrap();
    assert_eq!(second.offset, first.offset + PAGE_BYTES);
    assert_eq!(second.bytes, PAGE_BYTES as usize);
}

#[test]
fn page_that_was_polled_is_never_written_again() {
    let mut machine = machine();
    let mut ends = std::collections::BTreeMap::new();
    for round in 0..500usize {
        machine.put(&vec![7; round * 31 % 3000]);
        if let Some(at) = machine.take() {
            let end = ends.insert(at.segment, at.offset + at.bytes as u64).unwrap_or(SEGMENT_DATA_AT);
            assert_eq!(at.offset, end);
            machine.land(0);
        }
        while machine.take().is_some() {}
        while !machine.flying.is_empty() {
            let (at, _) = machine.flying[0];
            ends.insert(at.segment, at.offset + at.bytes as u64);
            machine.land(0);
        }
    }
}

#[test]
fn writes_that_finish_out_of_order_count_as_a_prefix() {
    let mut machine = machine();
    machine.flush();
    let sequences: Vec<_> = (0..4)
        .map(|_| {
            let appended = machine.put(b"x");
            machine.take().unwrap();
            appended.sequence
        })
        .collect();
    assert_eq!(machine.take(), None);
    machine.land(2);
    assert_eq!(machine.log.durable_upto(), Sequence(1));
    machine.land(0);
    assert_eq!(machine.log.durable_upto(), sequences[0]);
    machine.land(0);
    assert_eq!(machine.log.durable_upto(), sequences[2]);
    machine.land(0);
    assert_eq!(machine.log.durable_upto(), sequences[3]);
}

#[test]
fn writes_in_flight_are_limited_and_small_ones_wait() {
    let mut machine = Machine::new(crate::LogOptions { overlap_bytes_min: 8 << 10, ..options() });
    machine.flush();
    machine.put(b"x");
    machine.take().unwrap();
    machine.put(b"y");
    assert_eq!(machine.log.next_write_bytes(), None);
    machine.put(&[1; 5000]);
    assert_eq!(machine.log.next_write_bytes(), Some(2 * PAGE_BYTES as usize));
    machine.flush();
}

#[test]
fn write_is_cut_at_its_limit_unless_one_record_is_larger() {
    let mut machine = machine();
    machine.flush();
    for _ in 0..10 {
        machine.put(&[1; 3000]);
    }
    machine.put(&[2; 40_000]);
    let mut bytes = Vec::new();
    loop {
        while let Some(at) = machine.take() {
            bytes.push(at.bytes as u64);
        }
        if machine.flying.is_empty() {
            break;
        }
        machine.land(0);
    }
    assert_eq!(bytes, [16 << 10, 16 << 10, crate::words::page_ceil(record_bytes(40_000))]);
}

#[test]
fn record_that_does_not_fit_begins_the_next_segment() {
    let mut machine = machine();
    machine.write(&[1; 40_000]);
    let appended = machine.write(&[2; 40_000]);
    assert_eq!(appended.record, Position(2 * SEGMENT + SEGMENT_DATA_AT));
    machine.write(&[3; 10_000]);
    let (recovered, rows) = machine.platter.recover().unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!(recovered.start.last_sequence(), Sequence(4));
}

#[test]
fn record_may_fill_a_segment_to_its_last_byte() {
    let mut machine = machine();
    let largest = options().payload_bytes_max() as usize;
    assert!(machine.log.room(largest as u64));
    assert!(!machine.log.room(largest as u64 + 1));
    for fill in 0..3 {
        machine.write(&vec![fill; largest]);
    }
    let (machine, rows) = machine.restart();
    assert_eq!(rows.len(), 4);
    let mut machine = machine;
    machine.write(b"after");
    let (_, rows) = machine.restart();
    assert_eq!(rows.len(), 6);
}

#[test]
fn no_room_while_no_segment_is_ready() {
    let mut machine = machine();
    machine.write(&[1; 40_000]);
    machine.put(&[1; 40_000]);
    let PrepareSegment::Create { number } = machine.log.poll_segment().unwrap() else { panic!() };
    machine.log.on_segment_refused(number);
    assert!(machine.log.segments_refused());
    assert_eq!(machine.log.poll_segment(), None);
    // Segment 3 is still ready.
    assert!(machine.log.room(40_000));
    machine.log.append(entry(40_000));
    assert!(!machine.log.room(40_000));
    assert!(machine.log.room(10_000));
    machine.log.retry_segments();
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Create { number }));
}

fn entry(bytes: usize) -> Record {
    Record {
        group: GroupId(1),
        kind: RecordKind::Entry,
        tag: 0,
        term: Term(1),
        index: Index(1),
        hard_state: HardState::default(),
        payload: Bytes::from(vec![5; bytes]),
    }
}

#[test]
fn segment_is_used_again_when_below_the_floor_and_without_live_bytes() {
    let mut machine = machine();
    let live = machine.write(&[1; 40_000]);
    machine.log.hold(live.payload, 40_000);
    for _ in 0..3 {
        machine.write(&[2; 40_000]);
    }
    let tail = machine.put(&[3; 40_000]);
    machine.flush();
    machine.log.set_floor(tail.record);
    // Segments 2, 3 and 4 are; the one of the live bytes is not.
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 2, number: 7 }));
    machine.platter.prepare(PrepareSegment::Recycle { from: 2, number: 7 });
    machine.log.on_segment_ready(7);
    machine.log.check();
    machine.log.release(live.payload, 40_000);
    machine.write(&[4; 40_000]);
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 1, number: 8 }));
    machine.platter.prepare(PrepareSegment::Recycle { from: 1, number: 8 });
    machine.log.on_segment_ready(8);
    machine.log.check();
    assert!(!machine.platter.segments.contains_key(&1));
}

#[test]
fn segment_is_not_recycled_while_it_is_read() {
    let mut machine = machine();
    let read = machine.write(&[1; 40_000]);
    machine.log.pin(read.payload);
    machine.log.pin(read.payload);
    machine.write(&[2; 40_000]);
    machine.put(&[3; 40_000]);
    machine.flush();
    machine.log.set_floor(machine.log.tail());
    machine.log.check();
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 2, number: 5 }));
    machine.platter.prepare(PrepareSegment::Recycle { from: 2, number: 5 });
    machine.log.on_segment_ready(5);
    machine.write(&[4; 40_000]);
    machine.log.unpin(read.payload);
    let number = 6;
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Create { number }));
    machine.log.on_segment_refused(number);
    assert_eq!(machine.log.poll_segment(), None);
    machine.log.unpin(read.payload);
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 1, number }));
    assert!(!machine.log.is_readable(read.payload));
    machine.log.on_segment_refused(number);
    assert!(machine.log.is_readable(read.payload));
    machine.log.check();
}

#[test]
fn segment_is_kept_for_others_while_there_is_space() {
    let mut machine = machine();
    machine.write(&[1; 40_000]);
    let kept = machine.write(&[2; 40_000]);
    machine.put(&[3; 40_000]);
    machine.flush();
    machine.log.set_floor(machine.log.tail());
    machine.log.keep_from(Some(kept.record));
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 1, number: 5 }));
    machine.platter.prepare(PrepareSegment::Recycle { from: 1, number: 5 });
    machine.log.on_segment_ready(5);
    machine.write(&[4; 40_000]);
    let number = 6;
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Create { number }));
    machine.log.on_segment_refused(number);
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 2, number }));
    machine.log.on_segment_refused(number);
    machine.log.retry_segments();
    machine.log.keep_from(None);
    machine.log.check();
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 2, number }));
}

#[test]
fn refused_segment_is_recycled_instead_once_there_is_one() {
    let mut machine = machine();
    machine.write(&[1; 40_000]);
    machine.put(&[1; 40_000]);
    machine.flush();
    let prepare = machine.log.poll_segment().unwrap();
    machine.log.on_segment_refused(prepare.number());
    assert_eq!(machine.log.poll_segment(), None);
    machine.log.set_floor(machine.log.tail());
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 1, number: 4 }));
    machine.log.on_segment_refused(4);
    machine.log.check();
    assert_eq!(machine.log.poll_segment(), Some(PrepareSegment::Recycle { from: 1, number: 4 }));
}

#[test]
fn nothing_is_recycled_after_a_start_before_the_floor_is_set() {
    let mut machine = machine();
    for _ in 0..4 {
        machine.write(&[1; 40_000]);
    }
    let (mut machine, rows) = machine.restart();
    let second = &rows[2];
    machine.log.hold(second.position.advance(104), 40_000);
    for _ in 0..2 {
        machine.write(&[1; 40_000]);
    }
    assert!(machine.platter.segments.contains_key(&1));
    machine.log.set_floor(machine.log.tail());
    machine.log.check();
    machine.write(&[1; 40_000]);
    assert!(!machine.platter.segments.contains_key(&1) || machine.log.poll_segment().is_some());
    assert!(machine.platter.segments.contains_key(&2));
}

#[test]
fn segment_that_is_missing_and_held_is_reported() {
    let mut machine = machine();
    machine.write(&[1; 40_000]);
    let second = machine.write(&[1; 40_000]);
    machine.platter.write_superblock(Superblock {
        identity: options().identity,
        boot: 1,
        counter: 1,
        checkpoint: second.record,
        sequence: second.sequence,
        durable_upto: second.sequence,
    });
    machine.platter.segments.remove(&1);
    let (mut machine, _) = machine.restart();
    let lost = Position::new(1, 8192, SEGMENT);
    machine.log.hold(lost, 100);
    let mut segments = Vec::new();
    machine.log.lost_segments(&mut segments);
    assert_eq!(segments, [1]);
    machine.log.release(lost, 100);
    machine.log.check();
    segments.clear();
    machine.log.lost_segments(&mut segments);
    assert!(segments.is_empty());
}

#[test]
fn sparse_segments_are_named_when_the_disk_holds_much_more_than_is_live() {
    let mut machine = machine();
    let mut sparse = Vec::new();
    for round in 0..12 {
        let appended = machine.write(&[1; 40_000]);
        let live = if round % 4 == 0 { 1000 } else { 40_000 };
        machine.log.hold(appended.payload, live);
    }
    machine.log.set_floor(machine.log.tail());
    machine.log.sparse_segments(&mut sparse);
    assert!(sparse.is_empty(), "most of the disk is live");
    for round in 0..12 {
        if round % 4 != 0 {
            machine.log.release(Position::new(round + 1, SEGMENT_DATA_AT + 200, SEGMENT), 40_000);
        }
    }
    machine.log.sparse_segments(&mut sparse);
    assert_eq!(sparse, [1, 5, 9]);
    machine.log.check();
    // Copying what is live out of a segment that is kept frees nothing.
    machine.log.keep_from(Some(Position::new(5, SEGMENT_DATA_AT, SEGMENT)));
    sparse.clear();
    machine.log.sparse_segments(&mut sparse);
    assert_eq!(sparse, [1]);
}

#[test]
fn payload_that_is_not_durable_is_always_in_memory() {
    let mut machine = Machine::new(crate::LogOptions { cache_bytes_max: 2000, ..options() });
    machine.flush();
    let old = machine.write(&[1; 1000]);
    assert_eq!(machine.log.read(old.payload.advance(10), 5), Some(&[1; 5][..]));
    let pending: Vec<_> = (0..10).map(|n| machine.put(&[n; 1000])).collect();
    for (n, appended) in pending.iter().enumerate() {
        assert_eq!(machine.log.read(appended.payload, 1000), Some(&[n as u8; 1000][..]));
    }
    machine.flush();
    assert_eq!(machine.log.read(pending[0].payload, 1000), None);
    assert_eq!(machine.log.read(pending[9].payload, 1000), Some(&[9; 1000][..]));
    assert_eq!(machine.log.read(pending[9].payload, 1001), None);
    assert!(machine.log.cache_bytes() <= 2000);
}

#[test]
fn page_read_back_is_in_memory_and_leaves_when_others_come() {
    let mut machine = Machine::new(crate::LogOptions { cache_bytes_max: 64 << 10, ..options() });
    machine.flush();
    let page = |n: u64| Position::new(1, n * PAGE_BYTES, SEGMENT);
    for n in 1..12 {
        machine.log.on_page_read(page(n), Bytes::from(vec![n as u8; 4096]));
        machine.log.check();
        assert_eq!(machine.log.read(page(n).advance(100), 50), Some(&[n as u8; 50][..]));
    }
    assert_eq!(machine.log.read(page(1), 1), None);
    // A longer read from the same place replaces the shorter.
    machine.log.on_page_read(page(11), Bytes::from(vec![0; 8192]));
    assert!(machine.log.read(page(12), 4096).is_some());
    machine.log.on_page_read(page(1), Bytes::from(vec![0; 60 << 10]));
    assert!(machine.log.read(page(1), 60 << 10).is_some(), "the newest stays whatever the budget");
    machine.log.check();
}

#[test]
fn vouch_covers_the_last_records_once() {
    let mut machine = machine();
    machine.flush();
    assert!(!machine.log.vouch(), "a boot record says nothing worth vouching for");
    machine.put(b"x");
    assert!(!machine.log.vouch(), "not durable yet");
    machine.flush();
    assert!(machine.log.vouch());
    assert!(!machine.log.vouch());
    machine.flush();
    assert!(!machine.log.vouch());
    let (_, rows) = machine.platter.recover().unwrap();
    let last = rows.last().unwrap();
    assert_eq!(last.header.kind, RecordKind::Vouch);
    assert_eq!(last.header.durable_upto, Sequence(2));
}

#[test]
fn start_goes_on_behind_what_was_recovered() {
    let mut machine = machine();
    for round in 0..5u8 {
        machine.write(&[round; 700]);
        let (next, _) = machine.restart();
        machine = next;
        assert_eq!(machine.log.boot(), u32::from(round) + 2);
    }
    machine.flush();
    let (_, rows) = machine.platter.recover().unwrap();
    let payloads: Vec<_> = rows.iter().filter(|row| row.header.kind == RecordKind::Entry).collect();
    assert_eq!(payloads.len(), 5);
    assert_eq!(rows.iter().filter(|row| row.header.kind == RecordKind::Boot).count(), 6);
}
