//! The plot: time on a core for each request, each by whichpod's in the same round.

use super::{Entry, Measured, Metric, Run};
use crate::statistics::Spread;

const LEFT: f64 = 320.0;
const WIDTH: f64 = 480.0;
const LINE: f64 = 18.0;
/// The longest bar, in times whichpod's.
const MOST: f64 = 4.0;

/// One bar for each contestant, with a whisker for the middle half of its rounds.
pub(super) fn svg(run: &Run) -> String {
    let mut marks = String::new();
    let mut y = 40.0;
    for measured in &run.rows {
        let title = format!("{} ({} worker(s))", measured.row.title, measured.workers);
        marks.push_str(&text(8.0, y, "start", "bold", &title));
        y += LINE;
        for (index, contestant) in measured.row.contestants.iter().enumerate() {
            marks.push_str(&text(LEFT - 8.0, y, "end", "normal", contestant.label));
            marks.push_str(&bar(measured, index, y));
            y += LINE;
        }
        y += LINE / 2.0;
    }
    let one = LEFT + WIDTH / MOST;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{title}\
         <line x1=\"{one}\" y1=\"28\" x2=\"{one}\" y2=\"{y:.0}\" stroke=\"#999\" stroke-dasharray=\"3\"/>\n{marks}</svg>\n",
        height = y + LINE,
        title = text(8.0, 18.0, "start", "bold", "CPU for each request, whichpod = 1 (less is better)"),
    )
}

fn bar(measured: &Measured, index: usize, y: f64) -> String {
    let result = &measured.results[index];
    let (Some(whichpod), Some(own)) = (values(&measured.results[0]), values(result)) else {
        let note = match result {
            Entry::Measured(_) => "",
            Entry::Cannot(_) => "cannot",
            Entry::NotYet(_) => "not yet",
            Entry::Failed(_) => "failed",
        };
        return text(LEFT, y, "start", "normal", note);
    };
    let Some(Spread { median, low, high }) = Spread::of_ratios(own, whichpod) else { return String::new() };
    let width = |value: f64| value.clamp(0.0, MOST) / MOST * WIDTH;
    let colour = if index == 0 { "#2a7f62" } else { "#8fa3ad" };
    format!(
        "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" fill=\"{colour}\"/>\n\
         <line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"black\"/>\n{}",
        y - 10.0,
        width(median),
        LEFT + width(low),
        y - 4.0,
        LEFT + width(high),
        y - 4.0,
        text(LEFT + width(high) + 6.0, y, "start", "normal", &format!("{median:.2}")),
    )
}

fn values(result: &Entry) -> Option<&Vec<f64>> {
    match result {
        Entry::Measured(metrics) => metrics.get(&Metric::Cpu),
        _ => None,
    }
}

fn text(x: f64, y: f64, anchor: &str, weight: &str, text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\">{escaped}</text>\n"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn bars_are_as_long_as_the_ratio_says() {
        let svg = super::svg(&crate::report::tests::run());
        assert!(svg.contains("width=\"120.0\" height=\"12\" fill=\"#2a7f62\""), "{svg}");
        assert!(svg.contains("width=\"240.0\" height=\"12\" fill=\"#8fa3ad\""), "{svg}");
        assert!(svg.contains(">failed</text>") && svg.contains(">cannot</text>"), "{svg}");
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }
}
