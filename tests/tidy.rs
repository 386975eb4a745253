//! The house rules that a compiler does not know: who may import whom, which names are not used, how long a file is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may name, besides the shared words (`decision`, `json`, `base64url`).
///
/// The direction is `main -> cli -> daemon -> shard -> the pure rooms`; `control` and `cli` stand beside the shard.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("aep", &[]),
    ("audit", &[]),
    ("base64url", &[]),
    (
        "cli",
        &[
            "aep",
            "audit",
            "cluster",
            "config",
            "control",
            "daemon",
            "keys",
            "revocation",
            "shard",
            "tls",
            "token",
            "verify",
            "witness",
        ],
    ),
    ("cluster", &["config", "revocation", "store"]),
    ("config", &[]),
    (
        "control",
        &["audit", "cluster", "keys", "revocation", "secevent", "status_list", "store", "tls", "token"],
    ),
    (
        "daemon",
        &[
            "audit",
            "cluster",
            "config",
            "control",
            "keys",
            "metrics",
            "mirror",
            "revocation",
            "secevent",
            "shard",
            "status_list",
            "store",
            "tls",
            "token",
            "verify",
            "witness",
        ],
    ),
    ("decision", &[]),
    ("etag", &[]),
    ("https", &[]),
    ("json", &[]),
    ("keys", &["verify"]),
    ("listener", &[]),
    ("metrics", &[]),
    ("mirror", &["audit", "cluster", "config"]),
    ("revocation", &[]),
    ("secevent", &["keys", "token", "verify"]),
    (
        "shard",
        &[
            "audit",
            "config",
            "keys",
            "metrics",
            "revocation",
            "status_list",
            "tls",
            "token",
            "verify",
            "wire",
        ],
    ),
    ("status_list", &["keys", "token", "verify"]),
    // The records of signing keys, which are plain values.
    ("store", &["keys", "revocation"]),
    ("tls", &[]),
    ("token", &["verify"]),
    ("verify", &[]),
    ("wire", &[]),
    ("witness", &["audit"]),
];

const SHARED: &[&str] = &["decision", "json", "base64url", "etag", "listener", "https"];

/// Crates that only these rooms may name.
const CRATE_HOMES: &[(&str, &[&str])] = &[
    ("monoio", &["shard", "daemon"]),
    // `cluster` waits for the store through the runtime it is given.
    ("tokio", &["cluster", "control", "daemon", "listener", "store", "tls", "witness"]),
    ("redis", &["cluster"]),
    ("axum", &["control", "daemon", "listener", "witness"]),
    ("sqlx", &["store"]),
    ("clap", &["cli", "main"]),
    // `config` takes its URIs and PIN sources, which are plain values.
    ("edgate_hsm", &["config", "control", "daemon", "cli", "tls", "witness"]),
];

/// Files (not folders) that may be named so little: none.
const BANNED_FILES: &[&str] =
    &["util.rs", "utils.rs", "common.rs", "helpers.rs", "misc.rs", "types.rs", "constants.rs"];

/// Words that say nothing about what a thing does.
const BANNED_SUFFIXES: &[&str] = &["Manager", "Handler", "Processor", "Helper", "Util"];

/// Lines of a file, tests beside it not counted.
const LINES_MAX: usize = 500;

/// Lines of a file that says in its first lines why it must be longer ("long because").
const LINES_WITH_REASON_MAX: usize = 800;

struct Source {
    path: PathBuf,
    room: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
                let room = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path, room, text });
            }
        }
    }
    assert!(found.len() > 20, "the walk found the sources");
    found
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// The code before the tests, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]\nmod") && *line != "#[cfg(test)]")
        .map(|line| line.split("//").next().unwrap_or(""))
}

#[test]
fn rooms_import_only_what_they_may() {
    let rooms: BTreeSet<&str> = MAY_IMPORT.iter().map(|(room, _)| *room).collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !is_test(&source.path)) {
        if source.room == "lib" || source.room == "main" {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(room, _)| *room == source.room)
            .unwrap_or_else(|| panic!("src/{} is a room this test does not know", source.room));
        for line in code(&source.text) {
            for named in line.split("crate::").skip(1) {
                let names: Vec<&str> = match named.strip_prefix('{') {
                    Some(group) => group.split([',', '}']).map(str::trim).collect(),
                    None => vec![named],
                };
                for name in names {
                    let name = name.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("");
                    let known = rooms.contains(name);
                    let fine = name == source.room || SHARED.contains(&name) || allowed.contains(&name);
                    if known && !fine {
                        wrong.push(format!("{} names crate::{name}", source.path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn runtimes_and_databases_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !is_test(&source.path)) {
        for (name, homes) in CRATE_HOMES {
            let used = code(&source.text).any(|line| {
                line.contains(&format!("{name}::")) || line.trim_start().starts_with(&format!("use {name}"))
            });
            if used && !homes.contains(&source.room.as_str()) {
                wrong.push(format!("{} names {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_stays_where_the_guide_allows_it() {
    let allowed = [
        "src/audit/checksums/sse42.rs",
        "src/audit/map.rs",
        "src/audit/sha256/avx512.rs",
        "src/verify/avx512/",
    ];
    for source in sources() {
        let path = source.path.to_str().unwrap();
        let uses = code(&source.text).any(|line| line.contains("unsafe ") || line.contains("unsafe{"));
        assert!(!uses || allowed.iter().any(|place| path.contains(place)), "{path} contains unsafe code");
    }
}

#[test]
fn files_are_short_and_named_after_their_subject() {
    let mut wrong = Vec::new();
    for source in sources() {
        let name = source.path.file_name().unwrap().to_str().unwrap();
        if BANNED_FILES.contains(&name) {
            wrong.push(format!("{}: name the subject", source.path.display()));
        }
        if is_test(&source.path) {
            continue;
        }
        let lines = source.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let reasoned = source.text.lines().take(30).any(|line| line.contains("long because"));
        if lines > if reasoned { LINES_WITH_REASON_MAX } else { LINES_MAX } {
            wrong.push(format!("{}: {lines} lines", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn types_say_what_they_do() {
    for source in sources() {
        for line in code(&source.text) {
            let Some(rest) = ["struct ", "enum ", "trait "].iter().find_map(|word| line.split(word).nth(1))
            else {
                continue;
            };
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            let banned = BANNED_SUFFIXES.iter().find(|suffix| name.ends_with(**suffix));
            assert!(banned.is_none(), "{}: {name} says nothing", source.path.display());
        }
    }
}

#[test]
fn every_room_says_what_it_does() {
    for source in sources() {
        let documented = source.text.starts_with("//!") || is_test(&source.path);
        assert!(documented, "{} does not begin with what it does", source.path.display());
    }
}
