//! The blocking client against a shard that keeps its promises and misbehaves on request.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod fake;

use std::time::{Duration, Instant};

use fake::Fake;
use ringmain_client::blocking::{Client, Consumer, Producer};
use ringmain_client::{
    Builder, Code, Completion, Error, Event, IdleStrategy, Message, QueueSettings, Sequence,
};

const SOON: Duration = Duration::from_secs(20);

fn builder() -> Builder<Client> {
    // Many tests share few cores.
    Client::builder().heartbeat(Duration::from_secs(5), SOON).connect_timeout(SOON).call_timeout(SOON)
}

fn connect(fake: &Fake) -> Client {
    builder().connect(&fake.address()).unwrap()
}

fn setup() -> (Fake, Client, Producer) {
    let fake = Fake::start();
    fake.add_queue("orders");
    let client = connect(&fake);
    let producer = client.producer("orders").unwrap();
    (fake, client, producer)
}

/// Polls until this many publishes are finished.
fn finish(client: &Client, producer: &mut Producer, count: usize) -> Vec<Completion> {
    let started = Instant::now();
    let mut finished = Vec::new();
    while finished.len() < count {
        assert!(started.elapsed() < SOON, "{} of {count} publishes finished", finished.len());
        if producer.poll(|completion| finished.push(completion)) == 0 {
            client.idle();
        }
    }
    finished
}

/// Polls until this many messages were handled; acknowledges all of them.
fn consume(client: &Client, consumer: &mut Consumer, count: usize) -> Vec<Vec<u8>> {
    let started = Instant::now();
    let mut payloads = Vec::new();
    while payloads.len() < count {
        assert!(started.elapsed() < SOON, "{} of {count} messages consumed", payloads.len());
        let handle = |delivery: ringmain_client::blocking::Delivery<'_>| {
            payloads.push(delivery.payload().to_vec());
            delivery.ack();
        };
        if consumer.poll(100, handle).unwrap() == 0 {
            client.idle();
        }
    }
    payloads
}

fn until(client: &Client, what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "never: {what}");
        if !client.poll() {
            client.idle();
        }
    }
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("message {number}").into_bytes()).collect()
}

#[test]
fn a_publish_comes_back_as_a_receipt() {
    let (fake, client, mut producer) = setup();
    let message = Message::new("buy").priority(3).key("ACME").header("trace", "1").unwrap();
    let receipt = producer.publish(&message, SOON).unwrap();
    assert_eq!((receipt.sequence, receipt.messages, receipt.duplicate), (Sequence(1), 1, false));
    assert_eq!((receipt.group, receipt.term, receipt.index), (1, 2, 1));
    assert_eq!((receipt.waited, receipt.durable), (Duration::from_micros(3), Duration::from_micros(4)));
    assert!(receipt.round_trip > Duration::ZERO);
    let stored = fake.state().queues["orders"].ready[0].clone();
    assert_eq!((stored.priority, &stored.key[..], &stored.payload[..]), (3, &b"ACME"[..], &b"buy"[..]));
    client.close(SOON).unwrap();
}

#[test]
fn every_idle_strategy_works() {
    let fake = Fake::start();
    fake.add_queue("orders");
    for idle in [IdleStrategy::Spin, IdleStrategy::Yield, IdleStrategy::Park] {
        let client = builder().idle(idle).connect(&fake.address()).unwrap();
        client.producer("orders").unwrap().publish(&Message::new("x"), SOON).unwrap();
        client.close(SOON).unwrap();
    }
}

#[test]
fn what_is_published_is_consumed_in_order() {
    let (_fake, client, mut producer) = setup();
    let messages = numbered(1000);
    for payload in &messages {
        producer.offer(&Message::new(payload)).unwrap();
    }
    let finished = finish(&client, &mut producer, 1000);
    let sequences: Vec<_> = finished.iter().map(|completion| completion.sequence.0).collect();
    assert_eq!(sequences, (1..=1000).collect::<Vec<_>>());
    let mut consumer = client.consumer("orders", 64).unwrap();
    assert_eq!(consume(&client, &mut consumer, 1000), messages);
    until(&client, "all settled", || consumer.settled() == (1000, 0));
    client.close(SOON).unwrap();
}

