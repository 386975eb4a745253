//! One self-contained picture of a run, or of several side by side: SVG, or the same in an HTML page with the data.

mod axis;
mod canvas;

use std::fs;
use std::path::Path;

use super::LoadError;
use super::summary::{Summary, grouped, time};
use axis::{linear_ticks, log_ticks};
use canvas::{Anchor, Canvas, Frame, escape};

/// What the picture shows.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// Headline.
    pub title: &'a str,
    /// Machine, load and command: what makes the numbers mean something.
    pub subtitle: &'a str,
    /// The runs, each in its own colour; at least one.
    pub runs: &'a [Summary],
}

const WIDTH: f64 = 1120.0;
const MARGIN: f64 = 40.0;
const ROW: f64 = 34.0;
const PANEL: f64 = 300.0;
const BAR: f64 = 22.0;

/// Wide letters of a label that fit before the first figure.
const LABEL_CHARS_MAX: usize = 26;

const INK: &str = "#0f172a";
const MUTED: &str = "#64748b";
const LINE: &str = "#e2e8f0";
const ALARM: &str = "#dc2626";
/// Distinguishable with every common colour blindness (Okabe and Ito 2008, darkened for thin lines).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#007a5a", "#9a4c86"];

const COLUMNS: [(&str, f64); 8] = [
    ("throughput", 400.0),
    ("p50", 490.0),
    ("p90", 580.0),
    ("p99", 670.0),
    ("p99.9", 760.0),
    ("max", 850.0),
    ("CPU / decision", 975.0),
    ("errors", WIDTH - MARGIN),
];

