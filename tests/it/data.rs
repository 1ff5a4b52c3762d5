//! Data directories that a node must not, or cannot, start with. Each is named with what is wrong and where, exit code 1,
//! and left as it was. The tests may run as root, whom no permission stops: what cannot be read is a directory where a
//! file should be, or a file where a directory should be.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ringmain_client::blocking::Client;
use ringmain_client::{Message, QueueSettings};
use ringmain_tests::process::{Ended, Node, PATIENCE, Setup, wait_for};
use ringmain_wal::inspect;

use crate::process::program;

const SEGMENT_BYTES: usize = 16 << 20;
const MESSAGE_BYTES: usize = 1 << 19;
/// Three and a half segments.
const MESSAGES: u64 = 100;

/// On the second of two shards: a failure of any shard is one of the node.
const QUEUE: &str = "risk/1";

fn filled(directory: &Path) -> Setup {
    assert_eq!(ringmain_net::route::shard_of(QUEUE, 2), 1);
    let setup = Setup::new(&program(), &directory.join("data")).shards(2);
    let node = setup.start().unwrap();
    let client = Client::builder().connect(&node.connect()).unwrap();
    client.create_queue(QUEUE, &QueueSettings::default()).unwrap();
    let mut producer = client.producer(QUEUE).unwrap();
    for number in 0..MESSAGES {
        let mut payload = vec![number as u8; MESSAGE_BYTES];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        producer.publish(&Message::new(&payload), PATIENCE).unwrap();
    }
    client.close(PATIENCE).unwrap();
    let ended = node.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    setup
}

fn shard(setup: &Setup) -> PathBuf {
    setup.data.join("shard-0001")
}

fn segment(setup: &Setup, number: u64) -> PathBuf {
    shard(setup).join(ringmain_wal::segment_file_name(number))
}

/// Everything in a directory but the lock, whose text is the last process that asked for it, and the log of the first
/// shard, which is whole and may have been started before the second one was refused.
fn contents(directory: &Path) -> BTreeMap<PathBuf, u32> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("shard-0000") {
            continue;
        }
        if path.is_dir() {
            all.insert(path.clone(), 0);
            all.append(&mut contents(&path));
        } else if path.file_name().unwrap() != "lock" {
            all.insert(path.clone(), crc32c::crc32c(&fs::read(&path).unwrap()));
        }
    }
    all
}

/// Exit code 1, one clear sentence, nothing changed.
#[track_caller]
fn is_refused(setup: &Setup, words: &[&str]) {
    let before = contents(&setup.data);
    let ended = match setup.start() {
        Err(ended) => ended,
        Ok(node) => panic!("it serves on {}", node.connect()),
    };
    is_clear(&ended, words);
    assert!(contents(&setup.data) == before, "the directory is not as it was");
}

#[track_caller]
fn is_clear(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert_eq!(ended.stderr.trim().lines().count(), 1, "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in: {}", ended.stderr);
    }
}

