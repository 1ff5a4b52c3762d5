//! Scenarios; the random ones are in `model`, the figures in `cost`.

mod cost;
mod model;
pub(crate) mod world;

use super::*;
use crate::command::{Outcome, Run, Settlement};
use world::{World, settle};

const SECOND: u64 = 1_000_000_000;

fn world_with_queue(settings: Settings) -> (World, QueueId, SessionId) {
    let mut world = World::new();
    world.lead();
    let queue = world.create("orders", settings);
    let session = world.open("").session;
    (world, queue, session)
}

fn priorities(priorities: u16) -> Settings {
    Settings { priorities, lease_ms: 1_000, ..Settings::default() }
}

#[test]
fn higher_priorities_go_first_and_equal_ones_in_commit_order() {
    let (mut world, queue, session) = world_with_queue(priorities(256));
    world.publish(queue, session, 1, &[5, 255, 0]);
    world.publish(queue, session, 2, &[5, 7, 255, 0]);
    world.commit();
    world.engine.subscribe(ConnectionId(1), queue, 100).unwrap();
    let order: Vec<(u8, u64)> = world.deliver(100).iter().map(|d| (d.priority, d.sequence)).collect();
    assert_eq!(order, [(255, 1), (255, 2), (7, 1), (5, 1), (5, 2), (0, 1), (0, 2)]);
    assert_eq!(world.engine.info(queue).unwrap().in_flight, 7);
}

#[test]
fn a_priority_the_queue_does_not_have_is_refused() {
    let (mut world, queue, session) = world_with_queue(priorities(3));
    assert_eq!(world.publish(queue, session, 1, &[3]), Admission::Refused(Refusal::InvalidPriority));
    assert_eq!(world.publish(queue, session, 1, &[2]), Admission::Fresh);
}

#[test]
fn a_nacked_message_returns_to_its_old_place_with_its_count() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    world.publish(queue, session, 1, &[0; 4]);
    world.commit();
    let connection = ConnectionId(1);
    let consumer = world.engine.subscribe(connection, queue, 3).unwrap();
    assert_eq!(world.deliver(10).len(), 3);

    let split = world.settle(connection, consumer, &[settle(Outcome::Requeue, 0, 2, 1, 1)]);
    assert_eq!(split, SettleSplit { accepted: 1, stale: 0 });
    let next = world.deliver(10);
    assert_eq!(next.len(), 1, "credit is back at once, the message when its requeue is applied");
    assert_eq!(next[0].sequence, 4);

    world.commit();
    world.settle(connection, consumer, &[settle(Outcome::Ack, 0, 1, 1, 1), settle(Outcome::Ack, 0, 4, 1, 1)]);
    world.commit();
    let again = world.deliver(10);
    assert_eq!((again[0].sequence, again[0].deliveries, again[0].is_redelivered), (2, 2, true));
    assert_eq!(world.engine.info(queue).unwrap().acknowledged, 2);
    world.engine.check();
}

#[test]
fn a_settle_of_another_delivery_or_another_consumer_is_stale() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    world.publish(queue, session, 1, &[0; 2]);
    world.commit();
    let (one, other) = (ConnectionId(1), ConnectionId(2));
    let first = world.engine.subscribe(one, queue, 1).unwrap();
    let second = world.engine.subscribe(other, queue, 1).unwrap();
    let sent = world.deliver(10);
    assert_eq!((sent[0].consumer, sent[1].consumer), (first, second));

    let stale = SettleSplit { accepted: 0, stale: 1 };
    assert_eq!(world.settle(one, first, &[settle(Outcome::Ack, 0, 2, 1, 1)]), stale);
    assert_eq!(world.settle(one, first, &[settle(Outcome::Ack, 0, 1, 1, 2)]), stale);
    assert_eq!(world.settle(one, first, &[settle(Outcome::Ack, 9, 1, 1, 1)]), stale);
    let refused = world.engine.begin_settle(one, second, &[], &mut Vec::new());
    assert_eq!(refused, Err(Refusal::NoSuchConsumer));
    let accepted = SettleSplit { accepted: 1, stale: 0 };
    assert_eq!(world.settle(one, first, &[settle(Outcome::Ack, 0, 1, 1, 1)]), accepted);
    assert_eq!(world.settle(one, first, &[settle(Outcome::Ack, 0, 1, 1, 1)]), stale);
}

