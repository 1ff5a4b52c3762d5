//! What a message costs: memory that does not grow with what has passed, and work that does not grow with depth.

use super::world::{World, encode, settle};
use super::*;
use crate::command::Outcome;

#[test]
fn a_deep_queue_takes_twenty_one_bytes_a_message() {
    let (mut world, queue, session) = world_with_queue(Settings::default());
    for sequence in 1..=200 {
        world.publish(queue, session, sequence, &[0; 1_000]);
        world.commit();
    }
    let bytes = world.engine.index_bytes() as f64 / 200_000.0;
    assert!(bytes < 21.0, "{bytes}");
}

#[test]
fn many_shallow_queues_stay_small() {
    let mut world = World::new();
    world.lead();
    let session = world.open("").session;
    for number in 0..2_000 {
        world.batch.create_queue(&format!("queue-{number}"), &Settings::default());
    }
    world.commit();
    let queues: Vec<QueueId> = world.engine.queues_after("").map(|(_, queue)| queue).collect();
    for (queue, sequence) in queues.iter().zip(1..) {
        world.publish(*queue, session, sequence, &[0; 3]);
    }
    world.commit();
    let bytes = world.engine.index_bytes() / queues.len();
    assert!(bytes < 300, "{bytes} a queue");
}

#[test]
fn one_message_that_nobody_settles_pins_one_chunk() {
    let (mut world, queue, session) = world_with_queue(Settings::default());
    let connection = ConnectionId(1);
    let stuck = world.engine.subscribe(connection, queue, 1).unwrap();
    world.publish(queue, session, 1, &[0]);
    world.commit();
    assert_eq!(world.deliver(1)[0].consumer, stuck);
    let busy = world.engine.subscribe(connection, queue, 1_000).unwrap();
    for sequence in 2..=300 {
        world.publish(queue, session, sequence, &[0; 1_000]);
        world.commit();
        let sent = world.deliver(1_000);
        assert_eq!(sent.len(), 1_000);
        world.settle(connection, busy, &[settle(Outcome::Ack, 0, sent[0].sequence, 1_000, 1)]);
        world.commit();
    }
    let bytes = world.engine.index_bytes();
    assert!(bytes < 40_000, "{bytes}");
    assert_eq!(world.engine.info(queue).unwrap().in_flight, 1);
    world.engine.check();
}

#[test]
fn an_idle_queue_keeps_little() {
    let (mut world, queue, session) = world_with_queue(Settings::default());
    let connection = ConnectionId(1);
    let consumer = world.engine.subscribe(connection, queue, 10_000).unwrap();
    world.publish(queue, session, 1, &[0; 10_000]);
    world.commit();
    world.deliver(10_000);
    world.settle(connection, consumer, &[settle(Outcome::Ack, 0, 1, 10_000, 1)]);
    world.commit();
    assert!(world.engine.index_bytes() < 2_000);
    assert_eq!(world.engine.info(queue).unwrap().acknowledged, 10_000);
}

#[test]
fn messages_settled_in_any_order_leave_nothing() {
    let (mut world, queue, session) = world_with_queue(Settings { priorities: 2, ..Settings::default() });
    let connection = ConnectionId(1);
    let consumer = world.engine.subscribe(connection, queue, 3_000).unwrap();
    for sequence in 1..=3 {
        world.publish(queue, session, sequence, &[1; 1_000]);
    }
    world.commit();
    assert_eq!(world.deliver(5_000).len(), 3_000);
    // 7 and 3,000 have no common divisor: every message once, far apart.
    for step in 0..3_000u64 {
        let sequence = step * 7 % 3_000 + 1;
        world.settle(connection, consumer, &[settle(Outcome::Ack, 1, sequence, 1, 1)]);
        if step % 500 == 0 {
            world.commit();
            world.engine.check();
        }
    }
    world.commit();
    world.engine.check();
    world.check_extents();
    assert_eq!(world.engine.messages_count(), 0);
    assert!(world.engine.index_bytes() < 2_000);
}

#[test]
fn a_checkpoint_takes_few_bytes_a_message() {
    let (mut world, queue, session) = world_with_queue(Settings { priorities: 3, ..Settings::default() });
    for sequence in 1..=200 {
        world.publish(queue, session, sequence, &[0; 1_000]);
        world.commit();
    }
    let bytes = encode(&world.engine, 1 << 20).iter().map(Vec::len).sum::<usize>();
    assert!(bytes < 200 * 15, "batches of equal messages: {bytes}");

    for sequence in 201..=10_200u64 {
        let size = 100 + (sequence * 7_919 % 300) as u32;
        world.publish_bytes(queue, session, sequence, (&[(sequence % 3) as u8], size));
        if sequence % 5 == 0 {
            world.commit();
        }
    }
    let mixed = encode(&world.engine, 1 << 20).iter().map(Vec::len).sum::<usize>() - bytes;
    assert!(mixed < 6 * 10_000, "single messages of many sizes and priorities: {mixed}");
}
