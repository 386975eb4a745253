//! This log's witnesses: asked before the log is opened, told of each checkpoint afterwards.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::anchors::Anchors;
use super::{StartError, now};
use crate::audit::proof::latest_signed;
use crate::audit::{AnchorEvent, AuditError, CheckpointKey, Log, WitnessKey, own_keys};
use crate::config::{self, Config, OnWitnessAway};
use crate::control::{Dependency, Witnessing};
use crate::metrics::Reading;
use crate::witness::{Anchored, Courier, StandingReader, Submitted, Submitter, Witness};

/// The witnesses of the configuration.
pub(super) struct Witnesses {
    submitters: Vec<Submitter>,
    // The log's own.
    keys: Vec<CheckpointKey>,
    on_away: OnWitnessAway,
}

impl Witnesses {
    /// Reads their keys; `verifying_key` is the one that this log's checkpoints are signed with.
    pub(super) fn of(config: &Config, verifying_key: [u8; 32]) -> Result<Self, StartError> {
        // What cannot be read the log itself refuses, or finds in a folder that is not there yet.
        let mut own = own_keys(&config.audit.dir).unwrap_or_default();
        if own.is_empty() {
            own.push(CheckpointKey::new(config.audit.origin.clone(), verifying_key));
        }
        let submitter = |one: &config::Witness| {
            let key =
                WitnessKey::from_text(&one.key).map_err(|_| StartError::Witness { key: one.key.clone() })?;
            let witness = Witness { key, url: one.url.clone(), timeout: one.timeout };
            Ok(Submitter::new(witness, &config.audit.dir, own.clone()))
        };
        let submitters = config.audit.witnesses.iter().map(submitter).collect::<Result<_, StartError>>()?;
        Ok(Self { submitters, keys: own, on_away: config.audit.on_witness_away })
    }

    /// Asks every witness whether this is the log that it saw; one word is enough, and one word against it is, too.
    pub(super) fn ask(&mut self, dir: &Path) -> Result<(), AuditError> {
        if self.submitters.is_empty() {
            return Ok(());
        }
        // The published one may have been taken away, so that nobody is asked.
        let signed = latest_signed(dir, &self.keys)?;
        let (mut heard, mut away) = (false, None);
        for submitter in &mut self.submitters {
            let witness = submitter.witness().key.name.clone();
            let submitted = match &signed {
                Some((_, note)) => submitter.submit(note, None),
                None => Submitted::Away("the log has no checkpoint to ask about, and had one".to_owned()),
            };
            match submitted {
                Submitted::Cosigned(anchored) => {
                    tracing::info!(witness, size = anchored.checkpoint.size, "the witness knows this log");
                    heard = true;
                }
                Submitted::Away(cause) => {
                    tracing::warn!(witness, cause, "no word from the witness about this log");
                    away = Some((witness, cause));
                }
                Submitted::RolledBack(cause) => {
                    return Err(AuditError::RolledBack { path: dir.to_owned(), cause });
                }
            }
        }
        match away {
            Some((witness, cause)) if !heard && self.on_away == OnWitnessAway::Refuse => {
                Err(AuditError::Unwitnessed { path: dir.to_owned(), witness, cause })
            }
            _ => Ok(()),
        }
    }

    /// Starts a thread for each; what they cosign is recorded through `anchors`.
    pub(super) fn start(self, log: &Log, anchors: &Anchors) -> Result<Couriers, StartError> {
        let (sender, size) = watch::channel(0);
        let sender = Arc::new(sender);
        let mut couriers = Vec::with_capacity(self.submitters.len());
        for submitter in self.submitters {
            let (anchors, sender) = (anchors.clone(), Arc::clone(&sender));
            let on_anchored = Box::new(move |anchored: &Anchored| {
                let Anchored { checkpoint, line, .. } = anchored;
                let size = checkpoint.size;
                let (root, proof) = (&checkpoint.root, line.as_bytes());
                anchors.record(AnchorEvent { size, root, anchor: "witness", proof });
                sender.send_if_modified(|known| {
                    let more = size > *known;
                    *known = size.max(*known);
                    more
                });
            });
            let courier = Courier::start(submitter, log.subscribe(), log.convict(), on_anchored)
                .map_err(|error| StartError::System { what: "start a thread for a witness", error })?;
            couriers.push(courier);
        }
        Ok(Couriers { couriers, size })
    }
}

/// The running threads.
pub(super) struct Couriers {
    couriers: Vec<Courier>,
    size: watch::Receiver<u64>,
}

impl Couriers {
    /// How each witness and this log get on.
    pub(super) fn standings(&self) -> Vec<StandingReader> {
        self.couriers.iter().map(Courier::standing).collect()
    }

    /// What an action waits for, where it waits for a witness.
    pub(super) fn witnessing(&self, config: &Config, log: &Log) -> Option<Witnessing> {
        let watch = log.watch();
        (config.audit.admin_ack == config::AdminAck::Witnessed).then(|| Witnessing {
            durable: Box::new(move || watch.durable_to_be_signed()),
            witnessed: self.size.clone(),
            timeout: config.audit.admin_ack_timeout,
        })
    }

    pub(super) fn stop(self) {
        // All are told before one is waited for.
        self.couriers.iter().for_each(Courier::close);
        self.couriers.into_iter().for_each(Courier::stop);
    }
}

/// Each witness as something that this node depends on.
pub(super) fn dependencies(standings: &[StandingReader]) -> impl Iterator<Item = Dependency> {
    standings.iter().map(|reader| {
        let standing = reader.read();
        let age = now().0.saturating_sub(standing.time);
        let mut detail = format!("{}: ", reader.name());
        match standing.time {
            0 => detail.push_str("nothing cosigned yet"),
            _ => detail.push_str(&format!("{} records cosigned {age} s ago", standing.size)),
        }
        if standing.forgot > 0 {
            detail.push_str(&format!(", which had forgotten what it cosigned {} times", standing.forgot));
        }
        if let Some(problem) = &standing.problem {
            detail.push_str(&format!(", {problem}"));
        }
        Dependency { name: "witness", ready: standing.problem.is_none(), detail }
    })
}

/// The same in numbers; none where there is no witness.
#[expect(clippy::cast_precision_loss, reason = "a gauge may be rounded above 2^53")]
pub(super) fn readings(standings: &[StandingReader]) -> Vec<Reading> {
    if standings.is_empty() {
        return Vec::new();
    }
    let of = |name, help, counter, read: fn(&[StandingReader]) -> f64| {
        let standings = standings.to_vec();
        Reading { name, help, counter, read: Box::new(move || read(&standings)) }
    };
    vec![
        of("audit_witnessed_records", "Records under a checkpoint that a witness cosigned", false, |all| {
            all.iter().map(|one| one.read().size).max().unwrap_or(0) as f64
        }),
        of(
            "audit_anchor_age_seconds",
            "Time since a witness cosigned the latest checkpoint that one did; -1: never",
            false,
            |all| match all.iter().map(|one| one.read().time).max() {
                None | Some(0) => -1.0,
                Some(time) => now().0.saturating_sub(time) as f64,
            },
        ),
        of("audit_witnesses_away", "Witnesses that gave no word about the last checkpoint", false, |all| {
            all.iter().filter(|one| one.read().problem.is_some()).count() as f64
        }),
        of("audit_witness_failures", "Submissions to witnesses that failed", true, |all| {
            all.iter().map(|one| one.read().failed).sum::<u64>() as f64
        }),
        of("audit_witness_forgot", "Times a witness had forgotten what it cosigned", true, |all| {
            all.iter().map(|one| one.read().forgot).sum::<u64>() as f64
        }),
    ]
}
