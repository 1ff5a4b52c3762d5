use super::*;
use ringmain_wal::{HardState, Log, LogOptions, LogStart, RECORD_HEADER_BYTES, Record};

const SEGMENT_BYTES: u64 = 4 << 20;
const IDENTITY: Identity = Identity { cluster: 7, node: 1, shard: 0, incarnation: 1 };

/// Entries from 1 on, at these offsets of these segments, each with so many bytes of payload.
fn trail(places: &[(u64, u64, u32)]) -> Trail {
    let mut trail = Trail::new(1 << 10, SEGMENT_BYTES);
    for (index, (segment, offset, payload_bytes)) in (1..).zip(places.iter().copied()) {
        let record = Position::new(segment, offset, SEGMENT_BYTES);
        trail.push(Index(index), Step { record, payload_bytes });
    }
    trail
}

fn lacking(next: u64, matched: u64, may_be_sent: bool) -> Lacking {
    Lacking { id: 2, next: Index(next), matched: Index(matched), may_be_sent }
}

/// Windows as segment, offset and bytes, each with its last entry.
fn planned(trail: &Trail, catch_up: &mut CatchUp, base: u64) -> Vec<(u64, u64, usize, u64)> {
    let mut windows = Vec::new();
    while let Some(ReadWindow { position, bytes }) = catch_up.plan(trail, Index(base), u64::MAX) {
        let window = catch_up.windows.back_mut().unwrap();
        window.read = 1 + windows.len() as u64;
        let last = window.last.0;
        windows.push((position.segment(SEGMENT_BYTES), position.offset(SEGMENT_BYTES), bytes, last));
        catch_up.check();
    }
    windows
}

fn some_entry(index: Index, step: Step, record: &Bytes) -> Result<Entry, Failure> {
    assert_eq!(record.len() as u64, step.bytes());
    let kind = ringmain_replication::EntryKind::Normal;
    Ok(Entry { term: Term(1), index, kind, data: record.clone() })
}

fn taken(trail: &Trail, catch_up: &mut CatchUp) -> Vec<u64> {
    let entries = catch_up.take(trail, some_entry).unwrap();
    catch_up.check();
    entries.iter().map(|entry| entry.index.0).collect()
}

#[test]
fn neighbours_are_read_together_and_nothing_far_away_is() {
    let trail = trail(&[
        (1, 4096, 1000),
        (1, 8192 + 8, 5000),
        // Behind much that belongs to other groups.
        (1, 200_000, 100),
        (2, 4096, 100),
        (2, 8192, 100),
    ]);
    let mut catch_up = CatchUp::new(&lacking(1, 0, true), Time(0));
    let expected = [(1, 4096, 12_288, 2), (1, 196_608, 4096, 3), (2, 4096, 4096, 4)];
    assert_eq!(planned(&trail, &mut catch_up, 4), expected, "entry 5 is in memory");
    assert_eq!(planned(&trail, &mut catch_up, 4), []);
    assert_eq!(planned(&trail, &mut catch_up, 5), [(2, 8192, 4096, 5)]);
}

#[test]
fn windows_are_bounded_but_for_a_larger_entry() {
    let large = 200 << 10;
    let places: Vec<_> = (0..12_u64).map(|at| (1, 4096 + at * (large + 4096), large as u32)).collect();
    let mut catch_up = CatchUp::new(&lacking(1, 0, true), Time(0));
    let windows = planned(&trail(&places), &mut catch_up, 12);
    assert_eq!(windows.iter().map(|window| window.3).collect::<Vec<_>>(), [2, 4, 6, 8]);
    assert!(windows.iter().all(|window| window.2 as u64 <= WINDOW_BYTES));
    let mut catch_up = CatchUp::new(&lacking(1, 0, true), Time(0));
    let windows = planned(&trail(&[(1, 4096, 3 << 20)]), &mut catch_up, 1);
    assert_eq!(windows, [(1, 4096, (3 << 20) + 4096, 1)]);
}

