//! A node as a process: started, asked, killed and looked at from outside, with nothing but what the program offers.
//!
//! Every wait has an end, and no process outlives its [`Node`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// Longer than anything takes that is not stuck, on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(40);
const POLL_EVERY: Duration = Duration::from_millis(2);

/// The `ringmain` program, and what it needs in its environment.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub environment: Option<(&'static str, &'static str)>,
}

/// How a node is to be started.
#[derive(Clone, Debug)]
pub struct Setup {
    pub program: Program,
    pub node: u32,
    pub data: PathBuf,
    /// 0: the system chooses a port for each shard.
    pub port: u16,
    /// The port at which others reach the first shard, where it is another one.
    pub reached: Option<u16>,
    pub shards: Option<u32>,
    /// Of the `[limits]` section, as TOML.
    pub limits: BTreeMap<&'static str, String>,
    /// All nodes of its cluster and the ports at which they are reached; empty: it is one by itself.
    pub nodes: Vec<(u32, u16)>,
    /// A command that runs the program given behind it, in other circumstances.
    pub wrapper: Vec<OsString>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    process: Child,
    /// Of each shard.
    pub addresses: Vec<String>,
    pub cluster: u64,
    stderr: Transcript,
}

/// What a program has done when it was over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// None: a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Setup {
    pub fn new(program: &Program, data: &Path) -> Self {
        Self {
            program: program.clone(),
            node: 1,
            data: data.to_owned(),
            port: 0,
            reached: None,
            shards: Some(1),
            limits: BTreeMap::new(),
            nodes: Vec::new(),
            wrapper: Vec::new(),
        }
        // Small segments: a test touches many of them, and makes few.
        .limit("segment_bytes", "\"16MiB\"")
    }

    #[must_use]
    pub fn limit(mut self, name: &'static str, value: &str) -> Self {
        self.limits.insert(name, value.to_owned());
        self
    }

    #[must_use]
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = Some(shards);
        self
    }

    /// The configuration file as text.
    fn text(&self) -> String {
        let mut text = format!("node = {}\nlisten = \"127.0.0.1:{}\"\n", self.node, self.port);
        let data = self.data.to_str().expect("temporary directories have plain names");
        writeln!(text, "data = {data:?}").expect("a String takes everything");
        if let Some(port) = self.reached {
            writeln!(text, "advertise = \"127.0.0.1:{port}\"").expect("a String takes everything");
        }
        if let Some(shards) = self.shards {
            writeln!(text, "shards = {shards}").expect("a String takes everything");
        }
        for (node, port) in &self.nodes {
            writeln!(text, "[[nodes]]\nid = {node}\naddress = \"127.0.0.1:{port}\"")
                .expect("a String takes everything");
        }
        text += "[limits]\n";
        for (name, value) in &self.limits {
            writeln!(text, "{name} = {value}").expect("a String takes everything");
        }
        text
    }

    fn command(&self, config: &Path) -> Command {
        let mut words = self.wrapper.clone();
        words.push(self.program.path.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["server", "--output", "json", "--config"]).arg(config);
        command.envs(self.program.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a node and waits until it serves; or until it has refused to.
    pub fn start(&self) -> Result<Node, Ended> {
        self.begin().serving()
    }

    /// Starts a node without waiting for anything.
    pub fn begin(&self) -> Starting {
        let config = tempfile::NamedTempFile::new().expect("there is room for a file");
        fs::write(config.path(), self.text()).expect("there is room for a file");
        let mut process = self.command(config.path()).spawn().expect("the program is built");
        let stderr = Transcript::of(process.stderr.take().expect("stderr is a pipe"));
        let stdout = process.stdout.take().expect("stdout is a pipe");
        let (line, said) = mpsc::channel();
        thread::spawn(move || {
            let mut first = String::new();
            // A process that ends says nothing, and that is an answer too.
            let _ = BufReader::new(stdout).read_line(&mut first);
            let _ = line.send(first);
        });
        let node = Node { process, addresses: Vec::new(), cluster: 0, stderr };
        Starting { node, said, _config: config }
    }
}

/// A node that has not said yet that it serves.
pub struct Starting {
    node: Node,
    said: mpsc::Receiver<String>,
    /// Read by the node as it starts.
    _config: tempfile::NamedTempFile,
}

impl Starting {
    pub fn serving(mut self) -> Result<Node, Ended> {
        let Ok(line) = self.said.recv_timeout(PATIENCE) else {
            panic!("the node neither serves nor ends: {}", self.node.stderr());
        };
        if line.is_empty() {
            return Err(self.node.ended());
        }
        let serving: serde_json::Value = serde_json::from_str(&line).expect("it speaks JSON");
        let addresses = serving["shards"].as_array().expect("it says where its shards listen");
        let cluster = serving["cluster"].as_str().and_then(|text| text.strip_prefix("0x"));
        self.node.addresses = addresses.iter().map(|text| text.as_str().unwrap().to_owned()).collect();
        self.node.cluster = u64::from_str_radix(cluster.expect("it names its cluster"), 16).unwrap();
        Ok(self.node)
    }

    /// As `kill -9` does, whatever it was doing.
    pub fn kill(self) {
        drop(self.node);
    }
}

impl Node {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// `HOST:PORT,HOST:PORT` of all shards.
    pub fn connect(&self) -> String {
        self.addresses.join(",")
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text.lock().unwrap().clone()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("it is our child").is_none()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
        let status = wait_for("the node ends", || self.process.try_wait().expect("it is our child"));
        wait_for("its last words", || self.stderr.is_over().then_some(()));
        Ended { code: status.code(), stdout: String::new(), stderr: self.stderr() }
    }

    /// As `kill -9` does. Its ports and its lock are free afterwards.
    pub fn kill(self) {
        drop(self);
    }

    /// Asks it to end, as an init system does, and waits until it has.
    pub fn stop(self) -> Ended {
        self.signal("TERM");
        self.ended()
    }

    pub fn signal(&self, name: &str) {
        let told = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(told.expect("there is a kill command").success());
    }

    /// Memory that it has in use.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it runs");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Its open files, sockets among them.
    pub fn descriptors(&self) -> usize {
        self.files().count()
    }

    pub fn sockets(&self) -> usize {
        self.files().filter(|file| file.to_string_lossy().starts_with("socket:")).count()
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs");
        // One that was closed meanwhile is none.
        files.filter_map(|file| fs::read_link(file.ok()?.path()).ok())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a pipe has given so far, read by a thread so that the writer never waits.
#[derive(Clone, Debug)]
struct Transcript {
    text: Arc<Mutex<String>>,
    over: Arc<Mutex<bool>>,
}

impl Transcript {
    /// Kept of each: more is a fault that repeats itself.
    const BYTES_MAX: usize = 1 << 20;

    fn of(pipe: impl Read + Send + 'static) -> Self {
        let transcript = Self { text: Arc::default(), over: Arc::default() };
        let Self { text, over } = transcript.clone();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                let mut text = text.lock().unwrap();
                if text.len() < Self::BYTES_MAX {
                    *text += &String::from_utf8_lossy(&line);
                }
                line.clear();
            }
            *over.lock().unwrap() = true;
        });
        transcript
    }

    fn is_over(&self) -> bool {
        *self.over.lock().unwrap()
    }
}

