//! The log's tag keys wrapped under a key of the token, and wrapped anew while the node runs.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use edgate::audit::hex;
use serde_json::{Value, json};

use crate::{Daemon, Stage};

/// Makes `edgate/wrapping/NAME`; its id in hexadecimal.
fn wrapping_key(stage: &Stage, name: &str) -> String {
    let uri = format!("{}?pin-source=file:{}", stage.token, stage.path("pin").display());
    let (module, state) = (stage.real.display().to_string(), stage.dir.path().display().to_string());
    let arguments = ["hsm", "keygen", &uri, "--json", "--purpose", "wrapping", "--name", name];
    let output = stage.edgate(&[&arguments[..], &["--module", &module, "--state", &state]].concat());
    assert!(output.status.success(), "{output:?}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = made["uri"].as_str().unwrap();
    let uri = edgate_hsm::Pkcs11Uri::parse(text, edgate_hsm::UriRules::Production).unwrap();
    hex(&uri.id.unwrap())
}

fn line(setting: &str, name: &str) -> String {
    format!("{setting} = \"pkcs11:object=edgate%2Fwrapping%2F{name}\"\n")
}

/// Another set of wrapping keys in the configuration.
fn set(stage: &Stage, current: Option<&str>, previous: Option<&str>) {
    let config = stage.path("edgate.toml");
    let text = fs::read_to_string(&config).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("wrapping_key")).collect();
    let keys = [("wrapping_key", current), ("previous_wrapping_key", previous)];
    let lines: String =
        keys.iter().filter_map(|(setting, name)| name.map(|name| line(setting, name))).collect();
    fs::write(config, kept.join("\n").replacen("[hsm]\n", &format!("[hsm]\n{lines}"), 1)).unwrap();
}

fn rewrap(daemon: &Daemon<'_>) -> Value {
    let control = format!("--control=http://{}", daemon.control);
    let output = daemon.stage.edgate(&["keys", "rewrap", "--json", &control]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn counts(answer: &Value) -> [u64; 3] {
    ["rewrapped", "wrapped", "unchanged"].map(|name| answer[name].as_u64().unwrap())
}

/// How a start that fails ends, and what it says.
fn refused(stage: &Stage) -> (Option<i32>, String) {
    let config = stage.path("edgate.toml").display().to_string();
    let output = stage.edgate(&["serve", "--config", &config]);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn is_plain(path: &Path) -> bool {
    fs::read(path).unwrap().len() == 32
}

#[test]
fn tag_keys_are_rewrapped_while_decisions_are_recorded_and_the_old_key_may_go() {
    let Some(stage) = Stage::new(false) else { return };
    let ids = ["1", "2"].map(|name| wrapping_key(&stage, name));
    stage.configure(&line("wrapping_key", "1"), "");
    let key = stage.path("audit").join("tag.key");
    // The first key is made by `init`, and lies on the disk wrapped.
    let first = fs::read(&key).unwrap();
    assert!(!is_plain(&key) && first.starts_with(b"edgate wrapped tag key 1\n"));
    let daemon = stage.start();
    assert_eq!(daemon.verify(&stage.issuer.token("a")), 200);
    assert_eq!(counts(&rewrap(&daemon)), [0, 0, 1]);
    daemon.terminate();

    set(&stage, Some("2"), Some("1"));
    let daemon = stage.start();
    let (stop, recorded) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(daemon.verify(&stage.issuer.token("a")), 200);
                recorded.fetch_add(1, Ordering::Relaxed);
            }
        });
        let seen = |more: u64| {
            let before = recorded.load(Ordering::Relaxed);
            crate::until("decisions go on", || recorded.load(Ordering::Relaxed) >= before + more);
        };
        seen(5);
        let answer = rewrap(&daemon);
        assert_eq!((counts(&answer), answer["wrapping_key"].as_str()), ([1, 0, 0], Some(&*ids[1])));
        seen(5);
        // Once more changes nothing; a new epoch's key is wrapped under the key of now.
        assert_eq!(counts(&rewrap(&daemon)), [0, 0, 1]);
        assert_eq!(daemon.post("/v1/audit/tag-keys", &json!({})).status, 200);
        seen(5);
        assert_eq!(counts(&rewrap(&daemon)), [0, 0, 2]);
        stop.store(true, Ordering::Relaxed);
    });
    assert_ne!(fs::read(&key).unwrap(), first);
    daemon.terminate();

    // What was done is on record.
    let export = stage.edgate(&["audit", "tail", "--json", "--dir", stage.path("audit").to_str().unwrap()]);
    let text = String::from_utf8_lossy(&export.stdout).into_owned();
    assert!(text.contains(&format!("wrapped under {}", ids[1])), "{export:?}");
    // The previous key may leave the configuration, and the first one's file needs it again.
    set(&stage, Some("2"), None);
    let daemon = stage.start();
    assert_eq!(daemon.verify(&stage.issuer.token("b")), 200);
    let (dir, config) =
        (stage.path("audit").display().to_string(), stage.path("edgate.toml").display().to_string());
    let look_up = ["audit", "tag", "subject", "agent-7", "--json", "--unrecorded", "--dir", &dir];
    let found = stage.edgate(&[&look_up[..], &["--config", &config]].concat());
    assert!(found.status.success() && found.stdout.len() > 1000, "{found:?}");
    let needs = stage.edgate(&look_up);
    let said = String::from_utf8_lossy(&[needs.stdout, needs.stderr].concat()).into_owned();
    assert!(needs.status.code() == Some(2) && said.contains(&ids[1]) && said.contains("--config"), "{said}");
    // Destroying goes on under a wrap.
    let words = json!({"authority": "ticket 7", "reason": "a test"});
    let destroyed = daemon.post("/v1/audit/tag-keys/1/destroy", &words);
    assert_eq!(destroyed.status, 200, "{destroyed:?}");
    daemon.terminate();

    // A file under a key that is named nowhere, and none named at all.
    for current in [Some("1"), None] {
        set(&stage, current, None);
        let (code, said) = refused(&stage);
        assert!(code == Some(78) && said.contains("tag.key.2") && said.contains(&ids[1]), "{code:?} {said}");
    }
}