#[test]
fn a_hostile_settle_costs_nothing() {
    let (mut world, queue, _) = world_with_queue(priorities(1));
    let consumer = world.engine.subscribe(ConnectionId(1), queue, 1).unwrap();
    let runs = [settle(Outcome::Ack, 0, u64::MAX, u32::MAX, 1); 100];
    let refused = world.engine.begin_settle(ConnectionId(1), consumer, &runs, &mut Vec::new());
    assert_eq!(refused, Err(Refusal::TooMany));
    let split = world.settle(ConnectionId(1), consumer, &[settle(Outcome::Ack, 0, u64::MAX - 1, 9, 1)]);
    assert_eq!(split.stale, 9);
}

#[test]
fn an_expired_lease_is_logged_and_a_settling_one_does_not_expire() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    world.publish(queue, session, 1, &[0; 3]);
    world.commit();
    let consumer = world.engine.subscribe(ConnectionId(1), queue, 3).unwrap();
    world.deliver(3);
    world.settle(ConnectionId(1), consumer, &[settle(Outcome::Ack, 0, 2, 1, 1)]);
    let deadline = world.engine.next_deadline().unwrap();
    assert_eq!(deadline, Time(world.now.0 + SECOND));

    let mut log = Vec::new();
    world.engine.expire_leases(Time(deadline.0 - 1), 100, &mut log);
    assert_eq!(log, []);
    world.engine.expire_leases(deadline, 100, &mut log);
    let requeue = |sequence| Settlement { queue, outcome: Outcome::Requeue, run: Run::one(0, sequence) };
    assert_eq!(log, [requeue(1), requeue(3)]);
    assert_eq!(world.engine.next_deadline(), None);
    let info = world.engine.info(queue).unwrap();
    assert_eq!((info.ready, info.in_flight), (0, 3), "nothing has changed before it is applied");

    world.batch.settle(&log);
    world.commit();
    let info = world.engine.info(queue).unwrap();
    assert_eq!((info.ready, info.in_flight, info.acknowledged), (2, 0, 1));
    world.engine.check();
}

#[test]
fn what_a_lost_connection_held_comes_back_piece_by_piece() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    world.publish(queue, session, 1, &[0; 10]);
    world.commit();
    world.engine.subscribe(ConnectionId(1), queue, 6).unwrap();
    world.deliver(100);
    world.engine.disconnect(ConnectionId(1));
    world.engine.check();
    assert_eq!(world.engine.next_deadline(), Some(Time::ZERO));
    for expected in [4, 2, 0] {
        let mut log = Vec::new();
        world.engine.expire_leases(world.now, 4, &mut log);
        assert_eq!(log.iter().map(|settlement| settlement.run.count).sum::<u32>(), expected);
        world.batch.settle(&log);
        world.commit();
    }
    world.engine.subscribe(ConnectionId(2), queue, 100).unwrap();
    let again: Vec<(u64, u16)> = world.deliver(100).iter().map(|d| (d.sequence, d.deliveries)).collect();
    let expected: Vec<(u64, u16)> =
        (1..=10).map(|sequence| (sequence, if sequence <= 6 { 2 } else { 1 })).collect();
    assert_eq!(again, expected);
}

