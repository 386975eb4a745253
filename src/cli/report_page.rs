//! The page of an audit report: one HTML file without scripts and without anything from elsewhere, which prints well.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::audit::hex;
use crate::audit::summary::{ACCEPTED, Marks, Summary, Timeline, Top};
use crate::audit::verify::Report;

use super::report_svg::{ACCEPTED_COLOUR, COLOURS, Series, bars, escape, grouped, stacked};

/// What the page shows.
pub(super) struct Page<'a> {
    pub(super) summary: &'a Summary,
    pub(super) report: &'a Report,
    /// When it was made.
    pub(super) made: &'a str,
    /// Where the key came from that signatures were checked with.
    pub(super) key: &'a str,
    /// The figures as JSON, and their digest.
    pub(super) data: &'a str,
    pub(super) digest: &'a str,
}

const STYLE: &str = "body{margin:24px auto;max-width:960px;padding:0 16px;color:#0f172a;background:#fff;\
font:14px/1.45 system-ui,'DejaVu Sans',Helvetica,sans-serif}h1{font-size:22px;margin:0 0 2px}\
h2{font-size:16px;margin:26px 0 6px;break-after:avoid}svg{width:100%;height:auto;break-inside:avoid}\
table{border-collapse:collapse;width:100%;font-size:13px}td,th{text-align:left;vertical-align:top;padding:3px 10px 3px 0;\
border-bottom:1px solid #e2e8f0}th{font-weight:600;color:#475569}td.n{white-space:nowrap}td.w{overflow-wrap:anywhere}\
code{font:12px/1.4 ui-monospace,'DejaVu Sans Mono',monospace;overflow-wrap:anywhere}.m{color:#475569;margin:2px 0}\
.verdict{border:2px solid #15803d;padding:8px 12px;margin:14px 0;break-inside:avoid}.broken{border-color:#b91c1c}\
.verdict b{font-size:16px}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:11px}\
summary{cursor:pointer;color:#475569;margin-top:24px}@page{margin:14mm}@media print{body{margin:0;max-width:none;padding:0}\
tr{break-inside:avoid}details{display:none}}";

/// Breaks shown; the data holds all.
const BREAKS_SHOWN: usize = 20;

/// Labels below a time axis.
const TICKS: usize = 6;

