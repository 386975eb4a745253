//! How an agent's token stands and what its pool has done, as it tells its clients with each heartbeat.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::refusal;
use super::wire::{Decoder, Encoder, FrameError};
use crate::{Durations, PoolMetrics, TokenStanding};

/// Pairs of function and code told.
const ERRORS_MAX: usize = 256;

/// More workers than any pool has.
const WORKERS_MAX: usize = 4096;

/// Larger counts are told as this: sums of them fit whatever adds them up, even where an agent lies.
const COUNT_MAX: u64 = 1 << 52;

/// What an agent tells.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) standing: TokenStanding,
    pub(super) workers: usize,
    /// Of its pool; what clients count themselves is left out.
    pub(super) metrics: PoolMetrics,
}

impl Status {
    pub(super) fn encode(&self, fields: &mut Encoder) {
        match &self.standing {
            TokenStanding::Healing => fields.u8(0),
            TokenStanding::Ready => fields.u8(1),
            TokenStanding::Stopped => fields.u8(2),
            TokenStanding::Stuck => fields.u8(3),
            TokenStanding::Unavailable(cause) => {
                fields.u8(4);
                refusal::encode(cause, fields);
            }
        }
        let number = |fields: &mut Encoder, value: usize| {
            fields.u32(u32::try_from(value).unwrap_or(u32::MAX));
        };
        number(fields, self.workers.min(WORKERS_MAX));
        let metrics = &self.metrics;
        number(fields, metrics.workers_stuck.min(WORKERS_MAX));
        for value in [
            metrics.signature_faults,
            metrics.reinitialized,
            metrics.logins,
            metrics.sessions,
            metrics.workers_lost,
        ] {
            fields.u64(value);
        }
        metrics.call.buckets.iter().for_each(|count| fields.u64(*count));
        fields.u64(u64::try_from(metrics.call.sum.as_micros()).unwrap_or(u64::MAX));
        let errors = metrics.errors.iter().take(ERRORS_MAX);
        number(fields, errors.len());
        for ((function, code), count) in errors {
            refusal::put_name(fields, function);
            refusal::put_name(fields, code);
            fields.u64(*count);
        }
    }

    pub(super) fn decode(fields: &mut Decoder<'_>) -> Result<Self, FrameError> {
        let standing = match fields.u8()? {
            0 => TokenStanding::Healing,
            1 => TokenStanding::Ready,
            2 => TokenStanding::Stopped,
            3 => TokenStanding::Stuck,
            4 => TokenStanding::Unavailable(Arc::new(refusal::decode(fields)?)),
            _ => return Err(FrameError::Unknown("standing")),
        };
        let workers = fields.count(WORKERS_MAX, "workers")?;
        let workers_stuck = fields.count(WORKERS_MAX, "workers")?;
        let (signature_faults, reinitialized, logins) = (count(fields)?, count(fields)?, count(fields)?);
        let (sessions, workers_lost) = (count(fields)?, count(fields)?);
        let mut call = Durations::default();
        for bucket in &mut call.buckets {
            *bucket = count(fields)?;
        }
        call.sum = Duration::from_micros(count(fields)?);
        let mut errors = BTreeMap::new();
        for _ in 0..fields.count(ERRORS_MAX, "errors")? {
            let pair = (refusal::name(fields)?, refusal::name(fields)?);
            errors.insert(pair, count(fields)?);
        }
        let metrics = PoolMetrics {
            signature_faults,
            reinitialized,
            logins,
            sessions,
            workers_lost,
            workers_stuck,
            errors,
            call,
            ..PoolMetrics::default()
        };
        Ok(Self { standing, workers, metrics })
    }
}

fn count(fields: &mut Decoder<'_>) -> Result<u64, FrameError> {
    fields.u64().map(|count| count.min(COUNT_MAX))
}
