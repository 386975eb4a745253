//! The result as text, for people and as what is put on record.

use std::fmt::Write as _;

use super::{Measured, judge::Diagnosis};

/// The whole result. `log` is the name of the log there, `time` when it was made.
#[must_use]
pub fn to_text(measured: &Measured, diagnosis: &Diagnosis, log: Option<&str>, time: &str) -> String {
    let mut text = format!(
        "edgate audit doctor, report 1\n\
         folder  {}\n\
         log     {}\n\
         time    {time}\n\
         by      edgate {}\n\n",
        measured.folder.display().to_string().escape_debug(),
        log.map_or_else(|| "none yet".to_owned(), |log| log.escape_debug().to_string()),
        env!("CARGO_PKG_VERSION"),
    );
    for finding in &diagnosis.findings {
        let _ = writeln!(text, "{finding}");
    }
    let _ = writeln!(text, "\n{}", diagnosis.sentence);
    text
}
