//! An operator's decision about a log that a start refuses: it is set aside whole, and a successor begins.
//!
//! A damaged log is never continued. Whatever were appended to it would stand on records that cannot be trusted, and
//! cutting them off would destroy evidence and contradict what was signed. So the folder is renamed as it is, and the
//! new log, under a name of its own, begins with a RECOVERY record that says who decided, why, what was wrong, and
//! binds every byte of what was set aside by a digest.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{
    appender::Ack,
    error::AuditError,
    event::{AdminEvent, Event, Phase},
    folder::Folder,
    hold::{ACTION_HOLD, Holds},
    kept,
    key_history::KeyHistory,
    open::open_signed,
    real::{Lock, RealMedium, sink_for, sync_folder},
    record::Hash,
    recover::would_resume,
    schema::Kind,
    sealed,
    sealer::{CheckpointSigner, Follower},
    settings::Settings,
    stored::{Stored, list_segments},
    tag_keys,
    verify::{Options, verify_dir},
};

/// Who decided, and why.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// The person or ticket that answers for it.
    pub authority: &'a str,
    /// Why, in their words.
    pub reason: &'a str,
    /// The time, as it stands in the folder's new name: letters, digits and dashes.
    pub time: &'a str,
}

/// What became of the damaged log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub folder: PathBuf,
    /// The first thing wrong with it, in words.
    pub damage: String,
    /// SHA-256 over its segments' SHA-256, in order: what the successor's RECOVERY record states.
    pub digest: Hash,
}

/// Sets the log of `settings.dir` aside and begins its successor there, under the name `settings.origin`.
///
/// Repeatable: a crash between the steps leaves the old log, or both; another call goes on from there. Nothing of the
/// damaged log is changed or deleted.
///
/// Returns `None` where an earlier call was interrupted between its renames: its successor is now in place.
///
/// # Errors
/// [`AuditError::NothingToDecide`] for a log that is whole, [`AuditError::Settings`] for a successor without a name of
/// its own, [`AuditError::Locked`] while a daemon runs, and what the system refuses.
pub fn succeed(
    settings: &Settings,
    decision: &Decision<'_>,
    signer: Option<CheckpointSigner>,
) -> Result<Option<SetAside>, AuditError> {
    settings.check()?;
    let dir = &settings.dir;
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let successor = sibling(dir, "successor");
    if !dir.exists() && successor.exists() {
        // An earlier call got as far as its first rename; its decision stands in the successor.
        put_in_place(&successor, dir, parent)?;
        return Ok(None);
    }
    let lock = Lock::take(dir)?;
    let (found_origin, damage) = damage_of(dir)?;
    if found_origin == settings.origin {
        return Err(AuditError::Settings(format!(
            "the successor needs a name of its own: {found_origin:?} is what the damaged log's checkpoints are signed \
             for, and two logs of one name cannot be told from a fork; set audit.origin to, say, \"{found_origin}/2\""
        )));
    }
    let (digest, bytes) = digest_of_segments(dir).map_err(io("read the segments of"))?;
    let aside = sibling(dir, &format!("{ASIDE}{}", decision.time));
    let name = aside.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());

    if successor.exists() {
        // Ours, and incomplete.
        fs::remove_dir_all(&successor).map_err(io("remove the incomplete successor of"))?;
    }
    fs::create_dir(&successor).map_err(io("create the successor of"))?;
    restrict(&successor).map_err(io("restrict the successor of"))?;
    // The same values keep the same tags, so that a search finds them on both sides of the break.
    tag_keys::copy(dir, &successor)?;
    // What is held stays held: keys and archives of the damaged log are destroyed and retired from its successor.
    let holds = Holds::in_force(dir).map_err(io("read the legal holds of"))?;
    holds.store(&successor).map_err(io("write the legal holds of the successor of"))?;
    // So that a key that is destroyed is destroyed on both sides.
    sealed::copy(dir, &successor)?;
    let begun = Settings { dir: successor.clone(), create: true, ..settings.clone() };
    let mut opened = open_signed(&begun, 0, signer)?;
    let appender = opened.appenders.last_mut().expect("the control plane's appender is always there");
    let (segment, offset, size) = damage.place;
    let id = appender.append_own(Kind::Recovery, |body| {
        body.uint(1, segment);
        body.uint(2, offset);
        body.uint(3, size);
        body.uint(4, bytes);
        body.bytes(5, &digest);
        body.text(6, &format!("log {found_origin} was set aside: {}; {}", damage.text, decision.reason));
        body.texts(7, &[name]);
        body.text(8, decision.authority);
    })?;
    let mut last = id;
    for hold in holds.all() {
        let (name, detail) = (&hold.name, hold.detail());
        let event = AdminEvent {
            phase: Phase::Done,
            actor: "set-aside",
            action: ACTION_HOLD,
            target: name,
            detail: &detail,
            intent: None,
        };
        last = appender.append(&Event::Admin(event), Ack::Durable)?;
        appender.submit();
    }
    appender.wait(last, Ack::Durable, PATIENCE)?;
    opened.log.close(PATIENCE)?;

    drop(lock);
    fs::rename(dir, &aside).map_err(io("rename"))?;
    put_in_place(&successor, dir, parent)?;
    Ok(Some(SetAside { folder: aside, damage: damage.text, digest }))
}

