use bytes::Bytes;

use super::*;

fn entry(index: u64, term: u64) -> Entry {
    Entry { term: Term(term), index: Index(index), kind: EntryKind::Normal, data: Bytes::from_static(b"x") }
}

/// Records as `index.term.commit`, after a checkpoint at index 2 of term 1: what was found, or what is wrong.
fn check(records: &str, expected: &str) {
    let mut restored = Restored { base: (Index(2), Term(1)), applied: Index(2), ..Restored::empty() };
    restored.hard_state = HardState { term: 1, vote: 1, commit: 2 };
    let mut found = Ok(());
    for record in records.split_whitespace() {
        let part: Vec<u64> = record.split('.').map(|number| number.parse().unwrap()).collect();
        let hard_state = HardState { term: part[1], vote: 1, commit: part[2] };
        found = found.and_then(|()| restored.append(entry(part[0], part[1]), hard_state));
    }
    let told = match found.and_then(|()| restored.judge()) {
        Ok(()) => restored.entries.iter().map(|e| format!("{}.{} ", e.index.0, e.term.0)).collect::<String>(),
        Err(error) => error.to_string(),
    };
    assert_eq!(told.trim(), expected, "{records}");
}

#[test]
fn records_become_a_log() {
    check("", "");
    check("3.1.2 4.1.3", "3.1 4.1");
    check("1.1.0 2.1.1 3.1.2", "3.1");
    check("3.1.2 4.1.2 5.1.2 4.2.2", "3.1 4.2");
    check("3.1.2 4.1.2 3.2.2 4.2.3", "3.2 4.2");
    // Entry 2 was replaced, and entry 3 with it, before the checkpoint was taken.
    check("2.0.0 3.0.0 2.1.0", "");
    check("2.0.0 3.0.0 2.1.0 3.1.2", "3.1");
}

#[test]
fn impossible_logs_are_refused() {
    check("4.1.2", "entry 3 is missing: entry 4 follows");
    check("3.1.2 5.1.2", "entry 4 is missing: entry 5 follows");
    check("3.2.2 4.1.2", "entry 4 has term 1, after one of term 2");
    check("3.1.9", "the log ends at index 3, but index 9 is recorded as committed");
}

#[test]
fn newest_hard_state_counts_in_any_order() {
    let mut restored = Restored::empty();
    for (term, vote, commit) in [(4, 2, 7), (3, 1, 5), (4, 0, 6), (4, 2, 6)] {
        restored.note(HardState { term, vote, commit });
    }
    assert_eq!(restored.hard_state, HardState { term: 4, vote: 2, commit: 7 });
    restored.note(HardState { term: 5, vote: 0, commit: 7 });
    restored.note(HardState { term: 5, vote: 3, commit: 7 });
    assert_eq!(restored.hard_state, HardState { term: 5, vote: 3, commit: 7 });
}

#[test]
fn log_that_ends_before_its_commit_is_refused() {
    let hard_state = HardState { term: 1, vote: 1, commit: 5 };
    let restored = Restored { hard_state, ..Restored::empty() };
    assert_eq!(restored.judge(), Err(Error::CommitBeyondLog { commit: 5, last: 0 }));
}

#[test]
fn state_machine_outside_the_log_is_refused() {
    let hard_state = HardState { term: 1, vote: 1, commit: 0 };
    let base = (Index(2), Term(1));
    for applied in [1, 4] {
        let entries = vec![entry(3, 1)];
        let restored = Restored { hard_state, base, entries, applied: Index(applied), ..Restored::empty() };
        assert_eq!(restored.judge(), Err(Error::AppliedOutsideLog { applied, base: 2, last: 3 }));
    }
}

#[test]
fn unreadable_membership_entry_is_refused() {
    let mut bad = entry(1, 1);
    bad.kind = EntryKind::Membership;
    bad.data = Bytes::from_static(&[0xff, 0xff]);
    let hard_state = HardState { term: 1, vote: 1, commit: 0 };
    let restored = Restored { hard_state, entries: vec![bad], ..Restored::empty() };
    assert_eq!(restored.judge(), Err(Error::MembershipEntry { index: 1 }));
}
