//! Bad bytes and bad manners on the ports of a real node. It answers them clearly or hangs up, stays within its memory,
//! and serves everybody else meanwhile.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmain_client::blocking::Client;
use ringmain_client::{Message, QueueSettings};
use ringmain_net::protocol::{
    Code, Done, Hello, MessageHead, OpenQueue, PROTOCOL, Ping, Pong, Publish, Reply, ShowQueue, Subscribe,
};
use ringmain_tests::process::{Node, PATIENCE, Setup, wait_for};
use ringmain_tests::rng::Rng;

use crate::process::program;
use crate::raw::{End, Raw, encoded, hello, sealed};

/// Two shards at rest, the page buffers of their rings, and what a test asks of them.
const RESIDENT_BYTES_MAX: u64 = 400 << 20;

fn setup(directory: &Path) -> Setup {
    Setup::new(&program(), &directory.join("data")).shards(2)
}

/// A client that has nothing to do with it, and must notice nothing.
struct Bystander {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Bystander {
    fn of(node: &Node) -> Self {
        let (connect, is_over) = (node.connect(), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let client = Client::builder().connect(&connect).unwrap();
            client.create_queue("bystander", &QueueSettings::default()).unwrap();
            let mut producer = client.producer("bystander").unwrap();
            let mut published = 0_u64;
            while !over.load(Ordering::Relaxed) || published == 0 {
                let payload = published.to_le_bytes();
                producer.publish(&Message::new(&payload), PATIENCE).unwrap();
                published += 1;
            }
            let lost = std::iter::from_fn(|| client.poll_event())
                .filter(|event| matches!(event, ringmain_client::Event::Lost { .. }));
            assert_eq!(lost.count(), 0);
            let mut consumer = client.consumer("bystander", 100).unwrap();
            let mut expected = 0_u64;
            let deadline = Instant::now() + PATIENCE;
            while expected < published {
                consumer
                    .poll(100, |delivery| {
                        assert_eq!(delivery.payload(), expected.to_le_bytes());
                        expected += 1;
                        delivery.ack();
                    })
                    .unwrap();
                assert!(Instant::now() < deadline, "{expected} of {published}");
                client.idle();
            }
            client.close(PATIENCE).unwrap();
            published
        });
        Self { is_over, thread }
    }

    /// How many messages it got through, all of them acknowledged and there.
    fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the bystander was disturbed")
    }
}

/// The node is as it was before.
fn is_at_rest(node: &mut Node, sockets: usize) {
    assert!(node.is_running(), "{}", node.stderr());
    wait_for("all connections are closed", || (node.sockets() <= sockets).then_some(()));
    let resident = node.resident_bytes();
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes are resident");
    assert!(!node.stderr().contains("panicked"), "{}", node.stderr());
}

fn publish_frame() -> Vec<u8> {
    let heads = [MessageHead { payload_bytes: 4, ..MessageHead::default() }; 2];
    encoded(&Publish { queue: 1, session: 1, epoch: 1, sequence: 1, messages: &heads }, &[b"12345678"])
}

