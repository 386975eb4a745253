//! What the audit log seals, and for whom, from the configuration.

use super::StartError;
use crate::audit::sealed::Sealing;
use crate::audit::tag::TagField;
use crate::audit::{AuditError, LogWatch};
use crate::config::{Config, SealedField};
use crate::metrics::Reading;

/// Reads the openers' keys; `None` where nothing is sealed.
///
/// # Errors
/// The opener whose key cannot be read, or what [`Sealing::check`] refuses.
pub(super) fn of(config: &Config) -> Result<Option<Sealing>, StartError> {
    let Some(sealed) = &config.audit.sealed else { return Ok(None) };
    let openers = sealed.openers.iter().enumerate().map(|(at, place)| {
        let refuse = |cause| AuditError::Settings(format!("audit.sealed.openers[{at}]: {cause}"));
        place.parse().map_err(refuse)
    });
    let fields = sealed.fields.iter().map(|field| match field {
        SealedField::Subject => TagField::Subject,
        SealedField::Jti => TagField::Jti,
        SealedField::Client => TagField::Client,
    });
    let sealing = Sealing {
        fields: fields.collect(),
        openers: openers.collect::<Result<_, _>>()?,
        tenants: config.issuers.iter().map(|issuer| issuer.tenant.clone()).collect(),
    };
    sealing.check()?;
    if let [one] = sealing.openers.as_slice() {
        tracing::warn!(opener = one.to_text(), "audit.sealed.openers names one key: its holder opens alone");
    }
    Ok(Some(sealing))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge may be rounded above 2^53")]
pub(super) fn readings(log: &LogWatch) -> Vec<Reading> {
    let of_log = |name, help, counter, read: fn(&LogWatch) -> f64| {
        let log = log.clone();
        Reading { name, help, counter, read: Box::new(move || read(&log)) }
    };
    vec![
        of_log("audit_unsealed", "Records with a value that could not be sealed", true, |log| {
            log.unsealed() as f64
        }),
        of_log("audit_sealing_failed", "Whether no key can be made to seal with", false, |log| {
            f64::from(u8::from(log.sealing_failure().is_some()))
        }),
    ]
}
