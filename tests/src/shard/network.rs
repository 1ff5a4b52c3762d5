//! Connections: bytes take their time, arrive cut anywhere, and may never arrive.

use ringmain_core::connection::{ConnectionId, OUTGOING_BYTES_MAX};
use ringmain_core::outgoing::Outgoing;
use ringmain_core::shard::{Input, Shard};
use ringmain_net::frame::{self, FRAME_BYTES_MAX};
use ringmain_net::protocol::{Hello, OpenSession, PROTOCOL, Reply};

use super::workload::{Client, Context};
use super::{Event, Plant, Run};
use crate::world::{MICROSECOND, MILLISECOND};

#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: usize,
    /// What the shard leaves is taken at once and heard by the checker at once; only the kernel is slow. Otherwise
    /// nothing is taken while the kernel is busy, as with a socket whose buffer is full.
    is_prompt: bool,
    /// How long the kernel keeps bytes of this connection, at most.
    drag: u64,
    /// Sent by the client, not yet arrived.
    uplink: Vec<u8>,
    /// Arrived and not consumed.
    received: Vec<u8>,
    is_paused: bool,
    is_busy: bool,
    /// Taken and not reported as sent.
    unsent: usize,
    /// On their way to the client.
    pub(super) downlink: Vec<u8>,
    /// At the client, not yet a whole frame.
    at_client: Vec<u8>,
    is_arriving: bool,
    is_delivering: bool,
}

impl Run {
    pub(super) fn connect(&mut self, client: usize) -> Result<(), String> {
        let connection = self.next_connection;
        self.next_connection += 1;
        let rng = &mut self.world.rng;
        let is_prompt = self.clients[client].must_be_prompt() || rng.one_in(2);
        let drag = if rng.one_in(4) && !self.is_calm { 30 * MILLISECOND } else { 100 * MICROSECOND };
        let link = Link {
            client,
            is_prompt,
            drag,
            uplink: Vec::new(),
            received: Vec::new(),
            is_paused: false,
            is_busy: false,
            unsent: 0,
            downlink: Vec::new(),
            at_client: Vec::new(),
            is_arriving: false,
            is_delivering: false,
        };
        self.links.insert(connection, link);
        self.world.note("connect", &[client as u64, connection]);
        self.tap.opened(connection, !self.clients[client].is_hostile(), is_prompt);
        self.clients[client].connection = Some(connection);
        self.input(Input::Opened { connection: ConnectionId(connection) })?;
        self.converse(client, |client, context| client.connected(context))
    }

    /// Lets a client speak.
    pub(super) fn converse(
        &mut self,
        number: usize,
        speak: impl FnOnce(&mut Client, &mut Context<'_>),
    ) -> Result<(), String> {
        let Some(connection) = self.clients[number].connection else { return Ok(()) };
        let mut out = Vec::new();
        let mut context = Context {
            now: self.world.now(),
            rng: &mut self.world.rng,
            out: &mut out,
            next_message: &mut self.next_message,
            is_calm: self.is_calm,
            hangs_up: false,
        };
        speak(&mut self.clients[number], &mut context);
        let hangs_up = context.hangs_up;
        if let Some(link) = self.links.get_mut(&connection) {
            link.uplink.extend_from_slice(&out);
            self.plan_arrival(connection);
        }
        if hangs_up { self.gone(connection) } else { Ok(()) }
    }

    fn plan_arrival(&mut self, connection: u64) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        if !link.uplink.is_empty() && !link.is_arriving {
            link.is_arriving = true;
            let delay = self.world.rng.skewed(300) * MICROSECOND;
            self.world.after(delay, Event::Arrive(connection));
        }
    }

    pub(super) fn arrive(&mut self, connection: u64) -> Result<(), String> {
        let rng = &mut self.world.rng;
        let Some(link) = self.links.get_mut(&connection) else { return Ok(()) };
        let bytes = part(rng, link.uplink.len());
        link.received.extend(link.uplink.drain(..bytes));
        link.is_arriving = false;
        self.plan_arrival(connection);
        self.offer(connection)
    }

