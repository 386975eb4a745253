//! The few SVG shapes a chart needs.

use std::fmt::Write;

/// A rectangle: left, top, width, height.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Which end of a text its position names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

pub(super) struct Canvas {
    svg: String,
}

const GRID: &str = "#e2e8f0";
const LABEL: &str = "font-size=\"11\" fill=\"#64748b\"";

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"system-ui, 'DejaVu Sans', Helvetica, sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        Self { svg }
    }

    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }

    pub(super) fn text(&mut self, x: f64, y: f64, text: &str, style: &str, anchor: Anchor) {
        let (anchor, text) = (anchor.name(), escape(text));
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{text}</text>"
        ));
    }

    pub(super) fn heading(&mut self, frame: Frame, text: &str) {
        let style = "font-size=\"14\" font-weight=\"600\" fill=\"#0f172a\"";
        self.text(frame.x - 40.0, frame.y - 18.0, text, style, Anchor::Start);
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        self.put(format_args!(
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{colour}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    pub(super) fn rect(&mut self, frame: Frame, colour: &str, opacity: f64) {
        let Frame { x, y, width, height } = frame;
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"3\" fill=\"{colour}\" \
             fill-opacity=\"{opacity}\"/>"
        ));
    }

    /// A horizontal grid line with its label on the left.
    pub(super) fn grid_y(&mut self, frame: Frame, y: f64, label: &str) {
        self.line((frame.x, y), (frame.x + frame.width, y), GRID);
        self.text(frame.x - 8.0, y + 4.0, label, LABEL, Anchor::End);
    }

    /// A vertical grid line with its label below.
    pub(super) fn grid_x(&mut self, frame: Frame, x: f64, label: &str) {
        self.line((x, frame.y), (x, frame.y + frame.height), GRID);
        self.text(x, frame.y + frame.height + 18.0, label, LABEL, Anchor::Middle);
    }

    pub(super) fn polyline(&mut self, points: &[(f64, f64)], colour: &str) {
        let points = joined(points);
        self.put(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-linejoin=\"round\"/>"
        ));
    }

    pub(super) fn polygon(&mut self, points: &[(f64, f64)], colour: &str) {
        let points = joined(points);
        self.put(format_args!("<polygon points=\"{points}\" fill=\"{colour}\" fill-opacity=\"0.08\"/>"));
    }

    fn put(&mut self, shape: std::fmt::Arguments<'_>) {
        writeln!(self.svg, "{shape}").expect("a String takes everything");
    }
}

/// `text` for XML content and double-quoted attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn joined(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}
