//! What the log itself says about holds and retirements: read once, and then only what was added.

use std::{collections::BTreeMap, io};

use super::statement::{Retired, each_record};
use crate::audit::{folder::Folder, hold::Holds, schema::Kind, walk::Record};

/// What was read of a log.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The holds in force.
    pub(super) holds: Holds,
    /// The segment that has the record of each of them.
    pub(super) placed: BTreeMap<String, u64>,
    /// The last retirement.
    pub(super) last: Option<Retired>,
    /// Retirements of segments that were there when they were read.
    pub(super) pending: Vec<Retired>,
    // Segments before this one need not be read again.
    from: u64,
}

impl History {
    /// Reads what was added since the last time; at first the whole log.
    pub(super) fn read(&mut self, folder: &Folder) -> io::Result<()> {
        let files = folder.segments()?;
        let Some(first) = files.first() else { return Ok(()) };
        let from = self.from;
        for file in files.iter().filter(|file| file.index >= from) {
            let bytes = folder.read(file.index)?;
            each_record(&bytes, |record| match record.kind() {
                Some(Kind::Admin) => self.follow_holds(record, file.index),
                Some(Kind::Retire) => self.follow_retirement(record),
                _ => {}
            });
        }
        self.pending.retain(|retired| retired.segment >= first.index);
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
            self.pending.retain(|other| other.segment != retired.segment);
            self.pending.push(retired.clone());
            self.last = Some(retired);
        }
    }

    /// The segments up to this one are gone.
    pub(super) fn forget(&mut self, segment: u64) {
        self.pending.retain(|retired| retired.segment > segment);
    }
}
