//! Starts and stops the servers under test: by their own handle, on a free port, on one processor.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser as _;
use edgate::cli::{self, Arguments};
use rustix::process::{Pid, Signal, kill_process};

use super::LoadError;
use super::http;
use super::pin_to_cpu;

/// How long a server may take until `/readyz` says 200: the first start prepares files.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks at a server that starts or stops.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Bytes of a server's output quoted when it fails.
const OUTPUT_TAIL_BYTES: usize = 2000;

/// A running server; killed when dropped without [`stop`](Self::stop).
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    address: SocketAddr,
    output: PathBuf,
}

impl Server {
    /// Starts `command` on processor `cpu`, with its output in the file `output`, and waits until it is ready.
    ///
    /// The calling thread is on `cpu` for a moment, and pinned to `own_cpu` when this returns.
    ///
    /// # Errors
    /// [`LoadError::ServerStart`] with the end of the server's output; [`LoadError::Pin`].
    pub fn start(
        name: &str,
        mut command: Command,
        address: SocketAddr,
        output: &Path,
        (cpu, own_cpu): (usize, usize),
    ) -> Result<Self, LoadError> {
        let failed = |reason: String| LoadError::ServerStart { name: name.to_owned(), reason };
        let log = File::create(output).and_then(|file| Ok((file.try_clone()?, file)));
        let (log, log_too) = log.map_err(|e| failed(format!("cannot write {}: {e}", output.display())))?;
        command.stdin(Stdio::null()).stdout(log).stderr(log_too);
        // A child inherits the mask of the thread that starts it: no code has to run in it before its `exec`.
        pin_to_cpu(cpu)?;
        let child = command.spawn();
        pin_to_cpu(own_cpu)?;
        let program = command.get_program().display().to_string();
        let child = child.map_err(|e| failed(format!("cannot run {program}: {e}")))?;
        let mut server = Self { name: name.to_owned(), child, address, output: output.to_owned() };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs; a server that ended during a run has spoiled it.
    ///
    /// # Errors
    /// [`LoadError::ServerEnded`] with the end of the server's output.
    pub fn check_alive(&mut self) -> Result<(), LoadError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&status.to_string())),
            Err(error) => Err(self.ended(&error.to_string())),
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has; kills it when it does not.
    ///
    /// # Errors
    /// [`LoadError::ServerEnded`]: it did not end in time, or not with status 0.
    pub fn stop(mut self) -> Result<(), LoadError> {
        self.check_alive()?;
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).map_err(|e| self.ended(&e.to_string()))?;
        match self.wait_for_end(STOP_TIMEOUT) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.ended(&status.to_string())),
            None => Err(self.ended("it ignored SIGTERM and was killed")),
        }
    }

    fn wait_for_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(LOOK_INTERVAL),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn wait_until_ready(&mut self) -> Result<(), LoadError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.not_started(&format!("it ended with {status}")));
            }
            match readiness(self.address) {
                Ok(200) => return Ok(()),
                Ok(status) if Instant::now() > deadline => {
                    return Err(self.not_started(&format!("/readyz still answers {status}")));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(self.not_started(&format!("/readyz does not answer: {error}")));
                }
                Ok(_) | Err(_) => thread::sleep(LOOK_INTERVAL),
            }
        }
    }

    fn not_started(&self, reason: &str) -> LoadError {
        LoadError::ServerStart { name: self.name.clone(), reason: self.with_output(reason) }
    }

    fn ended(&self, reason: &str) -> LoadError {
        LoadError::ServerEnded { name: self.name.clone(), reason: self.with_output(reason) }
    }

    fn with_output(&self, reason: &str) -> String {
        let output = fs::read(&self.output).unwrap_or_default();
        let tail = &output[output.len().saturating_sub(OUTPUT_TAIL_BYTES)..];
        format!("{reason}; its last output:\n{}", String::from_utf8_lossy(tail))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has already ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs this program as `edgate` where [`edgate`] started it: the first thing in the `main` of a bench that does.
#[must_use]
pub fn as_edgate() -> Option<ExitCode> {
    std::env::var_os(AS_EDGATE).is_some().then(|| cli::run(Arguments::parse()))
}

/// The command line of `edgate`, run by this very program.
///
/// # Errors
/// The system does not say where this program lies.
pub fn edgate(arguments: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(AS_EDGATE, "1").args(arguments);
    Ok(command)
}

/// Set where this program stands for `edgate`: a bench has no path to another package's program.
const AS_EDGATE: &str = "EDGATE_BENCH_AS_EDGATE";

/// A loopback address with a port that was free a moment ago.
///
/// # Errors
/// The system has no port left.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The status of `GET /readyz`.
fn readiness(address: SocketAddr) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(
        format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..count]);
        match http::parse(&bytes) {
            Ok(Some((answer, _))) => return Ok(answer.status),
            Ok(None) if count > 0 => {}
            Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(program: &str, argument: &str) -> Result<Server, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["-c", argument]);
        // Any processor this process may use: the first of its mask.
        let mask = rustix::thread::sched_getaffinity(None::<Pid>).unwrap();
        let cpu = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| mask.is_set(*cpu)).unwrap();
        Server::start("under test", command, free_address().unwrap(), &folder.path().join("out"), (cpu, cpu))
    }

    #[test]
    fn server_that_ends_at_once_is_reported_with_its_words() {
        let error = start("sh", "echo no such key >&2; exit 78").unwrap_err().to_string();
        assert!(error.contains("exit status: 78") && error.contains("no such key"), "{error}");
    }

    #[test]
    fn missing_program_is_named() {
        let error = start("/nonexistent/edgate", "").unwrap_err().to_string();
        assert!(error.contains("cannot run /nonexistent/edgate"), "{error}");
    }
}