#[test]
fn nothing_lingers() {
    let (_fake, client, mut producer) = setup();
    let mut consumer = client.consumer("orders", 1).unwrap();
    let started = Instant::now();
    for _ in 0..100 {
        producer.publish(&Message::new("x"), SOON).unwrap();
        consume(&client, &mut consumer, 1);
    }
    // No timer may have had a part in this: the shortest one, for a ping, is 5 s here.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn a_thread_that_was_away_finds_its_connection_alive() {
    let fake = Fake::start();
    fake.add_queue("orders");
    let (ping, silence) = (Duration::from_millis(20), Duration::from_millis(200));
    let client = builder().heartbeat(ping, silence).connect(&fake.address()).unwrap();
    let mut producer = client.producer("orders").unwrap();
    for _ in 0..3 {
        until(&client, "a ping is under way", || {
            let pings = fake.state().pings;
            fake.state().pings = 0;
            pings > 0
        });
        std::thread::park_timeout(silence * 2);
        producer.publish(&Message::new("x"), SOON).unwrap();
    }
    assert_eq!(fake.state().connections, 1);
}

#[test]
fn offers_until_a_poll_leave_in_one_write() {
    let (fake, client, mut producer) = setup();
    for payload in numbered(500) {
        producer.offer(&Message::new(&payload)).unwrap();
    }
    finish(&client, &mut producer, 500);
    let state = fake.state();
    assert_eq!(state.publish_frames, 500, "one frame each");
    assert!(state.largest_read > 20_000, "largest read of {} bytes", state.largest_read);
}

#[test]
fn a_batch_has_one_receipt() {
    let (fake, client, mut producer) = setup();
    let payloads = numbered(1000);
    let messages: Vec<_> = payloads.iter().map(Message::new).collect();
    let receipt = producer.publish_batch(&messages, SOON).unwrap();
    assert_eq!((receipt.sequence, receipt.messages), (Sequence(1), 1000));
    assert_eq!(fake.log("orders"), payloads);
    client.close(SOON).unwrap();
}

#[test]
fn what_can_never_be_sent_is_refused_at_once() {
    let (_fake, _client, mut producer) = setup();
    let large = vec![0; (1 << 20) + 1];
    let error = producer.offer(&Message::new(&large)).unwrap_err();
    assert_eq!(error, Error::TooLarge { bytes: (1 << 20) + 1, max: 1 << 20 });
    let megabyte = vec![0; 1 << 20];
    let messages = vec![Message::new(&megabyte); 5];
    assert!(matches!(producer.offer_batch(&messages), Err(Error::TooLarge { .. })));
    assert_eq!(producer.offer_batch(&[]), Err(Error::BatchCount { count: 0 }));
    producer.publish(&Message::new(&megabyte), SOON).unwrap();
}

#[test]
fn buffers_are_bounded_in_publishes() {
    let fake = Fake::start();
    fake.add_queue("orders");
    fake.state().inflight_frames_max = 10;
    let client = connect(&fake);
    let mut producer = client.producer("orders").unwrap();
    for _ in 0..10 {
        producer.offer(&Message::new("x")).unwrap();
    }
    assert_eq!(producer.offer(&Message::new("x")), Err(Error::Full));
    until(&client, "all answered", || producer.in_flight() == 0);
    assert_eq!(producer.offer(&Message::new("x")), Err(Error::Full), "answers that nobody fetches count too");
    assert_eq!(finish(&client, &mut producer, 10).len(), 10);
    producer.offer(&Message::new("x")).unwrap();
}

