//! How a shard's groups come to their transfers: when one begins, which frame is whose, and what ends it.

use super::{Route, Source, Supply, Target};
use crate::connection::ConnectionId;
use crate::engine::EngineOptions;
use crate::group::{Group, Turn};
use crate::member::{self, node_of};
use crate::pace::Help;
use crate::readback::Reader;
use crate::shard::{Output, Shard};
use crate::time::Time;
use ringmain_net::peer::{Lane, PeerCode, PeerFrame};
use ringmain_wal::GroupId;

impl Shard {
    /// A frame of a transfer: what a source says comes over its connection for that, what a target says among the messages.
    /// False: something else, in the wrong place, or from somebody else than it says.
    pub(crate) fn on_transfer(
        &mut self,
        now: Time,
        (id, node): (ConnectionId, u32),
        lane: Lane,
        said: &PeerFrame<'_>,
    ) -> bool {
        let (cluster, group, from, to) = match (lane, said) {
            (Lane::Bulk, PeerFrame::TransferBegin { begin, .. }) => {
                (begin.cluster, begin.group, begin.from, begin.to)
            }
            (Lane::Bulk, PeerFrame::TransferPart { part, .. }) => {
                (part.cluster, part.group, part.from, part.to)
            }
            (Lane::Bulk, PeerFrame::TransferPayloads { payloads, .. }) => {
                (payloads.cluster, payloads.group, payloads.from, payloads.to)
            }
            (Lane::Messages, PeerFrame::TransferAck(ack)) => (ack.cluster, ack.group, ack.from, ack.to),
            (Lane::Messages, PeerFrame::TransferStaged(staged)) => {
                (staged.cluster, staged.group, staged.from, staged.to)
            }
            (Lane::Bulk | Lane::Messages, PeerFrame::TransferAborted(aborted)) => {
                (aborted.cluster, aborted.group, aborted.from, aborted.to)
            }
            _ => return false,
        };
        let is_ours = cluster == self.options.identity.cluster && to == self.options.replica();
        let is_theirs = self.peers.up(node).is_some_and(|up| up.replica == from);
        let ordinal = self.options.ordinal(GroupId(group)).filter(|_| is_ours && is_theirs);
        let Some(ordinal) = ordinal else { return false };
        let options = EngineOptions {
            group: GroupId(group),
            ordinal: ordinal as u32,
            messages_max: self.options.limits.messages_max,
        };
        let (group, mut turn) = self.group_turn(now, ordinal);
        group.on_transfer((from, id), said, options, &mut turn);
        true
    }

    /// Looked at with every tick: who needs a checkpoint, and which transfer has come to nothing.
    pub(crate) fn tend_transfers(&mut self, now: Time) {
        for ordinal in 0..self.groups.len() {
            let (group, mut turn) = self.group_turn(now, ordinal);
            group.tend_transfers(&mut turn);
        }
        let is_needed = |group: &Group| group.source.as_ref().is_some_and(|source| source.needs_log());
        if self.groups.iter().any(is_needed) {
            self.log.freeze();
        } else {
            self.log.thaw();
        }
    }

    /// A turn's share of every transfer.
    pub(crate) fn advance_transfers(&mut self, now: Time, output: &mut Output) {
        let is_busy = self.groups.iter().any(Group::is_owing);
        for ordinal in 0..self.groups.len() {
            let (group, mut turn) = self.group_turn(now, ordinal);
            let hard_state = group.hard_state();
            if let Some(target) = &mut group.target {
                let outcome = target.advance(hard_state, &mut turn);
                output.is_unfinished |= target.is_busy();
                if let Err(reason) = outcome
                    && let Some(target) = group.target.take()
                {
                    target.abandon(&mut turn, Some(reason));
                }
            }
            let Some(source) = &mut group.source else { continue };
            let reader = Reader::Transfer(ordinal);
            let help = Help::Checkpoint(ordinal);
            let mut supply = Supply { reader, help, reads: &mut output.reads, is_busy };
            match source.advance(&mut turn, &mut supply) {
                Ok(has_more) => output.is_unfinished |= has_more,
                Err(failure) => _ = output.failure.get_or_insert(failure),
            }
        }
    }
}