#[test]
fn what_was_read_is_taken_in_order_whatever_came_back_first() {
    let trail = trail(&[(1, 4096, 100), (1, 200_000, 100), (1, 204_800, 100)]);
    let mut catch_up = CatchUp::new(&lacking(1, 0, true), Time(0));
    assert_eq!(planned(&trail, &mut catch_up, 3).len(), 2);
    catch_up.on_read(2, &Bytes::from(vec![0; 12_288]));
    assert_eq!(taken(&trail, &mut catch_up), [0_u64; 0]);
    // Of somebody who is helped no more.
    catch_up.on_read(9, &Bytes::new());
    catch_up.on_read(1, &Bytes::from(vec![0; 4096]));
    assert!(catch_up.is_ready());
    assert_eq!(taken(&trail, &mut catch_up), [1, 2, 3]);
    assert!(!catch_up.is_ready());
    // It waits for an answer, and then goes on where it was.
    catch_up.follow(&lacking(1, 0, false), Time(0));
    assert_eq!((catch_up.next, catch_up.sent_bytes), (Index(4), 3 * 208));
    catch_up.follow(&lacking(4, 3, true), Time(0));
    assert_eq!((catch_up.next, catch_up.sent_bytes), (Index(4), 0));
}

#[test]
fn a_follower_that_stands_elsewhere_is_read_for_anew() {
    let trail = trail(&[(1, 4096, 100), (1, 8192, 100), (1, 12_288, 100)]);
    let mut catch_up = CatchUp::new(&lacking(1, 0, true), Time(0));
    planned(&trail, &mut catch_up, 3);
    catch_up.on_read(1, &Bytes::from(vec![0; 12_288]));
    assert_eq!(taken(&trail, &mut catch_up), [1, 2, 3]);
    catch_up.follow(&lacking(2, 1, true), Time(0));
    assert_eq!((catch_up.next, catch_up.sent_bytes), (Index(2), 0));
    // What was under way for what it was believed to lack.
    catch_up.on_read(1, &Bytes::from(vec![0; 12_288]));
    assert!(!catch_up.is_ready());
    assert_eq!(planned(&trail, &mut catch_up, 3), [(1, 8192, 8192, 3)]);
}

#[test]
fn a_turn_has_its_share() {
    let places: Vec<_> = (0..4_u64).map(|at| (1, 4096 + at * 102_400, 100_000)).collect();
    let trail = trail(&places);
    let mut catch_up = CatchUp::new(&lacking(1, 0, true), Time(0));
    for (.., bytes, _) in planned(&trail, &mut catch_up, 4) {
        catch_up.on_read(1, &Bytes::from(vec![0; bytes]));
    }
    assert_eq!(taken(&trail, &mut catch_up), [1, 2]);
    assert_eq!(taken(&trail, &mut catch_up), [3, 4]);
}

#[test]
fn a_read_is_known_by_its_bytes_and_ends_once() {
    let mut reads = CatchUpReads::default();
    let (a, b) = (Position(4096), Position(8192));
    assert_eq!(reads.begin(0, ReadWindow { position: a, bytes: 4096 }), 1);
    assert_eq!(reads.begin(2, ReadWindow { position: b, bytes: 4096 }), 2);
    assert_eq!(reads.end(a, 8192), None, "a queue reads there as well");
    assert_eq!((reads.end(b, 4096), reads.end(b, 4096)), (Some((2, 2)), None));
    assert_eq!(reads.end(a, 4096), Some((0, 1)));
}

