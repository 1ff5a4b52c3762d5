//! Latencies in nanoseconds, recorded in a histogram of three significant digits, and its `.hgrm` form.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::{Doing, Result};

/// What is longer counts as this long.
const LATENCY_NS_MAX: u64 = 600 * 1_000_000_000;

#[derive(Clone)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds are valid");
        Self { histogram }
    }

    pub(crate) fn record(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns);
    }

    pub(crate) fn record_duration(&mut self, latency: Duration) {
        self.record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::new();
        all.for_each(|each| sum.add(each));
        sum
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all histograms here have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// In nanoseconds: at most this long took the given share (0 to 1) of them.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        self.histogram.value_at_quantile(share)
    }

    pub(crate) fn max(&self) -> u64 {
        self.histogram.max()
    }

    /// Writes `DIR/NAME.hgrm`, the percentile distribution in microseconds that HdrHistogram's plotters read.
    pub(crate) fn write_hgrm(&self, directory: &Path, name: &str) -> Result<PathBuf> {
        std::fs::create_dir_all(directory).doing(|| format!("creating {}", directory.display()))?;
        let path = directory.join(format!("{name}.hgrm"));
        let mut text = Vec::new();
        self.format_hgrm(&mut text).expect("a vector takes all that is written");
        std::fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn format_hgrm(&self, out: &mut impl Write) -> io::Result<()> {
        const STEPS_PER_HALF_DISTANCE: u32 = 5;
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1_000.0;
        writeln!(
            out,
            "{:>12} {:>14} {:>10} {:>14}\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        let mut total = 0;
        for step in self.histogram.iter_quantiles(STEPS_PER_HALF_DISTANCE) {
            total += step.count_since_last_iteration();
            let (value, share) = (microseconds(step.value_iterated_to()), step.quantile_iterated_to());
            if share < 1.0 {
                writeln!(out, "{value:>12.3} {share:>14.12} {total:>10} {:>14.2}", 1.0 / (1.0 - share))?;
            } else {
                writeln!(out, "{value:>12.3} {share:>14.12} {total:>10}")?;
            }
        }
        let (mean, deviation) = (self.histogram.mean() / 1_000.0, self.histogram.stdev() / 1_000.0);
        writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
        writeln!(
            out,
            "#[Max     = {:>12.3}, Total count    = {:>12}]",
            microseconds(self.max()),
            self.count()
        )?;
        writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", self.histogram.buckets(), 2_048)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_three_digits() {
        let mut latencies = Latencies::new();
        (1..=1_000).for_each(|microseconds| latencies.record(microseconds * 1_000));
        assert_eq!(latencies.count(), 1_000);
        assert!(latencies.quantile(0.5).abs_diff(500_000) <= 500);
        assert!(latencies.max().abs_diff(1_000_000) <= 1_000);
    }

    #[test]
    fn absurdly_long_latency_is_counted() {
        let mut latencies = Latencies::new();
        latencies.record(u64::MAX);
        latencies.record(0);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.max() >= LATENCY_NS_MAX);
    }

    #[test]
    fn hgrm_ends_with_all_counted_and_totals() {
        let mut latencies = Latencies::new();
        (1..=100).for_each(|microseconds| latencies.record(microseconds * 1_000));
        let mut text = Vec::new();
        latencies.format_hgrm(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(fields, ["100.031", "1.000000000000", "100"]);
        assert!(text.contains("Total count    =          100]"));
    }
}