impl Page<'_> {
    pub(super) fn html(&self) -> String {
        let origin = escape(&self.report.origin);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Audit report: {origin}</title>\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style></head><body>\n\
             <h1>Audit report: {origin}</h1>\n<p class=\"m\">made {} by edgate {}</p>\n",
            escape(self.made),
            env!("CARGO_PKG_VERSION")
        );
        self.verdict(&mut out);
        self.decisions(&mut out);
        self.refusals(&mut out);
        self.signatures(&mut out);
        for (title, marks) in [
            ("Recoveries, gaps, disk states, clock jumps, heartbeats", &self.summary.incidents),
            ("Changes of keys and settings", &self.summary.changes),
            ("Actions of operators and auditors", &self.summary.actions),
            ("Starts and stops", &self.summary.runs),
        ] {
            list(&mut out, title, marks);
        }
        let _ = writeln!(
            out,
            "<h2>What this page says, and who says it</h2>\n<p class=\"m\">SHA-256 of the figures, as <code>edgate audit report --json</code> \
             prints them:<br><code>{}</code></p>\n<p class=\"m\">The digest of this file is on record in the log if the node was told of it: look \
             for it among the exports (<code>edgate audit tail --kind export</code>).</p>\n<details><summary>The figures (JSON)</summary><pre>{}</pre></details>\n</body></html>",
            escape(self.digest),
            escape(self.data)
        );
        out
    }

    fn verdict(&self, out: &mut String) {
        let Report { size, breaks, checkpoints, signed_size, root, head, .. } = self.report;
        let whole = breaks.is_empty();
        let words = if whole { "The log is whole." } else { "THE LOG IS BROKEN." };
        let _ = write!(
            out,
            "<div class=\"verdict{}\"><b>{words}</b> {} records recomputed from their bytes, {} checkpoints checked with {}; \
             {} of {} records are signed.",
            if whole { "" } else { " broken" },
            grouped(self.report.records),
            grouped(*checkpoints),
            escape(self.key),
            grouped(*signed_size),
            grouped(*size)
        );
        if !whole {
            let _ = write!(out, "<ul>");
            for one in breaks.iter().take(BREAKS_SHOWN) {
                let _ = write!(out, "<li>{}</li>", escape(&one.to_string()));
            }
            if breaks.len() > BREAKS_SHOWN {
                let _ = write!(out, "<li>and {} more</li>", breaks.len() - BREAKS_SHOWN);
            }
            let _ = write!(out, "</ul>");
        }
        let hash =
            |hash: &Option<[u8; 32]>| hash.as_ref().map_or_else(|| "unknown".to_owned(), |hash| hex(hash));
        let _ = writeln!(
            out,
            "<p class=\"m\">root <code>{}</code><br>head <code>{}</code></p></div>",
            hash(root),
            hash(head)
        );
        let Summary { records, seqs, times_ns, without_body, .. } = self.summary;
        let range = match (seqs, times_ns) {
            (Some((first, last)), Some((from, to))) => format!(
                "Counted: {} records, {} to {}, of {} to {} UTC.",
                grouped(*records),
                grouped(*first),
                grouped(*last),
                escape(&time(*from)),
                escape(&time(*to))
            ),
            _ => "Counted: no records in that time.".to_owned(),
        };
        let bodies = match without_body {
            0 => String::new(),
            bodies => format!(" Bodies that are gone: {}.", grouped(*bodies)),
        };
        let _ = writeln!(out, "<p>{range}{bodies}</p>");
    }

    fn decisions(&self, out: &mut String) {
        let Summary { timeline, decisions, .. } = self.summary;
        let decided = self.summary.decided();
        let accepted = decisions.get(ACCEPTED).copied().unwrap_or(0);
        let per_slot = |slot: &BTreeMap<&str, u64>| slot.values().sum::<u64>();
        let peak = timeline.slots.iter().map(per_slot).max().unwrap_or(0);
        let seconds = timeline.step_ns / NS_PER_S;
        let _ = writeln!(
            out,
            "<h2>Decisions over time</h2>\n<p class=\"m\">{} decisions: {} accepted, {} refused. Each bar is {}; the highest is {}, {:.1} a second.</p>",
            grouped(decided),
            grouped(accepted),
            grouped(decided - accepted),
            duration(timeline.step_ns),
            grouped(peak),
            peak as f64 / seconds.max(1) as f64
        );
        let count = |of: &dyn Fn(&str) -> bool| -> Vec<u64> {
            let in_slot = |slot: &BTreeMap<&'static str, u64>| {
                slot.iter().filter(|(name, _)| of(name)).map(|(_, count)| count).sum()
            };
            timeline.slots.iter().map(in_slot).collect()
        };
        let ticks = ticks(timeline);
        let all = [
            Series { name: "accepted", colour: ACCEPTED_COLOUR, counts: count(&|name| name == ACCEPTED) },
            Series { name: "refused", colour: COLOURS[0], counts: count(&|name| name != ACCEPTED) },
        ];
        out.push_str(&stacked("Decisions over time", &all, &ticks));
        let mut reasons: Vec<(&str, u64)> = decisions
            .iter()
            .filter(|(name, _)| **name != ACCEPTED)
            .map(|(name, count)| (*name, *count))
            .collect();
        if reasons.is_empty() {
            return;
        }
        reasons.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        let shown = reasons.len().min(COLOURS.len() - 1);
        let mut series: Vec<_> = (reasons.iter().take(shown).zip(COLOURS))
            .map(|((name, _), colour)| Series { name, colour, counts: count(&|other| other == *name) })
            .collect();
        if reasons.len() > shown {
            let shown: Vec<&str> = reasons.iter().take(shown).map(|(name, _)| *name).collect();
            let counts = count(&|name| name != ACCEPTED && !shown.contains(&name));
            series.push(Series { name: "other reasons", colour: COLOURS[COLOURS.len() - 1], counts });
        }
        let _ = writeln!(out, "<h2>Refusals over time, by reason</h2>");
        out.push_str(&stacked("Refusals over time, by reason", &series, &ticks));
        let rows: Vec<_> = reasons.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let _ = writeln!(out, "<h2>Refusals by reason</h2>");
        out.push_str(&bars("Refusals by reason", &rows, COLOURS[0]));
    }

    fn refusals(&self, out: &mut String) {
        let Summary { refused_issuers, refused_kids, refused_tenants, .. } = self.summary;
        for (title, top) in [
            ("Refusals by issuer", refused_issuers),
            ("Refusals by kid, as the token names it", refused_kids),
            ("Refusals by tenant", refused_tenants),
        ] {
            if top.names.is_empty() {
                continue;
            }
            let Top { names, others, is_lower_bound, .. } = top;
            let mut rows = names.clone();
            if *others > 0 {
                rows.push(("all others".to_owned(), *others));
            }
            let _ = writeln!(out, "<h2>{}</h2>", escape(title));
            if *is_lower_bound {
                let _ = writeln!(
                    out,
                    "<p class=\"m\">There were too many names to count each: the counts are at least these.</p>"
                );
            }
            out.push_str(&bars(title, &rows, "#475569"));
        }
    }

    fn signatures(&self, out: &mut String) {
        let checkpoints = &self.summary.checkpoints;
        let mean = checkpoints.total_ns.checked_div(checkpoints.intervals);
        let row = |out: &mut String, name: &str, value: &str| {
            let _ = writeln!(
                out,
                "<tr><td class=\"n\">{}</td><td class=\"w\">{}</td></tr>",
                escape(name),
                escape(value)
            );
        };
        let _ = writeln!(out, "<h2>Checkpoints and anchors</h2>\n<table>");
        row(out, "checkpoints in the log", &grouped(checkpoints.count));
        if let Some(mean) = mean {
            row(out, "between two of them, on average", &duration(mean));
            let longest = format!(
                "{}, from {} UTC",
                duration(checkpoints.longest_ns),
                time(checkpoints.longest_from_ns)
            );
            row(out, "the longest time without one", &longest);
            row(out, "records a checkpoint was behind, at most", &grouped(checkpoints.records_behind_max));
        }
        let unsigned = self.report.size.saturating_sub(self.report.signed_size);
        row(out, "records not signed yet", &grouped(unsigned));
        match self.summary.anchors.is_empty() {
            true => row(out, "anchors", "none in the log"),
            false => {
                for (kind, count) in &self.summary.anchors {
                    row(out, &format!("anchors, {kind}"), &grouped(*count));
                }
            }
        }
        for anchor in &self.report.anchors {
            let said = if anchor.failed.is_none() { "the log continues it" } else { anchor.detail.as_str() };
            row(out, &format!("kept checkpoint {}", anchor.name), said);
        }
        out.push_str("</table>\n");
        for notice in &self.report.notices {
            let _ = writeln!(out, "<p class=\"m\">note: {}</p>", escape(&notice.to_string()));
        }
    }
}

