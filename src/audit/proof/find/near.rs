//! Finding a record in a segment by halving: a segment that is not in memory is most of the time of a proof.
//!
//! Where a record begins is told by its magic, digest and checksum; whoever chooses a text in a record might imitate that in it. So
//! what is found counts only if the records behind it continue it for longer than any body is.

use std::io;

use crate::audit::{
    record::{ALIGNMENT, BODY_BYTES_MAX, HEADER_BYTES, MAGIC},
    stored::{Segments, Stored},
    walk::{Record, Records, or_erased, read_record},
};

/// The offset of an appender's record; `None` if it is not found this way.
pub(super) fn find(log: Segments<'_>, segment: u64, core: u16, core_seq: u64) -> io::Result<Option<u64>> {
    let stored = log.open(segment)?;
    // A record begins at `low`, and the one wanted stands there or behind, before `high`.
    let (mut low, mut high) = (0, stored.len()?);
    let mut window = Vec::new();
    while high - low > WINDOW_BYTES as u64 {
        let middle = low.midpoint(high).next_multiple_of(ALIGNMENT as u64);
        read(&stored, middle, &mut window)?;
        let Some(begin) = first_record(&window) else {
            // Nothing was written there, or something that is longer than a window.
            high = middle;
            continue;
        };
        match Records::of(&window[begin..]).find(|record| record.header.core == core) {
            Some(record) if record.header.core_seq <= core_seq => low = middle + begin as u64,
            Some(_) => high = middle,
            // The appender was silent here: what is left is walked through.
            None => return Ok(None),
        }
    }
    read(&stored, low, &mut window)?;
    let mut records = Records::of(&window);
    let mut offset = low;
    loop {
        match records.next() {
            Some(Record { header, .. }) if (header.core, header.core_seq) == (core, core_seq) => break,
            Some(_) => offset = low + records.offset() as u64,
            None => return Ok(None),
        }
    }
    read(&stored, offset, &mut window)?;
    Ok(is_continued(&window).then_some(offset))
}

fn read(stored: &Stored, offset: u64, window: &mut Vec<u8>) -> io::Result<()> {
    window.resize(2 * WINDOW_BYTES, 0);
    let len = stored.read_at(window, offset)?;
    window.truncate(len);
    Ok(())
}

/// Where the first record begins that is whole in itself.
fn first_record(window: &[u8]) -> Option<usize> {
    let places = (0..window.len()).step_by(ALIGNMENT);
    places.take(WINDOW_BYTES / ALIGNMENT).find(|at| {
        window[*at..].starts_with(&MAGIC) && or_erased(read_record(window, *at), window, *at).is_ok()
    })
}

/// Whether each record from the first on continues the one before, for longer than the longest body.
fn is_continued(window: &[u8]) -> bool {
    let (mut records, mut before) = (Records::of(window), None);
    for record in records.by_ref() {
        if before.is_some_and(|hash| hash != record.header.prev_hash) {
            return false;
        }
        before = Some(record.hash);
    }
    let end = records.offset();
    // Less is enough where the segment ends.
    end > BODY_BYTES_MAX + HEADER_BYTES || window[end..].iter().all(|byte| *byte == 0)
}

/// Halved no further. Twice as much is read: room for the longest record behind the place that is looked at.
const WINDOW_BYTES: usize = 128 * 1024;
const _: () = assert!(WINDOW_BYTES > BODY_BYTES_MAX + HEADER_BYTES);

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::{super::first_of, *};
    use crate::audit::{Ack, Event, Opened, RecordId, Settings, StopEvent, folder::segment_name, open};

    #[test]
    fn a_record_of_a_long_segment_is_found_by_halving_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let settings =
            Settings { create: true, segment_bytes: 8 << 20, ..Settings::new(dir, "test.example/log") };
        let Opened { mut appenders, log, .. } = open(&settings, 2).unwrap();
        let patience = Duration::from_secs(60);
        let ids: Vec<RecordId> = (0..8000)
            .map(|n| {
                // The second one writes now and then.
                let appender = &mut appenders[usize::from(n % 1000 > 900)];
                let reason = "x".repeat(n % 300);
                let id = appender.append(&Event::Stop(StopEvent { reason: &reason }), Ack::Recorded).unwrap();
                appender.wait(id, Ack::Recorded, patience).unwrap();
                id
            })
            .collect();
        log.close(patience).unwrap();
        let log = Segments::of(dir);
        let place = |id: &RecordId| {
            let wanted = |header: &crate::audit::record::Header| {
                (header.core, header.core_seq) == (id.core, id.core_seq)
            };
            first_of(log, 1, wanted).unwrap().map(|(offset, _)| offset)
        };
        let found = |id: &RecordId| find(log, 1, id.core, id.core_seq).unwrap();
        let some: Vec<_> = ids.iter().step_by(71).filter(|id| id.core == 0).collect();
        let halved = some.iter().filter(|id| found(id) == place(id)).count();
        assert!(halved * 10 > some.len() * 9, "{halved} of {}", some.len());
        assert!(ids.iter().step_by(71).all(|id| found(id).is_none_or(|offset| place(id) == Some(offset))));
        assert_eq!(find(log, 1, 0, 1 << 40).unwrap(), None);

        // A record that the next one does not continue is none.
        let victim = some[some.len() / 2];
        let at = usize::try_from(place(victim).unwrap()).unwrap();
        let path = dir.join(segment_name(1));
        let mut bytes = fs::read(&path).unwrap();
        let next = read_record(&bytes, at).unwrap().next;
        bytes[next + 100] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert_eq!(found(victim), None);
        assert_eq!(place(victim), Some(at as u64));
    }
}
