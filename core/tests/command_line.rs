//! The `ringmain` program as scripts see it: exit codes, what stands on stdout, what stands on stderr.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn ringmain(arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_ringmain")).args(arguments).output();
    Ran::from(output.expect("cargo has built it"))
}

impl From<Output> for Ran {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        Self {
            code: status.code(),
            stdout: String::from_utf8(stdout).expect("it writes text"),
            stderr: String::from_utf8(stderr).expect("it writes text"),
        }
    }
}

/// Refused with exit code 1, nothing on stdout, and one sentence on stderr.
fn refused(arguments: &[&str], fragment: &str) {
    let ran = ringmain(arguments);
    assert_eq!(ran.code, Some(1), "{arguments:?}: {}", ran.stderr);
    assert_eq!(ran.stdout, "", "{arguments:?}");
    assert!(ran.stderr.starts_with("ringmain: "), "{arguments:?}: {}", ran.stderr);
    assert!(ran.stderr.contains(fragment), "{arguments:?}: {}", ran.stderr);
}

#[test]
fn help_and_version_are_results() {
    let help = ringmain(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for command in ["demo", "server", "queue", "publish", "consume", "cluster", "wal", "completions"] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{}", help.stdout);
    }
    let version = ringmain(&["--version"]);
    assert_eq!(version.stdout, format!("ringmain {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_misuse_is_told_on_stderr_with_exit_code_two() {
    for arguments in
        [&[][..], &["sing"], &["server"], &["queue", "create"], &["consume", "q", "--count", "many"]]
    {
        let ran = ringmain(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ran.stderr.contains("--help"), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn a_configuration_is_checked_without_starting_anything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ringmain.toml");
    let path_text = path.to_str().unwrap();
    let data = directory.path().join("data");
    fs::write(&path, format!("node = 1\ndata = {data:?}\nlisten = \"127.0.0.1:7411\"\n")).unwrap();

    let good = ringmain(&["server", "--config", path_text, "--check-config"]);
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""));
    assert!(good.stdout.starts_with("the configuration is good\n"), "{}", good.stdout);
    let good = ringmain(&["server", "--config", path_text, "--check-config", "--output", "json"]);
    let understood: serde_json::Value = serde_json::from_str(&good.stdout).unwrap();
    assert_eq!(understood["listen"], "127.0.0.1:7411");
    assert!(!data.exists());

    fs::write(&path, "node = 1\ndata = \"d\"\nlisten = \"127.0.0.1:7411\"\nshard = 4\n").unwrap();
    refused(&["server", "--config", path_text, "--check-config"], "unknown field `shard`");
    refused(&["server", "--config", "/nowhere.toml"], "/nowhere.toml: cannot be read");
    refused(&["server", "--node", "0", "--data", "d", "--listen", "h:1", "--check-config"], "node is 0");
}

#[test]
fn a_server_refuses_a_directory_that_is_not_its_own() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), "years of work").unwrap();
    let data = directory.path().to_str().unwrap();
    let server = |node: &'static str| ["server", "--node", node, "--data", data, "--listen", "127.0.0.1:0"];
    refused(&server("1"), "is not empty and is no data directory of Ringmain");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    fs::remove_file(directory.path().join("thesis.tex")).unwrap();
    let identity = "format = 1\ncluster = \"0x1\"\nnode = 2\nincarnation = 1\nshards = 1\nsegment_bytes = 67108864\ncreated = \"\"\n";
    fs::write(directory.path().join("identity.toml"), identity).unwrap();
    refused(&server("1"), "is the data directory of node 2, and this is node 1");
    fs::write(directory.path().join("identity.toml"), "format = ").unwrap();
    refused(&server("2"), "cannot be understood");
}

#[test]
fn what_does_not_exist_yet_says_so() {
    refused(&["publish", "q", "--ttl", "5s"], "--ttl is not supported yet");
    refused(&["publish", "q", "--delay", "5s"], "--delay is not supported yet");
}

