//! What a person sees while the demo runs: a dashboard redrawn in place on a terminal, a line a second elsewhere, and the
//! verdict's table at the end. `render` and `table` are pure; only `Screen` writes, and only to stderr.

mod nodes;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use ringmain_core::config::Period;

use super::standing::Standing;
use super::telemetry::Class;
use super::verdict::{Counts, Ledger, Outage, Percentiles, Tally, Verdict};
use crate::cli::output::grouped;

/// Cells of the timeline: one row of an 80-column terminal, less its margins.
const TIMELINE_CELLS: usize = 72;
const BAR_CELLS: usize = 34;
/// Rates are told over the last second.
const RATE_WINDOW: u64 = 1_000_000_000;
const SECOND: u64 = 1_000_000_000;
/// The terminal draws what stands between these at once, so that nothing flickers.
const DRAW_BEGIN: &str = "\x1b[?2026h";
const DRAW_END: &str = "\x1b[?2026l";
/// Long lines are cut, not wrapped: a wrapped one would shift every line below it.
const ENTER: &str = "\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h";

/// The facts of one moment.
pub(super) struct Picture<'a> {
    pub(super) title: &'a str,
    /// Nanoseconds since the demo's start.
    pub(super) now: u64,
    pub(super) seconds: u64,
    pub(super) phase: Phase,
    pub(super) ledger: &'a Ledger,
    /// The broker's latest counts of each of `Topic::ALL`.
    pub(super) counts: &'a [Counts],
    /// The latest that the nodes said of themselves.
    pub(super) standing: &'a Standing,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// A node is gone, and what it led has no acknowledgement yet.
    Down,
    Draining,
    Done,
}

/// Where the picture goes.
pub(super) struct Screen {
    kind: Kind,
    trend: Trend,
}

enum Kind {
    /// Redraws `lines` lines in place.
    Terminal { lines: usize, colours: bool },
    /// Prints a line a second, and one for each event.
    Lines { next: u64 },
}

/// What a single moment does not show: rates, and the run so far.
struct Trend {
    recent: VecDeque<(u64, Tally)>,
    cell_length: u64,
    /// Acknowledged messages by cell.
    cells: Vec<f64>,
}

impl Screen {
    /// On a terminal that can move its cursor, a dashboard; elsewhere, lines.
    pub(super) fn open(seconds: u64) -> Self {
        let terminal =
            io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let colours = std::env::var_os("NO_COLOR").is_none();
        let kind = if terminal {
            eprint!("{ENTER}");
            Kind::Terminal { lines: 0, colours }
        } else {
            Kind::Lines { next: SECOND }
        };
        Self { kind, trend: Trend::new(seconds) }
    }

    pub(super) fn draw(&mut self, picture: &Picture<'_>) {
        self.trend.on_tally(picture.now, picture.ledger.tally());
        match &mut self.kind {
            Kind::Terminal { lines, colours } => {
                let text = render(picture, &self.trend, Paint { colours: *colours });
                let mut drawing = DRAW_BEGIN.to_owned();
                if *lines > 0 {
                    write!(drawing, "\x1b[{lines}A\r").expect("a String takes everything");
                }
                for line in text.lines() {
                    writeln!(drawing, "{line}\x1b[K").expect("a String takes everything");
                }
                drawing.push_str(DRAW_END);
                *lines = text.lines().count();
                show(&drawing);
            }
            Kind::Lines { next } => {
                if picture.now >= *next {
                    *next += SECOND;
                    show(&line(picture, &self.trend));
                }
            }
        }
    }

