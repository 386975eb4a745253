use super::*;

const GOOD: &str = r#"
[server]
listen = ["127.0.0.1:0", "unix:/run/edgate/data.sock"]
[state]
database = "/var/lib/edgate/state.db"
[audit]
dir = "/var/lib/edgate/audit"
origin = "example.com/edgate/node-1"
checkpoint_key_file = "/var/lib/edgate/checkpoint.key"
[signing]
key_file = "/var/lib/edgate/signing.key"
issuer = "own"
[[issuers]]
name = "own"
issuer = "https://own"
audiences = ["orders"]
keys = "signing_key"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("edgate.toml"))
}

#[test]
fn a_small_configuration_gets_the_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.server.listen.len(), 2);
    assert!(config.server.shards >= 1);
    assert_eq!(config.audit.verify_ack, VerifyAck::Recorded);
    assert_eq!(config.issuers[0].algorithms, ["Ed25519", "EdDSA"]);
    assert_eq!(config.signing.unwrap().issuer, 0);
}

#[test]
fn a_key_is_published_for_as_long_as_a_jwks_is_kept_and_verifies_until_all_it_signed_is_dead() {
    let signing = parse(GOOD).unwrap().signing.unwrap();
    assert_eq!((signing.jwks_max_age_s, signing.propagation_s, signing.rotate_every_s), (300, 300, None));
    assert_eq!(signing.verify_for, Duration::from_secs(3600 + 5 + 300 + 5));
    let more = "jwks_max_age_s = 60\nrequire_backup = true\nrotate_every_s = 86400\nissuer = \"own\"\n\
                status_list_uri = \"https://own/v1/status-lists/1\"";
    let text =
        GOOD.replacen("issuer = \"own\"", more, 1).replace("audiences", "max_lifetime_s = 120\naudiences");
    let signing = parse(&text).unwrap().signing.unwrap();
    assert_eq!((signing.propagation_s, signing.require_backup), (60, true));
    // A status list lives longer than these tokens.
    assert_eq!(signing.verify_for, Duration::from_secs(600 + 5 + 60 + 5));
}

#[test]
fn the_dev_configuration_is_valid() {
    let config = Config::dev(Path::new("/tmp/with \"quotes\" and \\"), 0, 0, None);
    assert_eq!(config.database, Path::new("/tmp/with \"quotes\" and \\/state.db"));
}

#[test]
fn the_shipped_configuration_is_valid() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/edgate.toml"));
    Config::load(path).unwrap();
}

#[test]
fn errors_name_the_key_the_value_and_the_fix() {
    let cases = [
        ("127.0.0.1:0\"", "0.0.0.0:80\"", "server.listen[0] = \"0.0.0.0:80\"", "allow_unauthenticated"),
        ("127.0.0.1:0\"", "localhost\"", "server.listen[0] = \"localhost\"", "127.0.0.1:8180"),
        ("unix:/run", "unix:run", "server.listen[1]", "absolute"),
        ("node-1\"", "node 1\"", "audit.origin", "white space"),
        ("issuer = \"own\"", "issuer = \"other\"", "signing.issuer = \"other\"", "name one of them"),
        ("audiences = [\"orders\"]", "audiences = []", "issuers.own.audiences", "name the audiences"),
        (
            "audiences",
            "algorithms = [\"RS256\"]\naudiences",
            "issuers.own.algorithms = \"RS256\"",
            "RFC 9864",
        ),
        ("audiences", "leeway_s = 9000\naudiences", "issuers.own.leeway_s = 9000", "0 to 300"),
        ("keys = \"signing_key\"", "", "issuers.own.jwks_file", "exactly one"),
        ("issuer = \"own\"", "jwks_max_age_s = 0\nissuer = \"own\"", "signing.jwks_max_age_s = 0", "1 to"),
        (
            "issuer = \"own\"",
            "propagation_s = 299\nissuer = \"own\"",
            "signing.propagation_s = 299",
            "300 or more",
        ),
        (
            "issuer = \"own\"",
            "rotate_every_s = 299\nissuer = \"own\"",
            "signing.rotate_every_s = 299",
            "300 or more",
        ),
        (
            "issuer = \"own\"",
            "jwks_max_age_s = 1\nrotate_every_s = 60\nissuer = \"own\"",
            "signing.rotate_every_s = 60",
            "choose 61 or more",
        ),
        ("[state]", "shards = 0\n[state]", "server.shards = 0", "1 to"),
        ("[state]", "shard = 1\n[state]", "unknown field `shard`", "expected one of"),
        ("[state]", "listen = 3\n[state]", "duplicate key", "listen"),
        ("127.0.0.1:0\"", "tls:127.0.0.1:0\"", "server.listen = tls:127.0.0.1:0", "[server.tls]"),
        (
            "127.0.0.1:0\"",
            "127.0.0.1:7\", \"tls:127.0.0.1:7\"",
            "server.listen[1] = tls:127.0.0.1:7",
            "the same place",
        ),
        (
            "127.0.0.1:0\"",
            "tls:0.0.0.0:443\"",
            "server.listen[0] = \"tls:0.0.0.0:443\"",
            "allow_unauthenticated",
        ),
        (
            "127.0.0.1:0\"",
            "tls:edgate.test\"",
            "server.listen[0] = \"tls:edgate.test\"",
            "tls:127.0.0.1:8443",
        ),
        (
            "[state]",
            "[server.tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\n[state]",
            "server.tls",
            "tls:ADDRESS:PORT",
        ),
    ];
    for (from, to, key, fix) in cases {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(fix), "{to}: {message}");
    }
}