/// What is sent before a hello, and the answer.
fn strangers() -> Vec<(&'static str, Vec<u8>, Code)> {
    vec![
        ("another protocol", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n".to_vec(), Code::TooLarge),
        ("zeros", vec![0; 100], Code::Malformed),
        ("a hello of 5 KiB", 5000_u32.to_le_bytes().to_vec(), Code::TooLarge),
        ("a frame of 4 GiB", u32::MAX.to_le_bytes().to_vec(), Code::TooLarge),
        ("a frame shorter than its header", 23_u32.to_le_bytes().to_vec(), Code::Malformed),
        ("a request before the hello", encoded(&Ping, &[]), Code::Malformed),
        ("a reply", encoded(&Pong, &[]), Code::Malformed),
        ("another cluster", encoded(&hello(1), &[]), Code::WrongCluster),
        (
            "a protocol of the future",
            encoded(&Hello { protocol: PROTOCOL + 1, cluster: 0, agent: "" }, &[]),
            Code::UnsupportedVersion,
        ),
        (
            "a frame of another version",
            sealed(encoded(&hello(0), &[]), |bytes| bytes[8] = 2),
            Code::UnsupportedVersion,
        ),
        ("a hello with a body", sealed(encoded(&hello(0), &[b"body"]), |_| {}), Code::Malformed),
        (
            "an agent of 65 bytes",
            encoded(&Hello { protocol: PROTOCOL, cluster: 0, agent: &"a".repeat(65) }, &[]),
            Code::Malformed,
        ),
    ]
}

/// What is sent after a hello, and the answer.
fn guests() -> Vec<(&'static str, Vec<u8>, Code)> {
    let mut harmed = publish_frame();
    let last = harmed.len() - 1;
    harmed[last] ^= 1;
    vec![
        ("a second hello", encoded(&hello(0), &[]), Code::Malformed),
        ("a checksum that does not match", harmed, Code::Malformed),
        ("a kind that nobody knows", sealed(encoded(&Ping, &[]), |bytes| bytes[9] = 100), Code::Malformed),
        ("reserved bytes in use", sealed(encoded(&Ping, &[]), |bytes| bytes[10] = 1), Code::Malformed),
        ("a reply", encoded(&Done { index: 1, count: 1 }, &[]), Code::Malformed),
        ("a frame of 4 MiB and a byte", ((4 << 20) + 1_u32).to_le_bytes().to_vec(), Code::TooLarge),
        (
            "messages longer than the body",
            sealed(publish_frame(), |bytes| {
                bytes.pop();
                let length = bytes.len() as u32;
                bytes[..4].copy_from_slice(&length.to_le_bytes());
            }),
            Code::Malformed,
        ),
        (
            "an archive longer than its frame",
            sealed(publish_frame(), |bytes| bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes())),
            Code::Malformed,
        ),
    ]
}

#[test]
fn bad_frames_end_their_own_connection_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = setup(directory.path()).start().unwrap();
    let sockets = node.sockets();
    let bystander = Bystander::of(&node);
    let mut rng = Rng::new(1);
    for address in node.addresses.clone() {
        for (what, bytes, code) in strangers() {
            let mut raw = Raw::connect(&address);
            raw.say(&bytes);
            match raw.end() {
                End::Told(told, _) => assert_eq!(told, code, "{what}"),
                End::Silent => panic!("{what}: no answer"),
            }
        }
        for (what, bytes, code) in guests() {
            let mut raw = Raw::greeted(&address);
            raw.say(&bytes);
            match raw.end() {
                End::Told(told, _) => assert_eq!(told, code, "{what}"),
                End::Silent => panic!("{what}: no answer"),
            }
        }
        for round in 0..100 {
            let mut raw = if round % 2 == 0 { Raw::connect(&address) } else { Raw::greeted(&address) };
            let mut bytes = vec![0; rng.skewed(20_000) as usize];
            rng.fill(&mut bytes);
            raw.say(&bytes);
            // Few bytes may be the beginning of a frame: this is all of it.
            raw.stop_sending();
            raw.end();
        }
        truncated_and_half_closed(&address);
    }
    assert!(bystander.end() > 0);
    is_at_rest(&mut node, sockets);
    assert_eq!(node.stop().code, Some(0));
}

/// Every beginning of a request, then nothing more.
fn truncated_and_half_closed(address: &str) {
    let request = encoded(&ShowQueue { name: "bystander" }, &[]);
    for cut in 0..request.len() {
        let mut raw = Raw::greeted(address);
        raw.say(&request[..cut]);
        raw.stop_sending();
        raw.end();
    }
    // One that goes away in the middle without a word.
    for _ in 0..50 {
        let mut raw = Raw::greeted(address);
        raw.say(&request[..request.len() / 2]);
    }
}

