//! What comes from another node.

use ringmain_net::frame;
use ringmain_net::peer::{
    EntryHead, EntryKind, FormHello, FormReply, FormState, Formation, Founder, Lane, MessageKind,
    PEER_FRAME_BYTES_MAX, PEER_PROTOCOL, PeerCode, PeerFrame, PeerHello, PeerRefused, PeerWelcome, Received,
    ReplicateHead, SnapshotHead, TransferAborted, TransferAck, TransferBegin, TransferPart, TransferPayloads,
    TransferStaged, encode_replicate,
};

use super::Target;
use super::wire::{encoded, seal};

pub(super) const PEER: Target = Target {
    name: "peer",
    samples: || [greetings(), messages(), transfers(), forms()].concat(),
    repair: |bytes, rng| seal(bytes, rng),
    feed,
    // A founder takes forty bytes of memory for eighteen.
    memory_bytes: 1024,
    memory_per_byte: 4,
};

const NAME: &str = "a name that is longer than eight bytes";

fn greetings() -> Vec<Vec<u8>> {
    let hello = PeerHello {
        protocol: PEER_PROTOCOL,
        cluster: 1,
        node: 2,
        incarnation: 3,
        shard: 0,
        shards: 4,
        groups: 12,
        to_node: 5,
        replaces: 0,
        lane: Lane::Bulk as u8,
        host: NAME,
        port: 7400,
    };
    vec![
        encoded(&hello, &[]),
        encoded(&PeerWelcome { cluster: 1, node: 5, incarnation: 6, shard: 0 }, &[]),
        encoded(&PeerRefused { code: PeerCode::Layout as u16, detail: NAME }, &[]),
    ]
}

fn messages() -> Vec<Vec<u8>> {
    let append = ReplicateHead {
        cluster: 1,
        group: 2,
        from: 3 << 32 | 2,
        to: 6 << 32 | 5,
        kind: MessageKind::Append,
        reject: false,
        term: 7,
        log_term: 6,
        index: 40,
        commit: 39,
        commit_term: 0,
        reject_hint: 0,
        request_snapshot: 0,
        priority: 0,
        context: b"",
        snapshot: None,
    };
    let vote = ReplicateHead { kind: MessageKind::RequestVote, context: b"CampaignTransfer", ..append };
    let refusal = ReplicateHead { kind: MessageKind::AppendResponse, reject: true, ..append };
    let snapshot = SnapshotHead { index: 30, term: 5, transfer: 77, membership: &[7; 40] };
    let snapshot = ReplicateHead { kind: MessageKind::Snapshot, snapshot: Some(snapshot), ..append };
    let entry = |index| (EntryHead { term: 7, index, bytes: 4, kind: EntryKind::Normal }, &b"data"[..]);
    let replicate = |head: &ReplicateHead<'_>, entries: &[(EntryHead, &[u8])]| {
        let mut out = Vec::new();
        encode_replicate(&mut out, head, entries.iter().copied());
        out
    };
    vec![
        replicate(&append, &[41, 42, 43, 44, 45, 46].map(entry)),
        replicate(&append, &[]),
        replicate(&vote, &[]),
        replicate(&refusal, &[]),
        replicate(&snapshot, &[]),
        encoded(
            &Received { cluster: 1, group: 2, from: append.from, to: append.to, term: 7, index: 46 },
            &[],
        ),
    ]
}

fn transfers() -> Vec<Vec<u8>> {
    let (cluster, group, from, to, transfer) = (1, 2, 3 << 32 | 2, 6 << 32 | 5, 77);
    let payloads =
        TransferPayloads { cluster, group, from, to, transfer, number: 0, messages: 20, is_last: false };
    let code = PeerCode::Busy as u16;
    vec![
        encoded(
            &TransferBegin { cluster, group, from, to, transfer, index: 30, term: 5, parts: 4 },
            &[&[7; 40]],
        ),
        encoded(&TransferPart { cluster, group, from, to, transfer, number: 0, is_last: true }, &[&[8; 100]]),
        encoded(&payloads, &[&[9; 100]]),
        encoded(&TransferAck { cluster, group, from, to, transfer, to_part: 1, to_payload: 1 }, &[]),
        encoded(&TransferStaged { cluster, group, from, to, transfer, index: 30, term: 5 }, &[]),
        encoded(&TransferAborted { cluster, group, from, to, transfer, code, detail: NAME }, &[]),
    ]
}

fn forms() -> Vec<Vec<u8>> {
    let founder = Founder { node: 2, incarnation: 3, port: 7400, host: NAME.to_owned() };
    let formed = Formation {
        protocol: PEER_PROTOCOL,
        node: 2,
        incarnation: 3,
        shards: 4,
        groups: 12,
        segment_bytes: 64 << 20,
        state: FormState::Formed,
        cluster: 1,
        host: NAME.to_owned(),
        port: 7400,
        list_hash: 9,
        founders: vec![founder; 5],
    };
    let forming = Formation { state: FormState::Forming, cluster: 0, founders: Vec::new(), ..formed.clone() };
    vec![encoded(&FormHello(forming), &[]), encoded(&FormReply(formed), &[])]
}

/// As a shard would: cut, decode, walk over everything in it.
fn feed(bytes: &[u8]) {
    let Ok(Some(frame)) = frame::split(bytes, PEER_FRAME_BYTES_MAX) else { return };
    if let Ok(PeerFrame::Replicate(message)) = PeerFrame::decode(&frame) {
        let membership = message.head.snapshot.map_or(0, |snapshot| snapshot.membership.len());
        let walked: usize = message.entries().map(|(_, data)| data.len()).sum();
        assert_eq!(membership + walked, frame.body.len());
        assert!(walked == 0 || message.head.kind == MessageKind::Append);
    }
}
