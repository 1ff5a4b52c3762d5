//! What goes wrong, and what is asked of the group meanwhile.

use super::disk::Record;
use super::machine::Machine;
use super::world::{Event, TICK, World};
use crate::Replica;
use bytes::Bytes;

impl World {
    pub(super) fn on_fault(&mut self) {
        if self.is_healed {
            return;
        }
        let any = self.rng.below(self.machines.len() as u64) as usize;
        // What happens to a leader concerns everyone.
        let slot = self.rng.pick(&self.leaders()).filter(|_| self.rng.chance(300)).unwrap_or(any);
        match self.rng.below(24) {
            0..=3 => self.crash_somebody(slot),
            4 => self.isolate(slot),
            5 => self.cut_one_way(slot),
            6 | 7 => self.cut.clear(),
            8 => self.machines[slot].paused_until = self.now + self.rng.below(60 * TICK),
            9 => self.machines[slot].stalled_until = self.now + self.rng.below(40 * TICK),
            10 => self.act(slot, Replica::campaign),
            11..=13 => self.take_checkpoint(slot),
            14..=16 => self.hand_over(),
            17 => self.wipe(slot),
            _ => self.change_membership(),
        }
        let delay = 1 + self.rng.below(self.climate.fault_max);
        self.after(delay, Event::Fault);
    }

    /// Preferably one that is in the midst of a transfer.
    fn crash_somebody(&mut self, slot: usize) {
        let mut among: Vec<usize> = (0..self.machines.len()).collect();
        among.retain(|slot| self.machines[*slot].is_transferring());
        let is_sought = self.rng.chance(600);
        let slot = self.rng.pick(&among).filter(|_| is_sought).unwrap_or(slot);
        self.crash(slot);
        let delay = 1 + self.rng.below(self.climate.outage_max);
        self.after(delay, Event::Restart(slot));
    }

    fn crash(&mut self, slot: usize) {
        let machine = &mut self.machines[slot];
        if machine.replica.is_some() {
            let kept = self.rng.below(machine.disk.pending_count() as u64 + 1) as usize;
            machine.crash(kept, &mut self.oracle);
        }
    }

    fn isolate(&mut self, slot: usize) {
        let id = self.machines[slot].id;
        for other in self.machines.iter().map(|machine| machine.id).filter(|other| *other != id) {
            self.cut.insert((id, other));
            if self.rng.chance(700) {
                self.cut.insert((other, id));
            }
        }
    }

    fn cut_one_way(&mut self, slot: usize) {
        let other = self.rng.below(self.machines.len() as u64) as usize;
        self.cut.insert((self.machines[slot].id, self.machines[other].id));
    }

    /// The state machine's own: it shortens what a restart reads.
    fn take_checkpoint(&mut self, slot: usize) {
        self.drive(slot);
        let machine = &mut self.machines[slot];
        let Some(replica) = &machine.replica else { return };
        let hard_state = self.plant.recorded(replica.hard_state());
        let (image, replay_from) = (machine.image(), machine.replay_from());
        let sequence = machine.disk.append(Record::Checkpoint { hard_state, image, replay_from });
        self.begin_write(slot, sequence);
    }

    fn hand_over(&mut self) {
        let ids: Vec<u64> = self.machines.iter().map(|machine| machine.id).collect();
        let picked = self.rng.pick(&ids).expect("there are machines");
        // As the broker does, now and then: leadership returns to where it belongs.
        let to = self.climate.preferred.filter(|_| self.rng.chance(500)).unwrap_or(picked);
        for slot in self.leaders() {
            let mut is_begun = false;
            self.act(slot, |replica| is_begun = replica.transfer_leadership(to).is_ok());
            self.counts.handovers += u64::from(is_begun);
        }
    }

    /// The disk is lost. Whoever comes back is somebody else, and may take the place of who was lost.
    ///
    /// Nobody can be spared, not even of those that belong to the group no more, before the voters that are left know who
    /// they are. The engine lets a membership count when it is applied, so that one who has not heard of its commit goes on
    /// asking for a majority of the one before:
    /// 1. the leader removes 3, commits that, and loses its disk before it has told anybody;
    /// 2. the others still need a vote of 3, who is not there or has the longer log and must not stand.
    fn wipe(&mut self, slot: usize) {
        let lost = self.machines[slot].id;
        let (config, since) = (self.oracle.newest_config(), self.oracle.newest_config_index());
        let is_there = |id: u64| id != lost && !self.oracle.is_gone(id);
        let mut voters = self.machines.iter().filter(|one| one.id != lost && config.voters.contains(&one.id));
        let is_bearable = config.is_majority(is_there) && voters.all(|one| since <= one.disk.commit());
        if !self.climate.wipes || !is_bearable || !self.oracle.is_membership_settled() {
            return;
        }
        self.crash(slot);
        let id = self.next_id();
        let life = self.machines[slot].life + 1;
        let gone = std::mem::replace(&mut self.machines[slot], Machine { life, ..Machine::new(id) });
        self.oracle.bury(lost, gone.disk);
        self.counts.wipes += 1;
        let delay = 1 + self.rng.below(self.climate.outage_max);
        self.after(delay, Event::Restart(slot));
    }

    fn change_membership(&mut self) {
        if !self.climate.changes_membership {
            return;
        }
        for slot in self.leaders() {
            let Some((voters, learners)) = self.plan(slot) else { continue };
            self.act(slot, |replica| _ = replica.propose_membership(&voters, &learners, Bytes::new()));
        }
    }

    /// Voters and learners that this leader shall have next.
    fn plan(&mut self, slot: usize) -> Option<(Vec<u64>, Vec<u64>)> {
        let machine = &self.machines[slot];
        let (leader, members) = (machine.id, machine.replica.as_ref()?.members());
        let (mut voters, mut learners) = (members.voters, members.learners);
        learners.retain(|id| !self.oracle.is_gone(*id));
        let is_new = |id: &u64| !voters.contains(id) && !learners.contains(id);
        let strangers: Vec<u64> = self.machines.iter().map(|one| one.id).filter(is_new).collect();
        let removable: Vec<u64> = voters.iter().copied().filter(|id| *id != leader).collect();
        let lost = voters.iter().copied().find(|id| self.oracle.is_gone(*id));
        let out = lost.or(self.rng.pick(&removable));
        let is_enough = voters.len() > self.climate.voters_min;
        match self.rng.below(8) {
            0 | 1 => learners.push(self.rng.pick(&strangers)?),
            2 => {
                let promoted = self.rng.pick(&learners)?;
                voters.push(promoted);
                learners.retain(|id| *id != promoted);
            }
            3 if is_enough => voters.retain(|id| Some(*id) != out),
            // A voter learns again.
            4 if is_enough => {
                voters.retain(|id| Some(*id) != out);
                learners.extend(out.filter(|id| !self.oracle.is_gone(*id)));
            }
            5 => learners.retain(|_| self.rng.chance(500)),
            // One comes, one goes.
            _ => {
                let promoted = self.rng.pick(&learners).or(self.rng.pick(&strangers))?;
                voters.retain(|id| Some(*id) != out);
                voters.push(promoted);
                learners.retain(|id| *id != promoted);
            }
        }
        let there = voters.iter().filter(|id| !self.oracle.is_gone(**id)).count();
        let is_allowed = there > voters.len() / 2 && voters.len() <= self.climate.voters_max;
        is_allowed.then_some((voters, learners))
    }
}
