//! RFC 3161: a timestamp authority of our own (`openssl ts`), what it stamps, and what is wrong with it. Case 30 of the audit
//! fault matrix.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use edgate::audit::timestamp::{Authorities, StampExpected, verify_stamp};

#[path = "support/logs.rs"]
mod logs;
#[path = "support/mod.rs"]
mod support;

use logs::{grow, json};
use support::{Edgate, until};

const FAKETIME: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn edgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgate")).arg("audit").args(arguments).output().unwrap()
}

/// An authority in a folder: a root, and certificates for timestamps and for other things.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    /// `None`, said aloud, where there is no openssl.
    fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            assert!(std::env::var_os("EDGATE_NO_SKIP").is_none(), "openssl is not installed");
            eprintln!("SKIPPED: openssl is not installed");
            return None;
        }
        let authority = Self { folder: tempfile::tempdir().unwrap() };
        for (name, content) in [("index.txt", ""), ("crlnumber", "01\n"), ("tsaserial", "01\n")] {
            fs::write(authority.path(name), content).unwrap();
        }
        fs::create_dir(authority.path("certs")).unwrap();
        authority.configure("tsa", "sha256", "sha256");
        authority.openssl(&[
            "req",
            "-config",
            "tsa.cnf",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "root.key",
            "-out",
            "root.pem",
            "-subj",
            "/CN=Root",
            "-days",
            "36500",
            "-extensions",
            "root",
        ]);
        authority.certify("tsa", "usage", "20200101000000Z", "20300101000000Z");
        Some(authority)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes NAME.cnf, by which the authority stamps with NAME's key.
    fn configure(&self, name: &str, digest: &str, ess: &str) {
        let content = format!(
            "[req]\ndistinguished_name=dn\n[dn]\n[root]\nbasicConstraints=critical,CA:TRUE\n\
             keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n\
             [usage]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage=critical,timeStamping\nauthorityKeyIdentifier=keyid\n\
             [lax]\nextendedKeyUsage=timeStamping\n[more]\nextendedKeyUsage=critical,timeStamping,codeSigning\n\
             [none]\nkeyUsage=critical,digitalSignature\n\
             [middle]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
             subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n\
             [ca]\ndefault_ca=default\n[default]\ndatabase=index.txt\nnew_certs_dir=certs\nrand_serial=yes\n\
             default_md=sha256\npolicy=any\ncertificate=root.pem\nprivate_key=root.key\ncrlnumber=crlnumber\n\
             default_crl_days=3650\nunique_subject=no\ndefault_days=365\n[any]\ncommonName=supplied\n\
             [tsa]\ndefault_tsa=one\n[one]\nserial=tsaserial\ncrypto_device=builtin\nsigner_cert={name}.pem\n\
             signer_key={name}.key\nsigner_digest={digest}\ndefault_policy=1.2.3.4.1\nother_policies=1.2.3.4.5\n\
             digests=sha256\naccuracy=secs:1\nordering=yes\ntsa_name=yes\ness_cert_id_chain=no\ness_cert_id_alg={ess}\n"
        );
        fs::write(self.path(&format!("{name}.cnf")), content).unwrap();
    }

    /// Makes a key and a certificate for it.
    fn certify(&self, name: &str, extensions: &str, from: &str, to: &str) {
        self.request(name);
        self.sign(name, extensions, &["-startdate", from, "-enddate", to]);
    }

    /// Makes a key, and asks for a certificate.
    fn request(&self, name: &str) {
        self.configure(name, "sha256", "sha256");
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&[
            "req",
            "-config",
            "tsa.cnf",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            &format!("/CN={name}"),
        ]);
    }

    /// Signs a request with the root's key, unless `more` names another.
    fn sign(&self, name: &str, extensions: &str, more: &[&str]) {
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.pem"));
        let arguments = ["ca", "-batch", "-notext", "-config", "tsa.cnf", "-extensions", extensions];
        self.openssl(&[&arguments[..], &["-in", &request, "-out", &certificate], more].concat());
    }

    /// As [`Self::certify`], but by another than the root; tokens made with it hold that one's certificate too.
    fn certify_below(&self, authority: &str, name: &str, extensions: &str) {
        self.request(name);
        let [above, key] = [format!("{authority}.pem"), format!("{authority}.key")];
        self.sign(name, extensions, &["-cert", &above, "-keyfile", &key]);
        let configuration = self.path(&format!("{name}.cnf"));
        let content = fs::read_to_string(&configuration).unwrap() + &format!("certs={above}\n");
        fs::write(configuration, content).unwrap();
    }

    fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        self.openssl_at(arguments, None)
    }

    /// With its clock so far off.
    fn openssl_at(&self, arguments: &[&str], offset: Option<&str>) -> Vec<u8> {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(self.folder.path());
        if let (Some(offset), Some(library)) = (offset, FAKETIME.iter().find(|path| Path::new(path).exists()))
        {
            command.env("LD_PRELOAD", library).env("FAKETIME", offset);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.stdout
    }

    /// A token of NAME about these bytes, without asking over HTTP; with the signer's certificate in it or without.
    fn token(&self, name: &str, about: &[u8], certificate: bool) -> Vec<u8> {
        fs::write(self.path("about"), about).unwrap();
        let mut query = vec!["ts", "-query", "-data", "about", "-sha256", "-out", "query"];
        query.extend(certificate.then_some("-cert"));
        self.openssl(&query);
        let configuration = format!("{name}.cnf");
        self.openssl(&[
            "ts",
            "-reply",
            "-config",
            &configuration,
            "-queryfile",
            "query",
            "-token_out",
            "-out",
            "token",
        ]);
        fs::read(self.path("token")).unwrap()
    }

    /// The content of a token, signed anew with NAME's key, as an authority would that does not look at its certificate.
    fn signed_anew(&self, name: &str, token: &[u8]) -> Vec<u8> {
        fs::write(self.path("token"), token).unwrap();
        self.openssl(&[
            "cms",
            "-verify",
            "-noverify",
            "-inform",
            "DER",
            "-in",
            "token",
            "-out",
            "content",
            "-binary",
        ]);
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        self.openssl(&[
            "cms",
            "-sign",
            "-binary",
            "-nodetach",
            "-nosmimecap",
            "-cades",
            "-md",
            "sha256",
            "-econtent_type",
            "1.2.840.113549.1.9.16.1.4",
            "-in",
            "content",
            "-signer",
            &certificate,
            "-inkey",
            &key,
            "-outform",
            "DER",
            "-out",
            "anew",
        ]);
        fs::read(self.path("anew")).unwrap()
    }

    fn trusted(&self) -> Authorities {
        Authorities::read(&fs::read(self.path("root.pem")).unwrap()).unwrap()
    }

    /// The class that refuses a token; `whole` where it is believed.
    fn judge(&self, token: &[u8], about: &[u8]) -> &'static str {
        let expected = StampExpected {
            authorities: &self.trusted(),
            policy: None,
            nonce: None,
            after: None,
            before: None,
        };
        verify_stamp(token, about, &expected).map_or_else(|fault| fault.class.name(), |_| "whole")
    }
}

