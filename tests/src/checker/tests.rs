use super::*;

/// A history in words, and the promise it breaks; nothing if it breaks none.
///
/// `p1.9` publish message 1 with priority 9 · `a1` acknowledged · `r1` refused · `f1` could be refused as full, `F1` not ·
/// `d1@5` delivered from place 5 (`d1@5x2`: to consumer 2 and the second time, `d1@5x2*1` and the first time) ·
/// `k1` settled, `b1` brought back (`k1?` the answer is lost, `k1!` it was stale) · `g1` consumer 1 gone ·
/// `t100` time passes to 100 · `q` nothing is under way · `c2+1` counts 2 ready and 1 in flight of priority 1 · `P2` a
/// purge took 2 · `R` restart · `E` drained. Messages are 10 bytes, leases 50 long, the queue takes 4 messages.
#[track_caller]
fn check(history: &str, expected: &str) {
    let mut checker = Checker::default();
    checker.queue_created(1, Limits { length_max: 4, bytes_max: 0 });
    (1..4).for_each(|consumer| checker.subscribed(consumer, 1, 10));
    let mut now = 0;
    let outcome = history.split_whitespace().try_for_each(|word| step(&mut checker, &mut now, word));
    let told = outcome.err().unwrap_or_default();
    assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{history}: {told:?}");
}

fn step(checker: &mut Checker, now: &mut u64, word: &str) -> Result<(), Violation> {
    let (what, rest) = word.split_at(1);
    let numbers: Vec<u64> =
        rest.split(['.', '@', 'x', '+', '*', '?', '!']).filter_map(|number| number.parse().ok()).collect();
    let first = numbers.first().copied().unwrap_or(0);
    let id = MessageId(first);
    match what {
        "p" => {
            let priority = numbers.get(1).map_or(1, |&priority| priority as u8);
            let offer = Offer { queue: 1, producer: (1, first), priority, bytes: 10 };
            checker.publish_offered(id, offer, None);
        }
        "a" => checker.publish_acknowledged(id, Some(1))?,
        "r" => checker.publish_refused(id, Refusal::NotStored)?,
        "f" => assert!(checker.may_be_full(1, &[id], 10)),
        "F" => assert!(!checker.may_be_full(1, &[id], 10)),
        "d" => {
            let consumer = numbers.get(2).copied().unwrap_or(1);
            let deliveries = numbers.get(3).copied().unwrap_or(consumer);
            let priority = checker.messages.get(&id).map_or(1, |message| message.offer.priority);
            let place = Place { queue: 1, priority, sequence: numbers[1] };
            checker.delivered(&Delivery { message: id, place, consumer, deliveries, until: *now + 50 })?;
        }
        "k" | "b" => {
            let outcome = if what == "k" { Outcome::Remove } else { Outcome::Return };
            let message = &checker.messages[&id];
            let (place, deliveries) = (message.place, message.next.0 - 1);
            let place = place.unwrap_or(Place { queue: 1, priority: 1, sequence: 0 });
            let consumer = numbers.get(1).copied().unwrap_or(1);
            let settle = checker.settle_asked(consumer, &[(place, deliveries, outcome)]);
            match word.as_bytes().last() {
                Some(b'?') => checker.settle_abandoned(settle),
                Some(b'!') => checker.settle_answered(settle, 0, 1)?,
                _ => checker.settle_answered(settle, 1, 0)?,
            }
        }
        "g" => checker.consumer_gone(first),
        "q" => checker.quiet(),
        "t" => {
            *now = first;
            checker.turned(*now);
        }
        "c" => {
            let [ready, in_flight] = [numbers[0], numbers[1]];
            let counts =
                Counts { ready, ready_bytes: 10 * ready, in_flight, in_flight_bytes: 10 * in_flight };
            checker.counted(1, &LevelCounts::from([(1, counts)]))?;
        }
        "P" => {
            let purge = checker.purge_asked(1);
            checker.purge_done(purge, first)?;
        }
        "R" => {
            checker.restarted();
            (1..4).for_each(|consumer| checker.subscribed(consumer, 1, 10));
        }
        "E" => checker.drained()?,
        _ => panic!("no such step: {word}"),
    }
    Ok(())
}

