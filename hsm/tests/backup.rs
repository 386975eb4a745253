//! Backing keys up by wrapping, and restoring them: what SoftHSM does, and what is refused.
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use edgate_hsm::{
    Algorithm, BACKUP_PREFIX, Backup, GeneratedKey, HsmError, KeyName, Leftover, Officer, PinPolicy,
    PinSource, Pkcs11Uri, Pool, Purpose, TlsServer, WrapMechanism,
};
use support::{PIN, Stage, soon, stage, stage_with_faults};

const OFFICER_PIN: &str = "12345678";
const BACKUP_KEY: &str = "edgate/backup/1";
/// `CKA_EC_PARAMS` of P-256.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

fn backup_key_name() -> KeyName {
    KeyName::new(Purpose::Backup, "1").unwrap()
}

fn officer(stage: &Stage, token: &Pkcs11Uri) -> Officer {
    use std::os::unix::fs::PermissionsExt as _;
    let path = stage.folder.join("officer-pin");
    std::fs::write(&path, OFFICER_PIN).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let pin = PinPolicy { source: PinSource::File(path), ..stage.pin() };
    Officer::open(&stage.module, token, &pin).unwrap()
}

/// A key that can be backed up, which SoftHSM 2.6 does with P-256 keys only.
fn wrappable(stage: &Stage, token: &Pkcs11Uri, name: &str) -> GeneratedKey {
    let name = KeyName::new(Purpose::TlsServer, name).unwrap().wrappable().unwrap();
    stage.admin(token).generate(&name).unwrap()
}

/// A session beside ours, which must be closed before an [`Officer`] comes.
fn as_other<T>(stage: &Stage, token: &Pkcs11Uri, who: UserType, body: impl FnOnce(&Session) -> T) -> T {
    let context = Pkcs11::new(&stage.module).unwrap();
    let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slots = context.get_slots_with_initialized_token().unwrap();
    let serial = token.serial.as_deref().unwrap();
    let found =
        |slot: &cryptoki::slot::Slot| context.get_token_info(*slot).unwrap().serial_number() == serial;
    let session = context.open_rw_session(slots.into_iter().find(found).unwrap()).unwrap();
    let pin = if matches!(who, UserType::So) { OFFICER_PIN } else { PIN };
    session.login(who, Some(&AuthPin::from(pin.to_owned()))).unwrap();
    body(&session)
}

/// Puts the same backup key into a token, as a vendor's clone does.
fn clone_backup_key(stage: &Stage, token: &Pkcs11Uri, value: [u8; 32]) {
    as_other(stage, token, UserType::So, |session| {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Wrap(true),
            Attribute::Unwrap(true),
            Attribute::Trusted(true),
            Attribute::Label(BACKUP_KEY.as_bytes().to_vec()),
            Attribute::Id(vec![1; 16]),
            Attribute::Value(value.to_vec()),
        ];
        session.create_object(&template).unwrap();
    });
}

fn delete(stage: &Stage, token: &Pkcs11Uri, key: &GeneratedKey) {
    as_other(stage, token, UserType::User, |session| {
        for handle in session.find_objects(&[Attribute::Id(key.uri.id.clone().unwrap())]).unwrap() {
            session.destroy_object(handle).unwrap();
        }
    });
}

/// The number of objects in the token, whatever they are.
fn objects(stage: &Stage, token: &Pkcs11Uri) -> usize {
    stage.admin(token).keys().unwrap().len()
}

/// The file with `from` replaced, signed anew by `signer`: what someone can make who has that key.
fn forged(
    stage: &Stage,
    token: &Pkcs11Uri,
    backup: &Backup,
    changes: &[(&str, &str)],
    signer: &Pkcs11Uri,
) -> Backup {
    let text = backup.to_text();
    let mut body = text[..text.rfind("signature ").unwrap()].to_owned();
    for (from, to) in changes {
        assert!(body.contains(from), "{from}");
        body = body.replacen(from, to, 1);
    }
    let message = [BACKUP_PREFIX, body.as_bytes()].concat();
    let (_, signature) = stage.admin(token).sign_verified(signer, &Algorithm::ALL, &message).unwrap();
    let digits: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    Backup::parse(format!("{body}signature {digits}\n").as_bytes()).unwrap()
}