    /// Something happened that a dashboard shows by itself.
    pub(super) fn note(&mut self, now: u64, what: &str) {
        if let Kind::Lines { .. } = self.kind {
            show(&format!("{:>6.1} s  {what}\n", now as f64 / 1e9));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Kind::Terminal { .. } = self.kind {
            leave_terminal();
        }
    }
}

/// Gives the terminal back as it was; does nothing to it when it is already so.
pub(super) fn leave_terminal() {
    if io::stderr().is_terminal() {
        show(LEAVE);
    }
}

/// Progress is a courtesy: a closed stderr does not end the demo.
fn show(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

impl Trend {
    fn new(seconds: u64) -> Self {
        let cell_length = (seconds * SECOND).div_ceil(TIMELINE_CELLS as u64);
        Self { recent: VecDeque::new(), cell_length, cells: vec![0.0; TIMELINE_CELLS] }
    }

    fn on_tally(&mut self, now: u64, tally: Tally) {
        let (from, before) = self.recent.back().map_or((0, 0), |(at, tally)| (*at, tally.acknowledged));
        self.spread(from, now, tally.acknowledged - before);
        self.recent.push_back((now, tally));
        while self.recent.len() > 2 && now - self.recent[1].0 >= RATE_WINDOW {
            self.recent.pop_front();
        }
    }

    /// Shares what came between two moments among the cells of that time: a picture is not drawn at the edge of a cell.
    fn spread(&mut self, from: u64, to: u64, amount: u64) {
        let length = (to - from).max(1) as f64;
        for (place, cell) in self.cells.iter_mut().enumerate() {
            let begin = (place as u64 * self.cell_length).max(from);
            let end = ((place as u64 + 1) * self.cell_length).min(to);
            *cell += amount as f64 * end.saturating_sub(begin) as f64 / length;
        }
    }

    /// A second's growth of one of the tally's numbers.
    fn rate(&self, number: impl Fn(&Tally) -> u64) -> u64 {
        match (self.recent.front(), self.recent.back()) {
            (Some((from, first)), Some((to, last))) if to > from => {
                (number(last) - number(first)) * SECOND / (to - from)
            }
            _ => 0,
        }
    }

    fn cell(&self, at: u64) -> usize {
        ((at / self.cell_length) as usize).min(TIMELINE_CELLS - 1)
    }
}

/// Colours, where they are wanted.
#[derive(Copy, Clone)]
struct Paint {
    colours: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn red(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    fn class(self, class: Class, text: &str) -> String {
        let code = match class {
            Class::Alarm => "31",
            Class::Core => "33",
            Class::Device => "32",
            Class::Process => "36",
            Class::Counter => "94",
        };
        self.with(code, text)
    }
}

fn render(picture: &Picture<'_>, trend: &Trend, paint: Paint) -> String {
    let parts = [
        head(picture, paint),
        format!("{}{}", nodes::nodes(picture, paint), flow(picture.ledger.tally(), trend, paint)),
        depths(picture.counts, paint),
        latencies(picture.ledger, paint),
        timeline(picture, trend, paint),
    ];
    parts.join("\n")
}

fn head(picture: &Picture<'_>, paint: Paint) -> String {
    let elapsed = picture.now as f64 / 1e9;
    let phase = match picture.phase {
        Phase::Running => format!("{elapsed:.1} of {} s", picture.seconds),
        Phase::Down => paint.red(&silence(picture)),
        Phase::Draining => "draining".to_owned(),
        Phase::Done => format!("done after {elapsed:.1} s"),
    };
    // The end of a long line is cut: the title is not what changes.
    format!("\n  {}  {phase}  {}\n", paint.bold("Ringmain"), paint.dim(picture.title))
}

fn silence(picture: &Picture<'_>) -> String {
    let Some(outage) = picture.ledger.outage() else { return String::new() };
    let silent = picture.now.saturating_sub(outage.killed) as f64 / 1e9;
    format!("node {} is down: {silent:.1} s without acknowledgement", outage.node)
}

fn flow(tally: Tally, trend: &Trend, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |name: &str, count: u64, rate: u64| {
        let rate = paint.dim(&format!("{:>8}/s", grouped(rate)));
        let count = paint.bold(&format!("{:>12}", grouped(count)));
        writeln!(text, "  {name:<14}{count}{rate}").expect("a String takes everything");
    };
    line("published", tally.published, trend.rate(|tally| tally.published));
    line("acknowledged", tally.acknowledged, trend.rate(|tally| tally.acknowledged));
    line("consumed", tally.consumed, trend.rate(|tally| tally.consumed));
    text
}

fn depths(counts: &[Counts], paint: Paint) -> String {
    let heading = format!("  {:<14}{:>12}{:>12}", "priority", "ready", "in flight");
    let mut text = format!("{}\n", paint.dim(&heading));
    let depths = Class::ALL.map(|class| depth(counts, class));
    // The bars share a scale, and it never zooms in on a handful.
    let scale = depths.iter().map(|(ready, _)| *ready).max().unwrap_or(0).max(400);
    for (class, (ready, in_flight)) in Class::ALL.into_iter().zip(depths) {
        let name = format!("{} {}", class.priority(), class.name());
        let bar = paint.class(class, &bar(ready, scale));
        let (ready, in_flight) = (grouped(ready), grouped(in_flight));
        writeln!(text, "  {name:<14}{ready:>12}{in_flight:>12}  {bar}").expect("a String takes everything");
    }
    text
}

/// Ready and in-flight messages of one class, in all queues.
fn depth(counts: &[Counts], class: Class) -> (u64, u64) {
    let levels = counts.iter().flat_map(|counts| &counts.levels);
    let levels = levels.filter(|(priority, ..)| *priority == class.priority());
    levels.fold((0, 0), |sum, (_, ready, in_flight)| (sum.0 + ready, sum.1 + in_flight))
}

/// A bar in eighths of a cell.
fn bar(amount: u64, scale: u64) -> String {
    let eighths = (amount * BAR_CELLS as u64 * 8).div_ceil(scale) as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.push_str(["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8]);
    bar
}

fn latencies(ledger: &Ledger, paint: Paint) -> String {
    let heading = format!("  {:<14}{:>12}{:>12}{:>12}{:>12}", "latency", "p50", "p99", "p99.9", "max");
    let rows = [("publish", ledger.publish()), ("deliver", ledger.deliver())];
    let rows = rows.map(|(name, latencies)| percentiles(name, &Percentiles::of(&latencies.steady)));
    format!("{}\n{}", paint.dim(&heading), rows.concat())
}

fn percentiles(name: &str, percentiles: &Percentiles) -> String {
    let Percentiles { p50, p99, p999, max } = percentiles;
    let [p50, p99, p999, max] = [p50, p99, p999, max].map(|microseconds| duration(*microseconds));
    format!("  {name:<14}{p50:>12}{p99:>12}{p999:>12}{max:>12}\n")
}

fn duration(microseconds: f64) -> String {
    if microseconds == 0.0 {
        return "-".to_owned();
    }
    Period(Duration::from_nanos((microseconds * 1e3) as u64)).to_string()
}

/// The rate of acknowledgements over the whole run, and the kill under it.
fn timeline(picture: &Picture<'_>, trend: &Trend, paint: Paint) -> String {
    const STEPS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let current = trend.cell(picture.now);
    // The cell being filled would always look like a fall.
    let past = if matches!(picture.phase, Phase::Draining | Phase::Done) {
        &trend.cells[..]
    } else {
        &trend.cells[..current]
    };
    // An ordinary moment is half as high as the row: what was held up and came at once stands out, and hides nothing.
    let mut busy: Vec<f64> = past.iter().copied().filter(|count| *count > 0.0).collect();
    busy.sort_by(f64::total_cmp);
    let ordinary = busy.get(busy.len() / 2).copied().unwrap_or(1.0);
    let step = |count: &f64| STEPS[(count * 4.0 / ordinary).ceil().min(8.0) as usize];
    let rates: String = past.iter().map(step).collect();
    let ahead = "·".repeat(TIMELINE_CELLS - past.len());
    let mark = picture.ledger.outage().map_or_else(String::new, |outage| {
        let column = trend.cell(outage.killed);
        let told = outage_told(outage);
        let note = if column + 2 + told.len() <= TIMELINE_CELLS {
            format!("{}{} {told}", " ".repeat(column), paint.red("▲"))
        } else {
            let before = column.saturating_sub(told.len() + 1);
            format!("{}{told} {}", " ".repeat(before), paint.red("▲"))
        };
        format!("  {note}")
    });
    format!("  {}{}\n{mark}\n\n", paint.green(&rates), paint.dim(&ahead))
}

fn outage_told(outage: Outage) -> String {
    let killed = outage.killed as f64 / 1e9;
    match outage.serving {
        Some(serving) => {
            let silent = Period(Duration::from_nanos(serving - outage.killed));
            format!("killed at {killed:.1} s, {silent} of silence")
        }
        None => format!("killed at {killed:.1} s"),
    }
}

fn line(picture: &Picture<'_>, trend: &Trend) -> String {
    let tally = picture.ledger.tally();
    let ready: u64 = Class::ALL.iter().map(|class| depth(picture.counts, *class).0).sum();
    let steady = Percentiles::of(&picture.ledger.publish().steady);
    format!(
        "{:>6.1} s  {:>5}/s  published {}  acknowledged {}  consumed {}  ready {}  publish p50 {} p99 {}\n",
        picture.now as f64 / 1e9,
        grouped(trend.rate(|tally| tally.acknowledged)),
        grouped(tally.published),
        grouped(tally.acknowledged),
        grouped(tally.consumed),
        grouped(ready),
        duration(steady.p50),
        duration(steady.p99),
    )
}

/// The verdict for people.
pub(super) fn table(verdict: &Verdict, colours: bool) -> String {
    let paint = Paint { colours };
    let mut text = String::new();
    let mut row = |name: &str, value: String, remark: &str| {
        let line = format!("  {name:<16}{value:>12}  {remark}");
        writeln!(text, "{}", line.trim_end()).expect("a String takes everything");
    };
    row("published", grouped(verdict.published), "");
    row("acknowledged", grouped(verdict.acknowledged), "");
    row("consumed", grouped(verdict.consumed), "");
    row(
        "redelivered",
        grouped(verdict.redelivered),
        &paint.dim("again, after its lease or its leader ended"),
    );
    if verdict.retried > 0 {
        row(
            "offered again",
            grouped(verdict.retried),
            &paint.dim("refused for a moment, by a node that had no room or no leader"),
        );
    }
    for (name, count) in
        [("refused", verdict.refused), ("unresolved", verdict.unresolved), ("garbled", verdict.garbled)]
    {
        if count > 0 {
            row(name, grouped(count), &paint.red("✗"));
        }
    }
    let judged = |good: bool| if good { paint.green("✓") } else { paint.red("✗") };
    row("lost", grouped(verdict.lost), &judged(verdict.lost == 0));
    row("duplicated", grouped(verdict.duplicated), &judged(verdict.duplicated == 0));
    row("out of order", grouped(verdict.out_of_order), &judged(verdict.out_of_order == 0));
    let exact = judged(verdict.depth_exact);
    row("depth ready", grouped(verdict.depth_ready), &exact);
    row("depth in flight", grouped(verdict.depth_in_flight), &exact);
    outage_rows(verdict, &mut row, paint);
    for node in &verdict.absent {
        writeln!(text, "  {} node {node} does not have everything", paint.red("✗"))
            .expect("a String takes everything");
    }
    for fault in verdict.depth_faults.iter().chain(&verdict.refusals) {
        writeln!(text, "  {} {fault}", paint.red("✗")).expect("a String takes everything");
    }
    let heading = format!("  {:<16}{:>12}{:>12}{:>12}{:>12}", "latency", "p50", "p99", "p99.9", "max");
    writeln!(text, "\n{}", paint.dim(&heading)).expect("a String takes everything");
    for (name, figures) in [
        ("publish", &verdict.publish_steady_us),
        ("deliver", &verdict.deliver_steady_us),
        ("publish + outage", &verdict.publish_us),
        ("deliver + outage", &verdict.deliver_us),
    ] {
        text.push_str(&percentiles(&format!("{name:<16}"), figures));
    }
    writeln!(text, "\n  {}", sentence(verdict, paint)).expect("a String takes everything");
    text
}

fn outage_rows(verdict: &Verdict, row: &mut impl FnMut(&str, String, &str), paint: Paint) {
    let Some(node) = verdict.killed else { return };
    let told =
        |milliseconds: Option<f64>| milliseconds.map_or_else(|| "-".to_owned(), |ms| duration(ms * 1e3));
    let missing = |milliseconds: Option<f64>| milliseconds.is_none() && !verdict.interrupted;
    let mark = |milliseconds, remark: String| {
        if missing(milliseconds) { format!("{} {remark}", paint.red("✗")) } else { paint.dim(&remark) }
    };
    let failover = if verdict.nodes == 1 {
        "from the kill to the next acknowledgement".to_owned()
    } else {
        format!("until what node {node} led was acknowledged again")
    };
    row("failover", told(verdict.failover_ms), &mark(verdict.failover_ms, failover));
    if verdict.nodes > 1 {
        let catch_up = format!("from the start of node {node} until it was current");
        row("catch-up", told(verdict.catch_up_ms), &mark(verdict.catch_up_ms, catch_up));
    }
}

fn sentence(verdict: &Verdict, paint: Paint) -> String {
    match (verdict.ok, verdict.interrupted) {
        (true, false) => paint
            .green("Every acknowledged message was delivered, was stored once, and every count is exact."),
        (true, true) => {
            paint.green("Ended early; so far nothing was lost or stored twice, and every count is exact.")
        }
        (false, _) => paint.red("The promises were not kept."),
    }
}

#[cfg(test)]
mod tests {
    use super::super::standing::{NodeStanding, Reach};
    use super::super::telemetry::Topic;
    use super::super::verdict::{Event, Stamp};
    use super::*;

    const PLAIN: Paint = Paint { colours: false };

    fn ledger(killed: bool) -> Ledger {
        let mut ledger = Ledger::new(3);
        for number in 0..4_000 {
            if killed && number == 2_000 {
                ledger.on_killed(2, &[Topic::Cores], 2 * SECOND);
                ledger.on_gone(2 * SECOND + SECOND / 10);
            }
            let stamp = Stamp { producer: 0, number, offered: number * SECOND / 1_000 };
            let (topic, class) = (Topic::Cores, Class::Core);
            ledger.on_event(Event::Offered { stamp, topic, class });
            ledger.on_event(Event::Acknowledged { stamp, at: stamp.offered + 200_000 });
        }
        ledger
    }

    const NOBODY: &Standing = &Standing { asked: 0, nodes: Vec::new() };

    fn picture(ledger: &Ledger) -> Picture<'_> {
        let (now, phase) = (4 * SECOND, Phase::Running);
        Picture { title: "one node", now, seconds: 12, phase, ledger, counts: &[], standing: NOBODY }
    }

    #[test]
    fn the_dashboard_keeps_its_shape() {
        let ledger = ledger(true);
        let counts = [Counts { levels: vec![(7, 1_234, 5), (1, 617, 0)], ..Counts::default() }];
        let text = render(&Picture { counts: &counts, ..picture(&ledger) }, &Trend::new(12), PLAIN);
        let before = render(&picture(&Ledger::new(3)), &Trend::new(12), PLAIN);
        assert_eq!(text.lines().count(), before.lines().count(), "a line more would tear the screen");
        for expected in
            ["  7 cores              1,234           5  ██████████████████████████████████", "4.0 of 12 s"]
        {
            assert!(text.contains(expected), "{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn each_node_has_a_line() {
        let mut ledger = ledger(true);
        let lead = |topic, term| (topic, term);
        let node = |node, leads, reach| NodeStanding { node, leads, reach };
        let nodes = vec![
            node(1, Topic::ALL.map(|topic| lead(topic, 12)).to_vec(), Reach::Current),
            node(2, vec![lead(Topic::Cores, 1)], Reach::Behind(12_345)),
            node(3, Vec::new(), Reach::ReceivesCheckpoint),
        ];
        let standing = Standing { asked: 0, nodes };
        let text = |ledger: &Ledger| {
            let picture = Picture { standing: &standing, phase: Phase::Down, ..picture(ledger) };
            render(&picture, &Trend::new(12), PLAIN)
        };
        for expected in [
            "  1     cores (12), devices (12), processes (12), counters (12) current\n",
            "  2     -                                                       killed 2.0 s\n",
            "  3     -                                                       gets checkpoint\n",
            "  node 2 is down: 2.0 s without acknowledgement  ",
        ] {
            assert!(text(&ledger).contains(expected), "{}", text(&ledger));
        }
        let longest = text(&ledger).lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "{}", text(&ledger));
        ledger.on_restarted(3 * SECOND);
        assert!(text(&ledger).contains(" 12,345 behind\n"), "{}", text(&ledger));
    }

    #[test]
    fn the_kill_stands_under_its_moment() {
        let ledger = ledger(true);
        let mut trend = Trend::new(12);
        trend.on_tally(SECOND, ledger.tally());
        let text = timeline(&picture(&ledger), &trend, PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], format!("  {}▲ killed at 2.0 s, 100 ms of silence", " ".repeat(11)));
        assert!(lines[0].starts_with("  ▄▄▄▄▄▄  "), "{text}");
        let late = Picture { seconds: 2, ..picture(&ledger) };
        let told = timeline(&late, &Trend::new(2), PLAIN);
        assert!(told.lines().nth(1).unwrap().ends_with("100 ms of silence ▲"), "{told}");
    }

    #[test]
    fn rates_are_those_of_the_last_second() {
        let mut trend = Trend::new(12);
        for tenth in 0..=30 {
            let acknowledged = if tenth <= 10 { 0 } else { (tenth - 10) * 300 };
            trend.on_tally(tenth * SECOND / 10, Tally { acknowledged, ..Tally::default() });
        }
        assert_eq!(trend.rate(|tally| tally.acknowledged), 3_000);
    }

    #[test]
    fn bars_are_drawn_in_eighths() {
        for (amount, shown) in [(0, ""), (1, "▏"), (80, "██████████"), (81, "██████████▏")]
        {
            assert_eq!(bar(amount, 8 * BAR_CELLS as u64), shown, "{amount}");
        }
    }

    #[test]
    fn the_table_says_what_went_wrong() {
        let verdict = ledger(false).verdict(None, 4.0, true);
        let text = table(&verdict, false);
        assert!(text.contains("  lost                   4,000  ✗\n"), "{text}");
        assert!(text.contains("  duplicated                 0  ✓\n"), "{text}");
        assert!(text.contains("✗ the broker could not be asked"), "{text}");
        assert!(text.ends_with("The promises were not kept.\n"), "{text}");
    }
}
