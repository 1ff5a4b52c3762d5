use std::path::Path;

use super::{Disk, Prepared, on_executor};
use crate::platter::{IDENTITY, Row, options};
use crate::{
    Error, GroupId, HardState, Identity, Index, Log, LogOptions, PAGE_BYTES, PrepareSegment, Record,
    RecordKind, Recovered, Sequence, Superblock, Term, Verdict, segment_file_name,
};

fn directory() -> tempfile::TempDir {
    // Beside the test's own program: a temporary directory of the system may be in memory.
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

struct Shard {
    disk: Disk,
    log: Log,
}

impl Shard {
    async fn boot(directory: &Path, options: LogOptions) -> (Self, Recovered, Vec<Row>) {
        let disk = Disk::open(directory, options.clone()).await.unwrap();
        let mut rows = Vec::new();
        let recovered = disk
            .boot(|record| {
                rows.push(Row {
                    header: record.header.clone(),
                    position: record.position,
                    payload: record.payload.to_vec(),
                });
            })
            .await
            .unwrap();
        let log = Log::new(options, recovered.start.clone());
        let mut shard = Self { disk, log };
        shard.prepare().await;
        (shard, recovered, rows)
    }

    async fn prepare(&mut self) {
        while let Some(prepare) = self.log.poll_segment() {
            assert_eq!(self.disk.prepare_segment(prepare).await, Prepared::Ready);
            self.log.on_segment_ready(prepare.number());
        }
    }

    async fn write(&mut self, payload: &[u8]) -> crate::Appended {
        self.prepare().await;
        let appended = self.log.append(entry(payload));
        self.flush().await;
        appended
    }

    async fn flush(&mut self) {
        while let Some(bytes) = self.log.next_write_bytes() {
            let mut buffer = self.disk.allocate(bytes);
            let at = self.log.poll_write(buffer.as_bytes_mut()).unwrap();
            self.disk.write(at, buffer).await;
            self.log.on_written(at.id);
        }
        self.log.check();
    }

    fn superblock(&self, counter: u64, appended: crate::Appended) -> Superblock {
        Superblock {
            identity: IDENTITY,
            boot: self.log.boot(),
            counter,
            checkpoint: appended.record,
            sequence: appended.sequence,
            durable_upto: self.log.durable_upto(),
        }
    }
}

fn entry(payload: &[u8]) -> Record {
    Record {
        group: GroupId(1),
        kind: RecordKind::Entry,
        tag: 0,
        term: Term(1),
        index: Index(1),
        hard_state: HardState::default(),
        payload: bytes::Bytes::copy_from_slice(payload),
    }
}

fn payloads(rows: &[Row]) -> Vec<Vec<u8>> {
    let entries = rows.iter().filter(|row| row.header.kind == RecordKind::Entry);
    entries.map(|row| row.payload.clone()).collect()
}

#[test]
fn log_on_a_disk_goes_on_after_a_start() {
    let directory = directory();
    let path = directory.path().join("shard-0000");
    on_executor(move || async move {
        let mut expected = Vec::new();
        for boot in 1..4u8 {
            let (mut shard, recovered, rows) = Shard::boot(&path, options()).await;
            assert_eq!(payloads(&rows), expected);
            assert_eq!(recovered.start.boot(), u32::from(boot));
            for round in 0..30u8 {
                let payload = vec![round ^ boot; usize::from(round) * 333];
                shard.write(&payload).await;
                expected.push(payload);
            }
            shard.disk.close().await;
        }
    });
}

#[test]
fn several_writes_may_be_in_flight() {
    let directory = directory();
    let path = directory.path().to_path_buf();
    on_executor(move || async move {
        let (mut shard, ..) = Shard::boot(&path, options()).await;
        shard.flush().await;
        for round in 0..5u8 {
            let mut flying = Vec::new();
            for n in 0..4u8 {
                shard.log.append(entry(&[round * 4 + n; 1000]));
                let mut buffer = shard.disk.allocate(shard.log.next_write_bytes().unwrap());
                let at = shard.log.poll_write(buffer.as_bytes_mut()).unwrap();
                flying.push((at, buffer));
            }
            assert_eq!(shard.log.next_write_bytes(), None);
            let ids: Vec<_> = flying.iter().map(|(at, _)| at.id).collect();
            let mut writes: Vec<_> =
                flying.into_iter().map(|(at, buffer)| Box::pin(shard.disk.write(at, buffer))).collect();
            // The last one is waited for first; all were begun by then, for all are polled.
            std::future::poll_fn(|context| {
                writes.retain_mut(|write| write.as_mut().poll(context).is_pending());
                if writes.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
            drop(writes);
            for id in ids.into_iter().rev() {
                shard.log.on_written(id);
            }
            assert_eq!(shard.log.durable_upto(), shard.log.last_sequence());
        }
        shard.disk.close().await;
        let (shard, _, rows) = Shard::boot(&path, options()).await;
        assert_eq!(payloads(&rows).len(), 20);
        shard.disk.close().await;
    });
}

#[test]
fn payload_is_read_back_by_its_position() {
    let directory = directory();
    let path = directory.path().to_path_buf();
    on_executor(move || async move {
        let (mut shard, ..) = Shard::boot(&path, LogOptions { cache_bytes_max: 0, ..options() }).await;
        let mut appended = Vec::new();
        for round in 0..20u8 {
            appended.push(shard.write(&vec![round; 7777]).await);
        }
        for (round, appended) in appended.iter().enumerate() {
            assert_eq!(shard.log.read(appended.payload, 7777), None);
            let (position, bytes) = shard.disk.read(appended.payload, 7777).await.unwrap();
            assert_eq!(position.0 % PAGE_BYTES, 0);
            shard.log.on_page_read(position, bytes);
            assert_eq!(shard.log.read(appended.payload, 7777), Some(&[round as u8; 7777][..]));
        }
        shard.disk.close().await;
    });
}

#[test]
fn segments_are_recycled_by_renaming() {
    let directory = directory();
    let path = directory.path().to_path_buf();
    on_executor(move || async move {
        let (mut shard, ..) = Shard::boot(&path, options()).await;
        for round in 0..20u64 {
            let appended = shard.write(&[7; 40_000]).await;
            let superblock = shard.superblock(round + 1, appended);
            shard.disk.write_superblock(&superblock).await;
            shard.log.set_floor(appended.record);
        }
        let names = || {
            let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        // The one before, the one in use, the one that is ready; the next would be made of the first.
        assert_eq!(names().len(), 4, "{:?}", names());
        assert!(names().contains(&segment_file_name(20)));
        assert_eq!(names().last().unwrap(), "superblock");
        shard.disk.close().await;
        let (shard, recovered, rows) = Shard::boot(&path, options()).await;
        assert_eq!(payloads(&rows).len(), 1);
        assert_eq!(recovered.superblock.unwrap().counter, 20);
        shard.disk.close().await;
    });
}

#[test]
fn segment_that_was_not_finished_is_made_again() {
    let directory = directory();
    let path = directory.path().to_path_buf();
    on_executor(move || async move {
        let (mut shard, ..) = Shard::boot(&path, options()).await;
        shard.write(&[1; 1000]).await;
        shard.disk.close().await;
        // A crash while 4 was being made, and one that left 3 too short.
        std::fs::write(path.join("segment-00000000000000000004.wal.preparing"), b"half").unwrap();
        let third = std::fs::OpenOptions::new().write(true).open(path.join(segment_file_name(3))).unwrap();
        third.set_len(5000).unwrap();
        let (mut shard, recovered, _) = Shard::boot(&path, options()).await;
        assert_eq!(recovered.verdicts[2], (3, Verdict::Unused));
        for _ in 0..4 {
            shard.write(&[2; 40_000]).await;
        }
        shard.disk.close().await;
        let (shard, _, rows) = Shard::boot(&path, options()).await;
        assert_eq!(payloads(&rows).len(), 5);
        shard.disk.close().await;
        let bytes = |number| std::fs::metadata(path.join(segment_file_name(number))).unwrap().len();
        assert_eq!((bytes(3), bytes(4)), (64 << 10, 64 << 10));
    });
}

#[test]
fn new_segment_is_zeros_all_over() {
    let directory = directory();
    let path = directory.path().to_path_buf();
    on_executor(move || async move {
        let options = LogOptions { segment_bytes: 4 << 20, ..options() };
        let disk = Disk::open(&path, options).await.unwrap();
        assert_eq!(disk.prepare_segment(PrepareSegment::Create { number: 1 }).await, Prepared::Ready);
        let bytes = std::fs::read(path.join(segment_file_name(1))).unwrap();
        assert_eq!(bytes.len(), 4 << 20);
        assert!(bytes[PAGE_BYTES as usize..].iter().all(|&byte| byte == 0));
        disk.close().await;
    });
}

#[test]
fn rot_stops_the_start() {
    use std::os::unix::fs::FileExt;
    let directory = directory();
    let path = directory.path().to_path_buf();
    on_executor(move || async move {
        let (mut shard, ..) = Shard::boot(&path, options()).await;
        let appended = shard.write(b"first").await;
        shard.write(b"second").await;
        shard.disk.close().await;
        let file = std::fs::OpenOptions::new().write(true).open(path.join(segment_file_name(1))).unwrap();
        file.write_all_at(b"F", appended.payload.offset(64 << 10)).unwrap();
        let disk = Disk::open(&path, options()).await.unwrap();
        let error = disk.boot(|_| {}).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Rot { segment: 1, .. }), "{error}");
        disk.close().await;
    });
}

#[test]
fn directory_of_another_node_is_refused() {
    let directory = directory();
    let path = directory.path().to_path_buf();
    on_executor(move || async move {
        let (shard, ..) = Shard::boot(&path, options()).await;
        assert_eq!(shard.log.durable_upto(), Sequence(0));
        shard.disk.close().await;
        let other = LogOptions { identity: Identity { node: 99, ..IDENTITY }, ..options() };
        let disk = Disk::open(&path, other).await.unwrap();
        let error = disk.boot(|_| {}).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        disk.close().await;
    });
}

#[test]
fn system_of_this_test_passes_the_preflight() {
    let directory = directory();
    super::preflight(directory.path()).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn writes_of_another_process_are_waited_for() {
    on_executor(|| async {
        let directory = directory();
        let (shard, ..) = Shard::boot(directory.path(), options()).await;
        let path = directory.path().join(segment_file_name(1));
        shard.disk.close().await;
        // What holds the file open as the kernel does for a write of a process that is gone.
        let held = std::fs::File::open(&path).unwrap();
        held.lock().unwrap();
        let is_released = std::rc::Rc::new(std::cell::Cell::new(false));
        let released = is_released.clone();
        let release = glommio::spawn_local(async move {
            for _ in 0..20 {
                glommio::executor().yield_now().await;
            }
            released.set(true);
            drop(held);
        });
        let (shard, ..) = Shard::boot(directory.path(), options()).await;
        assert!(is_released.get());
        release.await;
        shard.disk.close().await;
    });
}
