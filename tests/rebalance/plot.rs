//! The picture: what each pod held, what failed, and how long calls took, over the whole run.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::aims::millis;
use crate::events::Moments;
use crate::figures::Second;
use crate::pods::Sample;

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 1180.0;
const COLOURS: [&str; 8] = [
    "#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#1b7c83", "#57606a",
];
/// The colours of failed calls to spokes of the SDK, and to plain ones.
const FAILED: [&str; 2] = ["#cf222e", "#8c959f"];

/// An event as it is drawn.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: &'static str,
    /// When its parts happened.
    pub(crate) moments: Moments,
    pub(crate) seconds: Vec<Second>,
}

/// One of the fields of the picture: its position, and the value at its top.
struct Field {
    top: f64,
    bottom: f64,
    most: f64,
}

/// The picture while it is being drawn.
struct Drawing {
    svg: String,
    began: Instant,
    seconds: f64,
}

// === impl Drawing ===

impl Drawing {
    fn x(&self, at: Instant) -> f64 {
        let second = at.saturating_duration_since(self.began).as_secs_f64();
        LEFT + (RIGHT - LEFT) * second / self.seconds
    }

    fn add(&mut self, element: &str) {
        self.svg.push_str(element);
        self.svg.push('\n');
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        self.add(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    fn grid(&mut self, field: &Field, title: &str) {
        self.text((LEFT, field.top - 8.0), "start", title);
        for part in [0.0, 0.5, 1.0] {
            let (y, value) = (field.y(part * field.most), part * field.most);
            self.add(&format!(
                r##"<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}" stroke="#d0d7de"/>"##
            ));
            self.text((LEFT - 8.0, y + 4.0), "end", &format!("{value:.0}"));
        }
    }

    fn line(&mut self, colour: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        self.add(&format!(
            r#"<polyline fill="none" stroke="{colour}" stroke-width="1.4" points="{points}"/>"#
        ));
    }
}

// === impl Field ===

impl Field {
    fn y(&self, value: f64) -> f64 {
        self.bottom - (value / self.most).min(1.0) * (self.bottom - self.top)
    }
}

pub(crate) fn draw(spans: &[Span], samples: &[Sample]) -> String {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return String::new();
    };
    let mut drawing = Drawing {
        svg: format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 660" font-family="sans-serif" font-size="12" fill="#1f2328">
<rect width="{WIDTH}" height="660" fill="#ffffff"/>
"##
        ),
        began: first.at,
        seconds: last.at.duration_since(first.at).as_secs_f64().max(1.0),
    };
    events(&mut drawing, spans);
    held(&mut drawing, samples);
    failed(&mut drawing, spans);
    late(&mut drawing, spans);
    drawing.svg + "</svg>\n"
}

/// Marks where each event begins, with its number; the names are at the top.
fn events(drawing: &mut Drawing, spans: &[Span]) {
    let names = spans.iter().zip(1..).map(|(span, n)| format!("{n} {}", span.name));
    let names: Vec<String> = names.collect();
    for (line, names) in names.chunks(7).enumerate() {
        drawing.text((LEFT, 20.0 + 16.0 * line as f64), "start", &names.join(" · "));
    }
    for (span, n) in spans.iter().zip(1..) {
        let (from, to) = (drawing.x(span.moments.began), drawing.x(span.moments.quiet));
        let width = to - from;
        drawing.add(&format!(
            r##"<rect x="{from:.1}" y="70" width="{width:.1}" height="560" fill="#f6f8fa" stroke="#d0d7de"/>"##
        ));
        drawing.text((from + 4.0, 84.0), "start", &n.to_string());
    }
    let step = if drawing.seconds > 1_200.0 { 300.0 } else { 60.0 };
    let mut second = 0.0;
    while second <= drawing.seconds {
        let x = LEFT + (RIGHT - LEFT) * second / drawing.seconds;
        drawing.text((x, 648.0), "middle", &format!("{:.0} min", second / 60.0));
        second += step;
    }
}

fn held(drawing: &mut Drawing, samples: &[Sample]) {
    let most = samples
        .iter()
        .flat_map(|sample| sample.held.values())
        .map(|held| held.websockets)
        .max();
    let field = Field {
        top: 90.0,
        bottom: 370.0,
        most: (most.unwrap_or(0) as f64 / 500.0).ceil().max(1.0) * 500.0,
    };
    drawing.grid(&field, "connections of each pod");
    // A pod has one line for each period in which it answered.
    let mut lines: BTreeMap<&str, Vec<Vec<(f64, f64)>>> = BTreeMap::new();
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (n, sample) in samples.iter().enumerate() {
        for (pod, held) in &sample.held {
            let of_pod = lines.entry(pod).or_default();
            if last.insert(pod, n).is_none_or(|before| before + 1 < n) {
                of_pod.push(Vec::new());
            }
            if let Some(line) = of_pod.last_mut() {
                line.push((drawing.x(sample.at), field.y(held.websockets as f64)));
            }
        }
    }
    let mut pods: Vec<_> = lines.into_values().collect();
    pods.sort_by(|a, b| a[0][0].0.total_cmp(&b[0][0].0));
    for (n, lines) in pods.iter().enumerate() {
        lines
            .iter()
            .for_each(|line| drawing.line(COLOURS[n % COLOURS.len()], line));
    }
}

fn failed(drawing: &mut Drawing, spans: &[Span]) {
    let seconds = spans.iter().flat_map(|span| &span.seconds);
    let most = seconds.map(|second| second.failed[0].max(second.failed[1])).max();
    let field = Field {
        top: 405.0,
        bottom: 490.0,
        most: most.unwrap_or(0).max(10) as f64,
    };
    drawing.grid(
        &field,
        "failed calls a second: to spokes with the SDK (red), to plain ones (grey)",
    );
    for second in spans.iter().flat_map(|span| &span.seconds) {
        for (n, (failed, colour)) in second.failed.iter().zip(FAILED).enumerate() {
            if *failed > 0 {
                let (x, y) = (drawing.x(second.at) + n as f64, field.y(*failed as f64));
                let bottom = field.bottom;
                drawing.add(&format!(
                    r#"<line x1="{x:.1}" x2="{x:.1}" y1="{bottom}" y2="{y:.1}" stroke="{colour}" stroke-width="1.5"/>"#
                ));
            }
        }
    }
}

fn late(drawing: &mut Drawing, spans: &[Span]) {
    let field = Field {
        top: 525.0,
        bottom: 625.0,
        most: 200.0,
    };
    drawing.grid(
        &field,
        "p99 of calls to spokes with the SDK beside the work, in ms, each second; cut at 200",
    );
    for span in spans {
        let points: Vec<(f64, f64)> = span
            .seconds
            .iter()
            .map(|second| (drawing.x(second.at), field.y(millis(second.p99))))
            .collect();
        drawing.line("#57606a", &points);
    }
}
