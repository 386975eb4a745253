//! A built witness, and a wire between it and its log that can be cut.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edgate::audit::{CheckpointKey, WitnessKey};
use serde_json::Value;

/// The key and the memory of a witness.
pub struct WitnessFolder {
    folder: tempfile::TempDir,
    pub key: WitnessKey,
}

/// A witness that runs.
pub struct Witness {
    child: Child,
    pub at: SocketAddr,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl WitnessFolder {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_edgate"))
            .args(arguments(folder.path()))
            .arg("--init")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let key = WitnessKey::from_text(std::str::from_utf8(&made.stdout).unwrap()).unwrap();
        Self { folder, key }
    }

    pub fn memory(&self) -> PathBuf {
        self.folder.path().join("memory")
    }

    pub fn arguments(&self) -> Vec<String> {
        arguments(self.folder.path())
    }

    /// Starts it for one log, under another program if `wrapper` names one.
    pub fn start(&self, log: &CheckpointKey, listen: &str, wrapper: &[&str]) -> Witness {
        let serve = [vec![env!("CARGO_BIN_EXE_edgate").to_owned()], self.arguments()].concat();
        let command: Vec<String> = wrapper.iter().map(|part| (*part).to_owned()).chain(serve).collect();
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .args(["--json", "--listen", listen, "--log", &log.to_text()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        Witness { child, at: ready["listen"].as_str().unwrap().parse().unwrap() }
    }
}

fn arguments(folder: &Path) -> Vec<String> {
    let (key, dir) = (folder.join("witness.key"), folder.join("memory"));
    let (key, dir) = (key.to_str().unwrap(), dir.to_str().unwrap());
    ["audit", "witness", "--name", "w.example", "--key", key, "--dir", dir].map(str::to_owned).to_vec()
}

/// Connections to a witness, over which nothing comes back while it is mute.
pub struct Wire {
    pub at: SocketAddr,
    mute: Arc<AtomicBool>,
}

impl Wire {
    pub fn to(witness: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, mute) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let muted = Arc::clone(&mute);
        // They end with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let muted = Arc::clone(&muted);
                std::thread::spawn(move || carry(&client, witness, &muted));
            }
        });
        Self { at, mute }
    }

    pub fn set_mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }
}

fn carry(client: &TcpStream, witness: SocketAddr, mute: &AtomicBool) {
    let Ok(server) = TcpStream::connect(witness) else {
        let _ = client.shutdown(Shutdown::Both);
        return;
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::copy(&mut &*client, &mut &server);
            let _ = server.shutdown(Shutdown::Both);
        });
        let mut bytes = [0; 4096];
        while let Ok(read) = (&server).read(&mut bytes) {
            if read == 0 || mute.load(Ordering::SeqCst) || (&mut &*client).write_all(&bytes[..read]).is_err()
            {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}
