//! `edgate audit`: look at the log without the service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::audit::schema::Kind;
use crate::audit::verify::{Break, Mode, Options, Report, Trusted, VerifyProgress, verify_dir};
use crate::audit::{AuditError, Entry, Tail, hex};

use crate::config::{Config, EXIT_CONFIG};
use crate::daemon;

use super::audit_anchors::{AnchorArguments, anchors_json, print_anchors};
use super::audit_archive::{self, ArchiveArguments};
use super::audit_doctor::{self, DoctorArguments};
use super::audit_drill::{self, DrillArguments};
use super::audit_erase::{self, EraseArguments};
use super::audit_export::{self, ExportArguments};
use super::audit_report::{self, ReportArguments};
use super::audit_verify_export::{self, VerifyExportArguments};
use super::audit_verify_mirror::{self, VerifyMirrorArguments};
use super::checkpoint_keys::believed;
use super::control_client::Asked;
use super::verify_record::{RecordArguments, Recorded};
use super::{
    EXIT_FAILURE, EXIT_INPUT, EXIT_NO, EXIT_YES, Output, audit_aep, audit_bundle, audit_checkpoint_key,
    audit_proof, audit_receipt, audit_retention, audit_sealed, audit_tag, audit_tag_keys, audit_timestamp,
    audit_witness, complain, print_line,
};

/// What can be done with a log.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Recompute the whole log from its bytes and name every break.
    Verify(VerifyArguments),
    /// Write records to a file for somebody else, with a manifest that holds them to it.
    Export(ExportArguments),
    /// Check an export against its manifest, and against the log if it is there.
    VerifyExport(VerifyExportArguments),
    /// Write decisions as an audit bundle of the Agent Event Protocol, signed with a shared secret.
    AepBundle(audit_aep::BundleArguments),
    /// Check an audit bundle of the Agent Event Protocol with its secret: ours or another's.
    VerifyAepBundle(audit_aep::VerifyBundleArguments),
    /// Check a copy of the log that a SIEM keeps: nothing missing, nothing altered, and signed; from the copy and a key alone.
    VerifyMirror(VerifyMirrorArguments),
    /// Find the records about one person, token, address or session by their keyed tags; the log says that it was done.
    Tag(audit_tag::TagArguments),
    /// Hand over from the log's checkpoint key to the one that the running node's configuration names now.
    RotateCheckpointKey(Asked),
    /// Begin an epoch of the tags: what is recorded from now on cannot be matched with what was before, but by who has both keys.
    RotateTagKey(Asked),
    /// Destroy the tag key of an epoch that is over: whose its tags are can then never be said again. Mass erasure.
    DestroyTagKey(audit_tag_keys::DestroyArguments),
    /// Open the sealed values of a record, with the private keys of all openers; the log says that it was done.
    Open(audit_sealed::OpenArguments),
    /// Make openers' keys, and destroy the keys of what is sealed.
    #[command(subcommand)]
    Sealed(audit_sealed::SealedCommand),
    /// Hold records of a time: nobody retires or erases them until the hold is released.
    Hold(audit_retention::HoldArguments),
    /// Release a hold.
    Release(audit_retention::ReleaseArguments),
    /// Have old segments leave the log's folder, once their archives are elsewhere and the log says so.
    Retire(audit_retention::RetireArguments),
    /// Put finished segments into their small form, a fraction of the bytes, which all other commands read as well.
    Archive(ArchiveArguments),
    /// Show the latest records, and with --follow those that come.
    Tail(TailArguments),
    /// Write the log's tree as C2SP tlog-tiles, which standard tools read and `prove` needs no log for; continues from what
    /// is there.
    Tiles(audit_proof::TilesArguments),
    /// Prove one decision to a stranger, or that the log continues an older checkpoint.
    Prove(audit_proof::ProveArguments),
    /// Check a proof: offline, without the log, with nothing but a key.
    VerifyProof(audit_proof::VerifyProofArguments),
    /// Check a receipt that came with an answer, and whether a log, or a proof, holds what it promised.
    VerifyReceipt(audit_receipt::VerifyReceiptArguments),
    /// Pack a part of the log, or single decisions, with all that a stranger needs to check them years later.
    Bundle(audit_bundle::BundleArguments),
    /// Check a bundle: offline, without the log, with nothing but a key.
    VerifyBundle(audit_bundle::VerifyBundleArguments),
    /// Examine the disk of a log, and say what is guaranteed on it. Exit code 1 if it is not fit.
    Doctor(DoctorArguments),
    /// Tamper with a copy of the log in every way we know of, and show that verification names each.
    Drill(DrillArguments),
    /// Have the bodies of records dropped, by a named authority; every proof stays whole.
    Erase(EraseArguments),
    /// Have a timestamp authority (RFC 3161) state that a checkpoint was there.
    Timestamp(audit_timestamp::TimestampArguments),
    /// Check such a statement: offline, at the time it states.
    VerifyTimestamp(audit_timestamp::VerifyTimestampArguments),
    /// Make a page of the log's figures, and of what verification says: decisions over time, refusals, checkpoints, actions.
    Report(ReportArguments),
    /// Run as a witness: cosign other logs' checkpoints, each only if it continues the last one (C2SP tlog-witness).
    Witness(audit_witness::WitnessArguments),
    /// Decide about a damaged log that a start refuses: keep it aside, whole, and begin a successor that says so.
    SetAside(SetAsideArguments),
}