impl Program {
    /// Runs a command of the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(&self.path);
        command.args(arguments).envs(self.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the program is built");
        let stdout = Transcript::of(process.stdout.take().expect("stdout is a pipe"));
        let stderr = Transcript::of(process.stderr.take().expect("stderr is a pipe"));
        let node = Node { process, addresses: Vec::new(), cluster: 0, stderr };
        let ended = node.ended();
        wait_for("its results", || stdout.is_over().then_some(()));
        let text = stdout.text.lock().unwrap().clone();
        Ended { stdout: text, ..ended }
    }

    /// `wal verify` on a stopped node.
    pub fn verify(&self, data: &Path) -> Ended {
        self.run(&["wal", "verify", data.to_str().expect("temporary directories have plain names")])
    }
}

/// Asks again and again, with a pause in between, until there is an answer.
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::park_timeout(POLL_EVERY);
    }
}

/// A run of ports that nobody uses and that no connection is given for its own end, so that a node that is started
/// again finds them free.
pub fn free_ports(count: u16, rng: &mut Rng) -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = range.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(32_768_u64);
    let end = lowest.max(12_000) - u64::from(count);
    for _ in 0..1000 {
        let base = rng.between(10_000, end) as u16;
        let bound: Result<Vec<_>, _> =
            (base..base + count).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        if bound.is_ok() {
            return base;
        }
    }
    panic!("no {count} ports in a row are free below {end}");
}
