use ringmain_wal::GroupId;

use super::*;
use crate::engine::tests::world::{World, encode, settle};
use crate::engine::{ConnectionId, Engine, EngineOptions};
use crate::error::Error;
use crate::queue::Settings;

const OPTIONS: EngineOptions = EngineOptions { group: GroupId(1), ordinal: 0, messages_max: 1 << 40 };

/// Queues of many kinds, named and gapped sessions, messages with and without deliveries, holes everywhere.
fn busy_world() -> World {
    use crate::command::Outcome::{Ack, Requeue};
    let mut world = World::new();
    world.lead();
    let desk = world.open("desk");
    world.open("desk");
    let session = world.open("").session;
    let mut sequence = 0;
    for number in 0..100u64 {
        let settings = Settings { priorities: 256, max_length: number * 1_000, ..Settings::default() };
        let queue = world.create(&format!("queue-{number}"), settings);
        for _ in 0..number % 4 {
            sequence += 1 + u64::from(sequence % 50 == 0);
            let priorities: Vec<u8> = (0..50 + number).map(|at| (at * at % 7 * 40) as u8).collect();
            let bytes = 10 + (sequence % 5) as u32;
            world.publish_bytes(queue, session, sequence, (&priorities, bytes));
            world.commit();
        }
        let consumer = world.engine.subscribe(ConnectionId(1), queue, 40).unwrap();
        let sent = world.deliver(40);
        for (dispatch, outcome) in sent.iter().step_by(3).zip([Ack, Requeue].into_iter().cycle()) {
            let run = settle(outcome, dispatch.priority, dispatch.sequence, 1, 1);
            world.settle(ConnectionId(1), consumer, &[run]);
        }
        world.commit();
        if number % 9 == 4 {
            world.engine.begin_delete(queue).unwrap();
            world.batch.delete_queue(queue);
            world.commit();
        }
    }
    assert_eq!(desk.epoch, 1);
    world
}

fn restore(parts: &[Vec<u8>]) -> Result<Engine, Error> {
    let mut restore = Restore::new(OPTIONS);
    parts.iter().try_for_each(|part| restore.feed(part))?;
    restore.finish()
}

#[test]
fn a_checkpoint_comes_back_whole() {
    let world = busy_world();
    for budget in [0, 5_000, usize::MAX] {
        let parts = encode(&world.engine, budget);
        assert!(parts.iter().all(|part| part.len() <= PART_BYTES_MAX.min(budget.max(PART_BYTES_MIN))));
        let engine = restore(&parts).unwrap();
        engine.check();
        assert_eq!(engine.digest(), world.engine.digest());
        assert!(engine.extents().eq(world.engine.extents()));
        assert_eq!(encode(&engine, budget), parts);
    }
}

#[test]
fn an_empty_engine_comes_back() {
    let engine = Engine::new(OPTIONS);
    let parts = encode(&engine, 0);
    assert_eq!(parts.len(), 1);
    assert_eq!(restore(&parts).unwrap().digest(), engine.digest());
}

#[test]
fn an_image_stands_still_while_the_engine_goes_on() {
    let mut world = busy_world();
    let digest = world.engine.digest();
    let mut checkpoint = world.engine.checkpoint();
    let mut parts = Vec::new();
    let session = world.open("").session;
    for sequence in 1.. {
        let mut part = Vec::new();
        let is_last = checkpoint.encode_some(&mut part, 0);
        parts.push(part);
        if is_last {
            break;
        }
        let queues: Vec<_> = world.engine.queues_after("").map(|(_, queue)| queue).collect();
        let queue = queues[sequence as usize * 31 % queues.len()];
        world.publish(queue, session, sequence, &[0, 200, 80]);
        world.deliver(100);
        world.engine.disconnect(ConnectionId(1));
        let mut log = Vec::new();
        world.engine.expire_leases(world.now, 200, &mut log);
        world.batch.settle(&log);
        let mut kept = Vec::new();
        world.engine.begin_purge(queues[0], &mut kept).unwrap();
        world.batch.purge_queue(queues[0], &kept);
        world.engine.begin_delete(queues[queues.len() - 1]).unwrap();
        world.batch.delete_queue(queues[queues.len() - 1]);
        world.commit();
    }
    assert!(parts.len() > 3);
    assert_ne!(world.engine.digest(), digest);
    assert_eq!(restore(&parts).unwrap().digest(), digest);
}

