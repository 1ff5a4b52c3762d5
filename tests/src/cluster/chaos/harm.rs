//! What takes something from the disks, and the rule it obeys: no more than a minority of the members has lost anything at
//! any time. Before a disk is harmed every group has all of its members, and until whoever has lost something was found
//! sound or is replaced in every group, no other one is harmed.
//!
//! A node whose disk has lost the end of its log can often not know it: nothing on the disk says that something was there,
//! and it would elect a leader that lacks it as well. No order of writing helps against that, only another disk. So it
//! counts as lost with the rest: somebody has seen the disk fail, and the node comes back as another one.

use super::Fault;
use crate::cluster::machine::State;
use crate::cluster::{MACHINES, Run, member};
use crate::disk::Faults;
use crate::world::MILLISECOND;

impl Run {
    /// All members are there and know each other, so a minority of them may be lost.
    pub(super) fn may_lose(&self) -> bool {
        !self.is_fragile && self.goal.len() >= 3 && self.is_goal_reached()
    }

    /// The disk of a member is lost, rots or lies from now on. Of five, often two disks are lost at once.
    pub(super) fn harm(&mut self, fault: Fault) -> Result<(), String> {
        assert!(self.may_lose());
        let members: Vec<usize> = self.members().collect();
        let (node, other) = (*self.world.rng.pick(&members), *self.world.rng.pick(&members));
        if members.len() >= 5 && other != node && self.world.rng.one_in(2) {
            self.report.pairs += 1;
            self.replace(node)?;
            return if self.world.rng.one_in(2) { self.replace(other) } else { self.flip(other) };
        }
        match fault {
            Fault::Rot => self.flip(node),
            Fault::Lie => {
                self.begin_lying(node);
                Ok(())
            }
            _ => self.replace(node),
        }
    }

    /// What comes back with an empty disk is somebody else, who has to be made a member.
    pub(in crate::cluster) fn replace(&mut self, node: usize) -> Result<(), String> {
        self.is_fragile = true;
        self.wipe(node)?;
        // A directory that begins empty makes itself known later.
        if self.machines[node].directory.as_ref().is_some_and(|directory| !directory.is_settled()) {
            return Ok(());
        }
        let incarnation = self.machines[node].incarnation;
        for known in &mut self.goal {
            if known.node as usize == node + 1 {
                *known = member(node, incarnation);
            }
        }
        Ok(())
    }

    /// Bits change where they were durable. Nobody notices before the machine is restarted, or reads them.
    fn flip(&mut self, node: usize) -> Result<(), String> {
        self.is_fragile = true;
        self.machines[node].is_suspect = true;
        for _ in 0..self.world.rng.between(1, 8) {
            if let Some((place, offset)) = self.machines[node].disk.rot(&mut self.world.rng) {
                self.world.note("rot", &[node as u64, place.number(), offset as u64]);
            }
        }
        if self.machines[node].shard.is_some() && self.world.rng.one_in(2) {
            self.crash(node, false)?;
            self.boot(node)?;
        }
        Ok(())
    }

    /// From now on the disk of a member reports as done what is not there, is elsewhere, or is not what was written.
    fn begin_lying(&mut self, node: usize) {
        self.is_fragile = true;
        self.machines[node].is_suspect = true;
        let rng = &mut self.world.rng;
        let mut drawn = || if rng.one_in(2) { 0 } else { rng.skewed(300_000) };
        let (phantom, misdirected, flipped) = (drawn(), drawn(), drawn());
        let faults = self.machines[node].disk.faults;
        self.machines[node].disk.faults = Faults { phantom, misdirected, flipped, ..faults };
        self.report.lies += 1;
        self.world.note("lies", &[node as u64, phantom, misdirected, flipped]);
    }

    /// Whoever looks after the machines restarts one whose disk is doubtful, and learns what is on it; one whose disk is
    /// rotten, or that was removed and is wanted no more, gets a new disk.
    pub(super) fn look_after_disks(&mut self) -> Result<(), String> {
        for node in 0..MACHINES {
            let machine = &self.machines[node];
            match machine.state {
                State::Up if machine.is_suspect => return self.vanish(node, machine.life, MILLISECOND),
                State::Rotten => return self.replace(node),
                State::Removed if !self.is_member(node) => return self.wipe(node),
                State::Up | State::Forming | State::Down | State::Removed => {}
            }
        }
        Ok(())
    }
}
