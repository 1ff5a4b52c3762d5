//! Three real processes: killed, stopped, paused and cut off under load, rotten, and left behind.

use std::path::Path;
use std::time::Duration;

use ringmain_client::blocking::Client;
use ringmain_client::{Change, Code, Error, Message, QueueSettings};
use ringmain_tests::nemesis::{self, Fleet, KINDS, Options};
use ringmain_tests::process::{PATIENCE, Setup, free_ports, wait_for};
use ringmain_tests::rng::Rng;

use crate::process::program;

#[test]
fn a_cluster_under_torment_keeps_its_promises() {
    let directory = tempfile::tempdir().unwrap();
    let duration = Duration::from_secs(60);
    let kinds = KINDS.to_vec();
    let options = Options { seed: 1, nodes: 3, duration, producers: 2, consumers: 2, kinds };
    let report = nemesis::run(&program(), directory.path(), &options);
    // The run was what it is meant to be.
    assert!(report.stored > 1_000, "{report:?}");
    assert!(report.shown > 100, "{report:?}");
    assert!(report.drained > 1_000, "{report:?}");
    assert!(report.faults.len() > 3, "{report:?}");
}

/// A follower is killed, misses 50 MB, which are far more than there is of them in memory, and then leads. Meanwhile so many of
/// the 500 messages are consumed. Says whether it was sent a checkpoint.
fn follower_that_missed_much(seed: u64, limits: &[(&'static str, &'static str)], consumed: u64) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let limits = [&[("entries_bytes_max", "\"1MiB\"")], limits].concat();
    let mut fleet = Fleet::start_with(&program(), directory.path(), 3, &mut Rng::new(seed), &limits);
    let client = fleet.client();
    client.create_queue("q", &QueueSettings::default()).unwrap();
    let mut producer = client.producer("q").unwrap();
    let follower = (1..=3).find(|node| Some(*node) != fleet.leader_of(&client, "q")).unwrap();
    fleet.kill(follower);
    let messages = vec![Message::owned(vec![7; 100 << 10]); 20];
    for _ in 0..25 {
        producer.publish_batch(&messages, PATIENCE).unwrap();
    }
    consume(&client, consumed);
    fleet.restart(follower);
    let group = client.show_queue("q").unwrap().group;
    // The leader takes the follower for one that can lead once it has everything.
    wait_for("the follower leads", || {
        let _ = client.move_leader(group, follower);
        (fleet.leader_of(&client, "q") == Some(follower)).then_some(())
    });
    let shown = client.show_queue("q").unwrap();
    assert_eq!((shown.ready, shown.published), (500 - consumed, 500));
    consume(&client, 500 - consumed);
    fleet.kill(follower);
    let data = directory.path().join(format!("node-{follower}"));
    let dumped = program().run(&["wal", "dump", data.to_str().unwrap()]);
    assert_eq!(dumped.code, Some(0), "{}", dumped.stderr);
    assert!(dumped.stdout.contains("entry"), "{}", dumped.stdout);
    dumped.stdout.contains("install")
}

/// So many messages, one at a time, and each is settled for good.
fn consume(client: &Client, count: u64) {
    let mut consumer = client.consumer("q", 8).unwrap();
    let mut delivered = 0;
    wait_for("messages are delivered", || {
        let polled = consumer.poll(((count - delivered) as usize).min(8), |delivery| {
            assert_eq!(delivery.payload(), [7; 100 << 10]);
            delivery.ack();
        });
        delivered += polled.unwrap() as u64;
        client.idle();
        (delivered == count).then_some(())
    });
    consumer.flush();
    drop(consumer);
    // What it held beyond that has returned.
    wait_for("the settles", || Some(client.show_queue("q").unwrap()).filter(|shown| shown.in_flight == 0));
}

#[test]
fn a_follower_that_lacks_more_than_memory_holds_gets_it_from_the_log_and_can_lead() {
    assert!(!follower_that_missed_much(2, &[], 0));
}

#[test]
fn a_follower_that_lacks_more_than_the_log_gets_a_checkpoint_and_can_lead() {
    assert!(follower_that_missed_much(5, &[("entries_remembered_max", "4")], 0));
}

