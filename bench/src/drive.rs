//! Sends messages when they are due and takes the times of the answers: the same loop for whatever is measured, so
//! that the figures of two targets differ by the targets alone.

use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::kernel;
use crate::latencies::Latencies;
use crate::pacing::{Action, LEAD, OpenLoop, Schedule};

/// Something that takes messages and answers them in order.
pub(crate) trait Target {
    fn send(&mut self, number: u64) -> Result<()>;

    /// Waits until there are answers or `timeout` is over, parked as the target's users would be; says how many came.
    fn wait(&mut self, timeout: Duration) -> Result<u64>;
}

pub(crate) struct Run {
    /// From the moment each message was due until its answer was there.
    pub(crate) latencies: Latencies,
    /// How late the driver itself was: what it adds to the latencies.
    pub(crate) lateness: Latencies,
}

/// A target that answers nothing for this long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);

pub(crate) fn drive(target: &mut impl Target, schedule: Schedule, in_flight_max: u64) -> Result<Run> {
    kernel::set_timers_exact().doing(|| "setting the timer slack".to_owned())?;
    let mut open_loop = OpenLoop::new(schedule, in_flight_max);
    let mut run = Run { latencies: Latencies::new(), lateness: Latencies::new() };
    let started = Instant::now();
    let now = || u64::try_from(started.elapsed().as_nanos()).expect("a run lasts less than 500 years");
    loop {
        let (timeout, silence) = match open_loop.next_action(now()) {
            Action::Finished => return Ok(run),
            Action::Send { number } => {
                target.send(number)?;
                open_loop.on_sent(now()).into_iter().for_each(|late| run.lateness.record(late));
                continue;
            }
            Action::Wait { until } => {
                (Duration::from_nanos(until.saturating_sub(now())).saturating_sub(LEAD), false)
            }
            Action::WaitForAnswers => (SILENCE_MAX, true),
        };
        let answers = target.wait(timeout)?;
        if answers == 0 && silence {
            return Err(Error::new("waiting for answers", format!("none came for {SILENCE_MAX:?}")));
        }
        let answered_at = now();
        for _ in 0..answers {
            open_loop.on_answered(answered_at).into_iter().for_each(|latency| run.latencies.record(latency));
        }
    }
}
