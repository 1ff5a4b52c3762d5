//! A real node under load, killed with SIGKILL at random moments.

use std::time::Duration;

use ringmain_client::blocking::Client;
use ringmain_client::{Message, QueueSettings};
use ringmain_tests::process::{Program, Setup};
use ringmain_tests::soak::{self, Options};

/// The `ringmain` program.
pub(crate) fn program() -> Program {
    Program { path: env!("CARGO_BIN_EXE_node").into(), environment: None }
}

#[test]
fn nothing_acknowledged_is_lost_by_twenty_kills() {
    let directory = tempfile::tempdir().unwrap();
    let report = soak::run(&program(), &directory.path().join("data"), Options::new(1, 20));
    // The run was what it is meant to be.
    assert_eq!(report.restarts, 20);
    assert!(report.stored > 2_000, "{report:?}");
    assert!(report.duplicates > 0, "{report:?}");
    assert!(report.redelivered > 0, "{report:?}");
    assert!(report.takeovers > 0, "{report:?}");
}

#[test]
fn receipts_of_two_shards_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let node = Setup::new(&program(), &directory.path().join("data")).shards(2).start().unwrap();
    let client = Client::builder().connect(&node.connect()).unwrap();
    let (first, second) = ("orders", "risk/1");
    assert_ne!(ringmain_net::route::shard_of(first, 2), ringmain_net::route::shard_of(second, 2));
    let mut producers = Vec::new();
    for queue in [first, second] {
        client.create_queue(queue, &QueueSettings::default()).unwrap();
        producers.push(client.producer(queue).unwrap());
    }
    // Each shard calls the first of its sessions by the same number.
    for round in 1..=10 {
        for producer in &mut producers {
            let receipt = producer.publish(&Message::new("x"), Duration::from_secs(20)).unwrap();
            assert_eq!(receipt.sequence.0, round);
        }
    }
    let groups: Vec<u32> = producers
        .iter_mut()
        .map(|producer| producer.publish(&Message::new("x"), Duration::from_secs(20)).unwrap().group)
        .collect();
    assert_ne!(groups[0], groups[1]);
}
