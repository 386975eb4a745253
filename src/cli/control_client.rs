//! Clients of a running node's control listener: what they share, `edgate token issue` and `edgate hsm unlock`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use ureq::Body;
use ureq::http::Response;
use zeroize::Zeroizing;

use crate::config::{Config, EXIT_CONFIG};

use super::{EXIT_INPUT, EXIT_NO, EXIT_UNAVAILABLE, EXIT_YES, Output, complain, print_line};

/// Where the control listener is.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The control listener of the running node [default: http://127.0.0.1:8181].
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// Take the control listener's address from this configuration instead.
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    config: Option<PathBuf>,
}

/// Who has something done that cannot be taken back, and why; both stand in the log.
#[derive(Debug, Args)]
pub(super) struct Words {
    /// Who answers for it: a person, a ticket.
    #[arg(long, value_name = "NAME")]
    pub(super) authority: String,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: String,
}

/// Which node is asked, and how what it answers is shown.
#[derive(Debug, Args)]
pub(super) struct Asked {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// What `edgate token issue` reads.
#[derive(Debug, Args)]
pub(super) struct IssueArguments {
    /// The agent the token is for.
    #[arg(long, value_name = "ID")]
    agent: String,
    /// What the agent may do, such as orders.create; repeat for more.
    #[arg(long, value_name = "NAME", required = true)]
    scope: Vec<String>,
    /// Who will verify the token, unless it is the configured default; repeat for more.
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    /// What the agent is to do, in words.
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// Limits on what it may do: a JSON object such as {"max_order_usd":200}.
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    constraints: Option<Value>,
    /// The person on whose behalf it acts.
    #[arg(long, value_name = "NAME")]
    own: Option<String>,
    /// Who acts for the agent (RFC 8693 section 4.1): a JSON object.
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    act: Option<Value>,
    /// How long the token lives, unless it is the configured default.
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// What `edgate hsm unlock` reads.
#[derive(Debug, Args)]
pub(super) struct UnlockArguments {
    /// Hand it to the agent at this socket instead of a node; as root or as the agent's user.
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["control", "config"])]
    agent: Option<PathBuf>,
    /// The user id the agent must have [default: ours, root's, or that of the owner of the socket's folder].
    #[arg(long, value_name = "UID", requires = "agent")]
    agent_uid: Option<u32>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// Hands a PIN to a running node. It is asked for without echo, sent over loopback, and wiped.
pub(super) fn unlock(arguments: &UnlockArguments) -> u8 {
    if let Some(socket) = &arguments.agent {
        let as_json = arguments.output.json;
        return super::hsm_agent::unlock(socket.clone(), arguments.agent_uid, as_json, ask_pin);
    }
    let url = match arguments.target.url() {
        Ok(url) => url,
        Err(error) => return refuse(&error),
    };
    let pin = match ask_pin("PIN: ") {
        Ok(pin) => pin,
        Err(code) => return code,
    };
    let mut body = Map::new();
    body.insert("pin".to_owned(), Value::from(pin.as_str()));
    match post(&url, "/v1/hsm/unlock", &Value::Object(body)) {
        Ok(answer) if arguments.output.json => print_line(answer),
        Ok(_) => print_line("unlocked"),
        Err(error) => return refuse(&error),
    }
    EXIT_YES
}

/// Asks for a PIN without echo, or reads one line of standard input. The error is an exit code; what is wrong has been said.
fn ask_pin(prompt: &str) -> Result<Zeroizing<String>, u8> {
    let pin = if io::IsTerminal::is_terminal(&io::stdin()) {
        rpassword::prompt_password(prompt).map(Zeroizing::new)
    } else {
        let mut line = Zeroizing::new(String::new());
        io::stdin()
            .read_line(&mut line)
            .map(|_| Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
    };
    match pin {
        Ok(pin) if !pin.is_empty() => Ok(pin),
        Ok(_) => {
            complain("no PIN was given");
            Err(EXIT_INPUT)
        }
        Err(error) => {
            complain(format_args!("cannot read the PIN: {error}"));
            Err(EXIT_INPUT)
        }
    }
}

/// Issues one token and prints it; nothing else goes to standard output, so that a shell can take it.
pub(super) fn issue(arguments: &IssueArguments) -> u8 {
    let mut body = Map::new();
    let mut add = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    add("agent_id", Some(arguments.agent.clone().into()));
    add("scope", Some(arguments.scope.clone().into()));
    add("audience", (!arguments.audience.is_empty()).then(|| arguments.audience.clone().into()));
    add("task", arguments.task.clone().map(Value::from));
    add("constraints", arguments.constraints.clone());
    add("own", arguments.own.clone().map(Value::from));
    add("act", arguments.act.clone());
    add("ttl", arguments.ttl.map(Value::from));

    let answered = arguments.target.url().and_then(|url| post(&url, "/v1/tokens", &Value::Object(body)));
    match answered {
        Ok(issued) if arguments.output.json => {
            print_line(issued);
            EXIT_YES
        }
        Ok(issued) => {
            print_line(text(&issued, "token"));
            complain(format_args!(
                "issued token {} until {}",
                text(&issued, "id"),
                text(&issued, "expires_at")
            ));
            EXIT_YES
        }
        Err(error) => refuse(&error),
    }
}

/// Why a control listener did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{0}")]
    Absent(String),
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Input(String),
    #[error("{0}")]
    Unavailable(String),
}

pub(super) fn refuse(error: &ClientError) -> u8 {
    complain(error);
    match error {
        ClientError::Config(_) => EXIT_CONFIG,
        ClientError::Input(_) => EXIT_INPUT,
        ClientError::Absent(_) | ClientError::Unavailable(_) => EXIT_UNAVAILABLE,
    }
}

impl Words {
    /// The body of a request that these words are all of.
    pub(super) fn body(&self) -> Value {
        json!({"authority": self.authority, "reason": self.reason})
    }
}

impl Asked {
    /// Asks the node; prints what it answers, for a person with `say`.
    pub(super) fn get(&self, path: &str, say: impl FnOnce(&Value)) -> u8 {
        self.tell(self.target.url().and_then(|url| get(&url, path)), say)
    }

