//! The async client against a shard that keeps its promises and misbehaves on request. No runtime: futures are
//! polled on plain threads.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod fake;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fake::Fake;
use futures_lite::future::{block_on, or, poll_once, zip};
use ringmain_client::asynchronous::{Client, Consumer, Producer};
use ringmain_client::{Builder, Code, Error, Event, Message, QueueSettings, Sequence};

const SOON: Duration = Duration::from_secs(20);

fn builder() -> Builder<Client> {
    // Many tests share few cores.
    Client::builder().heartbeat(Duration::from_secs(5), SOON).connect_timeout(SOON).call_timeout(SOON)
}

async fn connect(fake: &Fake) -> Client {
    builder().connect(&fake.address()).await.unwrap()
}

async fn setup() -> (Fake, Client, Producer) {
    let fake = Fake::start();
    fake.add_queue("orders");
    let client = connect(&fake).await;
    let producer = client.producer("orders").await.unwrap();
    (fake, client, producer)
}

fn message(text: &str) -> Message<'static> {
    Message::owned(text)
}

async fn consume(consumer: &mut Consumer, count: usize) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        let delivery = consumer.next().await.unwrap();
        payloads.push(delivery.payload().to_vec());
        delivery.ack_soon().await.unwrap();
    }
    payloads
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_message_goes_out_and_comes_back() {
    block_on(async {
        let (fake, client, producer) = setup().await;
        let order = message("buy").priority(3).key("ACME").header("trace", "1").unwrap();
        let receipt = producer.send(order).await.unwrap();
        assert_eq!((receipt.sequence, receipt.group, receipt.term), (Sequence(1), 1, 2));
        let mut consumer = client.consumer("orders", 10).await.unwrap();
        assert!(consumer.is_connected());
        let delivery = consumer.next().await.unwrap();
        assert_eq!((delivery.payload(), delivery.key()), (&b"buy"[..], &b"ACME"[..]));
        assert_eq!(delivery.header("trace"), Some(&b"1"[..]));
        assert_eq!((delivery.priority(), delivery.deliveries(), delivery.sequence()), (3, 1, 1));
        delivery.ack().await.unwrap();
        assert_eq!(fake.state().queues["orders"].acked, [1]);
        client.close(SOON).await.unwrap();
    });
}

#[test]
fn many_in_flight_keep_their_order() {
    block_on(async {
        let (fake, client, producer) = setup().await;
        let mut pending = Vec::new();
        for number in 0..5000 {
            pending.push(producer.enqueue(message(&number.to_string())).await.unwrap());
        }
        for (number, receipt) in pending.into_iter().enumerate() {
            assert_eq!(receipt.await.unwrap().sequence, Sequence(number as u64 + 1));
        }
        let expected: Vec<_> = (0..5000).map(|number: u32| number.to_string().into_bytes()).collect();
        assert_eq!(fake.log("orders"), expected);
        assert!(fake.state().largest_read > 2000, "batched naturally");
        let mut consumer = client.consumer("orders", 100).await.unwrap();
        assert_eq!(consume(&mut consumer, 5000).await, expected);
        client.close(SOON).await.unwrap();
    });
}

#[test]
fn nothing_lingers() {
    block_on(async {
        let (_fake, client, producer) = setup().await;
        let mut consumer = client.consumer("orders", 1).await.unwrap();
        let started = Instant::now();
        for _ in 0..100 {
            producer.send(message("x")).await.unwrap();
            consumer.next().await.unwrap().ack().await.unwrap();
        }
        // No timer may have had a part in this: the shortest one, for a ping, is 5 s here.
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    });
}

#[test]
fn a_batch_has_one_receipt() {
    block_on(async {
        let (fake, _client, producer) = setup().await;
        let messages = (0..100).map(|number| message(&number.to_string())).collect();
        let receipt = producer.enqueue_batch(messages).await.unwrap().await.unwrap();
        assert_eq!((receipt.messages, fake.log("orders").len()), (100, 100));
        let empty = producer.enqueue_batch(Vec::new()).await.unwrap().await;
        assert_eq!(empty, Err(Error::BatchCount { count: 0 }));
    });
}

#[test]
fn a_full_window_gives_the_message_back() {
    block_on(async {
        let fake = Fake::start();
        fake.add_queue("orders");
        let client = builder().window(3, 1000).connect(&fake.address()).await.unwrap();
        let producer = client.producer("orders").await.unwrap();
        fake.state().frozen = true;
        let pending: Vec<_> = (0..3).map(|_| producer.try_send(message("x")).unwrap()).collect();
        let refused = producer.try_send(message("too many")).unwrap_err();
        assert_eq!(refused.error, Error::Full);
        assert_eq!(refused.message.payload(), b"too many");
        let waiting = producer.send(message("waits"));
        let mut waiting = std::pin::pin!(waiting);
        assert!(poll_once(&mut waiting).await.is_none());
        fake.state().frozen = false;
        waiting.await.unwrap();
        for receipt in pending {
            receipt.await.unwrap();
        }
        // Bytes are bounded too; one that is larger than everything goes alone.
        fake.state().frozen = true;
        let large = producer.try_send(Message::owned(vec![0; 5000])).unwrap();
        assert_eq!(producer.try_send(message("x")).unwrap_err().error, Error::Full);
        fake.state().frozen = false;
        large.await.unwrap();
        let never = producer.try_send(Message::owned(vec![0; 2 << 20])).unwrap_err();
        assert!(matches!(never.error, Error::TooLarge { .. }));
    });
}

