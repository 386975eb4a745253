//! The daemon with its keys in a PKCS#11 token: SoftHSM, and SoftHSM behind a module that injects faults.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod agent;
mod groups;
mod members;
#[path = "../support/softhsm.rs"]
mod softhsm;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod wrapping;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use softhsm::make_token;
use support::{AUDIENCE, EDGATE, ISSUER, Issuer, PATIENCE, Response, exchange, have, listening, post, until};

const PIN: &str = "4711-edgate";

/// A folder with a token, its two keys, and a configuration that names them.
struct Stage {
    dir: tempfile::TempDir,
    module: PathBuf,
    real: PathBuf,
    token: String,
    issuer: Issuer,
}

impl Stage {
    /// `None` where SoftHSM is not installed, which is said.
    fn new(faults: bool) -> Option<Self> {
        if !have("softhsm2-util") {
            return None;
        }
        let real = edgate_hsm::installed_softhsm().unwrap();
        let module = match faults {
            true => std::env::current_exe().unwrap().with_file_name(edgate_hsm_shim::FILE_NAME),
            false => real.clone(),
        };
        let dir = tempfile::tempdir().unwrap();
        let token = make_token(dir.path(), PIN);
        let stage = Self { dir, module, real, token, issuer: Issuer::new(1) };
        stage.write_pin(PIN);
        Some(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_pin(&self, pin: &str) {
        fs::write(self.path("pin"), pin).unwrap();
        fs::set_permissions(self.path("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("SHIM_MODULE", &self.real)
            .env("SHIM_FAULTS", self.path("faults"))
            .env("SHIM_CALLS", self.path("calls"));
        command
    }

    /// `edgate hsm keygen`; returns the public key in hexadecimal.
    fn keygen(&self, purpose: &str) -> String {
        let uri = format!("{}?pin-source=file:{}", self.token, self.path("pin").display());
        let output = self
            .command(EDGATE)
            .args(["hsm", "keygen", &uri, "--json", "--purpose", purpose, "--name", "1", "--module"])
            .arg(&self.real)
            .arg("--state")
            .arg(self.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        made["public_key"].as_str().unwrap().to_owned()
    }

    /// Both keys, and a configuration; `hsm` and `audit` are further lines of these tables.
    fn configure(&self, hsm: &str, audit: &str) -> PathBuf {
        let signing = self.keygen("token-signing");
        let checkpoint = self.keygen("audit-checkpoint");
        self.write_config(&signing, &checkpoint, hsm, audit);
        let config = self.path("edgate.toml");
        let output = self.edgate(&["init", config.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        config
    }

    fn write_config(&self, signing: &str, checkpoint: &str, hsm: &str, audit: &str) {
        let path = |name: &str| self.path(name).display().to_string();
        let pin_source = match hsm.contains("pin_source") {
            true => String::new(),
            false => format!("pin_source = \"file:{}\"\n", path("pin")),
        };
        let config = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nshards = 1\n[control]\nlisten = \"127.0.0.1:0\"\n\
             [state]\ndatabase = {database:?}\n\
             [hsm]\nmodule = {module:?}\ntoken = {token:?}\n{pin_source}probe_interval_ms = 200\n{hsm}\n\
             [audit]\ndir = {audit_dir:?}\norigin = \"test.example/log\"\nsegment_mib = 1\n\
             checkpoint_key = \"pkcs11:object=edgate%2Faudit-checkpoint%2F1\"\ncheckpoint_public_key = {checkpoint:?}\n{audit}\n\
             [signing]\nkey = \"pkcs11:object=edgate%2Ftoken-signing%2F1\"\npublic_key = {signing:?}\nissuer = \"own\"\n\
             default_audience = \"{AUDIENCE}\"\n\
             [[issuers]]\nname = \"own\"\nissuer = \"https://own.test\"\naudiences = [\"{AUDIENCE}\"]\nkeys = \"signing_key\"\n\
             [[issuers]]\nname = \"test\"\ntenant = \"acme\"\nissuer = \"{ISSUER}\"\naudiences = [\"{AUDIENCE}\"]\n\
             jwks = '{jwks}'\n",
            database = path("state.db"),
            module = self.module.display().to_string(),
            token = self.token,
            audit_dir = path("audit"),
            jwks = self.issuer.jwks(),
        );
        fs::write(self.path("edgate.toml"), config).unwrap();
    }

    /// Runs a command that must end by itself; one that does not is killed, and its exit status says so.
    fn edgate(&self, arguments: &[&str]) -> Output {
        let seconds = PATIENCE.as_secs().to_string();
        self.command("timeout").args(["-s", "KILL", &seconds, EDGATE]).args(arguments).output().unwrap()
    }

    /// `edgate hsm unlock`, as an operator who types the PIN.
    fn unlock(&self, of: &[&str], pin: &str) -> Output {
        let mut child = self
            .command(EDGATE)
            .args(["hsm", "unlock"])
            .args(of)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{pin}").unwrap();
        child.wait_with_output().unwrap()
    }

    /// Puts faults in the way, or with "" out of it.
    fn faults(&self, text: &str) {
        let draft = self.path("faults.new");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.path("faults")).unwrap();
    }

    fn calls(&self, function: &str) -> usize {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().filter(|line| *line == function).count()
    }

    fn start(&self) -> Daemon<'_> {
        let (mut child, listening) = support::serve(self.command(EDGATE), self.dir.path());
        let Some((data, control)) = listening else {
            let _ = child.wait();
            panic!("the daemon did not start: {}", self.said());
        };
        Daemon { stage: self, child, data, control }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }
}

struct Daemon<'a> {
    stage: &'a Stage,
    child: Child,
    data: std::net::SocketAddr,
    control: std::net::SocketAddr,
}

impl Daemon<'_> {
    fn post(&self, path: &str, body: &Value) -> Response {
        post(self.control, path, body)
    }

    fn get(&self, address: std::net::SocketAddr, path: &str, headers: &str) -> Response {
        exchange(address, format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n").as_bytes())
    }

    fn issue(&self) -> Response {
        self.post("/v1/tokens", &json!({"agent_id": "agent-1", "scope": ["orders.read"]}))
    }

    fn verify(&self, token: &str) -> u16 {
        self.get(self.data, "/auth/nginx", &format!("Authorization: Bearer {token}\r\n")).status
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.get(self.control, "/metrics", "").body;
        let line = text.lines().find(|line| line.starts_with(&format!("edgate_{name} ")));
        line.and_then(|line| line.rsplit(' ').next()).map_or(-1.0, |value| value.parse().unwrap())
    }

    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.stage.said());
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon said:\n{}", self.stage.said());
        }
    }
}