impl Group {
    fn on_transfer(
        &mut self,
        (from, id): (u64, ConnectionId),
        said: &PeerFrame<'_>,
        options: EngineOptions,
        turn: &mut Turn<'_>,
    ) {
        let hard_state = self.hard_state();
        let outcome = match said {
            PeerFrame::TransferBegin { begin, membership } => {
                // Transfers are numbered by terms: this is a leader of before, and a later one is at it.
                if self.target.as_ref().is_some_and(|target| begin.transfer < target.transfer()) {
                    return;
                }
                if let Some(before) = self.target.take() {
                    before.abandon(turn, None);
                }
                // Whoever leads needs no other replica's state.
                if !self.is_leader() {
                    self.target = Target::new(begin, membership, options, (id, turn.now)).map(Box::new);
                }
                return;
            }
            PeerFrame::TransferPart { part, bytes } => match self.target_of(from, part.transfer) {
                Some(target) => target.on_part(part, bytes, turn),
                None => return,
            },
            PeerFrame::TransferPayloads { payloads, bytes } => {
                match self.target_of(from, payloads.transfer) {
                    Some(target) => target.on_payloads(payloads, bytes, hard_state, turn),
                    None => return,
                }
            }
            PeerFrame::TransferAborted(aborted) => {
                if self.target_of(from, aborted.transfer).is_some()
                    && let Some(target) = self.target.take()
                {
                    target.abandon(turn, None);
                }
                if self.source_to(from, aborted.transfer).is_some() {
                    self.end_source();
                }
                return;
            }
            PeerFrame::TransferAck(ack) => {
                if let Some(source) = self.source_to(from, ack.transfer) {
                    source.on_ack(ack, turn.now);
                }
                return;
            }
            PeerFrame::TransferStaged(staged) => {
                if let Some(source) = self.source_to(from, staged.transfer) {
                    let offer = source.on_staged(turn.now);
                    // Refused when the log has gone on without the entries behind it: then it begins again.
                    if !self.replica.offer_checkpoint(from, &offer) {
                        self.end_source();
                    }
                }
                return;
            }
            _ => return,
        };
        if let Err(reason) = outcome
            && let Some(target) = self.target.take()
        {
            target.abandon(turn, Some(reason));
        }
    }

    fn target_of(&mut self, from: u64, transfer: u64) -> Option<&mut Target> {
        self.target.as_deref_mut().filter(|target| target.is_of(from, transfer))
    }

    fn source_to(&mut self, to: u64, transfer: u64) -> Option<&mut Source> {
        self.source.as_deref_mut().filter(|source| source.to() == to && source.transfer() == transfer)
    }

    fn end_source(&mut self) {
        if let Some(source) = self.source.take() {
            self.replica.withdraw_checkpoint(source.to());
            self.replica.hold_log(None);
            self.prefer_log(source.to());
        }
    }

    fn tend_transfers(&mut self, turn: &mut Turn<'_>) {
        let reason = match &self.target {
            Some(target) if target.is_cut_off(turn.peers) => Some("the connection it came over was lost"),
            Some(target) if target.is_overdue(turn.now) => Some("nothing came for too long"),
            Some(_) if self.is_leader() => Some("this replica leads"),
            Some(_) | None => None,
        };
        if let Some(reason) = reason
            && let Some(target) = self.target.take()
        {
            target.abandon(turn, Some((PeerCode::Busy, reason)));
        }
        if let Some(source) = &self.source {
            let to = source.to();
            let is_reached = turn.peers.up(node_of(to)).is_some();
            let has_it = self.replica.progress().any(|peer| peer.id == to && source.index() <= peer.matched);
            let is_overdue = source.is_overdue(turn.now);
            let is_lost = !self.is_leader() || !is_reached || is_overdue || source.is_cut_off(turn.peers);
            if !has_it && !is_lost {
                turn.peers.want_bulk(to, turn.now);
                return;
            }
            if !has_it {
                source.abort(turn, "the transfer was given up");
            }
            if is_overdue {
                turn.peers.give_up_bulk(to, turn.now, turn.outbox);
            }
            self.end_source();
            return;
        }
        // A new leader may need the one that lacks entries for its majority, so it does not wait until it serves.
        if !self.is_leader() {
            return;
        }
        let wanted = self.replica.checkpoint_wanted().or(self.checkpoint_preferred());
        let Some(to) = wanted.filter(|to| turn.peers.up(node_of(*to)).is_some()) else { return };
        let image = self.engine.checkpoint();
        let conf_state = self.replica.conf_state();
        let membership = member::encode_membership(&conf_state, &self.book);
        self.transfers += 1;
        // Rises within a term, and terms rise: no two transfers of a group are called alike.
        let transfer = self.term().0 << 16 | self.transfers & 0xffff;
        let route = Route { cluster: turn.cluster, group: self.id, from: self.replica.id(), to, transfer };
        self.replica.hold_log(Some(image.index()));
        turn.peers.want_bulk(to, turn.now);
        self.source = Some(Box::new(Source::new(route, image, (conf_state, membership), turn.now)));
    }
}