/// The authority behind HTTP, until it is dropped.
struct Server {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers each question with what `answer` makes of it.
    fn start(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(question) = read_request(stream.as_ref().unwrap()) else { return };
                let answer = answer(&question);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/timestamp-reply\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    answer.len()
                );
                let _ = stream.unwrap().write_all(&[head.as_bytes(), &answer].concat());
            }
        });
        Self { address, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}/tsr", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A connection without a request ends it.
        drop(TcpStream::connect(self.address));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The body of a request.
fn read_request(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let lines = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let length =
            lines.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
        if bytes.len() >= head + 4 + length {
            return Some(bytes.split_off(head + 4));
        }
    }
}

/// An authority that answers by the book, with its clock so far off.
fn honest(authority: &Arc<Authority>, offset: Option<&'static str>) -> Server {
    let authority = Arc::clone(authority);
    Server::start(move |question| {
        fs::write(authority.path("asked"), question).unwrap();
        authority.openssl_at(
            &["ts", "-reply", "-config", "tsa.cnf", "-queryfile", "asked", "-out", "answer"],
            offset,
        );
        fs::read(authority.path("answer")).unwrap()
    })
}

#[test]
fn a_checkpoint_is_stamped_and_the_token_verifies_ten_years_later() {
    let Some(authority) = Authority::new().map(Arc::new) else { return };
    let log = authority.path("log");
    grow(&log, 20);
    let checkpoint = log.join("checkpoint");
    let server = honest(&authority, None);
    let root = authority.path("root.pem");
    let ask = |more: &[&str]| {
        let url = server.url();
        let asked = [
            "timestamp",
            "--json",
            "--checkpoint",
            text(&checkpoint),
            "--url",
            &url,
            "--tsa-ca",
            text(&root),
        ];
        edgate(&[&asked, more].concat())
    };
    let asked = ask(&[]);
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    let size = json(&asked)["size"].as_u64().unwrap();
    let token = log.join(format!("timestamps/{size}.tsr"));
    let stamped = log.join(format!("timestamps/{size}.checkpoint"));
    assert_eq!(fs::read(&stamped).unwrap(), fs::read(&checkpoint).unwrap());
    let verify = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgate"));
        command.args(["audit", "verify-timestamp", "--json", text(&token), "--checkpoint", text(&stamped)]);
        command.args(["--tsa-ca", text(&root)]).args(more);
        command
    };
    let now = verify(&[]).output().unwrap();
    assert_eq!((now.status.code(), &json(&now)["policy"]), (Some(0), &"1.2.3.4.1".into()), "{now:?}");
    let mut later = verify(&[]);
    if let Some(library) = FAKETIME.iter().find(|path| Path::new(path).exists()) {
        later.env("LD_PRELOAD", library).env("FAKETIME", "+3653d");
    }
    let later = later.output().unwrap();
    assert_eq!((later.status.code(), json(&later)), (Some(0), json(&now)), "{later:?}");
    for (more, code, class) in [
        (["--tsa-policy", "1.2.3.4.5"], 50, "stamp-wrong-policy"),
        (["--after", "2100-01-01T00:00:00Z"], 45, "stamp-skewed"),
        (["--before", "2020-01-01T00:00:00Z"], 45, "stamp-skewed"),
    ] {
        let refused = verify(&more).output().unwrap();
        assert_eq!(
            (refused.status.code(), &json(&refused)["class"]),
            (Some(code), &class.into()),
            "{refused:?}"
        );
    }
    // Asked for with a policy it has, and with one that it has not.
    assert_eq!(ask(&["--tsa-policy", "1.2.3.4.5"]).status.code(), Some(0));
    let other = ask(&["--tsa-policy", "1.2.3.4.9"]);
    assert_eq!(
        (other.status.code(), &json(&other)["class"]),
        (Some(43), &"stamp-refused".into()),
        "{other:?}"
    );
}

