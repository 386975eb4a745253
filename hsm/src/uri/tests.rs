use proptest::prelude::*;

use super::*;

fn production(text: &str) -> Result<Pkcs11Uri, UriError> {
    Pkcs11Uri::parse(text, UriRules::Production)
}

#[test]
fn a_full_uri_is_read() {
    let uri = production(
        "pkcs11:token=edgate%20signing;serial=2b1f;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;\
         object=edgate/token-signing/1;id=%00%fF;type=private\
         ?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=credential:hsm-pin"
            .replace("edgate/token-signing/1", "edgate%2Ftoken-signing%2f1")
            .as_str(),
    )
    .unwrap();
    assert_eq!(uri.token.as_deref(), Some("edgate signing"));
    assert_eq!(uri.object.as_deref(), Some("edgate/token-signing/1"));
    assert_eq!(uri.id.as_deref(), Some(&[0x00, 0xff][..]));
    assert_eq!(uri.kind, Some(ObjectKind::Private));
    assert_eq!(uri.pin_source, Some(PinSource::Credential("hsm-pin".to_owned())));
    uri.require_object().unwrap();
}

#[test]
fn each_fault_names_its_attribute() {
    let cases = [
        ("http://x", "must begin with `pkcs11:`"),
        ("pkcs1", "must begin with `pkcs11:`"),
        ("pkcs11:token=a;token=b", "`token` is given twice"),
        ("pkcs11:token", "`token` has no value"),
        ("pkcs11:token=", "`token` is empty"),
        ("pkcs11:tokens=a", "unknown attribute `tokens`"),
        ("pkcs11:x-vendor=a", "unknown attribute `x-vendor`"),
        ("pkcs11:;token=a", "`` has no value"),
        ("pkcs11:token=a;", "`` has no value"),
        ("pkcs11:token=a b", "character ' ' in `token`"),
        ("pkcs11:token=a/b", "character '/' in `token`"),
        ("pkcs11:token=é", "character 'é' in `token`"),
        ("pkcs11:token=a%2", "`token` has a `%`"),
        ("pkcs11:token=a%2g", "`token` has a `%`"),
        ("pkcs11:token=%ff", "`token` is not UTF-8"),
        ("pkcs11:token=%00", "`token` is not UTF-8"),
        ("pkcs11:type=key", "`type` must be private"),
        ("pkcs11:slot-id=1", "`slot-id` is not accepted"),
        ("pkcs11:library-version=1", "`library-version` is not accepted"),
        ("pkcs11:token=a?pin-value=1234", "`pin-value` is not accepted"),
        ("pkcs11:token=a?pin-source=|cat", "`pin-source` must be credential:NAME"),
        ("pkcs11:token=a?module-path=lib.so", "`module-path` must be an absolute path"),
        ("pkcs11:token=a?module-name=x", "`module-name` is not accepted"),
        ("pkcs11:token=a?token=b", "unknown attribute `token`"),
    ];
    for (text, expected) in cases {
        let message = production(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn a_token_is_named_by_label_and_serial() {
    for (text, missing) in
        [("pkcs11:serial=1", "`token`"), ("pkcs11:token=a", "`serial`"), ("pkcs11:token=a;serial=1", "`id`")]
    {
        let message = production(text).unwrap().require_object().unwrap_err().to_string();
        assert!(message.contains(missing), "{message}");
    }
}

#[test]
fn a_pin_in_a_uri_passes_in_development_only_and_is_never_shown() {
    let uri = Pkcs11Uri::parse("pkcs11:token=a?pin-value=sec%20ret", UriRules::Development).unwrap();
    assert_eq!(uri.pin_value.as_ref().unwrap().as_str(), "sec ret");
    assert!(!format!("{uri} {uri:?}").contains("ret"));
    // A PIN in a wrong place is not echoed beyond what could be a name.
    let message = production("pkcs11:token=a?1234Secret").unwrap_err().to_string();
    assert!(!message.contains("1234"), "{message}");
}

fn any_uri() -> impl Strategy<Value = Pkcs11Uri> {
    let text = || proptest::option::of("[^\0]{1,12}");
    let kind = proptest::option::of(prop_oneof![
        Just(ObjectKind::Private),
        Just(ObjectKind::Public),
        Just(ObjectKind::SecretKey),
        Just(ObjectKind::Certificate)
    ]);
    let id = proptest::option::of(proptest::collection::vec(any::<u8>(), 1..20));
    let source = proptest::option::of(prop_oneof![
        "[a-zA-Z0-9._-]{1,12}"
            .prop_filter("a file name", |name| !name.starts_with('.'))
            .prop_map(PinSource::Credential),
        "/[a-z/?%& ]{0,12}".prop_map(|path| PinSource::File(path.into())),
        (3..1000_u32).prop_map(PinSource::Descriptor),
    ]);
    let module = proptest::option::of("/[^\0]{0,12}".prop_map(PathBuf::from));
    (text(), text(), text(), text(), text(), id, kind, source, module).prop_map(
        |(token, manufacturer, serial, model, object, id, kind, pin_source, module_path)| Pkcs11Uri {
            token,
            manufacturer,
            serial,
            model,
            object,
            id,
            kind,
            pin_source,
            module_path,
            ..Pkcs11Uri::empty()
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_reads_back(uri in any_uri()) {
        prop_assert_eq!(production(&uri.to_string()), Ok(uri));
    }

    #[test]
    fn any_text_is_refused_or_has_a_canonical_form(
        text in "(pkcs11:)?((token|serial|id|type|object|pin-source|module-path)=?[%a-f0-9:/;&?=\\PC]{0,8}[;?&]?){0,6}"
    ) {
        for rules in [UriRules::Development, UriRules::Production] {
            if let Ok(uri) = Pkcs11Uri::parse(&text, rules) {
                let canonical = uri.to_string();
                let again = Pkcs11Uri::parse(&canonical, rules).unwrap();
                prop_assert_eq!(again.to_string(), canonical);
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(text in "\\PC{0,64}") {
        let _ = production(&text);
        let _ = production(&format!("pkcs11:{text}"));
    }
}
