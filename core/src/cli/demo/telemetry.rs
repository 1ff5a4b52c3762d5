//! This host's own telemetry, read from `/proc`: what the demo sends. Each figure is a real sample; nothing is made up, and a
//! file that the system does not have is left out. The parsers are pure, the samplers read.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

/// The kernel counts processor time for user space in hundredths of a second on every platform that has io_uring.
const TICK_MS: u64 = 10;
/// `/proc/diskstats` counts in these, whatever the device's sectors are.
const SECTOR_BYTES: u64 = 512;
/// A core's load is told over this time: at 100 ticks a second a shorter one has only a few steps.
const LOAD_WINDOW: Duration = Duration::from_millis(500);
/// A core is an alarm from here on, and no more below the second bound.
const LOAD_ALARM_PERCENT: f64 = 90.0;
const LOAD_CALM_PERCENT: f64 = 70.0;
/// Memory is an alarm when less than this share of it is available, and no more above the second bound.
const MEMORY_ALARM_PERCENT: f64 = 10.0;
const MEMORY_CALM_PERCENT: f64 = 15.0;
/// New and ended processes are looked for this often.
const SWEEP_PERIOD: Duration = Duration::from_millis(250);

/// The queues of the demo, in the order in which the view lists them.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Cores,
    Devices,
    Processes,
    Counters,
}

/// What kind of figure it is decides its priority.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Alarm,
    Core,
    Device,
    Process,
    Counter,
}

/// One sample, before it becomes a message.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) class: Class,
    pub(super) source: String,
    pub(super) figures: Figures,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(untagged)]
pub(super) enum Figures {
    Alarm {
        alarm: &'static str,
        value: f64,
    },
    Core {
        load_percent: f64,
        user_ms: u64,
        system_ms: u64,
        idle_ms: u64,
        wait_ms: u64,
        stolen_ms: u64,
    },
    Memory {
        total_kib: u64,
        available_kib: u64,
        cached_kib: u64,
        dirty_kib: u64,
        slab_kib: u64,
    },
    Pressure {
        some_percent: f64,
        stalled_us: u64,
    },
    Disk {
        reads: u64,
        read_bytes: u64,
        writes: u64,
        written_bytes: u64,
        in_flight: u64,
        busy_ms: u64,
    },
    Network {
        received_bytes: u64,
        received_packets: u64,
        sent_bytes: u64,
        sent_packets: u64,
        errors: u64,
        drops: u64,
    },
    Process {
        name: String,
        state: char,
        threads: u64,
        user_ms: u64,
        system_ms: u64,
        faults: u64,
        resident_pages: u64,
    },
    Counter {
        value: u64,
    },
}

impl Topic {
    pub(super) const ALL: [Self; 4] = [Self::Cores, Self::Devices, Self::Processes, Self::Counters];

    pub(super) fn queue(self) -> &'static str {
        match self {
            Self::Cores => "host.cores",
            Self::Devices => "host.devices",
            Self::Processes => "host.processes",
            Self::Counters => "host.counters",
        }
    }
}

impl Class {
    pub(super) const ALL: [Self; 5] = [Self::Alarm, Self::Core, Self::Device, Self::Process, Self::Counter];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarms",
            Self::Core => "cores",
            Self::Device => "devices",
            Self::Process => "processes",
            Self::Counter => "counters",
        }
    }

    pub(super) fn priority(self) -> u8 {
        match self {
            Self::Alarm => 9,
            Self::Core => 7,
            Self::Device => 5,
            Self::Process => 3,
            Self::Counter => 1,
        }
    }
}

/// Every core's time and load.
pub(super) struct Cores {
    /// Recent samples, the oldest at least `LOAD_WINDOW` ago once there have been enough.
    recent: VecDeque<(Instant, Vec<CoreTicks>)>,
    loaded: BTreeSet<u32>,
}

#[derive(Copy, Clone, Debug, PartialEq)]
struct CoreTicks {
    core: u32,
    user: u64,
    system: u64,
    idle: u64,
    wait: u64,
    stolen: u64,
}

impl Cores {
    pub(super) fn new() -> Self {
        Self { recent: VecDeque::new(), loaded: BTreeSet::new() }
    }