#[test]
fn a_bundle_carries_the_timestamps_of_its_records() {
    let Some(authority) = Authority::new().map(Arc::new) else { return };
    let log = authority.path("log");
    let server = honest(&authority, None);
    let (checkpoint, root) = (log.join("checkpoint"), authority.path("root.pem"));
    for _ in 0..3 {
        grow(&log, 20);
        let asked = edgate(&[
            "timestamp",
            "--checkpoint",
            text(&checkpoint),
            "--url",
            &server.url(),
            "--tsa-ca",
            text(&root),
        ]);
        assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    }
    grow(&log, 20);
    let key = log.join("checkpoint.key");
    let make = |name: &str, more: &[&str]| {
        let out = authority.path(name);
        let made =
            edgate(&[&["bundle", "--unrecorded", "--dir", text(&log), "--out", text(&out)], more].concat());
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        out
    };
    let check = |bundle: &Path, more: &[&str]| {
        let said = edgate(&[&["verify-bundle", "--json", text(bundle), "--key", text(&key)], more].concat());
        (said.status.code(), json(&said))
    };
    let bundle = make("whole", &[]);
    let trusted = ["--tsa-ca", text(&root)];
    let (code, said) = check(&bundle, &trusted);
    assert_eq!((code, said["timestamps"].as_array().unwrap().len()), (Some(0), 3), "{said}");
    let (code, said) = check(&bundle, &[]);
    assert!(code == Some(0) && said["not_checked"].to_string().contains("--tsa-ca"), "{said}");
    let (code, said) = check(&bundle, &[&trusted[..], &["--tsa-policy", "1.2.3.9"]].concat());
    assert_eq!((code, &said["class"]), (Some(50), &"stamp-wrong-policy".into()), "{said}");
    // Of the second segment alone: the one that ends in it, and none before.
    let (code, said) = check(&make("part", &["--range", "30..31"]), &trusted);
    assert_eq!((code, said["timestamps"].as_array().unwrap().len()), (Some(0), 1), "{said}");
    let other = Authority::new().unwrap();
    let (code, said) = check(&bundle, &["--tsa-ca", text(&other.path("root.pem"))]);
    assert_eq!((code, &said["class"]), (Some(46), &"stamp-unknown-authority".into()), "{said}");
    fs::rename(log.join("timestamps"), log.join("kept")).unwrap();
    let (code, said) = check(&make("without", &[]), &trusted);
    assert_eq!((code, &said["class"]), (Some(35), &"unstamped".into()), "{said}");
    // A token about other bytes is found where the bundle is made into one.
    fs::rename(log.join("kept"), log.join("timestamps")).unwrap();
    let mut tokens: Vec<_> =
        fs::read_dir(log.join("timestamps")).unwrap().map(|entry| entry.unwrap().path()).collect();
    tokens.retain(|path| path.extension().unwrap() == "tsr");
    fs::copy(&tokens[0], &tokens[1]).unwrap();
    let (code, said) = check(&make("swapped", &[]), &trusted);
    assert_eq!((code, &said["class"]), (Some(48), &"stamp-wrong-imprint".into()), "{said}");
}