    /// Offers the shard what arrived, until it has consumed all it can or wants to be asked again.
    fn offer(&mut self, connection: u64) -> Result<(), String> {
        let Some(link) = self.links.get(&connection) else { return Ok(()) };
        if link.is_paused || link.received.is_empty() {
            return Ok(());
        }
        // What is counted is counted at one moment: everything said before must have been heard.
        let is_exact = self.clients[link.client].wants_exactness();
        if is_exact {
            self.turn()?;
        }
        let Some(link) = self.links.get_mut(&connection) else { return Ok(()) };
        let mut bytes = std::mem::take(&mut link.received);
        if self.plant == Plant::NackSwallowed {
            self.swallow(connection, &mut bytes)?;
        }
        let life = self.life;
        let id = ConnectionId(connection);
        let (consumed, is_paused) = self.input(Input::Received { connection: id, bytes: &bytes })?;
        if life != self.life {
            return Ok(());
        }
        self.tap.consumed(connection, &bytes[..consumed])?;
        if self.plant == Plant::SessionForgotten {
            self.haunt(&bytes[..consumed])?;
        }
        if let Some(link) = self.links.get_mut(&connection) {
            bytes.drain(..consumed);
            bytes.append(&mut link.received);
            (link.received, link.is_paused) = (bytes, is_paused);
            self.report.paused += u64::from(is_paused);
        }
        if is_exact { self.turn() } else { Ok(()) }
    }

    pub(super) fn resume(&mut self, connection: ConnectionId) {
        if let Some(link) = self.links.get_mut(&connection.0) {
            link.is_paused = false;
            if !link.is_arriving {
                link.is_arriving = true;
                self.world.after(MICROSECOND, Event::Arrive(connection.0));
            }
        }
    }

    /// The shard has something for this connection.
    pub(super) fn take(&mut self, connection: u64) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&connection) else {
            if self.ghost == Some(connection) {
                self.take_from_ghost(connection);
            }
            return Ok(());
        };
        if link.is_busy && !link.is_prompt {
            return Ok(());
        }
        let bytes = taken(&mut self.shard, connection);
        if bytes.is_empty() {
            return Ok(());
        }
        link.is_busy = true;
        self.report.choked += u64::from(link.unsent < OUTGOING_BYTES_MAX);
        link.unsent += bytes.len();
        self.report.choked -= u64::from(link.unsent < OUTGOING_BYTES_MAX);
        let drag = 1 + self.world.rng.below(link.drag);
        self.world.after(drag, Event::Sent { connection, bytes: bytes.len() });
        self.flushed.push((connection, bytes));
        Ok(())
    }

    /// Everything that one turn said is heard together: first the answers, which were all given before the turn looked
    /// for messages to deliver.
    pub(super) fn hear_flushed(&mut self) -> Result<(), String> {
        let mut flushed = std::mem::take(&mut self.flushed);
        if flushed.is_empty() {
            return Ok(());
        }
        let now = self.now();
        // Who counts does so before the turn; the others' answers may have come in it.
        flushed.sort_by_key(|(connection, _)| {
            let link = self.links.get(connection);
            !link.is_some_and(|link| self.clients[link.client].wants_exactness())
        });
        if self.plant == Plant::CountFalsified {
            flushed.iter_mut().for_each(|(_, bytes)| Self::falsify(bytes));
        }
        for (connection, bytes) in &flushed {
            self.tap.answered(*connection, bytes)?;
        }
        self.tap.checker.turned(now.0);
        if self.plant == Plant::LeasedTwice {
            self.lend_twice(&mut flushed);
        }
        self.tap.delivered(&flushed, now.0)?;
        for (connection, bytes) in flushed {
            let Some(link) = self.links.get_mut(&connection) else { continue };
            self.world.note("answer", &[connection, u64::from(crc32c::crc32c(&bytes))]);
            link.downlink.extend_from_slice(&bytes);
            self.plan_delivery(connection);
        }
        Ok(())
    }

    pub(super) fn sent(&mut self, connection: u64, bytes: usize) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&connection) else { return Ok(()) };
        link.is_busy = false;
        link.unsent -= bytes;
        let is_prompt = link.is_prompt;
        self.input(Input::Sent { connection: ConnectionId(connection), bytes })?;
        if !is_prompt {
            self.take(connection)?;
            self.hear_flushed()?;
        }
        Ok(())
    }

    pub(super) fn plan_delivery(&mut self, connection: u64) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        if !link.downlink.is_empty() && !link.is_delivering {
            link.is_delivering = true;
            let delay = self.world.rng.skewed(300) * MICROSECOND;
            self.world.after(delay, Event::Deliver(connection));
        }
    }

    /// Bytes reach the client.
    pub(super) fn deliver(&mut self, connection: u64) -> Result<(), String> {
        let rng = &mut self.world.rng;
        let Some(link) = self.links.get_mut(&connection) else { return Ok(()) };
        let bytes = part(rng, link.downlink.len());
        link.at_client.extend(link.downlink.drain(..bytes));
        link.is_delivering = false;
        let client = link.client;
        let at_client = std::mem::take(&mut link.at_client);
        self.plan_delivery(connection);
        let mut at = 0;
        while let Ok(Some(frame)) = frame::split(&at_client[at..], FRAME_BYTES_MAX) {
            at += frame.bytes;
            let reply = Reply::decode(&frame).map_err(|why| format!("honest: no client can read {why}"))?;
            self.converse(client, |client, context| client.heard(frame.request, &reply, context))?;
            if self.clients[client].connection != Some(connection) {
                return Ok(());
            }
        }
        if let Some(link) = self.links.get_mut(&connection) {
            link.at_client = at_client[at..].to_vec();
        }
        Ok(())
    }

    /// The shard wants this connection to end once the client has heard why.
    pub(super) fn close(&mut self, connection: u64) {
        let delay = self.world.rng.skewed(2_000) * MICROSECOND;
        self.world.after(delay, Event::Gone(connection));
    }

    pub(super) fn gone(&mut self, connection: u64) -> Result<(), String> {
        if !self.links.contains_key(&connection) {
            return Ok(());
        }
        self.world.note("gone", &[connection]);
        self.forget(connection)?;
        self.input(Input::Closed { connection: ConnectionId(connection) }).map(|_| ())
    }

    /// Both ends and everything between them.
    pub(super) fn forget(&mut self, connection: u64) -> Result<(), String> {
        if let Some(link) = self.links.remove(&connection) {
            let client = &mut self.clients[link.client];
            if client.connection == Some(connection) {
                client.connection = None;
                client.disconnected();
            }
        }
        self.tap.closed(connection)
    }
}