#[test]
fn slow_and_silent_connections_are_ended() {
    let directory = tempfile::tempdir().unwrap();
    let setup =
        setup(directory.path()).limit("hello_timeout", "\"300ms\"").limit("frame_timeout", "\"400ms\"");
    let mut node = setup.start().unwrap();
    let sockets = node.sockets();
    let bystander = Bystander::of(&node);
    let address = &node.addresses[0];
    let silent: Vec<Raw> = (0..200).map(|_| Raw::connect(address)).collect();
    let late = |raw: Raw| match raw.end() {
        End::Told(code, _) => assert_eq!(code, Code::Malformed),
        End::Silent => panic!("it is told why"),
    };
    // A byte at a time: each of them is progress, and all of them together are too little.
    let mut slow = [Raw::connect(address), Raw::greeted(address)];
    let drops = encoded(&hello(0), &[]);
    for byte in drops.iter().cycle().take(drops.len() - 1) {
        let alive = slow.iter_mut().map(|raw| raw.say(&[*byte])).filter(|said| *said).count();
        if alive == 0 {
            break;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    slow.into_iter().for_each(late);
    silent.into_iter().for_each(late);
    // Who has said hello and owes nothing may be silent for as long as he likes.
    let mut quiet = Raw::greeted(address);
    let since = Instant::now();
    wait_for("a while", || (since.elapsed() > Duration::from_millis(1_500)).then_some(()));
    quiet.ask(&Ping, &[]);
    assert!(quiet.next(|reply| matches!(reply, Reply::Pong)));
    drop(quiet);
    assert!(bystander.end() > 0);
    is_at_rest(&mut node, sockets);
}

#[test]
fn a_flood_is_refused_beyond_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { shards: Some(1), ..setup(directory.path()) }.limit("connections_max", "40");
    let mut node = setup.start().unwrap();
    let sockets = node.sockets();
    let bystander = Bystander::of(&node);
    let address = node.addresses[0].clone();
    let (mut welcome, mut refused) = (Vec::new(), 0);
    for _ in 0..100 {
        let mut raw = Raw::connect(&address);
        raw.say(&encoded(&hello(0), &[]));
        let is_welcome = raw.next(|reply| match reply {
            Reply::Welcome(_) => Some(true),
            Reply::Closing(closing) => {
                assert_eq!(Code::from(closing.code), Code::TooMany);
                Some(false)
            }
            reply => panic!("{reply:?}"),
        });
        // One that was refused before it had said hello may find the connection reset.
        if is_welcome == Some(true) { welcome.push(raw) } else { refused += 1 }
    }
    assert!((30..=40).contains(&welcome.len()), "{} are welcome", welcome.len());
    assert!(refused >= 60);
    for raw in &mut welcome {
        raw.ask(&Ping, &[]);
        assert!(raw.next(|reply| matches!(reply, Reply::Pong)));
    }
    drop(welcome);
    wait_for("there is room again", || {
        let mut raw = Raw::connect(&address);
        raw.say(&encoded(&hello(0), &[]));
        raw.next(|reply| matches!(reply, Reply::Welcome(_))).then_some(())
    });
    assert!(bystander.end() > 0);
    is_at_rest(&mut node, sockets);
}

#[test]
fn a_crowd_leaves_the_log_its_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let limited = |count: &str| -> Vec<OsString> {
        ["prlimit", &format!("--nofile={count}:{count}"), "--"].map(OsString::from).to_vec()
    };
    let setup = Setup { shards: Some(1), ..setup(directory.path()) };
    let refused = Setup { wrapper: limited("100"), ..setup.clone() }.start().unwrap_err();
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("RLIMIT_NOFILE is 100, and 1 shards need at least 330"),
        "{}",
        refused.stderr
    );

    let mut node = Setup { wrapper: limited("400"), ..setup }.start().unwrap();
    assert!(node.stderr().contains("each shard takes 86 clients instead of 4096"), "{}", node.stderr());
    let sockets = node.sockets();
    let client = Client::builder().connect(&node.connect()).unwrap();
    client.create_queue("q", &QueueSettings::default()).unwrap();
    let mut producer = client.producer("q").unwrap();
    // The kernel takes them all; the node accepts as many as it may.
    let crowd: Vec<Raw> = (0..400).map(|_| Raw::connect(&node.addresses[0])).collect();
    wait_for("the node has all the connections that it takes", || (node.sockets() > 90).then_some(()));
    // Enough for several segments, each of which is a file to be made and opened.
    let payload = vec![7; 1 << 20];
    for _ in 0..100 {
        producer.publish(&Message::new(&payload), PATIENCE).unwrap();
    }
    assert!(node.descriptors() < 400);
    drop(crowd);
    wait_for("there is room again", || {
        let mut raw = Raw::connect(&node.addresses[0]);
        raw.say(&encoded(&hello(0), &[]));
        raw.next(|reply| matches!(reply, Reply::Welcome(_))).then_some(())
    });
    assert_eq!(client.show_queue("q").unwrap().ready, 100);
    client.close(PATIENCE).unwrap();
    is_at_rest(&mut node, sockets);
}