#[test]
fn plain_tag_keys_are_taken_and_wrapped_on_request() {
    let Some(stage) = Stage::new(false) else { return };
    let id = wrapping_key(&stage, "1");
    stage.configure("", "");
    let key = stage.path("audit").join("tag.key");
    let daemon = stage.start();
    assert_eq!(daemon.post("/v1/keys/rewrap", &json!({})).status, 400);
    daemon.terminate();
    assert!(is_plain(&key));
    set(&stage, Some("1"), None);
    let daemon = stage.start();
    assert!(is_plain(&key));
    let answer = rewrap(&daemon);
    assert_eq!((counts(&answer), answer["wrapping_key"].as_str()), ([0, 1, 0], Some(&*id)));
    assert!(!is_plain(&key));
    daemon.terminate();
    let daemon = stage.start();
    assert_eq!(daemon.verify(&stage.issuer.token("a")), 200);
    daemon.terminate();

    // Nothing is written without the token that opens the keys.
    let tokens = stage.path("tokens");
    let home = fs::read_dir(&tokens).unwrap().next().unwrap().unwrap().path();
    let away = stage.path("away");
    fs::rename(&home, &away).unwrap();
    let before = fs::read_dir(stage.path("audit")).unwrap().count();
    let (code, said) = refused(&stage);
    assert!(code == Some(69), "{code:?} {said}");
    assert_eq!(fs::read_dir(stage.path("audit")).unwrap().count(), before);
    fs::rename(&away, &home).unwrap();
    stage.start().terminate();
}

#[test]
fn wrapping_keys_that_cannot_hold_are_refused_by_their_setting() {
    let Some(stage) = Stage::new(false) else { return };
    let config = stage.configure("", "");
    let check = |from: &str, to: &str, why: &str| {
        let text = fs::read_to_string(&config).unwrap();
        let path = stage.path("wrong.toml");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let output = stage.edgate(&["check-config", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(78) && said.contains(why), "{said}");
    };
    let with = |lines: &str| format!("[hsm]\n{lines}");
    check(
        "[hsm]\n",
        &with(&line("previous_wrapping_key", "1")),
        "there is no hsm.wrapping_key that follows it",
    );
    check("[hsm]\n", &with("wrapping_key = \"pkcs11:token=edgate\"\n"), "hsm.wrapping_key");
    check(
        "[hsm]\n",
        &with("wrapping_key = \"pkcs11:token=other;object=k\"\n"),
        "the key is in another token than hsm.token",
    );
    let pin_source = format!("pin_source = \"file:{}\"", stage.path("pin").display());
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen("[hsm]\n", &with(&line("wrapping_key", "1")), 1)).unwrap();
    check(&pin_source, "pin_source = \"operator:\"", "it does not start before its secrets are opened");
}