fn verify_log(dir: &Path) -> Value {
    let output = Command::new(EDGATE).args(["audit", "verify", "--json", "--dir"]).arg(dir).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    report
}

#[test]
fn tokens_and_checkpoints_are_signed_in_the_token() {
    let Some(stage) = Stage::new(false) else { return };
    stage.configure("", "");
    let daemon = stage.start();
    let one = daemon.issue();
    assert_eq!(one.status, 201, "{one:?}");
    assert_eq!(daemon.verify(one.json()["token"].as_str().unwrap()), 200);

    // Many at once, each good; and none if one is wrong.
    let request = |ttl: u64| json!({"agent_id": "agent-1", "scope": ["orders.read"], "ttl": ttl});
    let many = daemon.post("/v1/tokens", &json!({"tokens": vec![request(60); 20]}));
    assert_eq!(many.status, 201, "{many:?}");
    let many = many.json();
    let tokens = many["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 20);
    for token in tokens {
        assert_eq!(daemon.verify(token["token"].as_str().unwrap()), 200);
    }
    let issued = daemon.metric("tokens_issued_total");
    let wrong = daemon.post("/v1/tokens", &json!({"tokens": [request(60), request(0)]}));
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("tokens[1]") && wrong.body.contains("no token was issued"), "{}", wrong.body);
    for body in [json!({"tokens": []}), json!({"tokens": vec![request(60); 65]}), json!({"tokens": [1]})] {
        assert_eq!(daemon.post("/v1/tokens", &body).status, 400, "{body}");
    }
    assert!(
        (daemon.metric("tokens_issued_total") - issued).abs() < 0.5,
        "nothing of a refused call is issued"
    );

    assert!(daemon.metric("hsm_signed_total") >= 21.0);
    assert!((daemon.metric("hsm_ready") - 1.0).abs() < 0.5);
    let metrics = daemon.get(daemon.control, "/metrics", "").body;
    assert!(metrics.contains("edgate_hsm_call_seconds_bucket{le=\"+Inf\"}") && metrics.ends_with("# EOF\n"));
    assert!(daemon.get(daemon.control, "/readyz", "").body.contains("\"hsm\""));
    daemon.terminate();
    let report = verify_log(&stage.path("audit"));
    assert!(report["checkpoints"].as_u64() > Some(0) && report["signed_size"] == report["size"], "{report}");
}

