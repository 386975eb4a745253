//! The pool on a second provider, whose ways differ from SoftHSM's: `craton-hsm` from crates.io, built by `tests/run` into a
//! library of its own that `EDGATE_SECOND_MODULE` names.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use ed25519_dalek::{Signature, VerifyingKey};
use edgate_hsm::{
    Admin, HsmError, KeyName, Officer, PinPolicy, PinSource, Pkcs11Uri, Pool, PoolSettings, PublicKey,
    Purpose, TokenSigning, Verdict,
};

const CHILD: &str = "EDGATE_SECOND_CHILD";
const PIN: &str = "Edgate-4711-pin";
const OFFICER_PIN: &str = "Edgate-0815-officer";

/// The module, or a visible skip.
fn module() -> Option<PathBuf> {
    let module = std::env::var_os("EDGATE_SECOND_MODULE").map(PathBuf::from);
    if module.is_none() {
        eprintln!("SKIPPED: EDGATE_SECOND_MODULE names no module (tests/run builds one)");
        assert!(
            std::env::var_os("EDGATE_NO_SKIP").is_none(),
            "EDGATE_NO_SKIP is set, and nothing is skipped then"
        );
    }
    module
}

/// Runs this test once more in a process of its own, where the module may keep its state.
fn in_a_process_of_its_own(name: &str, body: impl FnOnce(&Path, &Path)) {
    let Some(module) = module() else { return };
    if let Some(folder) = std::env::var_os(CHILD) {
        return body(&module, Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let config = "[token]\nlabel = \"second\"\nstorage_path = \"store\"\n[audit]\nenabled = false\nlog_path = \"audit.log\"\n";
    std::fs::write(folder.path().join("hsm.toml"), config).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .current_dir(folder.path())
        .env(CHILD, folder.path())
        .env("CRATON_HSM_CONFIG", "hsm.toml")
        // Without a signature over its own file this module runs only so; it is a test's module.
        .env("CRATON_HSM_INTEGRITY_BYPASS", "unsafe-dev-only")
        .output()
        .unwrap();
    let text =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} ended with {}\n{text}", output.status);
    println!("{text}");
}

/// Initialises the token, as its owner does; returns its name.
fn initialise(module: &Path) -> Pkcs11Uri {
    let context = Pkcs11::new(module).unwrap();
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = context.get_slots_with_token().unwrap()[0];
    let officer = AuthPin::new(OFFICER_PIN.into());
    context.init_token(slot, &officer, "second").unwrap();
    {
        let session = context.open_rw_session(slot).unwrap();
        session.login(UserType::So, Some(&officer)).unwrap();
        session.init_pin(&AuthPin::new(PIN.into())).unwrap();
        session.logout().unwrap();
    }
    // Its PINs live in the process: what is initialised here is found so by the pool.
    edgate_hsm::tokens(module).unwrap()[0].uri.token_only()
}

fn pin(folder: &Path) -> PinPolicy {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("pin");
    std::fs::write(&path, PIN).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    PinPolicy { source: PinSource::File(path), credentials: None, guard_folder: folder.to_owned() }
}

/// As [`pin`], of the security officer.
fn officer_pin(folder: &Path) -> PinPolicy {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("officer-pin");
    std::fs::write(&path, OFFICER_PIN).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    PinPolicy { source: PinSource::File(path), ..pin(folder) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn a_second_provider_signs_through_the_pool_and_its_faults_are_named() {
    in_a_process_of_its_own(
        "a_second_provider_signs_through_the_pool_and_its_faults_are_named",
        |module, folder| {
            let token = initialise(module);
            let admin = Admin::open(module, &token, &pin(folder)).unwrap();
            let name = KeyName::new(Purpose::TokenSigning, "1").unwrap();
            let made = admin.generate(&name).unwrap();
            // It is an honest signer with dishonest ways: whoever asks it to be strict is not obeyed.
            let report = admin.examine().unwrap();
            println!("{report}");
            assert!(!report.is_fit(), "{report}");
            assert!(report.findings.iter().any(|finding| finding.verdict == Verdict::Fail), "{report}");

            let settings =
                PoolSettings { workers: 3, ..PoolSettings::new(module.to_owned(), token, pin(folder)) };
            let pool = Pool::start(settings).unwrap();
            let key = Pkcs11Uri { kind: None, ..made.uri };
            let signer = pool
                .signing_key::<TokenSigning>(&key, made.public_key.and_then(PublicKey::ed25519), soon())
                .unwrap();
            let verifying_key = VerifyingKey::from_bytes(&signer.public_key()).unwrap();
            for number in 0..100 {
                let message = format!("message {number}");
                let signature = signer.sign(message.as_bytes(), soon()).unwrap();
                verifying_key.verify_strict(message.as_bytes(), &Signature::from_bytes(&signature)).unwrap();
            }
        },
    );
}

/// It wraps Ed25519, the bare seed, and unwraps secret keys only: a backup would have been made that nobody can restore.
#[test]
fn a_provider_that_does_not_bring_a_wrapped_key_back_is_told_so() {
    in_a_process_of_its_own(
        "a_provider_that_does_not_bring_a_wrapped_key_back_is_told_so",
        |module, folder| {
            let token = initialise(module);
            let name = KeyName::new(Purpose::Backup, "1").unwrap();
            let officer = Officer::open(module, &token, &officer_pin(folder)).unwrap();
            let backup_key = officer.make_backup_key(&name).unwrap();
            assert!(backup_key.refused.is_empty(), "{:?}", backup_key.refused);
            drop(officer);
            let admin = Admin::open(module, &token, &pin(folder)).unwrap();
            for purpose in [Purpose::TokenSigning, Purpose::TlsServer] {
                let name = KeyName::new(purpose, "1").unwrap().wrappable().unwrap();
                let key = admin.generate(&name).unwrap();
                let before = admin.keys().unwrap().len();
                let error = admin.backup(&key.uri, "edgate/backup/1").unwrap_err();
                println!("{error}");
                assert!(matches!(error, HsmError::NotWrapped { .. }), "{error}");
                let why =
                    "wraps it but does not bring it back (C_UnwrapKey answered CKR_TEMPLATE_INCONSISTENT)";
                assert!(error.to_string().contains(why), "{error}");
                assert_eq!(admin.keys().unwrap().len(), before);
            }
        },
    );
}
