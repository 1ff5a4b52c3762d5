//! The executor of a shard, in a process of its own where the process is what ends.

use super::*;
use std::process::{Command, Stdio};
use std::thread;

/// Longer than a process takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(40);
/// Set for the process that is to panic.
const IS_CHILD: &str = "RINGMAIN_TEST_PANICS";

#[test]
fn panic_of_a_shard_ends_the_process() {
    const NAME: &str = "runtime::tests::panic_of_a_shard_ends_the_process";
    if std::env::var_os(IS_CHILD).is_some() {
        panic_on_a_shard();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(IS_CHILD, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        thread::park_timeout(Duration::from_millis(2));
    }
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("shard-7") && told.contains("an invariant is broken"), "{told}");
}

/// As a shard does in the midst of its work: in one of its tasks, while others wait for the kernel.
fn panic_on_a_shard() -> ! {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).name("shard-7").io_memory(IO_MEMORY_BYTES);
    let shard = start(builder, || async {
        let _waits = spawn(sleep(Duration::from_secs(3600)));
        spawn(async { panic!("an invariant is broken") }).await;
    });
    let joined = shard.unwrap().join().is_ok();
    // Not with 1: that is what is tested.
    std::process::exit(if joined { 8 } else { 9 });
}