#[test]
fn the_next_signing_key_is_made_in_the_token_and_the_last_one_destroyed_there() {
    let Some(stage) = Stage::new(false) else { return };
    let config = stage.configure("", "");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen("issuer = \"own\"\n", "issuer = \"own\"\njwks_max_age_s = 1\n", 1))
        .unwrap();
    let daemon = stage.start();
    let kid = |answer: &Response| answer.json()["kid"].as_str().unwrap().to_owned();
    let first = daemon.issue();
    let (a, old) = (kid(&first), first.json()["token"].as_str().unwrap().to_owned());
    let made = daemon.post("/v1/keys/rotate", &json!({}));
    assert_eq!(made.status, 200, "{made:?}");
    let key = made.json()["key"].clone();
    let b = key["kid"].as_str().unwrap().to_owned();
    let place = key["place"].as_str().unwrap();
    assert!(place.starts_with("pkcs11:") && place.contains("edgate%2Ftoken-signing%2F20"), "{place}");
    until("the rotation", || kid(&daemon.issue()) == b);
    let new = daemon.issue().json()["token"].as_str().unwrap().to_owned();
    assert_eq!((daemon.verify(&old), daemon.verify(&new)), (200, 200));

    let words = json!({"authority": "ticket 7", "reason": "a test"});
    let early = daemon.post(&format!("/v1/keys/{a}/destroy"), &words);
    assert!(early.status == 409 && early.body.contains("wrong_state"), "{early:?}");
    let killed =
        daemon.post("/v1/keys/kill", &json!({"kid": a, "authority": "ticket 7", "reason": "a test"}));
    assert_eq!(killed.status, 200, "{killed:?}");
    assert_eq!((daemon.verify(&old), daemon.verify(&new)), (401, 200));
    let destroyed = daemon.post(&format!("/v1/keys/{a}/destroy"), &words);
    assert_eq!(destroyed.status, 200, "{destroyed:?}");
    daemon.terminate();

    // The configuration still names the first key; what is in the state database is opened.
    let daemon = stage.start();
    assert_eq!(kid(&daemon.issue()), b);
    assert_eq!((daemon.verify(&old), daemon.verify(&new)), (401, 200));
    daemon.terminate();
    let uri = format!("{}?pin-source=file:{}", stage.token, stage.path("pin").display());
    let module = stage.real.display().to_string();
    let state = stage.dir.path().display().to_string();
    let listed = stage.edgate(&["hsm", "list", &uri, "--json", "--module", &module, "--state", &state]);
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(!text.contains("token-signing%2F1") && text.contains("token-signing%2F20"), "{listed:?}");
}