#[derive(Debug, Args)]
pub(super) struct SetAsideArguments {
    /// The configuration file. Its audit.origin must already be the successor's name.
    config: PathBuf,
    /// Who answers for the decision: a person, a ticket.
    #[arg(long, value_name = "NAME")]
    authority: String,
    /// What happened, as far as it is known.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct TailArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Records to begin with.
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
    /// Go on with what is appended, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// Show only this kind of record, such as `decision`; may be repeated.
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct VerifyArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// The name the log must have; otherwise the one it states is accepted.
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
    /// A file with the checkpoint key, kept where the log's writer cannot change it. Otherwise the copy in the log's own
    /// folder is used, which whoever rewrites the log can replace.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Pass a log, or a tail of it, that no checkpoint covers.
    #[arg(long)]
    allow_unsigned: bool,
    /// Do not hash bodies: their checksums stand for them.
    #[arg(long, conflicts_with = "range")]
    quick: bool,
    /// Look only at the segments that hold these records.
    #[arg(long, value_name = "FROM..TO", value_parser = parse_range)]
    range: Option<(u64, u64)>,
    /// Verify only what was added since the last run with this file, and keep there how far this run came. Keep the file
    /// where the log's writer cannot change it: what it covers is not read again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["range", "quick"])]
    state: Option<PathBuf>,
    #[command(flatten)]
    anchors: AnchorArguments,
    /// A folder with archives of segments that the log has no longer: with them it is verified from its beginning.
    #[arg(long, value_name = "FOLDER", conflicts_with = "range")]
    archives: Option<PathBuf>,
    /// Threads; 0 is one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    record: RecordArguments,
    #[command(flatten)]
    output: Output,
}

pub(super) fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    bounds.filter(|(from, to)| from < to).ok_or_else(|| "write FROM..TO, two record numbers".to_owned())
}

const EXIT_CODES: &str = "Exit codes, by the class of the first break: 0 whole; 1 altered-header, altered-body; 2 could not \
run; 3 deleted; 4 inserted; 5 reordered; 6 duplicate; 7 missing-segment; 8 torn-unacknowledged; 9 bad-signature; 10 wrong-key; \
11 wrong-origin; 12 unsigned; 13 unsealed; 14 rewritten; 15 truncated; 17 unchecked: an anchor; 19 bad-erase; 23 malformed; 25 rollback.";