#[test]
fn buffers_are_bounded_in_bytes_while_the_shard_does_not_read() {
    let fake = Fake::start();
    fake.add_queue("orders");
    let client = builder().window(4096, 8 << 20).connect(&fake.address()).unwrap();
    let mut producer = client.producer("orders").unwrap();
    fake.state().frozen = true;
    let payload = vec![7; 100_000];
    let mut offered = 0;
    let full = loop {
        match producer.offer(&Message::new(&payload)) {
            Ok(_) => offered += 1,
            Err(error) => break error,
        }
        client.poll();
    };
    assert_eq!(full, Error::Full);
    assert!((80..=84).contains(&offered), "{offered} × 100 kB in a window of 8 MiB");
    assert_eq!(producer.publish(&Message::new(&payload), Duration::from_millis(20)), Err(Error::Full));
    fake.state().frozen = false;
    assert!(finish(&client, &mut producer, offered).iter().all(|completion| completion.result.is_ok()));
    client.close(SOON).unwrap();
}

#[test]
fn cut_connections_lose_and_double_nothing() {
    let fake = Fake::start();
    fake.add_queue("orders");
    let millisecond = Duration::from_millis(1);
    let client = builder().backoff(millisecond, millisecond).connect(&fake.address()).unwrap();
    let mut producer = client.producer("orders").unwrap();
    let messages = numbered(3000);
    let mut random = 12_345_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize
    };
    // Somewhere in a frame, or on its edge; what came before is done, and half of the time not answered.
    fake.state().cuts = (0..40).map(|_| (50 + next() % 20_000, next() % 2 == 0)).collect();
    fake.cut();
    let mut finished = Vec::new();
    for (number, payload) in messages.iter().enumerate() {
        while producer.offer(&Message::new(payload)) == Err(Error::Full) {
            producer.poll(|completion| finished.push(completion));
        }
        if number % 16 == 0 {
            producer.poll(|completion| finished.push(completion));
        }
    }
    let rest = messages.len() - finished.len();
    finished.extend(finish(&client, &mut producer, rest));
    assert!(finished.iter().all(|completion| completion.result.is_ok()));
    assert_eq!(fake.log("orders"), messages, "stored once, in order");
    let state = fake.state();
    assert!(state.connections > 20, "{} connections", state.connections);
    assert!(state.duplicates > 0, "no publish was ever sent twice");
    let duplicates =
        finished.iter().filter(|completion| completion.result.as_ref().unwrap().duplicate).count();
    assert!(duplicates > 0);
}

#[test]
fn a_restarted_shard_gets_what_was_in_flight() {
    let (fake, client, mut producer) = setup();
    producer.publish(&Message::new("before"), SOON).unwrap();
    fake.stop();
    let sequence = producer.offer(&Message::new("during")).unwrap();
    until(&client, "the loss is seen", || matches!(client.poll_event(), Some(Event::Lost { .. })));
    assert_eq!(producer.pop(), None);
    fake.restart();
    let finished = finish(&client, &mut producer, 1);
    assert_eq!(finished[0].sequence, sequence);
    assert!(finished[0].result.is_ok());
    assert_eq!(fake.log("orders"), [b"before".to_vec(), b"during".to_vec()]);
    let mut connected = false;
    while let Some(event) = client.poll_event() {
        connected |= matches!(event, Event::Connected { .. });
    }
    assert!(connected);
}

#[test]
fn a_consumer_subscribes_again_by_itself() {
    let (fake, client, mut producer) = setup();
    let mut consumer = client.consumer("orders", 10).unwrap();
    producer.publish(&Message::new("first"), SOON).unwrap();
    assert_eq!(consume(&client, &mut consumer, 1), [b"first".to_vec()]);
    until(&client, "settled", || consumer.settled().0 == 1);
    fake.cut();
    producer.publish(&Message::new("second"), SOON).unwrap();
    assert_eq!(consume(&client, &mut consumer, 1), [b"second".to_vec()]);
    assert_eq!(fake.state().queues["orders"].consumers, 1);
}