    pub(super) fn sample(&mut self, now: Instant, readings: &mut Vec<Reading>) {
        let Ok(text) = fs::read_to_string("/proc/stat") else { return };
        let cores = parse_cores(&text);
        while self.recent.len() > 1 && now.duration_since(self.recent[1].0) >= LOAD_WINDOW {
            self.recent.pop_front();
        }
        for core in &cores {
            let before =
                self.recent.front().and_then(|(_, cores)| cores.iter().find(|other| other.core == core.core));
            let load_percent = before.map_or(0.0, |before| core.load_percent_since(before));
            let source = format!("cpu{}", core.core);
            let settled = self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) >= LOAD_WINDOW);
            if let Some(alarm) = self.alarm(core.core, load_percent, settled) {
                readings.push(alarm_of(&source, alarm, load_percent));
            }
            let figures = Figures::Core {
                load_percent,
                user_ms: core.user * TICK_MS,
                system_ms: core.system * TICK_MS,
                idle_ms: core.idle * TICK_MS,
                wait_ms: core.wait * TICK_MS,
                stolen_ms: core.stolen * TICK_MS,
            };
            readings.push(Reading { class: Class::Core, source, figures });
        }
        self.recent.push_back((now, cores));
    }

    /// An alarm is raised once and cleared once, however often the load is looked at.
    fn alarm(&mut self, core: u32, load_percent: f64, settled: bool) -> Option<&'static str> {
        if settled && load_percent >= LOAD_ALARM_PERCENT && self.loaded.insert(core) {
            Some("core is saturated")
        } else if load_percent < LOAD_CALM_PERCENT && self.loaded.remove(&core) {
            Some("core is free again")
        } else {
            None
        }
    }
}

impl CoreTicks {
    fn load_percent_since(&self, before: &Self) -> f64 {
        let busy = (self.user + self.system + self.stolen)
            .saturating_sub(before.user + before.system + before.stolen);
        let idle = (self.idle + self.wait).saturating_sub(before.idle + before.wait);
        percent(busy, busy + idle)
    }
}

/// Memory, pressure, disks and network interfaces.
pub(super) struct Devices {
    short_of_memory: bool,
    errors: u64,
}

impl Devices {
    pub(super) fn new() -> Self {
        Self { short_of_memory: false, errors: u64::MAX }
    }

    pub(super) fn sample(&mut self, readings: &mut Vec<Reading>) {
        if let Some(figures) = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_memory(&text)) {
            self.memory_alarm(&figures, readings);
            readings.push(device("memory".to_owned(), figures));
        }
        for resource in ["cpu", "memory", "io"] {
            let text = fs::read_to_string(format!("/proc/pressure/{resource}"));
            if let Some(figures) = text.ok().and_then(|text| parse_pressure(&text)) {
                readings.push(device(format!("pressure.{resource}"), figures));
            }
        }
        let disks = fs::read_to_string("/proc/diskstats").unwrap_or_default();
        readings.extend(parse_disks(&disks).map(|(name, figures)| device(format!("disk.{name}"), figures)));
        let interfaces = fs::read_to_string("/proc/net/dev").unwrap_or_default();
        let mut errors_total = 0;
        for (name, figures) in parse_interfaces(&interfaces) {
            if let Figures::Network { errors, drops, .. } = figures {
                errors_total += errors + drops;
            }
            readings.push(device(format!("net.{name}"), figures));
        }
        if errors_total > self.errors {
            readings.push(alarm_of("net", "packets are lost", (errors_total - self.errors) as f64));
        }
        self.errors = errors_total;
    }

    fn memory_alarm(&mut self, figures: &Figures, readings: &mut Vec<Reading>) {
        let Figures::Memory { total_kib, available_kib, .. } = figures else { return };
        let share = percent(*available_kib, *total_kib);
        if !self.short_of_memory && share < MEMORY_ALARM_PERCENT {
            self.short_of_memory = true;
            readings.push(alarm_of("memory", "memory is short", share));
        } else if self.short_of_memory && share > MEMORY_CALM_PERCENT {
            self.short_of_memory = false;
            readings.push(alarm_of("memory", "memory is free again", share));
        }
    }
}

/// Every process in turn; one that appears or ends is an alarm.
pub(super) struct Processes {
    swept: Option<Instant>,
    known: BTreeSet<u32>,
    /// The rest of the current round.
    round: VecDeque<u32>,
}

impl Processes {
    pub(super) fn new() -> Self {
        Self { swept: None, known: BTreeSet::new(), round: VecDeque::new() }
    }

