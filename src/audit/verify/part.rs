//! A part of a log that is at hand segment by segment, without a folder: what a bundle holds.

use std::{collections::HashMap, io};

use super::{
    Break, Class, Options, Report,
    erasures::look_in,
    join::Join,
    segment::{Ending, scan},
};
use crate::audit::folder::SegmentFile;

/// Verifies segments, each of which `read` yields whole, one after the other; two are in memory at a time. One that an
/// ERASE names may be read once more.
///
/// With `options.upto` the last segment ends where that size does: bytes behind it are a break.
///
/// # Errors
/// What `read` says; breaks are in the report.
pub(in crate::audit) fn verify_part(
    files: &[SegmentFile],
    options: &Options,
    mut read: impl FnMut(&SegmentFile) -> io::Result<Vec<u8>>,
) -> io::Result<Report> {
    let mut join = Join::new(options, files, None);
    let mut next = files.first().map(&mut read).transpose()?;
    let mut behind = None;
    for (at, file) in files.iter().enumerate() {
        let Some(bytes) = next.take() else { break };
        next = files.get(at + 1).map(&mut read).transpose()?;
        // A segment made ahead of its time holds zeros: no statement about its predecessor.
        let ending = match &next {
            Some(next) if next.iter().any(|byte| *byte != 0) => Ending::stated_by(next),
            _ => Ending::Last,
        };
        let scan = scan(file, &bytes, options, ending);
        let (stopped, end) = (scan.stopped, scan.ended.end);
        join.add(scan);
        if stopped {
            behind = (end < bytes.len() as u64 || next.is_some()).then_some((file.index, end));
            break;
        }
    }
    let wanted = join.erasures.wanted();
    let mut looked = HashMap::new();
    for file in files.iter().filter(|_| !wanted.is_empty()) {
        looked.extend(look_in(file.index, &read(file)?, &wanted));
    }
    let (mut report, _) = join.finish(&looked);
    if let Some((segment, offset)) = behind {
        let detail = format!("bytes follow the last of {} records", report.size);
        let seq = report.size;
        report.breaks.push(Break { class: Class::Inserted, segment, offset, seq, records: 0, detail });
    }
    Ok(report)
}
