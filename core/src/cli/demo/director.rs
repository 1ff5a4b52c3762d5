//! Leads the demo from the first message to the verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use ringmain_core::config::{Address, Period};

use super::count;
use super::keeper::Order;
use super::stage::{Happening, Stage};
use super::standing::{Reach, Standing};
use super::telemetry::Topic;
use super::verdict::{Counts, Ledger, Outage, Verdict};
use super::view::{Phase, Picture, Screen};
use crate::cli::Failure;
use crate::cli::link;

const SECOND: u64 = 1_000_000_000;
const DRAW_PERIOD: Duration = Duration::from_millis(100);
/// After the last publish everything must have come through within this time.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Parts of the demo after which the leader is killed and started again. Where the others have no majority without it, it
/// is started at once.
const KILL: f64 = 0.5;
const RESTART: f64 = 0.7;
const NODES_MAJORITY_LEAST: u32 = 3;

pub(super) struct Director<'a> {
    stage: &'a Stage,
    interrupted: &'a AtomicBool,
    orders: Sender<Order>,
    seconds: u64,
    title: String,

    ledger: Ledger,
    counts: Vec<Counts>,
    standing: Standing,
    act: Act,
    /// What the keeper is to do and when, the last first.
    script: Vec<(u64, Order)>,
    /// Orders that were given and not yet carried out.
    ordered: usize,
    /// Threads that have not ended.
    producers: usize,
    consumers: usize,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Act {
    Producing,
    /// Nothing is produced any more; what is underway must arrive.
    Draining {
        deadline: Instant,
    },
    /// Everything has arrived, or never will: the consumers are leaving.
    Closing,
    Done,
}

impl<'a> Director<'a> {
    pub(super) fn new(
        stage: &'a Stage,
        interrupted: &'a AtomicBool,
        orders: Sender<Order>,
        cast: Cast,
    ) -> Self {
        let Cast { nodes, seconds, title } = cast;
        let after = |part: f64| (part * (seconds * SECOND) as f64) as u64;
        let restart = if nodes < NODES_MAJORITY_LEAST { KILL } else { RESTART };
        Self {
            stage,
            interrupted,
            orders,
            seconds,
            title,
            ledger: Ledger::new(nodes),
            counts: vec![Counts::default(); Topic::ALL.len()],
            standing: Standing::unknown(nodes),
            act: Act::Producing,
            script: vec![(after(restart), Order::Restart), (after(KILL), Order::KillLeader)],
            ordered: 0,
            producers: Topic::ALL.len(),
            consumers: Topic::ALL.len(),
        }
    }

