//! SoftHSM in a temporary folder, one process per test.
//!
//! A PKCS#11 module is state of the process: it is initialised once and reads `SOFTHSM2_CONF` then. So each test runs
//! itself again in a child process of its own, with its own tokens.
#![allow(dead_code, clippy::unwrap_used, reason = "test code; each binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{EncodePrivateKey as _, KeypairBytes};
use edgate_hsm::{
    Access, Admin, GeneratedKey, KeyName, PinPolicy, PinSource, Pkcs11Uri, Pool, PoolSettings, Purpose,
    TokenStanding,
};

pub(crate) const PIN: &str = "4711-edgate";

const CHILD: &str = "EDGATE_HSM_TEST_CHILD";
const FOLDER: &str = "EDGATE_HSM_TEST_FOLDER";

pub(crate) fn softhsm() -> Option<PathBuf> {
    let module = edgate_hsm::installed_softhsm();
    let tool = Command::new("softhsm2-util").arg("--version").output().is_ok();
    if module.is_none() || !tool {
        skip("SoftHSM is not installed (apt-get install softhsm2)");
        return None;
    }
    module
}

/// The public half of an Ed25519 key.
pub(crate) fn ed25519(key: &GeneratedKey) -> [u8; 32] {
    key.public_key.and_then(edgate_hsm::PublicKey::ed25519).unwrap()
}

pub(crate) fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(std::env::var_os("EDGATE_NO_SKIP").is_none(), "EDGATE_NO_SKIP is set, but: {why}");
}

/// A folder with a SoftHSM configuration, tokens and the service's state.
pub(crate) struct Stage {
    pub(crate) module: PathBuf,
    pub(crate) folder: PathBuf,
}

