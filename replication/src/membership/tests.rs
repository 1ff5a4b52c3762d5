use super::*;

fn example() -> ConfState {
    let mut state = initial(&[3, 1, 2]).unwrap();
    state.learners = vec![7];
    state.voters_outgoing = vec![1, 9];
    state.auto_leave = true;
    state
}

#[test]
fn membership_survives_its_encoding() {
    let bytes = encode(&example());
    assert_eq!(bytes.len(), 16 + 8 * 6);
    assert_eq!(bytes[..16], [1, 1, 0, 0, 3, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(decode(&bytes).unwrap(), example());
}

#[test]
fn one_membership_has_one_encoding() {
    let mut other = example();
    other.voters = vec![2, 3, 1];
    assert_eq!(encode(&other), encode(&example()));
}

#[test]
fn damaged_membership_is_refused() {
    let good = encode(&example());
    for cut in 0..good.len() {
        assert!(decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    let mut long = good.clone();
    long.push(0);
    assert!(decode(&long).is_err());
    // Of the ids only the order can be judged; every bit before them counts.
    for bit in 0..16 * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad).is_err() || bit == 8, "bit {bit}");
    }
    let mut none = encode(&initial(&[1]).unwrap());
    none.truncate(16);
    none[4] = 0;
    assert_eq!(decode(&none), Err(Error::Membership { why: "no voters" }));
}

#[test]
fn initial_voters_are_checked() {
    assert!(initial(&[]).is_err());
    assert!(initial(&[0, 1]).is_err());
    assert!(initial(&[1, 1]).is_err());
    assert!(initial(&(1..=65).collect::<Vec<u64>>()).is_err());
    assert!(initial(&(1..=64).collect::<Vec<u64>>()).is_ok());
}

#[test]
fn change_is_the_difference() {
    let present = initial(&[1, 2, 3]).unwrap();
    assert_eq!(change(&present, &[3, 2, 1], &[], Bytes::new()), None);
    let moved = change(&present, &[1, 2, 4], &[], Bytes::new()).unwrap();
    let seen: Vec<_> = moved.changes.iter().map(|one| (one.get_change_type(), one.node_id)).collect();
    assert_eq!(seen, [(ConfChangeType::AddNode, 4), (ConfChangeType::RemoveNode, 3)]);
    let bytes = protobuf::Message::write_to_bytes(&moved).unwrap();
    assert_eq!(read_change(&bytes), Some(moved));
    assert_eq!(read_change(&[0xff; 3]), None);
    assert_eq!(read_change(&[]), Some(ConfChangeV2::default()));
}
