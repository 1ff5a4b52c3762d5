//! Clients of several nodes, of which one leads until it does not.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod fake;

use std::time::{Duration, Instant};

use fake::{Fake, Loss};
use futures_lite::future::block_on;
use ringmain_client::blocking::{Client, Consumer, Producer};
use ringmain_client::{
    Builder, Change, Code, Completion, Error, Event, MemberState, Message, QueueSettings, asynchronous,
};

const SOON: Duration = Duration::from_secs(20);

fn builder() -> Builder<Client> {
    // Many tests share few cores.
    Client::builder().heartbeat(Duration::from_secs(5), SOON).connect_timeout(SOON).call_timeout(SOON)
}

fn setup(count: u32) -> (Vec<Fake>, Client, Producer) {
    let nodes = Fake::start_nodes(count);
    nodes[0].add_queue("orders");
    let client = builder().connect(&nodes[0].address()).unwrap();
    let producer = client.producer("orders").unwrap();
    (nodes, client, producer)
}

/// Nobody leads, and nobody knows who will.
fn elect(nodes: &[Fake]) {
    nodes[0].state().leader = None;
}

fn until(client: &Client, what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "never: {what}");
        if !client.poll() {
            client.idle_until(Instant::now() + Duration::from_millis(5));
        }
    }
}

fn finish(client: &Client, producer: &mut Producer, count: usize) -> Vec<Completion> {
    let mut finished = Vec::new();
    until(client, "all publishes finished", || {
        producer.poll(|completion| finished.push(completion));
        finished.len() >= count
    });
    finished
}

fn consume(client: &Client, consumer: &mut Consumer, count: usize) -> Vec<(Vec<u8>, u16)> {
    let mut handled = Vec::new();
    until(client, "all messages handled", || {
        let handle = |delivery: ringmain_client::blocking::Delivery<'_>| {
            handled.push((delivery.payload().to_vec(), delivery.deliveries()));
            delivery.ack();
        };
        consumer.poll(100, handle).unwrap();
        handled.len() >= count
    });
    handled
}

fn numbered(range: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    range.map(|number| format!("message {number}").into_bytes()).collect()
}

fn offer(producer: &mut Producer, payloads: &[Vec<u8>]) {
    for payload in payloads {
        producer.offer(&Message::new(payload)).unwrap();
    }
}

#[test]
fn the_death_of_the_only_node_that_was_named_is_survived() {
    let (nodes, client, mut producer) = setup(3);
    let mut consumer = client.consumer("orders", 10).unwrap();
    producer.publish(&Message::new("before"), SOON).unwrap();
    nodes[0].stop();
    nodes[1].lead();
    producer.publish(&Message::new("after"), SOON).unwrap();
    let payloads: Vec<_> =
        consume(&client, &mut consumer, 2).into_iter().map(|(payload, _)| payload).collect();
    assert_eq!(payloads, [b"before".to_vec(), b"after".to_vec()]);
    client.create_queue("more", &QueueSettings::default()).unwrap();
    client.producer("more").unwrap().publish(&Message::new("x"), SOON).unwrap();
    client.close(SOON).unwrap();
}

#[test]
fn nodes_die_one_after_the_other() {
    let (nodes, client, mut producer) = setup(3);
    for (round, dies) in [0, 1, 2, 0, 1, 2].into_iter().enumerate() {
        producer.publish(&Message::new(&round.to_string()), SOON).unwrap();
        nodes[dies].stop();
        nodes[(dies + 1) % 3].lead();
        producer.publish(&Message::new("again"), SOON).unwrap();
        nodes[dies].restart();
    }
    assert_eq!(nodes[0].log("orders").len(), 12);
    client.close(SOON).unwrap();
}

