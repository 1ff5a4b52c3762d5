//! A node as a child process: started on a core of its own with fresh data, watched from outside, ended by its own id.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::kernel;

/// How long a node may take to start or to stop before that counts as a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// Of its log, when it fails; a panic with its backtrace is longer than that, but begins with what matters.
const LAST_LINES: usize = 60;

/// How a node is started: with one shard.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) server: PathBuf,
    /// Its directory; its log lines go beside it.
    pub(crate) data: PathBuf,
    pub(crate) id: u32,
    /// `HOST:PORT`, port 0 for any.
    pub(crate) listen: String,
    /// All nodes of its cluster as `1=HOST:PORT,2=HOST:PORT,…`; `None`: it is one by itself.
    pub(crate) peers: Option<String>,
    /// Its threads run there.
    pub(crate) cores: Vec<usize>,
    pub(crate) spin: bool,
}

impl Start {
    pub(crate) fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    fn command(&self) -> Result<Command> {
        let log = File::create(self.log()).doing(|| format!("creating {}", self.log().display()))?;
        let mut command = Command::new(&self.server);
        command.args(["server", "--shards", "1", "--output", "json", "--node", &self.id.to_string()]);
        command.args(["--listen", &self.listen]).arg("--data").arg(&self.data);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        if let Some(peers) = &self.peers {
            command.args(["--peers", peers]);
        }
        if self.spin {
            command.arg("--spin");
        }
        kernel::end_with_this_thread(&mut command);
        Ok(command)
    }
}

/// A node that does not serve yet.
pub(crate) struct Starting {
    node: Node,
    /// What it says, line by line.
    lines: mpsc::Receiver<String>,
}

impl Starting {
    /// Waits until all of them serve; fails as soon as one has ended.
    pub(crate) fn wait(mut all: Vec<Self>) -> Result<Vec<Node>> {
        const LOOK_EACH: Duration = Duration::from_millis(50);
        let started = Instant::now();
        while let Some(silent) = all.iter_mut().find(|each| each.node.address.is_empty()) {
            // Disconnected: it has ended, or will have in a moment.
            if let Ok(line) = silent.lines.recv_timeout(LOOK_EACH) {
                silent.node.serves(&line)?;
            } else if PATIENCE < started.elapsed() {
                return Err(silent.node.failure("it did not say that it serves"));
            }
            all.iter_mut().try_for_each(|each| each.node.check_running())?;
        }
        Ok(all.into_iter().map(|each| each.node).collect())
    }
}

pub(crate) struct Node {
    child: Child,
    log: PathBuf,

    /// Of its shard; empty until it serves.
    address: String,
}

impl Node {
    /// Starts a node and waits until it serves.
    pub(crate) fn start(start: &Start) -> Result<Self> {
        let mut nodes = Starting::wait(vec![Self::launch(start)?])?;
        Ok(nodes.pop().expect("one was started"))
    }

    /// Starts a node that may have to wait for others before it serves.
    pub(crate) fn launch(start: &Start) -> Result<Starting> {
        let mut command = start.command()?;
        let spawn = || command.spawn().doing(|| format!("starting {}", start.server.display()));
        let mut child = with_affinity(&start.cores, spawn)??;
        let output = child.stdout.take().expect("standard output was asked for as a pipe");
        let node = Self { child, log: start.log(), address: String::new() };
        Ok(Starting { node, lines: read_lines(output) })
    }

    /// The address of its shard.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A node says where it listens once it serves, in one line of JSON.
    fn serves(&mut self, line: &str) -> Result<()> {
        let address = first_address(line);
        self.address = address.ok_or_else(|| self.failure(&format!("it names no address: {line}")))?;
        Ok(())
    }

