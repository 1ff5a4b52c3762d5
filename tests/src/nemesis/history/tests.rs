//! Histories made by hand: good ones are good, and each broken promise is seen.

use super::*;
use ringmain_client::LevelInfo;

fn delivered(payload: &str, sequence: u64, is_redelivered: bool) -> Delivered<'_> {
    Delivered { payload: payload.as_bytes(), priority: 1, sequence, is_redelivered }
}

fn two_acknowledged() -> History {
    let history = History::default();
    for number in 0..2 {
        history.offered(7, number, 1);
        history.acknowledged(7, number, 10 + number);
    }
    history
}

/// Published, acknowledged, and the index; the rest is ready.
fn counts(published: u64, acknowledged: u64, index: u64) -> QueueInfo {
    let ready = published - acknowledged;
    let levels = vec![LevelInfo { priority: 1, ready, ..LevelInfo::default() }];
    QueueInfo { published, acknowledged, index, ready, levels, ..QueueInfo::default() }
}

#[track_caller]
fn broken(history: &History, promise: &str) {
    let why = history.verdict().unwrap_err();
    assert!(why.starts_with(promise), "{why}");
}

#[test]
fn a_good_history_is_good() {
    let history = two_acknowledged();
    history.delivered(1, delivered("7/0", 4, false));
    history.delivered(1, delivered("7/0", 4, true));
    history.delivered(1, delivered("7/1", 9, false));
    assert_eq!(history.verdict(), Ok(()));
    assert_eq!((history.stored(), history.deliveries()), (2, (3, 1)));
}

#[test]
fn each_broken_promise_is_found() {
    broken(&two_acknowledged(), "durable:");
    for (deliveries, promise) in [
        (&[("7/0", 1, false), ("7/0", 2, false)][..], "once:"),
        (&[("7/0", 1, false), ("7/0", 1, false)], "leased:"),
        (&[("7/0", 2, false), ("7/1", 1, true)], "ordered: 7/1 lies before"),
        (&[("7/1", 2, false), ("7/0", 1, false)], "ordered: 7/0 of place 1 comes for the first time"),
        (&[("7/2", 1, false)], "honest:"),
        (&[("nonsense", 1, false)], "honest:"),
    ] {
        let history = two_acknowledged();
        for (payload, sequence, is_redelivered) in deliveries {
            history.delivered(1, delivered(payload, *sequence, *is_redelivered));
        }
        broken(&history, promise);
    }
}

#[test]
fn what_was_never_acknowledged_may_be_anywhere() {
    let history = two_acknowledged();
    history.offered(7, 2, 1);
    history.delivered(1, delivered("7/0", 1, false));
    history.delivered(1, delivered("7/1", 2, false));
    assert_eq!(history.verdict(), Ok(()));
}

#[test]
fn two_consumers_are_not_ordered_among_each_other() {
    let history = two_acknowledged();
    history.delivered(1, delivered("7/1", 2, false));
    history.delivered(2, delivered("7/0", 1, false));
    assert_eq!(history.verdict(), Ok(()));
}

/// `2` is stored before `0` of lower priority is offered, and the consumer gets `0` first.
fn overtaken(is_redelivered: bool) -> History {
    let history = History::default();
    history.offered(7, 0, 2);
    history.acknowledged(7, 0, 1);
    history.offered(7, 1, 0);
    history.acknowledged(7, 1, 2);
    history.delivered(1, Delivered { payload: b"7/1", priority: 0, sequence: 2, is_redelivered: false });
    history.delivered(1, Delivered { payload: b"7/0", priority: 2, sequence: 1, is_redelivered });
    history
}

#[test]
fn lower_priority_before_a_higher_one_is_found() {
    broken(&overtaken(false), "priority: 7/0 of priority 2");
    // Somebody else may have had it when the lower one was dispatched.
    assert_eq!(overtaken(true).verdict(), Ok(()));
}

#[test]
fn lower_priority_that_was_there_first_may_come_first() {
    let history = History::default();
    history.offered(7, 1, 0);
    history.offered(7, 0, 2);
    history.acknowledged(7, 0, 1);
    history.acknowledged(7, 1, 2);
    history.delivered(1, Delivered { payload: b"7/1", priority: 0, sequence: 2, is_redelivered: false });
    history.delivered(1, Delivered { payload: b"7/0", priority: 2, sequence: 1, is_redelivered: false });
    assert_eq!(history.verdict(), Ok(()));
}

/// Two are stored at index 11, one was delivered, and one more is offered.
fn counted() -> History {
    let history = two_acknowledged();
    history.delivered(1, delivered("7/0", 1, false));
    history.offered(7, 2, 1);
    history
}

#[test]
fn counts_that_can_be_are_good() {
    for info in [counts(2, 0, 11), counts(3, 0, 11), counts(2, 1, 40)] {
        let history = counted();
        history.shown(&history.asks(), &info);
        assert_eq!(history.broken(), None);
    }
    // An answer to what was asked before may be of before.
    let history = counted();
    let early = history.asks();
    history.acknowledged(7, 2, 30);
    history.shown(&early, &counts(2, 0, 11));
    assert_eq!(history.broken(), None);
}

#[test]
fn counts_that_cannot_be_are_found() {
    let in_flight = QueueInfo { in_flight: 1, ..counts(2, 0, 11) };
    let levels = QueueInfo { levels: Vec::new(), ..counts(2, 0, 11) };
    for (info, why) in [
        (counts(1, 0, 11), "it was asked after"),
        (counts(2, 0, 10), "it was asked after"),
        (counts(4, 0, 11), "3 were offered"),
        (counts(2, 2, 11), "1 delivered"),
        (in_flight, "they do not add up"),
        (levels, "by priority they are 0 and 0"),
    ] {
        let history = counted();
        history.shown(&history.asks(), &info);
        let broken = history.broken().unwrap();
        assert!(broken.starts_with("exact:") && broken.contains(why), "{broken}");
    }
}

#[test]
fn stale_counts_are_found() {
    let history = counted();
    history.settled(1, 1);
    history.shown(&history.asks(), &counts(2, 0, 12));
    broken(&history, "exact:");

    // What one was told, nobody who asks later may not be told.
    let history = counted();
    history.shown(&history.asks(), &counts(3, 0, 20));
    history.shown(&history.asks(), &counts(2, 0, 12));
    broken(&history, "exact:");
}

#[test]
fn two_counts_of_one_index_are_found() {
    for (first, second) in [
        (counts(2, 0, 20), counts(3, 0, 20)),
        (counts(3, 0, 20), counts(2, 0, 21)),
        (counts(2, 0, 20), counts(3, 0, 19)),
    ] {
        let history = counted();
        // Both were asked at once.
        let asked = history.asks();
        history.shown(&asked, &first);
        history.shown(&asked, &second);
        broken(&history, "exact:");
    }
}
