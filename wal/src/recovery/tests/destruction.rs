//! Seeded: whatever is done to the bytes, no record that was durable is silently gone or different, and nothing panics.

use std::collections::BTreeMap;

use super::{SEGMENT, machine, payloads};
use crate::platter::{Machine, Platter, Random, Row, options};
use crate::{LogOptions, PAGE_BYTES, RecordKind, Sequence, Superblock};

/// A log with restarts, torn writes, several writes in flight and, sometimes, recycled segments. Answers it with the
/// rows that recovery must find.
fn random_log(random: &mut Random) -> (Platter, Vec<Row>) {
    let mut machine = machine();
    for _ in 0..1 + random.below(4) {
        for _ in 0..random.below(25) {
            let length = match random.below(8) {
                0 => random.below(20_000),
                1..=3 => random.below(3000),
                _ => random.below(200),
            };
            machine.put(&random.bytes(length as usize));
            if random.below(3) == 0 {
                machine.take();
            }
            while !machine.flying.is_empty() && random.below(3) == 0 {
                machine.land(random.below(machine.flying.len() as u64) as usize);
            }
        }
        machine.take();
        tear(&mut machine, random);
        let (restarted, _) = machine.restart();
        machine = restarted;
    }
    machine.put(b"last");
    machine.flush();
    assert!(machine.log.vouch());
    machine.flush();
    let (_, rows) = machine.platter.recover().expect("only crashes happened");
    (machine.platter, rows)
}

/// A crash: of each write in flight some pages reach the disk.
fn tear(machine: &mut Machine, random: &mut Random) {
    for (at, bytes) in std::mem::take(&mut machine.flying) {
        for (n, page) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
            if random.below(2) == 0 {
                let offset = at.offset + n as u64 * PAGE_BYTES;
                machine.platter.write(crate::WriteAt { offset, ..at }, page);
            }
        }
    }
}

/// Everything that said something is still there, in order.
fn says_the_same(rows: &[Row], expected: &[Row]) -> bool {
    let saying = |row: &&Row| row.header.kind != RecordKind::Vouch;
    rows.iter().filter(saying).eq(expected.iter().filter(saying))
}

#[test]
fn crash_never_costs_what_was_durable() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut machine = machine();
        let mut durable: Vec<Vec<u8>> = Vec::new();
        for _ in 0..4 {
            let mut appended = Vec::new();
            for _ in 0..random.below(20) {
                let length_max = if random.below(4) == 0 { 9000 } else { 300 };
                let length = random.below(length_max);
                let payload = random.bytes(length as usize);
                appended.push((machine.put(&payload).sequence, payload));
                if random.below(2) == 0 {
                    machine.take();
                }
                if !machine.flying.is_empty() && random.below(2) == 0 {
                    machine.land(random.below(machine.flying.len() as u64) as usize);
                }
            }
            let upto = machine.log.durable_upto();
            tear(&mut machine, &mut random);
            let (restarted, rows) = machine.restart();
            machine = restarted;
            let found = payloads(&rows);
            let safe = appended.iter().filter(|(sequence, _)| *sequence <= upto).count();
            assert!(found.len() >= durable.len() + safe, "seed {seed}");
            let all = durable.iter().chain(appended.iter().map(|(_, payload)| payload));
            assert!(found.iter().zip(all).all(|(a, b)| a == b), "seed {seed}");
            // What recovery found is durable from now on, whether it was known before or not.
            durable = found.iter().map(|payload| payload.to_vec()).collect();
        }
    }
}