#[test]
fn a_lease_ends_with_its_connection() {
    let (fake, client, mut producer) = setup();
    let mut consumer = client.consumer("orders", 10).unwrap();
    producer.publish(&Message::new("x"), SOON).unwrap();
    let mut lease = None;
    until(&client, "delivered", || {
        consumer.poll(1, |delivery| lease = Some(delivery.lease())).unwrap();
        lease.is_some()
    });
    fake.cut();
    let mut again = Vec::new();
    until(&client, "delivered again", || {
        let seen =
            |d: ringmain_client::blocking::Delivery<'_>| again.push((d.deliveries(), d.is_redelivered()));
        consumer.poll(1, seen).unwrap();
        !again.is_empty()
    });
    assert_eq!(again, [(2, true)]);
    // The old lease settles nothing: the message is leased anew.
    consumer.ack(lease.unwrap());
    consumer.flush();
    client.poll();
    assert_eq!(consumer.settled().0, 0);
    assert_eq!(fake.state().queues["orders"].in_flight, 1);
}

#[test]
fn outcomes_are_what_was_said() {
    let (fake, client, mut producer) = setup();
    for payload in ["ack", "nack", "reject"] {
        producer.publish(&Message::new(payload), SOON).unwrap();
    }
    let mut consumer = client.consumer("orders", 10).unwrap();
    let mut seen = Vec::new();
    until(&client, "four deliveries", || {
        consumer
            .poll(10, |delivery| {
                seen.push((delivery.payload().to_vec(), delivery.deliveries()));
                match (delivery.payload(), delivery.deliveries()) {
                    (b"nack", 1) => delivery.nack(),
                    (b"reject", _) => delivery.reject(),
                    _ => delivery.ack(),
                }
            })
            .unwrap();
        seen.len() == 4
    });
    assert_eq!(seen[3], (b"nack".to_vec(), 2));
    until(&client, "settled", || consumer.settled() == (4, 0));
    assert_eq!(fake.state().queues["orders"].in_flight, 0);
}

#[test]
fn acknowledgements_are_joined() {
    let (fake, client, mut producer) = setup();
    let payloads = numbered(1000);
    let messages: Vec<_> = payloads.iter().map(Message::new).collect();
    producer.publish_batch(&messages, SOON).unwrap();
    let mut consumer = client.consumer("orders", 1000).unwrap();
    let mut handled = 0;
    until(&client, "handled", || {
        handled += consumer.poll(1000, |delivery| delivery.ack()).unwrap();
        handled == 1000
    });
    until(&client, "settled", || consumer.settled() == (1000, 0));
    assert!(fake.state().settle_frames < 10, "{} frames", fake.state().settle_frames);
}

#[test]
fn a_handler_may_publish() {
    let (fake, client, mut producer) = setup();
    fake.add_queue("out");
    let mut out = client.producer("out").unwrap();
    producer.publish(&Message::new("in"), SOON).unwrap();
    let mut consumer = client.consumer("orders", 1).unwrap();
    until(&client, "handled", || {
        consumer
            .poll(1, |delivery| {
                out.offer(&Message::new(delivery.payload())).unwrap();
                out.poll(|_| {});
                delivery.ack();
            })
            .unwrap()
            == 1
    });
    out.flush(SOON).unwrap();
    assert_eq!(fake.log("out"), [b"in".to_vec()]);
}

#[test]
fn a_refusal_is_reported_and_does_not_hold_up_the_rest() {
    let (fake, client, mut producer) = setup();
    fake.state().refuse.push_back((Code::Full, 5));
    for payload in ["refused", "stored"] {
        producer.offer(&Message::new(payload)).unwrap();
    }
    let finished = finish(&client, &mut producer, 2);
    let error = finished[0].result.clone().unwrap_err();
    assert_eq!(error.code(), Some(Code::Full));
    assert!(error.is_retryable());
    assert!(!error.is_uncertain());
    assert!(finished[1].result.is_ok());
    assert_eq!(fake.log("orders"), [b"stored".to_vec()]);
}