fn not_restored(error: HsmError) -> (String, Leftover) {
    match error {
        HsmError::NotRestored { rule, left, .. } => (rule, left),
        other => panic!("{other}"),
    }
}

fn not_wrapped(error: &HsmError) -> String {
    let text = error.to_string();
    assert!(matches!(error, HsmError::NotWrapped { .. }) && text.ends_with("nothing was written"), "{text}");
    text
}

/// Deletes the public half alone, as a restore that was cut off leaves it.
fn delete_public(stage: &Stage, token: &Pkcs11Uri, key: &GeneratedKey) {
    as_other(stage, token, UserType::User, |session| {
        let id = Attribute::Id(key.uri.id.clone().unwrap());
        for handle in session.find_objects(&[id, Attribute::Class(ObjectClass::PUBLIC_KEY)]).unwrap() {
            session.destroy_object(handle).unwrap();
        }
    });
}

#[test]
fn a_restore_that_was_cut_off_is_completed_if_it_is_the_key_and_left_if_not() {
    stage("a_restore_that_was_cut_off_is_completed_if_it_is_the_key_and_left_if_not", |stage| {
        let token = stage.make_token("edgate");
        officer(stage, &token).make_backup_key(&backup_key_name()).unwrap();
        let key = wrappable(stage, &token, "1");
        let backup = stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap();
        delete_public(stage, &token, &key);
        assert_eq!(objects(stage, &token), 2);
        let restored = stage.admin(&token).restore(&backup, None).unwrap();
        assert_eq!((restored.public_key, &restored.uri), (key.public_key, &key.uri));
        assert_eq!(objects(stage, &token), 3);
        assert_eq!(Some(stage.admin(&token).selftest(&key.uri).unwrap()), key.public_key);

        // Another key's private half under that label and id is nobody's to complete, nor to take away.
        delete(stage, &token, &key);
        let other = wrappable(stage, &token, "2");
        delete_public(stage, &token, &other);
        let Pkcs11Uri { object: Some(label), id: Some(id), .. } = key.uri else { panic!("it was named") };
        let theirs = stage.admin(&token).backup(&other.uri, BACKUP_KEY);
        assert!(matches!(theirs, Err(HsmError::Unpinned { .. })), "{theirs:?}");
        delete(stage, &token, &other);
        as_other(stage, &token, UserType::User, |session| {
            let public = [Attribute::Token(false), Attribute::EcParams(P256.to_vec())];
            let private = [
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Sign(true),
                Attribute::Label(label.into_bytes()),
                Attribute::Id(id),
            ];
            session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
        });
        let (rule, left) = not_restored(stage.admin(&token).restore(&backup, None).unwrap_err());
        assert_eq!(left, Leftover::Kept, "{rule}");
        assert_eq!(objects(stage, &token), 2);
    });
}

#[test]
fn a_key_that_its_backup_could_not_name_is_not_backed_up() {
    stage("a_key_that_its_backup_could_not_name_is_not_backed_up", |stage| {
        let token = stage.make_token("edgate");
        officer(stage, &token).make_backup_key(&backup_key_name()).unwrap();
        let label = || Attribute::Label(b"edgate/tls-server/nameless".to_vec());
        as_other(stage, &token, UserType::User, |session| {
            let public = [Attribute::Token(true), Attribute::EcParams(P256.to_vec()), label()];
            let private = [
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(true),
                Attribute::Sign(true),
                label(),
            ];
            session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
        });
        let uri = Pkcs11Uri { object: Some("edgate/tls-server/nameless".to_owned()), ..token.clone() };
        let refused = not_wrapped(&stage.admin(&token).backup(&uri, BACKUP_KEY).unwrap_err());
        assert!(refused.contains("it has no CKA_ID"), "{refused}");
    });
}