#[test]
fn a_tls_listener_has_a_certificate_and_one_key() {
    let with = |table: &str| {
        let text = GOOD.replacen("127.0.0.1:0\"", "tls:127.0.0.1:0\"", 1);
        parse(&text.replacen(
            "[state]",
            &format!("[server.tls]\ncertificate_file = \"c\"\n{table}\n[state]"),
            1,
        ))
    };
    let tls = with("key_file = \"k\"").unwrap().server.tls.unwrap();
    assert!(matches!(tls.key, TlsKeyPlace::File(_)));
    assert_eq!((tls.handshake_timeout, tls.handshake_threads), (Duration::from_secs(5), 8));
    for (table, problem) in [
        ("", "exactly one of server.tls.key_file and server.tls.key"),
        (
            "key_file = \"k\"\nkey = \"pkcs11:object=k\"",
            "exactly one of server.tls.key_file and server.tls.key",
        ),
        ("key = \"pkcs11:object=k\"", "there is no [hsm] table"),
        ("key_file = \"k\"\nhandshake_threads = 0", "server.tls.handshake_threads = 0"),
        ("key_file = \"k\"\nhandshake_timeout_ms = 1", "server.tls.handshake_timeout_ms = 1"),
    ] {
        let message = with(table).unwrap_err().to_string();
        assert!(message.contains(problem), "{table}: {message}");
    }
}

/// Found by the fuzz body `config`: a name of 129 to 255 bytes passed `check-config`, and then the audit log refused to
/// open. Both checks were tested, each with its own texts.
#[test]
fn a_name_that_the_audit_log_refuses_is_refused_here() {
    for (length, fine) in [(128, true), (129, false)] {
        let config = parse(&GOOD.replace("example.com/edgate/node-1", &"o".repeat(length)));
        assert_eq!(config.is_ok(), fine, "{length} bytes");
        assert_eq!(crate::audit::Settings::new("/", "o".repeat(length)).check().is_ok(), fine);
    }
}

/// Found while writing that body: more issuers than their index can count were a panic at start.
#[test]
fn there_are_at_most_so_many_issuers() {
    let (head, issuer) = GOOD.split_at(GOOD.find("[[issuers]]").unwrap());
    let other = |i: usize| {
        format!("[[issuers]]\nname = \"{i}\"\nissuer = \"{i}\"\naudiences = [\"a\"]\njwks = \"\"\n")
    };
    let with = |others: usize| format!("{head}{issuer}{}", (0..others).map(other).collect::<String>());
    assert!(parse(&with(4095)).is_ok());
    assert!(parse(&with(4096)).unwrap_err().to_string().starts_with("issuers = 4097 entries"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nowhere/edgate.toml")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/edgate.toml"));
}

#[test]
fn the_claims_that_can_be_required_are_known() {
    for claim in crate::token::ClaimName::ALL {
        let text = GOOD.replace("audiences", &format!("required_claims = [\"{claim}\"]\naudiences"));
        assert!(parse(&text).is_ok(), "{claim}");
    }
    let text = GOOD.replace("audiences", "required_claims = [\"email\"]\naudiences");
    assert!(parse(&text).unwrap_err().to_string().contains("issuers.own.required_claims"));
}
