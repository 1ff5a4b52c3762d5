//! Looking at the log of a stopped node: what is there, what is wrong and where. With plain reads, trusting nothing.
//!
//! Unlike recovery this reads everything, not only what comes after the checkpoint, and does not stop at the first
//! fault: it goes on with the segment behind it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, header_why};
use crate::log::LogOptions;
use crate::recovery::{Reach, RecordView, Recovery, SegmentFile, Verdict};
use crate::segment::{SegmentHeader, SegmentHeaderFault, segment_file_name, segment_number};
use crate::superblock::{SUPERBLOCK_FILE_NAME, Slot, Superblock, choose};
use crate::words::{Identity, PAGE_BYTES, Position};

mod report;
pub use report::{Fault, Report, SegmentReport, ShardReport};

/// Reads every byte of the log in this directory: a data directory, or that of one shard.
pub fn verify(directory: &Path) -> Result<Report, Error> {
    walk(directory, &mut |_, _| Ok(()))
}

/// As `verify`, and writes a line for each record on the way.
pub fn dump(directory: &Path, out: &mut dyn Write) -> Result<Report, Error> {
    let path = directory.to_path_buf();
    walk(directory, &mut |shard, record| {
        report::write_record(out, shard, record).map_err(|error| Error::Io {
            what: "writing the dump",
            path: path.clone(),
            why: error.to_string(),
        })
    })
}

type OnRecord<'a> = dyn FnMut(&str, &RecordSeen<'_>) -> Result<(), Error> + 'a;

pub(crate) struct RecordSeen<'a> {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) view: &'a RecordView<'a>,
}

fn walk(directory: &Path, on_record: &mut OnRecord<'_>) -> Result<Report, Error> {
    let mut shards = Vec::new();
    for directory in shard_directories(directory)? {
        let mut shard = Shard::open(&directory)?;
        shard.walk(on_record)?;
        shards.push(shard.report);
    }
    Ok(Report { shards })
}

fn shard_directories(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut shards = Vec::new();
    for (name, path) in list(directory)? {
        if name == SUPERBLOCK_FILE_NAME || segment_number(&name).is_some() {
            return Ok(vec![directory.to_path_buf()]);
        }
        if name.starts_with("shard-") && path.is_dir() {
            shards.push(path);
        }
    }
    if shards.is_empty() {
        let why =
            "neither a shard's directory nor a data directory: no segments, no shard-… in it".to_owned();
        return Err(Error::Io { what: "looking for a log", path: directory.to_path_buf(), why });
    }
    shards.sort();
    Ok(shards)
}

fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let failed = |error: std::io::Error| io_error("listing the directory", directory, &error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            entries.push((name, entry.path()));
        }
    }
    Ok(entries)
}

fn io_error(what: &'static str, path: &Path, error: &std::io::Error) -> Error {
    Error::Io { what, path: path.to_path_buf(), why: error.to_string() }
}

struct SegmentOnDisk {
    file: File,
    bytes: u64,
    header: Vec<u8>,
    decoded: Result<SegmentHeader, SegmentHeaderFault>,
}

struct Shard {
    name: String,
    directory: PathBuf,
    slots: [Vec<u8>; 2],
    segments: BTreeMap<u64, SegmentOnDisk>,
    report: ShardReport,
}

impl Shard {
    fn open(directory: &Path) -> Result<Self, Error> {
        let name = directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut shard = Self {
            name,
            directory: directory.to_path_buf(),
            slots: [Vec::new(), Vec::new()],
            segments: BTreeMap::new(),
            report: ShardReport::new(directory),
        };
        for (name, path) in list(directory)? {
            if let Some(number) = segment_number(&name) {
                let file = File::open(&path).map_err(|error| io_error("opening a segment", &path, &error))?;
                let meta = file.metadata().map_err(|error| io_error("opening a segment", &path, &error))?;
                let header = read(&file, 0, PAGE_BYTES as usize, &path)?;
                let decoded = SegmentHeader::decode(&header);
                shard.segments.insert(number, SegmentOnDisk { file, bytes: meta.len(), header, decoded });
            } else if name == SUPERBLOCK_FILE_NAME {
                let file =
                    File::open(&path).map_err(|error| io_error("opening the superblock", &path, &error))?;
                shard.slots[0] = read(&file, 0, PAGE_BYTES as usize, &path)?;
                shard.slots[1] = read(&file, PAGE_BYTES, PAGE_BYTES as usize, &path)?;
            }
        }
        Ok(shard)
    }

