//! Somebody who means no good, or has lost the way: bytes without sense, and a peer's hello that is not for this cluster.

use ringmain_net::frame;
use ringmain_net::peer::{PEER_PROTOCOL, PeerHello};

use super::Context;
use crate::cluster::{CLUSTER, PORT};

#[derive(Debug)]
pub(super) struct Stranger;

impl Stranger {
    pub(super) fn connected(&mut self, context: &mut Context<'_>) {
        if context.rng.one_in(3) {
            return;
        }
        let number = context.rng.between(1, 9) as u32;
        let hello = PeerHello {
            protocol: PEER_PROTOCOL,
            cluster: if context.rng.one_in(2) { CLUSTER } else { 7 },
            node: number,
            incarnation: 0x00BA_D000,
            shard: context.rng.below(2) as u32,
            shards: 1,
            groups: 3,
            to_node: context.rng.between(1, 5) as u32,
            replaces: 0,
            lane: context.rng.below(3) as u8,
            host: "stranger",
            port: PORT,
        };
        frame::encode(context.out, 0, &hello, &[]);
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        let mut bytes = vec![0; context.rng.skewed(200) as usize];
        context.rng.fill(&mut bytes);
        context.out.extend_from_slice(&bytes);
        context.hangs_up = context.rng.one_in(4);
    }
}
