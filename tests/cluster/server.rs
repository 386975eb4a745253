//! A redis-server of our own, in a folder of its own, and a proxy that lets a test cut and slow down what passes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::until;

/// A running redis-server.
pub(crate) struct Server {
    child: Option<Child>,
    dir: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// A server on a Unix socket, which keeps nothing unless it is told to save.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further settings.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self { child: None, dir, arguments };
        server.launch();
        server
    }

    /// Starts it again, with what lies in its folder.
    pub(crate) fn launch(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = Command::new("redis-server")
            .current_dir(self.dir.path())
            .args([
                "--unixsocket",
                "redis.sock",
                "--save",
                "",
                "--appendonly",
                "no",
                "--protected-mode",
                "no",
            ])
            .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
            // Without one of its own, none.
            .args(if self.arguments.iter().any(|argument| argument.contains("port")) {
                &[][..]
            } else {
                &["--port", "0"]
            })
            .args(&self.arguments)
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.child = Some(child);
        until("redis-server to answer", || {
            UnixStream::connect(self.socket()).is_ok_and(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut answer = [0; 5];
                stream.write_all(b"PING\r\n").is_ok()
                    && stream.read(&mut answer).is_ok()
                    // Whoever wants a password answers too.
                    && (answer == *b"+PONG" || answer == *b"-NOAU")
            })
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A command from outside.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap()
    }

    pub(crate) fn try_ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let _ = fs::remove_file(self.socket());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Stands between a node and its server.
pub(crate) struct Proxy {
    address: std::net::SocketAddr,
    mood: Arc<Mood>,
}

#[derive(Default)]
struct Mood {
    // While set, connections are cut and none is taken.
    closed: AtomicBool,
    // How many more requests that hold `XADD` are passed on and their answers kept back, the connection cut.
    swallow: AtomicU64,
    // How long each answer is held up, in milliseconds.
    delay_ms: AtomicU64,
    swallowed: AtomicU64,
}

impl Proxy {
    pub(crate) fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mood = Arc::new(Mood::default());
        let (shared, socket) = (Arc::clone(&mood), server.socket());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = UnixStream::connect(&socket) else { continue };
                let mood = Arc::clone(&shared);
                std::thread::spawn(move || pass(&client, &server, &mood));
            }
        });
        Self { address, mood }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Passes on the next request that publishes, but not its answer: the connection breaks then.
    pub(crate) fn swallow_answer(&self) {
        self.mood.swallow.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn swallowed(&self) -> u64 {
        self.mood.swallowed.load(Ordering::SeqCst)
    }

    pub(crate) fn delay(&self, by: Duration) {
        self.mood.delay_ms.store(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Cuts every connection, and takes no other until it is opened.
    pub(crate) fn close(&self) {
        self.mood.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn open(&self) {
        self.mood.closed.store(false, Ordering::SeqCst);
    }
}

fn pass(client: &TcpStream, server: &UnixStream, mood: &Mood) {
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (mut client, mut server) = (client, server);
    let mut buffer = vec![0; 1 << 20];
    let mut silent = false;
    while !mood.closed.load(Ordering::SeqCst) {
        match client.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let publishes = buffer[..count].windows(4).any(|word| word == b"XADD");
                let take = |left: u64| left.checked_sub(1);
                if publishes && mood.swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                    silent = true;
                }
                if server.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        match server.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) if silent => {
                mood.swallowed.fetch_add(1, Ordering::SeqCst);
                break;
            }
            Ok(count) => {
                std::thread::sleep(Duration::from_millis(mood.delay_ms.load(Ordering::SeqCst)));
                if client.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

/// A running Sentinel that watches a primary named `mine`.
pub(crate) struct Sentinel {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Sentinel {
    pub(crate) fn start(primary: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = dir.path().join("sentinel.conf");
        fs::write(
            &config,
            format!(
                "port {port}\nprotected-mode no\nsentinel monitor mine 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds mine 700\nsentinel failover-timeout mine 3000\n"
            ),
        )
        .unwrap();
        let child = Command::new("redis-server")
            .arg(&config)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sentinel = Self { child, port, _dir: dir };
        until("the Sentinel to answer", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        sentinel
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection).unwrap()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
