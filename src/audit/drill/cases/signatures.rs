//! What was signed, and by whom.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Done, Undone};
use crate::audit::{
    cbor::Value,
    drill::{
        ground::Ground,
        rewrite::{Forger, Rewrite},
    },
    note::Checkpoint,
    schema::{self, Kind},
};

/// The note without its signature lines.
fn without_signature(note: &str) -> String {
    let text = note.split_once("\n\n").map_or(note, |(text, _)| text);
    format!("{text}\n\n")
}

pub(super) fn stripped(ground: &Ground<'_>) -> Result<Done, Undone> {
    ground.publish(Some(&without_signature(&ground.copy.note)))?;
    Ok(Done::default())
}

pub(super) fn stripped_in_the_log(ground: &Ground<'_>) -> Result<Done, Undone> {
    let place = ground.of_kind(Kind::Checkpoint, "a CHECKPOINT between other records")?;
    let number = ground.copy.segments.iter().position(|segment| segment.index == place.segment.index);
    let mut first = true;
    Rewrite { from: (number.unwrap_or(0), place.at), forger: None }.run(ground, |mut piece, out| {
        if std::mem::take(&mut first) {
            let body = piece.body.clone();
            let note = schema::read_body(piece.header.kind, piece.header.schema, &body)
                .ok()
                .and_then(|body| schema::text(&body, NOTE).map(without_signature));
            piece.refit(NOTE, Value::Text(&note.unwrap_or_default()));
        }
        out.push(piece);
    })?;
    Ok(Done::at(place.seq))
}

/// Publishes the note with other bytes in its last signature line: key id and signature.
fn publish_changed(ground: &Ground<'_>, change: impl FnOnce(&mut Vec<u8>)) -> Result<Done, Undone> {
    let note = ground.copy.note.trim_end();
    let last =
        note.rsplit_once(' ').and_then(|(start, encoded)| Some((start, STANDARD.decode(encoded).ok()?)));
    let (start, mut bytes) = last.ok_or(Undone::Needs("a signature line"))?;
    change(&mut bytes);
    ground.publish(Some(&format!("{start} {}\n", STANDARD.encode(bytes))))?;
    Ok(Done::default())
}

pub(super) fn bit(ground: &Ground<'_>) -> Result<Done, Undone> {
    let at = KEY_ID_BYTES + ground.pick("byte", 64);
    publish_changed(ground, |bytes| {
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
    })
}

/// C2SP signed-note: the id names name, kind and key together, so that no signature passes for one of another kind.
pub(super) fn downgraded(ground: &Ground<'_>) -> Result<Done, Undone> {
    publish_changed(ground, |bytes| bytes[..KEY_ID_BYTES].copy_from_slice(&[0, 0, 0, 2]))
}

pub(super) fn by_another(ground: &Ground<'_>) -> Result<Done, Undone> {
    let forger = Forger::of(&ground.copy.signed.origin);
    ground.publish(Some(&forger.sign(&ground.copy.signed)))?;
    Ok(Done::default())
}

pub(super) fn other_root(ground: &Ground<'_>) -> Result<Done, Undone> {
    let signed = &ground.copy.signed;
    let other = Checkpoint { root: [0xD5; 32], ..signed.clone() };
    ground.publish(Some(&ground.copy.note.replacen(&signed.to_text(), &other.to_text(), 1)))?;
    Ok(Done::default())
}

/// The field of CHECKPOINT with the signed note.
const NOTE: u64 = 3;

/// Bytes before a signature that name its key.
const KEY_ID_BYTES: usize = 4;