#[test]
fn a_key_that_was_lost_comes_back_and_signs() {
    stage("a_key_that_was_lost_comes_back_and_signs", |stage| {
        let token = stage.make_token("edgate");
        let made = officer(stage, &token).make_backup_key(&backup_key_name()).unwrap();
        // SoftHSM's officer sees no private objects; all else it takes.
        assert_eq!(made.refused, ["CKA_PRIVATE=true"]);
        let key = wrappable(stage, &token, "1");
        assert!(key.refused.is_empty(), "{:?}", key.refused);
        let attributes = stage.admin(&token).attributes(&key.uri).unwrap();
        assert!(attributes["extractable"] && attributes["sensitive"] && attributes["wrap_with_trusted"]);

        let backup = stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap();
        let contents = backup.contents();
        assert_eq!((Some(contents.public_key), &contents.id), (key.public_key, key.uri.id.as_ref().unwrap()));
        assert_eq!((contents.mechanism, &*contents.backup_key), (WrapMechanism::AesKeyWrapPad, BACKUP_KEY));
        assert!(contents.check.is_some());
        // The one that was tried left nothing.
        assert_eq!(objects(stage, &token), 3);
        assert_eq!(Backup::parse(backup.to_text().as_bytes()).unwrap(), backup);

        let taken = not_restored(stage.admin(&token).restore(&backup, None).unwrap_err());
        assert!(taken.0.contains("an object of that label") && taken.1 == Leftover::Nothing, "{taken:?}");
        delete(stage, &token, &key);
        assert_eq!(objects(stage, &token), 1);
        let restored = stage.admin(&token).restore(&backup, None).unwrap();
        assert_eq!((restored.public_key, &restored.uri), (key.public_key, &key.uri));
        assert!(restored.refused.is_empty(), "{:?}", restored.refused);
        let attributes = stage.admin(&token).attributes(&key.uri).unwrap();
        assert!(attributes["extractable"] && attributes["sensitive"] && attributes["wrap_with_trusted"]);
        assert!(
            !attributes["copyable"]
                && !attributes["modifiable"]
                && !attributes["decrypt"]
                && attributes["sign"]
        );
        assert_eq!(objects(stage, &token), 3);
        // It can be backed up once more.
        stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap();

        // A service uses it only where its configuration says so.
        let pool = Pool::start(stage.settings(&token)).unwrap();
        let error = pool.signing_key::<TlsServer>(&key.uri, key.public_key, soon()).unwrap_err();
        assert!(error.to_string().contains("hsm.allow_wrapped_export") && error.exit_code() == 78, "{error}");
        drop(pool);
        let mut settings = stage.settings(&token);
        settings.allow_wrapped_export = true;
        let pool = Pool::start(settings).unwrap();
        let signer = pool.signing_key::<TlsServer>(&key.uri, key.public_key, soon()).unwrap();
        signer.sign(b"message", soon()).unwrap();
    });
}

#[test]
fn a_setting_for_wrapped_export_lets_no_other_extractable_key_in() {
    stage("a_setting_for_wrapped_export_lets_no_other_extractable_key_in", |stage| {
        let token = stage.make_token("edgate");
        let loose = as_other(stage, &token, UserType::User, |session| {
            let common = |id: u8| [Attribute::Token(true), Attribute::Id(vec![id])];
            for (id, sensitive, trusted) in [(1, true, false), (2, false, true)] {
                let mut public = vec![Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)];
                public.extend(common(id));
                let mut private = vec![Attribute::Sign(true), Attribute::Sensitive(sensitive)];
                private.extend([Attribute::Extractable(true), Attribute::WrapWithTrusted(trusted)]);
                private.extend(common(id));
                let mechanism = Mechanism::EccKeyPairGen;
                session.generate_key_pair(&mechanism, &public, &private).unwrap();
            }
            [1, 2].map(|id| Pkcs11Uri { id: Some(vec![id]), ..token.clone() })
        });
        let mut settings = stage.settings(&token);
        settings.allow_wrapped_export = true;
        let pool = Pool::start(settings).unwrap();
        for uri in loose {
            let error = pool.signing_key::<TlsServer>(&uri, None, soon()).unwrap_err();
            assert!(error.to_string().contains("can be read out"), "{error}");
        }
    });
}