/// `wal verify` finds what is wrong, and says where.
#[track_caller]
fn is_damaged(setup: &Setup, words: &[&str]) {
    let verified = setup.program.verify(&setup.data);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    for word in words {
        assert!(verified.stdout.contains(word), "{word:?} is not in: {}", verified.stdout);
    }
    let dumped = setup.program.run(&["wal", "dump", setup.data.to_str().unwrap()]);
    assert_eq!(dumped.code, Some(1), "{}", dumped.stderr);
    assert!(dumped.stdout.contains("record 1 boot"), "the records before the damage are printed");
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn flip(path: &Path, offset: u64) {
    let mut byte = [0];
    fs::File::open(path).unwrap().read_exact_at(&mut byte, offset).unwrap();
    overwrite(path, offset, &[byte[0] ^ 1]);
}

/// All messages are there, in order.
fn serves_all(node: &Node) {
    let client = Client::builder().connect(&node.connect()).unwrap();
    assert_eq!(client.show_queue(QUEUE).unwrap().ready, MESSAGES);
    let mut consumer = client.consumer(QUEUE, 10).unwrap();
    let mut expected = 0_u64;
    wait_for("every message comes", || {
        let handled = consumer.poll(10, |delivery| {
            assert_eq!(delivery.payload()[..8], expected.to_le_bytes());
            assert_eq!(delivery.payload().len(), MESSAGE_BYTES);
            expected += 1;
            delivery.ack();
        });
        handled.unwrap();
        (expected == MESSAGES).then_some(())
    });
    client.close(PATIENCE).unwrap();
}

#[test]
fn what_is_not_this_nodes_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { shards: None, ..Setup::new(&program(), &directory.path().join("data")).shards(2) };
    let first = Setup { shards: Some(2), ..setup.clone() };
    assert_eq!(first.start().unwrap().stop().code, Some(0));
    is_refused(&Setup { node: 2, ..setup.clone() }, &["data directory of node 1", "this is node 2"]);
    is_refused(&Setup { shards: Some(3), ..setup.clone() }, &["made for 2 shards", "have 3"]);
    is_refused(&setup.clone().limit("segment_bytes", "\"32MiB\""), &["has segments of 16 MiB", "32 MiB"]);

    // Another node's log where this one's should be, with an identity that fits.
    let other = Setup { data: directory.path().join("other"), ..first.clone() };
    assert_eq!(other.start().unwrap().stop().code, Some(0));
    let identity = fs::read_to_string(setup.data.join("identity.toml")).unwrap();
    fs::write(other.data.join("identity.toml"), &identity).unwrap();
    is_refused(&other, &["other/shard-000", "segment belongs to"]);

    for garbage in ["", "format = 1\n", "\u{1F980}", "format = 99\n", &identity.replace("0x", "")] {
        fs::write(setup.data.join("identity.toml"), garbage).unwrap();
        is_refused(&setup, &["identity.toml: "]);
    }
    fs::write(setup.data.join("identity.toml"), [0xff; 100]).unwrap();
    is_refused(&setup, &["identity.toml: cannot be understood: it is not text"]);
    fs::write(setup.data.join("identity.toml"), &identity).unwrap();
    assert_eq!(setup.start().unwrap().stop().code, Some(0));
}

#[test]
fn what_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "a file").unwrap();
    let setup = Setup::new(&program(), &file);
    is_clear(&setup.start().unwrap_err(), &["file: is a file, not a directory"]);
    let below = Setup { data: file.join("data"), ..setup.clone() };
    is_clear(&below.start().unwrap_err(), &["file/data: ", "Not a directory"]);
    assert_eq!(fs::read(&file).unwrap(), b"a file");

    let setup = Setup { data: directory.path().join("data"), ..setup }.shards(2);
    assert_eq!(setup.start().unwrap().stop().code, Some(0));
    let identity = fs::read(setup.data.join("identity.toml")).unwrap();
    fs::remove_file(setup.data.join("identity.toml")).unwrap();
    is_refused(&setup, &["is not empty and is no data directory of Ringmain"]);
    fs::create_dir(setup.data.join("identity.toml")).unwrap();
    is_refused(&setup, &["identity.toml", "Is a directory"]);
    fs::remove_dir(setup.data.join("identity.toml")).unwrap();
    fs::write(setup.data.join("identity.toml"), identity).unwrap();

    // A directory where the superblock should be, and one where a segment should be.
    let superblock = fs::read(shard(&setup).join("superblock")).unwrap();
    fs::remove_file(shard(&setup).join("superblock")).unwrap();
    fs::create_dir(shard(&setup).join("superblock")).unwrap();
    is_refused(&setup, &["superblock", "Is a directory"]);
    fs::remove_dir(shard(&setup).join("superblock")).unwrap();
    fs::write(shard(&setup).join("superblock"), superblock).unwrap();
    assert_eq!(setup.start().unwrap().stop().code, Some(0));

    let nothing = setup.program.verify(&directory.path().join("nowhere"));
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.stderr.contains("nowhere"), "{}", nothing.stderr);
}

#[test]
fn a_second_server_on_one_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::new(&program(), &directory.path().join("data"));
    let node = setup.start().unwrap();
    let ended = setup.start().unwrap_err();
    is_clear(&ended, &[&format!("process {} uses this data directory", node.id())]);
    // And on one port.
    let port = node.addresses[0].rsplit(':').next().unwrap().parse().unwrap();
    let other = Setup { data: directory.path().join("other"), port, ..setup.clone() };
    is_clear(&other.start().unwrap_err(), &["cannot listen on 127.0.0.1:", "another process listens there"]);
    let client = Client::builder().connect(&node.connect()).unwrap();
    client.create_queue("q", &QueueSettings::default()).unwrap();
    client.close(PATIENCE).unwrap();
    node.kill();
    // The lock ends with its holder, however that ends.
    assert_eq!(setup.start().unwrap().stop().code, Some(0));
}