#[test]
fn limits_count_what_is_on_its_way() {
    let (mut world, queue, session) =
        world_with_queue(Settings { max_length: 3, max_bytes: 30, ..Settings::default() });
    let full = Admission::Refused(Refusal::Full);
    assert_eq!(world.publish(queue, session, 1, &[0; 2]), Admission::Fresh);
    assert_eq!(world.publish(queue, session, 2, &[0; 2]), full);
    assert_eq!(world.publish(queue, session, 2, &[0; 1]), Admission::Fresh);
    assert_eq!(world.publish(queue, session, 3, &[0; 1]), full, "by length");
    world.commit();
    assert_eq!(world.publish(queue, session, 3, &[0; 1]), full);

    let consumer = world.engine.subscribe(ConnectionId(1), queue, 9).unwrap();
    world.deliver(9);
    world.settle(ConnectionId(1), consumer, &[settle(Outcome::Ack, 0, 1, 3, 1)]);
    assert_eq!(world.publish(queue, session, 3, &[0; 1]), full, "a settle makes room when it is applied");
    world.commit();
    assert_eq!(world.publish_bytes(queue, session, 3, (&[0; 1], 31)), full, "by bytes");
    assert_eq!(world.publish_bytes(queue, session, 3, (&[0; 1], 30)), Admission::Fresh);
    assert_eq!(world.publish_bytes(queue, session, 4, (&[0; 1], 1)), full, "by bytes on their way");
    world.commit();
    let info = world.engine.info(queue).unwrap();
    assert_eq!((info.ready, info.ready_bytes), (1, 30));
    world.engine.check();
}

#[test]
fn the_group_has_a_bound_of_its_own() {
    let mut world = World::with_messages_max(2);
    world.lead();
    let queue = world.create("a", Settings::default());
    let session = world.open("").session;
    assert_eq!(world.publish(queue, session, 1, &[0]), Admission::Fresh);
    assert_eq!(world.publish(queue, session, 2, &[0, 0]), Admission::Refused(Refusal::Busy));
}

#[test]
fn a_retried_publish_is_stored_once() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    assert_eq!(world.publish(queue, session, 1, &[0]), Admission::Fresh);
    assert_eq!(world.publish(queue, session, 1, &[0]), Admission::Pending);
    world.propose();
    assert_eq!(world.publish(queue, session, 1, &[0]), Admission::Pending);
    world.commit();
    assert_eq!(world.publish(queue, session, 1, &[0]), Admission::Stored);
    assert_eq!(world.publish(queue, session, 3, &[0]), Admission::Fresh);
    let refused = Admission::Refused(Refusal::OutOfOrder);
    assert_eq!(world.publish(queue, session, 2, &[0]), refused, "later ones are on their way");
    world.commit();
    assert_eq!(world.publish(queue, session, 2, &[0]), refused, "later ones are stored");
    world.restart();
    world.lead();
    assert_eq!(world.publish(queue, session, 3, &[0]), Admission::Stored);
    assert_eq!(world.publish(queue, session, 2, &[0]), refused);
    assert_eq!(world.engine.info(queue).unwrap().published, 2);
}

#[test]
fn a_new_epoch_fences_the_old_one_when_it_is_proposed() {
    let (mut world, queue, _) = world_with_queue(priorities(1));
    let first = world.open("desk");
    assert_eq!(world.publish_as(queue, first, 1), Admission::Fresh);
    world.engine.begin_open_session("desk").unwrap();
    world.batch.open_session("desk");
    let fenced = Admission::Refused(Refusal::Fenced);
    assert_eq!(world.publish_as(queue, first, 1), Admission::Pending, "a retry is still answered");
    assert_eq!(world.publish_as(queue, first, 2), fenced, "it would be stored behind the opening");
    world.commit();
    let second = world.opened();
    assert_eq!((second.session, second.epoch, second.last_sequence), (first.session, 2, 1));
    assert_eq!(world.publish_as(queue, first, 2), fenced);
    assert_eq!(world.publish_as(queue, second, 2), Admission::Fresh);
}