#[test]
fn publishes_survive_an_election_in_order_and_once() {
    let (nodes, client, mut producer) = setup(3);
    let messages = numbered(0..1000);
    offer(&mut producer, &messages[..500]);
    client.poll();
    elect(&nodes);
    nodes[0].stop();
    offer(&mut producer, &messages[500..]);
    let refused = nodes[0].state().not_leader;
    until(&client, "both others were asked a few times", || nodes[0].state().not_leader > refused + 10);
    nodes[2].lead();
    let finished = finish(&client, &mut producer, 1000);
    assert!(finished.iter().all(|completion| completion.result.is_ok()));
    assert_eq!(nodes[0].log("orders"), messages);
    let mut resent = false;
    while let Some(event) = client.poll_event() {
        resent |= matches!(event, Event::Resent { .. });
    }
    assert!(resent);
}

#[test]
fn leaders_that_change_all_the_time_lose_and_double_nothing() {
    let (nodes, client, mut producer) = setup(3);
    let messages = numbered(0..3000);
    let mut finished = Vec::new();
    let mut offered = 0;
    let mut turn = 0;
    until(&client, "all publishes finished", || {
        let next = finished.len() / 100;
        if next > turn {
            turn = next;
            // Sometimes known at once, sometimes after a while, and sometimes with the connection's end.
            if turn.is_multiple_of(3) {
                elect(&nodes);
                client.poll();
            }
            if turn.is_multiple_of(5) {
                nodes[turn % 3].cut();
            }
            nodes[turn % 3].lead();
        }
        while offered < messages.len() && producer.offer(&Message::new(&messages[offered])).is_ok() {
            offered += 1;
            if offered % 16 == 0 {
                break;
            }
        }
        producer.poll(|completion| finished.push(completion.result));
        finished.len() == messages.len()
    });
    assert!(finished.iter().all(Result::is_ok), "a publisher sees delay, not errors");
    assert_eq!(nodes[0].log("orders"), messages, "stored once, in order");
    assert!(nodes[0].state().not_leader > 10);
}

#[test]
fn a_rumour_of_a_dead_leader_holds_up_nobody() {
    let (nodes, client, mut producer) = setup(3);
    elect(&nodes);
    nodes[0].stop();
    // Until they elect another one, its followers send everybody to it.
    nodes[0].state().rumour = Some(1);
    offer(&mut producer, &numbered(0..10));
    until(&client, "the followers were asked", || nodes[0].state().not_leader > 10);
    nodes[1].lead();
    assert!(finish(&client, &mut producer, 10).iter().all(|completion| completion.result.is_ok()));
    assert_eq!(nodes[0].log("orders"), numbered(0..10));
}

#[test]
fn a_group_without_a_leader_is_a_delay_that_ends_with_the_deadline() {
    let (nodes, client, mut producer) = setup(3);
    elect(&nodes);
    let short = Duration::from_millis(100);
    let error = producer.publish(&Message::new("late"), short).unwrap_err();
    assert!(
        matches!(&error, Error::Timeout { last: Some(last), .. } if last.code() == Some(Code::NotLeader))
    );
    nodes[1].lead();
    producer.flush(SOON).unwrap();
    assert_eq!(nodes[0].log("orders"), [b"late".to_vec()], "it stayed in the window");
    drop(client);
}

#[test]
fn a_consumer_moves_with_the_leader() {
    let (nodes, client, mut producer) = setup(3);
    let mut consumer = client.consumer("orders", 10).unwrap();
    producer.publish(&Message::new("x"), SOON).unwrap();
    let mut lease = None;
    until(&client, "delivered", || {
        consumer.poll(1, |delivery| lease = Some(delivery.lease())).unwrap();
        lease.is_some()
    });
    nodes[1].lead();
    assert_eq!(consume(&client, &mut consumer, 1), [(b"x".to_vec(), 2)]);
    until(&client, "settled", || consumer.settled() == (1, 0));
    // The lease of the old leader settles nothing.
    consumer.ack(lease.unwrap());
    consumer.flush();
    client.poll();
    assert_eq!(consumer.settled(), (1, 0));
    let state = nodes[0].state();
    assert_eq!((state.queues["orders"].consumers, state.queues["orders"].in_flight), (1, 0));
}

