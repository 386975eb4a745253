//! Ends that are cut, and segments that go, change places, or come from elsewhere.

use std::io;

use super::{Done, Undone};
use crate::audit::{
    cbor::Value,
    drill::{
        copy::CopiedSegment,
        ground::{Ground, Piece},
    },
    record::{CORE_SEQUENCER, HEADER_BYTES},
    schema::Kind,
};

/// The last segment that holds what is looked for, and which record it is.
fn last_of(ground: &Ground<'_>, wanted: impl Fn(u16, u16) -> bool) -> io::Result<Option<(usize, usize)>> {
    for (number, segment) in ground.copy.segments.iter().enumerate().rev() {
        let parts = ground.segment(segment)?;
        // Behind it something must be left to go.
        let at = (1..parts.records()).rev().find(|at| {
            let header = parts.header(*at);
            header.seq + 1 < ground.copy.signed.size && wanted(header.kind, header.core)
        });
        if let Some(at) = at {
            return Ok(Some((number, at)));
        }
    }
    Ok(None)
}

/// Everything behind the record goes, in this segment and in those after it.
pub(super) fn cut_behind(ground: &Ground<'_>, (number, at): (usize, usize)) -> Result<Done, Undone> {
    let (segment, later) = (&ground.copy.segments[number], &ground.copy.segments[number + 1..]);
    for later in later {
        ground.remove(later)?;
    }
    let mut parts = ground.segment(segment)?;
    parts.cut(at + 1);
    // Whoever cuts also makes it look like a segment that was being written.
    ground.put(&CopiedSegment { finished: false, ..*segment }, &parts.bytes)?;
    Ok(Done::at(segment.first_seq + at as u64 + 1))
}

pub(super) fn cut_in_record(ground: &Ground<'_>) -> Result<Done, Undone> {
    let segment = ground.copy.segments.last().ok_or(Undone::Needs("a segment"))?;
    let parts = ground.segment(segment)?;
    let last = parts.records() - 1;
    let cut = parts.offsets[last] + HEADER_BYTES / 2;
    ground.put(&CopiedSegment { finished: false, ..*segment }, &parts.bytes[..cut])?;
    Ok(Done::at(segment.first_seq + last as u64))
}

pub(super) fn cut_at_record(ground: &Ground<'_>) -> Result<Done, Undone> {
    let found = last_of(ground, |_, core| core != CORE_SEQUENCER)?;
    cut_behind(ground, found.ok_or(Undone::Needs("an event"))?)
}

pub(super) fn cut_at_commit(ground: &Ground<'_>) -> Result<Done, Undone> {
    let found = last_of(ground, |kind, _| kind == Kind::Commit.code())?;
    cut_behind(ground, found.ok_or(Undone::Needs("two COMMITs"))?)
}

pub(super) fn cut_at_checkpoint(ground: &Ground<'_>) -> Result<Done, Undone> {
    let found = last_of(ground, |kind, _| kind == Kind::Checkpoint.code())?;
    cut_behind(ground, found.ok_or(Undone::Needs("a CHECKPOINT before the end"))?)
}

/// The segments, if there are so many.
fn at_least<'a>(
    ground: &'a Ground<'_>,
    count: usize,
    needs: &'static str,
) -> Result<&'a [CopiedSegment], Undone> {
    let segments = &ground.copy.segments;
    if segments.len() < count { Err(Undone::Needs(needs)) } else { Ok(segments) }
}

pub(super) fn last_gone(ground: &Ground<'_>) -> Result<Done, Undone> {
    let segments = at_least(ground, 2, "two segments")?;
    let last = &segments[segments.len() - 1];
    ground.remove(last)?;
    Ok(Done::at(last.first_seq))
}

pub(super) fn first_gone(ground: &Ground<'_>) -> Result<Done, Undone> {
    ground.remove(&at_least(ground, 2, "two segments")?[0])?;
    Ok(Done::at(0))
}

pub(super) fn middle_gone(ground: &Ground<'_>) -> Result<Done, Undone> {
    let segments = at_least(ground, 3, "three segments")?;
    let middle = &segments[1 + ground.pick("segment", segments.len() - 2)];
    ground.remove(middle)?;
    Ok(Done::at(middle.first_seq))
}

/// aws-cli#7054: two digests that were deleted were reported as one break.
pub(super) fn two_gone(ground: &Ground<'_>) -> Result<Done, Undone> {
    let segments = at_least(ground, 5, "five segments")?;
    ground.remove(&segments[1])?;
    ground.remove(&segments[3])?;
    Ok(Done { places: 2, ..Done::at(segments[1].first_seq) })
}

pub(super) fn exchanged(ground: &Ground<'_>) -> Result<Done, Undone> {
    let segments = at_least(ground, 3, "three segments")?;
    ground.exchange(&segments[0], &segments[1])?;
    Ok(Done::default())
}

pub(super) fn unsealed(ground: &Ground<'_>) -> Result<Done, Undone> {
    for segment in &ground.copy.segments {
        let mut parts = ground.segment(segment)?;
        let last = parts.records() - 1;
        if parts.header(last).kind == Kind::SegmentSeal.code() {
            parts.cut(last);
            ground.put(segment, &parts.bytes)?;
            return Ok(Done::at(segment.first_seq + last as u64));
        }
    }
    Err(Undone::Needs("a sealed segment"))
}

pub(super) fn behind_the_seal(ground: &Ground<'_>) -> Result<Done, Undone> {
    for segment in &ground.copy.segments {
        let parts = ground.segment(segment)?;
        let last = parts.records() - 1;
        if parts.header(last).kind == Kind::SegmentSeal.code() {
            let hidden = [&parts.bytes[..parts.offsets[last + 1]], b"kept here for later..."].concat();
            ground.put(segment, &hidden)?;
            return Ok(Done::at(segment.first_seq + last as u64 + 1));
        }
    }
    Err(Undone::Needs("a sealed segment"))
}

/// The same records, of a log of the same name that began another time.
pub(super) fn spliced(ground: &Ground<'_>) -> Result<Done, Undone> {
    let segments = at_least(ground, 2, "two segments")?;
    let segment = &segments[1 + ground.pick("segment", segments.len() - 1)];
    let parts = ground.segment(segment)?;
    let mut prev_hash = [0x5D; 32];
    let mut out = Vec::with_capacity(parts.bytes.len());
    for at in 0..parts.records() {
        let mut piece = Piece::of(&parts.read(at));
        if at == 0 {
            piece.refit(LOG_ID, Value::Bytes(&[0xD5; 16]));
        }
        prev_hash = piece.store(piece.header.seq, &prev_hash, &mut out);
    }
    out.extend_from_slice(&parts.bytes[parts.offsets[parts.records()]..]);
    ground.put(segment, &out)?;
    Ok(Done::default())
}

/// The field of SEGMENT_OPEN that tells logs of one name apart.
pub(super) const LOG_ID: u64 = 2;