/// Breaks shown to a person; `--json` shows all.
const BREAKS_SHOWN: usize = 20;

pub(super) fn run(command: &AuditCommand) -> u8 {
    match command {
        AuditCommand::Verify(arguments) => verify(arguments),
        AuditCommand::RotateCheckpointKey(arguments) => audit_checkpoint_key::rotate(arguments),
        AuditCommand::RotateTagKey(arguments) => audit_tag_keys::rotate(arguments),
        AuditCommand::DestroyTagKey(arguments) => audit_tag_keys::destroy(arguments),
        AuditCommand::Tag(arguments) => audit_tag::run(arguments),
        AuditCommand::Open(arguments) => audit_sealed::open(arguments),
        AuditCommand::Sealed(command) => audit_sealed::run(command),
        AuditCommand::Tail(arguments) => tail(arguments).unwrap_or_else(|error| {
            complain(error);
            EXIT_INPUT
        }),
        AuditCommand::Tiles(arguments) => audit_proof::tiles(arguments),
        AuditCommand::Prove(arguments) => audit_proof::prove(arguments),
        AuditCommand::VerifyProof(arguments) => audit_proof::verify_proof(arguments),
        AuditCommand::VerifyReceipt(arguments) => audit_receipt::run(arguments),
        AuditCommand::Bundle(arguments) => audit_bundle::bundle(arguments),
        AuditCommand::VerifyBundle(arguments) => audit_bundle::verify(arguments),
        AuditCommand::Erase(arguments) => audit_erase::run(arguments),
        AuditCommand::Timestamp(arguments) => audit_timestamp::timestamp(arguments),
        AuditCommand::VerifyTimestamp(arguments) => audit_timestamp::verify(arguments),
        AuditCommand::SetAside(arguments) => set_aside(arguments),
        AuditCommand::Doctor(arguments) => audit_doctor::run(arguments),
        AuditCommand::Drill(arguments) => audit_drill::run(arguments),
        AuditCommand::Hold(arguments) => audit_retention::hold(arguments),
        AuditCommand::Release(arguments) => audit_retention::release(arguments),
        AuditCommand::Retire(arguments) => audit_retention::retire(arguments),
        AuditCommand::Archive(arguments) => audit_archive::run(arguments),
        AuditCommand::Report(arguments) => audit_report::run(arguments),
        AuditCommand::Witness(arguments) => audit_witness::run(arguments),
        AuditCommand::Export(arguments) => audit_export::run(arguments),
        AuditCommand::VerifyExport(arguments) => audit_verify_export::run(arguments),
        AuditCommand::AepBundle(arguments) => audit_aep::bundle(arguments),
        AuditCommand::VerifyAepBundle(arguments) => audit_aep::verify_bundle(arguments),
        AuditCommand::VerifyMirror(arguments) => audit_verify_mirror::run(arguments),
    }
}

fn set_aside(arguments: &SetAsideArguments) -> u8 {
    let named = |text: &str| !text.trim().is_empty() && text.len() <= WORDS_BYTES_MAX;
    if !named(&arguments.authority) || !named(&arguments.reason) {
        complain(format_args!("give an authority and a reason of 1 to {WORDS_BYTES_MAX} bytes each"));
        return EXIT_INPUT;
    }
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return EXIT_CONFIG;
        }
    };
    match daemon::set_aside(&config, &arguments.authority, &arguments.reason) {
        Ok(done) if arguments.output.json => print_line(match &done {
            Some(done) => {
                json!({"set_aside": done.folder, "damage": done.damage, "digest": hex(&done.digest)})
            }
            None => json!({"set_aside": null}),
        }),
        Ok(Some(done)) => {
            print_line(format_args!("set aside  {}", done.folder.display()));
            print_line(format_args!("damage     {}", done.damage));
            print_line(format_args!("digest     {}", hex(&done.digest)));
            print_line("a successor begins in its place; its first records state this decision");
        }
        Ok(None) => print_line("an earlier decision is now complete; it stands in the new log"),
        Err(error) => {
            complain(&error);
            return error.exit_code();
        }
    }
    EXIT_YES
}

