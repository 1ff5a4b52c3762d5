//! Sizes and periods as people write them: `64MiB`, `30s`. One parser for the configuration file and the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// A number of bytes, written `4096`, `64KiB`, `1.5GiB` or, in thousands, `10MB`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A length of time, written `250us`, `20ms`, `30s`, `5m`, `1h` or `7d`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

const BYTE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const PERIOD_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// The text as a whole number of the smallest unit; `None` when it is not a number with one of the units, or too large.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits =
        text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.' || *byte == b'_').count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, scale) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    let fraction_digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(*scale)?;
    let part = if fraction.is_empty() { 0 } else { u128::from(fraction.parse::<u64>().ok()?) };
    let part = part * u128::from(*scale) / 10_u128.pow(fraction_digits);
    whole.checked_add(u64::try_from(part).ok()?)
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, BYTE_UNITS)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no size: write 4096, 64KiB or 1.5GiB"))
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let nanoseconds = parse(text, PERIOD_UNITS);
        let period = nanoseconds.map(|nanoseconds| Self(Duration::from_nanos(nanoseconds)));
        period.ok_or_else(|| format!("`{text}` is no length of time: write 20ms, 30s, 5m, 1h or 7d"))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut amount = self.0 as f64;
        let mut unit = 0;
        // 1023.95 would be printed as 1024.0, which belongs to the next unit.
        while amount >= 1023.95 {
            amount /= 1024.0;
            unit += 1;
        }
        let text = format!("{amount:.1}");
        formatter.pad(&format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), units[unit]))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        let seconds = self.0.as_secs_f64();
        let text = match nanoseconds {
            0 => "0 s".to_owned(),
            1..1_000 => format!("{nanoseconds} ns"),
            1_000..1_000_000 => format!("{} µs", significant(seconds * 1e6)),
            1_000_000..1_000_000_000 => format!("{} ms", significant(seconds * 1e3)),
            _ if seconds < 120.0 => format!("{} s", significant(seconds)),
            _ if seconds < 7_200.0 => format!("{} min", significant(seconds / 60.0)),
            _ if seconds < 172_800.0 => format!("{} h", significant(seconds / 3_600.0)),
            _ => format!("{} d", significant(seconds / 86_400.0)),
        };
        formatter.pad(&text)
    }
}

/// Three digits are what a person reads: 1.23, 12.3, 123; a whole number stands without a point.
fn significant(amount: f64) -> String {
    let text = match amount {
        ..9.995 => format!("{amount:.2}"),
        ..99.95 => format!("{amount:.1}"),
        _ => format!("{amount:.0}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// In TOML a size is a number of bytes or a text.
impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Bytes;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a size such as 4096 or \"64MiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                u64::try_from(bytes).map(Bytes).map_err(|_| E::custom("a size is not negative"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// In TOML a length of time is a text: a bare number would leave its unit to guessing.
impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("1.5GiB", 1_610_612_736),
            ("10MB", 10_000_000),
            ("1_000", 1_000),
            ("17179869184GiB", 0),
            ("", 0),
            (".5MiB", 0),
            ("5.MiB", 0),
            ("-1", 0),
            ("1.2.3", 0),
            ("5 apples", 0),
        ] {
            let expected = if bytes == 0 && text != "0" { None } else { Some(Bytes(bytes)) };
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn periods_need_a_unit() {
        for (text, milliseconds) in
            [("20ms", 20), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(text.parse(), Ok(Period(Duration::from_millis(milliseconds))), "{text:?}");
        }
        for text in ["30", "", "s", "1y", "9999999999999d"] {
            assert!(text.parse::<Period>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn quantities_are_shown_in_three_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
        for (nanoseconds, shown) in [
            (0, "0 s"),
            (900, "900 ns"),
            (1_234, "1.23 µs"),
            (12_340, "12.3 µs"),
            (123_400_000, "123 ms"),
            (30_000_000_000, "30 s"),
            (5_400_000_000_000, "90 min"),
        ] {
            assert_eq!(Period(Duration::from_nanos(nanoseconds)).to_string(), shown);
        }
    }
}
