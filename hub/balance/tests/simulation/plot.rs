//! Draws what the rule does to 10,000 spokes when two pods become four and then three: `docs/rebalancing.svg`.
//!
//! With `ALKHUB_TEST_BLESS=1` (which `make generate` sets) the file is written instead of compared.

use std::fmt::Write;
use std::path::Path;

use crate::world::World;

/// How many seconds are drawn, and what happens when.
const SECONDS: u64 = 480;
const GROWS: u64 = 60;
const SHRINKS: u64 = 300;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 880.0;
const COLOURS: [&str; 4] = ["#0969da", "#cf222e", "#1a7f37", "#9a6700"];

/// One of the two fields of the picture: its position, and the values at its top and bottom.
struct Field {
    top: f64,
    bottom: f64,
    most: f64,
    least: f64,
}

/// What is drawn: for each second the connections of each pod, and the fullest pod in relation to the mean.
struct Series {
    held: Vec<Vec<Option<usize>>>,
    ratio: Vec<f64>,
}

// === impl Field ===

impl Field {
    fn y(&self, value: f64) -> f64 {
        let part = (value - self.least) / (self.most - self.least);
        self.bottom - part * (self.bottom - self.top)
    }

    fn line(&self, svg: &mut String, colour: &str, points: impl Iterator<Item = (u64, f64)>) {
        let points: Vec<String> = points
            .map(|(second, value)| format!("{:.1},{:.1}", x(second), self.y(value)))
            .collect();
        let points = points.join(" ");
        let _ = writeln!(
            svg,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{points}"/>"#
        );
    }

    fn grid(&self, svg: &mut String, values: &[f64], digits: usize) {
        for value in values {
            let y = self.y(*value);
            let _ = writeln!(
                svg,
                r##"<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}" stroke="#d0d7de"/>"##
            );
            text(svg, (LEFT - 8.0, y + 4.0), "end", &format!("{value:.digits$}"));
        }
    }
}

fn x(second: u64) -> f64 {
    LEFT + (RIGHT - LEFT) * second as f64 / SECONDS as f64
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
    );
}

fn series() -> Series {
    let mut world = World::running(1, 2, 10_000, 0.5);
    let began = world.now / 1_000;
    world.drawn = Some(Vec::new());
    world.run(GROWS * 1_000);
    world.join(1, 100);
    world.join(1, 100);
    world.run((SHRINKS - GROWS) * 1_000);
    world.drain(3);
    world.run((SECONDS - SHRINKS) * 1_000);

    let drawn = world.drawn.take().unwrap_or_default();
    let mut series = Series {
        held: Vec::new(),
        ratio: Vec::new(),
    };
    for (second, held) in drawn {
        let drains = second - began >= SHRINKS;
        let serving: Vec<usize> = held
            .iter()
            .take(if drains { 3 } else { 4 })
            .flatten()
            .copied()
            .collect();
        let all: usize = serving.iter().sum();
        let fullest = serving.iter().max().copied().unwrap_or(0);
        series.ratio.push((fullest * serving.len()) as f64 / all as f64);
        series.held.push(held);
    }
    series
}

fn draw(series: &Series) -> String {
    let (above, below) = (
        Field {
            top: 50.0,
            bottom: 330.0,
            most: 6_000.0,
            least: 0.0,
        },
        Field {
            top: 380.0,
            bottom: 500.0,
            most: 2.2,
            least: 1.0,
        },
    );
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 540" font-family="sans-serif"
 font-size="12" fill="#1f2328">
<rect width="{WIDTH}" height="540" fill="#ffffff"/>
"##
    );
    let title = "Simulated: 10,000 spokes, half of them plain; two pods become four, then three";
    text(&mut svg, (LEFT, 22.0), "start", title);
    text(&mut svg, (LEFT, 42.0), "start", "connections of each pod");
    text(
        &mut svg,
        (LEFT, 372.0),
        "start",
        "the fullest of the pods that do not drain, by their mean; the aim is 1.15",
    );
    above.grid(
        &mut svg,
        &[0.0, 1_000.0, 2_000.0, 3_000.0, 4_000.0, 5_000.0, 6_000.0],
        0,
    );
    below.grid(&mut svg, &[1.0, 1.15, 1.5, 2.0], 2);
    for (second, what) in [(GROWS, "two pods more"), (SHRINKS, "one pod drains")] {
        let x = x(second);
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" x2="{x:.1}" y1="50" y2="500" stroke="#6e7781" stroke-dasharray="4 4"/>"##
        );
        text(&mut svg, (x + 6.0, 66.0), "start", what);
    }
    for second in (0..=SECONDS).step_by(60) {
        text(&mut svg, (x(second), 518.0), "middle", &format!("{second} s"));
    }
    for (pod, colour) in COLOURS.iter().enumerate() {
        let held = series.held.iter().zip(0..);
        let points = held.filter_map(|(held, second)| Some((second, held.get(pod).copied()?? as f64)));
        above.line(&mut svg, colour, points);
    }
    below.line(&mut svg, "#57606a", (0..).zip(series.ratio.iter().copied()));
    svg + "</svg>\n"
}

#[test]
fn the_picture_in_the_docs_is_what_the_simulation_draws() {
    let series = series();
    let balanced = series.ratio.iter().skip(usize::try_from(GROWS).expect("fits") + 1);
    let balanced = balanced.take_while(|ratio| **ratio > 1.15).count();
    assert!(balanced <= 120, "the aim is met after {balanced} s");

    let now = draw(&series);

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rebalancing.svg");
    if std::env::var_os("ALKHUB_TEST_BLESS").is_some() {
        std::fs::write(&file, now).expect("the file can be written");
        return;
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == now,
        "docs/rebalancing.svg is stale: run `make generate` and commit it"
    );
}
