//! What was found, as values, as text and as JSON.

use std::collections::BTreeMap;
use std::io::{Result, Write};
use std::path::{Path, PathBuf};

use super::RecordSeen;
use crate::recovery::Verdict;
use crate::segment::segment_file_name;
use crate::superblock::Superblock;
use crate::words::{Identity, Position};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub shards: Vec<ShardReport>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardReport {
    pub directory: PathBuf,
    /// None: nothing there says it.
    pub identity: Option<Identity>,
    pub segment_bytes: u64,
    /// The one recovery would begin with.
    pub superblock: Option<Superblock>,
    pub segments: BTreeMap<u64, SegmentReport>,
    pub records: u64,
    pub last_sequence: u64,
    /// How often this data was started.
    pub boot: u32,
    /// How often a start went on behind a write that a crash had torn.
    pub restarts_cut: u64,
    /// What must not be: rot, and what does not belong here.
    pub faults: Vec<Fault>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentReport {
    pub number: u64,
    pub verdict: Verdict,
    /// Recovery reads it. Otherwise it is kept for what is live in it, or about to be recycled.
    pub needed: bool,
    pub records: u64,
    /// Of its records; 0 if it has none.
    pub first_sequence: u64,
    pub last_sequence: u64,
    /// The end of its last record.
    pub used_bytes: u64,
    pub note: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// None: not of one segment.
    pub segment: Option<u64>,
    pub offset: u64,
    pub bytes: u64,
    pub why: String,
}

impl Fault {
    pub(super) fn whole_shard(why: String) -> Self {
        Self { segment: None, offset: 0, bytes: 0, why }
    }
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Intact => "intact",
            Self::TornTail { .. } => "torn tail",
            Self::Hole { .. } => "hole",
            Self::Rot { .. } => "rot",
            Self::Unused => "unused",
        }
    }
}

impl ShardReport {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            identity: None,
            segment_bytes: 0,
            superblock: None,
            segments: BTreeMap::new(),
            records: 0,
            last_sequence: 0,
            boot: 0,
            restarts_cut: 0,
            faults: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn segment(&mut self, number: u64) -> &mut SegmentReport {
        self.segments.entry(number).or_insert(SegmentReport {
            number,
            verdict: Verdict::Unused,
            needed: false,
            records: 0,
            first_sequence: 0,
            last_sequence: 0,
            used_bytes: 0,
            note: None,
        })
    }

    pub(super) fn count(&mut self, seen: &RecordSeen<'_>) {
        let header = seen.view.header;
        let sequence = header.sequence.0;
        let segment = self.segment(seen.segment);
        if segment.records == 0 {
            segment.first_sequence = sequence;
        }
        segment.records += 1;
        segment.last_sequence = sequence;
        segment.used_bytes = seen.offset + header.record_bytes();
        self.records += 1;
        self.last_sequence = self.last_sequence.max(sequence);
        self.boot = self.boot.max(header.boot);
    }

    pub(super) fn rot(&mut self, segment: u64, offset: u64, bytes: u64, why: String) {
        self.segment(segment).verdict = Verdict::Rot { offset, bytes };
        self.faults.push(Fault { segment: Some(segment), offset, bytes, why });
    }

    pub(super) fn note_needed(&mut self, superblock: Option<Superblock>, segment_bytes: u64) {
        let from = superblock.map_or(0, |superblock| superblock.checkpoint.segment(segment_bytes));
        for segment in self.segments.values_mut() {
            segment.needed = segment.number >= from && segment.verdict != Verdict::Unused;
        }
    }

    fn write_text(&self, out: &mut dyn Write) -> Result<()> {
        match self.identity {
            Some(identity) => writeln!(out, "{}: {identity}", self.directory.display())?,
            None => writeln!(out, "{}: an empty log", self.directory.display())?,
        }
        match self.superblock {
            Some(superblock) if superblock.checkpoint != Position(0) && self.segment_bytes > 0 => writeln!(
                out,
                "  recovery begins at segment {} byte {}, record {}",
                superblock.checkpoint.segment(self.segment_bytes),
                superblock.checkpoint.offset(self.segment_bytes),
                superblock.sequence.0
            )?,
            _ => writeln!(out, "  recovery begins at the beginning: there is no checkpoint yet")?,
        }
        for segment in self.segments.values() {
            segment.write_text(out)?;
        }
        for note in &self.notes {
            writeln!(out, "  note: {note}")?;
        }
        for fault in &self.faults {
            match fault.segment {
                Some(segment) => writeln!(
                    out,
                    "  FAULT in segment {segment} ({}), bytes {}..{}: {}",
                    segment_file_name(segment),
                    fault.offset,
                    fault.offset.saturating_add(fault.bytes),
                    fault.why
                )?,
                None => writeln!(out, "  FAULT: {}", fault.why)?,
            }
        }
        if self.restarts_cut > 0 {
            writeln!(out, "  {} torn writes were cut off by later starts", self.restarts_cut)?;
        }
        let verdict = if self.is_sound() { "sound" } else { "DAMAGED" };
        writeln!(
            out,
            "  {verdict}: {} records, the last is {}; started {} times",
            self.records, self.last_sequence, self.boot
        )
    }