#[test]
fn a_second_opening_on_its_way_fences_the_first() {
    let (mut world, queue, _) = world_with_queue(priorities(1));
    world.begin_open("desk");
    world.propose();
    world.begin_open("desk");
    world.propose();
    world.apply_next();
    let first = world.opened();
    assert_eq!(world.publish_as(queue, first, 1), Admission::Refused(Refusal::Fenced));
    world.apply_next();
    let second = world.opened();
    assert_eq!((second.epoch, second.last_sequence), (2, 0));
    assert_eq!(world.publish_as(queue, second, 1), Admission::Fresh);
}

#[test]
fn idle_sessions_expire_and_busy_ones_do_not() {
    let (mut world, queue, idle) = world_with_queue(priorities(1));
    let busy = world.open("desk");
    world.pass(10 * SECOND);
    world.publish_as(queue, busy, 1);
    world.commit();
    let mut expired = Vec::new();
    world.engine.begin_expire_sessions(world.now, 10, &mut expired);
    assert_eq!(expired, [idle]);
    let gone = Admission::Refused(Refusal::NoSuchSession);
    assert_eq!(world.publish(queue, idle, 1, &[0]), gone);
    world.batch.expire_sessions(&expired);
    world.commit();
    assert_eq!(world.effects.answers, [Answer::SessionsExpired { sessions: 1 }]);
    assert_eq!(world.publish(queue, idle, 1, &[0]), gone);
    assert_eq!(world.publish_as(queue, busy, 2), Admission::Fresh);
    world.engine.check();
}

#[test]
fn a_queue_is_created_once() {
    let (mut world, queue, _) = world_with_queue(priorities(3));
    let answer = |world: &mut World, name, settings: Settings| {
        world.batch.create_queue(name, &settings);
        world.commit();
        world.effects.answers[0]
    };
    assert_eq!(answer(&mut world, "orders", priorities(3)), Answer::QueueKept { queue });
    assert_eq!(answer(&mut world, "orders", priorities(4)), Answer::Refused(Refusal::QueueExists));
    assert_eq!(answer(&mut world, "a b", priorities(4)), Answer::Refused(Refusal::InvalidName));
    assert_eq!(world.engine.begin_create("orders", &priorities(3)), Ok(()));
    assert_eq!(world.engine.begin_create("orders", &priorities(4)), Err(Refusal::QueueExists));
    assert_eq!(world.engine.begin_create("", &priorities(4)), Err(Refusal::InvalidName));
    assert_eq!(world.engine.begin_create("x", &priorities(0)), Err(Refusal::InvalidSettings));
}

#[test]
fn queues_are_listed_by_name() {
    let mut world = World::new();
    world.lead();
    for name in ["c", "a", "b", "a/b"] {
        world.create(name, Settings::default());
    }
    let names = |world: &World, after: &str| -> Vec<String> {
        world.engine.queues_after(after).map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names(&world, ""), ["a", "a/b", "b", "c"]);
    assert_eq!(names(&world, "a/b"), ["b", "c"]);
}

#[test]
fn a_purge_takes_what_is_ready_and_leaves_what_is_leased() {
    let (mut world, queue, session) = world_with_queue(priorities(2));
    world.publish(queue, session, 1, &[1, 0, 0, 0, 1]);
    world.commit();
    let consumer = world.engine.subscribe(ConnectionId(1), queue, 3).unwrap();
    world.deliver(10);
    let mut kept = Vec::new();
    world.engine.begin_purge(queue, &mut kept).unwrap();
    assert_eq!(kept, [Run::one(0, 1), Run { priority: 1, sequence: 1, count: 2 }]);
    world.settle(ConnectionId(1), consumer, &[settle(Outcome::Requeue, 1, 1, 1, 1)]);
    assert_eq!(world.deliver(10), [], "nothing is delivered while the purge is on its way");
    world.batch.purge_queue(queue, &kept);
    world.commit();
    assert_eq!(world.effects.answers, [Answer::QueuePurged { messages: 2 }]);
    let info = world.engine.info(queue).unwrap();
    assert_eq!((info.ready, info.in_flight, info.purged), (1, 2, 2));
    assert_eq!(world.deliver(10)[0].sequence, 1);
    world.engine.check();
    world.check_extents();
}

