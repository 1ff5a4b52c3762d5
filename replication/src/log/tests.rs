use bytes::Bytes;

use super::*;

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry { index, term, data: Bytes::from(vec![7; bytes]), ..Default::default() }
}

fn log(base: (u64, u64), terms: &[u64]) -> Log {
    let conf_state = ConfState { voters: vec![1], ..Default::default() };
    let past = Terms::behind((Index(base.0), Term(base.1)));
    let mut log = Log::new(eraftpb::HardState::default(), conf_state, past);
    log.append(terms.iter().zip(base.0 + 1..).map(|(&term, index)| entry(index, term, 100)).collect());
    log.check();
    log
}

fn read(log: &Log, low: u64, high: u64, bytes_max: u64) -> Vec<u64> {
    let entries = log.entries(low, high, bytes_max, GetEntriesContext::empty(false)).unwrap();
    entries.iter().map(|entry| entry.index).collect()
}

#[test]
fn later_entries_replace_the_tail() {
    let mut log = log((4, 1), &[1, 1, 2, 2]);
    log.append(vec![entry(6, 3, 10), entry(7, 3, 10)]);
    log.check();
    assert_eq!(log.last(), 7);
    assert_eq!((5..8).map(|index| log.term(index).unwrap()).collect::<Vec<_>>(), [1, 3, 3]);
    assert_eq!(log.bytes(), 100 + 2 * 10 + 3 * ENTRY_BYTES_OVERHEAD);
}

#[test]
fn terms_are_known_from_the_base_to_the_last() {
    let log = log((4, 1), &[1, 2]);
    assert_eq!(log.term(4), Ok(1));
    assert_eq!(log.term(6), Ok(2));
    assert_eq!(log.term(3), Err(StorageError::Compacted.into()));
    assert_eq!(log.term(7), Err(StorageError::Unavailable.into()));
    assert_eq!((log.first_index(), log.last_index()), (Ok(5), Ok(6)));
}

#[test]
fn reading_stops_at_the_limit_but_never_before_one_entry() {
    let log = log((0, 0), &[1, 1, 1, 1]);
    assert_eq!(read(&log, 1, 5, u64::MAX), [1, 2, 3, 4]);
    assert_eq!(read(&log, 2, 4, u64::MAX), [2, 3]);
    assert_eq!(read(&log, 2, 5, 0), [2]);
    assert_eq!(read(&log, 2, 5, 2 * (100 + ENTRY_BYTES_OVERHEAD)), [2, 3]);
    assert!(read(&log, 3, 3, u64::MAX).is_empty());
}

#[test]
fn dropping_moves_the_base() {
    let mut log = log((0, 0), &[1, 2, 2]);
    assert!(log.drop_first(2));
    assert!(log.drop_first(2));
    assert!(!log.drop_first(2));
    log.check();
    assert_eq!((log.base(), log.last()), ((2, 2), 3));
    let compacted = log.entries(2, 3, None, GetEntriesContext::empty(false));
    assert_eq!(compacted, Err(StorageError::Compacted.into()));
    assert!(log.drop_first(9));
    assert!(!log.drop_first(9));
    assert_eq!((log.base(), log.last(), log.bytes()), ((3, 2), 3, 0));
}

#[test]
fn a_checkpoint_for_a_peer_is_not_there_yet() {
    let log = log((2, 1), &[1]);
    assert_eq!(log.snapshot(0, 2), Err(StorageError::SnapshotTemporarilyUnavailable.into()));
}

/// Entries 1 to 5, of which 1 to 3 have left memory and the first cannot be read back.
fn partly_read_back() -> Log {
    let mut log = log((0, 0), &[1, 2, 2, 3, 3]);
    log.set_readable_from(2);
    while log.drop_first(3) {}
    log.check();
    assert_eq!((log.floor(), log.base(), log.last()), (1, (3, 2), 5));
    log
}

#[test]
fn what_can_be_read_back_is_waited_for() {
    let mut log = partly_read_back();
    let sends = || GetEntriesContext::empty(true);
    assert_eq!(log.first_index(), Ok(2));
    assert_eq!((1..6).map(|index| log.term(index).unwrap()).collect::<Vec<_>>(), [1, 2, 2, 3, 3]);
    assert_eq!(log.term(0), Err(StorageError::Compacted.into()));
    assert_eq!(log.entries(1, 6, None, sends()), Err(StorageError::Compacted.into()));
    assert_eq!(log.entries(2, 6, None, sends()), Err(StorageError::LogTemporarilyUnavailable.into()));
    log.set_read_back(vec![entry(2, 2, 10), entry(3, 2, 10)]);
    let indices = |found: raft::Result<Vec<Entry>>| -> Vec<u64> {
        found.unwrap().iter().map(|entry| entry.index).collect()
    };
    assert_eq!(indices(log.entries(2, 6, None, sends())), [2, 3]);
    assert_eq!(indices(log.entries(2, 3, None, sends())), [2]);
    assert_eq!(indices(log.entries(2, 6, 0, sends())), [2]);
    assert_eq!(log.entries(3, 6, None, sends()), Err(StorageError::LogTemporarilyUnavailable.into()));
    assert_eq!(indices(log.entries(4, 6, None, sends())), [4, 5]);
    log.set_read_back(Vec::new());
    log.check();
}

#[test]
fn what_the_log_has_lost_cannot_be_read_back() {
    let mut log = partly_read_back();
    log.set_readable_from(3);
    log.check();
    assert_eq!((log.first_index(), log.term(2), log.floor()), (Ok(3), Ok(2), 2));
    // What is in memory counts, whether it can be read back or not.
    log.set_readable_from(5);
    log.check();
    assert_eq!((log.first_index(), log.base()), (Ok(4), (3, 2)));
    while log.drop_first(5) {}
    log.check();
    assert_eq!((log.first_index(), log.term(4)), (Ok(5), Ok(3)));
}