#[test]
fn a_token_that_is_away_stops_issuing_alone_and_heals() {
    let Some(stage) = Stage::new(false) else { return };
    stage.configure("", "");
    let token = stage.issuer.token("a");
    let daemon = stage.start();
    assert_eq!(daemon.issue().status, 201);
    let (tokens, away) = (stage.path("tokens"), stage.path("away"));
    fs::rename(&tokens, &away).unwrap();
    until("the refusal", || daemon.issue().status == 503);
    let refused = daemon.issue();
    assert_eq!(refused.json()["error"], "signing_unavailable", "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(daemon.verify(&token), 200, "verification does not depend on the token");
    until("the name of the dependency", || daemon.get(daemon.control, "/readyz", "").status == 503);
    let ready = daemon.get(daemon.data, "/readyz", "");
    assert_eq!(ready.status, 200, "{}", ready.body);
    assert!(ready.body.contains("hsm: failed"), "{}", ready.body);
    fs::rename(&away, &tokens).unwrap();
    // Re-initialisation waits half a minute between tries.
    let deadline = Instant::now() + Duration::from_secs(90);
    while daemon.issue().status != 201 {
        assert!(Instant::now() < deadline, "it does not heal");
    }
    daemon.terminate();

    // A start without the token: its keys are pinned, so decisions are made and issuing waits.
    fs::rename(&tokens, &away).unwrap();
    fs::create_dir(&tokens).unwrap();
    let daemon = stage.start();
    assert_eq!(daemon.verify(&token), 200);
    assert_eq!(daemon.issue().status, 503);
}

#[test]
fn a_delegated_key_issues_while_the_token_is_away_and_no_longer_than_its_delegation() {
    let Some(stage) = Stage::new(true) else { return };
    let config = stage.configure("sign_timeout_ms = 500", "");
    let text = fs::read_to_string(&config).unwrap();
    let delegated = "issuer = \"own\"\njwks_max_age_s = 1\ndefault_ttl_s = 3\ndelegation_s = 20\n";
    fs::write(&config, text.replacen("issuer = \"own\"\n", delegated, 1)).unwrap();
    stage.faults("");
    let daemon = stage.start();
    let kid = |answer: &Response| answer.json()["kid"].as_str().unwrap().to_owned();
    let first = daemon.issue();
    assert_eq!(first.status, 201, "signed in the token: {first:?}");
    let in_token = kid(&first);
    until("the delegated key", || kid(&daemon.issue()) != in_token);
    let delegated = kid(&daemon.issue());

    stage.faults("C_Sign rv=0x30\nC_SignInit rv=0x30\n");
    let ends = daemon.get(daemon.control, "/v1/keys", "").json()["delegated"][0]["ends_ms"].as_u64().unwrap();
    let longer = json!({"agent_id": "agent-1", "scope": ["orders.read"], "ttl": 600});
    until("the token to be gone", || daemon.post("/v1/tokens", &longer).status == 503);
    let mut issued = 0;
    until("the end of the delegation", || {
        let answer = daemon.issue();
        if answer.status == 503 {
            return true;
        }
        assert_eq!((answer.status, kid(&answer)), (201, delegated.clone()), "{answer:?}");
        assert_eq!(daemon.verify(answer.json()["token"].as_str().unwrap()), 200);
        issued += 1;
        false
    });
    assert!(issued > 10, "{issued}");
    assert!(support::now() * 1000 + 5_000 > ends, "it issued until then");
    stage.faults("");
    until("another delegated key", || {
        let answer = daemon.issue();
        answer.status == 201 && ![&in_token, &delegated].contains(&&kid(&answer))
    });
    daemon.terminate();
}

#[test]
fn calls_that_hang_cost_no_verification_and_no_deadline() {
    let Some(stage) = Stage::new(true) else { return };
    stage.configure("hang_limit_ms = 500\nsign_timeout_ms = 700", "");
    stage.faults("");
    let token = stage.issuer.token("a");
    let daemon = stage.start();
    until("issuing", || daemon.issue().status == 201);
    stage.faults("C_Sign hang\nC_SignInit hang\n");
    for _ in 0..3 {
        let answer = daemon.issue();
        assert_eq!(answer.status, 503, "{answer:?}");
        for _ in 0..50 {
            assert_eq!(daemon.verify(&token), 200);
        }
    }
    assert!(daemon.metric("hsm_deadline_passed_total") + daemon.metric("hsm_workers_lost_total") >= 1.0);
    stage.faults("");
    until("issuing", || daemon.issue().status == 201);
}

#[test]
fn a_corrupted_signature_is_never_handed_out() {
    let Some(stage) = Stage::new(true) else { return };
    stage.configure("", "");
    stage.faults("");
    let daemon = stage.start();
    stage.faults("C_Sign corrupt n=3\n");
    let mut good = 0;
    until("good signatures", || {
        let answer = daemon.issue();
        if answer.status == 201 {
            assert_eq!(daemon.verify(answer.json()["token"].as_str().unwrap()), 200);
            good += 1;
        }
        good >= 3
    });
    assert!(daemon.metric("hsm_signature_faults_total") >= 1.0);
}

#[test]
fn checkpoints_wait_for_the_token_and_shut_the_log_when_they_wait_too_long() {
    let Some(stage) = Stage::new(true) else { return };
    stage.configure("", "unsigned_age_max_s = 1");
    stage.faults("");
    let token = stage.issuer.token("a");
    let daemon = stage.start();
    assert_eq!(daemon.verify(&token), 200);
    stage.faults("C_SignInit rv=0x30\nC_Sign rv=0x30\n");
    until("the denial", || daemon.verify(&token) == 503);
    assert!(daemon.get(daemon.data, "/readyz", "").body.contains("audit: failed, unsigned"));
    stage.faults("");
    let deadline = Instant::now() + Duration::from_secs(90);
    while daemon.verify(&token) != 200 {
        assert!(Instant::now() < deadline, "it does not heal");
    }
    daemon.terminate();
    verify_log(&stage.path("audit"));
}

#[test]
fn a_wrong_pin_ends_the_start_for_an_operator_and_costs_one_try_over_many() {
    let Some(stage) = Stage::new(true) else { return };
    let config = stage.configure("", "");
    let config = config.to_str().unwrap();
    stage.write_pin("wrong-pin");
    fs::write(stage.path("calls"), "").unwrap();
    for _ in 0..10 {
        let output = stage.edgate(&["serve", "--config", config]);
        assert_eq!(output.status.code(), Some(77), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("PIN") && !said.contains("wrong-pin"), "{said}");
    }
    assert_eq!(stage.calls("C_Login"), 1, "a refused PIN is tried once");
    // The right PIN is another PIN: it is tried.
    stage.write_pin(PIN);
    assert_eq!(stage.start().issue().status, 201);
}

#[test]
fn an_operator_unlocks_the_token_of_a_running_node() {
    let Some(stage) = Stage::new(true) else { return };
    let (signing, checkpoint) = (stage.keygen("token-signing"), stage.keygen("audit-checkpoint"));
    stage.write_config(&signing, &checkpoint, "", "");
    assert!(stage.edgate(&["init", stage.path("edgate.toml").to_str().unwrap()]).status.success());
    stage.write_config(&signing, &checkpoint, "pin_source = \"operator:\"", "");
    let daemon = stage.start();
    assert_eq!(daemon.verify(&stage.issuer.token("a")), 200);
    assert_eq!(daemon.issue().status, 503);
    assert!((daemon.metric("hsm_needs_operator") - 1.0).abs() < 0.5);

    let control = format!("http://{}", daemon.control);
    let unlock = |pin: &str| stage.unlock(&["--control", &control], pin);
    let refused = unlock("not-the-pin");
    assert_ne!(refused.status.code(), Some(0), "{refused:?}");
    assert!(!format!("{refused:?}").contains("not-the-pin"));
    let accepted = unlock(PIN);
    assert_eq!(accepted.status.code(), Some(0), "{accepted:?}");
    until("issuing", || daemon.issue().status == 201);
    let said = stage.said();
    assert!(!said.contains(PIN) && !said.contains("not-the-pin"), "{said}");
    let log = Command::new(EDGATE)
        .args(["audit", "tail", "--json", "-n", "100", "--kind", "admin", "--dir"])
        .arg(stage.path("audit"))
        .output()
        .unwrap();
    let log = String::from_utf8(log.stdout).unwrap();
    assert_eq!(log.matches("hsm_unlock").count(), 4, "{log}");
    assert!(!log.contains(PIN) && !log.contains("not-the-pin"), "{log}");
    assert_eq!(daemon.post("/v1/hsm/unlock", &json!({"pin": ""})).status, 400);
}

#[test]
fn a_configuration_that_cannot_hold_is_refused_by_its_key() {
    let Some(stage) = Stage::new(false) else { return };
    let (signing, checkpoint) = (stage.keygen("token-signing"), stage.keygen("audit-checkpoint"));
    let check = |signing: &str, checkpoint: &str, hsm: &str, change: &dyn Fn(String) -> String| {
        stage.write_config(signing, checkpoint, hsm, "");
        let config = stage.path("edgate.toml");
        let text = change(fs::read_to_string(&config).unwrap());
        fs::write(&config, text).unwrap();
        let output = stage.edgate(&["check-config", config.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let same = |text: String| text;
    for (hsm, named) in [
        ("module_sha256 = \"00\"", "hsm.module_sha256"),
        (&*format!("module_sha256 = \"{}\"", "0".repeat(64)), "not hsm.module_sha256"),
        ("pin_source = \"4711\\n\"", "hsm.pin_source"),
        ("workers = 0", "hsm.workers"),
        ("pin = \"4711\"", "unknown field `pin`"),
        ("agent = \"/run/agent.sock\"", "either by its library in this process or through an agent"),
        ("agent_uid = 7", "either by its library in this process or through an agent"),
    ] {
        let (code, said) = check(&signing, &checkpoint, hsm, &same);
        assert_eq!(code, Some(78), "{hsm}: {said}");
        assert!(said.contains(named) && !said.contains("4711\\n"), "{hsm}: {said}");
    }
    let without_pin = |text: String| text.replace(&format!("public_key = {signing:?}\nissuer"), "issuer");
    let (code, said) = check(&signing, &checkpoint, "", &without_pin);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("signing.key") && said.contains("not pinned"), "{said}");
    let another_token =
        |text: String| text.replace("pkcs11:object=edgate%2Ftoken", "pkcs11:token=x;object=edgate%2Ftoken");
    let (code, said) = check(&signing, &checkpoint, "", &another_token);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("another token"), "{said}");

    // The keys' public halves changed places: the token says so, and so does the start.
    stage.write_config(&signing, &checkpoint, "", "");
    let config = stage.path("edgate.toml");
    assert!(stage.edgate(&["init", config.to_str().unwrap()]).status.success());
    stage.write_config(&checkpoint, &signing, "", "");
    let output = stage.edgate(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("another public key than the one pinned"),
        "{output:?}"
    );
    // A key made for one purpose is not taken for the other.
    stage.write_config(&checkpoint, &checkpoint, "", "");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("edgate%2Ftoken-signing%2F1", "edgate%2Faudit-checkpoint%2F1");
    fs::write(&config, text).unwrap();
    let output = stage.edgate(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("may not be used for token-signing"),
        "{output:?}"
    );
}

#[test]
fn dev_shows_the_whole_thing_on_softhsm_with_one_command() {
    if !have("softhsm2-util") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("dev");
    let mut public = Vec::new();
    for _ in 0..2 {
        let mut child = Command::new(EDGATE)
            .args(["serve", "--dev", "--softhsm", "--json", "--port", "0", "--control-port", "0", "--data"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let Some((at, control)) = listening(&mut child) else {
            panic!("{:?}", child.wait_with_output().unwrap());
        };
        let issued = post(control, "/v1/tokens", &json!({"agent_id": "agent-1", "scope": ["orders.read"]}));
        assert_eq!(issued.status, 201, "{issued:?}");
        let issued = issued.json();
        let token = issued["token"].as_str().unwrap();
        let request = format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
        assert_eq!(exchange(at, request.as_bytes()).status, 200);
        public.push(exchange(at, b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: t\r\n\r\n").body);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    assert_eq!(public[0], public[1], "the second run uses the keys of the first");
    verify_log(&data.join("audit"));
    assert!(!data.join("signing.key").exists() && !data.join("checkpoint.key").exists());
}