    /// The next `count` processes of the round, and whatever has appeared or ended since.
    pub(super) fn sample(&mut self, now: Instant, count: u32, readings: &mut Vec<Reading>) {
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP_PERIOD) {
            self.sweep(readings);
            self.swept = Some(now);
        }
        for _ in 0..count {
            if self.round.is_empty() {
                self.round.extend(&self.known);
            }
            let Some(process) = self.round.pop_front() else { return };
            // It may have ended since the sweep; the next one says so.
            let Ok(text) = fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
            let Some(figures) = parse_process(&text) else { continue };
            let source = format!("process.{process}");
            readings.push(Reading { class: Class::Process, source, figures });
        }
    }

    fn sweep(&mut self, readings: &mut Vec<Reading>) {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let found: BTreeSet<u32> = names.filter_map(|name| name.parse().ok()).collect();
        if self.swept.is_some() {
            for (process, alarm) in self.known.difference(&found).map(|process| (process, "process ended")) {
                readings.push(alarm_of(&format!("process.{process}"), alarm, f64::from(*process)));
            }
            for (process, alarm) in found.difference(&self.known).map(|process| (process, "process started"))
            {
                readings.push(alarm_of(&format!("process.{process}"), alarm, f64::from(*process)));
            }
        }
        self.known = found;
    }
}

/// The kernel's own counters, one a message.
pub(super) struct Counters {
    round: VecDeque<(String, u64)>,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self { round: VecDeque::new() }
    }

    pub(super) fn sample(&mut self, count: u32, readings: &mut Vec<Reading>) {
        for _ in 0..count {
            if self.round.is_empty() {
                self.round.extend(parse_counters(&fs::read_to_string("/proc/vmstat").unwrap_or_default()));
            }
            let Some((name, value)) = self.round.pop_front() else { return };
            let (class, source) = (Class::Counter, format!("vm.{name}"));
            readings.push(Reading { class, source, figures: Figures::Counter { value } });
        }
    }
}

fn device(source: String, figures: Figures) -> Reading {
    Reading { class: Class::Device, source, figures }
}

fn alarm_of(source: &str, alarm: &'static str, value: f64) -> Reading {
    Reading { class: Class::Alarm, source: source.to_owned(), figures: Figures::Alarm { alarm, value } }
}

/// Rounded to a tenth: more digits than the counters have would only lengthen the message.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 1000.0 / whole as f64).round() / 10.0 }
}

/// `cpu0 user nice system idle iowait irq softirq steal …`, in ticks.
fn parse_cores(text: &str) -> Vec<CoreTicks> {
    let core = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let core = words.next()?.strip_prefix("cpu")?.parse().ok()?;
        let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).take(8).collect();
        let [user, nice, system, idle, wait, irq, softirq, stolen] = ticks.try_into().ok()?;
        Some(CoreTicks { core, user: user + nice, system: system + irq + softirq, idle, wait, stolen })
    };
    text.lines().take_while(|line| line.starts_with("cpu")).filter_map(core).collect()
}

fn parse_memory(text: &str) -> Option<Figures> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    Some(Figures::Memory {
        total_kib: kib("MemTotal")?,
        available_kib: kib("MemAvailable")?,
        cached_kib: kib("Cached")?,
        dirty_kib: kib("Dirty")?,
        slab_kib: kib("Slab")?,
    })
}

/// `some avg10=0.00 avg60=0.04 avg300=0.88 total=17741714`
fn parse_pressure(text: &str) -> Option<Figures> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let value = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let (some_percent, stalled_us) = (value("avg10")?.parse().ok()?, value("total")?.parse().ok()?);
    Some(Figures::Pressure { some_percent, stalled_us })
}

/// `major minor name reads merged sectors ms writes merged sectors ms in_flight busy_ms …`; devices never used are left out.
fn parse_disks(text: &str) -> impl Iterator<Item = (String, Figures)> {
    text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |place: usize| words.get(place)?.parse::<u64>().ok();
        let (reads, writes) = (number(3)?, number(7)?);
        let figures = Figures::Disk {
            reads,
            read_bytes: number(5)? * SECTOR_BYTES,
            writes,
            written_bytes: number(9)? * SECTOR_BYTES,
            in_flight: number(11)?,
            busy_ms: number(12)?,
        };
        (reads + writes > 0).then(|| (words[2].to_owned(), figures))
    })
}

/// `name: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop …`; silent interfaces are left out.
fn parse_interfaces(text: &str) -> impl Iterator<Item = (String, Figures)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
        let number = |place: usize| numbers.get(place).copied();
        let figures = Figures::Network {
            received_bytes: number(0)?,
            received_packets: number(1)?,
            sent_bytes: number(8)?,
            sent_packets: number(9)?,
            errors: number(2)? + number(10)?,
            drops: number(3)? + number(11)?,
        };
        (number(1)? + number(9)? > 0).then(|| (name.trim().to_owned(), figures))
    })
}

/// `pid (name) state ppid …`: the name may hold blanks and brackets, so the last bracket ends it. The field after it is the
/// third of proc_pid_stat(5).
fn parse_process(text: &str) -> Option<Figures> {
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let words: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |field: usize| words.get(field - 3)?.parse::<u64>().ok();
    Some(Figures::Process {
        name,
        state: words.first()?.chars().next()?,
        threads: number(20)?,
        user_ms: number(14)? * TICK_MS,
        system_ms: number(15)? * TICK_MS,
        faults: number(10)? + number(12)?,
        resident_pages: number(24)?,
    })
}