#[test]
fn crash_never_costs_what_was_durable_while_segments_are_recycled() {
    let mut recycled = 0;
    for seed in 0..150 {
        let mut random = Random(0xC0DE + seed);
        let mut machine = machine();
        let mut durable: BTreeMap<Sequence, Vec<u8>> = BTreeMap::new();
        let mut superblock: Option<Superblock> = None;
        for _ in 0..5 {
            let mut appended = BTreeMap::new();
            for _ in 0..random.below(40) {
                let length = random.below(12_000);
                let payload = random.bytes(length as usize);
                let place = machine.put(&payload);
                appended.insert(place.sequence, (place.record, payload));
                while machine.flying.len() < 3 && machine.take().is_some() {}
                while !machine.flying.is_empty() && random.below(3) > 0 {
                    machine.land(random.below(machine.flying.len() as u64) as usize);
                }
                let upto = machine.log.durable_upto();
                if random.below(4) == 0
                    && let Some((&sequence, &(checkpoint, _))) = appended.range(..=upto).next_back()
                {
                    let counter = superblock.map_or(1, |superblock| superblock.counter + 1);
                    let (identity, boot) = (options().identity, machine.log.boot());
                    let next =
                        Superblock { identity, boot, counter, checkpoint, sequence, durable_upto: upto };
                    machine.platter.write_superblock(next);
                    machine.log.set_floor(checkpoint);
                    superblock = Some(next);
                }
            }
            let upto = machine.log.durable_upto();
            tear(&mut machine, &mut random);
            let (restarted, rows) = machine.restart();
            machine = restarted;
            let floor = superblock.map_or(Sequence(1), |superblock| superblock.sequence);
            let said = appended.into_iter().map(|(sequence, (_, payload))| (sequence, payload));
            durable.extend(said.filter(|(sequence, _)| *sequence <= upto));
            let found: BTreeMap<Sequence, Vec<u8>> =
                rows.into_iter().map(|row| (row.header.sequence, row.payload)).collect();
            for (sequence, payload) in durable.range(floor..) {
                assert!(found.get(sequence) == Some(payload), "seed {seed}: {sequence:?}");
            }
            durable = found.into_iter().filter(|(_, payload)| !payload.is_empty()).collect();
        }
        recycled += u64::from(!machine.platter.segments.contains_key(&1));
    }
    assert!(recycled > 50, "only {recycled} logs got that far");
}

#[test]
fn flipped_byte_is_never_accepted_silently() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let (platter, expected) = random_log(&mut random);
        for _ in 0..60 {
            let mut flipped = platter.clone();
            let numbers: Vec<u64> = flipped.segments.keys().copied().collect();
            let number = numbers[random.below(numbers.len() as u64) as usize];
            let offset = random.below(SEGMENT);
            flipped.segments.get_mut(&number).unwrap()[offset as usize] ^= 1 << random.below(8);
            if let Ok((_, rows)) = flipped.recover() {
                assert!(says_the_same(&rows, &expected), "seed {seed}: segment {number} byte {offset}");
            }
        }
    }
}

#[test]
fn every_byte_of_a_small_log_matters_or_is_not_of_it() {
    let mut machine = machine();
    machine.write(&[1; 100]);
    machine.put(&[2; 30]);
    machine.write(&[3; 4100]);
    let vouch = machine.log.tail().offset(SEGMENT);
    assert!(machine.log.vouch());
    machine.flush();
    let (_, expected) = machine.platter.recover().unwrap();
    for offset in 0..vouch {
        let mut flipped = machine.platter.clone();
        flipped.flip(1, offset);
        assert!(flipped.recover().is_err(), "byte {offset}");
    }
    for offset in vouch..SEGMENT {
        let mut flipped = machine.platter.clone();
        flipped.flip(1, offset);
        let (_, rows) = flipped.recover().unwrap();
        assert!(says_the_same(&rows, &expected), "byte {offset}");
    }
}

#[test]
fn mutated_log_never_panics_and_is_never_different() {
    for seed in 0..150 {
        let mut random = Random(0xF00D + seed);
        let (platter, expected) = random_log(&mut random);
        for _ in 0..20 {
            let mut mutated = platter.clone();
            for _ in 0..1 + random.below(4) {
                mutate(&mut mutated, &mut random);
            }
            let Ok((recovered, rows)) = mutated.recover() else { continue };
            // Several faults at once can destroy the evidence too; what is found is still what was written.
            assert!(rows.len() <= expected.len(), "seed {seed}");
            for row in &rows {
                assert!(expected.contains(row), "seed {seed}");
            }
            let mut machine = Machine::start(mutated, recovered.start);
            machine.write(b"goes on");
        }
    }
}