/// The longest authority or reason: it goes into a record.
const WORDS_BYTES_MAX: usize = 1024;

fn tail(arguments: &TailArguments) -> Result<u8, AuditError> {
    let unknown = |name: &&String| Kind::ALL.iter().all(|kind| kind.name() != name.as_str());
    if let Some(name) = arguments.kind.iter().find(unknown) {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        complain(format_args!("no kind {name:?}; there are {}", names.join(", ")));
        return Ok(EXIT_INPUT);
    }
    let wanted =
        |entry: &Entry| arguments.kind.is_empty() || arguments.kind.iter().any(|kind| *kind == entry.kind());
    let mut tail = Tail::last(&arguments.dir, arguments.lines, wanted)?;
    let mut tries = 0;
    loop {
        let next = tail.next().map_err(|source| AuditError::Io {
            what: "read",
            path: arguments.dir.clone(),
            source,
        })?;
        match next {
            Some(entry) => {
                if let Some(damage) = tail.damage() {
                    complain(format_args!("passed over damage at {damage}; `edgate audit verify` says more"));
                }
                tries = 0;
                if wanted(&entry) {
                    match arguments.output.json {
                        true => print_line(entry.json()),
                        false => print_line(entry.to_text()),
                    }
                }
            }
            None => {
                let damage = tail.damage();
                match damage {
                    // A running writer may be in the middle of this record.
                    Some(_) if tries < DAMAGE_TRIES => tries += 1,
                    Some(damage) => {
                        complain(format_args!(
                            "stopped at damage, {damage}; `edgate audit verify` says more"
                        ));
                        return Ok(EXIT_NO);
                    }
                    None if arguments.follow => {}
                    None => return Ok(EXIT_YES),
                }
                std::thread::sleep(FOLLOW_PAUSE);
            }
        }
    }
}

/// How often bytes that are no record are looked at again before they count as damage.
const DAMAGE_TRIES: u32 = 5;

/// How soon a follower looks again.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

fn verify(arguments: &VerifyArguments) -> u8 {
    let options = match options(arguments) {
        Ok(options) => options,
        Err(message) => {
            complain(message);
            return EXIT_INPUT;
        }
    };
    match with_bar(arguments.output.json, |progress| verify_dir(&arguments.dir, &options, progress)) {
        // With a range the report's size is where the segments looked at end.
        Ok(report) if arguments.range.is_some_and(|(from, _)| from >= report.size) => {
            let (size, (from, to)) = (report.size, arguments.range.unwrap_or_default());
            complain(format_args!("the log has no records {from}..{to}: it ends before record {size}"));
            EXIT_INPUT
        }
        Ok(report) => {
            let recorded = arguments.record.record(&arguments.dir, &options, &report);
            print_report(&report, arguments, &recorded);
            if let (Some(path), Some(trusted)) = (&arguments.state, &report.trusted)
                && let Err(error) = trusted.store(path)
            {
                complain(format_args!("cannot keep the state in {}: {error}", path.display()));
                return EXIT_FAILURE;
            }
            report.exit_code()
        }
        Err(error) => {
            complain(&error);
            EXIT_INPUT
        }
    }
}

fn options(arguments: &VerifyArguments) -> Result<Options, String> {
    let believed = believed(&arguments.dir, arguments.key.as_deref())?;
    Ok(Options {
        since: arguments.state.as_deref().map(read_state).transpose()?.flatten(),
        origin: arguments.origin.clone(),
        mode: match arguments.range {
            Some((from, to)) => Mode::Range { from, to },
            None if arguments.quick => Mode::Quick,
            None => Mode::Full,
        },
        keys: believed.keys,
        handovers: believed.handovers,
        allow_unsigned: arguments.allow_unsigned,
        // Read before the log: what is appended meanwhile makes it longer.
        anchors: arguments.anchors.anchors()?,
        witnesses: arguments.anchors.witnesses()?,
        archives: arguments.archives.clone(),
        threads: arguments.threads,
        ..Options::default()
    })
}