/// `name value`, a line each.
fn parse_counters(text: &str) -> impl Iterator<Item = (String, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_from_proc_stat() {
        let text =
            "cpu  3 0 0 9 0 0 0 0 0 0\ncpu0 10 1 20 300 5 2 3 4 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 5 cpu2\n";
        let cores = parse_cores(text);
        assert_eq!(cores.len(), 2);
        assert_eq!(cores[0], CoreTicks { core: 0, user: 11, system: 25, idle: 300, wait: 5, stolen: 4 });
        let later = CoreTicks { user: 41, idle: 370, ..cores[0] };
        assert_eq!(later.load_percent_since(&cores[0]), 30.0);
        // The kernel lets iowait run backwards.
        assert_eq!(CoreTicks { wait: 0, idle: 300, ..cores[0] }.load_percent_since(&cores[0]), 0.0);
    }

    #[test]
    fn devices_are_read_from_their_files() {
        let memory =
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 50 kB\nCached: 7 kB\nDirty: 3 kB\nSlab: 2 kB\n";
        let expected =
            Figures::Memory { total_kib: 1000, available_kib: 50, cached_kib: 7, dirty_kib: 3, slab_kib: 2 };
        assert_eq!(parse_memory(memory), Some(expected));
        assert_eq!(parse_memory("MemTotal: 1000 kB"), None);

        let pressure = "some avg10=1.25 avg60=0.04 avg300=0.88 total=17\nfull avg10=0.00 total=0\n";
        assert_eq!(parse_pressure(pressure), Some(Figures::Pressure { some_percent: 1.25, stalled_us: 17 }));

        let disks =
            " 7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n 254 0 vda 17 4 9 11 24 49 8 77 1 113 89 4 46\n short 1 x\n";
        let disks: Vec<_> = parse_disks(disks).collect();
        let expected = Figures::Disk {
            reads: 17,
            read_bytes: 4608,
            writes: 24,
            written_bytes: 4096,
            in_flight: 1,
            busy_ms: 113,
        };
        assert_eq!(disks, [("vda".to_owned(), expected)]);

        let interfaces = "Inter-| Receive\n face |bytes\n ifb0: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n eth0:48 24 1 2 0 0 0 0 19 14 3 4 0 0 0 0\n";
        let interfaces: Vec<_> = parse_interfaces(interfaces).collect();
        let expected = Figures::Network {
            received_bytes: 48,
            received_packets: 24,
            sent_bytes: 19,
            sent_packets: 14,
            errors: 4,
            drops: 6,
        };
        assert_eq!(interfaces, [("eth0".to_owned(), expected)]);
    }

    #[test]
    fn a_process_may_have_any_name() {
        let text = "42 (a) b (c) S 1 1 1 0 -1 4194304 98 0 2 0 7 8 0 0 20 0 3 0 115630 3133440 360 18446744073709551615 1";
        let expected = Figures::Process {
            name: "a) b (c".to_owned(),
            state: 'S',
            threads: 3,
            user_ms: 70,
            system_ms: 80,
            faults: 100,
            resident_pages: 360,
        };
        assert_eq!(parse_process(text), Some(expected));
        for text in ["", "42", "42 (a", "42 (a)", "42 (a) S 1"] {
            assert_eq!(parse_process(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_alarm_is_raised_once_and_cleared_once() {
        let mut cores = Cores::new();
        let loads = [
            (95.0, false),
            (95.0, true),
            (99.0, true),
            (80.0, true),
            (91.0, true),
            (10.0, true),
            (5.0, true),
        ];
        let alarms = loads.map(|(load, settled)| cores.alarm(0, load, settled));
        let saturated = Some("core is saturated");
        assert_eq!(alarms, [None, saturated, None, None, None, Some("core is free again"), None]);
    }

    #[test]
    fn this_host_has_something_to_tell() {
        let now = Instant::now();
        let mut readings = Vec::new();
        Cores::new().sample(now, &mut readings);
        Devices::new().sample(&mut readings);
        Processes::new().sample(now, 3, &mut readings);
        Counters::new().sample(3, &mut readings);
        for class in [Class::Core, Class::Device, Class::Process, Class::Counter] {
            assert!(readings.iter().any(|reading| reading.class == class), "{class:?}");
        }
        for reading in &readings {
            let text = serde_json::to_string(&reading.figures).unwrap();
            assert!(text.len() < 400, "{text}");
        }
    }
}