    /// Sends `body` to the node; prints what it answers, for a person with `say`.
    pub(super) fn post(&self, path: &str, body: &Value, say: impl FnOnce(&Value)) -> u8 {
        self.tell(self.target.url().and_then(|url| post(&url, path, body)), say)
    }

    /// As [`Asked::post`], for what takes its time and may be done in a part: what `failed` is no success.
    pub(super) fn post_partly(&self, path: &str, body: &Value, say: impl FnOnce(&Value)) -> u8 {
        let answer = self.target.url().and_then(|url| post_slowly(&url, path, body));
        let partly = answer.as_ref().is_ok_and(|answer| answer["failed"].is_array());
        match self.tell(answer, say) {
            EXIT_YES if partly => EXIT_NO,
            told => told,
        }
    }

    fn tell(&self, answer: Result<Value, ClientError>, say: impl FnOnce(&Value)) -> u8 {
        match answer {
            Ok(answer) if self.output.json => print_line(answer),
            Ok(answer) => say(&answer),
            Err(error) => return refuse(&error),
        }
        EXIT_YES
    }
}

impl Target {
    /// The configuration that was named.
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    pub(super) fn url(&self) -> Result<String, ClientError> {
        if let Some(path) = &self.config {
            let config = Config::load(path).map_err(|error| ClientError::Config(error.to_string()))?;
            return Ok(format!("http://{}", config.control.listen));
        }
        let control = self.control.as_deref().unwrap_or(CONTROL);
        if !control.starts_with("http://") {
            return Err(ClientError::Input(format!(
                "--control {control:?} must be an http:// URL: the control listener speaks plain HTTP on loopback",
            )));
        }
        Ok(control.trim_end_matches('/').to_owned())
    }

    /// Whether it was said which node is meant.
    pub(super) fn is_named(&self) -> bool {
        self.control.is_some() || self.config.is_some()
    }
}

/// Sends `body` and returns what a control listener answered.
pub(super) fn post(url: &str, path: &str, body: &Value) -> Result<Value, ClientError> {
    post_within(TIMEOUT, url, path, body)
}

/// As [`post`], for what takes minutes.
pub(super) fn post_slowly(url: &str, path: &str, body: &Value) -> Result<Value, ClientError> {
    post_within(SLOW_TIMEOUT, url, path, body)
}

fn post_within(timeout: Duration, url: &str, path: &str, body: &Value) -> Result<Value, ClientError> {
    let request = agent(timeout).post(format!("{url}{path}")).header("Content-Type", "application/json");
    answer(url, request.send(body.to_string()))
}

/// Asks a control listener.
pub(super) fn get(url: &str, path: &str) -> Result<Value, ClientError> {
    answer(url, agent(TIMEOUT).get(format!("{url}{path}")).call())
}

fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        // The listener is on this machine; a proxy in the environment is not meant.
        .proxy(None)
        .timeout_global(Some(timeout))
        .build()
        .into()
}

