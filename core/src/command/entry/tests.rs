use bytes::Bytes;

use super::*;
use crate::command::{Batch, PublishHead, Settlement};

fn head(key: &str, headers: &str, payload: &str, priority: u8) -> MessageHead {
    MessageHead {
        payload_bytes: payload.len() as u32,
        headers_bytes: headers.len() as u32,
        key_bytes: key.len() as u16,
        priority,
        ..MessageHead::default()
    }
}

/// One of each command.
fn entry() -> Bytes {
    let mut batch = Batch::new();
    batch.begin(Time(5_000));
    let publish = PublishHead {
        queue: QueueId(3),
        session: SessionId(4),
        epoch: 1,
        sequence: 9,
        count: 2,
        bytes: 12,
        priority_max: 2,
    };
    let heads = [head("k", "hh", "payload", 2), head("", "", "xy", 0)];
    batch.publish(&publish, heads, b"khhpayloadxy");
    let settlement = |queue, outcome, sequence| Settlement {
        queue: QueueId(queue),
        outcome,
        run: Run { priority: 1, sequence, count: 3 },
    };
    batch.settle(&[
        settlement(3, Outcome::Ack, 1),
        settlement(3, Outcome::Reject, 7),
        settlement(8, Outcome::Requeue, 2),
    ]);
    batch.create_queue("orders", &Settings { priorities: 3, ..Settings::default() });
    batch.delete_queue(QueueId(3));
    batch.purge_queue(QueueId(3), &[Run::one(1, 6)]);
    batch.open_session("desk-7");
    batch.expire_sessions(&[SessionId(4), SessionId(5)]);
    assert_eq!(batch.commands(), 8);
    batch.seal()
}

#[test]
fn commands_come_back() {
    let data = entry();
    let parsed = Entry::parse(&data).unwrap();
    assert_eq!(parsed.stamp(), Time(5_000));
    let commands: Vec<Command<'_>> = parsed.collect::<Result<_, _>>().unwrap();
    assert_eq!(commands.len(), 8);

    let Command::Publish(publish) = &commands[0] else { panic!("{commands:?}") };
    assert_eq!((publish.queue, publish.session, publish.sequence), (QueueId(3), SessionId(4), 9));
    let messages: Vec<StoredHead> = publish.clone().collect::<Result<_, _>>().unwrap();
    let stored = |message: &StoredHead| &data[message.offset..message.offset + message.bytes as usize];
    let first = StoredMessage::parse(stored(&messages[0]), QueueId(3)).unwrap();
    assert_eq!((first.key, first.headers, first.payload), (&b"k"[..], &b"hh"[..], &b"payload"[..]));
    assert_eq!((first.head.priority, first.published_us), (2, 5));
    let second = StoredMessage::parse(stored(&messages[1]), QueueId(3)).unwrap();
    assert_eq!(second.payload, b"xy");

    assert!(StoredMessage::parse(stored(&messages[0]), QueueId(4)).is_err(), "another queue's");
    let whole = stored(&messages[0]);
    for at in 0..whole.len() {
        let mut rotten = whole.to_vec();
        rotten[at] ^= 0x10;
        assert!(StoredMessage::parse(&rotten, QueueId(3)).is_err(), "byte {at}");
    }

    let Command::Settle { queue, runs } = &commands[1] else { panic!("{commands:?}") };
    let runs: Vec<(Run, Outcome)> = runs.clone().collect::<Result<_, _>>().unwrap();
    assert_eq!((queue.0, runs.len(), runs[1].1), (3, 2, Outcome::Reject));
    let Command::Settle { queue, .. } = &commands[2] else { panic!("{commands:?}") };
    assert_eq!(queue.0, 8);
    let Command::CreateQueue { name, settings } = &commands[3] else { panic!("{commands:?}") };
    assert_eq!((*name, settings.priorities), ("orders", 3));
    assert!(matches!(commands[4], Command::DeleteQueue { queue: QueueId(3) }));
    assert!(matches!(commands[5], Command::PurgeQueue { queue: QueueId(3), .. }));
    assert!(matches!(commands[6], Command::OpenSession { producer: "desk-7" }));
    let Command::ExpireSessions { sessions } = &commands[7] else { panic!("{commands:?}") };
    assert_eq!(sessions.clone().collect::<Vec<_>>(), [SessionId(4), SessionId(5)]);
}

#[test]
fn an_entry_of_no_bytes_holds_no_command() {
    assert_eq!(Entry::parse(&[]).unwrap().count(), 0);
}

#[test]
fn the_batch_reuses_its_buffer() {
    let mut batch = Batch::new();
    for _ in 0..3 {
        batch.begin(Time(1));
        assert!(batch.is_empty());
        batch.delete_queue(QueueId(1));
        assert_eq!(batch.seal().len(), 16 + 8 + 8);
    }
}

/// Reads everything there is; says whether it was whole.
fn read(data: &[u8]) -> bool {
    let Ok(mut entry) = Entry::parse(data) else { return false };
    entry.all(|command| match command {
        Ok(Command::Publish(mut publish)) => publish.all(|message| message.is_ok()),
        Ok(Command::Settle { mut runs, .. } | Command::PurgeQueue { kept: mut runs, .. }) => {
            runs.all(|run| run.is_ok())
        }
        Ok(Command::ExpireSessions { sessions }) => sessions.count() < 1_000,
        Ok(_) => true,
        Err(_) => false,
    })
}

#[test]
fn a_shortened_entry_is_an_error() {
    let data = entry();
    assert!(read(&data));
    for bytes in 1..data.len() {
        assert!(!read(&data[..bytes]), "{bytes}");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let data = entry();
    for at in 0..data.len() {
        for bit in 0..8 {
            let mut flipped = data.to_vec();
            flipped[at] ^= 1 << bit;
            read(&flipped);
        }
    }
    for byte in [0, 1, 0x7f, 0xff] {
        read(&vec![byte; 300]);
        let mut filled = data.to_vec();
        for at in 16..filled.len() {
            filled[at] = byte;
            read(&filled);
        }
        assert!(StoredMessage::parse(&[byte; 40], QueueId(3)).is_err());
    }
}