    /// Fails if it has ended, whatever the reason.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait().doing(|| "looking at a node".to_owned())? {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("it ended with {status}"))),
        }
    }

    fn failure(&self, what: &str) -> Error {
        Error::new("running a node", format!("{what}\n{}", self.last_lines()))
    }

    fn last_lines(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// CPU time of its shard's thread so far, user and system.
    pub(crate) fn shard_cpu(&self) -> Result<Duration> {
        let threads = self.threads()?;
        let shard = threads.iter().find(|(name, _)| name.starts_with("shard"));
        shard.map(|(_, cpu)| *cpu).ok_or_else(|| self.failure("no thread with statistics is named shard…"))
    }

    /// CPU time of all its threads so far, those included that the kernel runs for it.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(self.threads()?.iter().map(|(_, cpu)| *cpu).sum())
    }

    /// Name and CPU time of each thread.
    fn threads(&self) -> Result<Vec<(String, Duration)>> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let doing = || format!("reading {}", tasks.display());
        let mut threads = Vec::new();
        for task in fs::read_dir(&tasks).doing(doing)? {
            let task = task.doing(doing)?.path();
            // A thread that ends meanwhile has no files any more.
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            let statistics = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            threads.extend(parse_schedstat(&statistics).map(|cpu| (name, cpu)));
        }
        Ok(threads)
    }

    /// Memory in use, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
        parse_resident(&status).ok_or_else(|| Error::new(format!("reading {path}"), "no VmRSS"))
    }

    /// Ends it in good order.
    pub(crate) fn stop(mut self) -> Result<()> {
        kernel::terminate(self.child.id()).doing(|| "stopping a node".to_owned())?;
        let asked_at = Instant::now();
        while asked_at.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().doing(|| "stopping a node".to_owned())? {
                return self.check_exit(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(self.failure("it does not stop"))
    }

    fn check_exit(&self, status: ExitStatus) -> Result<()> {
        if status.success() { Ok(()) } else { Err(self.failure(&format!("it ended with {status}"))) }
    }
}

impl Drop for Node {
    /// Whatever went wrong, no node is left behind; one that ended by itself is why a measurement failed.
    fn drop(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait()
            && !status.success()
        {
            eprintln!("the node had ended with {status}:\n{}", self.last_lines());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that come; read to the end, so that the node never waits for a reader of its output.
fn read_lines(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
            let _ = sender.try_send(line);
        }
    });
    lines
}

/// Runs `work` while this thread, and so each process it starts, is bound to some cores.
fn with_affinity<T>(cores: &[usize], work: impl FnOnce() -> T) -> Result<T> {
    let before = crate::machine::allowed_cores()?;
    affinity::set_thread_affinity(cores).doing(|| format!("binding a node to cores {cores:?}"))?;
    let result = work();
    affinity::set_thread_affinity(before).doing(|| "restoring the allowed cores".to_owned())?;
    Ok(result)
}

/// The first `HOST:PORT` in a line of JSON, wherever it stands.
fn first_address(line: &str) -> Option<String> {
    fn find(value: &serde_json::Value) -> Option<String> {
        match value {
            serde_json::Value::String(text) => {
                let (host, port) = text.rsplit_once(':')?;
                let is_address = !host.is_empty() && port.parse::<u16>().is_ok();
                is_address.then(|| text.clone())
            }
            serde_json::Value::Array(values) => values.iter().find_map(find),
            serde_json::Value::Object(fields) => fields.values().find_map(find),
            _ => None,
        }
    }
    find(&serde_json::from_str(line).ok()?)
}

/// Nanoseconds on a CPU, nanoseconds waiting for one, number of turns.
fn parse_schedstat(text: &str) -> Option<Duration> {
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_found_wherever_it_stands() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(first_address(line).as_deref(), expected, "{line}")
        };
        check(r#"{"node": 1, "addresses": ["127.0.0.1:7411", "127.0.0.1:7412"]}"#, Some("127.0.0.1:7411"));
        check(r#"{"version": "0.1.0", "listen": "[::1]:7411"}"#, Some("[::1]:7411"));
        check(r#"{"node": 1}"#, None);
        check("not json 127.0.0.1:1", None);
    }

    #[test]
    fn kernel_figures_are_read() {
        assert_eq!(parse_schedstat("79637828 24123603 188\n"), Some(Duration::from_nanos(79_637_828)));
        assert_eq!(parse_schedstat(""), None);
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
    }
}