impl Report<'_> {
    /// The picture as a document of its own.
    #[must_use]
    pub fn svg(&self) -> String {
        let rows = self.runs.len() as f64;
        let bars = self.runs.iter().any(|run| run.cpu.is_some());
        let panels_at = 150.0 + rows * ROW;
        let bars_at = panels_at + PANEL + 90.0;
        let height = if bars { bars_at + rows * (BAR + 14.0) + 50.0 } else { bars_at - 20.0 };
        let mut canvas = Canvas::new(WIDTH, height);
        canvas.text(
            MARGIN,
            50.0,
            self.title,
            &format!("font-size=\"24\" font-weight=\"600\" fill=\"{INK}\""),
            Anchor::Start,
        );
        canvas.text(
            MARGIN,
            76.0,
            self.subtitle,
            &format!("font-size=\"13\" fill=\"{MUTED}\""),
            Anchor::Start,
        );
        self.table(&mut canvas, 120.0);
        let width = (WIDTH - 2.0 * MARGIN - 60.0) / 2.0;
        self.latency(
            &mut canvas,
            Frame { x: MARGIN + 40.0, y: panels_at + 30.0, width: width - 40.0, height: PANEL },
        );
        let right = MARGIN + width + 60.0;
        self.throughput(
            &mut canvas,
            Frame { x: right + 40.0, y: panels_at + 30.0, width: width - 40.0, height: PANEL },
        );
        if bars {
            self.cpu(&mut canvas, bars_at);
        }
        canvas.finish()
    }

    /// The picture in a page, with the figures as JSON below it.
    #[must_use]
    pub fn html(&self) -> String {
        let data = serde_json::to_string_pretty(self.runs).expect("numbers and strings serialise");
        format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <style>body{{margin:24px auto;max-width:1160px;padding:0 16px;background:#f1f5f9;color:{INK};\
             font-family:system-ui,sans-serif}}svg{{width:100%;height:auto;border-radius:12px;\
             box-shadow:0 1px 4px #0f172a22}}pre{{overflow:auto;font-size:12px}}\
             summary{{cursor:pointer;margin:16px 0;color:{MUTED}}}</style>\n\
             {svg}\n<details><summary>All figures (JSON)</summary><pre>{data}</pre></details></html>\n",
            title = escape(self.title),
            svg = self.svg(),
            data = escape(&data),
        )
    }

    /// Writes the page if `path` ends in `.html`, else the bare picture.
    ///
    /// # Errors
    /// [`LoadError::File`].
    pub fn write(&self, path: &Path) -> Result<(), LoadError> {
        let html = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("html"));
        let text = if html { self.html() } else { self.svg() };
        fs::write(path, text).map_err(|source| LoadError::File { path: path.display().to_string(), source })
    }

    fn coloured(&self) -> impl Iterator<Item = (&Summary, &'static str)> {
        self.runs.iter().zip(COLOURS.into_iter().cycle())
    }

    fn table(&self, canvas: &mut Canvas, y: f64) {
        for (name, x) in COLUMNS {
            canvas.text(x, y, name, &format!("font-size=\"12\" fill=\"{MUTED}\""), Anchor::End);
        }
        canvas.line((MARGIN, y + 10.0), (WIDTH - MARGIN, y + 10.0), LINE);
        let ink = format!("font-size=\"15\" fill=\"{INK}\"");
        for (i, (run, colour)) in self.coloured().enumerate() {
            let y = y + 34.0 + i as f64 * ROW;
            canvas.rect(Frame { x: MARGIN, y: y - 11.0, width: 12.0, height: 12.0 }, colour, 1.0);
            canvas.text(
                MARGIN + 22.0,
                y,
                &short(&run.label),
                &format!("{ink} font-weight=\"600\""),
                Anchor::Start,
            );
            let latency = &run.latency_us;
            let errors = run.mismatches + run.lost;
            let cpu = run.cpu.as_ref().map_or_else(|| "–".to_owned(), |cpu| time(cpu.total_us));
            let figures = [
                format!("{} /s", grouped(run.throughput)),
                time(latency.p50),
                time(latency.p90),
                time(latency.p99),
                time(latency.p99_9),
                time(latency.max),
                cpu,
            ];
            for ((_, x), figure) in COLUMNS.iter().zip(&figures) {
                canvas.text(*x, y, figure, &ink, Anchor::End);
            }
            let style = format!("font-size=\"15\" fill=\"{}\"", if errors > 0 { ALARM } else { INK });
            canvas.text(WIDTH - MARGIN, y, &grouped(errors as f64), &style, Anchor::End);
        }
    }

    /// Latency over the share of answers that were not slower; each step to the right is ten times rarer.
    fn latency(&self, canvas: &mut Canvas, frame: Frame) {
        canvas.heading(frame, "Latency by percentile");
        let points = || self.runs.iter().flat_map(|run| &run.curve);
        let least = points().map(|p| p.latency_us).fold(f64::INFINITY, f64::min);
        // A run without answers has an axis all the same.
        let least = if least.is_finite() { least.max(0.1) } else { 1.0 };
        let most = points().map(|p| p.latency_us).fold(least, f64::max);
        let nines = points().map(|p| nines(p.percentile)).fold(1.0, f64::max);
        let ticks = log_ticks(least, most);
        let (bottom, top) = (ticks[0], ticks[ticks.len() - 1]);
        let y =
            |us: f64| frame.y + frame.height * (1.0 - (us.max(bottom) / bottom).ln() / (top / bottom).ln());
        let x = |nine: f64| frame.x + frame.width * nine / nines;
        for tick in &ticks {
            canvas.grid_y(frame, y(*tick), &short_time(*tick));
        }
        let marks = [(0.301, "50"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99"), (5.0, "99.999")];
        for (nine, label) in marks.into_iter().filter(|(nine, _)| *nine <= nines) {
            canvas.grid_x(frame, x(nine), &format!("{label} %"));
        }
        for (run, colour) in self.coloured() {
            let line: Vec<(f64, f64)> =
                run.curve.iter().map(|p| (x(nines_of(p.percentile, nines)), y(p.latency_us))).collect();
            canvas.polyline(&line, colour);
        }
    }

    fn throughput(&self, canvas: &mut Canvas, frame: Frame) {
        canvas.heading(frame, "Answers per second over time");
        let points = || self.runs.iter().flat_map(|run| &run.timeline);
        let most = points().map(|(_, rate)| *rate).fold(1.0, f64::max);
        let end = points().map(|(at, _)| *at).fold(SLICE_MIN, f64::max);
        let ticks = linear_ticks(most);
        let top = ticks[ticks.len() - 1];
        let y = |rate: f64| frame.y + frame.height * (1.0 - rate / top);
        let x = |at: f64| frame.x + frame.width * at / end;
        for tick in &ticks {
            canvas.grid_y(frame, y(*tick), &short_count(*tick));
        }
        for tick in linear_ticks(end).into_iter().filter(|tick| *tick <= end) {
            canvas.grid_x(frame, x(tick), &format!("{tick} s"));
        }
        for (run, colour) in self.coloured() {
            let line: Vec<(f64, f64)> = run.timeline.iter().map(|(at, rate)| (x(*at), y(*rate))).collect();
            if let (Some(first), Some(last)) = (line.first(), line.last()) {
                let floor = frame.y + frame.height;
                let area = [&[(first.0, floor)], line.as_slice(), &[(last.0, floor)]].concat();
                canvas.polygon(&area, colour);
            }
            canvas.polyline(&line, colour);
        }
    }

    /// One bar per run: user time solid, kernel time lighter.
    fn cpu(&self, canvas: &mut Canvas, y: f64) {
        let heading = Frame { x: MARGIN + 40.0, y: y + 10.0, width: 0.0, height: 0.0 };
        canvas.heading(heading, "Server processor time per decision: user (solid), kernel (light)");
        let most =
            self.runs.iter().filter_map(|run| run.cpu.as_ref()).map(|cpu| cpu.total_us).fold(0.1, f64::max);
        let (left, full) = (MARGIN, WIDTH - 2.0 * MARGIN - 240.0);
        for (i, (run, colour)) in self.coloured().enumerate() {
            let Some(cpu) = &run.cpu else { continue };
            let y = y + 8.0 + i as f64 * (BAR + 14.0);
            let width = full * cpu.total_us / most;
            // The split comes from clock ticks, the length from the finer total.
            let ticks = cpu.user_us + cpu.system_us;
            let user = if ticks > 0.0 { width * cpu.user_us / ticks } else { width };
            canvas.rect(Frame { x: left, y, width, height: BAR }, colour, 0.4);
            canvas.rect(Frame { x: left, y, width: user, height: BAR }, colour, 1.0);
            let style = format!("font-size=\"14\" fill=\"{INK}\"");
            let words = match &cpu.threads[..] {
                [busiest, _, ..] if cpu.total_us > 0.0 => {
                    let share = 100.0 * busiest.us / cpu.total_us;
                    format!("{}, {share:.0} % in {}", time(cpu.total_us), short(&busiest.name))
                }
                _ => time(cpu.total_us),
            };
            canvas.text(left + width + 10.0, y + BAR - 6.0, &words, &style, Anchor::Start);
        }
    }
}

/// The shortest time axis, in seconds.
const SLICE_MIN: f64 = 0.05;

/// `text`, cut to what its column holds.
fn short(text: &str) -> String {
    if text.chars().count() <= LABEL_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(LABEL_CHARS_MAX - 1).chain(['…']).collect()
}

/// How many nines a percentile has: 90 % is 1, 99 % is 2.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

fn nines_of(percentile: f64, most: f64) -> f64 {
    nines(percentile).clamp(0.0, most)
}

fn short_time(us: f64) -> String {
    match us {
        _ if us < 1e3 => format!("{us} µs"),
        _ if us < 1e6 => format!("{} ms", us / 1e3),
        _ => format!("{} s", us / 1e6),
    }
}

fn short_count(count: f64) -> String {
    match count {
        _ if count < 1e3 => format!("{count}"),
        _ if count < 1e6 => format!("{}k", count / 1e3),
        _ => format!("{}M", count / 1e6),
    }
}

#[cfg(test)]
mod tests;
