//! Bugs that are planted between shards and clients: what a broken product would say.

use ringmain_net::frame::{self, FRAME_BYTES_MAX, Frame};
use ringmain_net::protocol::{
    Delivery, DeliveryHead, Outcome, QueueInfo, QueueShown, Reply, Request, Settle, SettleRun,
};

use super::oracle::Speaker;
use super::{Plant, Run};

/// The number of a settle that nobody sent.
const FORGED: u64 = u64::MAX - 1;

#[derive(Default)]
pub(super) struct Lies {
    /// By machine: what was told last of each queue.
    told: Vec<(usize, QueueInfo)>,
    delivered: Option<LastDelivery>,
}

/// The last delivery over a connection.
struct LastDelivery {
    pipe: u64,
    consumer: u32,
    queue: u64,
    heads: Vec<DeliveryHead>,
    body: Vec<u8>,
}

impl Run {
    /// What a client asks of a node that does not lead is answered from what it knew when it did.
    pub(super) fn intercepted(
        &mut self,
        node: usize,
        pipe: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<bool, String> {
        if self.plant != Plant::CountStale {
            return Ok(false);
        }
        let Ok(Some(said)) = frame::split(bytes, FRAME_BYTES_MAX) else { return Ok(false) };
        let Ok(Request::ShowQueue(show)) = Request::decode(&said) else { return Ok(false) };
        let told = self.lies.told.iter().find(|(who, info)| *who == node && info.name == show.name);
        let Some((_, info)) = told else { return Ok(false) };
        if self.state(node, info.group as usize).is_some_and(|state| state.is_serving) {
            return Ok(false);
        }
        let mut answer = Vec::new();
        frame::encode(&mut answer, said.request, &QueueShown { info: info.clone() }, &[]);
        let taken = said.bytes;
        bytes.drain(..taken);
        let speaker = Speaker { now: self.now(node).0, terms: &[] };
        self.oracle.spoken(&speaker, &[(pipe, 1, answer.clone())])?;
        self.send(pipe, 1, &answer);
        Ok(true)
    }

    /// Changes what a node says to its clients in a turn.
    pub(super) fn lie(&mut self, node: usize, spoken: &mut [(u64, usize, Vec<u8>)]) {
        if !matches!(self.plant, Plant::CountStale | Plant::SettledAgain | Plant::MessageLost) {
            return;
        }
        for (pipe, _, bytes) in spoken {
            let said = std::mem::take(bytes);
            let mut rest = &said[..];
            while let Ok(Some(one)) = frame::split(rest, FRAME_BYTES_MAX) {
                let raw = &rest[..one.bytes];
                rest = &rest[one.bytes..];
                if self.is_told(node, *pipe, &one) {
                    bytes.extend_from_slice(raw);
                }
                if self.plant == Plant::SettledAgain
                    && let Ok(Reply::Settled(_)) = Reply::decode(&one)
                    && let Some(LastDelivery { pipe: to, consumer, queue, heads, body }) =
                        &self.lies.delivered
                    && to == pipe
                {
                    let again = Delivery { consumer: *consumer, queue: *queue, messages: heads };
                    frame::encode(bytes, 0, &again, &[body]);
                }
            }
        }
    }

    /// Remembers what it hears; says whether the client is to hear it.
    fn is_told(&mut self, node: usize, pipe: u64, one: &Frame<'_>) -> bool {
        match Reply::decode(one) {
            Ok(Reply::QueueShown(shown)) => {
                self.lies.told.retain(|(who, info)| *who != node || info.name != shown.info.name);
                self.lies.told.push((node, shown.info));
            }
            Ok(Reply::Delivery(delivery)) => {
                let heads: Vec<_> = delivery.heads.iter().map(|head| head.to_native()).collect();
                if self.plant == Plant::MessageLost && self.world.rng.one_in(16) {
                    let run = |head: &DeliveryHead| SettleRun {
                        sequence: head.sequence,
                        count: 1,
                        deliveries: head.deliveries,
                        priority: head.priority,
                        outcome: Outcome::Ack,
                    };
                    let items: Vec<SettleRun> = heads.iter().map(run).collect();
                    let mut forged = Vec::new();
                    let settle = Settle { consumer: delivery.consumer, items: &items };
                    frame::encode(&mut forged, FORGED, &settle, &[]);
                    self.send(pipe, 0, &forged);
                    return false;
                }
                let body = delivery.body.to_vec();
                let (consumer, queue) = (delivery.consumer, delivery.queue);
                self.lies.delivered = Some(LastDelivery { pipe, consumer, queue, heads, body });
            }
            Ok(Reply::Settled(_) | Reply::Refused(_)) if one.request == FORGED => return false,
            _ => {}
        }
        true
    }
}
