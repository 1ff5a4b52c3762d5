//! Checkpoints on their way: the bytes travel beside the engine, which is told when they are durable at the follower.

use super::disk::Record;
use super::machine::{Source, Target};
use super::world::{Event, TICK, World};
use crate::{Index, Offer, Term};

/// Neither side waits longer for the other.
const SILENCE_MAX: u64 = 40 * TICK;

impl World {
    /// With every tick: who needs a checkpoint, and which transfer has come to nothing.
    pub(super) fn tend_transfers(&mut self, slot: usize) {
        let now = self.now;
        let machine = &mut self.machines[slot];
        let Some(replica) = machine.replica.as_ref() else { return };
        let is_leader = replica.is_leader();
        if machine.target.as_ref().is_some_and(|target| is_leader || target.heard + SILENCE_MAX <= now) {
            machine.target = None;
        }
        if let Some(source) = &machine.source {
            let has_it =
                replica.progress().any(|peer| peer.id == source.to && source.image.index <= peer.matched.0);
            if has_it || !is_leader || source.heard + SILENCE_MAX <= now {
                machine.end_source();
            }
            return;
        }
        if let Some(to) = replica.checkpoint_wanted() {
            self.begin_transfer(slot, to);
        }
    }

    fn begin_transfer(&mut self, slot: usize, to: u64) {
        self.drive(slot);
        let machine = &mut self.machines[slot];
        if !machine.is_leader() {
            return;
        }
        let (image, from) = (machine.image(), machine.id);
        machine.transfers += 1;
        let replica = machine.replica.as_mut().expect("a leader");
        let transfer = replica.term().0 << 16 | machine.transfers;
        replica.hold_log(Some(Index(image.index)));
        machine.source = Some(Source { to, transfer, image: image.clone(), heard: self.now });
        self.counts.transfers += 1;
        self.post((from, to), Event::Stage { from, to, transfer, image });
    }

    /// The follower has received all of it, and writes it down.
    pub(super) fn on_stage(&mut self, event: Event) {
        let Event::Stage { from, to, transfer, image } = event else { return };
        let Some(slot) = self.slot(to).filter(|slot| self.machines[*slot].replica.is_some()) else { return };
        self.drive(slot);
        let machine = &mut self.machines[slot];
        if machine.is_leader() {
            return;
        }
        let hard_state = machine.replica.as_ref().expect("a process that runs").hard_state();
        let sequence = machine.disk.append(Record::Staged { hard_state, transfer, image: image.clone() });
        machine.target = Some(Target { from, transfer, image, sequence, is_staged: false, heard: self.now });
        self.begin_write(slot, sequence);
    }

    /// The disk has got further: perhaps what was to be staged is there now.
    pub(super) fn advance_target(&mut self, slot: usize, durable_upto: u64) {
        let machine = &mut self.machines[slot];
        let id = machine.id;
        let Some(target) = &mut machine.target else { return };
        if !target.is_staged && target.sequence <= durable_upto {
            target.is_staged = true;
            let (to, transfer) = (target.from, target.transfer);
            self.post((id, to), Event::Staged { from: id, to, transfer });
        }
    }

    pub(super) fn on_staged(&mut self, (from, to): (u64, u64), transfer: u64) {
        let Some(slot) = self.slot(to) else { return };
        let machine = &mut self.machines[slot];
        let Some(source) = &mut machine.source else { return };
        if (source.to, source.transfer) != (from, transfer) {
            return;
        }
        source.heard = self.now;
        let offer = Offer {
            transfer,
            index: Index(source.image.index),
            term: Term(source.image.term),
            conf_state: source.image.conf_state.clone(),
        };
        let replica = machine.replica.as_mut().expect("whoever sends a state runs");
        if !replica.offer_checkpoint(from, &offer) {
            machine.end_source();
        }
        self.drive(slot);
    }
}