#[test]
fn a_cluster_needs_addresses_that_hold() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let server = |listen: &'static str, peers: &'static str| {
        ["server", "--node", "1", "--data", data, "--listen", listen, "--peers", peers]
    };
    refused(&server("127.0.0.1:0", "2=h:7411"), "needs a fixed port");
    refused(&server("0.0.0.0:7411", "2=h:7411"), "list it too, as 1=HOST:7411");
    refused(&server("127.0.0.1:7411", "1=h:7412,2=h:7411"), "it listens on port 7411");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    // Port 1 is nobody's.
    for command in [&["queue", "list"][..], &["cluster", "status"], &["consume", "q"]] {
        let connect = ["--connect", "127.0.0.1:1"];
        refused(&[command, &connect].concat(), "127.0.0.1:1");
    }
}

#[test]
fn completions_are_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = ringmain(&["completions", shell]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("check-config"), "{shell}");
    }
}

/// Nothing here is timed: what a busy machine makes slow is slow, and right all the same.
#[test]
fn the_demo_loses_its_leader_and_nothing_else() {
    let ran = ringmain(&["demo", "--seconds", "4", "--output", "json"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let verdict: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one object, and nothing else");
    for key in ["lost", "duplicated", "depth_ready", "depth_in_flight"] {
        assert_eq!(verdict[key], 0, "{}", ran.stdout);
    }
    assert!(verdict["published"].as_u64() > Some(0), "{}", ran.stdout);
    assert_eq!((&verdict["consumed"], &verdict["nodes"]), (&verdict["published"], &3.into()));
    assert!(verdict["failover_ms"].is_number(), "{}", ran.stdout);
    assert!(verdict["publish_us"]["p999"].is_number(), "{}", ran.stdout);
    assert!(ran.stderr.contains(" is killed\n"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\x1b'), "no terminal, no drawing: {}", ran.stderr);
}

/// A node of its own, on ports that the system chose.
struct Server {
    process: Child,
    connect: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        let data = data.to_str().expect("a temporary directory's name is text");
        let listen =
            ["server", "--node", "1", "--listen", "127.0.0.1:0", "--shards", "2", "--output", "json"];
        let command = Command::new(env!("CARGO_BIN_EXE_ringmain"))
            .args(listen)
            .args(["--data", data])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = command.expect("cargo has built it");
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        stdout.read_line(&mut line).expect("it says where it listens");
        let serving: serde_json::Value = serde_json::from_str(&line).expect("it says so in JSON");
        let connect = serving["shards"][1].as_str().expect("every shard has an address").to_owned();
        Self { process, connect }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        ringmain(&[arguments, &["--connect", &self.connect]].concat())
    }

    /// What a command that must succeed prints.
    fn done(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.done(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).expect("JSON is asked for")
    }

    fn publish(&self, arguments: &[&str], lines: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringmain"));
        command.arg("publish").args(arguments).args(["--connect", &self.connect]);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = pipes.spawn().expect("cargo has built it");
        let mut stdin = process.stdin.take().expect("stdin is a pipe");
        stdin.write_all(lines.as_bytes()).expect("it reads its input");
        drop(stdin);
        Ran::from(process.wait_with_output().expect("it ends"))
    }

    fn refused(&self, arguments: &[&str], fragment: &str) {
        refused(&[arguments, &["--connect", &self.connect]].concat(), fragment);
    }

    fn stop(mut self) {
        let process = self.process.id().to_string();
        let told = Command::new("kill").args(["-TERM", &process]).status().expect("there is a kill command");
        assert!(told.success());
        let status = self.process.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already if the test has stopped it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn queues_are_made_shown_and_deleted() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    assert_eq!(server.json(&["queue", "list"]), serde_json::json!([]));
    let create = ["queue", "create", "orders", "--priorities", "3", "--max-length", "2"];
    assert_eq!(server.done(&create), "created orders\n");
    assert_eq!(server.done(&create), "created orders\n");
    server.refused(&["queue", "create", "orders"], "orders: a queue of this name has other settings");
    server.refused(&["queue", "create", "no name"], "no name: a name has 1 to 255");
    server.refused(&["queue", "create", "q", "--ttl", "1h"], "not supported yet");
    server.refused(&["queue", "create", "q", "--overflow", "drop-oldest"], "not supported yet");
    server.done(&["queue", "create", "fast", "--durability", "quorum-memory"]);
    assert_eq!(server.json(&["queue", "show", "fast"])["settings"]["durability"], "quorum-memory");
    server.done(&["queue", "delete", "fast"]);
    server.refused(&["queue", "show", "nope"], "nope: there is no such queue");

    let ran = server.publish(&["orders", "--priority", "2"], "a\nb\nc\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "2 messages to orders\n"));
    assert_eq!(ran.stderr, "ringmain: line 3: the queue is at its limit\n");
    let shown = server.json(&["queue", "show", "orders"]);
    assert_eq!(shown["ready"], 2);
    assert_eq!(shown["levels"][0]["priority"], 2);
    assert!(server.done(&["queue", "list"]).contains("\norders      2          0"));
    assert_eq!(server.done(&["queue", "purge", "orders"]), "purged orders: 2 messages gone\n");
    assert_eq!(server.done(&["queue", "delete", "orders"]), "deleted orders: 0 messages gone\n");
    let status = server.done(&["cluster", "status"]);
    assert!(status.contains(": 1 node, 2 groups\n"), "{status}");
    assert!(status.contains("  2 of 2  current\n"), "{status}");
    server.refused(&["cluster", "transfer", "2", "1"], "there is no group 2: they are numbered from 0 to 1");
    server.refused(&["cluster", "transfer", "1", "2"], "node 2 is no node of this cluster, which has 1");
    server.refused(&["cluster", "remove", "1"], "node 1 is the last one of the cluster");
    server.refused(&["cluster", "remove", "2"], "node 2 is no node of this cluster");
    server.refused(&["cluster", "add", "2=127.0.0.1:1"], "nobody answers at 127.0.0.1:1");
    server.stop();
}

#[test]
fn lines_become_messages_and_messages_lines() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&data.path().join("data"));
    server.done(&["queue", "create", "q"]);
    let file = data.path().join("lines");
    fs::write(&file, "one\n\nthree").unwrap();
    let file = file.to_str().unwrap();
    let published = server.json(&["publish", "q", "--file", file, "--key", "k", "--header", "a=b"]);
    assert_eq!((&published["published"], &published["refused"]), (&3.into(), &0.into()));
    assert_eq!(server.publish(&["q", "--priority", "9"], "urgent\n").code, Some(0));
    server.refused(&["publish", "q", "--file", "/nowhere"], "/nowhere: No such file");
    server.refused(&["publish", "nope", "--file", file], "nope: there is no such queue");
    let ran = server.publish(&["q", "--priority", "10"], "x\n");
    assert_eq!(ran.stderr, "ringmain: line 1: the queue does not have this priority\n");

    // Without an acknowledgement the messages stay; with one exactly as many go as were asked for.
    assert_eq!(server.done(&["consume", "q", "--no-ack"]), "urgent\none\n\nthree\n");
    assert_eq!(server.done(&["consume", "q", "--count", "1"]), "urgent\n");
    let message = server.json(&["consume", "q", "--count", "1"]);
    let parts = (&message["payload"], &message["key"], &message["headers"]["a"], &message["deliveries"]);
    assert_eq!(parts, (&"one".into(), &"k".into(), &"b".into(), &2.into()));
    let shown = server.json(&["queue", "show", "q"]);
    assert_eq!(
        (&shown["ready"], &shown["in_flight"], &shown["acknowledged"]),
        (&2.into(), &0.into(), &2.into())
    );
    assert_eq!(server.done(&["consume", "q"]), "\nthree\n");
    assert_eq!(server.done(&["consume", "q"]), "");
    server.stop();
}

#[test]
fn a_stopped_node_has_a_sound_log_and_everything_again() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("data");
    let server = Server::start(&path);
    server.done(&["queue", "create", "q"]);
    let lines: String = (0..5_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(server.publish(&["q"], &lines).stdout, "5,000 messages to q\n");
    server.stop();

    let directory = path.to_str().unwrap();
    let verified = ringmain(&["wal", "verify", directory, "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!((verified.code, &report["sound"]), (Some(0), &true.into()), "{}", verified.stdout);
    let dumped = ringmain(&["wal", "dump", directory]);
    assert_eq!(dumped.code, Some(0));
    assert!(dumped.stdout.contains("shard-0001 segment 1 byte "), "{}", dumped.stdout);
    refused(&["wal", "verify", "/nowhere"], "/nowhere");

    let server = Server::start(&path);
    assert_eq!(server.done(&["consume", "q"]), lines);
    server.stop();
}

/// Nodes of one cluster, on ports that were free a moment ago: its nodes must know each other's before they start.
struct Nodes {
    directory: tempfile::TempDir,
    ports: Vec<u16>,
    processes: Vec<Option<Child>>,
}

impl Nodes {
    fn choose(count: usize) -> Self {
        // All are held until the last one is chosen.
        let listen = |_| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let listeners: Vec<TcpListener> = (0..count).map(listen).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
        let ports = listeners.iter().map(port).collect();
        let processes = (0..count).map(|_| None).collect();
        let directory = tempfile::tempdir().expect("there is room for a directory");
        Self { directory, ports, processes }
    }

    fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node - 1])
    }

    /// Starts a node that lists the nodes from 1 to `listed`.
    fn start(&mut self, node: usize, listed: usize) -> BufReader<ChildStdout> {
        let peers: Vec<String> = (1..=listed).map(|peer| format!("{peer}={}", self.address(peer))).collect();
        let mut process = Command::new(env!("CARGO_BIN_EXE_ringmain"))
            .args(["server", "--shards", "1", "--output", "json", "--node", &node.to_string()])
            .args(["--listen", &self.address(node), "--peers", &peers.join(",")])
            .arg("--data")
            .arg(self.directory.path().join(node.to_string()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("cargo has built it");
        let stdout = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        self.processes[node - 1] = Some(process);
        stdout
    }

    fn kill(&mut self, node: usize) {
        let mut process = self.processes[node - 1].take().expect("it runs");
        process.kill().expect("it runs");
        process.wait().expect("it ends");
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let addresses: Vec<String> = (1..=self.ports.len()).map(|node| self.address(node)).collect();
        ringmain(&[arguments, &["--connect", &addresses.join(","), "--output", "json"]].concat())
    }

    /// Asks again until it is done: after a loss the nodes take a moment to notice and to agree.
    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut ran = self.run(arguments);
        for _ in 0..1_000 {
            if ran.code == Some(0) {
                break;
            }
            ran = self.run(arguments);
        }
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).expect("JSON is asked for")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            // Gone already if it failed.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn serves(mut stdout: BufReader<ChildStdout>) {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("it says where it listens");
    assert!(line.starts_with('{'), "{line}");
}

#[test]
fn nodes_form_a_cluster_and_come_and_go() {
    let mut nodes = Nodes::choose(4);
    let starting: Vec<_> = (1..=3).map(|node| nodes.start(node, 3)).collect();
    starting.into_iter().for_each(serves);
    let status = nodes.json(&["cluster", "status"]);
    let count = |status: &serde_json::Value, what: &str| status[what].as_array().map(Vec::len);
    assert_eq!((count(&status, "nodes"), count(&status, "groups")), (Some(3), Some(3)), "{status}");
    nodes.json(&["queue", "create", "q"]);
    for leader in ["1", "2", "3"] {
        let led = nodes.json(&["cluster", "transfer", "0", leader]);
        assert_eq!(led["leader"].to_string(), leader);
    }

    nodes.kill(3);
    let ran = nodes.run(&["cluster", "status"]);
    assert_eq!((ran.code, ran.stdout.contains("\"healthy\":false")), (Some(1), true), "{}", ran.stdout);
    assert!(ran.stderr.contains("node 3 is unreachable"), "{}", ran.stderr);
    serves(nodes.start(3, 3));
    nodes.json(&["cluster", "status"]);

    let fourth = format!("4={}", nodes.address(4));
    let ran = nodes.run(&["cluster", "add", &fourth]);
    assert!(ran.stderr.contains("nobody answers at"), "{}", ran.stderr);
    serves(nodes.start(4, 3));
    let ran = nodes.run(&["cluster", "add", &format!("5={}", nodes.address(4))]);
    assert!(ran.stderr.contains("is node 4, not node 5"), "{}", ran.stderr);
    assert_eq!(nodes.json(&["cluster", "add", &fourth])["groups"], 3);
    let ran = nodes.run(&["cluster", "add", &fourth]);
    assert!(ran.stderr.contains("node 4 is a member already"), "{}", ran.stderr);
    assert_eq!(nodes.json(&["cluster", "remove", "1"])["groups"], 3);
    nodes.kill(1);
    let status = nodes.json(&["cluster", "status"]);
    let members = status["groups"][0]["members"].as_array().unwrap();
    assert_eq!(
        members.iter().map(|member| member["node"].as_u64()).collect::<Vec<_>>(),
        [Some(2), Some(3), Some(4)]
    );
}
