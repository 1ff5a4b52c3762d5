//! What the figures were taken on: the machine, the disk under the data, the cores used; and threads pinned to them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Result};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Placement {
    /// Core for whatever serves and writes to disk [default: the one that takes the disk's interrupts]
    #[arg(long, value_name = "CORE")]
    pub(crate) server_core: Option<usize>,

    /// Core for whatever sends load [default: another one]
    #[arg(long, value_name = "CORE")]
    pub(crate) client_core: Option<usize>,

    /// Keep idle cores from sleeping while measuring, for virtual machines that wake slowly (needs root)
    #[arg(long)]
    pub(crate) keep_awake: bool,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) client: usize,
}

/// Where a measurement runs: the cores and the disk; cores are kept awake while this lives, if that was asked for.
pub(crate) struct Machine {
    pub(crate) cores: Cores,
    facts: Vec<(&'static str, String)>,
    _keep_awake: Option<KeepAwake>,
}

impl Machine {
    /// Chooses cores for data in `directory`. From here on this process' threads may be pinned.
    pub(crate) fn prepare(placement: &Placement, directory: &Path) -> Result<Self> {
        let allowed = allowed_cores()?;
        let disk = Disk::below(directory);
        let cores = choose_cores(placement, &allowed, disk.interrupt_core)?;
        let keep_awake = if placement.keep_awake { Some(KeepAwake::start()?) } else { None };
        let interrupts =
            disk.interrupt_core.map_or_else(String::new, |core| format!(", interrupts on core {core}"));
        let shared = if cores.server == cores.client { " (the same: they take turns)" } else { "" };
        let awake = if placement.keep_awake { "on" } else { "off" };
        let facts = vec![
            ("machine", describe_machine(allowed.len())),
            ("load", describe_load()),
            (
                "disk",
                format!("{} ({}) under {}{interrupts}", disk.device, disk.filesystem, directory.display()),
            ),
            (
                "cores",
                format!("server {}, client {}{shared}; keep-awake {awake}", cores.server, cores.client),
            ),
        ];
        if disk.filesystem == "tmpfs" || disk.filesystem == "ramfs" {
            eprintln!(
                "warning: {} is in memory ({}): nothing there is durable",
                directory.display(),
                disk.filesystem
            );
        }
        Ok(Self { cores, facts, _keep_awake: keep_awake })
    }

    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        self.facts.clone()
    }
}

pub(crate) fn allowed_cores() -> Result<Vec<usize>> {
    affinity::get_thread_affinity().doing(|| "asking for the allowed cores".to_owned())
}

fn choose_cores(placement: &Placement, allowed: &[usize], interrupt_core: Option<usize>) -> Result<Cores> {
    let last = *allowed.last().ok_or_else(|| Error::new("choosing cores", "no core is allowed"))?;
    let check = |core: usize| {
        let refusal = || Error::new("choosing cores", format!("core {core} is not among {allowed:?}"));
        allowed.contains(&core).then_some(core).ok_or_else(refusal)
    };
    let preferred = interrupt_core.filter(|core| allowed.contains(core)).unwrap_or(last);
    let other = |than: usize| allowed.iter().copied().find(|core| *core != than).unwrap_or(than);
    let server = match (placement.server_core, placement.client_core) {
        (Some(core), _) => check(core)?,
        (None, Some(client)) if client == preferred => other(client),
        (None, _) => preferred,
    };
    let client = placement.client_core.map_or_else(|| Ok(other(server)), check)?;
    Ok(Cores { server, client })
}

fn describe_machine(cores: usize) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor =
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{processor}, {cores} cores, {} GiB, Linux {}", memory_kib.div_ceil(1 << 20), kernel.trim())
}

/// What else the machine had to do when the run began: figures of a busy one are worth little.
fn describe_load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = load.split(' ').take(3).collect();
    format!("{} at the start (averages of 1, 5 and 15 minutes)", averages.join(", "))
}

/// The disk under a directory, as far as /proc and /sys tell.
struct Disk {
    device: String,
    filesystem: String,
    interrupt_core: Option<usize>,
}

impl Disk {
    fn below(directory: &Path) -> Self {
        let device = fs::metadata(directory).map(|metadata| metadata.dev()).unwrap_or(0);
        let number = format!("{}:{}", libc::major(device), libc::minor(device));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let unknown = || ("unknown disk".to_owned(), "unknown file system".to_owned());
        let (device, filesystem) = find_mount(&mounts, &number).unwrap_or_else(unknown);
        let name = device.rsplit('/').next().unwrap_or_default();
        let path = fs::canonicalize(PathBuf::from("/sys/class/block").join(name)).unwrap_or_default();
        let interrupts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let interrupt_core = find_interrupt_core(&interrupts, &path.to_string_lossy());
        Self { device, filesystem, interrupt_core }
    }
}

/// The device and file system of a `major:minor`, in the form of /proc/self/mountinfo.
fn find_mount(mounts: &str, number: &str) -> Option<(String, String)> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(number))?;
    let mut fields = line.split_once(" - ")?.1.split(' ');
    let filesystem = fields.next()?.to_owned();
    Some((fields.next()?.to_owned(), filesystem))
}

