//! Somebody who means no good, or does not know better.

use ringmain_net::frame;
use ringmain_net::protocol::{MessageHead, Outcome, Publish, Settle, SettleRun, Subscribe, Unsubscribe};

use super::{Context, hello};

#[derive(Default, Debug)]
pub(super) struct Stranger {
    greets: bool,
}

impl Stranger {
    pub(super) fn connected(&mut self, context: &mut Context<'_>) {
        self.greets = context.rng.one_in(2);
        if self.greets {
            context.say(1, &hello());
        }
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) {
        let mut bytes = Vec::new();
        let number = context.rng.draw();
        match context.rng.below(9) {
            0 => {
                bytes.resize(context.rng.skewed(9_000) as usize, 0);
                context.rng.fill(&mut bytes);
            }
            1 => bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"),
            2 => bytes.extend_from_slice(&[0xFF; 24]),
            3 => {
                let item = SettleRun {
                    sequence: number >> 8,
                    count: number as u32,
                    deliveries: 1,
                    priority: 0,
                    outcome: Outcome::Ack,
                };
                let consumer = 1 << 18 | (number % 8) as u32;
                frame::encode(&mut bytes, 2, &Settle { consumer, items: &[item] }, &[]);
            }
            4 => {
                let message = MessageHead { payload_bytes: 4, ..MessageHead::default() };
                let (queue, session) = (number >> 4, number);
                let publish = Publish { queue, session, epoch: 1, sequence: 1, messages: &[message] };
                frame::encode(&mut bytes, 3, &publish, &[b"boo!"]);
            }
            5 => _ = frame::encode(&mut bytes, 4, &Subscribe { queue: number, credit: 9 }, &[]),
            6 => _ = frame::encode(&mut bytes, 5, &Unsubscribe { consumer: 1 << 18 }, &[]),
            7 => context.hangs_up = true,
            _ => _ = frame::encode(&mut bytes, 6, &hello(), &[]),
        }
        match context.rng.below(4) {
            0 if !bytes.is_empty() => {
                let at = context.rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << context.rng.below(8);
            }
            1 => bytes.truncate(context.rng.below(bytes.len() as u64 + 1) as usize),
            _ => {}
        }
        context.out.extend_from_slice(&bytes);
    }
}
