//! A bundle of evidence, given by anyone to anyone.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use edgate::audit::Tail;
use edgate::audit::bundle::{
    CheckError, Request, Summary, Trust, Verified, What, make_bundle, verify_bundle,
};
use edgate::audit::record::Hash;

use super::edits::Image;
use super::log::{CLOSED, folder, key};

/// What passes is about the sample log, and shows no record that it does not hold; whatever else is in the archive is
/// refused with a class, and nothing is unpacked.
pub fn audit_bundle(input: &[u8]) {
    let folder = folder();
    let path = folder.path().join("given.tar");
    fs::write(&path, input).expect("the folder takes files");
    match check(&path) {
        Ok(verified) => {
            let known = Known::of_the_sample();
            assert!(known.summaries.contains(&verified.summary), "{verified:?}");
            for (_, proven) in &verified.decisions {
                assert!(known.hashes.contains(&proven.hash), "{proven:?}");
            }
            assert!(verified.cosigned.is_empty() && verified.stamps.is_empty());
        }
        Err(CheckError::Refused(fault)) => {
            assert!(fault.class.exit_code() != 0 && !fault.to_string().contains('\n'), "{fault}");
        }
        Err(other) => panic!("{other}"),
    }
    let left = fs::read_dir(folder.path()).expect("our own folder").count();
    assert_eq!(left, 1, "something was unpacked");
}

fn check(path: &Path) -> Result<Verified, CheckError> {
    let keys = [key()];
    let trust = Trust {
        keys: &keys,
        origin: None,
        kept: None,
        witnesses: &[],
        authorities: None,
        stamp_policy: None,
    };
    verify_bundle(path, &trust, &mut |_| {})
}

/// What the sample log's bundles say.
struct Known {
    summaries: Vec<Summary>,
    hashes: Vec<Hash>,
}

impl Known {
    fn of_the_sample() -> &'static Self {
        static KNOWN: OnceLock<Known> = OnceLock::new();
        KNOWN.get_or_init(|| {
            let folder = folder();
            write_bundles(folder.path());
            let bundles = fs::read_dir(folder.path()).expect("our own folder");
            let summaries =
                bundles.map(|bundle| check(&bundle.expect("listed").path()).expect("our own bundle").summary);
            let summaries = summaries.collect();
            Self { summaries, hashes: with_sample(|dir| entries(dir).map(|entry| entry.hash).collect()) }
        })
    }
}

/// Does something with the sample log in a folder.
pub(super) fn with_sample<T>(act: impl FnOnce(&Path) -> T) -> T {
    let folder = folder();
    Image::new(CLOSED).write(folder.path(), None);
    act(folder.path())
}

pub(super) fn entries(dir: &Path) -> impl Iterator<Item = edgate::audit::Entry> {
    let mut tail = Tail::first(dir).expect("a log is there");
    std::iter::from_fn(move || tail.next().expect("it can be read"))
}

/// Writes the seeds: bundles of all of the log, of a part of it, and of two records by themselves.
///
/// # Panics
/// When the sample log is none.
pub fn write_bundles(to: &Path) {
    with_sample(|dir| {
        let ids: Vec<_> = entries(dir).map(|entry| entry.id).skip(2).step_by(5).take(2).collect();
        let keys = [key()];
        let part = What::Records { from: 0, to: 1 };
        for (name, what) in [
            ("whole", What::Records { from: 0, to: u64::MAX }),
            ("part", part),
            ("decisions", What::Decisions(&ids)),
        ] {
            // The name says that it is an archive.
            let out = to.join(format!("{name}.tar"));
            let request = Request {
                dir,
                tiles: None,
                keys: &keys,
                what,
                since: None,
                checkpoint: None,
                made_at: "2026-11-29T00:00:00Z",
            };
            let made = make_bundle(&request, &out, &mut |_| {}).expect("the sample log is whole");
            made.publish(&out, None).expect("the corpus can be written");
        }
    });
}
