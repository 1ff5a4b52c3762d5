//! What nobody asked for. Each seed has its own weather: some of what can happen never does, and some does often.
//!
//! Nothing here takes more from the disks than a minority of them: before a disk is wiped or rots, every group has all of
//! its members, and until whoever was lost is replaced in every group, nothing else is lost. That a machine crashes, stands
//! still or is cut off takes nothing, however many do.

use super::machine::State;
use super::{Event, MACHINES, Plant, Run, member};
use crate::disk::Faults;
use crate::rng::Rng;
use crate::world::{MICROSECOND, MILLISECOND, SECOND};

pub(super) struct Weather {
    /// How likely each is, against the others.
    crash: u64,
    blink: u64,
    cut: u64,
    pause: u64,
    slow: u64,
    stuck: u64,
    reset: u64,
    corrupt: u64,
    replay: u64,
    jump: u64,
    wipe: u64,
    rot: u64,
    members: u64,
    full: u64,
    depose: u64,
    nothing: u64,
    pub(super) replays: bool,
    pub(super) latency_us: u64,
}

#[derive(Clone, Copy)]
enum Fault {
    Crash,
    Blink,
    Cut,
    Pause,
    Slow,
    Stuck,
    Reset,
    Corrupt,
    Replay,
    Jump,
    Wipe,
    Rot,
    Members,
    Full,
    Depose,
    Nothing,
}

impl Weather {
    pub(super) fn draw(plant: Plant, rng: &mut Rng) -> Self {
        let mut some = |most: u64| if rng.one_in(3) { 0 } else { rng.skewed(most) };
        let mut weather = Self {
            crash: some(12),
            blink: some(8),
            cut: some(16),
            pause: some(8),
            slow: some(8),
            stuck: some(2),
            reset: some(8),
            corrupt: some(8),
            replay: some(8),
            jump: some(4),
            wipe: some(20),
            rot: some(20),
            members: some(20),
            full: some(3),
            depose: some(6),
            nothing: some(40),
            replays: false,
            latency_us: 0,
        };
        weather.replays = weather.replay > 0;
        weather.latency_us = if rng.one_in(4) { rng.between(300, 20_000) } else { 200 };
        match plant {
            // Two that stand for election and do not hear each other, and a third that is asked by both.
            Plant::VoteForgotten => {
                let nothing = Self { nothing: 0, latency_us: weather.latency_us, ..Self::still() };
                weather = Self { depose: 30, cut: 20, crash: 4, ..nothing };
            }
            Plant::DurableEarly => (weather.blink, weather.crash) = (30, 20),
            Plant::CountStale => weather.cut = 30,
            _ => {}
        }
        weather
    }

    fn still() -> Self {
        Self {
            crash: 0,
            blink: 0,
            cut: 0,
            pause: 0,
            slow: 0,
            stuck: 0,
            reset: 0,
            corrupt: 0,
            replay: 0,
            jump: 0,
            wipe: 0,
            rot: 0,
            members: 0,
            full: 0,
            depose: 0,
            nothing: 0,
            replays: false,
            latency_us: 200,
        }
    }

    fn pick(&self, rng: &mut Rng) -> Fault {
        let all = [
            (self.crash, Fault::Crash),
            (self.blink, Fault::Blink),
            (self.cut, Fault::Cut),
            (self.pause, Fault::Pause),
            (self.slow, Fault::Slow),
            (self.stuck, Fault::Stuck),
            (self.reset, Fault::Reset),
            (self.corrupt, Fault::Corrupt),
            (self.replay, Fault::Replay),
            (self.jump, Fault::Jump),
            (self.wipe, Fault::Wipe),
            (self.rot, Fault::Rot),
            (self.members, Fault::Members),
            (self.full, Fault::Full),
            (self.depose, Fault::Depose),
            (self.nothing + 4, Fault::Nothing),
        ];
        let mut drawn = rng.below(all.iter().map(|(weight, _)| weight).sum());
        for (weight, fault) in all {
            if drawn < weight {
                return fault;
            }
            drawn -= weight;
        }
        Fault::Nothing
    }
}

