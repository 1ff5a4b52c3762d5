//! Several faults at once, in the order that hurts: chance alone would hardly ever bring them about.

use crate::cluster::{Event, MACHINES, Run};
use crate::world::{MILLISECOND, SECOND};

/// Whoever can elect a leader has done so after this time.
const ELECTED_NS: u64 = 800 * MILLISECOND;

impl Run {
    /// Whoever leads is cut off, and whoever elected it restarted, while somebody has not heard of that election: whoever
    /// stands for the same term now must not be elected.
    pub(super) fn depose(&mut self) -> Result<(), String> {
        let term = |run: &Self, node: usize, group: usize| run.state(node, group).map(|state| state.term);
        let found = (0..self.groups).find_map(|group| {
            let leads = |node: &usize| self.state(*node, group).is_some_and(|state| state.is_leader);
            let leader = self.members().find(leads)?;
            let elected = term(self, leader, group)?;
            let is_behind = |node| term(self, node, group).is_some_and(|other| other < elected);
            self.members().any(is_behind).then_some((group, leader, elected))
        });
        let Some((group, leader, elected)) = found else { return Ok(()) };
        let until = self.world.now() + 2 * SECOND;
        for peer in 0..MACHINES {
            (self.cuts[leader][peer], self.cuts[peer][leader]) = (until, until);
        }
        self.report.cuts += 1;
        self.world.note("deposed", &[leader as u64, group as u64, elected.0]);
        self.world.after(2 * SECOND, Event::Heal);
        let electors: Vec<usize> = self.members().collect();
        for node in electors {
            if node != leader && term(self, node, group) == Some(elected) {
                self.crash(node, false)?;
                self.world.after(MILLISECOND, Event::Boot(node, self.machines[node].life));
            }
        }
        Ok(())
    }

    fn leader_of(&self, group: usize) -> Option<usize> {
        self.members().find(|node| self.state(*node, group).is_some_and(|state| state.is_leader))
    }

    pub(in crate::cluster) fn leads_any(&self, node: usize) -> bool {
        (0..self.groups).any(|group| self.state(node, group).is_some_and(|state| state.is_leader))
    }

    /// A leader reaches no more followers than it needs for a majority. A little later all of these are gone, and the
    /// followers come back without it: what those remember is all there is of what was acknowledged meanwhile.
    pub(super) fn betray(&mut self) {
        let group = self.world.rng.below(self.groups as u64) as usize;
        let Some(leader) = self.leader_of(group) else { return };
        let mut others: Vec<usize> = self.members().filter(|node| *node != leader).collect();
        // Those who lead nothing first: they do nothing but follow.
        others.sort_by_key(|node| (self.leads_any(*node), *node));
        let delay = self.world.rng.between(20, 150) * MILLISECOND;
        let until = self.world.now() + delay;
        for far in others.drain(self.goal.len() / 2..) {
            (self.cuts[leader][far], self.cuts[far][leader]) = (until, until);
        }
        self.report.cuts += 1;
        self.world.note("betrayed", &[leader as u64, group as u64]);
        for node in others {
            let life = self.machines[node].life;
            self.world.after(delay, Event::Vanish { node, life, down: MILLISECOND });
        }
        let life = self.machines[leader].life;
        self.world.after(delay, Event::Vanish { node: leader, life, down: ELECTED_NS });
        self.world.after(delay, Event::Heal);
    }

    pub(in crate::cluster) fn vanish(&mut self, node: usize, life: u64, down: u64) -> Result<(), String> {
        if self.is_up(node, life) {
            self.crash(node, false)?;
            self.world.after(down, Event::Boot(node, self.machines[node].life));
        }
        Ok(())
    }

    /// The oldest members of a grown cluster, too few for a majority, are restarted apart from all others: should they go
    /// by what the cluster was once, they would take themselves for a majority.
    pub(super) fn split(&mut self) -> Result<(), String> {
        let few = self.goal.len().saturating_sub(1) / 2;
        if few < 2 || !self.is_goal_reached() {
            return Ok(());
        }
        let mut members: Vec<usize> = self.members().collect();
        members.sort_unstable();
        let until = self.world.now() + ELECTED_NS;
        let (apart, rest) = members.split_at(few);
        if self.world.now() < self.cuts[apart[0]][rest[0]] {
            return Ok(());
        }
        for (near, far) in apart.iter().flat_map(|near| rest.iter().map(move |far| (*near, *far))) {
            (self.cuts[near][far], self.cuts[far][near]) = (until, until);
        }
        self.report.cuts += 1;
        self.world.note("split", &[few as u64]);
        self.world.after(ELECTED_NS, Event::Heal);
        apart.iter().try_for_each(|node| self.vanish(*node, self.machines[*node].life, MILLISECOND))
    }
}