#[test]
fn ordinary_histories_pass() {
    check("p1 a1 d1@1 k1 E c0+0", "");
    check("p1 p2 a1 a2 d1@1 d2@2 k2 b1 d1@1x2 k1.2 E", "");
    check("p1 a1 d1@1 t60 d1@1x2 k1.2 E", "");
    check("p1 a1 d1@1 g1 d1@1x2 k1.2 E", "");
    check("p1 a1 d1@1 R d1@1x2*1 k1.2 E", "");
    check("p1 r1 p1 a1 d1@1 k1 E", "");
    check("p1 d1@1 a1 k1 E", "");
    check("p1 a1 d1@1 k1? R d1@1x2*1 k1.2 E", "");
    check("p1 a1 d1@1 k1? R E", "");
}

#[test]
fn lost_message_is_found() {
    check("p1 p2 a1 R E", "durable");
    check("p1 a1 E", "durable");
    check("p1 p2 a1 a2 d1@1 d2@2 k2 E", "durable");
    check("p1 a1 d1@1 b1 E", "durable");
    check("p1 a1 r1", "durable");
}

#[test]
fn doubled_message_is_found() {
    check("p1 a1 d1@1 k1 d1@1x2", "once");
    check("p1 a1 d1@1 b1 d1@2x2", "once");
    check("p1 p2 a1 a2 d1@1 d2@1", "once");
    check("p1 r1 d1@1", "once");
    check("p1 r1 a1", "once");
    check("d7@1", "once");
    check("p1 a1 P1 d1@1", "once");
}

#[test]
fn wrong_order_is_found() {
    check("p1 p2 a1 a2 d2@1", "ordered");
    check("p1 p2 d2@1 d1@2", "ordered");
    check("p1 p2 a1 a2 d1@1 d2@2 b1 b2 d2@2x2", "ordered");
    check("p1 p2 a1 a2 d1@1 d2@2 b1 b2 d1@1x2 d2@2x2", "");
}

#[test]
fn overtaken_priority_is_found() {
    check("p1.1 p2.9 a1 a2 d1@1", "priority");
    check("p1.1 p2.9 a1 a2 d2@1 d1@1", "");
    check("p1.1 p2.9 a1 d1@1", "");
    check("p1.1 p2.9 a1 a2 d2@1 b2 d1@1", "priority");
    check("p1.1 p2.9 a1 a2 d2@1 g1 d1@1x2*1", "");
    check("p1.1 p2.9 a1 a2 d2@1 g1 q d1@1x2*1", "priority");
}

#[test]
fn wrong_counts_are_found() {
    check("p1 a1 p2 a2 c2+0 d1@1 c1+1", "");
    check("p1 a1 c0+0", "exact");
    check("p1 a1 d1@1 c1+0", "exact");
    check("p1 c0+0 c1+0 c2+0", "exact");
    check("p1 a1 d1@1 b1 c0+1", "exact");
    check("p1 a1 d1@1 t60 c0+1 c1+0 q c1+0 c0+1", "exact");
    check("p1 a1 p2 a2 d1@1 P1 c0+1", "");
    check("p1 a1 p2 a2 d1@1 P2", "exact");
}

#[test]
fn full_is_full() {
    check("p1 p2 p3 p4 a1 a2 a3 a4 f5", "");
    check("p1 p2 p3 p4 p5 a1 a2 a3 a4 a5", "bounded");
    check("p1 p2 a1 a2 F3", "");
    check("p1 p2 p3 p4 f5 r1 F5", "");
}

#[test]
fn broken_lease_is_found() {
    check("p1 a1 d1@1 d1@1x2", "leased");
    check("p1 a1 d1@1 b1 d1@1x2*1", "leased");
    check("p1 a1 d1@1 b1 d1@1x2*3", "leased");
    check("p1 a1 d1@1 t40 d1@1x2", "leased");
    check("p1 a1 d1@1 R d1@1x2", "leased");
    check("p1 a1 k1", "leased");
    check("p1 a1 d1@1 k1!", "leased");
    check("p1 a1 d1@1 t60 k1! E", "durable");
}