/// The records of one kind, as a log's folder shows them.
fn records(log: &Path, kind: &str) -> Vec<serde_json::Value> {
    let shown = edgate(&["tail", "--json", "-n", "1000", "--kind", kind, "--dir", text(log)]);
    let lines = String::from_utf8(shown.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_node_has_its_checkpoints_stamped_and_says_so_when_it_cannot() {
    let Some(authority) = Authority::new().map(Arc::new) else { return };
    let (works, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let server = {
        let (authority, works, asked) = (Arc::clone(&authority), Arc::clone(&works), Arc::clone(&asked));
        Server::start(move |question| {
            asked.fetch_add(1, Ordering::SeqCst);
            if !works.load(Ordering::SeqCst) {
                return b"no".to_vec();
            }
            fs::write(authority.path("asked"), question).unwrap();
            authority.openssl(&[
                "ts",
                "-reply",
                "-config",
                "tsa.cnf",
                "-queryfile",
                "asked",
                "-out",
                "answer",
            ]);
            fs::read(authority.path("answer")).unwrap()
        })
    };
    let root = authority.path("root.pem");
    let settings = format!("[audit.timestamp]\nurl = {:?}\nca_file = {:?}", server.url(), text(&root));
    let mut node = Edgate::start_with("shards = 1", &settings);
    let failures = "audit_timestamp_failures_total{reason=\"stamp-malformed\"}";
    until("two failures", || node.metric(failures) >= 2.0);
    assert_eq!(
        (node.metric("audit_timestamp_age_seconds"), node.metric("audit_timestamped_records")),
        (-1.0, 0.0)
    );
    let ready = node.control_get("/readyz");
    assert_eq!(ready.status, 200, "nothing depends on it: {}", ready.body);
    assert!(ready.body.contains("no checkpoint stamped yet, stamp-malformed: "), "{}", ready.body);

    works.store(true, Ordering::SeqCst);
    until("a timestamp", || node.metric("audit_timestamped_records") > 0.0);
    assert!(node.metric("audit_timestamp_age_seconds") >= 0.0);
    let log = node.audit_dir();
    let anchors = || records(&log, "anchor");
    until("its record", || !anchors().is_empty());
    let body = &anchors()[0]["body"];
    let size = body["size"].as_u64().unwrap();
    let (token, stamped) =
        (log.join(format!("timestamps/{size}.tsr")), log.join(format!("timestamps/{size}.checkpoint")));
    let proof = edgate::audit::unhex(body["proof"].as_str().unwrap()).unwrap();
    assert_eq!((&body["kind"], &proof), (&"timestamp".into(), &fs::read(&token).unwrap()));
    // What the token in the record is about stands in the log too.
    let checkpoints = records(&log, "checkpoint");
    let checkpoint = checkpoints.iter().find(|record| record["body"]["size"] == size).unwrap();
    assert_eq!(checkpoint["body"]["note"], fs::read_to_string(&stamped).unwrap());
    assert_eq!(checkpoint["body"]["root"], body["root"]);
    assert_eq!(authority.judge(&proof, &fs::read(&stamped).unwrap()), "whole");
    let said = node.said();
    assert_eq!(said.matches("no timestamp for the log's checkpoint").count(), 1, "{said}");
    assert_eq!(said.matches("checkpoints are stamped again").count(), 1, "{said}");

    // A start asks again when the newest is as old as the interval, and not before.
    assert!(node.terminate().success());
    let before = asked.load(Ordering::SeqCst);
    node.restart();
    until("it is known", || node.metric("audit_timestamped_records") > 0.0);
    node.forward(&node.issuer.token("t"));
    let published = fs::read(log.join("checkpoint")).unwrap();
    until("a further checkpoint", || fs::read(log.join("checkpoint")).unwrap() != published);
    assert_eq!(asked.load(Ordering::SeqCst), before);
    assert!(node.terminate().success());
    assert_eq!(edgate(&["verify", "--unrecorded", "--dir", text(&log)]).status.code(), Some(0));
}

#[test]
fn a_node_does_not_start_with_an_authority_that_it_could_never_believe() {
    let Some(authority) = Authority::new() else { return };
    let mut node = Edgate::start_with("shards = 1", "");
    assert!(node.terminate().success());
    let config = node.dir.path().join("edgate.toml");
    let as_made = fs::read_to_string(&config).unwrap();
    let empty = authority.path("index.txt");
    for (ca_file, more, words) in [
        (text(&authority.path("none.pem")), "", "audit.timestamp: cannot read"),
        (text(&empty), "", "it holds no certificate"),
        (text(&authority.path("root.pem")), "interval_s = 1", "audit.timestamp.interval_s = 1"),
        (text(&authority.path("root.pem")), "policy = \"x\"", "audit.timestamp.policy"),
    ] {
        let table =
            format!("[audit.timestamp]\nurl = \"https://tsa.example/\"\nca_file = {ca_file:?}\n{more}\n");
        fs::write(&config, as_made.replace("[signing]", &format!("{table}[signing]"))).unwrap();
        let (code, said) = node.refuses_to_start();
        assert!(code == Some(78) && said.contains(words), "{more}: {code:?} {said}");
        let checked =
            Command::new(env!("CARGO_BIN_EXE_edgate")).arg("check-config").arg(&config).output().unwrap();
        assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    }
    // It was refused before the log was opened, so no later start had anything to recover.
    assert_eq!(records(&node.audit_dir(), "recovery"), [serde_json::Value::Null; 0]);
}

#[test]
fn an_answer_is_believed_only_if_it_answers_this_question_at_this_time() {
    let Some(authority) = Authority::new().map(Arc::new) else { return };
    let log = authority.path("log");
    grow(&log, 3);
    let (checkpoint, root) = (log.join("checkpoint"), authority.path("root.pem"));
    let ask = |server: &Server| {
        let asked = edgate(&[
            "timestamp",
            "--json",
            "--checkpoint",
            text(&checkpoint),
            "--url",
            &server.url(),
            "--tsa-ca",
            text(&root),
        ]);
        let class = json(&asked)["class"].as_str().unwrap_or("none").to_owned();
        (asked.status.code(), class)
    };
    assert_eq!(ask(&honest(&authority, None)).0, Some(0));
    let kept: Vec<_> =
        fs::read_dir(log.join("timestamps")).unwrap().map(|entry| entry.unwrap().path()).collect();
    kept.iter().for_each(|path| fs::remove_file(path).unwrap());
    // The answer to the question before.
    let answer = fs::read(authority.path("answer")).unwrap();
    assert_eq!(ask(&Server::start(move |_| answer.clone())), (Some(49), "stamp-wrong-nonce".into()));
    if FAKETIME.iter().any(|path| Path::new(path).exists()) {
        for offset in ["-2h", "+2h"] {
            assert_eq!(ask(&honest(&authority, Some(offset))), (Some(45), "stamp-skewed".into()), "{offset}");
        }
    }
    assert_eq!(ask(&Server::start(|_| b"no".to_vec())), (Some(42), "stamp-malformed".into()));
    let gone = Server::start(|_| Vec::new());
    let url = gone.url();
    drop(gone);
    let asked =
        edgate(&["timestamp", "--checkpoint", text(&checkpoint), "--url", &url, "--tsa-ca", text(&root)]);
    assert_eq!(asked.status.code(), Some(69), "{asked:?}");
    assert_eq!(fs::read_dir(log.join("timestamps")).unwrap().count(), 0, "what is not believed is not kept");
}

#[test]
fn whatever_is_wrong_with_a_token_has_its_class() {
    let Some(authority) = Authority::new() else { return };
    let about = b"some bytes";
    let good = authority.token("tsa", about, true);
    assert_eq!(authority.judge(&good, about), "whole");
    assert_eq!(authority.judge(&good, b"other bytes"), "stamp-wrong-imprint");
    assert_eq!(authority.judge(&good[..good.len() - 1], about), "stamp-malformed");
    assert_eq!(authority.judge(&authority.token("tsa", about, false), about), "stamp-wrong-signer");

    // The certificate, at the time that is stated.
    authority.certify("old", "usage", "20100101000000Z", "20110101000000Z");
    assert_eq!(authority.judge(&authority.token("old", about, true), about), "stamp-expired");
    authority.certify("new", "usage", "20800101000000Z", "20900101000000Z");
    assert_eq!(authority.judge(&authority.token("new", about, true), about), "stamp-expired");
    for extensions in ["lax", "more", "none"] {
        authority.certify(extensions, extensions, "20200101000000Z", "20300101000000Z");
        assert_eq!(
            authority.judge(&authority.signed_anew(extensions, &good), about),
            "stamp-wrong-usage",
            "{extensions}"
        );
    }
    assert_eq!(
        authority.judge(&authority.signed_anew("tsa", &good), about),
        "whole",
        "the way of making these is sound"
    );

    // Weaker algorithms.
    authority.configure("tsa", "sha256", "sha1");
    assert_eq!(authority.judge(&authority.token("tsa", about, true), about), "stamp-unsupported");
    authority.configure("tsa", "sha1", "sha256");
    assert_eq!(authority.judge(&authority.token("tsa", about, true), about), "stamp-unsupported");
    authority.configure("tsa", "sha384", "sha384");
    assert_eq!(authority.judge(&authority.token("tsa", about, true), about), "whole");

    // Another root of the same name.
    let other = Authority::new().unwrap();
    assert_eq!(other.judge(&good, about), "stamp-unknown-authority");
}

#[test]
fn whoever_gives_lists_of_what_was_revoked_is_never_told_what_they_do_not_say() {
    let (Some(authority), Some(other)) = (Authority::new(), Authority::new()) else { return };
    let about = b"some bytes";
    let list = |authority: &Authority, more: &[&str]| {
        authority.openssl(&[&["ca", "-config", "tsa.cnf", "-gencrl", "-out", "list"], more].concat());
        fs::read(authority.path("list")).unwrap()
    };
    let judged = |token: &[u8], lists: &[u8]| {
        let authorities = authority.trusted().with_lists(lists).unwrap();
        let expected =
            StampExpected { authorities: &authorities, policy: None, nonce: None, after: None, before: None };
        verify_stamp(token, about, &expected).map_or_else(|fault| fault.class.name(), |_| "whole")
    };
    // A second authority below the first.
    authority.certify("middle", "middle", "20200101000000Z", "20300101000000Z");
    authority.certify_below("middle", "lower", "usage");
    let direct = authority.token("tsa", about, true);
    let through = authority.token("lower", about, true);
    assert_eq!(authority.judge(&through, about), "whole");

    let root = list(&authority, &[]);
    let middle = list(&authority, &["-cert", "middle.pem", "-keyfile", "middle.key"]);
    assert_eq!(judged(&direct, &root), "whole");
    assert_eq!(judged(&through, &[&root[..], &middle].concat()), "whole");
    assert_eq!(judged(&through, &root), "stamp-revoked", "nothing is said of the lower one");
    assert_ne!(judged(&direct, &list(&other, &[])), "whole", "a list of somebody else says nothing");
    let stale =
        list(&authority, &["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"]);
    assert_eq!(judged(&direct, &stale), "stamp-revoked", "it says nothing of today");

    authority.openssl(&["ca", "-config", "tsa.cnf", "-revoke", "tsa.pem"]);
    authority.openssl(&["ca", "-config", "tsa.cnf", "-revoke", "middle.pem"]);
    let root = list(&authority, &[]);
    assert_eq!(judged(&direct, &root), "stamp-revoked");
    assert_eq!(judged(&through, &[&root[..], &middle].concat()), "stamp-revoked", "of the one in between");
    authority.openssl(&["crl", "-in", "list", "-outform", "DER", "-out", "list.der"]);
    assert_eq!(judged(&direct, &fs::read(authority.path("list.der")).unwrap()), "stamp-revoked");

    // What is no list is not taken for one that names nobody.
    let certificate = fs::read(authority.path("root.pem")).unwrap();
    for none in [&b""[..], b"no list", &certificate] {
        let refused = authority.trusted().with_lists(none).unwrap_err();
        assert!(refused.contains("not a revocation list"), "{refused}");
    }
}

#[test]
fn no_altered_token_says_anything_else() {
    let Some(authority) = Authority::new() else { return };
    let about = b"some bytes";
    let good = authority.token("tsa", about, true);
    let trusted = authority.trusted();
    let expected =
        StampExpected { authorities: &trusted, policy: None, nonce: None, after: None, before: None };
    let stamp = verify_stamp(&good, about, &expected).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut token = good.clone();
            token[at] ^= 1 << bit;
            // Some bytes are not signed by anyone, such as the list of digest algorithms: they change nothing then.
            if let Ok(altered) = verify_stamp(&token, about, &expected) {
                assert_eq!(altered, stamp, "byte {at}");
            }
        }
    }
}