fn answer(url: &str, response: Result<Response<Body>, ureq::Error>) -> Result<Value, ClientError> {
    let mut response = response.map_err(|error| unreachable_listener(url, &error))?;
    let status = response.status();
    let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().unwrap_or_default();
    let answer: Option<Value> = serde_json::from_str(&text).ok();
    let description = answer.as_ref().and_then(|answer| answer["error_description"].as_str());
    let ours = |answer: &&Value| ANSWERS.iter().any(|member| !answer[*member].is_null());
    match (status.as_u16(), answer.as_ref().filter(ours), description) {
        (200..=299, Some(answer), _) => Ok(answer.clone()),
        (429 | 500..=599, _, Some(description)) => {
            Err(ClientError::Unavailable(format!("{url}: {description}")))
        }
        (400..=499, _, Some(description)) => Err(ClientError::Input(format!("{url}: {description}"))),
        _ => Err(ClientError::Unavailable(format!(
            "{url} answers (status {status}), but not as a control listener does: is it another service, or the data \
             listener? `control.listen` in the configuration says where the control listener is"
        ))),
    }
}

fn unreachable_listener(url: &str, error: &ureq::Error) -> ClientError {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            ClientError::Input(format!("--control {url:?} is not a URL: {error}"))
        }
        ureq::Error::Io(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            ClientError::Absent(format!(
                "nothing listens at {url}: is `edgate serve` running, and is this its control listener (--control URL)?"
            ))
        }
        _ => ClientError::Unavailable(format!("cannot talk to {url}: {error}")),
    }
}

pub(super) fn text(answer: &Value, name: &str) -> String {
    match &answer[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn json_object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("must be a JSON object".to_owned()),
        Err(error) => Err(format!("must be a JSON object: {error}")),
    }
}

/// Where a node's control listener is unless its configuration says otherwise.
const CONTROL: &str = "http://127.0.0.1:8181";

/// A node answers in milliseconds, and gives up on its own disk after five seconds.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Reading segments, writing archives, and reading them back.
const SLOW_TIMEOUT: Duration = Duration::from_secs(600);

/// What a control listener's answers have: one of these.
const ANSWERS: &[&str] =
    &["id", "unlocked", "revocations", "epoch", "erased", "retired", "keys", "certificate", "after"];

/// The longest answer: a page of revocations whose names and reasons are long.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// The outcome of a request to a server that answers `answer` whatever it is asked, and what it was asked.
    fn ask(answer: &'static str) -> (Result<Value, ClientError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let outcome = post(&url, "/v1/tokens", &serde_json::json!({"agent_id": "a"}));
        (outcome, server.join().unwrap())
    }

    #[test]
    fn a_good_answer_is_returned_as_it_is() {
        let (outcome, request) =
            ask("HTTP/1.1 201 Created\r\nContent-Length: 20\r\n\r\n{\"id\":\"x\",\"kid\":\"y\"}");
        assert_eq!(outcome.unwrap(), serde_json::json!({"id": "x", "kid": "y"}));
        assert!(request.starts_with("POST /v1/tokens HTTP/1.1\r\n"), "{request}");
        assert!(request.to_ascii_lowercase().contains("\r\ncontent-type: application/json\r\n"), "{request}");
        assert!(request.ends_with("{\"agent_id\":\"a\"}"), "{request}");
    }

    #[test]
    fn a_refusal_says_what_the_node_said() {
        let (outcome, _) = ask(
            "HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n{\"error\":\"x\",\"error_description\":\"no scope\"}",
        );
        let error = outcome.unwrap_err();
        assert!(matches!(error, ClientError::Input(_)), "{error}");
        assert!(error.to_string().ends_with(": no scope"), "{error}");
        let (outcome, _) = ask(
            "HTTP/1.1 503 Bad\r\nConnection: close\r\n\r\n{\"error\":\"x\",\"error_description\":\"no audit\"}",
        );
        assert!(matches!(outcome.unwrap_err(), ClientError::Unavailable(_)));
    }

    #[test]
    fn another_service_is_recognised() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
        ] {
            let error = ask(answer).0.unwrap_err().to_string();
            assert!(error.contains("not as a control listener does"), "{error}");
        }
    }

    #[test]
    fn a_node_that_does_not_run_is_named_with_its_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = post(&url, "/v1/tokens", &Value::Null).unwrap_err().to_string();
        assert!(error.contains(&url) && error.contains("is `edgate serve` running"), "{error}");
    }
}
