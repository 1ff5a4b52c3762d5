//! A report: a heading of facts and tables of figures, printed as aligned text or as one JSON object.
//!
//! A cell keeps its raw figure; the text form rounds it and puts the unit into the column's title, the JSON form gives
//! it in full under the column's key.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Map, Value, json};

use crate::error::{Doing, Result};

#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Text(String),
    Count(u64),
    /// Shown in microseconds.
    Nanoseconds(u64),
    PerSecond(f64),
    /// Shown in MB/s (10⁶ bytes).
    BytesPerSecond(f64),
    /// 1.0 is 100 %.
    Share(f64),
    /// A ratio.
    Times(f64),
    Number(f64),
    Missing,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => grouped(*count),
            Self::Nanoseconds(nanoseconds) => with_digits(*nanoseconds as f64 / 1_000.0),
            Self::PerSecond(rate) => grouped(rate.round() as u64),
            Self::BytesPerSecond(rate) => with_digits(*rate / 1e6),
            Self::Share(share) => format!("{:.0} %", share * 100.0),
            Self::Times(ratio) => format!("{ratio:.2} ×"),
            Self::Number(value) => with_digits(*value),
            Self::Missing => "–".to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Count(count) => json!(count),
            Self::Nanoseconds(nanoseconds) => json!(*nanoseconds as f64 / 1_000.0),
            Self::PerSecond(value) | Self::BytesPerSecond(value) => json!(value),
            Self::Share(value) | Self::Times(value) | Self::Number(value) => json!(value),
            Self::Missing => Value::Null,
        }
    }

    fn is_figure(&self) -> bool {
        !matches!(self, Self::Text(_))
    }
}

/// `1234567` as `1,234,567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One decimal below a thousand, none and grouped from there on.
fn with_digits(value: f64) -> String {
    if value < 9.95 {
        format!("{value:.2}")
    } else if value < 999.95 {
        format!("{value:.1}")
    } else {
        grouped(value.round() as u64)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Table {
    key: &'static str,
    title: String,
    columns: Vec<(&'static str, &'static str)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Columns are given as (title, JSON key).
    pub(crate) fn new(
        key: &'static str,
        title: impl Into<String>,
        columns: &[(&'static str, &'static str)],
    ) -> Self {
        assert!(!columns.is_empty());
        Self { key, title: title.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    fn write_text(&self, out: &mut String) {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::to_text).collect()).collect();
        let width = |column: usize| {
            let title = self.columns[column].0.chars().count();
            rows.iter().map(|row| row[column].chars().count()).fold(title, usize::max)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let is_right: Vec<bool> = (0..self.columns.len())
            .map(|column| self.rows.iter().any(|row| row[column].is_figure()))
            .collect();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::from(" ");
            for (column, cell) in cells.enumerate() {
                let padding = " ".repeat(widths[column] - cell.chars().count());
                let (before, after) = if is_right[column] { (padding.as_str(), "") } else { ("", &*padding) };
                let _ = write!(text, " {before}{cell}{after} ");
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(&mut self.columns.iter().map(|(title, _)| *title));
        let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        line(&mut rules.iter().map(String::as_str));
        for row in &rows {
            line(&mut row.iter().map(String::as_str));
        }
    }

    fn to_json(&self) -> Value {
        let row = |row: &Vec<Cell>| {
            let fields =
                self.columns.iter().zip(row).map(|((_, key), cell)| ((*key).to_owned(), cell.to_json()));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(row).collect())
    }
}

/// What a command answers.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// (name, fact), for example what machine this is.
    facts: Vec<(&'static str, String)>,
    tables: Vec<Table>,
}

impl Report {
    pub(crate) fn new(facts: Vec<(&'static str, String)>) -> Self {
        Self { facts, tables: Vec::new() }
    }

    pub(crate) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// The only thing a command writes to standard output.
    pub(crate) fn print(&self, output: Output) -> Result<()> {
        let text = match output {
            Output::Text => self.to_text(),
            Output::Json => format!("{}\n", self.to_json()),
        };
        std::io::stdout().write_all(text.as_bytes()).doing(|| "writing the report".to_owned())
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let width = self.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, fact) in &self.facts {
            let _ = writeln!(text, "{name}{}  {fact}", " ".repeat(width - name.chars().count()));
        }
        for table in &self.tables {
            let _ = writeln!(text, "\n{}\n", table.title);
            table.write_text(&mut text);
        }
        text
    }

    fn to_json(&self) -> Value {
        let mut object: Map<String, Value> =
            self.facts.iter().map(|(name, fact)| ((*name).to_owned(), json!(fact))).collect();
        for table in &self.tables {
            object.insert(table.key.to_owned(), table.to_json());
        }
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(vec![("machine", "two cores".to_owned())]);
        let columns = [("size", "size"), ("p50 µs", "p50_us"), ("writes/s", "writes_per_second")];
        let mut table = Table::new("writes", "durable writes", &columns);
        table.row(vec![Cell::text("4 KiB"), Cell::Nanoseconds(109_120), Cell::PerSecond(8_123.6)]);
        table.row(vec![Cell::text("256 KiB"), Cell::Nanoseconds(1_234_567), Cell::Missing]);
        report.table(table);
        report
    }

    #[test]
    fn text_is_aligned() {
        let expected = "\
machine  two cores

durable writes

  size     p50 µs  writes/s
  ───────  ──────  ────────
  4 KiB     109.1     8,124
  256 KiB   1,235         –
";
        assert_eq!(report().to_text(), expected);
    }

    #[test]
    fn json_keeps_the_raw_figures() {
        let value = report().to_json();
        assert_eq!(value["machine"], "two cores");
        assert_eq!(value["writes"][0]["p50_us"], 109.12);
        assert_eq!(value["writes"][1]["writes_per_second"], Value::Null);
    }

    #[test]
    fn figures_are_rounded_for_reading() {
        let check = |cell: Cell, expected: &str| assert_eq!(cell.to_text(), expected);
        check(Cell::Count(1_048_576), "1,048,576");
        check(Cell::Count(0), "0");
        check(Cell::Nanoseconds(5_954), "5.95");
        check(Cell::Nanoseconds(99_960), "100.0");
        check(Cell::BytesPerSecond(2.5e9), "2,500");
        check(Cell::Share(0.7), "70 %");
    }
}