#[test]
fn clients_that_never_read_cost_bounded_memory() {
    const MESSAGES: u64 = 3_000;
    const CLIENTS: u64 = 16;
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { shards: Some(1), ..setup(directory.path()) }.limit("cache_bytes_max", "\"8MiB\"");
    let mut node = setup.start().unwrap();
    let sockets = node.sockets();
    let client = Client::builder().connect(&node.connect()).unwrap();
    client.create_queue("deep", &QueueSettings::default()).unwrap();
    let mut producer = client.producer("deep").unwrap();
    let payload = vec![7; 20_000];
    for _ in 0..MESSAGES / 100 {
        let batch: Vec<Message<'_>> = (0..100).map(|_| Message::new(&payload)).collect();
        producer.publish_batch(&batch, PATIENCE).unwrap();
    }
    let before = node.resident_bytes();
    let mut deaf = Vec::new();
    for _ in 0..CLIENTS {
        let mut raw = Raw::greeted(&node.addresses[0]);
        raw.ask(&OpenQueue { name: "deep" }, &[]);
        let queue = raw.next(|reply| match reply {
            Reply::QueueOpened(opened) => Some(opened.queue),
            reply => panic!("{reply:?}"),
        });
        raw.ask(&Subscribe { queue: queue.unwrap(), credit: 65_536 }, &[]);
        deaf.push(raw);
    }
    // And one that asks without end and reads no answer: at some time the node does not listen any more.
    let mut asking = Raw::greeted(&node.addresses[0]);
    asking.stream().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let questions = encoded(&ShowQueue { name: "deep" }, &[]).repeat(1000);
    let mut asked = 0;
    while asking.say(&questions) {
        asked += 1;
        assert!(asked < 2_000, "the node listens to who does not read");
    }
    deaf.push(asking);
    wait_for("deliveries are made", || (client.show_queue("deep").unwrap().in_flight > 100).then_some(()));
    // A connection may have a megabyte unsent, a frame beyond it, and as much with the kernel.
    let resident = node.resident_bytes();
    let allowed = before + (CLIENTS + 1) * (12 << 20);
    assert!(resident < allowed, "{resident} bytes are resident, {before} were before");
    drop(deaf);
    let mut consumer = client.consumer("deep", 500).unwrap();
    let (mut seen, deadline) = (0, Instant::now() + PATIENCE);
    while seen < MESSAGES {
        consumer
            .poll(500, |delivery| {
                seen += 1;
                delivery.ack();
            })
            .unwrap();
        assert!(Instant::now() < deadline, "{seen} of {MESSAGES}");
        client.idle();
    }
    drop(consumer);
    client.close(PATIENCE).unwrap();
    is_at_rest(&mut node, sockets);
}

#[test]
fn large_frames_of_many_connections_are_let_go_again() {
    const CONNECTIONS: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let mut node = Setup { shards: Some(1), ..setup(directory.path()) }.start().unwrap();
    // Each sends nearly all of a frame of 3 MiB: more than the shard will hold for all of them together.
    let part = [&(3_u32 << 20).to_le_bytes()[..], &vec![1; 3 << 20][8..]].concat();
    let mut raws: Vec<Raw> = (0..CONNECTIONS).map(|_| Raw::greeted(&node.addresses[0])).collect();
    let senders: Vec<_> = raws
        .drain(..)
        .map(|mut raw| {
            let part = part.clone();
            thread::spawn(move || {
                raw.say(&part);
                raw
            })
        })
        .collect();
    let raws: Vec<Raw> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    let resident = node.resident_bytes();
    assert!(resident < RESIDENT_BYTES_MAX + (256 << 20), "{resident} bytes are resident");
    // Who comes now is served all the same.
    let client = Client::builder().connect(&node.connect()).unwrap();
    client.create_queue("q", &QueueSettings::default()).unwrap();
    client.producer("q").unwrap().publish(&Message::new("x"), PATIENCE).unwrap();
    let mut rest = Vec::new();
    for raw in raws {
        raw.stop_sending();
        // What is left of the conversation is of no interest.
        let _ = raw.stream().read_to_end(&mut rest);
        rest.clear();
    }
    client.close(PATIENCE).unwrap();
    assert!(node.is_running());
}
