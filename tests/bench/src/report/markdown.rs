//! The table.

use super::{Entry, Measured, Metric, Run};
use crate::statistics::Spread;

struct Column {
    title: &'static str,
    metric: Metric,
    /// From the unit that is measured to the one that is printed.
    scale: f64,
    digits: usize,
    ratio: bool,
}

const fn column(title: &'static str, metric: Metric, scale: f64, digits: usize, ratio: bool) -> Column {
    Column { title, metric, scale, digits, ratio }
}

const COLUMNS: [Column; 12] = [
    column("CPU µs", Metric::Cpu, 1.0, 1, true),
    column("of it user µs", Metric::CpuUser, 1.0, 1, true),
    column("CPU µs beside the others", Metric::CpuTogether, 1.0, 1, true),
    column("a second", Metric::Rate, 1.0, 0, true),
    column("CPU µs at full load", Metric::CpuSaturated, 1.0, 1, true),
    column("added p50 µs", Metric::P50, 1.0, 0, true),
    column("added p99 µs", Metric::P99, 1.0, 0, true),
    column("added p99.9 µs", Metric::P999, 1.0, 0, true),
    column("PSS idle MB", Metric::PssIdle, 1.0 / 1024.0, 1, false),
    column("PSS loaded MB", Metric::PssLoaded, 1.0 / 1024.0, 1, false),
    column("CPU ms a second, idle", Metric::CpuIdle, 1.0 / 1000.0, 2, false),
    column("KiB a connection", Metric::PerConnection, 1.0, 1, false),
];

/// The whole run.
pub(super) fn table(run: &Run) -> String {
    let mut text = String::from("# whichpod, HAProxy, nginx and Envoy in one run\n\n");
    for (name, value) in &run.facts {
        text.push_str(&format!("- {name}: {value}\n"));
    }
    text.push_str(
        "\nMedian (lower to upper quartile). × is whichpod's value by this one's, the median over rounds: below 1.00 \
         whichpod takes less. CPU is at the same offered load for all of a row, 70 % of what the slowest can do, one \
         after another; beside the others: all at the same time on the same core, with their part of that load each; \
         added latency at 30 % of it, against the same requests without a proxy.\n",
    );
    for measured in &run.rows {
        text.push_str(&row(measured));
    }
    text
}

fn row(measured: &Measured) -> String {
    let results = &measured.results;
    let columns: Vec<_> =
        COLUMNS.iter().filter(|column| results.iter().any(|r| r.spread(column.metric).is_some())).collect();
    let workers = if measured.workers == 1 { "1 worker" } else { &format!("{} workers", measured.workers) };
    let (title, unit) = (measured.row.title, measured.row.protocol.unit());
    let mut text = format!("\n## {title} ({workers}; per {unit})\n\n| |");
    columns.iter().for_each(|column| text.push_str(&format!(" {} |", column.title)));
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(columns.len())));
    for (index, (contestant, result)) in std::iter::zip(measured.row.contestants, results).enumerate() {
        text.push_str(&format!("| {} |", contestant.label));
        match result {
            Entry::Measured(_) => {
                for column in &columns {
                    let ratio = (column.ratio && index > 0).then(|| result.ratio(&results[0], column.metric));
                    let cell = cell(column, result.spread(column.metric), ratio.flatten());
                    text.push_str(&format!(" {cell} |"));
                }
            }
            Entry::Cannot(reason) => text.push_str(&format!(" cannot: {} |", escaped(reason))),
            Entry::NotYet(reason) => text.push_str(&format!(" **not yet**: {} |", escaped(reason))),
            Entry::Failed(reason) => text.push_str(&format!(" **failed**: {} |", escaped(reason))),
        }
        text.push('\n');
    }
    text
}

fn cell(column: &Column, spread: Option<Spread>, ratio: Option<Spread>) -> String {
    let Some(Spread { median, low, high }) = spread else { return "-".to_owned() };
    let print = |value: f64| format!("{:.*}", column.digits, value * column.scale);
    let mut text = print(median);
    if low < high {
        text.push_str(&format!(" ({}–{})", print(low), print(high)));
    }
    if let Some(Spread { median, low, high }) = ratio {
        text.push_str(&format!(", × {median:.2} ({low:.2}–{high:.2})"));
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_value_spread_and_ratio_and_who_could_not() {
        let text = table(&crate::report::tests::run());
        assert!(text.contains("| whichpod | 11.0 (10.5–11.5) | 4.0 |"), "{text}");
        assert!(text.contains("| HAProxy | 22.0 (21.0–23.0), × 0.50 (0.50–0.50) | 8.0 |"), "{text}");
        assert!(text.contains("| nginx | cannot: it asks <once> |"), "{text}");
        assert!(text.contains("| Envoy | **failed**: 3 of 9 requests failed |"), "{text}");
    }
}