#[test]
fn a_refused_publish_is_not_sent_again_after_a_reconnect() {
    let (fake, client, mut producer) = setup();
    fake.state().refuse.push_back((Code::Busy, 0));
    producer.offer(&Message::new("refused")).unwrap();
    assert!(finish(&client, &mut producer, 1)[0].result.is_err());
    fake.cut();
    producer.publish(&Message::new("stored"), SOON).unwrap();
    assert_eq!(fake.log("orders"), [b"stored".to_vec()]);
}

#[test]
fn what_may_be_stored_is_asked_again_while_the_shard_is_not_ready() {
    let (fake, client, mut producer) = setup();
    fake.state().die_after_publish = true;
    producer.offer(&Message::new("stored, not answered")).unwrap();
    let stored = || {
        let mut state = fake.state();
        let stored = !state.queues["orders"].log.is_empty();
        state.unready = if stored { 3 } else { 0 };
        stored
    };
    until(&client, "stored", stored);
    let finished = finish(&client, &mut producer, 1);
    assert!(finished[0].result.as_ref().unwrap().duplicate, "{finished:?}");
    assert_eq!(fake.state().unready, 0);
    assert_eq!(fake.log("orders").len(), 1);
}

#[test]
fn waiting_for_a_publish_tries_again_while_the_shard_is_busy() {
    let (fake, _client, mut producer) = setup();
    fake.state().refuse.extend([(Code::Busy, 1), (Code::Full, 1)]);
    let receipt = producer.publish(&Message::new("x"), SOON).unwrap();
    assert_eq!(receipt.sequence, Sequence(3));
    fake.state().refuse.push_back((Code::InvalidSettings, 0));
    let error = producer.publish(&Message::new("x"), SOON).unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidSettings));
}

#[test]
fn a_queue_is_dialled_at_its_own_shard() {
    let fakes = Fake::start_shards(3);
    let names: Vec<_> = (0..20).map(|number| format!("queue-{number}")).collect();
    let client = connect(&fakes[0]);
    for name in &names {
        client.create_queue(name, &QueueSettings::default()).unwrap();
        client.producer(name).unwrap().publish(&Message::new(name), SOON).unwrap();
    }
    for fake in &fakes {
        let state = fake.state();
        assert!(!state.queues.is_empty());
        assert_eq!(state.connections, 1, "one connection for all queues of a shard");
    }
    let listed: Vec<_> = client.list_queues().unwrap().into_iter().map(|info| info.name).collect();
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(listed, expected);
    assert_eq!(client.cluster().unwrap().shards.len(), 3);
}

#[test]
fn a_redirect_is_followed() {
    let (here, there) = (Fake::start(), Fake::start());
    here.add_queue("orders");
    there.add_queue("orders");
    here.state().redirect = Some(("orders".to_owned(), there.port));
    let client = connect(&here);
    let mut producer = client.producer("orders").unwrap();
    producer.publish(&Message::new("x"), SOON).unwrap();
    assert_eq!(there.log("orders").len(), 1);
    let mut consumer = client.consumer("orders", 1).unwrap();
    assert_eq!(consume(&client, &mut consumer, 1), [b"x".to_vec()]);
    assert_eq!(client.show_queue("orders").unwrap().published, 1);
    let mut moved = false;
    while let Some(event) = client.poll_event() {
        moved |= matches!(event, Event::Moved { .. });
    }
    assert!(moved);
}

#[test]
fn shards_that_point_at_each_other_do_not_hang_the_client() {
    let (a, b) = (Fake::start(), Fake::start());
    a.state().redirect = Some(("orders".to_owned(), b.port));
    b.state().redirect = Some(("orders".to_owned(), a.port));
    let client = builder().call_timeout(Duration::from_millis(200)).connect(&a.address()).unwrap();
    let error = client.producer("orders").unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(matches!(client.consumer("orders", 1).unwrap_err(), Error::Timeout { .. }));
    assert!(matches!(client.show_queue("orders").unwrap_err(), Error::Timeout { .. }));
}

