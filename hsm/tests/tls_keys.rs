//! Keys that answer TLS handshakes: P-256 and Ed25519 in a real token, through the same pool as all others.
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use edgate_hsm::{
    Algorithm, Group, HsmError, KeyName, MemberSettings, Pool, PublicKey, Purpose, Signer, TlsServer,
    TokenSigning,
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use support::{Stage, ed25519, soon, stage, stage_with_faults};

fn is_signature(key: PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    match &key {
        PublicKey::Ed25519(bytes) => {
            UnparsedPublicKey::new(&ED25519, bytes).verify(message, signature).is_ok()
        }
        PublicKey::P256(point) => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
        }
    }
}

fn assert_signs(signer: &Signer<TlsServer>) {
    for length in [0, 1, 130, 1 << 20] {
        let message = vec![7; length];
        let signature = signer.sign(&message, soon()).unwrap();
        assert!(is_signature(signer.public_key(), &message, &signature), "{length} bytes");
    }
}

fn named(name: &str, algorithm: Algorithm) -> KeyName {
    KeyName::new(Purpose::TlsServer, name).unwrap().with_algorithm(algorithm).unwrap()
}

#[test]
fn a_tls_key_of_either_algorithm_signs_through_the_pool() {
    stage("a_tls_key_of_either_algorithm_signs_through_the_pool", |stage| {
        let token = stage.make_token("edgate");
        let admin = stage.admin(&token);
        let pool = Pool::start(stage.settings(&token)).unwrap();
        for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
            let made = admin.generate(&named(algorithm.name(), algorithm)).unwrap();
            assert!(made.refused.is_empty(), "{:?}", made.refused);
            let public_key = made.public_key.unwrap();
            assert_eq!(public_key.algorithm(), algorithm);
            for pinned in [None, Some(public_key)] {
                let signer = pool.signing_key::<TlsServer>(&made.uri, pinned, soon()).unwrap();
                assert_eq!(signer.public_key(), public_key);
                assert_signs(&signer);
            }
            // What is listed is what signs, by label too.
            let listed = admin
                .keys()
                .unwrap()
                .into_iter()
                .find_map(|key| key.public_key.filter(|_| key.uri.object == made.uri.object));
            assert_eq!(listed, Some(public_key));
            assert_eq!(admin.selftest(&made.uri).unwrap(), public_key);
        }
        assert_eq!(pool.metrics().signature_faults, 0);
    });
}

#[test]
fn a_p256_key_serves_tls_and_nothing_else() {
    stage("a_p256_key_serves_tls_and_nothing_else", |stage| {
        assert!(KeyName::new(Purpose::TokenSigning, "1").unwrap().with_algorithm(Algorithm::P256).is_none());
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TlsServer, "1");
        assert_eq!(key.public_key.unwrap().algorithm(), Algorithm::P256, "what browsers take");
        let pool = Pool::start(stage.settings(&token)).unwrap();
        let error = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap_err();
        assert!(matches!(error, HsmError::Object { matches: 0, .. }), "{error}");
        // Another key is pinned, of either algorithm.
        let tokens = stage.make_key(&token, Purpose::TokenSigning, "1");
        let other = stage.make_key(&token, Purpose::TlsServer, "2").public_key.unwrap();
        for pinned in [other, PublicKey::Ed25519(ed25519(&tokens))] {
            let error = pool.signing_key::<TlsServer>(&key.uri, Some(pinned), soon()).unwrap_err();
            assert!(matches!(error, HsmError::KeyMismatch { .. }), "{error}");
        }
        // A key that signs tokens answers no handshakes.
        let error = pool.signing_key::<TlsServer>(&tokens.uri, None, soon()).unwrap_err();
        assert!(matches!(error, HsmError::KeyInUse { found: Purpose::TokenSigning, .. }), "{error}");
    });
}

#[test]
fn a_corrupted_ecdsa_signature_never_leaves() {
    stage_with_faults("a_corrupted_ecdsa_signature_never_leaves", |stage| {
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TlsServer, "1");
        let pool = Pool::start(stage.settings(&token)).unwrap();
        let signer = pool.signing_key::<TlsServer>(&key.uri, key.public_key, soon()).unwrap();
        stage.faults("C_Sign corrupt\n");
        for _ in 0..20 {
            // Whether it is found at once, or the keeper has found it before.
            signer.sign(b"message", soon()).unwrap_err();
        }
        assert!(pool.metrics().signature_faults > 0);
        stage.faults("");
        support::until(|| signer.sign(b"message", soon()).ok());
    });
}

/// One P-256 key in both tokens, as an operator who has a backup puts it there.
fn replicated(stage: &Stage) -> (Vec<MemberSettings>, edgate_hsm::Pkcs11Uri) {
    let file = stage.folder.join("tls.pem");
    let openssl = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        file.to_str().unwrap(),
    ]);
    let tokens = ["one", "two"].map(|label| stage.make_token(label));
    for token in &tokens {
        let output = std::process::Command::new("softhsm2-util")
            .args(["--import", file.to_str().unwrap(), "--serial", token.serial.as_deref().unwrap()])
            .args(["--label", "edgate/tls-server/shared", "--id", "A1", "--pin", support::PIN])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let member = |token| MemberSettings {
        pool: edgate_hsm::PoolSettings { allow_extractable: true, ..stage.settings(token) },
        weight: 1,
        draining: false,
    };
    let uri =
        edgate_hsm::Pkcs11Uri { object: Some("edgate/tls-server/shared".to_owned()), ..tokens[0].clone() };
    (tokens.iter().map(member).collect(), uri)
}

#[test]
fn handshakes_go_on_with_the_second_token() {
    stage("handshakes_go_on_with_the_second_token", |stage| {
        let (members, uri) = replicated(stage);
        let pinned = {
            let alone = Pool::start(members[0].pool.clone()).unwrap();
            alone.signing_key::<TlsServer>(&uri, None, soon()).unwrap().public_key()
        };
        let first = members[0].pool.token.clone();
        let group = Group::start(members, std::time::Duration::from_millis(200)).unwrap();
        let signer = group.signing_key::<TlsServer>(&uri.object_only(), Some(pinned), soon()).unwrap();
        assert_signs(&signer);
        let away = stage.take_away(&first);
        for _ in 0..50 {
            let signature = signer.sign(b"handshake", soon()).unwrap();
            assert!(is_signature(pinned, b"handshake", &signature));
        }
        away.bring_back();
        assert_signs(&signer);
    });
}
