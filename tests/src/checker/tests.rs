use super::*;

/// A history in words, and the promise it breaks; nothing if it breaks none.
///
/// `p1.9` publish message 1 with priority 9 · `a1` acknowledged · `r1` refused · `f1` refused as full ·
/// `d1@5` delivered from place 5 (`d1@5x2`: the second time, to the second consumer) · `s1` settle asked · `k1` accepted ·
/// `b1` back · `g1` consumer 1 gone · `t100` time passes to 100 · `c2+1` counts 2 ready and 1 in flight ·
/// `R` restart · `E` drained. Every message is 10 bytes, every lease 50 long, the queue takes 4 messages.
#[track_caller]
fn check(history: &str, expected: &str) {
    let mut checker = Checker::default();
    checker.queue_created(1, Limits { length_max: 4, bytes_max: 0 });
    let mut now = 0;
    let outcome = history.split_whitespace().try_for_each(|word| step(&mut checker, &mut now, word));
    let told = outcome.err().unwrap_or_default();
    assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{history}: {told:?}");
}

fn step(checker: &mut Checker, now: &mut u64, word: &str) -> Result<(), Violation> {
    let (what, rest) = word.split_at(1);
    let numbers: Vec<u64> =
        rest.split(['.', '@', 'x', '+']).filter_map(|number| number.parse().ok()).collect();
    let first = numbers.first().copied().unwrap_or(0);
    let id = MessageId(first);
    match what {
        "p" => {
            let priority = numbers.get(1).map_or(1, |&priority| priority as u8);
            checker.publish_offered(id, Offer { queue: 1, producer: (1, first), priority, bytes: 10 });
        }
        "a" => checker.publish_acknowledged(id)?,
        "r" => checker.publish_refused(id)?,
        "f" => checker.publish_refused_full(id)?,
        "d" => {
            let deliveries = numbers.get(2).copied().unwrap_or(1);
            let priority = checker.messages.get(&id).map_or(1, |message| message.offer.priority);
            let place = Place { queue: 1, priority, sequence: numbers[1] };
            let delivery =
                Delivery { message: id, place, consumer: deliveries, deliveries, until: *now + 50 };
            checker.delivered(*now, &delivery)?;
        }
        "s" => checker.settle_asked(id)?,
        "k" => checker.settle_accepted(id)?,
        "b" => checker.returned(id)?,
        "g" => checker.consumer_gone(first),
        "t" => *now = first,
        "c" => {
            let [ready, in_flight] = [numbers[0], numbers[1]];
            let counts =
                Counts { ready, ready_bytes: 10 * ready, in_flight, in_flight_bytes: 10 * in_flight };
            checker.counted(*now, 1, counts)?;
        }
        "R" => checker.broker_restarted(),
        "E" => checker.drained()?,
        _ => panic!("no such step: {word}"),
    }
    Ok(())
}

#[test]
fn ordinary_histories_pass() {
    check("p1 a1 d1@1 s1 k1 E c0+0", "");
    check("p1 p2 a1 a2 d1@1 d2@2 s2 k2 b1 d1@1x2 s1 k1 E", "");
    check("p1 a1 d1@1 t60 d1@1x2 s1 k1 E", "");
    check("p1 a1 d1@1 g1 d1@1x2 s1 k1 E", "");
    check("p1 a1 d1@1 R d1@1x2 s1 k1 E", "");
    check("p1 r1 p1 a1 d1@1 s1 k1 E", "");
    check("p1 p2 a1 R E", "durable");
    check("p1 d1@1 a1 s1 k1 E", "");
    check("p1 a1 d1@1 s1 R d1@1x2 s1 k1 E", "");
}

#[test]
fn lost_message_is_found() {
    check("p1 a1 E", "durable");
    check("p1 p2 a1 a2 d2@2 s2 k2 E", "durable");
    check("p1 a1 d1@1 b1 E", "durable");
    check("p1 a1 r1", "durable");
}

#[test]
fn doubled_message_is_found() {
    check("p1 a1 d1@1 s1 k1 d1@1x2", "once");
    check("p1 a1 d1@1 b1 d1@2x2", "once");
    check("p1 p2 a1 a2 d1@1 d2@1", "once");
    check("p1 r1 d1@1", "once");
    check("p1 r1 a1", "once");
    check("d7@1", "once");
    check("p1 a1 d1@1 k1", "once");
}

#[test]
fn wrong_order_is_found() {
    check("p1 p2 a1 a2 d2@1 d1@2", "ordered");
    check("p1 p2 a1 a2 d1@1 d2@2 b1 b2 d2@2x2", "ordered");
    check("p1 p2 a1 a2 d1@1 d2@2 b1 b2 d1@1x2 d2@2x2", "");
}

#[test]
fn overtaken_priority_is_found() {
    check("p1.1 p2.9 a1 a2 d1@1", "priority");
    check("p1.1 p2.9 a1 a2 d2@1 d1@1", "");
    check("p1.1 p2.9 a1 d1@1", "");
    check("p1.1 p2.9 a1 a2 d2@1 b2 d1@1", "priority");
}

#[test]
fn wrong_counts_are_found() {
    check("p1 a1 p2 a2 c2+0 d1@1 c1+1", "");
    check("p1 a1 c0+0", "exact");
    check("p1 a1 d1@1 c1+0", "exact");
    check("p1 c0+0 c1+0 c2+0", "exact: queue 1 has 2");
    check("p1 a1 d1@1 s1 c0+1 c0+0 k1 c0+1", "exact");
}

#[test]
fn overshot_limit_is_found() {
    check("p1 p2 p3 p4 p5 a1 a2 a3 a4 f5", "");
    check("p1 p2 p3 p4 p5 a1 a2 a3 a4 a5", "bounded");
    check("p1 p2 p3 a1 a2 f3", "bounded");
    check("p1 p2 p3 p4 p5 f5", "");
}

#[test]
fn broken_lease_is_found() {
    check("p1 a1 d1@1 d1@1x2", "leased");
    check("p1 a1 d1@1 b1 d1@1x1", "leased");
    check("p1 a1 d1@1 t40 d1@1x2", "leased");
}