impl Run {
    pub(super) fn chaos(&mut self) -> Result<(), String> {
        if self.is_fragile
            && self.is_goal_reached()
            && self.machines.iter().all(|one| one.state != State::Rotten)
        {
            self.is_fragile = false;
            self.world.note("whole", &[]);
        }
        if self.is_calm {
            self.world.after(20 * MILLISECOND, Event::Chaos);
            return self.tend();
        }
        let has_leaders = (0..self.groups).all(|group| {
            (0..MACHINES).any(|node| self.state(node, group).is_some_and(|state| state.is_leader))
        });
        // Elections are short, and what happens in them matters.
        let pause = match has_leaders {
            true if self.plant != Plant::VoteForgotten => self.world.rng.skewed(200),
            _ => self.world.rng.skewed(20),
        };
        self.world.after(pause * MILLISECOND, Event::Chaos);
        let often = if self.plant == Plant::VoteForgotten { 2 } else { 6 };
        if !has_leaders && self.weather.blink > 0 && self.world.rng.one_in(often) {
            return self.fault(Fault::Blink);
        }
        let fault = self.weather.pick(&mut self.world.rng);
        self.fault(fault)
    }

    fn fault(&mut self, fault: Fault) -> Result<(), String> {
        let now = self.world.now();
        let rng = &mut self.world.rng;
        let node = rng.below(MACHINES as u64) as usize;
        let is_up = self.machines[node].shard.is_some();
        match fault {
            Fault::Crash | Fault::Blink if is_up => {
                let down = if matches!(fault, Fault::Crash) {
                    rng.skewed(1_500) * MILLISECOND
                } else {
                    rng.skewed(4_000) * MICROSECOND
                };
                let is_silent = rng.one_in(2);
                self.crash(node, is_silent)?;
                self.world.after(down, Event::Boot(node, self.machines[node].life));
            }
            Fault::Cut => self.cut(node),
            Fault::Pause if is_up => {
                let pause = rng.skewed(2_500) * MILLISECOND;
                self.machines[node].paused_until = now + pause;
                self.report.pauses += 1;
                self.world.note("pause", &[node as u64, pause]);
            }
            Fault::Slow | Fault::Stuck | Fault::Full => return self.disk_fault(node, fault),
            Fault::Reset => {
                if let Some(pipe) = self.pick_peers() {
                    self.report.resets += 1;
                    self.reset(pipe)?;
                }
            }
            Fault::Corrupt => {
                if let Some(pipe) = self.pick_peers() {
                    self.report.corrupted += u64::from(self.corrupt(pipe));
                }
            }
            Fault::Replay => {
                if let Some(pipe) = self.pick_peers() {
                    self.report.replayed += u64::from(self.replay(pipe));
                }
            }
            Fault::Jump => {
                self.machines[node].clock += rng.skewed(5_000) * MILLISECOND;
                self.report.jumps += 1;
                if is_up {
                    self.plan_turn(node);
                }
            }
            Fault::Depose => return self.depose(),
            Fault::Wipe => return self.lose(node),
            Fault::Rot => return self.rot(node),
            Fault::Members => self.change_goal(node),
            Fault::Crash | Fault::Blink | Fault::Pause | Fault::Nothing => {}
        }
        Ok(())
    }

    /// A disk is slow from now on, loses writes on their way, or has no space; or is sound again.
    fn disk_fault(&mut self, node: usize, fault: Fault) -> Result<(), String> {
        let rng = &mut self.world.rng;
        let is_up = self.machines[node].shard.is_some();
        match fault {
            Fault::Slow => {
                let slow = if rng.one_in(2) { 1_000_000 } else { rng.skewed(300_000) };
                let faults = self.machines[node].disk.faults;
                self.machines[node].disk.faults =
                    Faults { slow: if faults.slow > 20_000 { 0 } else { slow }, ..faults };
            }
            Fault::Stuck => {
                let faults = self.machines[node].disk.faults;
                let stuck = if faults.stuck > 0 { 0 } else { rng.skewed(200_000) };
                self.machines[node].disk.faults = Faults { stuck, ..faults };
                // Whoever looks after the machine sees that nothing goes on, and restarts it.
                if stuck == 0 && is_up {
                    self.crash(node, false)?;
                    self.world.after(MILLISECOND, Event::Boot(node, self.machines[node].life));
                }
            }
            Fault::Full => {
                let disk = &mut self.machines[node].disk;
                disk.segments_max =
                    if disk.segments_max == usize::MAX { rng.between(2, 4) as usize } else { usize::MAX };
            }
            _ => {}
        }
        Ok(())
    }

