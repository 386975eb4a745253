//! A built daemon, a client that sends exactly the bytes it is told to, and an issuer that signs whatever it is told to.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ed25519_dalek::{Signer, SigningKey};
use edgate::audit::note::Checkpoint;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The built program.
pub const EDGATE: &str = env!("CARGO_BIN_EXE_edgate");

/// The issuer every test daemon trusts.
pub const ISSUER: &str = "https://issuer.test";
/// The audience of its tokens.
pub const AUDIENCE: &str = "orders";

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Whether a program the test needs is there. In CI it must be; elsewhere its absence is said.
pub fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .chain([PathBuf::from("/usr/sbin")])
        .any(|folder| folder.join(program).is_file());
    if !found {
        assert!(
            std::env::var_os("EDGATE_NO_SKIP").is_none(),
            "{program} is not installed and CI skips nothing"
        );
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// Signs tokens, honest or not.
pub struct Issuer {
    key: SigningKey,
    pub kid: String,
}

impl Issuer {
    pub fn new(seed: u8) -> Self {
        Self { key: SigningKey::from_bytes(&[seed; 32]), kid: format!("test-{seed}") }
    }

    pub fn jwk(&self) -> Value {
        let x = BASE64URL.encode(self.key.verifying_key().as_bytes());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.kid, "x": x})
    }

    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk()]})
    }

    /// Claims of a good token.
    pub fn claims(jti: &str) -> Value {
        let now = now();
        json!({
            "iss": ISSUER, "sub": "agent-7", "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600, "jti": jti,
            "scope": ["orders.create", "orders.read"], "task": "t", "cns": {}, "own": "someone",
        })
    }

    /// A good token.
    pub fn token(&self, jti: &str) -> String {
        self.sign(&Self::claims(jti))
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"alg": "Ed25519", "typ": "att+jwt", "kid": self.kid}), claims)
    }

    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let input =
            format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()));
        let signature = self.key.sign(input.as_bytes());
        format!("{input}.{}", BASE64URL.encode(signature.to_bytes()))
    }
}

/// A running daemon in a folder of its own.
pub struct Edgate {
    child: Child,
    pub dir: TempDir,
    pub data: SocketAddr,
    pub control: SocketAddr,
    pub issuer: Issuer,
}

impl Edgate {
    /// A daemon with one shard and the defaults.
    pub fn start() -> Self {
        Self::start_with("shards = 1", "")
    }

    /// A daemon with further lines in `[server]` and `[audit]`.
    pub fn start_with(server: &str, audit: &str) -> Self {
        Self::start_configured(server, audit, |text| text)
    }

    /// A daemon with further lines at the end of its configuration: those of the issuer, then other tables.
    pub fn start_more(more: &str) -> Self {
        Self::start_edited(|text| text + more)
    }

    /// A daemon with two shards whose configuration is changed before it starts.
    pub fn start_edited(edit: impl FnOnce(String) -> String) -> Self {
        Self::start_configured("shards = 2", "", edit)
    }