#[test]
fn cut_connections_lose_and_double_nothing() {
    let fake = Fake::start();
    fake.add_queue("orders");
    fake.state().cuts = (0..30).map(|number| (300 + number * 777 % 9000, number % 2 == 0)).collect();
    block_on(async {
        let millisecond = Duration::from_millis(1);
        let client = builder().backoff(millisecond, millisecond).connect(&fake.address()).await.unwrap();
        let producer = client.producer("orders").await.unwrap();
        let mut pending = Vec::new();
        for number in 0..2000 {
            pending.push(producer.enqueue(message(&number.to_string())).await.unwrap());
        }
        for receipt in pending {
            receipt.await.unwrap();
        }
        let expected: Vec<_> = (0..2000).map(|number: u32| number.to_string().into_bytes()).collect();
        assert_eq!(fake.log("orders"), expected);
        assert!(fake.state().duplicates > 0);
        client.close(SOON).await.unwrap();
    });
}

#[test]
fn everything_is_consumed_once_settled_though_connections_are_cut() {
    block_on(async {
        let (fake, client, producer) = setup().await;
        for number in 0..300 {
            producer.send(message(&number.to_string())).await.unwrap();
        }
        let mut consumer = client.consumer("orders", 20).await.unwrap();
        let mut seen = BTreeSet::new();
        let mut handled = 0;
        while seen.len() < 300 {
            let delivery = consumer.next().await.unwrap();
            seen.insert(delivery.payload().to_vec());
            handled += 1;
            if handled % 50 == 0 {
                fake.cut();
            }
            // Stale or lost is possible around a cut: then it comes again.
            let settled = delivery.ack().await;
            assert!(matches!(settled, Ok(()) | Err(Error::Stale | Error::Lost { .. })), "{settled:?}");
        }
        client.close(SOON).await.unwrap();
    });
}

#[test]
fn deliveries_and_receipts_flow_side_by_side() {
    block_on(async {
        let (_fake, client, producer) = setup().await;
        let mut consumer = client.consumer("orders", 8).await.unwrap();
        let publish = async {
            for number in 0..500 {
                producer.send(message(&number.to_string())).await.unwrap();
            }
        };
        let (_, consumed) = zip(publish, consume(&mut consumer, 500)).await;
        assert_eq!(consumed.len(), 500);
        client.close(SOON).await.unwrap();
    });
}

#[test]
fn a_dropped_delivery_returns_at_once_and_is_told() {
    block_on(async {
        let (_fake, client, producer) = setup().await;
        producer.send(message("x")).await.unwrap();
        let mut consumer = client.consumer("orders", 1).await.unwrap();
        drop(consumer.next().await.unwrap());
        let again = consumer.next().await.unwrap();
        assert!(again.is_redelivered());
        again.ack().await.unwrap();
        let told = async {
            loop {
                if let Some(Event::Unsettled { messages, .. }) = client.next_event().await {
                    return messages;
                }
            }
        };
        assert_eq!(told.await, 1);
    });
}

#[test]
fn outcomes_are_what_was_said() {
    block_on(async {
        let (fake, client, producer) = setup().await;
        let mut consumer = client.consumer("orders", 1).await.unwrap();
        producer.send(message("x")).await.unwrap();
        consumer.next().await.unwrap().nack().await.unwrap();
        let again = consumer.next().await.unwrap();
        assert_eq!(again.deliveries(), 2);
        again.reject().await.unwrap();
        assert_eq!(fake.state().queues["orders"].in_flight, 0);
        assert!(consumer.try_next().unwrap().is_none());
    });
}

#[test]
fn waiting_for_a_message_can_be_given_up() {
    block_on(async {
        let (_fake, client, producer) = setup().await;
        let mut consumer = client.consumer("orders", 1).await.unwrap();
        let gave_up = or(async { consumer.next().await.map(|_| false) }, async { Ok(true) }).await;
        assert_eq!(gave_up, Ok(true));
        producer.send(message("x")).await.unwrap();
        assert_eq!(consume(&mut consumer, 1).await, [b"x".to_vec()]);
    });
}

