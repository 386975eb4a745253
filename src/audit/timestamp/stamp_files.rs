//! Where tokens are kept: `SIZE.tsr` with `SIZE.checkpoint`, the bytes it is about, in a folder beside the log.

use std::{fs, io, path::Path};

use crate::audit::real::replace_file;

/// The folder beside a log.
pub const FOLDER: &str = "timestamps";

/// The end of a token's name.
pub const TOKEN_END: &str = ".tsr";

/// The end of the name of what was stamped.
pub const NOTE_END: &str = ".checkpoint";

/// Keeps a token, and what it is about; the token last, so that where it is, the other is.
///
/// # Errors
/// What the system refuses.
pub fn keep(folder: &Path, size: u64, note: &[u8], token: &[u8]) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    replace_file(folder, &format!("{size}{NOTE_END}"), note)?;
    replace_file(folder, &format!("{size}{TOKEN_END}"), token)
}

/// The sizes that there are tokens for, ascending; none where there is no folder.
///
/// # Errors
/// What the system refuses.
pub fn sizes(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut sizes = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        sizes.extend(name.to_str().and_then(size_of));
    }
    sizes.sort_unstable();
    Ok(sizes)
}

/// The size in the name of a token, which has one spelling.
#[must_use]
pub fn size_of(name: &str) -> Option<u64> {
    let size = name.strip_suffix(TOKEN_END)?;
    size.parse().ok().filter(|number: &u64| number.to_string() == size)
}