    fn start_configured(server: &str, audit: &str, edit: impl FnOnce(String) -> String) -> Self {
        let dir = TempDir::new().unwrap();
        let issuer = Issuer::new(1);
        write_config(dir.path(), &issuer, server, audit);
        let config = dir.path().join("edgate.toml");
        fs::write(&config, edit(fs::read_to_string(&config).unwrap())).unwrap();
        let output = Command::new(EDGATE).arg("init").arg(dir.path().join("edgate.toml")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (child, data, control) = spawn(dir.path());
        Self { child, dir, data, control, issuer }
    }

    /// Starts again in the same folder, after [`Self::kill`].
    pub fn restart(&mut self) {
        (self.child, self.data, self.control) = spawn(self.dir.path());
    }

    /// Starts again as [`Self::restart`], where it must not start; returns the exit code and what it said.
    pub fn refuses_to_start(&self) -> (Option<i32>, String) {
        let config = self.dir.path().join("edgate.toml");
        let output = Command::new(EDGATE).args(["serve", "--config"]).arg(config).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Changes the configuration for the next start.
    pub fn configure(&self, edit: impl FnOnce(String) -> String) {
        let config = self.dir.path().join("edgate.toml");
        fs::write(&config, edit(fs::read_to_string(&config).unwrap())).unwrap();
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn audit_dir(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    /// What the daemon said on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// `GET /auth/nginx` with this token.
    pub fn forward(&self, token: &str) -> Response {
        self.get("/auth/nginx", &format!("Authorization: Bearer {token}\r\n"))
    }

    pub fn get(&self, path: &str, headers: &str) -> Response {
        exchange(self.data, format!("GET {path} HTTP/1.1\r\nHost: t\r\n{headers}\r\n").as_bytes())
    }

    /// `POST /v1/tokens/verify`.
    pub fn verify(&self, body: &Value) -> Response {
        self.post(self.data, "/v1/tokens/verify", body)
    }

    pub fn post(&self, address: SocketAddr, path: &str, body: &Value) -> Response {
        post(address, path, body)
    }

    /// `POST /v1/revocations`; returns the epoch that has it.
    pub fn revoke(&self, body: &Value) -> u64 {
        let answer = self.post(self.control, "/v1/revocations", body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.body);
        answer.json()["revocation_epoch"].as_u64().unwrap()
    }

    /// `GET /auth/nginx` with this token, demanding an epoch.
    pub fn forward_at(&self, token: &str, epoch: u64) -> Response {
        self.get("/auth/nginx", &format!("Authorization: Bearer {token}\r\nX-Edgate-Min-Epoch: {epoch}\r\n"))
    }

    /// The control listener.
    pub fn control_get(&self, path: &str) -> Response {
        exchange(self.control, format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())
    }

    /// One counter from the metrics, as `decisions_total{decision="rejected",reason="expired"}`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.control_get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(&format!("edgate_{name} ")));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
    }

    /// How often a token was refused for this reason.
    pub fn refused(&self, reason: &str) -> f64 {
        self.metric(&format!("decisions_total{{decision=\"rejected\",reason=\"{reason}\"}}"))
    }
}

impl Drop for Edgate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon said:\n{}", self.said());
        }
    }
}

pub fn write_config(dir: &Path, issuer: &Issuer, server: &str, audit: &str) {
    let path = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        "[server]\nlisten = [\"127.0.0.1:0\", {unix:?}]\n{server}\n[control]\nlisten = \"127.0.0.1:0\"\n\
         [state]\ndatabase = {database:?}\n[audit]\ndir = {audit_dir:?}\norigin = \"test.example/log\"\n\
         checkpoint_key_file = {checkpoint:?}\nsegment_mib = 1\n{audit}\n\
         [signing]\nkey_file = {key:?}\nissuer = \"own\"\ndefault_audience = \"{AUDIENCE}\"\n\
         [[issuers]]\nname = \"own\"\nissuer = \"https://own.test\"\naudiences = [\"{AUDIENCE}\"]\nkeys = \"signing_key\"\n\
         [[issuers]]\nname = \"test\"\ntenant = \"acme\"\nissuer = \"{ISSUER}\"\naudiences = [\"{AUDIENCE}\"]\n\
         jwks = '{jwks}'\n",
        unix = format!("unix:{}", path("data.sock")),
        database = path("state.db"),
        audit_dir = path("audit"),
        checkpoint = path("checkpoint.key"),
        key = path("signing.key"),
        jwks = issuer.jwks(),
    );
    fs::write(dir.join("edgate.toml"), config).unwrap();
}