#[test]
fn a_consumer_waits_for_the_next_leader() {
    let (nodes, client, _producer) = setup(3);
    let mut consumer = client.consumer("orders", 10).unwrap();
    elect(&nodes);
    until(&client, "the subscription has ended", || !consumer.is_connected());
    nodes[0].put("orders", 0, b"x");
    nodes[2].lead();
    assert_eq!(consume(&client, &mut consumer, 1), [(b"x".to_vec(), 1)]);
}

#[test]
fn a_stopped_process_is_left_when_it_is_silent() {
    let nodes = Fake::start_nodes(3);
    nodes[0].add_queue("orders");
    let (ping, silence) = (Duration::from_millis(50), Duration::from_millis(300));
    let client = builder().heartbeat(ping, silence).connect(&nodes[0].address()).unwrap();
    let mut producer = client.producer("orders").unwrap();
    nodes[0].state().frozen_nodes.insert(1);
    nodes[1].lead();
    offer(&mut producer, &numbered(0..100));
    assert!(finish(&client, &mut producer, 100).iter().all(|completion| completion.result.is_ok()));
    // What lies in its sockets is from before: it is refused, or known already.
    nodes[0].state().frozen_nodes.clear();
    offer(&mut producer, &numbered(100..200));
    assert!(finish(&client, &mut producer, 100).iter().all(|completion| completion.result.is_ok()));
    assert_eq!(nodes[0].log("orders"), numbered(0..200));
}

#[test]
fn a_node_that_accepts_and_says_nothing_holds_up_nobody() {
    let nodes = Fake::start_nodes(3);
    nodes[0].add_queue("orders");
    // The connect timeout is longer than this test may take.
    nodes[0].state().frozen_nodes.insert(2);
    let addresses = format!("{},{}", nodes[1].address(), nodes[0].address());
    let client = builder().connect_timeout(SOON * 10).connect(&addresses).unwrap();
    let mut producer = client.producer("orders").unwrap();
    producer.publish(&Message::new("1"), SOON).unwrap();
    nodes[0].stop();
    nodes[0].state().rumour = Some(2);
    nodes[0].state().leader = None;
    offer(&mut producer, &[b"2".to_vec()]);
    until(&client, "somebody said that the silent node leads", || nodes[0].state().not_leader > 3);
    nodes[2].lead();
    assert!(finish(&client, &mut producer, 1)[0].result.is_ok());
    nodes[0].state().frozen_nodes.clear();
}

#[test]
fn calls_wait_for_a_leader_and_follow_it() {
    let (nodes, client, _producer) = setup(3);
    elect(&nodes);
    let electing = nodes.clone();
    let elected = std::thread::spawn(move || {
        let started = Instant::now();
        while electing[0].state().not_leader < 5 {
            assert!(started.elapsed() < SOON, "nobody was asked");
            std::thread::yield_now();
        }
        electing[1].lead();
    });
    client.create_queue("a", &QueueSettings::default()).unwrap();
    elected.join().unwrap();
    nodes[2].lead();
    assert_eq!(client.show_queue("a").unwrap().name, "a");
    nodes[0].lead();
    let names: Vec<_> = client.list_queues().unwrap().into_iter().map(|queue| queue.name).collect();
    assert_eq!(names, ["a", "orders"]);
    assert_eq!(client.delete_queue("a").unwrap(), 0);
}

