//! The numbers of the tokens' session pools, as OpenMetrics text: of all together, and of each.

use std::fmt::Write as _;
use std::time::Duration;

use edgate_hsm::{BUCKETS_US, Durations, Group, MemberStanding, TokenStanding};

/// The lanes in the order of `PoolMetrics::queued`.
const LANES: [&str; 4] = ["audit_checkpoint", "tls_server", "token_signing", "wrapping"];

/// Appends every family, without a closing `# EOF`.
pub(super) fn render(hsm: &Group, out: &mut String) {
    let metrics = hsm.metrics();
    let members = hsm.members();
    let needs_operator = members.iter().any(MemberStanding::needs_operator);
    let flag = u64::from;
    let gauges = [
        (
            "hsm_ready",
            "Whether every key has signed in some token",
            flag(matches!(hsm.standing(), TokenStanding::Ready)),
        ),
        (
            "hsm_needs_operator",
            "Whether a token waits for an operator: its PIN is wrong, locked or missing",
            flag(needs_operator),
        ),
        ("hsm_outstanding", "Jobs not answered yet", metrics.outstanding as u64),
        ("hsm_sessions", "Sessions open", metrics.sessions),
        ("hsm_workers_stuck", "Workers inside a call that does not return", metrics.workers_stuck as u64),
    ];
    for (name, help, value) in gauges {
        family(out, name, "gauge", help);
        line(out, format_args!("edgate_{name} {value}"));
    }
    let counters = [
        ("hsm_signed", "Signatures released, each verified before", metrics.signed),
        ("hsm_overloaded", "Jobs refused because their queue was full", metrics.overloaded),
        ("hsm_deadline_passed", "Jobs answered by their deadline", metrics.deadline_passed),
        (
            "hsm_signature_faults",
            "Signatures discarded because they did not verify",
            metrics.signature_faults,
        ),
        ("hsm_reinitialized", "Times the module was initialised anew", metrics.reinitialized),
        ("hsm_logins", "Logins made", metrics.logins),
        ("hsm_workers_lost", "Workers written off because a call did not return", metrics.workers_lost),
        ("hsm_agent_lost", "Connections to an agent that broke", metrics.agent_lost),
    ];
    for (name, help, value) in counters {
        family(out, name, "counter", help);
        line(out, format_args!("edgate_{name}_total {value}"));
    }
    family(out, "hsm_queued", "gauge", "Jobs waiting, by purpose");
    for (lane, queued) in LANES.iter().zip(metrics.queued) {
        line(out, format_args!("edgate_hsm_queued{{purpose=\"{lane}\"}} {queued}"));
    }
    family(out, "hsm_errors", "counter", "PKCS#11 calls that failed, by function and code");
    for ((function, code), count) in &metrics.errors {
        // Both are names out of the standard's tables, never text from a module; an agent's word for them is cleaned.
        let (function, code) = (function.escape_default(), code.escape_default());
        line(out, format_args!("edgate_hsm_errors_total{{function=\"{function}\",code=\"{code}\"}} {count}"));
    }
    render_members(&members, out);
    histogram(out, "hsm_wait_seconds", "From submission to a worker", &metrics.wait);
    histogram(out, "hsm_call_seconds", "In the module", &metrics.call);
    histogram(out, "hsm_verify_seconds", "Verifying before release", &metrics.verify);
}

/// What tells one token from another.
fn render_members(members: &[MemberStanding], out: &mut String) {
    type Read = fn(&MemberStanding) -> u64;
    let up: Read = |member| u64::from(matches!(member.standing, TokenStanding::Ready));
    let errors: Read = |member| member.metrics.errors.values().sum();
    let families: [(&str, &str, &str, Read); 6] = [
        ("hsm_member_up", "gauge", "Whether every key in this token has signed", up),
        ("hsm_member_draining", "gauge", "Whether it is kept from signing", |member| {
            u64::from(member.draining)
        }),
        ("hsm_member_outstanding", "gauge", "Its jobs not answered yet", |member| {
            member.metrics.outstanding as u64
        }),
        ("hsm_member_signed", "counter", "Signatures it released", |member| member.metrics.signed),
        ("hsm_member_errors", "counter", "Its PKCS#11 calls that failed", errors),
        (
            "hsm_member_failed_over",
            "counter",
            "Times it failed or took too long for a signature that another could be asked for",
            |member| member.failed_over,
        ),
    ];
    for (name, kind, help, read) in families {
        family(out, name, kind, help);
        let total = if kind == "counter" { "_total" } else { "" };
        for member in members {
            let label = |text: &Option<String>| escaped(text.as_deref().unwrap_or_default());
            let (token, serial) = (label(&member.token.token), label(&member.token.serial));
            let value = read(member);
            line(out, format_args!("edgate_{name}{total}{{token=\"{token}\",serial=\"{serial}\"}} {value}"));
        }
    }
}

/// A label's value, which an operator chose: as OpenMetrics has it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Begins a family.
pub(super) fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, format_args!("# HELP edgate_{name} {help}."));
    line(out, format_args!("# TYPE edgate_{name} {kind}"));
}

fn histogram(out: &mut String, name: &str, help: &str, durations: &Durations) {
    family(out, name, "histogram", help);
    let mut count = 0;
    for (bound, in_bucket) in BUCKETS_US.iter().zip(&durations.buckets) {
        count += in_bucket;
        let bound = Duration::from_micros(*bound).as_secs_f64();
        line(out, format_args!("edgate_{name}_bucket{{le=\"{bound:?}\"}} {count}"));
    }
    count += durations.buckets.last().copied().unwrap_or(0);
    line(out, format_args!("edgate_{name}_bucket{{le=\"+Inf\"}} {count}"));
    line(out, format_args!("edgate_{name}_count {count}"));
    line(out, format_args!("edgate_{name}_sum {}", durations.sum.as_secs_f64()));
}

/// Adds a line to it.
pub(super) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{text}");
}