/// The state an earlier run left; `None` before the first.
fn read_state(path: &Path) -> Result<Option<Trusted>, String> {
    Trusted::load(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => {
            format!("{}: not the state of a verification; move it away to begin anew", path.display())
        }
        _ => format!("cannot read {}: {error}", path.display()),
    })
}

pub(super) fn progress_bar(json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    // Drawn on standard error, and only if that is a terminal.
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Does work that reads a log through, and shows how far it is.
pub(super) fn with_bar<T>(json: bool, work: impl FnOnce(&mut dyn FnMut(VerifyProgress)) -> T) -> T {
    let bar = progress_bar(json);
    let done = work(&mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes);
    });
    bar.finish_and_clear();
    done
}

fn print_report(report: &Report, arguments: &VerifyArguments, recorded: &Recorded) {
    let whole = report.breaks.is_empty();
    if arguments.output.json {
        let shown = |found: &[Break]| -> Vec<_> {
            found
                .iter()
                .map(|one| {
                    json!({
                        "class": one.class.name(), "segment": one.segment, "offset": one.offset, "seq": one.seq,
                        "records": one.records, "detail": one.detail,
                    })
                })
                .collect()
        };
        print_line(json!({
            "valid": whole,
            "origin": report.origin,
            "segments": report.segments,
            "records": report.records,
            "size": report.size,
            "head": report.head.as_ref().map(|hash| hex(hash)),
            "root": report.root.as_ref().map(|hash| hex(hash)),
            "checkpoints": report.checkpoints,
            "signed_size": report.signed_size,
            "anchors": anchors_json(&report.anchors),
            "redacted": report.redacted,
            "breaks": shown(&report.breaks),
            "notices": shown(&report.notices),
            "record": if let Recorded::As(id) = recorded { Some(id) } else { None },
        }));
        return;
    }
    let (origin, size) = (report.origin.escape_debug(), report.size);
    if whole {
        let (records, segments) = (report.records, report.segments);
        print_line(format_args!("whole: {records} records of {origin} recomputed in {segments} segments"));
    } else {
        print_line(format_args!(
            "BROKEN: {origin}, {size} records, {} breaks; the first is",
            report.breaks.len()
        ));
        for one in report.breaks.iter().take(BREAKS_SHOWN) {
            print_line(format_args!("  {one}"));
        }
        if report.breaks.len() > BREAKS_SHOWN {
            print_line(format_args!("  and {} more (--json shows all)", report.breaks.len() - BREAKS_SHOWN));
        }
    }
    if let Some(head) = &report.head {
        print_line(format_args!("head  {}", hex(head)));
    }
    if report.checkpoints > 0 {
        let from = if arguments.key.is_some() { "the key given" } else { "the key in the log's own folder" };
        let (checkpoints, signed) = (report.checkpoints, report.signed_size);
        print_line(format_args!(
            "signed  {signed} of {size} records, {checkpoints} checkpoints checked with {from}"
        ));
    }
    if report.redacted > 0 {
        let redacted = report.redacted;
        print_line(format_args!(
            "redacted, authorised  {redacted} bodies (`edgate audit tail --kind erase` shows by whom)"
        ));
    }
    for notice in &report.notices {
        print_line(format_args!("note  {notice}"));
    }
    match recorded {
        Recorded::As(id) => print_line(format_args!("recorded  {id}")),
        Recorded::Nobody => {}
        Recorded::Not => print_line("not recorded: the log says nothing of this verification"),
    }
    print_anchors(&report.anchors);
    if whole && report.anchors.is_empty() {
        print_line(
            "anchors  none checked: a copy of a checkpoint kept elsewhere shows a rewrite or a cut tail",
        );
    }
}