#[test]
fn deletion_whose_answer_is_lost_is_done_once_it_is_gone() {
    let (nodes, client, _producer) = setup(2);
    // Whoever does not lead has not deleted it: that it is not there is an error, redirected or not.
    nodes[1].lead();
    let missing = client.delete_queue("never made");
    assert!(matches!(missing, Err(Error::Refused { code: Code::NoSuchQueue, .. })), "{missing:?}");
    for loss in [Loss::OfConnection, Loss::OfLeader] {
        nodes[0].add_queue("a");
        nodes[0].put("a", 0, b"x");
        nodes[0].state().lose_answer = Some(loss);
        assert_eq!(client.delete_queue("a").unwrap(), 0, "{loss:?}");
        assert_eq!(nodes[0].state().lose_answer, None);
        assert!(!nodes[0].state().queues.contains_key("a"));
        let again = client.delete_queue("a");
        assert!(matches!(again, Err(Error::Refused { code: Code::NoSuchQueue, .. })), "{again:?}");

        nodes[0].put("orders", 0, b"x");
        nodes[0].state().lose_answer = Some(loss);
        assert_eq!(client.purge_queue("orders").unwrap(), 0, "{loss:?}");
        assert_eq!(client.show_queue("orders").unwrap().ready, 0);
    }
}

#[test]
fn queues_of_all_groups_are_listed() {
    let nodes = Fake::start_nodes(2);
    nodes[0].state().groups = 4;
    let names: Vec<_> = (10..30).map(|number| format!("queue-{number}")).collect();
    names.iter().for_each(|name| nodes[0].add_queue(name));
    let client = builder().connect(&nodes[1].address()).unwrap();
    let listed: Vec<_> = client.list_queues().unwrap().into_iter().map(|queue| queue.name).collect();
    assert_eq!(listed, names);
    let listed = block_on(async {
        let client = asynchronous::Client::builder().connect(&nodes[1].address()).await.unwrap();
        client.list_queues().await.unwrap()
    });
    assert_eq!(listed.into_iter().map(|queue| queue.name).collect::<Vec<_>>(), names);
}

#[test]
fn the_status_of_a_cluster_names_the_dead_too() {
    let (nodes, client, _producer) = setup(3);
    nodes[2].stop();
    let check = |status: ringmain_client::ClusterStatus| {
        let seen: Vec<_> =
            status.nodes.iter().map(|n| (n.node, n.reachable, n.incarnation, n.groups.len())).collect();
        assert_eq!(seen, [(1, true, Some(5), 1), (2, true, Some(5), 1), (3, false, None, 0)]);
        assert_eq!(status.cluster, 77);
        assert_eq!(status.nodes[1].address, nodes[1].address());
        let groups = [&status.nodes[0].groups[0], &status.nodes[1].groups[0]];
        assert_eq!(groups.map(|group| (group.leader, group.is_leader)), [(Some(1), true), (Some(1), false)]);
        let member = &groups[0].members[2];
        assert_eq!((member.node, &member.address), (3, &nodes[2].address()));
        assert_eq!((member.is_voter, member.state), (true, MemberState::Current));
    };
    check(client.cluster_status().unwrap());
    check(block_on(async {
        let client = asynchronous::Client::builder().connect(&nodes[0].address()).await.unwrap();
        client.cluster_status().await.unwrap()
    }));
}

#[test]
fn a_cluster_is_administered_at_its_leader() {
    let (nodes, client, mut producer) = setup(3);
    nodes[1].lead();
    client.move_leader(0, 3).unwrap();
    client.move_leader(0, 3).unwrap();
    assert_eq!(nodes[0].state().leader, Some(3));
    producer.publish(&Message::new("x"), SOON).unwrap();
    nodes[0].state().pending_changes = 2;
    client.change_members(0, Change::Remove { node: 1, incarnation: 7 }).unwrap();
    let add = Change::Add { node: 4, incarnation: 1, host: "node4".to_owned(), port: 7400 };
    client.change_members(0, add).unwrap();
    assert_eq!(nodes[0].state().changes, [(0, 0, (1, 7)), (0, 4, (0, 0))]);
    assert!(matches!(client.move_leader(1, 1), Err(Error::Setting { .. })), "there is one group");
    block_on(async {
        let client = asynchronous::Client::builder().connect(&nodes[0].address()).await.unwrap();
        client.move_leader(0, 2).await.unwrap();
        client.change_members(0, Change::Remove { node: 3, incarnation: 7 }).await.unwrap();
        assert_eq!(client.identify(&nodes[2].address()).await.unwrap().node, 3);
    });
    assert_eq!(nodes[0].state().leader, Some(2));
    assert_eq!(nodes[0].state().changes.len(), 3);
}