#[test]
fn a_consumer_whose_queue_is_gone_says_so() {
    block_on(async {
        let (fake, client, _producer) = setup().await;
        let mut consumer = client.consumer("orders", 1).await.unwrap();
        fake.remove_queue("orders");
        fake.cut();
        let error = consumer.next().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::NoSuchQueue));
        assert_eq!(client.consumer("orders", 1).await.unwrap_err().code(), Some(Code::NoSuchQueue));
        assert_eq!(client.producer("orders").await.unwrap_err().code(), Some(Code::NoSuchQueue));
    });
}

#[test]
fn refusals_are_errors_of_their_message() {
    block_on(async {
        let (fake, _client, producer) = setup().await;
        fake.state().refuse.push_back((Code::Full, 0));
        let (first, second) = zip(producer.send(message("1")), producer.send(message("2"))).await;
        assert_eq!(first.unwrap_err().code(), Some(Code::Full));
        second.unwrap();
    });
}

#[test]
fn administration_answers() {
    block_on(async {
        let fakes = Fake::start_shards(2);
        let client = connect(&fakes[0]).await;
        for name in ["a", "b", "c", "d", "e"] {
            client.create_queue(name, &QueueSettings::default()).await.unwrap();
        }
        let names: Vec<_> = client.list_queues().await.unwrap().into_iter().map(|info| info.name).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        client.producer("a").await.unwrap().send(message("x")).await.unwrap();
        assert_eq!(client.show_queue("a").await.unwrap().ready, 1);
        assert_eq!(client.purge_queue("a").await.unwrap(), 1);
        assert_eq!(client.delete_queue("a").await.unwrap(), 0);
        assert_eq!(client.cluster().await.unwrap().shards.len(), 2);
    });
}

#[test]
fn close_waits_for_receipts_and_says_what_is_missing() {
    block_on(async {
        let (fake, client, producer) = setup().await;
        let pending: Vec<_> = (0..100).map(|_| producer.try_send(message("x")).unwrap()).collect();
        client.clone().close(SOON).await.unwrap();
        assert_eq!(fake.log("orders").len(), 100);
        for receipt in pending {
            receipt.await.unwrap();
        }
        assert_eq!(producer.send(message("late")).await, Err(Error::Closed));
        assert_eq!(client.show_queue("orders").await.unwrap_err(), Error::Closed);
        let (fake, client, producer) = setup().await;
        fake.state().frozen = true;
        let pending = producer.try_send(message("x")).unwrap();
        let error = client.close(Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error, Error::Undrained { messages: 1 });
        assert!(pending.await.unwrap_err().is_uncertain());
    });
}

#[test]
fn what_was_taken_is_sent_though_everything_is_dropped() {
    let fake = block_on(async {
        let (fake, client, producer) = setup().await;
        let receipt = producer.try_send(message("x")).unwrap();
        drop((receipt, producer, client));
        fake
    });
    until("stored", || fake.log("orders").len() == 1);
}

#[test]
fn a_receipt_comes_though_its_producer_is_dropped() {
    block_on(async {
        let (_fake, _client, producer) = setup().await;
        let receipt = producer.try_send(message("x")).unwrap();
        drop(producer);
        receipt.await.unwrap();
    });
}

#[test]
fn a_dropped_consumer_returns_its_messages() {
    block_on(async {
        let (fake, client, producer) = setup().await;
        producer.send(message("x")).await.unwrap();
        let consumer = client.consumer("orders", 1).await.unwrap();
        until("delivered", || fake.state().queues["orders"].in_flight == 1);
        drop(consumer);
        until("returned", || fake.state().queues["orders"].ready.len() == 1);
    });
}

#[test]
fn nobody_there_is_said_clearly() {
    block_on(async {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::builder().connect_timeout(Duration::from_millis(100));
        let error = client.connect(&format!("127.0.0.1:{port}")).await.unwrap_err();
        assert!(error.to_string().contains("nobody listens there"), "{error}");
    });
}

#[test]
fn senders_on_many_threads_share_a_producer() {
    let (fake, client, producer) = block_on(setup());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let producer = producer.clone();
            scope.spawn(move || {
                block_on(async {
                    for _ in 0..200 {
                        producer.send(message("x")).await.unwrap();
                    }
                });
            });
        }
    });
    assert_eq!(fake.log("orders").len(), 1600);
    block_on(client.close(SOON)).unwrap();
}

#[test]
fn a_named_producer_goes_on_where_it_stopped() {
    block_on(async {
        let (_fake, client, _) = setup().await;
        let producer = client.named_producer("orders", "engine").await.unwrap();
        producer.send(message("1")).await.unwrap();
        let next = client.named_producer("orders", "engine").await.unwrap();
        assert_eq!(next.first_sequence(), Sequence(2));
        assert_eq!(producer.send(message("late")).await.unwrap_err().code(), Some(Code::Fenced));
        assert_eq!(next.send(message("2")).await.unwrap().sequence, Sequence(2));
    });
}