/// One entry of group 3, index 5, term 2, as it lies in a log.
fn written() -> (Bytes, Step) {
    let mut options = LogOptions::new(IDENTITY);
    options.segment_bytes = SEGMENT_BYTES;
    let mut log = Log::new(options, LogStart::empty());
    let segment = log.poll_segment().unwrap().number();
    log.on_segment_ready(segment);
    let payload = Bytes::from_static(b"a batch of commands");
    let appended = log.append(Record {
        group: GroupId(3),
        kind: RecordKind::Entry,
        tag: 0,
        term: Term(2),
        index: Index(5),
        hard_state: HardState::default(),
        payload: payload.clone(),
    });
    let mut page = vec![0; log.next_write_bytes().unwrap()];
    let write = log.poll_write(&mut page).unwrap();
    let at = (appended.record.offset(SEGMENT_BYTES) - write.offset) as usize;
    let step = Step { record: appended.record, payload_bytes: payload.len() as u32 };
    (Bytes::from(page).slice(at..at + step.bytes() as usize), step)
}

#[test]
fn only_the_entry_that_is_meant_proves_itself() {
    let (record, step) = written();
    let proof = Proof { identity: &IDENTITY, group: GroupId(3), index: Index(5), term: Some(Term(2)), step };
    assert_eq!(&proof.entry(&record).unwrap().data[..], b"a batch of commands");
    let elsewhere = Step { record: step.record.advance(SEGMENT_BYTES), ..step };
    let other = Identity { incarnation: 2, ..IDENTITY };
    assert!(Proof { index: Index(6), ..proof }.entry(&record).is_none());
    assert!(Proof { term: Some(Term(1)), ..proof }.entry(&record).is_none());
    assert!(Proof { term: None, ..proof }.entry(&record).is_none());
    assert!(Proof { group: GroupId(2), ..proof }.entry(&record).is_none());
    assert!(Proof { step: elsewhere, ..proof }.entry(&record).is_none(), "what an earlier segment left");
    assert!(Proof { identity: &other, ..proof }.entry(&record).is_none());
    let mut harmed = record.to_vec();
    harmed[RECORD_HEADER_BYTES + 3] ^= 1;
    assert!(proof.entry(&Bytes::from(harmed)).is_none());
}

#[test]
fn a_log_is_weighed_by_some_of_its_entries() {
    let places: Vec<_> = (0..300_u64).map(|at| (1 + at / 100, 4096 * (1 + at % 100), 1000)).collect();
    let trail = trail(&places);
    let one = ringmain_wal::record_bytes(1000);
    assert_eq!(weigh(&trail, Index(1), Index(300)), 300 * one);
    assert_eq!(weigh(&trail, Index(299), Index(300)), 2 * one);
    assert_eq!(weigh(&trail, Index(301), Index(300)), 0);
}

#[test]
fn what_is_never_acknowledged_is_lost() {
    let trail = trail(&[(1, 4096, 100), (1, 200_000, 100), (1, 400_000, 100)]);
    let mut catch_up = CatchUp::new(&lacking(1, 0, true), Time(0));
    assert_eq!(planned(&trail, &mut catch_up, 3).len(), 3);
    let later = Time(LOST_AFTER_NS);
    catch_up.follow(&lacking(1, 0, true), later);
    assert!(!catch_up.is_lost(Time(2 * LOST_AFTER_NS)), "nothing was sent");
    for read in 1..=2 {
        catch_up.on_read(read, &Bytes::from(vec![0; 8192]));
        assert_eq!(taken(&trail, &mut catch_up), [read]);
    }
    catch_up.follow(&lacking(3, 0, true), Time(2 * LOST_AFTER_NS - 1));
    assert!(!catch_up.is_lost(Time(2 * LOST_AFTER_NS - 1)));
    assert!(catch_up.is_lost(Time(2 * LOST_AFTER_NS)));
    catch_up.follow(&lacking(3, 1, true), Time(2 * LOST_AFTER_NS));
    assert!(!catch_up.is_lost(Time(2 * LOST_AFTER_NS)), "the first was acknowledged");
    assert!(catch_up.is_lost(Time(3 * LOST_AFTER_NS)));
}