/// Which core took most of a device's interrupts. Drivers name theirs after a part of the device's path in /sys:
/// `virtio1-req.0`, `nvme0q3`, `ahci[0000:00:1f.2]`.
fn find_interrupt_core(interrupts: &str, device_path: &str) -> Option<usize> {
    let is_named_after = |action: &str, part: &str| {
        let ends_there = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_digit());
        match action.strip_prefix(part) {
            Some(rest) => part.ends_with(|last: char| last.is_ascii_digit()) && ends_there(rest),
            None => part.contains(':') && action.contains(part),
        }
    };
    let parts: Vec<&str> = device_path.split('/').filter(|part| !part.is_empty()).collect();
    let cores = interrupts.lines().next()?.split_whitespace().count();
    let mut counts = vec![0_u64; cores];
    for line in interrupts.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let Some(action) = fields.get(cores + 1..).and_then(<[&str]>::last) else { continue };
        if parts.iter().any(|part| is_named_after(action, part)) {
            for (count, field) in counts.iter_mut().zip(&fields[1..]) {
                *count += field.parse().unwrap_or(0);
            }
        }
    }
    let most = *counts.iter().max()?;
    if most == 0 { None } else { counts.iter().position(|count| *count == most) }
}

/// Runs `work` on a thread of its own on one core.
pub(crate) fn on_core<T: Send>(core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            pin(core)?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn pin(core: usize) -> Result<()> {
    affinity::set_thread_affinity([core]).doing(|| format!("pinning a thread to core {core}"))
}

/// A request to the kernel that no core sleeps deeply while this is open: idle cores poll. Waking a core of a virtual
/// machine costs 20 to 30 µs and now and then a whole scheduler tick.
///
/// A spinner at idle priority does not serve: threads of other scheduling groups, among them the kernel's own that
/// finish durable writes, wait for it until the next tick (4 ms, measured).
struct KeepAwake {
    _request: File,
}

impl KeepAwake {
    const DEVICE: &str = "/dev/cpu_dma_latency";

    fn start() -> Result<Self> {
        let doing = || format!("keeping cores awake by {} (it needs root)", Self::DEVICE);
        let mut request = File::options().write(true).open(Self::DEVICE).doing(doing)?;
        // Microseconds that a wake-up may take, as a 32-bit integer. The request ends when the file is closed.
        request.write_all(&[0; 4]).doing(doing)?;
        Ok(Self { _request: request })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPTS: &str = "           CPU0       CPU1
 36:          0      37390 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 37:         99          0 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config
 38:          7          0 PCI-MSIX-0000:00:03.0   0-edge      virtio10-req.0
 39:         12         11 IR-PCI-MSIX 0-edge      nvme0q1
 40:          3          4 PCI-MSI 1-edge      ahci[0000:00:1f.2]
NMI:          0          0   Non-maskable interrupts
ERR:          0
";

    fn placement(server: Option<usize>, client: Option<usize>) -> Placement {
        Placement { server_core: server, client_core: client, keep_awake: false }
    }

    #[test]
    fn interrupts_are_found_by_the_device_path() {
        let check = |path, expected| assert_eq!(find_interrupt_core(INTERRUPTS, path), expected, "{path}");
        check("/sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda", Some(1));
        check("/sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1", Some(0));
        check("/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/block/sda", Some(1));
        check("/sys/devices/virtual/block/zram0", None);
        check("", None);
        assert_eq!(find_interrupt_core("", "/sys/devices/virtio1"), None);
    }

    #[test]
    fn mount_is_found_by_device_number() {
        let mounts = "22 27 0:21 / /proc rw,relatime - proc proc rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n";
        assert_eq!(find_mount(mounts, "254:0"), Some(("/dev/vda".to_owned(), "ext4".to_owned())));
        assert_eq!(find_mount(mounts, "254:1"), None);
    }

    #[test]
    fn server_takes_the_core_of_the_disk_and_the_client_another() {
        let check = |chosen: Placement, allowed: &[usize], interrupts, server, client| {
            assert_eq!(choose_cores(&chosen, allowed, interrupts).unwrap(), Cores { server, client });
        };
        check(placement(None, None), &[0, 1], Some(1), 1, 0);
        check(placement(None, None), &[0, 1], Some(0), 0, 1);
        check(placement(None, None), &[0, 1, 2, 3], None, 3, 0);
        check(placement(None, None), &[2, 3], Some(0), 3, 2);
        check(placement(None, None), &[5], Some(0), 5, 5);
        check(placement(Some(0), None), &[0, 1], Some(1), 0, 1);
        check(placement(None, Some(1)), &[0, 1], Some(1), 0, 1);
        check(placement(Some(1), Some(1)), &[0, 1], None, 1, 1);
        assert!(choose_cores(&placement(Some(9), None), &[0, 1], None).is_err());
    }
}