    /// Nothing passes in one direction, or in both, between one machine and another one or all.
    fn cut(&mut self, node: usize) {
        let now = self.world.now();
        let rng = &mut self.world.rng;
        let lasts = rng.skewed(3_000) * MILLISECOND;
        let until = now + lasts;
        let (is_whole, direction) = (rng.one_in(2), rng.below(4));
        let other = rng.below(MACHINES as u64) as usize;
        for peer in (0..MACHINES).filter(|peer| is_whole || *peer == other) {
            if direction != 0 {
                self.cuts[node][peer] = until;
            }
            if direction != 1 {
                self.cuts[peer][node] = until;
            }
        }
        self.report.cuts += 1;
        self.world.note("cut", &[node as u64, lasts, direction]);
        self.world.after(lasts, Event::Heal);
    }

    /// Whoever leads is cut off, and whoever elected it restarted, while somebody has not heard of that election: whoever
    /// stands for the same term now must not be elected.
    fn depose(&mut self) -> Result<(), String> {
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

    fn is_member(&self, node: usize) -> bool {
        self.goal.iter().any(|member| member.node as usize == node + 1)
    }

    /// All members are there and know each other, so one of them may be lost.
    fn may_lose(&self) -> bool {
        !self.is_fragile && self.goal.len() >= 3 && self.is_goal_reached()
    }

    /// A disk is lost: what comes back is somebody else, who has to be made a member.
    fn lose(&mut self, node: usize) -> Result<(), String> {
        if self.machines[node].state == State::Rotten || self.is_member(node) && self.may_lose() {
            return self.replace(node);
        }
        // Of a machine that is nobody's, nothing is lost.
        if self.machines[node].state == State::Removed {
            return self.wipe(node);
        }
        Ok(())
    }

    fn replace(&mut self, node: usize) -> Result<(), String> {
        self.is_fragile = true;
        self.wipe(node)?;
        let incarnation = self.machines[node].incarnation;
        for known in &mut self.goal {
            if known.node as usize == node + 1 {
                *known = member(node, incarnation);
            }
        }
        Ok(())
    }

    /// Bits change where they were durable. Nobody notices before the machine is restarted, or reads them.
    fn rot(&mut self, node: usize) -> Result<(), String> {
        if !self.is_member(node) || !self.may_lose() {
            return Ok(());
        }
        self.is_fragile = true;
        for _ in 0..self.world.rng.between(1, 8) {
            if let Some((place, offset)) = self.machines[node].disk.rot(&mut self.world.rng) {
                self.world.note("rot", &[node as u64, place.number(), offset as u64]);
            }
        }
        self.crash(node, false)?;
        self.boot(node)
    }

    /// Another number of members is wanted.
    fn change_goal(&mut self, node: usize) {
        if self.is_fragile || !self.is_goal_reached() {
            return;
        }
        if self.is_member(node) {
            if self.goal.len() <= 3 {
                return;
            }
            self.goal.retain(|known| known.node as usize != node + 1);
        } else {
            if self.machines[node].state == State::Removed {
                return;
            }
            self.goal.push(member(node, self.machines[node].incarnation));
        }
        self.is_fragile = true;
        self.world.note("goal", &[node as u64, self.goal.len() as u64]);
    }

    /// Everything that is wrong is put right.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        let now = self.world.now();
        self.weather.latency_us = 200;
        self.weather.replays = false;
        self.cuts = [[now; MACHINES]; MACHINES];
        for node in 0..MACHINES {
            let machine = &mut self.machines[node];
            machine.disk.faults = Faults::none();
            machine.disk.segments_max = usize::MAX;
            machine.paused_until = 0;
            let is_stuck = self.has_writes(node) && self.machines[node].shard.is_some();
            if is_stuck || (self.machines[node].shard.is_some() && self.world.rng.one_in(3)) {
                self.crash(node, false)?;
            }
            if self.machines[node].state == State::Rotten {
                self.replace(node)?;
            }
            if self.machines[node].state == State::Down {
                self.boot(node)?;
            }
        }
        self.replan_all();
        Ok(())
    }

    /// Somebody looks after the machines, now and to the end.
    fn tend(&mut self) -> Result<(), String> {
        for node in 0..MACHINES {
            match self.machines[node].state {
                State::Rotten => self.replace(node)?,
                State::Down => self.boot(node)?,
                State::Removed if self.is_member(node) => self.replace(node)?,
                State::Up | State::Removed => {}
            }
        }
        assert!(self.world.now() < u64::MAX - SECOND);
        Ok(())
    }
}
