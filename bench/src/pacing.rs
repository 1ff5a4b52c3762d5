//! Open-loop pacing: when each message should be sent, whatever became of the ones before it.
//!
//! Messages are numbered from 0. Number n is due at n ÷ rate after the start, and its latency counts from that moment,
//! not from when it could be sent: a stalled node makes all the messages that were due meanwhile late, as it does for
//! a user whose ticks do not wait ("coordinated omission" is the mistake of not counting them). Times are nanoseconds
//! since the start and come in from outside; there is no clock here.

use std::time::Duration;

/// The driver of a run stops parking this long before a message is due and asks again and again instead: a timer on a
/// sleeping core is tens of microseconds late, which would be charged to the target.
pub(crate) const LEAD: Duration = Duration::from_micros(100);

/// The moments at which messages are due.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) rate: u64,
    pub(crate) messages: u64,
    /// Sent and answered but not measured: the first messages find cold caches.
    pub(crate) warm_up: u64,
}

impl Schedule {
    pub(crate) fn new(rate: u64, seconds: u64) -> Self {
        assert!(rate > 0);
        assert!(seconds > 0);
        // A tenth of a run, and never more than a second of it.
        let warm_up = rate.min(rate * seconds / 10);
        Self { rate, messages: warm_up + rate * seconds, warm_up }
    }

    pub(crate) fn due_at(&self, number: u64) -> u64 {
        let due_at = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
        u64::try_from(due_at).expect("a run lasts less than 500 years")
    }

    pub(crate) fn is_measured(&self, number: u64) -> bool {
        number >= self.warm_up
    }
}

/// What the driver of a run does now.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this message.
    Send {
        number: u64,
    },
    /// Wait for answers, but no longer than until this moment.
    Wait {
        until: u64,
    },
    /// Nothing can be sent: wait for answers however long they take.
    WaitForAnswers,
    Finished,
}

/// One run: what was sent and answered. Answers come in the order of the messages.
///
/// Invariant: answered ≤ sent ≤ messages, sent − answered ≤ in_flight_max.
#[derive(Debug)]
pub(crate) struct OpenLoop {
    schedule: Schedule,
    in_flight_max: u64,

    sent: u64,
    answered: u64,
}

impl OpenLoop {
    pub(crate) fn new(schedule: Schedule, in_flight_max: u64) -> Self {
        assert!(in_flight_max > 0);
        Self { schedule, in_flight_max, sent: 0, answered: 0 }
    }

    pub(crate) fn next_action(&self, now: u64) -> Action {
        assert!(self.answered <= self.sent);
        if self.answered == self.schedule.messages {
            return Action::Finished;
        }
        if self.sent == self.schedule.messages || self.sent - self.answered == self.in_flight_max {
            return Action::WaitForAnswers;
        }
        let due_at = self.schedule.due_at(self.sent);
        if now < due_at { Action::Wait { until: due_at } } else { Action::Send { number: self.sent } }
    }

    /// The next message in order was sent: how late the driver did so, or `None` if it is not measured.
    pub(crate) fn on_sent(&mut self, now: u64) -> Option<u64> {
        assert!(self.sent < self.schedule.messages);
        assert!(self.sent - self.answered < self.in_flight_max);
        let number = self.sent;
        self.sent += 1;
        self.measure(number, now)
    }

    /// The next message in order was answered: how long after it was due, or `None` if it is not measured.
    pub(crate) fn on_answered(&mut self, now: u64) -> Option<u64> {
        assert!(self.answered < self.sent, "an answer to a message that was not sent");
        let number = self.answered;
        self.answered += 1;
        self.measure(number, now)
    }

    fn measure(&self, number: u64, now: u64) -> Option<u64> {
        self.schedule.is_measured(number).then(|| now.saturating_sub(self.schedule.due_at(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn schedule(rate: u64, messages: u64) -> Schedule {
        Schedule { rate, messages, warm_up: 0 }
    }

    /// A server that answers each message `service` after it was sent, one at a time, and stands still in `stall`.
    /// Virtual time; answers latencies in order.
    fn run(schedule: Schedule, in_flight_max: u64, service: u64, stall: std::ops::Range<u64>) -> Vec<u64> {
        let mut open_loop = OpenLoop::new(schedule, in_flight_max);
        let (mut now, mut server_free_at) = (0_u64, 0_u64);
        let mut answers_at = std::collections::VecDeque::new();
        let mut latencies = Vec::new();
        loop {
            while answers_at.front().is_some_and(|&answer_at| answer_at <= now) {
                answers_at.pop_front();
                latencies.extend(open_loop.on_answered(now));
            }
            match open_loop.next_action(now) {
                Action::Send { .. } => {
                    let mut starts_at = now.max(server_free_at);
                    if stall.contains(&starts_at) {
                        starts_at = stall.end;
                    }
                    server_free_at = starts_at + service;
                    answers_at.push_back(server_free_at);
                    open_loop.on_sent(now);
                }
                Action::Wait { until } => {
                    now = answers_at.front().map_or(until, |&answer_at| until.min(answer_at));
                }
                Action::WaitForAnswers => now = *answers_at.front().expect("something is in flight"),
                Action::Finished => return latencies,
            }
        }
    }

    #[test]
    fn due_moments_do_not_drift() {
        let schedule = schedule(3, 10);
        assert_eq!(schedule.due_at(1), 333_333_333);
        assert_eq!(schedule.due_at(3), 1_000_000_000);
        assert_eq!(schedule.due_at(3_000_000), 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn steady_server_shows_its_service_time() {
        assert_eq!(run(schedule(1_000, 5), 16, 100_000, 0..0), vec![100_000; 5]);
    }

    #[test]
    fn stall_is_charged_to_every_message_due_in_it() {
        let latencies = run(schedule(1_000, 8), 16, 1, 2 * MILLISECOND..6 * MILLISECOND);
        let late: Vec<u64> = latencies.iter().map(|latency| latency / MILLISECOND).collect();
        assert_eq!(late, [0, 0, 4, 3, 2, 1, 0, 0]);
    }

    #[test]
    fn full_window_delays_sending_and_hides_nothing() {
        let wide = run(schedule(1_000, 50), 64, 3 * MILLISECOND, 0..0);
        let narrow = run(schedule(1_000, 50), 1, 3 * MILLISECOND, 0..0);
        assert_eq!(wide, narrow);
        assert_eq!(*narrow.last().expect("fifty messages"), 50 * 3 * MILLISECOND - 49 * MILLISECOND);
    }

    #[test]
    fn warm_up_is_sent_but_not_measured() {
        let schedule = Schedule::new(1_000, 2);
        assert_eq!(schedule.warm_up, 200);
        assert_eq!(run(schedule, 16, 1, 0..0).len(), 2_000);
    }

    #[test]
    fn lateness_of_the_driver_is_known() {
        let mut open_loop = OpenLoop::new(schedule(1_000, 2), 4);
        assert_eq!(open_loop.on_sent(0), Some(0));
        assert_eq!(open_loop.next_action(10), Action::Wait { until: MILLISECOND });
        assert_eq!(open_loop.on_sent(MILLISECOND + 7), Some(7));
        assert_eq!(open_loop.next_action(2 * MILLISECOND), Action::WaitForAnswers);
    }
}