#[test]
fn a_deleted_queue_ends_its_consumers_and_lets_go_of_the_log() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    world.publish(queue, session, 1, &[0; 600]);
    world.commit();
    let consumer = world.engine.subscribe(ConnectionId(1), queue, 3).unwrap();
    world.deliver(10);
    world.engine.begin_delete(queue).unwrap();
    let gone = Refusal::NoSuchQueue;
    assert_eq!(world.publish(queue, session, 2, &[0]), Admission::Refused(gone));
    assert_eq!(world.engine.begin_delete(queue), Err(gone));
    world.settle(ConnectionId(1), consumer, &[settle(Outcome::Ack, 0, 1, 1, 1)]);
    world.batch.delete_queue(queue);
    world.settle(ConnectionId(1), consumer, &[settle(Outcome::Ack, 0, 2, 1, 1)]);
    world.commit();
    assert_eq!(world.effects.answers, [Answer::QueueDeleted { messages: 599 }]);
    assert_eq!(world.effects.ended, [(ConnectionId(1), consumer)]);
    assert_eq!(world.engine.info(queue), None);
    assert_eq!(world.engine.subscribe(ConnectionId(1), queue, 1), Err(gone));
    world.engine.check();
    world.check_extents();
    let again = world.create("orders", priorities(1));
    assert_ne!(again, queue);
    world.engine.check();
}

#[test]
fn consumers_and_queues_take_turns() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    let other = world.create("other", priorities(1));
    world.publish(queue, session, 1, &[0; 100]);
    world.publish(other, session, 2, &[0; 100]);
    world.commit();
    let first = world.engine.subscribe(ConnectionId(1), queue, 40).unwrap();
    let second = world.engine.subscribe(ConnectionId(2), queue, 2).unwrap();
    let third = world.engine.subscribe(ConnectionId(3), other, 1).unwrap();
    let takers: Vec<ConsumerId> = world.deliver(100).iter().map(|d| d.consumer).collect();
    assert_eq!(takers[..6], [first, second, first, second, first, first]);
    assert_eq!(takers.iter().position(|&taker| taker == third), Some(32));
    assert_eq!(takers.len(), 43);
    world.engine.check();
}

#[test]
fn a_paused_connection_and_a_parked_queue_get_nothing() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    world.publish(queue, session, 1, &[0; 10]);
    world.commit();
    let connection = ConnectionId(1);
    world.engine.subscribe(connection, queue, 10).unwrap();
    world.engine.pause(connection);
    world.engine.subscribe(connection, queue, 10).unwrap();
    assert_eq!(world.deliver(1), []);
    world.engine.resume(connection);
    assert_eq!(world.deliver(1).len(), 1);
    world.engine.park(queue);
    assert_eq!(world.deliver(1), []);
    world.engine.unpark(queue);
    assert_eq!(world.deliver(100).len(), 9);
    world.engine.check();
}

#[test]
fn counts_of_consumers_and_credit_are_bounded() {
    let (mut world, queue, _) = world_with_queue(priorities(1));
    let connection = ConnectionId(1);
    assert_eq!(world.engine.subscribe(connection, queue, 0), Err(Refusal::Malformed));
    assert_eq!(world.engine.subscribe(connection, queue, CREDIT_MAX + 1), Err(Refusal::Malformed));
    for _ in 0..CONSUMERS_PER_QUEUE_MAX {
        world.engine.subscribe(connection, queue, 1).unwrap();
    }
    assert_eq!(world.engine.subscribe(connection, queue, 1), Err(Refusal::TooMany));
    world.engine.disconnect(connection);
    world.engine.check();
    assert!(world.engine.subscribe(connection, queue, 1).is_ok());
}

