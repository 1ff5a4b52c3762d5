use super::*;
use bytes::Bytes;
use ringmain_net::frame::{Frame, HEADER_BYTES, split};
use ringmain_net::peer::{PEER_FRAME_BYTES_MAX, PeerFrame, PeerWelcome, TransferPart};

const PEER: ConnectionId = ConnectionId(1);

fn peer() -> Connection {
    let mut connections = Connections::new(&Limits::default());
    connections.insert(PEER, Time(0));
    connections.greet_peer(PEER);
    connections.remove(PEER).unwrap()
}

/// A frame of so many bytes at least, in the lane of what is not urgent.
fn say(connection: &mut Connection, number: u32, bytes: usize) {
    let (cluster, group, from, to, transfer) = (1, 2, 3, 4, 5);
    let part = TransferPart { cluster, group, from, to, transfer, number, is_last: false };
    connection.outgoing.append_frame(&part, Bytes::from(vec![number as u8; bytes]));
    connection.end_frame();
}

fn say_urgently(connection: &mut Connection) {
    let welcome = PeerWelcome { cluster: 1, node: 2, incarnation: 3, shard: 0 };
    connection.urgent().append_frame(&welcome, Bytes::new());
}

/// Takes once; answers the numbers of the frames, and 1000 for an urgent one.
fn take(connection: &mut Connection) -> Vec<u32> {
    let mut out = Outgoing::default();
    let unsent = connection.unsent();
    connection.take(&mut out);
    assert_eq!(connection.unsent(), unsent, "what is handed over is unsent until the kernel has it");
    connection.handed -= out.bytes();
    let bytes = out.pieces().collect::<Vec<_>>().concat();
    assert_eq!(bytes.len(), out.bytes());
    let mut rest = &bytes[..];
    let mut numbers = Vec::new();
    while let Some(frame) = split(rest, PEER_FRAME_BYTES_MAX).unwrap() {
        rest = &rest[frame.bytes..];
        numbers.push(number(&frame));
    }
    assert!(rest.is_empty(), "frames are taken whole");
    numbers
}

fn number(frame: &Frame<'_>) -> u32 {
    match PeerFrame::decode(frame).unwrap() {
        PeerFrame::PeerWelcome(_) => 1000,
        PeerFrame::TransferPart { part, bytes } => {
            assert!(bytes.iter().all(|byte| *byte == part.number as u8));
            part.number
        }
        other => panic!("nobody said {other:?}"),
    }
}

#[test]
fn what_is_urgent_waits_for_a_part_of_the_rest_only() {
    let mut peer = peer();
    for number in 0..20 {
        // Every other one is copied.
        say(&mut peer, number, if number % 2 == 0 { 100_000 } else { 1_000 });
    }
    assert_eq!(take(&mut peer), [0, 1, 2, 3, 4]);
    say_urgently(&mut peer);
    assert_eq!(take(&mut peer), [1000, 5, 6, 7, 8, 9, 10]);
    say(&mut peer, 20, 250_000);
    let rest: Vec<u32> =
        std::iter::repeat_with(|| take(&mut peer)).take_while(|some| !some.is_empty()).flatten().collect();
    assert_eq!(rest, (11..=20).collect::<Vec<_>>());
    assert_eq!(peer.unsent(), 0);
    assert!(!peer.has_outgoing());
}

#[test]
fn shared_bytes_count_as_unsent() {
    let mut peer = peer();
    say(&mut peer, 0, 250_000);
    say(&mut peer, 1, 250_000);
    say(&mut peer, 2, 10);
    let frames = peer.outgoing.bytes();
    assert!(500_010 + 3 * HEADER_BYTES < frames);
    assert_eq!(peer.unsent(), frames);
    assert_eq!(take(&mut peer), [0, 1]);
    assert!(peer.unsent() < 200);
}

#[test]
fn a_peer_that_is_always_behind_keeps_no_room_for_what_it_has() {
    let mut peer = peer();
    (0..600).for_each(|number| say(&mut peer, number, 1_000));
    let (mut said, mut taken) = (600, 0);
    for _ in 0..200 {
        let some = take(&mut peer);
        assert_eq!(some, (taken..taken + some.len() as u32).collect::<Vec<_>>());
        taken += some.len() as u32;
        for _ in 0..some.len() {
            say(&mut peer, said, 1_000);
            said += 1;
        }
        assert!(peer.outgoing.written_bytes() <= 2 * peer.unsent() + TAKEN_BYTES_MIN);
    }
    assert!(said > 10_000);
}