/// The plant that stores twice has a connection of its own, which nobody listens to.
impl Run {
    pub(super) fn raise_ghost(&mut self) -> Result<(), String> {
        let connection = self.next_connection;
        self.next_connection += 1;
        (self.ghost, self.ghost_session) = (Some(connection), None);
        self.input(Input::Opened { connection: ConnectionId(connection) })?;
        let mut bytes = Vec::new();
        let hello = Hello { protocol: PROTOCOL, cluster: 0, agent: "ghost" };
        frame::encode(&mut bytes, 1, &hello, &[]);
        frame::encode(&mut bytes, 2, &OpenSession { queue: 0, producer: "" }, &[]);
        self.ghost_says(connection, &bytes)
    }

    pub(super) fn ghost_says(&mut self, connection: u64, bytes: &[u8]) -> Result<(), String> {
        self.input(Input::Received { connection: ConnectionId(connection), bytes }).map(|_| ())
    }

    fn take_from_ghost(&mut self, connection: u64) {
        let bytes = taken(&mut self.shard, connection);
        let mut rest = &bytes[..];
        while let Ok(Some(frame)) = frame::split(rest, FRAME_BYTES_MAX) {
            if let Ok(Reply::SessionOpened(opened)) = Reply::decode(&frame) {
                self.ghost_session = Some((opened.session, 0));
            }
            rest = &rest[frame.bytes..];
        }
    }
}

/// What the shard has for this connection.
fn taken(shard: &mut Shard, connection: u64) -> Vec<u8> {
    let mut outgoing = Outgoing::default();
    shard.take_outgoing(ConnectionId(connection), &mut outgoing);
    outgoing.pieces().collect::<Vec<_>>().concat()
}

/// Often all of it, sometimes any part.
fn part(rng: &mut crate::rng::Rng, bytes: usize) -> usize {
    match rng.below(4) {
        0 if bytes > 1 => rng.skewed(bytes as u64) as usize,
        1 if bytes > 1 => rng.between(1, bytes as u64) as usize,
        _ => bytes,
    }
}