struct Damage {
    place: (u64, u64, u64),
    text: String,
}

/// The log's own name, and the first thing wrong with it by the code of a start and of a verification.
fn damage_of(dir: &Path) -> Result<(String, Damage), AuditError> {
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    let own = KeyHistory::beside(dir).and_then(|history| {
        let history = history.unwrap_or_default();
        Ok((history.all(dir)?, history))
    });
    // Keys that cannot be believed are damage of their own: a start does not go on with them.
    let ((keys, history), cause) = match own {
        Ok(own) => (own, None),
        Err(AuditError::KeyHistory { path, cause }) => {
            (Default::default(), Some(format!("{}: {cause}", path.display())))
        }
        Err(error) => return Err(error),
    };
    let options = Options { keys, allow_unsigned: true, ..Options::default() };
    let report = verify_dir(dir, &options, &mut |_| {})?;
    if let Some(text) = cause {
        return Ok((report.origin, Damage { place: (0, 0, report.size), text }));
    }
    if let Some(first) = report.breaks.first() {
        let place = (first.segment, first.offset, first.seq);
        return Ok((report.origin, Damage { place, text: first.to_string() }));
    }
    let sink = sink_for(dir).map_err(io("ask for the file system of"))?.0;
    let folder = Folder::new(Box::new(RealMedium::new(dir, sink)));
    // What a start compares before it goes on, with the key that the log itself names.
    let mut vouch = |size| {
        let Some(current) = history.current().filter(|key| key.name == report.origin) else { return Ok(()) };
        Follower::resume(dir, &current, size)?;
        kept::vouch(dir, &history, size).map(|_| ())
    };
    match would_resume(&folder, dir, &mut vouch) {
        Ok(()) => Err(AuditError::NothingToDecide { path: dir.to_owned() }),
        Err(AuditError::Damaged { segment, offset, seq, cause, .. }) => {
            Ok((report.origin, Damage { place: (segment, offset, seq), text: cause }))
        }
        Err(AuditError::RolledBack { cause, .. }) => {
            Ok((report.origin, Damage { place: (0, 0, report.size), text: format!("rolled back: {cause}") }))
        }
        Err(error) => Err(error),
    }
}

/// SHA-256 over the SHA-256 of each segment, in order, and their bytes in all. Of an archive what it restores counts.
fn digest_of_segments(dir: &Path) -> io::Result<(Hash, u64)> {
    let (mut all, mut bytes) = (Sha256::new(), 0);
    for segment in list_segments(dir)? {
        let segment = Stored::open(dir, segment.index)?.read()?;
        bytes += segment.len() as u64;
        all.update(Sha256::digest(&segment));
    }
    Ok((all.finalize().into(), bytes))
}

fn put_in_place(successor: &Path, dir: &Path, parent: &Path) -> Result<(), AuditError> {
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    fs::rename(successor, dir).map_err(io("put the successor in the place of"))?;
    sync_folder(parent).map_err(io("sync the folder of"))
}

fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    dir.with_file_name(name)
}

/// The logs of this folder that were set aside.
pub(super) fn set_aside(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = dir.file_name().unwrap_or_default().to_owned();
    prefix.push(format!(".{ASIDE}"));
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()))
    };
    let folders = fs::read_dir(parent)?.map(|entry| entry.map(|entry| entry.path()));
    folders.filter(|path| path.as_ref().map_or(true, |path| named(path) && path.is_dir())).collect()
}

fn restrict(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// What stands between the folder's name and the time in the name of one that was set aside.
const ASIDE: &str = "damaged-";

/// How long the successor's first records may take to reach the disk.
const PATIENCE: Duration = Duration::from_secs(30);