#[test]
fn a_session_that_expired_is_opened_anew() {
    let (fake, client, mut producer) = setup();
    producer.publish(&Message::new("before"), SOON).unwrap();
    fake.forget_sessions();
    // Sent once and refused: certainly not stored, so they go again, in order.
    for payload in ["one", "two", "three"] {
        producer.offer(&Message::new(payload)).unwrap();
    }
    let finished = finish(&client, &mut producer, 3);
    assert!(finished.iter().all(|completion| completion.result.is_ok()));
    assert_eq!(finished[2].sequence, Sequence(4), "sequences go on");
    let log = fake.log("orders");
    assert_eq!(log, ["before", "one", "two", "three"].map(|text| text.as_bytes().to_vec()));
}

#[test]
fn what_may_be_stored_is_reported_as_uncertain_when_its_session_is_gone() {
    let (fake, client, mut producer) = setup();
    fake.state().die_after_publish = true;
    producer.offer(&Message::new("uncertain")).unwrap();
    let stored = || {
        let mut state = fake.state();
        let stored = !state.queues["orders"].log.is_empty();
        if stored {
            state.forget_sessions();
        }
        stored
    };
    until(&client, "stored", stored);
    let finished = finish(&client, &mut producer, 1);
    let error = finished[0].result.clone().unwrap_err();
    assert_eq!(error, Error::SessionLost);
    assert!(error.is_uncertain());
}

#[test]
fn a_named_producer_goes_on_where_it_stopped_and_fences_its_past() {
    let fake = Fake::start();
    fake.add_queue("orders");
    let client = connect(&fake);
    let mut old = client.named_producer("orders", "engine").unwrap();
    assert_eq!(old.last_sequence(), Sequence(0));
    old.publish(&Message::new("1"), SOON).unwrap();
    let mut new = client.named_producer("orders", "engine").unwrap();
    assert_eq!(new.last_sequence(), Sequence(1));
    let error = old.publish(&Message::new("late"), SOON).unwrap_err();
    assert_eq!(error.code(), Some(Code::Fenced));
    assert_eq!(old.offer(&Message::new("later")).unwrap_err().code(), Some(Code::Fenced));
    assert_eq!(new.publish(&Message::new("2"), SOON).unwrap().sequence, Sequence(2));
}

#[test]
fn a_silent_shard_is_noticed_in_time() {
    let fake = Fake::start();
    fake.add_queue("orders");
    let (ping, silence) = (Duration::from_millis(50), Duration::from_millis(300));
    let client = builder().heartbeat(ping, silence).connect(&fake.address()).unwrap();
    let mut consumer = client.consumer("orders", 1).unwrap();
    until(&client, "a ping when it is quiet", || fake.state().pings > 0);
    assert!(consumer.is_connected());
    fake.state().frozen = true;
    let frozen = Instant::now();
    until(&client, "silence is seen", || matches!(client.poll_event(), Some(Event::Silent { .. })));
    assert!(frozen.elapsed() < silence * 10);
    assert!(!consumer.is_connected());
    fake.state().frozen = false;
    fake.put("orders", 0, b"x");
    assert_eq!(consume(&client, &mut consumer, 1), [b"x".to_vec()]);
}

#[test]
fn unknown_queues_fail_at_once() {
    let fake = Fake::start();
    let client = connect(&fake);
    assert_eq!(client.producer("none").unwrap_err().code(), Some(Code::NoSuchQueue));
    assert_eq!(client.consumer("none", 1).unwrap_err().code(), Some(Code::NoSuchQueue));
    assert_eq!(client.show_queue("none").unwrap_err().code(), Some(Code::NoSuchQueue));
}

