//! `ringmain queue …`.

use std::fmt::Write as _;

use ringmain_client::{QueueInfo, QueueSettings};
use ringmain_core::config::{Bytes, Period};
use serde::Serialize;

use super::Failure;
use super::args::{Connect, Durability, Format, Overflow, Queue, QueueAction, Settings};
use super::link::{self, about};
use super::output::{Column, Table, counted, grouped, print_json, print_text};

/// A queue as JSON shows it.
#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    queue: u64,
    shard: u32,
    settings: SettingsRecord<'a>,
    consumers: u32,
    ready: u64,
    ready_bytes: u64,
    in_flight: u64,
    in_flight_bytes: u64,
    published: u64,
    acknowledged: u64,
    group: u32,
    /// The counts are exact at this commit.
    term: u64,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    levels: Option<Vec<LevelRecord>>,
}

#[derive(Serialize)]
struct SettingsRecord<'a> {
    priorities: u16,
    durability: &'static str,
    overflow: &'static str,
    max_length: u64,
    max_bytes: u64,
    lease_ms: u32,
    max_deliveries: u32,
    ttl_ms: u64,
    dead_letter: &'a str,
}

#[derive(Serialize)]
struct LevelRecord {
    priority: u8,
    ready: u64,
    ready_bytes: u64,
    in_flight: u64,
    in_flight_bytes: u64,
}

/// What was changed, and how many messages that concerned.
#[derive(Serialize)]
struct Change<'a> {
    queue: &'a str,
    done: &'static str,
    messages: u64,
}

pub(super) fn run(queue: Queue) -> Result<(), Failure> {
    let Connect { connect, output } = queue.connect;
    // A setting that cannot be sent is refused before anybody is called.
    let settings = match &queue.action {
        QueueAction::Create { settings, .. } => Some(wire_settings(settings)?),
        _ => None,
    };
    let client = link::dial(&connect)?;
    match queue.action {
        QueueAction::Create { name, .. } => {
            let settings = settings.expect("only Create comes here, and it has settings");
            client.create_queue(&name, &settings).map_err(about(&name))?;
            change(output, &Change { queue: &name, done: "created", messages: 0 })
        }
        QueueAction::Show { name } => show(output, &client.show_queue(&name).map_err(about(&name))?),
        QueueAction::List => list(output, &client.list_queues()?),
        QueueAction::Delete { name } => {
            let messages = client.delete_queue(&name).map_err(about(&name))?;
            change(output, &Change { queue: &name, done: "deleted", messages })
        }
        QueueAction::Purge { name } => {
            let messages = client.purge_queue(&name).map_err(about(&name))?;
            change(output, &Change { queue: &name, done: "purged", messages })
        }
    }
}

/// The settings in the words of the wire. What they may be together is for the broker to say.
fn wire_settings(settings: &Settings) -> Result<QueueSettings, Failure> {
    let milliseconds = |period: Period| period.0.as_millis();
    let lease_ms = u32::try_from(milliseconds(settings.lease))
        .map_err(|_| Failure::told(format!("a lease of {} is longer than 49 days", settings.lease)))?;
    let ttl_ms = settings.ttl.map_or(0, milliseconds);
    Ok(QueueSettings {
        priorities: settings.priorities,
        durability: match settings.durability {
            Durability::QuorumDisk => 0,
            Durability::QuorumMemory => 1,
        },
        overflow: match settings.overflow {
            Overflow::Reject => 0,
            Overflow::DropOldest => 1,
            Overflow::DeadLetter => 2,
        },
        max_length: settings.max_length,
        max_bytes: settings.max_bytes.0,
        lease_ms,
        max_deliveries: settings.max_deliveries,
        ttl_ms: u64::try_from(ttl_ms)
            .expect("a period in nanoseconds fits 64 bits, and milliseconds are fewer"),
        dead_letter: settings.dead_letter.clone(),
    })
}

fn change(output: Format, change: &Change<'_>) -> Result<(), Failure> {
    match output {
        Format::Json => print_json(change),
        Format::Text if change.done == "created" => print_text(&format!("created {}\n", change.queue)),
        Format::Text => {
            let messages = counted(change.messages, "message");
            print_text(&format!("{} {}: {messages} gone\n", change.done, change.queue))
        }
    }
}