#[test]
fn a_follower_that_lacks_much_of_which_little_is_left_gets_a_checkpoint_and_can_lead() {
    assert!(follower_that_missed_much(6, &[], 490));
}

#[test]
fn a_rotten_node_is_made_whole_and_a_removed_one_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(&program(), directory.path(), 3, &mut Rng::new(4));
    let client = fleet.client();
    client.create_queue("q", &QueueSettings::default()).unwrap();
    let mut producer = client.producer("q").unwrap();
    // Each says of those before it that they were durable, so that what is rotten among them is no torn tail.
    for _ in 0..100 {
        producer.publish_batch(&vec![Message::owned(vec![7; 1000]); 20], PATIENCE).unwrap();
    }
    fleet.kill(2);
    let data = directory.path().join("node-2");
    rot(&data.join("shard-0000"));
    fleet.restart(2);
    wait_for("the rotten node is a member again", || {
        let node = fleet.running_mut(2).unwrap();
        node.stderr().contains("node 2 is a member of the cluster").then_some(())
    });
    assert!(data.join("quarantined-1").join("shard-0000").exists(), "nothing is ever deleted");
    wait_for("it has a vote in every group", || votes(&client, 2).then_some(()));
    // Everybody but node 3 is a majority only with what node 2 has got.
    fleet.kill(3);
    assert_eq!(client.show_queue("q").unwrap().ready, 2_000);
    fleet.restart(3);

    let status = client.cluster_status().unwrap();
    let incarnation = status.nodes.iter().find(|node| node.node == 3).unwrap().incarnation.unwrap();
    for group in 0..3 {
        // It is named as it is: one that took its place meanwhile would stay.
        let other = Change::Remove { node: 3, incarnation: incarnation ^ 1 };
        let refused =
            wait_for("the leader has a say", || match client.change_members(group, other.clone()) {
                Err(Error::Refused { code, .. }) if !code.is_retryable() => Some(code),
                _ => None,
            });
        assert_eq!(refused, Code::Unsupported);
        let change = Change::Remove { node: 3, incarnation };
        wait_for("node 3 is removed", || client.change_members(group, change.clone()).ok());
    }
    let removed = fleet.take(3).unwrap().ended();
    assert_ne!(removed.code, Some(0));
    assert!(removed.stderr.contains("this node was removed from the cluster"), "{}", removed.stderr);
    producer.publish(&Message::new("x"), PATIENCE).unwrap();
    assert_eq!(client.show_queue("q").unwrap().ready, 2_001);
}

#[test]
fn a_node_that_grew_from_one_is_made_whole_as_long_as_others_can() {
    let directory = tempfile::tempdir().unwrap();
    let base = free_ports(3, &mut Rng::new(5));
    let port = |node: u32| base + node as u16 - 1;
    let setup = |node: u32, listed: &[u32]| {
        let data = directory.path().join(format!("node-{node}"));
        let nodes = listed.iter().map(|node| (*node, port(*node))).collect();
        Setup { node, port: port(node), nodes, ..Setup::new(&program(), &data) }
    };
    let first = setup(1, &[]).start().unwrap();
    let addresses: Vec<String> = (1..=3).map(|node| format!("127.0.0.1:{}", port(node))).collect();
    let client = Client::builder().call_timeout(PATIENCE).connect(&addresses.join(",")).unwrap();
    client.create_queue("q", &QueueSettings::default()).unwrap();
    let mut producer = client.producer("q").unwrap();
    for _ in 0..100 {
        producer.publish_batch(&vec![Message::owned(vec![7; 1000]); 20], PATIENCE).unwrap();
    }
    let mut others = [2, 3].map(|node| Some(setup(node, &[1, node]).start().unwrap()));
    for node in [2, 3] {
        let incarnation = client.identify(&addresses[node as usize - 1]).unwrap().incarnation;
        let add = Change::Add { node, incarnation, host: "127.0.0.1".to_owned(), port: port(node) };
        client.change_members(0, add).unwrap();
    }
    wait_for("all three vote", || (voters(&client).len() == 3).then_some(()));

    let before = client.identify(&addresses[0]).unwrap().incarnation;
    first.kill();
    let data = directory.path().join("node-1");
    rot(&data.join("shard-0000"));
    let first = setup(1, &[]).start().unwrap_or_else(|ended| panic!("{}", ended.stderr));
    wait_for("the rotten node is a member again", || {
        first.stderr().contains("node 1 is a member of the cluster").then_some(())
    });
    assert!(data.join("quarantined-1").join("shard-0000").exists(), "nothing is ever deleted");
    let whole = wait_for("its vote counts again", || {
        let voters = voters(&client);
        let own = voters.iter().find(|(node, _)| *node == 1).map(|(_, incarnation)| *incarnation);
        own.filter(|own| *own != before && voters.len() == 3)
    });
    // Everybody but node 3 is a majority only with what node 1 has got.
    others[1] = None;
    assert_eq!(client.show_queue("q").unwrap().ready, 2_000);
    others[1] = Some(setup(3, &[1, 3]).start().unwrap());
    for (node, incarnation) in voters(&client).into_iter().filter(|(_, incarnation)| *incarnation != whole) {
        let change = Change::Remove { node, incarnation };
        wait_for("it is removed", || client.change_members(0, change.clone()).ok());
    }
    wait_for("node 1 is alone", || (voters(&client) == [(1, whole)]).then_some(()));

    first.kill();
    rot(&data.join("shard-0000"));
    let ended = setup(1, &[]).start().expect_err("its log is the only one");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("shard-0000: segment 1: "), "{}", ended.stderr);
    assert!(data.join("shard-0000").exists());
    assert!(!data.join("quarantined-2").exists());
}