    fn walk(&mut self, on_record: &mut OnRecord<'_>) -> Result<(), Error> {
        let superblock = self.judge_superblock();
        let Some(options) = self.guess_options(superblock) else {
            return Ok(());
        };
        self.report.segment_bytes = options.segment_bytes;
        self.report.identity = Some(options.identity);
        self.set_aside_strangers(&options);

        let has_checkpoint = superblock.is_some_and(|superblock| superblock.checkpoint != Position(0));
        let run = self.oldest_of_run();
        let alone: Vec<u64> = self.segments.keys().copied().filter(|&number| Some(number) < run).collect();
        if has_checkpoint {
            for number in alone {
                self.run(&options, Some((number, Reach::OneSegment)), on_record)?;
            }
        }
        // Without a checkpoint the log must begin at its first segment: recovery's own beginning is the right one.
        let mut begin = run.filter(|_| has_checkpoint).map(|run| (run, Reach::Whole));
        while let Some(rotten) = self.run(&options, begin, on_record)? {
            let after = self.segments.range(rotten.saturating_add(1)..).next();
            let Some((&next, _)) = after else { break };
            begin = Some((next, Reach::Rest));
        }
        self.judge_sizes(options.segment_bytes);
        self.report.note_needed(superblock, options.segment_bytes);
        Ok(())
    }

    /// One recovery. Answers the segment in which it met rot.
    fn run(
        &mut self,
        options: &LogOptions,
        begin: Option<(u64, Reach)>,
        on_record: &mut OnRecord<'_>,
    ) -> Result<Option<u64>, Error> {
        let files = self
            .segments
            .iter()
            .map(|(&number, segment)| SegmentFile { number, header: segment.header.clone() })
            .collect();
        let slots = [self.slots[0].as_slice(), self.slots[1].as_slice()];
        let mut recovery = match Recovery::new(options, slots, files) {
            Ok(recovery) => recovery,
            Err(error) => {
                self.report.faults.push(Fault::whole_shard(error.to_string()));
                return Ok(None);
            }
        };
        if let Some((segment, reach)) = begin {
            recovery.begin_elsewhere(segment, reach);
        }
        while let Some(asked) = recovery.poll_read() {
            let path = self.directory.join(segment_file_name(asked.segment));
            let bytes = match self.segments.get(&asked.segment) {
                Some(segment) => read(&segment.file, asked.offset, asked.bytes, &path)?,
                None => Vec::new(),
            };
            recovery.on_read(&bytes);
            while let Some(view) = recovery.next_record() {
                let segment = view.position.segment(options.segment_bytes);
                let offset = view.position.offset(options.segment_bytes);
                let seen = RecordSeen { segment, offset, view: &view };
                self.report.count(&seen);
                on_record(&self.name, &seen)?;
            }
        }
        let verdicts = recovery.verdicts_so_far();
        self.report.restarts_cut += recovery.restarts_cut();
        let rot = recovery.rot_found();
        let first = begin.map_or(0, |(segment, _)| segment);
        let last = if matches!(begin, Some((_, Reach::OneSegment))) { first } else { u64::MAX };
        for (number, verdict) in verdicts {
            let segment = self.report.segment(number);
            if (first..=last).contains(&number) {
                // Behind something destroyed nothing tells the end of the log from its beginning.
                let nothing = verdict == Verdict::Intact && segment.records == 0;
                segment.verdict = if nothing { Verdict::Unused } else { verdict };
            }
        }
        let Some(Error::Rot { segment, offset, bytes, why }) = rot else {
            return Ok(None);
        };
        self.report.rot(segment, offset, bytes, why.to_owned());
        Ok(Some(segment))
    }