    fn write_json(&self, out: &mut dyn Write) -> Result<()> {
        write!(out, "{{\"directory\":")?;
        write_string(out, &self.directory.to_string_lossy())?;
        if let Some(identity) = self.identity {
            // As text: not every reader of JSON keeps 64 bits of a number.
            write!(
                out,
                ",\"cluster\":\"{:016x}\",\"node\":{},\"shard\":{},\"incarnation\":{}",
                identity.cluster, identity.node, identity.shard, identity.incarnation
            )?;
        }
        write!(
            out,
            ",\"sound\":{},\"records\":{},\"last_sequence\":{},\"boot\":{},\"restarts_cut\":{},\"segment_bytes\":{}",
            self.is_sound(),
            self.records,
            self.last_sequence,
            self.boot,
            self.restarts_cut,
            self.segment_bytes
        )?;
        write!(out, ",\"segments\":[")?;
        for (at, segment) in self.segments.values().enumerate() {
            write!(out, "{}", if at == 0 { "" } else { "," })?;
            segment.write_json(out)?;
        }
        write!(out, "],\"faults\":[")?;
        for (at, fault) in self.faults.iter().enumerate() {
            write!(out, "{}{{", if at == 0 { "" } else { "," })?;
            if let Some(segment) = fault.segment {
                write!(out, "\"segment\":{segment},\"offset\":{},\"bytes\":{},", fault.offset, fault.bytes)?;
            }
            write!(out, "\"why\":")?;
            write_string(out, &fault.why)?;
            write!(out, "}}")?;
        }
        write!(out, "],\"notes\":[")?;
        for (at, note) in self.notes.iter().enumerate() {
            write!(out, "{}", if at == 0 { "" } else { "," })?;
            write_string(out, note)?;
        }
        write!(out, "]}}")
    }
}

impl SegmentReport {
    fn write_text(&self, out: &mut dyn Write) -> Result<()> {
        write!(out, "  segment {}: ", self.number)?;
        match self.verdict {
            Verdict::Intact => write!(out, "intact")?,
            Verdict::TornTail { offset } => {
                write!(out, "torn tail: a write from byte {offset} on did not finish, and is cut off")?;
            }
            Verdict::Hole { offset } => write!(
                out,
                "hole: a write at byte {offset} did not happen though a later one did; cut off there"
            )?,
            Verdict::Rot { offset, bytes } => {
                write!(out, "ROT in bytes {offset}..{}", offset.saturating_add(bytes))?;
            }
            Verdict::Unused => write!(out, "unused")?,
        }
        if self.records > 0 {
            let (first, last) = (self.first_sequence, self.last_sequence);
            write!(out, "; {} records, {first} to {last}, {} bytes", self.records, self.used_bytes)?;
        }
        if self.verdict != Verdict::Unused && !self.needed {
            write!(out, "; before the checkpoint")?;
        }
        if let Some(note) = &self.note {
            write!(out, "; {note}")?;
        }
        writeln!(out)
    }

    fn write_json(&self, out: &mut dyn Write) -> Result<()> {
        write!(
            out,
            "{{\"number\":{},\"verdict\":\"{}\",\"needed\":{},\"records\":{},\"first_sequence\":{},\
             \"last_sequence\":{},\"used_bytes\":{}",
            self.number,
            self.verdict.name(),
            self.needed,
            self.records,
            self.first_sequence,
            self.last_sequence,
            self.used_bytes
        )?;
        match self.verdict {
            Verdict::TornTail { offset } | Verdict::Hole { offset } => write!(out, ",\"offset\":{offset}")?,
            Verdict::Rot { offset, bytes } => write!(out, ",\"offset\":{offset},\"bytes\":{bytes}")?,
            Verdict::Intact | Verdict::Unused => {}
        }
        if let Some(note) = &self.note {
            write!(out, ",\"note\":")?;
            write_string(out, note)?;
        }
        write!(out, "}}")
    }
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.shards.iter().all(ShardReport::is_sound)
    }

    /// In plain words, a few lines per shard.
    pub fn write_text(&self, out: &mut dyn Write) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.write_text(out))
    }

    /// One object on one line.
    pub fn write_json(&self, out: &mut dyn Write) -> Result<()> {
        write!(out, "{{\"sound\":{},\"shards\":[", self.is_sound())?;
        for (at, shard) in self.shards.iter().enumerate() {
            write!(out, "{}", if at == 0 { "" } else { "," })?;
            shard.write_json(out)?;
        }
        writeln!(out, "]}}")
    }
}

/// One line: where, which, what, and the beginning of the payload.
pub(super) fn write_record(out: &mut dyn Write, shard: &str, seen: &RecordSeen<'_>) -> Result<()> {
    const SHOWN_BYTES: usize = 32;
    let header = seen.view.header;
    write!(
        out,
        "{shard} segment {} byte {}: record {} {} boot {} durable_upto {}",
        seen.segment,
        seen.offset,
        header.sequence.0,
        header.kind.name(),
        header.boot,
        header.durable_upto.0
    )?;
    write!(
        out,
        " group {} term {} index {} tag {} hard_state {}/{}/{} payload {}",
        header.group.0,
        header.term.0,
        header.index.0,
        header.tag,
        header.hard_state.term,
        header.hard_state.vote,
        header.hard_state.commit,
        header.payload_bytes
    )?;
    let shown = &seen.view.payload[..seen.view.payload.len().min(SHOWN_BYTES)];
    if !shown.is_empty() {
        write!(out, " \"{}\"", shown.escape_ascii())?;
        write!(out, "{}", if shown.len() < seen.view.payload.len() { "…" } else { "" })?;
    }
    writeln!(out)
}

fn write_string(out: &mut dyn Write, text: &str) -> Result<()> {
    write!(out, "\"")?;
    for letter in text.chars() {
        match letter {
            '"' | '\\' => write!(out, "\\{letter}")?,
            letter if u32::from(letter) < 0x20 => write!(out, "\\u{:04x}", u32::from(letter))?,
            letter => write!(out, "{letter}")?,
        }
    }
    write!(out, "\"")
}
