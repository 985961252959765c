//! Courses over time as a picture: panels of lines above one another, written as plain SVG.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 70.0;
const GAP: f64 = 56.0;

/// Characters of the font are at most so wide on average.
const CHARACTER: f64 = 6.8;

/// Colours that are told apart by those who see few colours as well.
pub(crate) const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Between two values of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Straight from one to the next.
    Straight,
    /// As it was until the next.
    Steps,
}

/// A course.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What the legend calls it.
    pub(crate) name: String,
    /// Its place in [`COLOURS`].
    pub(crate) colour: usize,
    /// Whether it is broken, as for what is only predicted.
    pub(crate) dashed: bool,
    pub(crate) shape: Shape,
    /// Seconds and value.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines with one axis.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// What the axis tells, with its unit.
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

/// A moment that all panels show.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) at_seconds: f64,
    pub(crate) name: String,
}

/// Each value as the mean with its neighbours: what came in between two looks at a busy machine jitters.
pub(crate) fn smoothed(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    (0..points.len())
        .filter_map(|place| {
            let near = points.get(place.saturating_sub(2)..(place + 3).min(points.len()))?;
            let mean = near.iter().map(|(_, value)| value).sum::<f64>() / near.len().max(1) as f64;
            points.get(place).map(|(at, _)| (*at, mean))
        })
        .collect()
}

/// A picture.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) title: String,
    pub(crate) seconds: f64,
    pub(crate) marks: Vec<Mark>,
    pub(crate) panels: Vec<Panel>,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number with as many digits as an axis needs, thousands apart.
fn label(value: f64) -> String {
    if value.fract() != 0.0 && value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

/// A step of 1, 2 or 5 times a power of ten, at least one, of which about four make the whole; half for small ones.
fn step(most: f64) -> f64 {
    let raw = most.max(1e-9) / 4.0;
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * 0.999).unwrap_or(10.0);
    (factor * power).max(0.1)
}

/// Seconds between the labels of the time axis.
fn time_step(seconds: f64) -> f64 {
    const STEPS: [f64; 9] = [5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];
    STEPS.into_iter().find(|step| seconds / step <= 9.0).unwrap_or((seconds / 8.0).max(1.0))
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round().max(0.0) as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Multiples of a step from 0 to the end.
fn ticks(step: f64, end: f64) -> impl Iterator<Item = f64> {
    (0u32..=64).map(move |tick| f64::from(tick) * step).take_while(move |value| *value <= end * 1.0001)
}

impl Picture {
    /// As SVG.
    pub(crate) fn svg(&self) -> String {
        let height = TOP + self.panels.len() as f64 * (PANEL + GAP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, (LEFT, 22.0), "start", "black", &self.title);
        for (place, panel) in self.panels.iter().enumerate() {
            self.panel(&mut svg, panel, TOP + place as f64 * (PANEL + GAP), place == 0);
        }
        svg + "</svg>\n"
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (seconds / self.seconds.max(1.0)).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn panel(&self, svg: &mut String, panel: &Panel, top: f64, first: bool) {
        let bottom = top + PANEL;
        let values = panel.lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value);
        let most = values.fold(0.0, f64::max).max(1.0);
        // What goes in steps is a count: there is nothing between two of them.
        let counts = panel.lines.iter().all(|line| line.shape == Shape::Steps);
        let step = if counts { step(most).max(1.0) } else { step(most) };
        let end = (most / step).ceil() * step;
        let y = |value: f64| bottom - (value / end).clamp(0.0, 1.0) * PANEL;
        text(svg, (LEFT, top - 10.0), "start", "black", &panel.title);
        self.legend(svg, panel, top - 10.0);
        for value in ticks(step, end) {
            rule(svg, (LEFT, y(value)), (WIDTH - RIGHT, y(value)), "#e5e5e5");
            text(svg, (LEFT - 8.0, y(value) + 4.0), "end", "#555555", &label(value));
        }
        for at in ticks(time_step(self.seconds), self.seconds) {
            rule(svg, (self.x(at), bottom), (self.x(at), bottom + 4.0), "#888888");
            text(svg, (self.x(at), bottom + 17.0), "middle", "#555555", &clock(at));
        }
        let mut free = 0.0;
        for mark in &self.marks {
            let x = self.x(mark.at_seconds);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {top:.1} V{bottom:.1}\" stroke=\"#999999\" stroke-dasharray=\"2 3\"/>"
            );
            if first {
                // One that would lie over its neighbour goes above it.
                let y = if x >= free { 44.0 } else { 33.0 };
                text(svg, (x + 3.0, y), "start", "#555555", &mark.name);
                free = x + 10.0 + mark.name.chars().count() as f64 * CHARACTER;
            }
        }
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {top:.0} V{bottom:.0} H{:.0}\" fill=\"none\" stroke=\"#888888\"/>",
            WIDTH - RIGHT
        );
        for line in &panel.lines {
            let dash = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let _ = writeln!(
                svg,
                "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" stroke-linejoin=\"round\"{dash}/>",
                self.path(line, y),
                colour(line)
            );
        }
    }

    fn path(&self, line: &Line, y: impl Fn(f64) -> f64) -> String {
        let mut path = String::new();
        for (at, value) in &line.points {
            let (x, y) = (self.x(*at), y(*value));
            let _ = match (path.is_empty(), line.shape) {
                (true, _) => write!(path, "M{x:.1} {y:.1}"),
                (false, Shape::Straight) => write!(path, " L{x:.1} {y:.1}"),
                (false, Shape::Steps) => write!(path, " H{x:.1} V{y:.1}"),
            };
        }
        path
    }

    /// From the right, so that a long title has its place.
    fn legend(&self, svg: &mut String, panel: &Panel, y: f64) {
        let mut x = WIDTH - RIGHT;
        for line in panel.lines.iter().rev() {
            // What a name leaves of its place lies behind it.
            x -= line.name.chars().count() as f64 * CHARACTER;
            text(svg, (x, y), "start", "#333333", &line.name);
            let dash = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1} h22\" stroke=\"{}\" stroke-width=\"2\"{dash}/>",
                x.round() - 28.0,
                y - 4.0,
                colour(line)
            );
            x -= 44.0;
        }
    }
}

