//! The room against its oracle: `registry_ok(A) && ed25519_dalek verify_strict`, on every path.

use std::collections::HashMap;
use std::sync::Mutex;

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use ed25519_dalek::{Signature, Signer, SigningKey};

use super::*;

mod conformance;
pub(in crate::verify) mod random;
mod service;

/// One case with its own bytes; lengths are whatever the vector says.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    key: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
    accepted: bool,
}

/// Which of the room's two kinds of keys a case is sent through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// Registered where registration succeeds, else the raw bytes (so that the case still travels).
    Registered,
    Unregistered,
}

const ROUTES: [Route; 2] = [Route::Registered, Route::Unregistered];

/// Verdicts computed without this room's code: dalek's strict verification plus the registry's checks.
fn oracle(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (<&[u8; 32]>::try_from(key), Signature::from_slice(signature)) else {
        return false;
    };
    let Some(point) = CompressedEdwardsY(*key).decompress() else { return false };
    let registry_ok = point.compress().0 == *key && !point.is_small_order() && point.is_torsion_free();
    registry_ok
        && ed25519_dalek::VerifyingKey::from_bytes(key)
            .is_ok_and(|verifying_key| verifying_key.verify_strict(message, &signature).is_ok())
}

/// Every engine this CPU can run.
fn engines() -> Vec<Engine> {
    vec![Engine::Auto, Engine::Portable]
}

/// Keys registered by earlier batches, so that their tables are not built again for each.
static REGISTERED: Mutex<Option<HashMap<Vec<u8>, Option<VerifyingKey>>>> = Mutex::new(None);

fn registered(bytes: &[u8]) -> Option<VerifyingKey> {
    let mut keys = REGISTERED.lock().unwrap();
    let register = || bytes.try_into().ok().and_then(|bytes| VerifyingKey::register(bytes).ok());
    keys.get_or_insert_default().entry(bytes.to_vec()).or_insert_with(register).clone()
}

/// The verdicts of `cases` as one batch.
fn verdicts(verifier: &mut Verifier, route: Route, cases: &[&Case]) -> Vec<Verdict> {
    let registered: Vec<Option<VerifyingKey>> = cases
        .iter()
        .map(|case| match route {
            Route::Registered => registered(&case.key),
            Route::Unregistered => None,
        })
        .collect();
    let items: Vec<Item<'_>> = cases
        .iter()
        .zip(&registered)
        .map(|(case, registered)| Item {
            key: registered.as_ref().map_or(ItemKey::Unregistered(&case.key), ItemKey::Registered),
            message: &case.message,
            signature: &case.signature,
        })
        .collect();
    let mut verdicts = Vec::new();
    verifier.verify(&items, &mut verdicts);
    verdicts
}

fn honest(count: u8) -> Vec<Case> {
    (0..count)
        .map(|i| {
            let signing_key = SigningKey::from_bytes(&[i % 5; 32]);
            // Lengths that cross the block boundaries of SHA-512 lane by lane.
            let message = vec![i; usize::from(i) * 37 % 400];
            Case {
                name: format!("filler {i}"),
                key: signing_key.verifying_key().to_bytes().to_vec(),
                signature: signing_key.sign(&message).to_bytes().to_vec(),
                message,
                accepted: true,
            }
        })
        .collect()
}

#[test]
fn empty_batch_has_no_verdicts() {
    for engine in engines() {
        let mut verifier = Verifier::new(engine);
        let mut verdicts = vec![Verdict::Rejected(SignatureRejection::SignatureMismatch)];
        verifier.verify(&[], &mut verdicts);
        assert!(verdicts.is_empty());
    }
}

#[test]
fn keys_are_refused_with_their_own_reason() {
    let order_two: [u8; 32] = encoding::SMALL_ORDER[1];
    // Whoever may not wait judges alike, and so does whoever makes nothing of it.
    let register = |bytes: &[u8; 32]| {
        let registered = VerifyingKey::register(bytes);
        assert_eq!(VerifyingKey::check(bytes), registered.clone().map(drop));
        assert_eq!(VerifyingKey::try_register(bytes), registered.clone().map(Some));
        registered
    };
    register(&honest(1)[0].key.clone().try_into().unwrap()).unwrap();
    assert_eq!(register(&order_two), Err(KeyRejection::SmallOrder));
    assert_eq!(register(&[0xff; 32]), Err(KeyRejection::NotCanonical));
    let mut off_curve = [0; 32];
    off_curve[0] = 2;
    assert_eq!(register(&off_curve), Err(KeyRejection::NotOnCurve));
    let torsion = curve25519_dalek::constants::EIGHT_TORSION[1];
    let mixed: EdwardsPoint = curve25519_dalek::constants::ED25519_BASEPOINT_POINT + torsion;
    assert_eq!(register(&mixed.compress().0), Err(KeyRejection::MixedOrder));
}

#[test]
fn bad_input_gets_its_own_reason_and_its_neighbours_keep_theirs() {
    let good = honest(1).remove(0);
    let with = |name: &str, change: &dyn Fn(&mut Case)| {
        let mut case = Case { name: name.into(), accepted: false, ..good.clone() };
        change(&mut case);
        case
    };
    let cases = [
        (with("short signature", &|c| c.signature.truncate(63)), SignatureRejection::SignatureMalformed),
        (with("long signature", &|c| c.signature.push(0)), SignatureRejection::SignatureMalformed),
        (with("empty signature", &|c| c.signature.clear()), SignatureRejection::SignatureMalformed),
        (with("huge S", &|c| c.signature[63] |= 0xe0), SignatureRejection::ScalarOutOfRange),
        (
            with("small R", &|c| c.signature[..32].copy_from_slice(&encoding::SMALL_ORDER[4])),
            SignatureRejection::SmallOrderR,
        ),
        (with("other message", &|c| c.message.push(1)), SignatureRejection::SignatureMismatch),
        (with("short key", &|c| c.key.truncate(31)), SignatureRejection::KeyMalformed),
        (with("huge y", &|c| c.key = vec![0xff; 32]), SignatureRejection::KeyNotCanonical),
        (
            with("both bad", &|c| {
                c.key = encoding::SMALL_ORDER[3].to_vec();
                c.signature.clear();
            }),
            SignatureRejection::KeySmallOrder,
        ),
    ];
    for engine in engines() {
        let mut verifier = Verifier::new(engine);
        for route in ROUTES {
            for (case, rejection) in &cases {
                let got = verdicts(&mut verifier, route, &[&good, case, &good]);
                assert!(got[0].is_accepted() && got[2].is_accepted(), "{} harmed a neighbour", case.name);
                assert_eq!(got[1], Verdict::Rejected(*rejection), "{} on {engine:?}, {route:?}", case.name);
            }
        }
    }
}