#[test]
fn a_queue_that_is_deleted_ends_its_producers_and_consumers() {
    let (fake, client, mut producer) = setup();
    let mut consumer = client.consumer("orders", 1).unwrap();
    fake.remove_queue("orders");
    let error = producer.publish(&Message::new("x"), SOON).unwrap_err();
    assert_eq!(error.code(), Some(Code::NoSuchQueue));
    until(&client, "the producer has failed", || producer.offer(&Message::new("x")).is_err());
    fake.cut();
    let mut failed = None;
    until(&client, "the consumer has failed", || {
        failed = consumer.poll(1, |_| {}).err();
        failed.is_some()
    });
    assert_eq!(failed.unwrap().code(), Some(Code::NoSuchQueue));
}

#[test]
fn administration_answers() {
    let fake = Fake::start();
    let client = connect(&fake);
    client.create_queue("a", &QueueSettings::default()).unwrap();
    client.create_queue("a", &QueueSettings::default()).unwrap();
    fake.put("a", 0, b"1");
    fake.put("a", 0, b"2");
    assert_eq!(client.show_queue("a").unwrap().ready, 2);
    assert_eq!(client.purge_queue("a").unwrap(), 2);
    assert_eq!(client.delete_queue("a").unwrap(), 0);
    assert_eq!(client.list_queues().unwrap(), []);
}

#[test]
fn nobody_there_is_said_clearly() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let client = Client::builder().connect_timeout(Duration::from_millis(100));
    let error = client.connect(&format!("127.0.0.1:{port}")).unwrap_err();
    assert!(error.to_string().contains("nobody listens there"), "{error}");
    assert!(matches!(Client::builder().connect("nonsense"), Err(Error::Address { .. })));
}

#[test]
fn another_address_is_tried_when_the_first_is_dead() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let fake = Fake::start();
    let client = builder().connect(&format!("127.0.0.1:{dead},{}", fake.address())).unwrap();
    assert_eq!(client.cluster().unwrap().node, 1);
}

#[test]
fn another_cluster_is_refused_at_once() {
    let fake = Fake::start();
    let error = builder().cluster(78).connect(&fake.address()).unwrap_err();
    assert_eq!(error.code(), Some(Code::WrongCluster));
    builder().cluster(77).connect(&fake.address()).unwrap();
}

#[test]
fn close_waits_for_receipts_and_says_what_is_missing() {
    let (fake, client, mut producer) = setup();
    for payload in numbered(100) {
        producer.offer(&Message::new(&payload)).unwrap();
    }
    client.clone().close(SOON).unwrap();
    assert_eq!(fake.log("orders").len(), 100);
    assert_eq!(producer.offer(&Message::new("late")), Err(Error::Closed));
    let (fake, client, mut producer) = setup();
    fake.state().frozen = true;
    producer.offer(&Message::new("x")).unwrap();
    assert_eq!(client.close(Duration::from_millis(20)), Err(Error::Undrained { messages: 1 }));
}

#[test]
fn a_producer_that_is_dropped_still_sends_what_it_has() {
    let (fake, client, mut producer) = setup();
    producer.offer(&Message::new("x")).unwrap();
    drop(producer);
    client.close(SOON).unwrap();
    assert_eq!(fake.log("orders"), [b"x".to_vec()]);
}

#[test]
fn a_consumer_that_is_dropped_returns_its_messages() {
    let (fake, client, mut producer) = setup();
    let mut consumer = client.consumer("orders", 10).unwrap();
    producer.publish(&Message::new("x"), SOON).unwrap();
    until(&client, "delivered", || fake.state().queues["orders"].in_flight == 1);
    assert_eq!(
        consumer.poll(1, |_| {}).ok(),
        Some(consumer.poll(0, |_| {}).map_or(0, |_| 1)).filter(|n| *n == 1)
    );
    drop(consumer);
    until(&client, "returned", || fake.state().queues["orders"].in_flight == 0);
    assert_eq!(fake.state().queues["orders"].ready.len(), 1);
}
