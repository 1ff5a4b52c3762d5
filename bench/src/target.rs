//! What a node should reach, beside what it did.

use crate::table::{Cell, Table};

#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, reached: f64) -> bool {
        match self {
            Self::AtMost(limit) => reached <= limit,
            Self::AtLeast(limit) => reached >= limit,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) what: &'static str,
    pub(crate) bound: Bound,
    /// How a figure of this target is shown.
    pub(crate) unit: fn(f64) -> Cell,
    /// `None`: not measured.
    pub(crate) reached: Option<f64>,
}

pub(crate) fn table(targets: &[Target]) -> Table {
    let columns = [
        ("target", "target"),
        ("", "bound"),
        ("wanted", "wanted"),
        ("reached", "reached"),
        ("verdict", "verdict"),
    ];
    let mut table = Table::new("targets", "targets", &columns);
    for target in targets {
        let (bound, wanted) = match target.bound {
            Bound::AtMost(limit) => ("at most", limit),
            Bound::AtLeast(limit) => ("at least", limit),
        };
        let verdict = match target.reached {
            Some(reached) if target.bound.holds(reached) => "reached",
            Some(_) => "missed",
            None => "not measured",
        };
        table.row(vec![
            Cell::text(target.what),
            Cell::text(bound),
            (target.unit)(wanted),
            target.reached.map_or(Cell::Missing, target.unit),
            Cell::text(verdict),
        ]);
    }
    table
}

/// The middle one of some figures, or the mean of the middle two.
pub(crate) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 {
        return Some(figures[middle]);
    }
    Some((figures.get(middle.checked_sub(1)?)? + figures.get(middle)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_include_their_limit() {
        assert!(Bound::AtMost(1.15).holds(1.15));
        assert!(!Bound::AtMost(1.15).holds(1.16));
        assert!(Bound::AtLeast(0.7).holds(0.7));
        assert!(!Bound::AtLeast(0.7).holds(0.69));
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