#[test]
fn an_ended_consumers_number_does_not_name_its_successor() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    world.publish(queue, session, 1, &[0]);
    world.commit();
    let connection = ConnectionId(1);
    let first = world.engine.subscribe(connection, queue, 1).unwrap();
    world.engine.unsubscribe(connection, first).unwrap();
    assert_eq!(world.engine.unsubscribe(connection, first), Err(Refusal::NoSuchConsumer));
    let second = world.engine.subscribe(connection, queue, 1).unwrap();
    assert_ne!(first, second);
    assert_eq!(world.deliver(1)[0].consumer, second);
}

#[test]
fn a_new_leader_finds_everything_unsettled_ready() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    world.publish(queue, session, 1, &[0; 4]);
    world.commit();
    let consumer = world.engine.subscribe(ConnectionId(1), queue, 2).unwrap();
    world.deliver(2);
    world.settle(ConnectionId(1), consumer, &[settle(Outcome::Ack, 0, 1, 1, 1)]);
    let mut ended = Vec::new();
    world.engine.follow(&mut ended);
    assert_eq!(ended, [(ConnectionId(1), consumer)]);
    world.engine.check();
    assert_eq!(world.publish(queue, session, 2, &[0]), Admission::Refused(Refusal::NotLeader));
    world.commit();
    world.lead();
    world.engine.check();
    world.engine.subscribe(ConnectionId(2), queue, 9).unwrap();
    let again: Vec<(u64, bool)> = world.deliver(9).iter().map(|d| (d.sequence, d.is_redelivered)).collect();
    assert_eq!(again, [(2, true), (3, false), (4, false)], "the settle on its way was applied");
}

#[test]
fn log_and_state_that_have_parted_are_an_error() {
    let (mut world, queue, session) = world_with_queue(priorities(1));
    let entry = |world: &mut World, queue, session, sequence, priority| {
        let mut batch = crate::command::Batch::new();
        batch.begin(world.now);
        world::put_publish(
            &mut batch,
            queue,
            SessionOpened { session, epoch: 1, last_sequence: 0 },
            sequence,
            &[priority],
        );
        let data = batch.seal();
        let (Index(index), term) = world.engine.applied();
        let applied =
            Applied { index: Index(index + 1), term, position: ringmain_wal::Position(0), data: &data };
        world.engine.apply(applied, &mut EngineEffects::default())
    };
    use world::SessionOpened;
    world.engine.follow(&mut Vec::new());
    assert!(entry(&mut world, QueueId(99), session, 1, 0).is_err());
    assert!(entry(&mut world, queue, SessionId(99), 1, 0).is_err());
    assert!(entry(&mut world, queue, session, 9_000, 0).is_err());
    assert!(entry(&mut world, queue, session, 2, 7).is_err());
    let old = Applied { index: Index(0), term: Term(1), position: ringmain_wal::Position(0), data: &[] };
    assert!(world.engine.apply(old, &mut EngineEffects::default()).is_err());
}

#[test]
fn strays_are_found_and_moved() {
    let (mut world, queue, session) = world_with_queue(priorities(2));
    let empty = world.create("empty", priorities(1));
    for sequence in 1..=50 {
        world.publish(queue, session, sequence, &[0, 1, 0, 0, 0, 1]);
        world.commit();
    }
    let middle = world.log[30].position;
    let mut strays = Vec::new();
    while world.engine.sweep(7, |position| position < middle, &mut strays) == Sweep::More {}
    assert!(strays.len() > 100);
    assert!(strays.iter().all(|stray| stray.position < middle && stray.queue != empty));
    let mut seen: Vec<_> = strays.iter().map(|stray| (stray.priority, stray.sequence)).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), strays.len());

    let before = world.engine.digest();
    let elsewhere = ringmain_wal::Position(1 << 40);
    assert!(world.engine.relocate(&strays[0], elsewhere));
    assert!(!world.engine.relocate(&strays[0], elsewhere), "it is not where it was");
    assert_eq!(world.engine.digest(), before);
    assert!(world.engine.extents().any(|extent| extent.position == elsewhere));
}
