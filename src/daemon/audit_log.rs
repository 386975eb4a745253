//! The audit log as the daemon opens it: settings, checkpoint key, first and last words, and what an operator decides
//! about a log that it refuses.

use signal_hook::consts::SIGTERM;

use super::{RECORD_TIMEOUT, StartError, keys, wrapping};
use crate::audit::{
    self, Ack, AdminEvent, Appender, Decision, Event, OnFailure, PassedOver, Phase, Recovery, Resumed,
    SetAside, StartEvent, Torn,
};
use crate::config::{self, Config};

pub(super) fn on_failure(config: &Config) -> OnFailure {
    match config.audit.on_failure {
        config::OnAuditFailure::Deny => OnFailure::Deny,
        config::OnAuditFailure::Halt => OnFailure::Halt,
        config::OnAuditFailure::AllowWithGap => OnFailure::AllowWithGap,
    }
}

/// Records of one shard that may wait for the sequencer: one for each connection it may have and then some.
const QUEUE_EVENTS: usize = 32 * 1024;

/// Bytes of them.
const QUEUE_BYTES: u64 = 16 << 20;

pub(super) fn audit_settings(config: &Config, create: bool) -> audit::Settings {
    audit::Settings {
        segment_bytes: config.audit.segment_bytes,
        flush_interval: config.audit.flush_interval,
        unflushed_age_max: config.audit.unflushed_age_max,
        unsigned_age_max: config.audit.unsigned_age_max,
        queue_events: QUEUE_EVENTS,
        queue_bytes: QUEUE_BYTES,
        on_failure: on_failure(config),
        receipts: config.audit.receipts,
        create,
        ..audit::Settings::new(&config.audit.dir, &config.audit.origin)
    }
}

pub(super) fn record_start(recorder: &mut Appender, shards: u16, detail: &str) -> Result<(), StartError> {
    let start = StartEvent { version: env!("CARGO_PKG_VERSION"), config_digest: None, shards, detail };
    let id = recorder.append(&Event::Start(start), Ack::Durable)?;
    recorder.submit();
    recorder.wait(id, Ack::Durable, RECORD_TIMEOUT)?;
    Ok(())
}

/// Says in the log that this start went on with erasures that were under way.
pub(super) fn record_erasures(recorder: &mut Appender, recovery: &Recovery) -> Result<(), StartError> {
    let Resumed { erased, kept, waiting, gone } = &recovery.erasures;
    for (seq, why) in waiting {
        tracing::warn!(seq, %why, "a body that was ordered to be erased stays for now");
    }
    if [erased, kept, gone].iter().all(|records| records.is_empty()) {
        return Ok(());
    }
    let detail = format!(
        "{} bodies overwritten at a start; {} kept, whose ERASE has no effect; {} gone with their segments; {} kept for now",
        erased.len(),
        kept.len(),
        gone.len(),
        waiting.len()
    );
    tracing::warn!(detail, "erasures had been under way");
    let outcome = AdminEvent {
        phase: Phase::Done,
        actor: "start",
        action: "audit-erase",
        target: "",
        detail: &detail,
        intent: None,
    };
    let id = recorder.append(&Event::Admin(outcome), Ack::Durable)?;
    recorder.submit();
    recorder.wait(id, Ack::Durable, RECORD_TIMEOUT)?;
    Ok(())
}

pub(super) fn report_recovery(recovery: &Recovery) {
    for PassedOver { name, size } in &recovery.passed_over {
        tracing::warn!(
            anchor = name,
            size,
            "the records that this anchor was signed for were retired: the log was not held against it"
        );
    }
    if recovery.clean || recovery.created {
        tracing::info!(records = recovery.size, "audit log open");
        return;
    }
    tracing::warn!(records = recovery.size, "audit log was not closed: recovered");
    for torn in &recovery.torn {
        let Torn { segment, offset, bytes, cause, file, .. } = torn;
        tracing::warn!(segment, offset, bytes, %cause, quarantine = %file, "torn tail set aside");
    }
}

/// Sets the damaged log of this configuration aside and begins its successor; `None` completes an earlier call.
///
/// # Errors
/// As [`audit::succeed`].
pub fn set_aside(config: &Config, authority: &str, reason: &str) -> Result<Option<SetAside>, StartError> {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let decision = Decision { authority, reason, time: &time };
    let (signer, hsm) = keys::open_checkpoint_signer(config)?;
    let tag_wrap = wrapping::of(config, hsm.as_deref())?;
    let settings = audit::Settings { tag_wrap, ..audit_settings(config, true) };
    Ok(audit::succeed(&settings, &decision, Some(signer))?)
}

/// Stops the daemon as SIGTERM does; closing the failed log then makes the exit status say that it did.
pub(super) fn halt() {
    tracing::error!("the audit log has failed and audit.on_failure is \"halt\"");
    if let Err(error) = signal_hook::low_level::raise(SIGTERM) {
        tracing::error!(%error, "cannot stop");
    }
}