#[test]
fn a_change_that_is_done_is_not_undone_by_the_end_of_a_leader() {
    let directory = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(&program(), directory.path(), 4, &mut Rng::new(6));
    let client = fleet.client();
    client.create_queue("q", &QueueSettings::default()).unwrap();
    let mut producer = client.producer("q").unwrap();
    producer.publish(&Message::new("x"), PATIENCE).unwrap();
    let connect = fleet.connect();
    let change = |words: &[&str]| {
        let ended = program().run(&[&["cluster"], words, &["--connect", &connect]].concat());
        assert_eq!(ended.code, Some(0), "{words:?}: {}", ended.stderr);
    };
    let mut published = 1;
    for round in 0..2 {
        change(&["remove", "4"]);
        // From now on two of three are a majority, though the third one goes in the moment in which that is said.
        let leader = wait_for("somebody leads", || fleet.leader_of(&client, "q"));
        fleet.kill(leader);
        let removed = fleet.take(4).unwrap().ended();
        assert!(removed.stderr.contains("this node was removed from the cluster"), "{}", removed.stderr);
        std::fs::remove_dir_all(fleet.data(4)).unwrap();
        producer.publish(&Message::new("x"), PATIENCE).unwrap();
        fleet.restart(leader);

        fleet.restart(4);
        change(&["add", &format!("4={}", fleet.address(4))]);
        // And now three of four.
        let leader = wait_for("somebody leads", || fleet.leader_of(&client, "q"));
        fleet.kill(leader);
        producer.publish(&Message::new("x"), PATIENCE).unwrap();
        fleet.restart(leader);
        published += 2;
        assert_eq!(client.show_queue("q").unwrap().published, published, "round {round}");
    }
    fleet.check_alive();
}

/// Node and incarnation of those whose vote the leader of the first group counts; nobody where none answers.
fn voters(client: &Client) -> Vec<(u32, u32)> {
    let Ok(status) = client.cluster_status() else { return Vec::new() };
    let mut groups = status.nodes.iter().flat_map(|node| &node.groups);
    let members = groups.find(|group| group.is_leader).map_or(&[][..], |group| &group.members);
    members.iter().filter(|member| member.is_voter).map(|member| (member.node, member.incarnation)).collect()
}

/// Whether each group's leader counts the vote of this node.
fn votes(client: &Client, node: u32) -> bool {
    let Ok(status) = client.cluster_status() else { return false };
    let groups = status.nodes.iter().flat_map(|node| &node.groups).filter(|group| group.is_leader);
    let counted = groups.filter(|group| group.members.iter().any(|one| one.node == node && one.is_voter));
    counted.count() == 3
}

/// Some bytes of the first segment that were durable are others.
fn rot(shard: &Path) {
    let path = shard.join(ringmain_wal::segment_file_name(1));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100_000..100_064].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&path, bytes).unwrap();
}