fn list(out: &mut String, title: &str, marks: &Marks) {
    let shown = marks.latest.len() as u64;
    let which = match marks.count {
        0 => "none".to_owned(),
        count if count > shown => format!("{}, of which the last {shown}", grouped(count)),
        count => grouped(count),
    };
    let _ = writeln!(out, "<h2>{}: {which}</h2>", escape(title));
    if marks.latest.is_empty() {
        return;
    }
    out.push_str("<table><tr><th>record</th><th>time, UTC</th><th>kind</th><th>what</th></tr>\n");
    for mark in &marks.latest {
        let _ = writeln!(
            out,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"w\">{}</td></tr>",
            grouped(mark.seq),
            escape(&time(mark.wall_ns)),
            escape(&mark.kind),
            escape(&mark.text)
        );
    }
    out.push_str("</table>\n");
}

/// Some slots of a timeline, with their times: with the date where it spans more than a day.
fn ticks(timeline: &Timeline) -> Vec<(usize, String)> {
    let slots = timeline.slots.len().max(1);
    let spans = timeline.step_ns.saturating_mul(slots as u64);
    let every = slots.div_ceil(TICKS);
    let format = if spans > 2 * 86_400 * NS_PER_S { "%Y-%m-%d" } else { "%m-%d %H:%M:%S" };
    (0..slots)
        .step_by(every)
        .map(|slot| {
            (slot, at(timeline.start_ns.saturating_add(timeline.step_ns.saturating_mul(slot as u64)), format))
        })
        .collect()
}

fn time(ns: u64) -> String {
    at(ns, "%Y-%m-%d %H:%M:%S")
}

fn at(ns: u64, format: &str) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map_or_else(|_| ns.to_string(), |time| time.strftime(format).to_string())
}

/// A time of any length, in the unit that fits it.
fn duration(ns: u64) -> String {
    let seconds = ns as f64 / NS_PER_S as f64;
    match seconds {
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

const NS_PER_S: u64 = 1_000_000_000;