fn show(output: Format, info: &QueueInfo) -> Result<(), Failure> {
    match output {
        Format::Json => print_json(&record(info, true)),
        Format::Text => print_text(&page(info)),
    }
}

fn list(output: Format, queues: &[QueueInfo]) -> Result<(), Failure> {
    match output {
        Format::Json => print_json(&queues.iter().map(|info| record(info, false)).collect::<Vec<_>>()),
        Format::Text if queues.is_empty() => {
            eprintln!("there are no queues");
            Ok(())
        }
        Format::Text => print_text(&overview(queues)),
    }
}

fn overview(queues: &[QueueInfo]) -> String {
    let mut table = Table::new(&[
        Column::Left("NAME"),
        Column::Right("READY"),
        Column::Right("IN FLIGHT"),
        Column::Right("BYTES"),
        Column::Right("CONSUMERS"),
        Column::Right("PRIORITIES"),
        Column::Right("SHARD"),
    ]);
    for info in queues {
        table.row(vec![
            info.name.clone(),
            grouped(info.ready),
            grouped(info.in_flight),
            Bytes(info.ready_bytes + info.in_flight_bytes).to_string(),
            grouped(u64::from(info.consumers)),
            info.settings.priorities.to_string(),
            info.shard.to_string(),
        ]);
    }
    table.render("")
}

/// Everything about one queue on a page.
fn page(info: &QueueInfo) -> String {
    let mut text = format!("{}\n\n", info.name);
    let mut line = |name: &str, value: String, remark: &str| {
        let line = format!("  {name:<14}  {value:>14}  {remark}");
        writeln!(text, "{}", line.trim_end()).expect("a String takes everything");
    };
    line("ready", grouped(info.ready), &bytes(info.ready, info.ready_bytes));
    line("in flight", grouped(info.in_flight), &bytes(info.in_flight, info.in_flight_bytes));
    line("published", grouped(info.published), "");
    line("acknowledged", grouped(info.acknowledged), "");
    line("consumers", grouped(u64::from(info.consumers)), "");
    line("exact at index", grouped(info.index), &format!("of term {}, group {}", info.term, info.group));
    line("shard", info.shard.to_string(), "");
    text.push('\n');
    if !info.levels.is_empty() {
        let columns = ["PRIORITY", "READY", "BYTES", "IN FLIGHT", "BYTES"].map(Column::Right);
        let mut table = Table::new(&columns);
        for level in info.levels.iter().rev() {
            table.row(vec![
                level.priority.to_string(),
                grouped(level.ready),
                Bytes(level.ready_bytes).to_string(),
                grouped(level.in_flight),
                Bytes(level.in_flight_bytes).to_string(),
            ]);
        }
        text.push_str(&table.render("  "));
        text.push('\n');
    }
    text.push_str(&rules(&info.settings));
    text
}

fn bytes(count: u64, bytes: u64) -> String {
    if count == 0 { String::new() } else { Bytes(bytes).to_string() }
}

/// The settings, of which those that ask for nothing are left out.
fn rules(settings: &QueueSettings) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<14}  {value:>14}").expect("a String takes everything");
    };
    let milliseconds = |milliseconds: u64| Period(std::time::Duration::from_millis(milliseconds)).to_string();
    line("priorities", settings.priorities.to_string());
    line("lease", milliseconds(u64::from(settings.lease_ms)));
    line("durability", durability(settings.durability).to_owned());
    line("overflow", overflow(settings.overflow).to_owned());
    if settings.max_length > 0 {
        line("max length", grouped(settings.max_length));
    }
    if settings.max_bytes > 0 {
        line("max bytes", Bytes(settings.max_bytes).to_string());
    }
    if settings.max_deliveries > 0 {
        line("max deliveries", grouped(u64::from(settings.max_deliveries)));
    }
    if settings.ttl_ms > 0 {
        line("ttl", milliseconds(settings.ttl_ms));
    }
    if !settings.dead_letter.is_empty() {
        line("dead letter", settings.dead_letter.clone());
    }
    text
}