    pub(super) fn play(
        mut self,
        happenings: &Receiver<Happening>,
        addresses: &[Address],
        baselines: &[Counts],
    ) -> Result<Verdict, Failure> {
        let mut screen = Screen::open(self.seconds);
        let mut next_draw = Instant::now();
        while self.consumers > 0 {
            match happenings.recv_deadline(next_draw) {
                Ok(happening) => self.on_happening(happening, &mut screen)?,
                Err(RecvTimeoutError::Timeout) => {
                    next_draw += DRAW_PERIOD;
                    self.draw(&mut screen);
                    self.advance()?;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.act = Act::Done;
        self.draw(&mut screen);
        drop(screen);
        let seconds = self.stage.now() as f64 / 1e9;
        let counts = link::dial(addresses).and_then(|client| count(&client, baselines)).ok();
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        let verdict = self.ledger.verdict(counts.as_deref(), seconds, interrupted);
        Ok(if interrupted { verdict } else { verdict.with_absent(self.absent()) })
    }

    fn on_happening(&mut self, happening: Happening, screen: &mut Screen) -> Result<(), Failure> {
        match happening {
            Happening::Message(event) => {
                let silent = self.ledger.outage().is_some_and(|outage| outage.serving.is_none());
                self.ledger.on_event(event);
                if let Some(Outage { killed, serving: Some(serving), .. }) =
                    self.ledger.outage().filter(|_| silent)
                {
                    let silence = Period(Duration::from_nanos(serving - killed));
                    screen.note(serving, &format!("acknowledged again, after {silence} of silence"));
                }
            }
            Happening::Killed { node, leads, at } => self.on_killed(node, &leads, at, screen),
            Happening::Gone { at } => {
                self.ordered -= 1;
                self.ledger.on_gone(at);
            }
            Happening::Restarting { at } => self.on_restarting(at, screen),
            Happening::Restarted { at } => self.on_restarted(at),
            Happening::Counted(counts) => self.counts = counts,
            Happening::Standing(standing) => self.on_standing(standing, screen),
            Happening::ProducerEnded => self.producers -= 1,
            Happening::ConsumerEnded => self.consumers -= 1,
            Happening::Failed(why) => return Err(Failure::told(why)),
        }
        Ok(())
    }

    fn on_killed(&mut self, node: u32, leads: &[Topic], at: u64, screen: &mut Screen) {
        self.ledger.on_killed(node, leads, at);
        let queues: Vec<&str> = leads.iter().map(|topic| topic.queue()).collect();
        screen.note(at, &format!("node {node}, which leads {}, is killed", queues.join(", ")));
    }

    fn on_restarting(&mut self, at: u64, screen: &mut Screen) {
        self.ledger.on_restarted(at);
        let node = self.ledger.outage().map_or(0, |outage| outage.node);
        screen.note(at, &format!("node {node} is started again on the same data"));
    }

    fn on_restarted(&mut self, at: u64) {
        self.ordered -= 1;
        if self.standing.nodes.len() == 1 {
            // Its own log is all there is to catch up with.
            self.ledger.on_current(at);
        }
    }

    fn on_standing(&mut self, standing: Standing, screen: &mut Screen) {
        for topic in Topic::ALL {
            let leader = standing.leader(topic);
            if let Some((node, term)) = leader.filter(|_| leader != self.standing.leader(topic)) {
                screen.note(standing.asked, &format!("node {node} leads {} in term {term}", topic.queue()));
            }
        }
        if let Some(Outage { node, restarted: Some(restarted), current: None, .. }) = self.ledger.outage()
            && standing.asked > restarted
            && standing.node(node).is_some_and(|standing| standing.reach == Reach::Current)
        {
            let now = self.stage.now();
            self.ledger.on_current(now);
            let took = Period(Duration::from_nanos(now - restarted));
            screen.note(now, &format!("node {node} has everything again, {took} after its start"));
        }
        self.standing = standing;
    }

    fn advance(&mut self) -> Result<(), Failure> {
        let now = self.stage.now();
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        match self.act {
            Act::Producing => {
                if !interrupted {
                    self.give_orders(now)?;
                }
                if interrupted || now >= self.seconds * SECOND {
                    self.stage.stop_producers();
                    self.act = Act::Draining { deadline: Instant::now() + DRAIN_MAX };
                }
            }
            Act::Draining { deadline } => {
                let tally = self.ledger.tally();
                let arrived = self.ledger.unresolved() == 0 && tally.consumed >= tally.acknowledged;
                let all = self.producers == 0 && arrived && self.everybody_is_back();
                if all || Instant::now() >= deadline {
                    self.stage.stop_consumers();
                    self.act = Act::Closing;
                }
            }
            Act::Closing | Act::Done => {}
        }
        Ok(())
    }

    fn give_orders(&mut self, now: u64) -> Result<(), Failure> {
        while let Some((_, order)) = self.script.pop_if(|(at, _)| now >= *at) {
            self.orders.send(order).map_err(|_| Failure::told("the keeper has gone"))?;
            self.ordered += 1;
        }
        Ok(())
    }

    /// Whether the outage that was ordered is over, as far as it was ordered before the demo was interrupted.
    fn everybody_is_back(&self) -> bool {
        let restarted = |outage: Outage| outage.restarted.is_none() || outage.is_over();
        let is_over = self.ordered == 0 && self.ledger.outage().is_none_or(restarted);
        is_over && (self.absent().is_empty() || self.interrupted.load(Ordering::Relaxed))
    }

    /// The nodes of a cluster that have not everything, by the last that was heard.
    fn absent(&self) -> Vec<u32> {
        let nodes = &self.standing.nodes;
        let absent = nodes.iter().filter(|node| nodes.len() > 1 && node.reach != Reach::Current);
        absent.map(|node| node.node).collect()
    }

    fn draw(&self, screen: &mut Screen) {
        let silent = self.ledger.outage().is_some_and(|outage| outage.serving.is_none());
        let phase = match self.act {
            _ if silent => Phase::Down,
            Act::Producing => Phase::Running,
            Act::Draining { .. } | Act::Closing => Phase::Draining,
            Act::Done => Phase::Done,
        };
        screen.draw(&Picture {
            title: &self.title,
            now: self.stage.now(),
            seconds: self.seconds,
            phase,
            ledger: &self.ledger,
            counts: &self.counts,
            standing: &self.standing,
        });
    }
}

/// What is played.
pub(super) struct Cast {
    pub(super) nodes: u32,
    pub(super) seconds: u64,
    pub(super) title: String,
}