#[test]
fn parts_out_of_place_are_refused() {
    let world = busy_world();
    let parts = encode(&world.engine, 0);
    assert!(parts.len() > 3);
    let but = |change: fn(&mut Vec<Vec<u8>>)| {
        let mut changed = parts.clone();
        change(&mut changed);
        restore(&changed).err()
    };
    assert_eq!(but(|_| ()), None);
    assert_eq!(but(|parts| parts.truncate(2)), Some(Error::Incomplete { what: "checkpoint" }));
    assert_eq!(but(|parts| parts.clear()), Some(Error::Incomplete { what: "checkpoint" }));
    assert_eq!(but(|parts| parts.swap(1, 2)), Some(Error::Diverged { what: "checkpoint part", id: 2 }));
    assert_eq!(but(|parts| parts[1][8] ^= 1), Some(Error::Diverged { what: "checkpoint part", id: 1 }));
    assert_eq!(but(|parts| parts[0][0] = 9), Some(Error::Version { what: "checkpoint part", found: 9 }));
    assert!(but(|parts| parts.push(parts[parts.len() - 1].clone())).is_some());
    let mut other_group = Restore::new(EngineOptions { group: GroupId(2), ..OPTIONS });
    assert!(other_group.feed(&parts[0]).is_err());
}

#[test]
fn broken_parts_are_refused() {
    let world = busy_world();
    let parts = encode(&world.engine, 0);
    for at in (0..parts.len()).step_by(3) {
        for byte in (0..parts[at].len()).step_by(7) {
            let mut broken = parts.clone();
            broken[at][byte] ^= 1 << (byte % 8);
            assert!(restore(&broken).is_err(), "byte {byte} of part {at}");
        }
        for bytes in (0..parts[at].len()).step_by(11) {
            let mut shortened = parts.clone();
            shortened[at].truncate(bytes);
            assert!(restore(&shortened).is_err());
        }
    }
}

#[test]
fn a_part_cannot_ask_for_more_memory_than_its_share() {
    let mut part = vec![CHECKPOINT_VERSION, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    part.extend_from_slice(&[TAG_STATE, 1, 1, 0, 5, 5]);
    part.push(TAG_QUEUE);
    put_varint(&mut part, 1 << 17);
    part.extend_from_slice(&[0, 0, 0]);
    Settings::default().encode(&mut part);
    part.extend_from_slice(&[1, b'q', TAG_LEVEL, 0]);
    put_varint(&mut part, u64::MAX);
    part.extend_from_slice(&[TAG_MESSAGES, 1, 0, 40, 0]);
    let fed = |codes: &[u8]| {
        let mut part = part.clone();
        part.extend_from_slice(codes);
        Restore::new(OPTIONS).feed(&part)
    };
    assert_eq!(fed(&[CODE_REPEAT, 100, CODE_NO_MORE]), Ok(()));
    let endless = [&[CODE_REPEAT][..], &[0xff; 9], &[1, CODE_NO_MORE]].concat();
    assert!(matches!(fed(&endless), Err(Error::Malformed { .. })));
    // The largest gaps there can be: each message in a chunk of its own, never the space between.
    let mut sparse = Vec::new();
    for _ in 0..10_000 {
        sparse.push(CODE_SEQUENCE);
        put_varint(&mut sparse, 1 << 40);
    }
    sparse.push(CODE_NO_MORE);
    assert_eq!(fed(&sparse), Ok(()));
    assert!(matches!(fed(&[CODE_SEQUENCE, 0x80]), Err(Error::Malformed { .. })));
}