#[test]
fn a_key_is_restored_into_another_token_that_has_the_same_backup_key() {
    stage("a_key_is_restored_into_another_token_that_has_the_same_backup_key", |stage| {
        let [one, two, other] = ["one", "two", "other"].map(|label| stage.make_token(label));
        // A module lists its tokens when it is initialised.
        let none = stage.make_token("none");
        clone_backup_key(stage, &one, [3; 32]);
        clone_backup_key(stage, &two, [3; 32]);
        clone_backup_key(stage, &other, [4; 32]);
        let key = wrappable(stage, &one, "1");
        let backup = stage.admin(&one).backup(&key.uri, BACKUP_KEY).unwrap();
        let restored = stage.admin(&two).restore(&backup, None).unwrap();
        assert_eq!(restored.public_key, key.public_key);
        assert_eq!(restored.uri.serial, two.serial);
        assert_eq!(stage.admin(&two).selftest(&restored.uri).unwrap(), key.public_key.unwrap());

        // Another key of that name: told apart by its check value, ...
        let (rule, left) = not_restored(stage.admin(&other).restore(&backup, None).unwrap_err());
        assert!(rule.contains("another one than the one it was wrapped under (check value"), "{rule}");
        assert_eq!(left, Leftover::Nothing);
        // ... and where there is none, by what it does not unwrap.
        let check = backup.contents().check.unwrap().map(|byte| format!("{byte:02x}")).concat();
        let check = format!("check {check}");
        let unchecked = forged(stage, &one, &backup, &[(&check, "check -")], &key.uri);
        let (rule, left) = not_restored(stage.admin(&other).restore(&unchecked, None).unwrap_err());
        assert!(rule.contains("does not unwrap it (C_UnwrapKey answered CKR_"), "{rule}");
        assert_eq!((left, objects(stage, &other)), (Leftover::Nothing, 1));
        // A token without any.
        let error = stage.admin(&none).restore(&backup, None).unwrap_err();
        assert!(matches!(error, HsmError::Object { matches: 0, .. }), "{error}");
        // It may have another name there.
        let error = stage.admin(&two).restore(&backup, Some("edgate/backup/2")).unwrap_err();
        assert!(matches!(error, HsmError::NotRestored { .. } | HsmError::Object { .. }), "{error}");
    });
}

#[test]
fn a_key_that_is_not_the_one_of_the_backup_is_refused_by_rule() {
    stage("a_key_that_is_not_the_one_of_the_backup_is_refused_by_rule", |stage| {
        let token = stage.make_token("edgate");
        officer(stage, &token).make_backup_key(&backup_key_name()).unwrap();
        let (key, other) = (wrappable(stage, &token, "1"), wrappable(stage, &token, "2"));
        let backup = stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap();
        // A file that is whole in itself, by somebody who has another key: it says that key, and wraps the first one.
        let [ours, theirs] = [&key, &other].map(|key| key.public_key.unwrap().to_string());
        let forgery = forged(stage, &token, &backup, &[(&ours, &theirs)], &other.uri);
        assert_eq!(forgery.contents().public_key, other.public_key.unwrap());
        delete(stage, &token, &key);
        let before = objects(stage, &token);
        let error = stage.admin(&token).restore(&forgery, None).unwrap_err();
        assert!(error.to_string().contains("the restored key is not the key of the backup"), "{error}");
        assert_eq!(error.exit_code(), 78);
        assert_eq!((not_restored(error).1, objects(stage, &token)), (Leftover::Nothing, before));
        // The other way round: the file of one key with what is wrapped of the other.
        let swapped = stage.admin(&token).backup(&other.uri, BACKUP_KEY).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let wrapped = [&swapped, &backup].map(|backup| hex(&backup.contents().wrapped));
        let forgery = forged(stage, &token, &swapped, &[(&wrapped[0], &wrapped[1])], &other.uri);
        delete(stage, &token, &other);
        let (rule, left) = not_restored(stage.admin(&token).restore(&forgery, None).unwrap_err());
        assert!(rule.contains("is not the key of the backup") && left == Leftover::Nothing, "{rule}");
        // The honest ones are taken.
        stage.admin(&token).restore(&backup, None).unwrap();
        stage.admin(&token).restore(&swapped, None).unwrap();
    });
}