/// Runs `body` in a process of its own, in which it may use SoftHSM. `name` is the test's full name.
pub(crate) fn stage(name: &str, body: impl FnOnce(&Stage)) {
    let Some(module) = softhsm() else { return };
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        // A hang is a failure, not a wait.
        let soak = std::env::var("EDGATE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(120 + soak));
            eprintln!("the test hangs");
            std::process::abort();
        });
        body(&Stage { module, folder: PathBuf::from(std::env::var_os(FOLDER).unwrap()) });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    if std::env::args().any(|argument| argument == "--bench") {
        // A bench: its output is what it is for.
        assert!(child(name, folder.path()).status().unwrap().success(), "{name} failed");
        return;
    }
    let output = child(name, folder.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{name} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// As [`stage`], with the fault-injecting module between us and SoftHSM.
pub(crate) fn stage_with_faults(name: &str, body: impl FnOnce(&Stage)) {
    let shim = std::env::current_exe().unwrap().with_file_name(edgate_hsm_shim::FILE_NAME);
    assert!(shim.exists(), "{} was not built", shim.display());
    stage(name, |stage| body(&Stage { module: shim, folder: stage.folder.clone() }));
}

fn prepare(folder: &Path) {
    std::fs::create_dir(folder.join("tokens")).unwrap();
    std::fs::create_dir(folder.join("state")).unwrap();
    let tokens = folder.join("tokens");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(folder.join("softhsm2.conf"), text).unwrap();
    write_pin(folder, PIN);
}

fn child(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--include-ignored", "--test-threads=1"])
        .env(CHILD, name)
        .env(FOLDER, folder)
        .env("SHIM_FAULTS", folder.join("faults"))
        .env("SHIM_MODULE", softhsm().unwrap())
        .env("SHIM_CALLS", folder.join("calls"))
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"));
    command
}

pub(crate) fn write_pin(folder: &Path, pin: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("pin");
    std::fs::write(&path, pin).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl Stage {
    /// Makes a token, as an operator does: by another process.
    pub(crate) fn make_token(&self, label: &str) -> Pkcs11Uri {
        let before = self.tokens();
        let output = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let serial = self.tokens().into_iter().find(|serial| !before.contains(serial)).unwrap();
        Pkcs11Uri { token: Some(label.to_owned()), serial: Some(serial), ..Pkcs11Uri::empty() }
    }

    /// Serial numbers, by another process.
    fn tokens(&self) -> Vec<String> {
        let output = Command::new("softhsm2-util").arg("--show-slots").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let serials = text.lines().filter_map(|line| line.trim().strip_prefix("Serial number:"));
        serials.map(|serial| serial.trim().to_owned()).filter(|serial| !serial.is_empty()).collect()
    }

    /// Runs another (ignored) test of this binary as a process at the same tokens.
    pub(crate) fn helper(&self, name: &str, token: &Pkcs11Uri) {
        let output =
            child(name, &self.folder).env("EDGATE_HSM_TEST_TOKEN", token.to_string()).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts another (ignored) test of this binary, which goes on beside this one. `settings` are its environment.
    pub(crate) fn start_helper(&self, name: &str, token: &Pkcs11Uri, settings: &[(&str, &str)]) -> Child {
        let mut command = child(name, &self.folder);
        command.env("EDGATE_HSM_TEST_TOKEN", token.to_string()).env("EDGATE_HSM_TEST_MODULE", &self.module);
        command.envs(settings.iter().copied());
        // It ends when its standard input does, so it outlives nobody.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    /// The token of a helper.
    pub(crate) fn helper_token(&self) -> Pkcs11Uri {
        let text = std::env::var("EDGATE_HSM_TEST_TOKEN").unwrap();
        Pkcs11Uri::parse(&text, edgate_hsm::UriRules::Production).unwrap()
    }

    pub(crate) fn pin(&self) -> PinPolicy {
        PinPolicy {
            source: PinSource::File(self.folder.join("pin")),
            credentials: None,
            guard_folder: self.folder.join("state"),
        }
    }

    /// The module in this process, with a PIN from elsewhere.
    pub(crate) fn access(&self, pin: PinPolicy) -> Access {
        Access::Module { path: self.module.clone(), pin }
    }

    /// Settings with times short enough for a test.
    pub(crate) fn settings(&self, token: &Pkcs11Uri) -> PoolSettings {
        PoolSettings {
            workers: 2,
            probe_interval: Duration::from_millis(50),
            reinit_interval: Duration::from_millis(100),
            hang_limit: Duration::from_secs(20),
            ..PoolSettings::new(self.module.clone(), token.clone(), self.pin())
        }
    }

    pub(crate) fn admin(&self, token: &Pkcs11Uri) -> Admin {
        Admin::open(&self.module, token, &self.pin()).unwrap()
    }

    pub(crate) fn make_key(&self, token: &Pkcs11Uri, purpose: Purpose, name: &str) -> GeneratedKey {
        self.admin(token).generate(&KeyName::new(purpose, name).unwrap()).unwrap()
    }

    /// Puts a copy of `key` into the token, as an operator who has a backup does: by another process.
    pub(crate) fn import(&self, token: &Pkcs11Uri, key: &SigningKey, label: &str) -> Pkcs11Uri {
        self.import_as(token, key, label, "A1")
    }

    pub(crate) fn import_as(&self, token: &Pkcs11Uri, key: &SigningKey, label: &str, id: &str) -> Pkcs11Uri {
        let file = self.folder.join("key.pem");
        // The first version of PKCS#8: OpenSSL 3.0 does not read the second, which has the public key.
        let private = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
        std::fs::write(&file, private.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
        let output = Command::new("softhsm2-util")
            .args(["--import", file.to_str().unwrap(), "--serial", token.serial.as_deref().unwrap()])
            .args(["--label", label, "--id", id, "--pin", PIN])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::remove_file(file).unwrap();
        Pkcs11Uri { object: Some(label.to_owned()), ..token.clone() }
    }

    /// Puts faults in the way, or with "" out of it. See the shim's documentation.
    pub(crate) fn faults(&self, text: &str) {
        // In one step: half a file would be other faults.
        let draft = self.folder.join("faults.new");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.folder.join("faults")).unwrap();
    }

    /// How often `function` was called, by all processes.
    pub(crate) fn calls(&self, function: &str) -> usize {
        let text = std::fs::read_to_string(self.folder.join("calls")).unwrap_or_default();
        text.lines().filter(|line| *line == function).count()
    }

    /// The folder of the only token.
    pub(crate) fn token_folder(&self) -> PathBuf {
        let mut entries = std::fs::read_dir(self.folder.join("tokens")).unwrap();
        entries.next().unwrap().unwrap().path()
    }

    /// The folder of one of several tokens: SoftHSM takes the serial number from the end of its name.
    pub(crate) fn folder_of(&self, token: &Pkcs11Uri) -> PathBuf {
        let serial = token.serial.clone().unwrap();
        let mut folders =
            std::fs::read_dir(self.folder.join("tokens")).unwrap().map(|entry| entry.unwrap().path());
        folders
            .find(|path| path.file_name().unwrap().to_str().unwrap().replace('-', "").ends_with(&serial))
            .unwrap()
    }

    /// Takes the token away, as a killed device is away.
    pub(crate) fn take_away(&self, token: &Pkcs11Uri) -> Away {
        let home = self.folder_of(token);
        let away = self.folder.join(home.file_name().unwrap());
        std::fs::rename(&home, &away).unwrap();
        Away { home, away }
    }
}

/// A token that was taken away.
pub(crate) struct Away {
    home: PathBuf,
    away: PathBuf,
}

impl Away {
    pub(crate) fn bring_back(self) {
        std::fs::rename(self.away, self.home).unwrap();
    }
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Waits until the pool stands as wanted; the pool changes by itself.
pub(crate) fn wait_for(pool: &Pool, wanted: impl Fn(&TokenStanding) -> bool) -> TokenStanding {
    until(|| Some(pool.standing()).filter(&wanted))
}

/// Polls for something that another thread brings about.
pub(crate) fn until<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come about within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}