    fn judge_superblock(&mut self) -> Option<Superblock> {
        let slots = [Slot::decode(&self.slots[0]), Slot::decode(&self.slots[1])];
        for (number, slot) in slots.iter().enumerate() {
            match slot {
                Slot::Damaged => self.report.notes.push(format!(
                    "slot {number} of the superblock cannot be read: torn by a crash, or destroyed"
                )),
                Slot::Version(version) => {
                    let why =
                        format!("slot {number} of the superblock has version {version}, not known here");
                    self.report.faults.push(Fault::whole_shard(why));
                }
                Slot::Blank | Slot::Valid(_) => {}
            }
        }
        if slots == [Slot::Damaged, Slot::Damaged] {
            let why = "both slots of the superblock are destroyed; recovery reads the whole log instead";
            self.report.faults.push(Fault::whole_shard(why.to_owned()));
        }
        self.report.superblock = choose(slots);
        self.report.superblock
    }

    /// Whose log this is and how large its segments are, by the superblock and by what most segments say.
    fn guess_options(&mut self, superblock: Option<Superblock>) -> Option<LogOptions> {
        let mut votes: Vec<(Identity, u64, usize)> = Vec::new();
        for header in self.segments.values().filter_map(|segment| segment.decoded.ok()) {
            let same = |vote: &&mut (Identity, u64, usize)| {
                (vote.0, vote.1) == (header.identity, header.segment_bytes)
            };
            match votes.iter_mut().find(same) {
                Some(vote) => vote.2 += 1,
                None => votes.push((header.identity, header.segment_bytes, 1)),
            }
        }
        if let Some(superblock) = superblock {
            let ours = votes.iter().any(|vote| vote.0 == superblock.identity);
            votes.retain(|vote| !ours || vote.0 == superblock.identity);
        }
        let Some(&(identity, segment_bytes, _)) = votes.iter().max_by_key(|vote| vote.2) else {
            if !self.segments.is_empty() {
                let why = "no segment has a header page that can be read".to_owned();
                self.report.faults.push(Fault::whole_shard(why));
            }
            return None;
        };
        if !LogOptions::allows_segment_bytes(segment_bytes) {
            let why = format!("the segments say that they have {segment_bytes} bytes, which no segment has");
            self.report.faults.push(Fault::whole_shard(why));
            return None;
        }
        Some(LogOptions { segment_bytes, ..LogOptions::new(identity) })
    }

    /// Segments that are not of this log are faults, and the rest is looked at without them.
    fn set_aside_strangers(&mut self, options: &LogOptions) {
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        for number in numbers {
            let Some(segment) = self.segments.get(&number) else { continue };
            let why = match segment.decoded {
                _ if number == 0 || number > options.segment_number_max() => {
                    Error::SegmentNumber { number }.to_string()
                }
                Ok(header) if header.identity != options.identity => {
                    format!("it belongs to {}", header.identity)
                }
                Ok(header) if header.segment_bytes != options.segment_bytes => {
                    format!("it says that it has {} bytes", header.segment_bytes)
                }
                Err(fault @ SegmentHeaderFault::Version(_)) => fault.to_string(),
                Ok(_) => continue,
                Err(fault) => {
                    self.report.segment(number).note = Some(header_why(fault).to_owned());
                    continue;
                }
            };
            self.segments.remove(&number);
            self.report.segment(number).verdict = Verdict::Rot { offset: 0, bytes: PAGE_BYTES };
            self.report.rot(number, 0, PAGE_BYTES, why);
        }
        for &number in self.segments.keys() {
            self.report.segment(number);
        }
    }

    /// The oldest segment from which on none is missing.
    fn oldest_of_run(&self) -> Option<u64> {
        let mut oldest = None;
        for &number in self.segments.keys().rev() {
            if oldest.is_some_and(|oldest| number + 1 != oldest) {
                break;
            }
            oldest = Some(number);
        }
        oldest
    }

    fn judge_sizes(&mut self, segment_bytes: u64) {
        for (&number, segment) in &self.segments {
            let report = self.report.segment(number);
            if segment.bytes >= segment_bytes {
                continue;
            }
            let why = format!("the file has {} bytes, a segment has {segment_bytes}", segment.bytes);
            if report.verdict == Verdict::Unused {
                report.note = Some(why);
            } else {
                self.report.rot(number, segment.bytes, segment_bytes - segment.bytes, why);
            }
        }
    }
}

/// As many of the bytes as there are.
fn read(file: &File, offset: u64, bytes: usize, path: &Path) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("reading", path, &error)),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

#[cfg(test)]
mod tests;