/// The ids of every decision in a log, read record by record.
pub fn decision_ids(dir: &Path) -> std::collections::HashSet<String> {
    use edgate::audit::record::{HEADER_BYTES, Header, stored_len};
    use edgate::audit::schema::{Kind, read_body, uint};
    let mut ids = std::collections::HashSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let bytes = fs::read(path).unwrap();
        let (mut at, mut boot) = (0, 0);
        while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
            // Zeros, or what a crash tore: the end of the segment.
            let Ok(header) = Header::parse(header.try_into().unwrap()) else { break };
            let body_len = usize::try_from(header.body_len).unwrap();
            let body = &bytes[at + HEADER_BYTES..at + HEADER_BYTES + body_len];
            if header.kind == Kind::SegmentOpen.code() {
                boot = uint(&read_body(header.kind, header.schema, body).unwrap(), 4).unwrap();
            }
            if header.kind == Kind::Decision.code() || header.kind == Kind::DecisionBatch.code() {
                ids.insert(format!("{boot:016x}-{:x}-{:x}", header.core, header.core_seq));
            }
            at += stored_len(body_len);
        }
    }
    ids
}

/// Starts the daemon and waits for its ready line.
fn spawn(dir: &Path) -> (Child, SocketAddr, SocketAddr) {
    let (mut child, listening) = serve(Command::new(EDGATE), dir);
    let Some((data, control)) = listening else {
        let _ = child.wait();
        panic!("the daemon did not start: {}", fs::read_to_string(dir.join("stderr")).unwrap());
    };
    (child, data, control)
}

/// Starts the daemon of `dir` by this command and waits for its ready line: the first data and the control listener, or
/// `None` if it ends before. What it says on standard error is in the file `stderr` of the folder.
pub fn serve(mut command: Command, dir: &Path) -> (Child, Option<(SocketAddr, SocketAddr)>) {
    let stderr = fs::File::options().create(true).append(true).open(dir.join("stderr")).unwrap();
    command.args(["serve", "--json", "--config"]).arg(dir.join("edgate.toml")).stderr(stderr);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let listening = listening(&mut child);
    (child, listening)
}

/// Reads the ready line of a daemon whose standard output is piped.
pub fn listening(child: &mut Child) -> Option<(SocketAddr, SocketAddr)> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).ok()?;
    let address = |value: &Value| value.as_str().unwrap().parse().unwrap();
    Some((address(&ready["data"][0]), address(&ready["control"])))
}

/// Waits until something is so that must become so.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// Waits until the published checkpoint of the log in `dir` covers so many records. What a verification calls signed may be
/// more: the CHECKPOINT record is there a moment earlier.
pub fn until_signed(dir: &Path, size: u64) {
    until("the records to be signed", || {
        let note = fs::read_to_string(dir.join("checkpoint")).unwrap_or_default();
        Checkpoint::read_unverified(&note).is_ok_and(|checkpoint| checkpoint.size >= size)
    });
}

/// `POST` of a JSON body on a new connection.
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Response {
    exchange(address, post_request(path, body).as_bytes())
}

/// The bytes of a `POST` of a JSON body.
pub fn post_request(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends `request` on a new connection and reads one response.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Response {
    let mut connection = Connection::open(address);
    connection.send(request);
    connection.receive().unwrap_or_else(|| panic!("no response to {}", String::from_utf8_lossy(request)))
}

/// A connection that shows each response.
pub struct Connection {
    stream: BufReader<Box<dyn Duplex>>,
}

/// Bytes both ways: a socket, or TLS on one.
pub trait Duplex: Read + Write + Send {}

impl<S: Read + Write + Send> Duplex for S {}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap_or_else(|| panic!("nobody listens on {address}"))
    }

    /// `None` if nobody listens.
    pub fn try_open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Self::over(stream))
    }

    pub fn over(stream: impl Duplex + 'static) -> Self {
        Self { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // A refused request may be answered, and its connection closed, before all of it is sent.
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// The next response; `None` if the peer closed instead.
    pub fn receive(&mut self) -> Option<Response> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).ok()?;
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            let (name, value) = text.split_once(':')?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: String::new() };
        let length = response.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        response.body = String::from_utf8_lossy(&body).into_owned();
        Some(response)
    }

    /// Whether the peer has closed: waits for it.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// Runs the program and returns its output.
pub fn edgate(arguments: &[&str], input: &[u8]) -> std::process::Output {
    let mut child = Command::new(EDGATE)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// What a program printed, one JSON value a line.
pub fn lines(output: &std::process::Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
