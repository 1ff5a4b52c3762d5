//! A disk that is full in the middle of work. It is a file system of its own, in memory, mounted where only the node sees
//! it, in namespaces of its own: no privilege is needed, nothing is left behind, and "no space" is the kernel's own.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringmain_client::blocking::{Client, Consumer, Producer};
use ringmain_client::{Code, Error, Message, QueueSettings};
use ringmain_tests::process::{Node, PATIENCE, Setup, wait_for};

use crate::process::program;

const MESSAGE_BYTES: usize = 200_000;
/// Five segments of 16 MiB and some small files.
const DISK: &str = "84m";

/// What runs a program with a small disk of its own at `place`.
fn small_disk(place: &Path) -> Vec<OsString> {
    let script =
        format!("mount -t tmpfs -o size={DISK} ringmain '{}' && exec \"$0\" \"$@\"", place.display());
    ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &script].map(OsString::from).to_vec()
}

/// Without it there is nothing to test here but a limit that is configured, which is another path.
fn namespaces_are_refused(place: &Path) -> Option<String> {
    let words = small_disk(place);
    let tried = Command::new(&words[0]).args(&words[1..]).arg("true").output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    }
}

struct Stage {
    directory: tempfile::TempDir,
    setup: Setup,
}

impl Stage {
    /// The node's data directory as it sees it; from here it is found through the process.
    fn data(&self, node: &Node) -> PathBuf {
        let data = self.setup.data.strip_prefix("/").unwrap();
        Path::new("/proc").join(node.id().to_string()).join("root").join(data)
    }
}

fn stage() -> Option<Stage> {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let setup = Setup { wrapper: small_disk(&disk), ..Setup::new(&program(), &disk.join("data")) };
    if let Some(why) = namespaces_are_refused(&disk) {
        // Said aloud: what follows is less than a full disk in the middle of work.
        eprintln!("no small disk can be mounted here ({why}): files are limited instead");
        return None;
    }
    let setup = setup.limit("checkpoint_bytes", "\"1MiB\"").limit("cache_bytes_max", "\"8MiB\"");
    Some(Stage { directory, setup })
}

struct Clients {
    client: Client,
    producer: Producer,
    consumer: Consumer,
    stored: u64,
    consumed: u64,
}

impl Clients {
    fn of(node: &Node) -> Self {
        let client = Client::builder().connect(&node.connect()).unwrap();
        client.create_queue("q", &QueueSettings::default()).unwrap();
        let producer = client.producer("q").unwrap();
        let consumer = client.consumer("q", 8).unwrap();
        Self { client, producer, consumer, stored: 0, consumed: 0 }
    }

    fn publish(&mut self) -> Result<(), Error> {
        let mut payload = vec![7; MESSAGE_BYTES];
        payload[..8].copy_from_slice(&self.stored.to_le_bytes());
        let sequence = self.producer.offer(&Message::new(&payload))?;
        let result = wait_for("an answer", || {
            self.client.poll();
            self.producer.pop()
        });
        assert_eq!(result.sequence, sequence);
        result.result?;
        self.stored += 1;
        Ok(())
    }

    /// Until the disk is full, which must not take more than there is.
    fn fill(&mut self) {
        for _ in 0..2_000 {
            match self.publish() {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.code(), Some(Code::DiskFull), "{error}");
                    return;
                }
            }
        }
        panic!("{} messages are stored on a disk of {DISK}", self.stored);
    }

    fn consume(&mut self, count: u64) {
        let until = self.consumed + count;
        wait_for("messages come from a full disk", || {
            let consumed = &mut self.consumed;
            let handled = self.consumer.poll((until - *consumed) as usize, |delivery| {
                assert_eq!(delivery.payload()[..8], consumed.to_le_bytes(), "lost or out of order");
                *consumed += 1;
                delivery.ack();
            });
            handled.unwrap();
            (*consumed == until).then_some(())
        });
    }

    /// Every ack is answered: done, and durable.
    fn settled(&mut self) {
        wait_for("acks are durable on a full disk", || {
            self.client.poll();
            (self.consumer.settled().0 >= self.consumed).then_some(())
        });
    }
}

#[test]
fn a_full_disk_refuses_publishes_and_loses_nothing() {
    let Some(stage) = stage() else { return files_are_limited() };
    let mut node = stage.setup.start().unwrap();
    let mut clients = Clients::of(&node);
    clients.fill();
    assert!(clients.stored > 100, "{} messages", clients.stored);
    // Again and again: refused, and nothing changes by asking.
    for _ in 0..50 {
        assert_eq!(clients.publish().unwrap_err().code(), Some(Code::DiskFull));
    }
    assert_eq!(clients.client.show_queue("q").unwrap().published, clients.stored);
    // What is settled gives its space back, and publishing goes on.
    let half = clients.stored / 2;
    clients.consume(half);
    clients.settled();
    let before = clients.stored;
    wait_for("there is space again", || clients.publish().is_ok().then_some(()));
    while clients.stored < before + 20 {
        clients.publish().unwrap();
    }
    assert!(node.is_running());
    // Full once more, and emptied to the last message: nothing that was acknowledged is lost.
    clients.fill();
    let left = clients.stored - clients.consumed;
    clients.consume(left - 5);
    clients.settled();
    clients.consume(5);
    clients.settled();
    assert_eq!(clients.client.show_queue("q").unwrap().ready, 0);
    wait_for("there is space again", || clients.publish().is_ok().then_some(()));
    clients.consume(1);
    clients.settled();
    let Clients { client, .. } = clients;
    client.close(PATIENCE).unwrap();
    let ended = node.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    drop(stage.directory);
}

#[test]
fn space_that_somebody_else_frees_is_used() {
    let Some(stage) = stage() else { return files_are_limited() };
    let node = stage.setup.start().unwrap();
    let mut clients = Clients::of(&node);
    // Somebody else's file takes what is left, down to the last byte.
    let other = stage.data(&node).parent().unwrap().join("somebody-elses");
    let full = fs::write(&other, vec![1; 84 << 20]);
    assert!(full.is_err(), "the disk is smaller than that");
    clients.fill();
    let stored = clients.stored;
    fs::remove_file(&other).unwrap();
    wait_for("the space is noticed", || clients.publish().is_ok().then_some(()));
    while clients.stored < stored + 50 {
        clients.publish().unwrap();
    }
    let all = clients.stored;
    clients.consume(all);
    clients.settled();
    assert_eq!(clients.client.show_queue("q").unwrap().acknowledged, all);
}

#[test]
fn a_disk_without_room_for_a_log_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::create_dir(&disk).unwrap();
    if namespaces_are_refused(&disk).is_some() {
        return files_are_limited();
    }
    let setup = Setup { wrapper: small_disk(&disk), ..Setup::new(&program(), &disk.join("data")) };
    let ended = setup.limit("segment_bytes", "\"128MiB\"").start().unwrap_err();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("has no room for a log segment"), "{}", ended.stderr);
}

/// Where no disk can be mounted: no file may become as long as a segment, which ends in the same answer of the log.
fn files_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
    let wrapper = ["sh", "-c", script].map(OsString::from).to_vec();
    let setup = Setup { wrapper, ..Setup::new(&program(), &directory.path().join("data")) };
    let ended = setup.start().unwrap_err();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("has no room for a log segment"), "{}", ended.stderr);
}

#[test]
fn a_limit_on_files_is_a_full_disk() {
    files_are_limited();
}
