//! The chain hashed again by somebody who has the folder: whole in itself, and not what was signed.

use super::{Done, Undone, segments::LOG_ID};
use crate::{
    audit::{
        cbor::Value,
        drill::{
            ground::{Ground, Piece, Place},
            rewrite::{Forger, Rewrite},
        },
        note::Checkpoint,
        schema::{self, Kind},
    },
    decision::Decision,
};

/// Rewrites from the record at `place` on; `change` makes of that record what is to stand there.
fn rewrite_from(
    ground: &Ground<'_>,
    place: &Place,
    change: impl FnOnce(Piece, &mut Vec<Piece>),
) -> Result<Done, Undone> {
    // What is signed must lie behind the change.
    let number = ground.copy.segments.iter().position(|segment| segment.index == place.segment.index);
    let rewrite = Rewrite { from: (number.unwrap_or(0), place.at), forger: None };
    let mut change = Some(change);
    rewrite.run(ground, |piece, out| match change.take() {
        Some(change) => change(piece, out),
        None => out.push(piece),
    })?;
    Ok(Done::default())
}

pub(super) fn rehashed(ground: &Ground<'_>) -> Result<Done, Undone> {
    rewrite_from(ground, &ground.event()?, |mut piece, out| {
        piece.header.wall_ns ^= 1;
        out.push(piece);
    })
}

pub(super) fn decision_turned(ground: &Ground<'_>) -> Result<Done, Undone> {
    let place = ground.of_kind(Kind::Decision, "a decision between other records")?;
    rewrite_from(ground, &place, |mut piece, out| {
        let body = schema::read_body(piece.header.kind, piece.header.schema, &piece.body);
        let accepted = u64::from(Decision::Accepted.code());
        let was = body.ok().and_then(|body| schema::uint(&body, DECISION));
        let refused = || Decision::from_name("revoked").map_or(1, |decision| u64::from(decision.code()));
        piece.refit(DECISION, Value::Uint(if was == Some(accepted) { refused() } else { accepted }));
        out.push(piece);
    })
}

pub(super) fn removed(ground: &Ground<'_>) -> Result<Done, Undone> {
    rewrite_from(ground, &ground.event()?, |_, _| {})
}

pub(super) fn inserted(ground: &Ground<'_>) -> Result<Done, Undone> {
    rewrite_from(ground, &ground.event()?, |piece, out| {
        let mut invented = piece.clone();
        invented.header.wall_ns ^= 1;
        out.extend([invented, piece]);
    })
}

/// Where no CHECKPOINT record follows, so that the published one alone tells.
pub(super) fn invented_at_the_end(ground: &Ground<'_>) -> Result<Done, Undone> {
    let segment = ground.copy.segments.last().ok_or(Undone::Needs("a segment"))?;
    let parts = ground.segment(segment)?;
    let last = ground.copy.older.last().map_or(0, |older| older.seq);
    let at = (1..parts.records()).find(|at| parts.header(*at).seq > last);
    let at = at.ok_or(Undone::Needs("a record behind the last CHECKPOINT"))?;
    let event = ground.event()?;
    let invented = Piece::of(&event.parts.read(event.at));
    let seq = parts.header(at).seq;
    rewrite_from(ground, &Place { segment: *segment, parts, at, seq }, |piece, out| {
        out.extend([invented.clone(), invented, piece]);
    })
}

/// Everything from the first record on; `change` makes of each what is to stand there.
fn rewrite_all(
    ground: &Ground<'_>,
    forger: Option<&Forger>,
    change: impl FnMut(Piece, &mut Vec<Piece>),
) -> Result<Checkpoint, Undone> {
    let rewritten = Rewrite { from: (0, 0), forger }.run(ground, change)?;
    let root = rewritten.root.ok_or(Undone::Needs("the log's first record"))?;
    Ok(Checkpoint { origin: ground.copy.signed.origin.clone(), size: rewritten.size, root })
}

pub(super) fn other_log(ground: &Ground<'_>) -> Result<Done, Undone> {
    rewrite_all(ground, None, |mut piece, out| {
        if piece.header.kind == Kind::SegmentOpen.code() {
            piece.refit(LOG_ID, Value::Bytes(&[0xD5; 16]));
        }
        out.push(piece);
    })?;
    Ok(Done::default())
}

pub(super) fn other_origin(ground: &Ground<'_>) -> Result<Done, Undone> {
    let other = format!("{}.example", ground.copy.signed.origin);
    rewrite_all(ground, None, |mut piece, out| {
        if piece.header.kind == Kind::SegmentOpen.code() {
            piece.refit(ORIGIN, Value::Text(&other));
        }
        out.push(piece);
    })?;
    Ok(Done::at(0))
}

pub(super) fn without_checkpoints(ground: &Ground<'_>) -> Result<Done, Undone> {
    rewrite_all(ground, None, |piece, out| {
        if piece.header.kind != Kind::Checkpoint.code() {
            out.push(piece);
        }
    })?;
    ground.publish(None)?;
    Ok(Done::default())
}

pub(super) fn signed_by_another(ground: &Ground<'_>) -> Result<Done, Undone> {
    let forger = Forger::of(&ground.copy.signed.origin);
    let signed = rewrite_all(ground, Some(&forger), time_of_first_event())?;
    ground.publish(Some(&forger.sign(&signed)))?;
    Ok(Done::default())
}

/// Alters the time of the first record that somebody outside the log reported.
fn time_of_first_event() -> impl FnMut(Piece, &mut Vec<Piece>) {
    let mut done = false;
    move |mut piece, out| {
        if !done && piece.header.core != crate::audit::record::CORE_SEQUENCER {
            done = true;
            piece.header.wall_ns ^= 1;
        }
        out.push(piece);
    }
}

/// Fields of DECISION and SEGMENT_OPEN.
const DECISION: u64 = 2;
const ORIGIN: u64 = 1;
