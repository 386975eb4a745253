//! What the log itself says about holds and retirements: read once, and then only what was added.

use std::{collections::BTreeMap, io};

use super::statement::Retired;
use crate::audit::{
    folder::Folder,
    hold::Holds,
    schema::Kind,
    walk::{Record, Records, SegmentOpen, read_record},
};

/// What was read of a log.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The holds in force.
    pub(super) holds: Holds,
    /// The segment that has the record of each of them.
    pub(super) placed: BTreeMap<String, u64>,
    // The retirement of the last segment that is gone, and of those that are there all the same.
    retired: BTreeMap<u64, Retired>,
    // Segments before this one need not be read again.
    from: u64,
}

impl History {
    /// Reads what was added since the last time; at first the whole log.
    ///
    /// # Errors
    /// What the system refuses; and where a segment cannot be read up to where the next one says that it ended: behind the
    /// damage may stand a hold.
    pub(super) fn read(&mut self, folder: &Folder) -> io::Result<()> {
        let files = folder.segments()?;
        let Some(first) = files.first() else { return Ok(()) };
        let from = self.from;
        let mut ended: Option<(u64, u64)> = None;
        for file in files.iter().filter(|file| file.index >= from) {
            let bytes = folder.read(file.index)?;
            let begin = read_record(&bytes, 0).ok().and_then(|record| SegmentOpen::read(&record));
            if let (Some((segment, end)), Some(prev)) = (ended, begin.and_then(|begin| begin.prev))
                && prev.end != end
            {
                let cause = format!("segment {segment} cannot be read behind offset {end}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
            }
            let mut records = Records::of(&bytes);
            for record in records.by_ref() {
                match record.kind() {
                    Some(Kind::Admin) => self.follow_holds(&record, file.index),
                    Some(Kind::Retire) => self.follow_retirement(&record),
                    _ => {}
                }
            }
            // What was not finished when it was listed may have grown since; it is read again.
            ended = file.finished.then_some((file.index, records.offset() as u64));
        }
        self.retired.retain(|segment, _| *segment + 1 >= first.index);
        // What is not finished is read again.
        let unfinished = files.iter().find(|file| !file.finished);
        self.from = unfinished.or(files.last()).map_or(0, |file| file.index);
        Ok(())
    }

    fn follow_holds(&mut self, record: &Record<'_>, segment: u64) {
        self.holds.follow(record);
        let in_force = self.holds.all();
        self.placed.retain(|name, _| in_force.iter().any(|hold| hold.name == *name));
        for hold in in_force {
            self.placed.entry(hold.name.clone()).or_insert(segment);
        }
    }

    fn follow_retirement(&mut self, record: &Record<'_>) {
        if let Some(retired) = Retired::read(record) {
            self.retired.insert(retired.segment, retired);
        }
    }

    /// The retirement of this segment.
    pub(super) fn retired(&self, segment: u64) -> Option<&Retired> {
        self.retired.get(&segment)
    }

    /// Retirements of segments that were there when they were read, ascending.
    pub(super) fn pending(&self, first: u64) -> Vec<Retired> {
        self.retired.range(first..).map(|(_, retired)| retired.clone()).collect()
    }
}
