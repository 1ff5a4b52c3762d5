use super::*;

fn disk() -> (Disk, Rng) {
    let mut disk = Disk::new(Identity::default(), 16 * PAGE_BYTES);
    disk.prepare(PrepareSegment::Create { number: 1 });
    (disk, Rng::new(3))
}

const FIRST: Place = Place::Segment(1);

fn submit(disk: &mut Disk, rng: &mut Rng, page: u64, fill: u8) -> (Flight, Option<u64>) {
    disk.submit(FIRST, page * PAGE_BYTES, vec![fill; 3 * PAGE], rng)
}

#[test]
fn write_is_there_when_it_is_done_and_not_before() {
    let (mut disk, mut rng) = disk();
    let (first, _) = submit(&mut disk, &mut rng, 1, 7);
    let (second, _) = submit(&mut disk, &mut rng, 4, 8);
    assert_eq!(disk.read(FIRST, PAGE..PAGE + 2), [0, 0]);
    disk.finish(second, &mut rng);
    assert_eq!(disk.read(FIRST, 4 * PAGE - 1..4 * PAGE + 1), [0, 8]);
    disk.finish(first, &mut rng);
    assert_eq!(disk.read(FIRST, 4 * PAGE - 1..4 * PAGE + 1), [7, 8]);
    assert!(!disk.is_harmed());
    assert_eq!(disk.read(FIRST, 16 * PAGE - 1..17 * PAGE).len(), 1);
    assert_eq!(disk.read(Place::Segment(2), 0..1), [0_u8; 0]);
}

#[test]
fn crash_keeps_any_part_of_what_was_on_its_way() {
    let (mut whole, mut none, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let (mut disk, _) = disk();
        let mut rng = Rng::new(seed);
        submit(&mut disk, &mut rng, 1, 7);
        disk.crash(&mut rng);
        let page = disk.read(FIRST, PAGE..2 * PAGE);
        match page.iter().filter(|&&byte| byte == 7).count() {
            0 => none += 1,
            PAGE => whole += 1,
            part => {
                assert_eq!(part % SECTOR, 0);
                torn += 1;
            }
        }
        assert!(!disk.is_harmed(), "nobody was told that it is there");
        assert_eq!(disk.writes_in_flight(), 0);
    }
    assert!(whole > 50 && none > 20 && torn > 20, "{whole} {none} {torn}");
}

#[test]
fn every_fault_does_what_it_says() {
    let all = 1_000_000;
    let check = |faults: Faults, ends: bool, harms: bool| {
        let (mut disk, mut rng) = disk();
        disk.faults = faults;
        let (flight, delay) = submit(&mut disk, &mut rng, 1, 7);
        assert_eq!(delay.is_some(), ends, "{faults:?}");
        if ends {
            disk.finish(flight, &mut rng);
        }
        assert_eq!(disk.is_harmed(), harms, "{faults:?}");
        assert_eq!(disk.is_harmed_in(FIRST, PAGE..4 * PAGE), harms, "{faults:?}");
        disk.heal();
        assert_eq!(disk.read(FIRST, PAGE..PAGE + 1) == [7], ends, "{faults:?}");
    };
    check(Faults { slow: all, ..Faults::none() }, true, false);
    check(Faults { stuck: all, ..Faults::none() }, false, false);
    check(Faults { lost: all, ..Faults::none() }, false, false);
    check(Faults { phantom: all, ..Faults::none() }, true, true);
    check(Faults { misdirected: all, ..Faults::none() }, true, true);
    check(Faults { flipped: all, ..Faults::none() }, true, true);
}

#[test]
fn rot_is_harm_until_it_is_cut_off() {
    let (mut disk, mut rng) = disk();
    let (flight, _) = submit(&mut disk, &mut rng, 5, 7);
    disk.finish(flight, &mut rng);
    while !disk.is_harmed_in(FIRST, 5 * PAGE..6 * PAGE) {
        assert!(disk.rot(&mut rng).is_some());
    }
    disk.settle(1, 5 * PAGE_BYTES);
    assert!(!disk.is_harmed_in(FIRST, 5 * PAGE..6 * PAGE));
}

#[test]
fn what_survived_a_crash_and_was_recovered_is_durable() {
    let (mut disk, mut rng) = disk();
    submit(&mut disk, &mut rng, 1, 7);
    disk.crash(&mut rng);
    assert_eq!(disk.rot(&mut rng).map(|(place, _)| place), Some(FIRST));
    disk.heal();
    disk.settle(1, 4 * PAGE_BYTES);
    while !disk.is_harmed_in(FIRST, PAGE..3 * PAGE) {
        disk.rot(&mut rng);
    }
}

#[test]
fn recycled_segment_keeps_its_bytes_under_a_new_name() {
    let (mut disk, mut rng) = disk();
    let (flight, _) = submit(&mut disk, &mut rng, 1, 7);
    disk.finish(flight, &mut rng);
    disk.segments_max = 1;
    assert!(!disk.has_space(PrepareSegment::Create { number: 2 }));
    let recycle = PrepareSegment::Recycle { from: 1, number: 2 };
    assert!(disk.has_space(recycle));
    disk.prepare(recycle);
    assert_eq!(disk.segments().collect::<Vec<_>>(), [2]);
    assert_eq!(disk.read(Place::Segment(2), PAGE..PAGE + 1), [7]);
    // Its pages are free to be written again.
    let (flight, _) = disk.submit(Place::Segment(2), PAGE_BYTES, vec![9; PAGE], &mut rng);
    disk.finish(flight, &mut rng);
    disk.prepare_interrupted(PrepareSegment::Recycle { from: 2, number: 3 });
    assert_eq!(disk.segments().count(), 0);
}
