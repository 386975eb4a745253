//! Signed logs for tests of the command line, and what is done to them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::{Ack, CheckpointSigner, Event, RecordId, Settings, StopEvent, open_signed};
use serde_json::Value;

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

pub(crate) fn signer() -> CheckpointSigner {
    let key = signing_key();
    CheckpointSigner {
        verifying_key: key.verifying_key().to_bytes(),
        sign: Box::new(move |message| Ok(key.sign(message).to_bytes())),
    }
}

/// The name of the logs.
pub(crate) const ORIGIN: &str = "test.example/log";

const PATIENCE: Duration = Duration::from_secs(30);

/// Adds events to the log in `dir`, closes it, and says what their ids are.
pub(crate) fn grow(dir: &Path, events: usize) -> Vec<RecordId> {
    let settings = Settings {
        segment_bytes: 160 * 1024,
        create: true,
        // Other tests keep the disk busy.
        unflushed_age_max: PATIENCE,
        ..Settings::new(dir, ORIGIN)
    };
    let mut opened = open_signed(&settings, 1, Some(signer())).unwrap();
    let appender = &mut opened.appenders[0];
    let mut ids = Vec::new();
    for n in 0..events {
        let reason = format!("event {n}");
        ids.push(appender.append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).unwrap());
        if n % 50 == 49 || n + 1 == events {
            appender.submit();
            appender.wait(ids[n], Ack::Durable, PATIENCE).unwrap();
        }
    }
    opened.log.close(PATIENCE).unwrap();
    ids
}

/// Changes a file's bytes and leaves it read-only, as a finished segment is.
#[allow(dead_code, reason = "not every test damages what it made")]
pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
}

/// What a command printed with `--json`.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
