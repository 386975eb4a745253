//! What leaves a log that is whole and signed in itself, and not the one that was: an older state, or another past. Only
//! a checkpoint that was kept elsewhere tells, so one is: the copy's own.

use super::{Done, Undone, forging, segments::cut_behind};
use crate::audit::{
    drill::{
        copy::OlderCheckpoint,
        ground::Ground,
        rewrite::{Forger, Rewrite},
    },
    record::CORE_SEQUENCER,
    schema::Kind,
};

/// A checkpoint of the copy's past, and the segment, counted from 0, and record behind which it ends.
fn older<'a>(ground: &'a Ground<'_>) -> Result<(&'a OlderCheckpoint, (usize, usize)), Undone> {
    let of_the_past = |older: &&OlderCheckpoint| older.signed.size > 1 && older.seq < ground.copy.signed.size;
    let fit: Vec<_> = ground.copy.older.iter().filter(of_the_past).collect();
    let older = fit.get(ground.pick("checkpoint", fit.len())).ok_or(Undone::Needs("an older CHECKPOINT"))?;
    let last = older.signed.size - 1;
    let number = ground.copy.segments.iter().rposition(|segment| segment.first_seq <= last);
    let number = number.ok_or(Undone::Needs("the log's first record"))?;
    let at = usize::try_from(last - ground.copy.segments[number].first_seq).unwrap_or(usize::MAX);
    Ok((older, (number, at)))
}

/// Yesterday's disk image.
pub(super) fn rolled_back(ground: &Ground<'_>) -> Result<Done, Undone> {
    let (older, place) = older(ground)?;
    cut_behind(ground, place)?;
    ground.publish(Some(&older.note))?;
    Ok(Done { anchor: Some(ground.copy.note.clone()), ..Done::at(older.signed.size) })
}

/// The past up to an older checkpoint stays; what came after it is told otherwise, and nothing signed contradicts it.
pub(super) fn tail_told_otherwise(ground: &Ground<'_>) -> Result<Done, Undone> {
    let (older, (number, at)) = older(ground)?;
    let parts = ground.segment(&ground.copy.segments[number])?;
    let from = if at + 1 < parts.records() { (number, at + 1) } else { (number + 1, 0) };
    let mut altered = false;
    Rewrite { from, forger: None }.run(ground, |mut piece, out| {
        if piece.header.kind == Kind::Checkpoint.code() {
            return;
        }
        if !altered && piece.header.core != CORE_SEQUENCER {
            altered = true;
            piece.header.wall_ns ^= 1;
        }
        out.push(piece);
    })?;
    if !altered {
        return Err(Undone::Needs("an event behind an older CHECKPOINT"));
    }
    ground.publish(Some(&older.note))?;
    Ok(Done { anchor: Some(ground.copy.note.clone()), ..Done::default() })
}

/// Whoever has the signing key too: here the drill's own stands for it, on the kept checkpoint as on the forged ones.
pub(super) fn signed_anew(ground: &Ground<'_>) -> Result<Done, Undone> {
    let forger = Forger::of(&ground.copy.signed.origin);
    let done = forging::signed_by_another(ground)?;
    Ok(Done { anchor: Some(forger.sign(&ground.copy.signed)), key: Some(forger.key), ..done })
}
