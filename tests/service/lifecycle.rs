//! Starting, refusing to start, stopping.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::support::{Connection, EDGATE, Edgate, Issuer, edgate, write_config};

#[test]
fn a_drain_finishes_what_is_in_flight_and_exits_0() {
    let mut edgate = Edgate::start();
    let mut half_sent = Connection::open(edgate.data);
    let token = edgate.issuer.token("a");
    half_sent.send(b"GET /auth/nginx HTTP/1.1\r\nHost: t\r\n");
    let mut idle = Connection::open(edgate.data);
    idle.send(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(idle.receive().unwrap().status, 200);

    let status = std::thread::scope(|scope| {
        let stopped = scope.spawn(|| edgate.terminate());
        assert!(idle.is_closed(), "an idle connection is closed by the drain");
        half_sent.send(format!("Authorization: Bearer {token}\r\n\r\n").as_bytes());
        assert_eq!(half_sent.receive().unwrap().status, 200, "the request in flight is answered");
        assert!(half_sent.is_closed());
        stopped.join().unwrap()
    });
    assert_eq!(status.code(), Some(0), "{}", edgate.said());
    let verified =
        crate::support::edgate(&["audit", "verify", "--dir", edgate.audit_dir().to_str().unwrap()], b"");
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
    edgate.restart();
    assert!(!edgate.said().contains("recovered"), "a clean stop needs no recovery: {}", edgate.said());
}

#[test]
fn without_dev_a_missing_file_is_an_error_and_is_not_created() {
    for missing in ["signing.key", "state.db", "audit"] {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), &Issuer::new(1), "", "");
        let config = dir.path().join("edgate.toml");
        let config = config.to_str().unwrap();
        assert_eq!(edgate(&["init", config], b"").status.code(), Some(0));
        let path = dir.path().join(missing);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let output = edgate(&["serve", "--config", config], b"");
        assert_ne!(output.status.code(), Some(0), "{missing}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(missing), "{missing}: {said}");
        assert!(!path.exists(), "{missing} was created");
        let checked = edgate(&["check-config", config], b"");
        assert_eq!(
            checked.status.code(),
            output.status.code(),
            "{missing}: check-config runs what serve runs"
        );
        assert_eq!(checked.status.code(), Some(78), "{missing}");
    }
}

#[test]
fn a_readable_signing_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &Issuer::new(1), "", "");
    let config = dir.path().join("edgate.toml");
    let config = config.to_str().unwrap();
    assert_eq!(edgate(&["init", config], b"").status.code(), Some(0));
    fs::set_permissions(dir.path().join("signing.key"), fs::Permissions::from_mode(0o640)).unwrap();
    for command in [vec!["serve", "--config", config], vec!["check-config", config]] {
        let output = edgate(&command, b"");
        assert_eq!(output.status.code(), Some(78));
        assert!(String::from_utf8_lossy(&output.stderr).contains("chmod 600"), "{output:?}");
    }
}

#[test]
fn a_wrong_configuration_exits_78_and_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &Issuer::new(1), "shards = 0", "");
    let config = dir.path().join("edgate.toml");
    for command in [["serve", "--config"], ["check-config", ""]] {
        let arguments: Vec<&str> =
            command.into_iter().filter(|word| !word.is_empty()).chain([config.to_str().unwrap()]).collect();
        let output = edgate(&arguments, b"");
        assert_eq!(output.status.code(), Some(78));
        assert!(String::from_utf8_lossy(&output.stderr).contains("server.shards = 0"), "{output:?}");
    }
}

#[test]
fn a_second_daemon_on_the_same_folder_is_refused() {
    let edgate = Edgate::start();
    let config = edgate.dir.path().join("edgate.toml");
    let output = crate::support::edgate(&["serve", "--config", config.to_str().unwrap()], b"");
    assert_ne!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("audit"), "{output:?}");
}

#[test]
fn dev_prints_lines_that_work_and_reuses_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("dev");
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut child = Command::new(EDGATE)
            .args(["serve", "--dev", "--port", "0", "--control-port", "0", "--data"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let mut script = Vec::new();
        for line in lines.by_ref() {
            let line = line.unwrap();
            let last = line.contains("verify-chain");
            script.push(line);
            if last {
                break;
            }
        }
        assert!(crate::support::have("curl"));
        let pasted: String = script
            .iter()
            .filter(|line| line.starts_with("TOKEN=") || line.starts_with("curl"))
            .map(|line| format!("{line}\n"))
            .collect();
        let output = Command::new("sh").arg("-ec").arg(pasted).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("\"valid\":true"), "{text}");
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
        assert!(text.contains("X-Auth-Subject: agent-1"), "{text}");
        assert!(text.contains("\"valid\":false"), "{text}");
        assert!(text.contains("\"valid\":true,\"records\""), "{text}");
        keys.push(fs::read(data.join("signing.key")).unwrap());
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    assert_eq!(keys[0], keys[1], "the second run reuses the key");
    let mode = fs::metadata(data.join("signing.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Takes the log's live segment away under the daemon, as a careless or hostile hand would.
fn remove_live_segment(edgate: &Edgate) {
    let mut segments: Vec<_> = fs::read_dir(edgate.audit_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    segments.iter().for_each(|path| fs::remove_file(path).unwrap());
}

/// Asks again and again until `done` says so; the requests themselves are what makes the daemon write.
fn until(edgate: &Edgate, what: &str, mut done: impl FnMut(&Edgate) -> bool) {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !done(edgate) {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
    }
}

#[test]
fn a_lost_log_denies_by_name_and_at_once() {
    let edgate = Edgate::start();
    let token = edgate.issuer.token("a");
    assert_eq!(edgate.forward(&token).status, 200);
    remove_live_segment(&edgate);
    until(&edgate, "the denial", |edgate| edgate.forward(&token).status == 503);
    let answer = edgate.verify(&serde_json::json!({"token": token}));
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (503, &serde_json::json!("temporarily_unavailable"))
    );
    let ready = edgate.get("/readyz", "");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("audit: failed"), "{}", ready.body);
    let issue = serde_json::json!({"agent_id": "a", "scope": ["b"]});
    assert_eq!(edgate.post(edgate.control, "/v1/tokens", &issue).status, 503);
}

#[test]
fn a_lost_log_allows_and_counts_where_the_operator_wants_it() {
    let edgate = Edgate::start_with("shards = 1", "on_failure = \"allow_with_gap\"");
    let token = edgate.issuer.token("a");
    remove_live_segment(&edgate);
    until(&edgate, "the failure", |edgate| {
        assert_eq!(edgate.forward(&token).status, 200);
        edgate.metric("audit_failed") == 1.0
    });
    assert_eq!(edgate.forward(&token).status, 200);
    assert_eq!(edgate.forward("junk").status, 401);
}

#[test]
fn a_lost_log_halts_where_the_operator_wants_it() {
    let mut edgate = Edgate::start_with("shards = 1", "on_failure = \"halt\"");
    remove_live_segment(&edgate);
    let token = edgate.issuer.token("a");
    let address = edgate.data;
    let asking = std::thread::spawn(move || {
        // Ask until the daemon is gone.
        while let Some(mut connection) = Connection::try_open(address) {
            let request =
                format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
            connection.send(request.as_bytes());
            let _ = connection.receive();
        }
    });
    let status = edgate.wait();
    asking.join().unwrap();
    assert_eq!(status.code(), Some(70), "{}", edgate.said());
    assert!(edgate.said().contains("halt"), "{}", edgate.said());
}
