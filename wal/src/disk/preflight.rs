//! What the log needs of the system, asked before the first shard starts, answered in words that say what to change.

use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;
use crate::words::PAGE_BYTES;

const PAGE: usize = PAGE_BYTES as usize;
/// Below this the runtime's rings cannot be set up.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Whether the log can work in this directory, which must exist. Answers what works but should be known.
pub fn preflight(directory: &Path) -> Result<Vec<String>, Error> {
    check_memlock()?;
    check_ring()?;
    let mut warnings = Vec::new();
    let kind = file_system(directory);
    if matches!(kind.as_deref(), Some("tmpfs" | "ramfs")) {
        let directory = directory.display();
        warnings
            .push(format!("{directory} is in memory: what is stored there does not survive a power loss"));
    }
    if kind.as_deref() == Some("tmpfs") {
        // The runtime does without direct I/O there, whether the kernel offers it or not.
        return Ok(warnings);
    }
    check_direct_io(directory)?;
    Ok(warnings)
}

fn check_ring() -> Result<(), Error> {
    let Err(error) = io_uring::IoUring::new(8) else {
        return Ok(());
    };
    Err(Error::Refused { why: ring_refusal(error.raw_os_error(), &error.to_string(), ring_disabled()) })
}

/// The kernel's switch: 0 allowed, 1 for privileged processes, 2 for nobody.
fn ring_disabled() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn ring_refusal(code: Option<i32>, words: &str, disabled: Option<u32>) -> String {
    match (code, disabled) {
        (Some(libc::EPERM), Some(level @ 1..)) => format!(
            "io_uring is switched off: kernel.io_uring_disabled is {level}; allow it with \
             `sysctl kernel.io_uring_disabled=0`"
        ),
        (Some(libc::EPERM | libc::EACCES), _) => {
            "io_uring is not permitted: a seccomp profile forbids it; allow \
             io_uring_setup, io_uring_enter and io_uring_register (docker: --security-opt seccomp=PROFILE)"
                .to_owned()
        }
        (Some(libc::ENOSYS), _) => {
            "io_uring is not there: the kernel is too old or built without it (5.11 or later \
             is needed), or a seccomp profile hides it (docker: --security-opt seccomp=PROFILE)"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            "io_uring got no memory: raise RLIMIT_MEMLOCK (`ulimit -l 8192`, systemd: \
             LimitMEMLOCK=8M)"
                .to_owned()
        }
        (Some(libc::EMFILE | libc::ENFILE), _) => "io_uring got no file descriptor: raise RLIMIT_NOFILE \
             (`ulimit -n 65536`, systemd: LimitNOFILE=65536)"
            .to_owned(),
        _ => format!("io_uring cannot be set up: {words}"),
    }
}

fn check_memlock() -> Result<(), Error> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    match memlock_bytes(&limits) {
        Some(bytes) if bytes < MEMLOCK_BYTES_MIN => Err(Error::Refused {
            why: format!(
                "RLIMIT_MEMLOCK is {} KiB, at least {} KiB are needed: raise it (`ulimit -l 8192`, systemd: \
                 LimitMEMLOCK=8M)",
                bytes >> 10,
                MEMLOCK_BYTES_MIN >> 10
            ),
        }),
        _ => Ok(()),
    }
}

/// The soft limit; nothing if it is unlimited or not to be found.
fn memlock_bytes(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// One direct, durable write of one page, as the log does them.
fn check_direct_io(directory: &Path) -> Result<(), Error> {
    let path = directory.join(format!(".direct-{}", std::process::id()));
    let opened = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(&path);
    // Its name is not needed, and must not stay if this process is killed.
    let _ = std::fs::remove_file(&path);
    let written = opened.and_then(|file| {
        let buffer = vec![0; 2 * PAGE];
        let aligned = buffer.as_ptr().align_offset(PAGE);
        file.write_all_at(&buffer[aligned..aligned + PAGE], 0)
    });
    let Err(error) = written else {
        return Ok(());
    };
    Err(match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => no_direct_io(&path),
        _ if error.kind() == ErrorKind::StorageFull => {
            Error::Refused { why: format!("{}: no space is left", directory.display()) }
        }
        _ if error.kind() == ErrorKind::NotFound => {
            Error::Refused { why: format!("{}: there is no such directory", directory.display()) }
        }
        _ => Error::Io { what: "writing to the directory", path, why: error.to_string() },
    })
}

/// What to say where direct I/O is refused.
pub(super) fn no_direct_io(path: &Path) -> Error {
    let directory = path.parent().unwrap_or(path);
    let kind = file_system(directory).unwrap_or_else(|| "a file system of an unknown kind".to_owned());
    Error::Refused {
        why: format!(
            "{} is on {kind}, which refuses direct I/O (O_DIRECT): put the data directory on ext4 or xfs (in a \
             container: on a volume, not in the container's own layers)",
            directory.display()
        ),
    }
}

/// The kind of file system this directory is on, as the kernel names it.
fn file_system(directory: &Path) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    file_system_of(&directory, &mounts)
}

fn file_system_of(directory: &Path, mounts: &str) -> Option<String> {
    // 36 35 98:0 /root /mount/point options [optional fields…] - type source options
    let parse = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let mount = place.split(' ').nth(4)?.replace("\\040", " ");
        let kind = kind.split(' ').next()?;
        directory.starts_with(&mount).then(|| (mount.len(), kind.to_owned()))
    };
    // The innermost; of those on one another the last.
    mounts.lines().filter_map(parse).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn innermost_mount_decides() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      23 22 0:5 / /data rw shared:1 - overlay none rw\n\
                      24 23 0:6 / /data/with\\040space rw - xfs /dev/sdb rw\n";
        let kind = |path: &str| file_system_of(Path::new(path), mounts).unwrap();
        assert_eq!(kind("/var"), "ext4");
        assert_eq!(kind("/data/x"), "overlay");
        assert_eq!(kind("/data/with space/x"), "xfs");
        assert_eq!(kind("/database"), "ext4");
    }

    #[test]
    fn refused_ring_says_what_to_change() {
        let words = |code, disabled| ring_refusal(Some(code), "words", disabled);
        assert!(words(libc::EPERM, Some(2)).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(words(libc::EPERM, Some(0)).contains("seccomp"));
        assert!(words(libc::EPERM, None).contains("seccomp"));
        assert!(words(libc::ENOSYS, None).contains("kernel is too old"));
        assert!(words(libc::ENOMEM, None).contains("RLIMIT_MEMLOCK"));
        assert!(words(libc::EIO, None).contains("words"));
    }

    #[test]
    fn locked_memory_is_read_from_the_limits() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max locked memory         65536                8388608              bytes\n";
        assert_eq!(memlock_bytes(limits), Some(65536));
        assert_eq!(memlock_bytes("Max locked memory  unlimited  unlimited  bytes"), None);
        assert_eq!(memlock_bytes(""), None);
    }

    #[test]
    fn system_without_direct_io_is_named() {
        // A file system that exists everywhere and has neither files to be made nor direct I/O.
        let error = preflight(Path::new("/proc/self")).unwrap_err();
        assert!(error.to_string().contains("/proc/self"), "{error}");
        assert!(
            no_direct_io(Path::new("/proc/self/x"))
                .to_string()
                .contains("/proc/self is on proc, which refuses direct I/O")
        );
    }
}