fn mutate(platter: &mut Platter, random: &mut Random) {
    let numbers: Vec<u64> = platter.segments.keys().copied().collect();
    let Some(&number) = numbers.get(random.below(numbers.len().max(1) as u64) as usize) else { return };
    let other = numbers[random.below(numbers.len() as u64) as usize];
    let page = random.below(SEGMENT / PAGE_BYTES) * PAGE_BYTES;
    let source = random.below(SEGMENT / PAGE_BYTES) * PAGE_BYTES;
    let range = |at: u64| at as usize..(at + PAGE_BYTES) as usize;
    match random.below(8) {
        0 => {
            let copied = platter.segments[&other].get(range(source)).map(<[u8]>::to_vec);
            let target = platter.segments.get_mut(&number).unwrap().get_mut(range(page));
            if let (Some(copied), Some(target)) = (copied, target) {
                target.copy_from_slice(&copied);
            }
        }
        1 => {
            let garbage = random.bytes(PAGE_BYTES as usize);
            if let Some(target) = platter.segments.get_mut(&number).unwrap().get_mut(range(page)) {
                target.copy_from_slice(&garbage);
            }
        }
        2 => {
            if let Some(target) = platter.segments.get_mut(&number).unwrap().get_mut(range(page)) {
                target.fill(0);
            }
        }
        3 => platter.segments.get_mut(&number).unwrap().truncate(random.below(SEGMENT) as usize),
        4 if numbers.len() > 1 => {
            platter.segments.remove(&number);
        }
        5 => {
            let moved = platter.segments[&number].clone();
            platter.segments.insert(other + random.below(3), moved);
        }
        6 => platter.slots[random.below(2) as usize] = random.bytes(PAGE_BYTES as usize),
        _ => {
            let segment = platter.segments.get_mut(&number).unwrap();
            let at = random.below(segment.len().max(1) as u64) as usize;
            if let Some(byte) = segment.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
    }
}

#[test]
fn garbage_is_refused_or_empty() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut platter = Platter::new(options());
        for slot in &mut platter.slots {
            let length = random.below(5000);
            *slot = random.bytes(length as usize);
        }
        for number in 1..1 + random.below(4) {
            let length = random.below(SEGMENT + 1);
            let bytes = random.bytes(length as usize);
            platter.segments.insert(number, bytes);
        }
        if let Ok((recovered, rows)) = platter.recover() {
            assert!(rows.is_empty());
            assert_eq!(recovered.records, 0);
        }
    }
}

#[test]
fn superblock_with_a_good_checksum_and_bad_words_is_survived() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut machine = machine();
        machine.write(&random.bytes(50));
        let pick = |random: &mut Random| match random.below(4) {
            0 => random.next(),
            1 => random.below(1 << 20),
            2 => u64::MAX - random.below(3),
            _ => random.below(4),
        };
        let (a, b) = (pick(&mut random), pick(&mut random));
        let superblock = Superblock {
            identity: options().identity,
            boot: random.next() as u32,
            counter: pick(&mut random),
            checkpoint: crate::Position(pick(&mut random).max(1)),
            sequence: Sequence(a.min(b).max(1)),
            durable_upto: Sequence(a.max(b).max(1)),
        };
        machine.platter.write_superblock(superblock);
        let _ = machine.platter.recover();
    }
}

#[test]
fn segments_may_be_large() {
    // The window is one read and one record, not a segment.
    let options = LogOptions { segment_bytes: 8 << 20, write_bytes_max: 256 << 10, ..options() };
    let mut machine = Machine::new(options);
    for round in 0..20u8 {
        machine.write(&vec![round; 700_000]);
    }
    machine.write(&vec![1; 7 << 20]);
    let (_, rows) = machine.platter.recover().unwrap();
    assert_eq!(payloads(&rows).len(), 21);
}