#[test]
fn a_missing_segment_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let setup = filled(directory.path());
    let second = fs::read(segment(&setup, 2)).unwrap();
    fs::remove_file(segment(&setup, 2)).unwrap();
    is_refused(&setup, &["segment 2"]);
    is_damaged(&setup, &["segment 2"]);
    fs::write(segment(&setup, 2), &second[..SEGMENT_BYTES / 2]).unwrap();
    is_refused(&setup, &["segment 2"]);
    is_damaged(&setup, &["segment 2"]);
    fs::write(segment(&setup, 2), &second).unwrap();
    serves_all(&setup.start().unwrap());
}

#[test]
fn a_flipped_byte_in_an_old_segment_is_rot() {
    let directory = tempfile::tempdir().unwrap();
    let setup = filled(directory.path());
    let report = inspect::verify(&setup.data).unwrap();
    let used = report.shards[1].segments[&2].used_bytes;
    for offset in [0, 5000, used / 2, used - 100] {
        flip(&segment(&setup, 2), offset);
        is_refused(&setup, &["shard-0001: segment 2"]);
        is_damaged(&setup, &["FAULT in segment 2"]);
        flip(&segment(&setup, 2), offset);
    }
    assert_eq!(setup.program.verify(&setup.data).code, Some(0));
    serves_all(&setup.start().unwrap());
}

#[test]
fn rot_in_a_message_is_never_served() {
    let directory = tempfile::tempdir().unwrap();
    // With checkpoints the old segments are not read at a start: the rot is met when its message is wanted.
    let setup = Setup::clone(&filled(directory.path())).limit("checkpoint_bytes", "\"1MiB\"");
    let setup = setup.limit("cache_bytes_max", "\"8MiB\"");
    let node = setup.start().unwrap();
    let client = Client::builder().connect(&node.connect()).unwrap();
    let mut producer = client.producer(QUEUE).unwrap();
    for _ in 0..8 {
        producer.publish(&Message::new(&vec![255; MESSAGE_BYTES]), PATIENCE).unwrap();
    }
    client.close(PATIENCE).unwrap();
    assert_eq!(node.stop().code, Some(0));
    flip(&segment(&setup, 2), SEGMENT_BYTES as u64 / 2);
    is_damaged(&setup, &["FAULT in segment 2"]);

    let node = setup.start().unwrap();
    let client = Client::builder().connect(&node.connect()).unwrap();
    let mut consumer = client.consumer(QUEUE, 4).unwrap();
    let (mut expected, mut stderr) = (0_u64, String::new());
    let mut node = node;
    wait_for("the node has met it", || {
        let polled = consumer.poll(4, |delivery| {
            assert_eq!(delivery.payload()[..8], expected.to_le_bytes());
            assert!(delivery.payload()[8..].iter().all(|&byte| byte == expected as u8), "rot was served");
            expected += 1;
            delivery.ack();
        });
        polled.unwrap();
        stderr = node.stderr();
        (!node.is_running()).then_some(())
    });
    assert!((20..70).contains(&expected), "{expected} messages were served");
    let ended = node.ended();
    is_clear(&ended, &["shard-0001: segment 2: rot in a live message", "wal verify"]);
}

#[test]
fn a_torn_tail_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let setup = filled(directory.path());
    let report = inspect::verify(&setup.data).unwrap();
    let last = report.shards[1].segments.values().rfind(|segment| segment.records > 0).unwrap().clone();
    let end = last.used_bytes.next_multiple_of(4096);
    // The last thing that a stopped node writes is a voucher for what came before: without it, and with the beginning
    // of a write that never finished, the log is what a power cut leaves.
    let mut beginning = vec![0; 8192];
    fs::File::open(segment(&setup, 1)).unwrap().read_exact_at(&mut beginning, 4096).unwrap();
    for garbage in [vec![0xA5; 4096], vec![1; 100_000], beginning] {
        overwrite(&segment(&setup, last.number), end, &garbage);
        let verified = setup.program.verify(&setup.data);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        let node = setup.start().unwrap();
        let client = Client::builder().connect(&node.connect()).unwrap();
        assert_eq!(client.show_queue(QUEUE).unwrap().ready, MESSAGES);
        client.close(PATIENCE).unwrap();
        node.kill();
    }
    serves_all(&setup.start().unwrap());
    assert_eq!(setup.program.verify(&setup.data).code, Some(0));
}