#[test]
fn whoever_listens_somewhere_can_be_asked_who_it_is() {
    let nodes = Fake::start_nodes(2);
    nodes[0].add_queue("orders");
    let client = builder().cluster(77).connect(&nodes[0].address()).unwrap();
    let mut producer = client.producer("orders").unwrap();
    let stranger = Fake::start();
    stranger.state().cluster = 99;
    let found = client.identify(&stranger.address()).unwrap();
    assert_eq!((found.cluster, found.node, found.incarnation), (99, 1, 5));
    assert_eq!(client.identify(&nodes[1].address()).unwrap().node, 2);
    stranger.stop();
    assert!(matches!(client.identify(&stranger.address()), Err(Error::Lost { .. })));
    // The stranger was not taken for a node of this cluster.
    assert_eq!(client.cluster().unwrap().cluster, 77);
    nodes[0].stop();
    nodes[1].lead();
    producer.publish(&Message::new("x"), SOON).unwrap();
    assert_eq!(client.cluster().unwrap().nodes.len(), 2);
}

#[test]
fn async_publishes_and_consumers_survive_an_election() {
    let nodes = Fake::start_nodes(3);
    nodes[0].add_queue("orders");
    block_on(async {
        let builder = asynchronous::Client::builder().heartbeat(Duration::from_secs(5), SOON);
        let client = builder.connect(&nodes[0].address()).await.unwrap();
        let producer = client.producer("orders").await.unwrap();
        let mut consumer = client.consumer("orders", 10).await.unwrap();
        producer.send(Message::owned("0")).await.unwrap();
        let first = consumer.next().await.unwrap();
        elect(&nodes);
        nodes[0].stop();
        let pending: Vec<_> =
            (1..100).map(|number| producer.try_send(Message::owned(number.to_string())).unwrap()).collect();
        // Its lease is over before the next one leads.
        let started = Instant::now();
        while nodes[0].state().queues["orders"].in_flight > 0 {
            assert!(started.elapsed() < SOON, "the lease did not end");
            std::thread::yield_now();
        }
        nodes[1].lead();
        for receipt in pending {
            receipt.await.unwrap();
        }
        assert!(first.ack().await.is_err(), "its lease ended with its leader");
        for number in 0..100 {
            let delivery = consumer.next().await.unwrap();
            assert_eq!(delivery.payload(), number.to_string().as_bytes());
            delivery.ack().await.unwrap();
        }
        client.close(SOON).await.unwrap();
    });
}

#[test]
fn what_was_in_flight_to_a_queue_that_is_gone_meanwhile_has_its_answer() {
    let (nodes, client, mut producer) = setup(2);
    nodes[0].state().frozen_nodes.insert(1);
    offer(&mut producer, &numbered(0..10));
    client.poll();
    nodes[0].remove_queue("orders");
    nodes[0].stop();
    nodes[1].lead();
    let finished = finish(&client, &mut producer, 10);
    let codes = finished.iter().map(|completion| completion.result.as_ref().unwrap_err().code());
    assert!(codes.into_iter().all(|code| code == Some(Code::NoSuchQueue)), "{finished:?}");
    assert_eq!(producer.offer(&Message::new("x")).unwrap_err().code(), Some(Code::NoSuchQueue));
    nodes[0].state().frozen_nodes.clear();
}

#[test]
fn a_node_that_was_removed_is_left_for_the_others() {
    let (nodes, client, mut producer) = setup(3);
    nodes[0].state().removed.insert(1);
    nodes[0].cut();
    nodes[1].lead();
    producer.publish(&Message::new("x"), SOON).unwrap();
    // Also where it is the first that is asked.
    let addresses = format!("{},{}", nodes[0].address(), nodes[2].address());
    builder().connect(&addresses).unwrap().show_queue("orders").unwrap();
    drop(client);
}
