//! One connection to one server: what is asked has a deadline, and what goes wrong has a name.

use std::io::ErrorKind as IoErrorKind;
use std::time::Duration;

use redis::{Cmd, Connection, ConnectionLike as _, ErrorKind, Pipeline, RedisError, Value};

use super::error::{ClusterError, meaning};

/// A connection. After an error that does not spare it ([`ClusterError::spares_connection`]) it must be dropped: an
/// answer may still be under way.
pub(super) struct Link {
    connection: Connection,
    server: String,
    timeout: Duration,
    // Names the server's process and its history: another one may have loaded other data, or followed another server.
    origin: String,
    // Where Sentinels said that the primary is; nothing without Sentinels.
    address: Option<(String, u16)>,
}

impl Link {
    /// Wraps a connection; `server` names it in errors.
    pub(super) fn new(
        connection: Connection,
        server: String,
        timeout: Duration,
    ) -> Result<Self, ClusterError> {
        let mut link = Self { connection, server, timeout, origin: String::new(), address: None };
        link.set_patience(timeout)?;
        Ok(link)
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn address(&self) -> Option<&(String, u16)> {
        self.address.as_ref()
    }

    pub(super) fn set_address(&mut self, address: (String, u16)) {
        self.address = Some(address);
    }

    /// Refuses a server that is no primary, and learns which process it is.
    pub(super) fn check_primary(&mut self) -> Result<(), ClusterError> {
        let role = self.ask("say its role", &redis::cmd("ROLE"))?;
        self.expect_primary(&role)?;
        self.origin = match self.ask("describe itself", &redis::cmd("INFO")) {
            Ok(info) => {
                // Our keys never expire: `volatile-` policies do not touch them.
                if let Some(policy) =
                    field(&info, "maxmemory_policy:").filter(|one| one.starts_with("allkeys"))
                {
                    return Err(ClusterError::Evicts {
                        server: self.server.clone(),
                        policy: policy.to_owned(),
                    });
                }
                origin(&info).unwrap_or_default()
            }
            // A user without this right: then a changed process is seen by its data only.
            Err(ClusterError::Refused { .. }) => String::new(),
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Checks the answer to ROLE.
    pub(super) fn expect_primary(&self, role: &Value) -> Result<(), ClusterError> {
        let Value::Array(parts) = role else { return Err(self.unexpected("say its role")) };
        match parts.first().and_then(text) {
            Some("master") => Ok(()),
            Some(role) => {
                Err(ClusterError::NotPrimary { server: self.server.clone(), role: format!("a {role}") })
            }
            None => Err(self.unexpected("say its role")),
        }
    }

    /// Asks for one thing.
    pub(super) fn ask(&mut self, action: &'static str, command: &Cmd) -> Result<Value, ClusterError> {
        let answer = self.connection.req_command(command);
        let answer = answer.map_err(|error| self.failed(action, &error))?;
        self.accepted(action, answer)
    }

    /// Asks for several things at once; one answer each.
    pub(super) fn ask_all(
        &mut self,
        action: &'static str,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, ClusterError> {
        let count = pipeline.len();
        let answers = self.connection.req_packed_commands(&pipeline.get_packed_pipeline(), 0, count);
        let answers = answers.map_err(|error| self.failed(action, &error))?;
        if answers.len() != count {
            return Err(self.unexpected(action));
        }
        answers.into_iter().map(|answer| self.accepted(action, answer)).collect()
    }

    /// Asks for something the server may take `longer` to answer than the usual time.
    pub(super) fn ask_patiently(
        &mut self,
        action: &'static str,
        command: &Cmd,
        longer: Duration,
    ) -> Result<Value, ClusterError> {
        self.set_patience(self.timeout + longer)?;
        let answer = self.ask(action, command)?;
        self.set_patience(self.timeout)?;
        Ok(answer)
    }

    /// Waits until `wanted` replicas have what was written on this connection.
    pub(super) fn wait_for_replicas(&mut self, wanted: u32) -> Result<(), ClusterError> {
        if wanted == 0 {
            return Ok(());
        }
        let millis = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let command = redis::cmd("WAIT").arg(wanted).arg(millis).clone();
        let answer = self.ask_patiently("wait for replicas", &command, self.timeout)?;
        let Value::Int(confirmed) = answer else { return Err(self.unexpected("wait for replicas")) };
        let confirmed = u32::try_from(confirmed).unwrap_or(0);
        if confirmed < wanted {
            return Err(ClusterError::NotReplicated { confirmed, wanted });
        }
        Ok(())
    }

    /// How long an answer may take from now on.
    pub(super) fn set_patience(&mut self, patience: Duration) -> Result<(), ClusterError> {
        self.connection
            .set_read_timeout(Some(patience))
            .and_then(|()| self.connection.set_write_timeout(Some(patience)))
            .map_err(|error| self.failed("set a timeout", &error))
    }

    pub(super) fn unexpected(&self, action: &'static str) -> ClusterError {
        ClusterError::Unexpected { server: self.server.clone(), action }
    }

    fn accepted(&self, action: &'static str, answer: Value) -> Result<Value, ClusterError> {
        match answer {
            Value::ServerError(error) => Err(refused(&self.server, action, error.code())),
            answer => Ok(answer),
        }
    }

    fn failed(&self, action: &'static str, error: &RedisError) -> ClusterError {
        described(&self.server, action, self.timeout, error)
    }
}

/// An error of the crate, in our words. Its own text may hold a server's text, which may repeat arguments.
pub(super) fn described(
    server: &str,
    action: &'static str,
    timeout: Duration,
    error: &RedisError,
) -> ClusterError {
    let server = server.to_owned();
    if error.is_timeout() {
        return ClusterError::TimedOut { server, action, timeout };
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => refused(&server, action, "AUTH"),
        ErrorKind::Server(_) | ErrorKind::Extension => {
            refused(&server, action, error.code().unwrap_or("ERR"))
        }
        ErrorKind::Io => ClusterError::Unreachable { server, action, cause: io_cause(error) },
        _ => ClusterError::Unexpected { server, action },
    }
}

/// What the system or the TLS library said: neither sees a command.
fn io_cause(error: &RedisError) -> String {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match source {
        Some(source) if source.kind() == IoErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

fn refused(server: &str, action: &'static str, code: &str) -> ClusterError {
    // A code is one word of capitals; anything else is not repeated.
    let plain = !code.is_empty() && code.len() <= 32 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    let code = if plain { code } else { "ERR" };
    ClusterError::Refused { server: server.to_owned(), action, code: code.to_owned(), meaning: meaning(code) }
}

/// The text of an answer that is one.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The bytes of an answer that is some.
pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// The identities of the process and of its replication history. A server that was demoted and promoted again has a new
/// history.
fn origin(info: &Value) -> Option<String> {
    text(info)?;
    let part = |name| field(info, name).unwrap_or("");
    Some(format!("{}/{}", part("run_id:"), part("master_replid:")))
}

fn field<'a>(info: &'a Value, name: &str) -> Option<&'a str> {
    text(info)?.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_not_repeated() {
        for code in ["hunter2", "ERR hunter2", "", "HUNTER2"] {
            let error = refused("a:1", "log in", code).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = refused("a:1", "publish", "OOM").to_string();
        assert_eq!(error, "Redis at a:1 refused to publish: OOM: it is out of memory (maxmemory)");
    }

    #[test]
    fn a_process_and_its_history_are_known_by_name() {
        let info = b"# Server\r\nrun_id:abc\r\n# Replication\r\nmaster_replid:def\r\nmaster_replid2:0\r\n";
        assert_eq!(origin(&Value::BulkString(info.to_vec())).as_deref(), Some("abc/def"));
        assert_eq!(origin(&Value::Nil), None);
    }
}