#[test]
fn a_key_that_signs_otherwise_once_it_is_in_the_token_is_destroyed() {
    stage_with_faults("a_key_that_signs_otherwise_once_it_is_in_the_token_is_destroyed", |stage| {
        let token = stage.make_token("edgate");
        officer(stage, &token).make_backup_key(&backup_key_name()).unwrap();
        let key = wrappable(stage, &token, "1");
        let backup = stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap();
        delete(stage, &token, &key);
        let before = objects(stage, &token);
        // Two signatures are made by what is tried first.
        for (fault, why) in [
            ("C_Sign corrupt skip=2\n", "is not the key of the backup"),
            ("C_Sign rv=0x30 skip=3\n", "C_Sign answered CKR_DEVICE_ERROR"),
            ("C_CreateObject rv=0x13\n", "C_CreateObject answered CKR_ATTRIBUTE_VALUE_INVALID"),
        ] {
            stage.faults(fault);
            let (rule, left) = not_restored(stage.admin(&token).restore(&backup, None).unwrap_err());
            stage.faults("");
            assert!(rule.contains(why), "{fault}: {rule}");
            assert_eq!((left, objects(stage, &token)), (Leftover::Destroyed, before), "{fault}");
        }
        // Refused, and made and then refused.
        for (fault, left) in [
            ("C_UnwrapKey rv=0xd1 skip=1\n", Leftover::Nothing),
            ("C_UnwrapKey rv=0x30 after skip=1\n", Leftover::Destroyed),
        ] {
            stage.faults(fault);
            let found = not_restored(stage.admin(&token).restore(&backup, None).unwrap_err());
            stage.faults("");
            assert!(
                found.0.contains("and not for good (C_UnwrapKey answered") && found.1 == left,
                "{found:?}"
            );
            assert_eq!(objects(stage, &token), before, "{fault}");
        }
        stage.faults("C_Sign corrupt skip=2\nC_DestroyObject rv=0x30 skip=1\n");
        let error = stage.admin(&token).restore(&backup, None).unwrap_err();
        stage.faults("");
        assert!(error.to_string().contains("could not be destroyed: delete"), "{error}");
        assert_eq!(not_restored(error).1, Leftover::Kept);
        delete(stage, &token, &key);
        stage.admin(&token).restore(&backup, None).unwrap();
    });
}

