//! What nobody asked for. Each seed has its own weather: some of what can happen never does, and some does often.
//!
//! That a machine crashes, stands still or is cut off takes nothing from anybody, however many do; what takes something
//! from the disks obeys the rule of `harm`.

mod harm;
mod scheme;
mod weather;

use super::machine::{Machine, State};
use super::{Event, MACHINES, Plant, Run, member};
use crate::disk::Faults;
use crate::world::{MICROSECOND, MILLISECOND, SECOND};
use ringmain_core::shard::Input;
pub(super) use weather::{Fault, Weather};

impl Run {
    pub(super) fn chaos(&mut self) -> Result<(), String> {
        let is_sound = |one: &Machine| one.state != State::Rotten && !one.is_suspect;
        if self.is_fragile && self.is_goal_reached() && self.machines.iter().all(is_sound) {
            self.is_fragile = false;
            self.world.note("whole", &[]);
        }
        let is_founding_in_peace = self.tend_founding()?;
        if self.is_calm {
            self.world.after(20 * MILLISECOND, Event::Chaos);
            return self.tend();
        }
        if is_founding_in_peace {
            self.world.after(20 * MILLISECOND, Event::Chaos);
            return Ok(());
        }
        if self.world.rng.one_in(8) {
            self.look_after_disks()?;
        }
        let has_leaders = (0..self.groups).all(|group| {
            (0..MACHINES).any(|node| self.state(node, group).is_some_and(|state| state.is_leader))
        });
        // Elections are short, and what happens in them matters.
        let pause = match has_leaders {
            true if !self.plant.needs_haste() => self.world.rng.skewed(200),
            _ if self.is_founding() => self.world.rng.skewed(60),
            _ => self.world.rng.skewed(20),
        };
        self.world.after(pause * MILLISECOND, Event::Chaos);
        let often = if self.plant.is_of_elections() { 2 } else { 6 };
        if !has_leaders && self.weather.has(Fault::Blink) && self.world.rng.one_in(often) {
            return self.fault(Fault::Blink);
        }
        if let Some(wanted) = self.wanted {
            if self.may_lose() {
                self.wanted = None;
                return self.fault(wanted);
            }
            // Without some peace it would wait in vain.
            if self.world.rng.one_in(2) {
                return Ok(());
            }
        }
        let fault = self.weather.pick(&mut self.world.rng);
        self.fault(fault)
    }

    fn fault(&mut self, fault: Fault) -> Result<(), String> {
        let now = self.world.now();
        let rng = &mut self.world.rng;
        let node = rng.below(MACHINES as u64) as usize;
        let is_up = self.machines[node].is_running();
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
            Fault::Betray => self.betray(),
            Fault::Split => return self.split(),
            Fault::Wipe | Fault::Rot | Fault::Lie if self.is_founding() => return self.lose_early(node),
            Fault::Wipe | Fault::Rot | Fault::Lie | Fault::Members if !self.may_lose() => {
                self.wanted = Some(fault);
            }
            Fault::Wipe | Fault::Rot | Fault::Lie => return self.harm(fault),
            Fault::Stop if is_up => return self.stop(node),
            Fault::Members => self.change_goal(node),
            Fault::Crash | Fault::Blink | Fault::Pause | Fault::Stop | Fault::Nothing => {}
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

    /// Somebody asks the node to end; what it leads, others are to take over before it does.
    fn stop(&mut self, node: usize) -> Result<(), String> {
        if std::mem::replace(&mut self.machines[node].is_stopping, true) {
            return Ok(());
        }
        self.world.note("stop", &[node as u64]);
        if self.machines[node].shard.is_none() {
            return self.vanish(node, self.machines[node].life, SECOND / 8);
        }
        self.machines[node].led_at_stop = self.leads_any(node);
        self.input(node, Input::Stop).map(|_| ())
    }

    /// It is done.
    pub(super) fn stopped(&mut self, node: usize) -> Result<(), String> {
        self.report.stops += 1;
        let has_handed_over = self.machines[node].led_at_stop && !self.leads_any(node);
        self.report.handed += u64::from(has_handed_over);
        self.crash(node, false)?;
        let down = self.world.rng.skewed(1_000) * MILLISECOND;
        self.world.after(down, Event::Boot(node, self.machines[node].life));
        Ok(())
    }

    fn is_member(&self, node: usize) -> bool {
        self.goal.iter().any(|member| member.node as usize == node + 1)
    }

    /// Another number of members is wanted.
    fn change_goal(&mut self, node: usize) {
        if self.is_member(node) {
            if self.goal.len() <= 3 || self.plant == Plant::CommitForgotten {
                return;
            }
            self.goal.retain(|known| known.node as usize != node + 1);
        } else {
            // Whoever makes it a member has to know which one it is.
            let is_nameless = self.machines[node].directory.as_ref().is_some_and(|one| !one.is_settled());
            if is_nameless || self.machines[node].state == State::Removed {
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
            let is_doubtful = self.has_writes(node) || self.machines[node].is_suspect;
            let is_restarted = is_doubtful && self.machines[node].shard.is_some();
            if is_restarted || (self.machines[node].shard.is_some() && self.world.rng.one_in(3)) {
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
                State::Up | State::Forming | State::Removed => {}
            }
        }
        assert!(self.world.now() < u64::MAX - SECOND);
        Ok(())
    }
}
