//! Three real processes: killed, stopped, paused and cut off under load, rotten, and left behind.

use std::path::Path;
use std::time::Duration;

use ringmain_client::blocking::Client;
use ringmain_client::{Change, Code, Error, Message, QueueSettings};
use ringmain_tests::nemesis::{self, Fleet, KINDS, Options};
use ringmain_tests::process::{PATIENCE, wait_for};
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

#[test]
fn a_follower_that_lacks_more_than_the_log_gets_a_checkpoint_and_can_lead() {
    let directory = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(&program(), directory.path(), 3, &mut Rng::new(2));
    let client = fleet.client();
    client.create_queue("q", &QueueSettings::default()).unwrap();
    let mut producer = client.producer("q").unwrap();
    let follower = (1..=3).find(|node| Some(*node) != fleet.leader_of(&client, "q")).unwrap();
    fleet.kill(follower);
    // More than a leader keeps in memory for followers: 32 MiB.
    let messages = vec![Message::owned(vec![7; 100 << 10]); 20];
    for _ in 0..25 {
        producer.publish_batch(&messages, PATIENCE).unwrap();
    }
    fleet.restart(follower);
    let group = client.show_queue("q").unwrap().group;
    // The leader takes the follower for one that can lead once it has everything.
    wait_for("the follower leads", || {
        let _ = client.move_leader(group, follower);
        (fleet.leader_of(&client, "q") == Some(follower)).then_some(())
    });
    let shown = client.show_queue("q").unwrap();
    assert_eq!((shown.ready, shown.published), (500, 500));
    let mut consumer = client.consumer("q", 64).unwrap();
    let mut delivered = 0;
    wait_for("all of it is delivered by the new leader", || {
        let polled = consumer.poll(64, |delivery| {
            assert_eq!(delivery.payload(), [7; 100 << 10]);
            delivery.ack();
        });
        delivered += polled.unwrap();
        client.idle();
        (delivered >= 500).then_some(())
    });
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
