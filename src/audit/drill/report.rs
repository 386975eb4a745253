//! The result as text, for people and as what is put on record: the same bytes for the same outcome at the same time.

use std::fmt::Write as _;

use super::{CaseResult, Drill, Outcome};
use crate::audit::hex::hex;

impl Drill {
    /// Cases with this outcome.
    fn count(&self, of: impl Fn(&Outcome) -> bool) -> usize {
        self.cases.iter().filter(|case| of(&case.outcome)).count()
    }

    /// Cases that were named, where they were.
    #[must_use]
    pub fn caught(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Caught { .. }))
    }

    /// Cases that the copy has nothing for.
    #[must_use]
    pub fn not_done(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::NotDone { .. }))
    }

    /// Cases that were not found, or not named rightly.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.cases.len() - self.caught() - self.not_done()
    }

    /// One line that says how it went.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self { size, .. } = self;
        let missed = self.count(|outcome| *outcome == Outcome::Missed);
        let (caught, misnamed, not_done) = (self.caught(), self.failed() - missed, self.not_done());
        let mut line = format!("{caught} of {} cases caught", self.cases.len() - not_done);
        if missed + misnamed > 0 {
            let _ = write!(line, ", {missed} MISSED, {misnamed} misnamed");
        }
        if not_done > 0 {
            let _ = write!(line, "; {not_done} not done, for which {size} records are too few");
        }
        line
    }

    /// The whole result; `time` is when it was made.
    #[must_use]
    pub fn to_text(&self, time: &str) -> String {
        let Self { origin, size, root, segments, log_size, cases } = self;
        let mut text = format!(
            "edgate audit drill, report 1\n\
             log     {}\n\
             copied  records 0 to {} of {log_size}, in {segments} segments\n\
             root    {}\n\
             time    {time}\n\
             by      edgate {}\n\n",
            origin.escape_debug(),
            size.saturating_sub(1),
            hex(root),
            env!("CARGO_PKG_VERSION"),
        );
        row(&mut text, "", "outcome", "done to a copy", "must be called", "was called");
        for (number, case) in (1..).zip(cases) {
            let (outcome, expected) = (case.outcome.name(), case.expected());
            row(&mut text, &number.to_string(), outcome, case.what, &expected, &case.found());
        }
        let _ = writeln!(text, "\n{}", self.summary());
        text
    }
}

fn row(text: &mut String, number: &str, outcome: &str, what: &str, expected: &str, found: &str) {
    let _ = writeln!(text, "{number:>2}  {outcome:<8}  {what:<69}  {expected:<26}  {found}");
}

impl CaseResult {
    /// The classes that name it rightly, in words.
    #[must_use]
    pub fn expected(&self) -> String {
        self.expected.iter().map(|class| class.name()).collect::<Vec<_>>().join(" or ")
    }

    /// What was found, in words.
    #[must_use]
    pub fn found(&self) -> String {
        match &self.outcome {
            Outcome::Caught { found } => format!("{} at record {}", found.class, found.seq),
            Outcome::Misnamed { at: Some(at), found } => {
                format!("{} at record {}, done at record {at}", found.class, found.seq)
            }
            Outcome::Misnamed { at: None, found } => format!("{} at record {}", found.class, found.seq),
            Outcome::Missed => "whole".to_owned(),
            Outcome::NotDone { needs } => format!("needs {needs}"),
        }
    }
}