fn durability(durability: u8) -> &'static str {
    match durability {
        0 => "quorum-disk",
        1 => "quorum-memory",
        _ => "unknown",
    }
}

fn overflow(overflow: u8) -> &'static str {
    match overflow {
        0 => "reject",
        1 => "drop-oldest",
        2 => "dead-letter",
        _ => "unknown",
    }
}

fn record(info: &QueueInfo, with_levels: bool) -> Record<'_> {
    let settings = &info.settings;
    let levels = info.levels.iter().map(|level| LevelRecord {
        priority: level.priority,
        ready: level.ready,
        ready_bytes: level.ready_bytes,
        in_flight: level.in_flight,
        in_flight_bytes: level.in_flight_bytes,
    });
    Record {
        name: &info.name,
        queue: info.queue,
        shard: info.shard,
        settings: SettingsRecord {
            priorities: settings.priorities,
            durability: durability(settings.durability),
            overflow: overflow(settings.overflow),
            max_length: settings.max_length,
            max_bytes: settings.max_bytes,
            lease_ms: settings.lease_ms,
            max_deliveries: settings.max_deliveries,
            ttl_ms: settings.ttl_ms,
            dead_letter: &settings.dead_letter,
        },
        consumers: info.consumers,
        ready: info.ready,
        ready_bytes: info.ready_bytes,
        in_flight: info.in_flight,
        in_flight_bytes: info.in_flight_bytes,
        published: info.published,
        acknowledged: info.acknowledged,
        group: info.group,
        term: info.term,
        index: info.index,
        levels: with_levels.then(|| levels.collect()),
    }
}

#[cfg(test)]
mod tests {
    use ringmain_client::LevelInfo;

    use super::*;

    fn orders() -> QueueInfo {
        QueueInfo {
            name: "orders".to_owned(),
            queue: 17,
            settings: QueueSettings { priorities: 10, max_bytes: 64 << 20, ..QueueSettings::default() },
            shard: 1,
            group: 3,
            term: 2,
            index: 5_120,
            consumers: 2,
            ready: 1_204,
            ready_bytes: 12 << 20,
            in_flight: 0,
            in_flight_bytes: 0,
            published: 120_332,
            acknowledged: 119_128,
            levels: vec![
                LevelInfo { priority: 0, ready: 1_200, ready_bytes: 12 << 20, ..LevelInfo::default() },
                LevelInfo { priority: 9, ready: 4, ready_bytes: 100, ..LevelInfo::default() },
            ],
        }
    }

    #[test]
    fn queues_are_listed_in_columns() {
        let small = QueueInfo { name: "a".to_owned(), ..QueueInfo::default() };
        let expected = "\
NAME    READY  IN FLIGHT   BYTES  CONSUMERS  PRIORITIES  SHARD
a           0          0     0 B          0           1      0
orders  1,204          0  12 MiB          2          10      1
";
        assert_eq!(overview(&[small, orders()]), expected);
    }

    #[test]
    fn a_queue_fills_a_page() {
        let expected = "\
orders

  ready                    1,204  12 MiB
  in flight                    0
  published              120,332
  acknowledged           119,128
  consumers                    2
  exact at index           5,120  of term 2, group 3
  shard                        1

  PRIORITY  READY   BYTES  IN FLIGHT  BYTES
         9      4   100 B          0    0 B
         0  1,200  12 MiB          0    0 B

  priorities                  10
  lease                     30 s
  durability         quorum-disk
  overflow                reject
  max bytes               64 MiB
";
        assert_eq!(page(&orders()), expected);
    }

    #[test]
    fn json_leaves_nothing_out() {
        let json = serde_json::to_value(record(&orders(), true)).unwrap();
        assert_eq!(json["settings"]["durability"], "quorum-disk");
        assert_eq!(json["levels"][1]["ready"], 4);
        assert_eq!(json["index"], 5_120);
        assert!(serde_json::to_value(record(&orders(), false)).unwrap().get("levels").is_none());
    }
}
