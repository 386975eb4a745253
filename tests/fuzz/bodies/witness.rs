//! What a log, or anybody who can reach a witness, sends to it.

use edgate::audit::note::Checkpoint;
use edgate::witness::judge::Request;

use super::proof::{Log, OLD_SIZE, SIZE};

/// A witness cosigns only states of the log that its key signed, each only behind the last one, and convicts nobody who
/// signed no two of them.
pub fn witness_request(input: &[u8]) {
    let log = Log::known();
    let keys = std::slice::from_ref(&log.key);
    let Ok(request) = Request::parse(input) else { return };
    assert!(!request.origin().is_empty() && !request.origin().contains('\n'));
    let Ok(signed) = request.clone().authenticate(keys) else {
        return;
    };
    assert!(request.authenticate(&[]).is_err(), "without a key nothing is signed");
    let (size, root) = (signed.checkpoint().size, signed.checkpoint().root);
    assert!([OLD_SIZE, SIZE].contains(&size) && root == log.root(size), "{size} was never signed so");
    assert_eq!(signed.checkpoint().origin, log.key.name);
    let stated: u64 = first_number(input);
    for latest in [None, Some(OLD_SIZE), Some(SIZE)] {
        let checkpoint =
            latest.map(|size| Checkpoint { origin: log.key.name.clone(), size, root: log.root(size) });
        match signed.continues(checkpoint.as_ref()) {
            Ok(()) => assert!(stated == latest.unwrap_or(0) && stated <= size),
            Err(refusal) => {
                assert!([409, 422].contains(&refusal.status()), "{refusal}");
                let forked = checkpoint.as_ref().is_some_and(|latest| signed.contradicts(latest));
                assert!(!forked, "nothing was signed twice: {refusal}");
            }
        }
    }
}

/// The size in the first line, `old SIZE`.
fn first_number(input: &[u8]) -> u64 {
    let line = input.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).expect("what was read is text");
    line.strip_prefix("old ").and_then(|size| size.parse().ok()).expect("what was read begins so")
}

/// Writes the seeds: requests that are granted, each from another place.
pub fn write_requests(folder: &std::path::Path) {
    for (name, old, size) in [("begun", 0, OLD_SIZE), ("grown", OLD_SIZE, SIZE), ("again", SIZE, SIZE)] {
        let request = Log::known().continued(old, size);
        std::fs::write(folder.join(name), request).expect("the corpus can be written");
    }
}
