//! A node as a child process: started on a core of its own with fresh data, watched from outside, ended by its own id.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::kernel;

/// How long a node may take to start or to stop before that counts as a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// Of its log, when it fails; a panic with its backtrace is longer than that, but begins with what matters.
const LAST_LINES: usize = 60;

pub(crate) struct Node {
    child: Child,
    address: String,
    /// Where its log lines go.
    log: PathBuf,
}

impl Node {
    /// Starts `server` with one shard on `data` and waits until it serves. Its threads inherit `core`.
    pub(crate) fn start(server: &Path, data: &Path, core: usize, spin: bool) -> Result<Self> {
        let log = data.with_extension("log");
        let log_file = File::create(&log).doing(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(server);
        command.args([
            "server",
            "--node",
            "1",
            "--shards",
            "1",
            "--listen",
            "127.0.0.1:0",
            "--output",
            "json",
        ]);
        command.arg("--data").arg(data).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
        if spin {
            command.arg("--spin");
        }
        kernel::end_with_this_thread(&mut command);
        let mut child =
            with_affinity(core, || command.spawn().doing(|| format!("starting {}", server.display())))??;
        let output = child.stdout.take().expect("standard output was asked for as a pipe");
        let mut node = Self { child, address: String::new(), log };
        node.address = node.wait_until_serving(output)?;
        Ok(node)
    }

    /// The address of its shard.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The node says where it listens once it serves, in one line of JSON.
    fn wait_until_serving(&self, output: impl Read + Send + 'static) -> Result<String> {
        let (sender, lines) = mpsc::sync_channel(1);
        // Reads on to the end, so that the node never waits for a reader of its output.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                let _ = sender.try_send(line);
            }
        });
        let line = lines.recv_timeout(PATIENCE).map_err(|_| self.failure("it did not say that it serves"))?;
        first_address(&line).ok_or_else(|| self.failure(&format!("it names no address: {line}")))
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
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let doing = || format!("reading {}", tasks.display());
        let mut busiest = Duration::ZERO;
        for task in fs::read_dir(&tasks).doing(doing)? {
            let task = task.doing(doing)?.path();
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            let statistics = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            if name.starts_with("shard") {
                let time = parse_schedstat(&statistics);
                busiest = busiest.max(time.ok_or_else(|| Error::new(doing(), "no schedstat"))?);
            }
        }
        if busiest > Duration::ZERO {
            Ok(busiest)
        } else {
            Err(Error::new(doing(), "no thread is named shard…"))
        }
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

/// Runs `work` while this thread, and so each process it starts, is bound to one core.
fn with_affinity<T>(core: usize, work: impl FnOnce() -> T) -> Result<T> {
    let before = affinity::get_thread_affinity().doing(|| "asking for the allowed cores".to_owned())?;
    crate::machine::pin(core)?;
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