#[test]
fn what_cannot_be_backed_up_is_told_so_before_anything_is_written() {
    stage("what_cannot_be_backed_up_is_told_so_before_anything_is_written", |stage| {
        let token = stage.make_token("edgate");
        officer(stage, &token).make_backup_key(&backup_key_name()).unwrap();
        // SoftHSM 2.6 does not wrap Ed25519.
        let name = KeyName::new(Purpose::TokenSigning, "1").unwrap().wrappable().unwrap();
        let key = stage.admin(&token).generate(&name).unwrap();
        let told = not_wrapped(&stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap_err());
        assert!(
            told.contains("the token does not wrap ed25519 keys") && told.contains("CKR_KEY_NOT_WRAPPABLE"),
            "{told}"
        );
        // A key that never leaves.
        let key = stage.make_key(&token, Purpose::TlsServer, "kept");
        let told = not_wrapped(&stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap_err());
        assert!(told.contains("made never to leave") && told.contains("--wrappable"), "{told}");
        // Backup keys that would give away what they wrap, or that nobody called trusted.
        as_other(stage, &token, UserType::User, |session| {
            for (name, decrypt, extractable) in
                [("plain", false, false), ("decrypts", true, false), ("leaves", false, true)]
            {
                let template = [
                    Attribute::Token(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(extractable),
                    Attribute::ValueLen(32.into()),
                    Attribute::Wrap(true),
                    Attribute::Unwrap(true),
                    Attribute::Encrypt(false),
                    Attribute::Decrypt(decrypt),
                    Attribute::Label(format!("edgate/backup/{name}").into_bytes()),
                ];
                session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
            }
        });
        let key = wrappable(stage, &token, "1");
        let refused = |label: &str| stage.admin(&token).backup(&key.uri, label).unwrap_err();
        let told = not_wrapped(&refused("edgate/backup/plain"));
        assert!(told.contains("under a trusted key only") && told.contains("CKA_TRUSTED"), "{told}");
        for (label, why) in
            [("edgate/backup/decrypts", "decrypt too"), ("edgate/backup/leaves", "can itself leave")]
        {
            let error = refused(label);
            assert!(
                matches!(error, HsmError::KeyAttribute { .. }) && error.to_string().contains(why),
                "{error}"
            );
        }
        stage.make_key(&token, Purpose::Wrapping, "1");
        let error = refused("edgate/wrapping/1");
        assert!(error.to_string().contains("it is no backup key"), "{error}");
        assert!(matches!(refused("edgate/backup/none"), HsmError::Object { matches: 0, .. }));
        // A user makes no backup key, and the officer nothing else.
        let error = stage.admin(&token).generate(&backup_key_name()).unwrap_err();
        assert!(error.to_string().contains("--so-pin-source"), "{error}");
        let other = KeyName::new(Purpose::Wrapping, "2").unwrap();
        let error = officer(stage, &token).make_backup_key(&other).unwrap_err();
        assert!(matches!(error, HsmError::KeyInUse { wanted: Purpose::Backup, .. }), "{error}");
        assert!(other.wrappable().is_none() && backup_key_name().wrappable().is_none());
    });
}

#[test]
fn a_token_that_wraps_but_does_not_bring_back_is_told_so() {
    stage_with_faults("a_token_that_wraps_but_does_not_bring_back_is_told_so", |stage| {
        let token = stage.make_token("edgate");
        officer(stage, &token).make_backup_key(&backup_key_name()).unwrap();
        let key = wrappable(stage, &token, "1");
        let before = objects(stage, &token);
        stage.faults("C_UnwrapKey rv=0xd1\n");
        let told = not_wrapped(&stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap_err());
        assert!(told.contains("wraps it but does not bring it back (C_UnwrapKey answered"), "{told}");
        // The first mechanism fails, the second does not.
        stage.faults("C_WrapKey rv=0x70 n=1\n");
        let backup = stage.admin(&token).backup(&key.uri, BACKUP_KEY).unwrap();
        assert_eq!(backup.contents().mechanism, WrapMechanism::AesKeyWrap);
        stage.faults("");
        assert_eq!(objects(stage, &token), before);
    });
}

#[test]
fn a_rejected_officers_pin_is_not_tried_again() {
    stage("a_rejected_officers_pin_is_not_tried_again", |stage| {
        let token = stage.make_token("edgate");
        let open = || Officer::open(&stage.module, &token, &stage.pin()).unwrap_err();
        for why in ["the token refused the PIN", "was rejected by the token before"] {
            let error = open();
            assert!(error.needs_operator() && error.to_string().contains(why), "{error}");
        }
        // The same PIN is good for the user, and was not held against it.
        stage.admin(&token);
    });
}

#[test]
fn the_backup_key_does_nothing_else() {
    stage("the_backup_key_does_nothing_else", |stage| {
        let token = stage.make_token("edgate");
        let made = officer(stage, &token).make_backup_key(&backup_key_name()).unwrap();
        let again = officer(stage, &token).make_backup_key(&backup_key_name()).unwrap_err();
        assert!(matches!(again, HsmError::KeyInUse { .. }), "{again}");
        as_other(stage, &token, UserType::User, |session| {
            let found = session.find_objects(&[Attribute::Id(made.uri.id.clone().unwrap())]).unwrap();
            let [handle] = found[..] else { panic!("{found:?}") };
            session.update_attributes(handle, &[Attribute::Decrypt(true)]).unwrap_err();
            let asked = [AttributeType::Trusted, AttributeType::Decrypt, AttributeType::Extractable];
            let shown = session.get_attributes(handle, &asked).unwrap();
            let wanted = [Attribute::Trusted(true), Attribute::Decrypt(false), Attribute::Extractable(false)];
            assert!(wanted.iter().all(|attribute| shown.contains(attribute)), "{shown:?}");
        });
    });
}
