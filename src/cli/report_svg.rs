//! The pictures of an audit report: stacked bars over time, and bars of the most frequent names. Every text is escaped here.

use std::fmt::Write as _;

/// One series of a stack: its name, its colour, and its count in each slot.
pub(super) struct Series<'a> {
    pub(super) name: &'a str,
    pub(super) colour: &'static str,
    pub(super) counts: Vec<u64>,
}

/// Told apart with every common colour blindness (Okabe and Ito 2008), and by lightness on paper without colours.
pub(super) const COLOURS: [&str; 7] =
    ["#d55e00", "#56b4e9", "#5b3a8c", "#e69f00", "#009e73", "#cc79a7", "#a0a8b4"];

/// What was accepted.
pub(super) const ACCEPTED_COLOUR: &str = "#0072b2";

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const FOOT: f64 = 24.0;
const LEGEND_ROW: f64 = 20.0;
const BAR_ROW: f64 = 22.0;
const INK: &str = "#0f172a";
const MUTED: &str = "#475569";
const GRID: &str = "#e2e8f0";

/// `text` for HTML content, SVG content and attributes in either quote. What no document can hold is shown by its code.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Direction marks would reorder what stands around them.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Counts over time, one bar per slot, the series on top of one another. `ticks` are slots and what stands below them.
pub(super) fn stacked(title: &str, series: &[Series<'_>], ticks: &[(usize, String)]) -> String {
    let slots = series.iter().map(|one| one.counts.len()).max().unwrap_or(0).max(1);
    let total =
        |slot: usize| series.iter().map(|one| one.counts.get(slot).copied().unwrap_or(0)).sum::<u64>();
    let most = (0..slots).map(total).max().unwrap_or(0).max(1);
    let step = round_step(most);
    let top = most.div_ceil(step) * step;
    let (columns, rows) = (3, series.len().div_ceil(3));
    let floor = TOP + HEIGHT;
    let height = floor + FOOT + rows as f64 * LEGEND_ROW + 6.0;
    let x = |slot: f64| LEFT + (WIDTH - LEFT - RIGHT) * slot / slots as f64;
    let y = |count: u64| floor - HEIGHT * count as f64 / top as f64;
    let mut svg = open(height, title);
    for tick in (0..=top / step).map(|n| n * step) {
        let _ = writeln!(svg, "<path d=\"M{LEFT} {:.1}H{:.1}\" stroke=\"{GRID}\"/>", y(tick), WIDTH - RIGHT);
        text(&mut svg, (LEFT - 6.0, y(tick) + 4.0), "end", MUTED, &grouped(tick));
    }
    for (slot, label) in ticks {
        let at = x(*slot as f64);
        let _ = writeln!(svg, "<path d=\"M{at:.1} {floor:.1}v5\" stroke=\"{MUTED}\"/>");
        // The last of them may stand too close to the edge for its label.
        if *slot == 0 || at < WIDTH - 110.0 {
            text(&mut svg, (at, floor + 17.0), "start", MUTED, label);
        }
    }
    let width = (x(1.0) - x(0.0) - if slots > 60 { 0.6 } else { 1.5 }).max(0.8);
    for slot in 0..slots {
        let mut below = 0;
        for one in series {
            let count = one.counts.get(slot).copied().unwrap_or(0);
            if count == 0 {
                continue;
            }
            let (low, high) = (y(below), y(below + count));
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{high:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                x(slot as f64),
                (low - high).max(0.5),
                one.colour
            );
            below += count;
        }
    }
    let _ = writeln!(svg, "<path d=\"M{LEFT} {floor:.1}H{:.1}\" stroke=\"{MUTED}\"/>", WIDTH - RIGHT);
    for (number, one) in series.iter().enumerate() {
        let (column, row) = (number % columns, number / columns);
        let at = LEFT + column as f64 * (WIDTH - LEFT) / columns as f64;
        let line = floor + FOOT + row as f64 * LEGEND_ROW + 13.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{at:.1}\" y=\"{:.1}\" width=\"11\" height=\"11\" fill=\"{}\"/>",
            line - 10.0,
            one.colour
        );
        let label = format!("{} {}", short(one.name, 24), grouped(one.counts.iter().sum()));
        text(&mut svg, (at + 17.0, line), "start", INK, &label);
    }
    svg.push_str("</svg>\n");
    svg
}

/// One bar per name, with its count.
pub(super) fn bars(title: &str, rows: &[(String, u64)], colour: &str) -> String {
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let height = rows.len() as f64 * BAR_ROW + 6.0;
    let (left, full) = (330.0, WIDTH - 330.0 - 110.0);
    let mut svg = open(height, title);
    for (number, (name, count)) in rows.iter().enumerate() {
        let line = number as f64 * BAR_ROW + 16.0;
        text(&mut svg, (left - 8.0, line), "end", INK, &short(name, 38));
        let width = full * *count as f64 / most as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"/>",
            line - 11.0,
            width.max(1.0)
        );
        text(&mut svg, (left + width + 8.0, line), "start", INK, &grouped(*count));
    }
    svg.push_str("</svg>\n");
    svg
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui,'DejaVu Sans',Helvetica,sans-serif\" font-size=\"12\"><title>{}</title>\n",
        escape(title)
    )
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, colour: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
    );
}

/// `text`, or so much of it as there is room for.
pub(super) fn short(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max - 1).chain(['…']).collect()
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Steps of an axis of at most `most`: 1, 2 or 5 times a power of ten; two to five of them.
fn round_step(most: u64) -> u64 {
    let mut step = 1;
    for factor in [2, 5, 10].into_iter().cycle() {
        if most / step <= 4 {
            return step;
        }
        // 1, 2, 5, 10: each from the last power of ten.
        let power = 10_u64.pow(step.ilog10());
        step = power * factor;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_can_leave_its_place() {
        let hostile = "</svg><script>alert(1)</script>\"'&\u{202e}\u{0}\n";
        let shown = escape(hostile);
        assert!(!shown.contains(['<', '>', '"', '\'', '\u{202e}', '\u{0}', '\n']), "{shown}");
        let series = [Series { name: "</svg><b>", colour: COLOURS[0], counts: vec![1, 0, 3] }];
        let ticks = [(0, "<i>".to_owned())];
        for svg in [stacked(hostile, &series, &ticks), bars(hostile, &[(hostile.to_owned(), 3)], COLOURS[0])]
        {
            assert_eq!((svg.matches("</svg>").count(), svg.matches("<script").count()), (1, 0), "{svg}");
            assert!(!svg.contains("<b>") && !svg.contains("<i>"), "{svg}");
        }
    }

    #[test]
    fn axes_have_few_round_steps() {
        for (most, step) in
            [(1, 1), (4, 1), (5, 2), (10, 5), (12, 5), (25, 10), (26, 10), (99, 20), (1_000_000, 500_000)]
        {
            assert_eq!(round_step(most), step, "{most}");
            assert!(most.div_ceil(step) <= 5);
        }
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