fn colour(line: &Line) -> &'static str {
    COLOURS.get(line.colour % COLOURS.len()).copied().unwrap_or("black")
}

// Writing to a string does not fail.
fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, fill: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{}</text>",
        escaped(words)
    );
}

fn rule(svg: &mut String, (x, y): (f64, f64), (to_x, to_y): (f64, f64), stroke: &str) {
    let _ = writeln!(svg, "<path d=\"M{x:.1} {y:.1} L{to_x:.1} {to_y:.1}\" stroke=\"{stroke}\"/>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_figures() {
        assert_eq!(
            [step(1000.0), step(12.0), step(9_134.0), step(1.0), step(0.3)],
            [500.0, 5.0, 5000.0, 0.5, 0.1]
        );
        assert_eq!(ticks(500.0, 1000.0).collect::<Vec<_>>(), [0.0, 500.0, 1000.0]);
        assert_eq!([time_step(240.0), time_step(1800.0), time_step(60.0)], [30.0, 300.0, 10.0]);
        assert_eq!(label(1_234_567.0), "1\u{2009}234\u{2009}567");
        assert_eq!(
            (label(0.5), label(100.0), clock(95.0)),
            ("0.5".to_owned(), "100".to_owned(), "1:35".to_owned())
        );
    }

    #[test]
    fn what_lies_outside_stays_inside_and_words_are_escaped() {
        let line = |shape| Line {
            name: "a < b".to_owned(),
            colour: 7,
            dashed: true,
            shape,
            points: vec![(0.0, 0.0), (50.0, 100.0), (500.0, 100.0)],
        };
        let picture = Picture {
            title: "x & y".to_owned(),
            seconds: 100.0,
            marks: vec![Mark { at_seconds: 50.0, name: "spike".to_owned() }],
            panels: vec![Panel {
                title: "n".to_owned(),
                lines: vec![line(Shape::Straight), line(Shape::Steps)],
            }],
        };
        let svg = picture.svg();
        assert!(svg.contains("x &amp; y") && svg.contains("a &lt; b") && svg.contains(">spike<"), "{svg}");
        assert!(svg.contains("M76.0 220.0 L476.0 70.0 L876.0 70.0"), "{svg}");
        assert!(svg.contains("M76.0 220.0 H476.0 V70.0 H876.0 V70.0"), "{svg}");
    }
}
