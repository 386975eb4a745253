//! `serve --dev --softhsm`: the whole thing on SoftHSM, with one command.
//!
//! The token, its PIN and its configuration lie in the folder of `--dev`. Making them here is what the operator asked for
//! by `--dev`; a service never makes a token or a key. SoftHSM finds its configuration through the environment alone,
//! and a running process cannot change its own safely, so this program starts itself once more with it set.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use edgate_hsm::{Admin, KeyName, KeySeen, PinPolicy, PinSource, Pkcs11Uri, Purpose};

use super::StartError;
use crate::audit::hex;
use crate::config::{DevKey, DevToken};

/// How SoftHSM is told where its configuration is.
const CONF_VARIABLE: &str = "SOFTHSM2_CONF";

const LABEL: &str = "edgate-dev";

/// Makes the token in `dir` if there is none, and returns what the configuration must name. Where the environment does not
/// name this folder's SoftHSM yet, the process is replaced by one where it does.
///
/// # Errors
/// [`StartError::SoftHsm`], with what to install or to remove.
pub fn prepare(dir: &Path) -> Result<DevToken, StartError> {
    let failed = |problem: String| StartError::SoftHsm { problem };
    let module = edgate_hsm::installed_softhsm().ok_or_else(|| {
        failed("its module is not installed: apt-get install softhsm2, or dnf install softhsm".to_owned())
    })?;
    super::dev::make_folder(dir)?;
    let conf = dir.join("softhsm2.conf");
    let pin = dir.join("hsm.pin");
    make_token(dir, &conf, &pin)?;
    if std::env::var_os(CONF_VARIABLE).as_deref() != Some(conf.as_os_str()) {
        let program = std::env::current_exe().map_err(|error| failed(format!("who am I: {error}")))?;
        let error = Command::new(program).args(std::env::args_os().skip(1)).env(CONF_VARIABLE, &conf).exec();
        return Err(failed(format!("cannot start again with its configuration: {error}")));
    }

    let seen = edgate_hsm::tokens(&module)?;
    let token = seen
        .into_iter()
        .map(|seen| seen.uri)
        .find(|uri| uri.token.as_deref() == Some(LABEL))
        .ok_or_else(|| {
            failed(format!("no token {LABEL} in {}; remove that folder to begin anew", dir.display()))
        })?
        .token_only();
    let policy =
        PinPolicy { source: PinSource::File(pin.clone()), credentials: None, guard_folder: dir.to_owned() };
    let admin = Admin::open(&module, &token, &policy)?;
    let signing = key(&admin, Purpose::TokenSigning)?;
    let checkpoint = key(&admin, Purpose::AuditCheckpoint)?;
    Ok(DevToken { module, token: token.to_string(), pin, signing, checkpoint })
}

/// The key of this purpose, made at the first run.
fn key(admin: &Admin, purpose: Purpose) -> Result<DevKey, StartError> {
    let failed = |problem: &str| StartError::SoftHsm { problem: problem.to_owned() };
    let name = KeyName::new(purpose, "dev").ok_or_else(|| failed("a key cannot be named"))?;
    let label = name.label();
    let of_label = |key: &KeySeen| key.uri.object.as_deref() == Some(&*label);
    // The public half is an object of its own, of the same label.
    let found = admin.keys()?.into_iter().filter(of_label).find_map(|key| key.public_key);
    let public_key = match found {
        Some(found) => found,
        None => {
            let made = admin.generate(&name)?.public_key;
            made.ok_or_else(|| failed("the token does not show a public key"))?
        }
    };
    let uri = Pkcs11Uri { object: Some(label), ..Pkcs11Uri::empty() };
    Ok(DevKey { uri: uri.to_string(), public_key: public_key.to_string() })
}

/// A token with a random PIN, in the folder's own SoftHSM.
fn make_token(dir: &Path, conf: &Path, pin: &Path) -> Result<(), StartError> {
    let failed = |problem: String| StartError::SoftHsm { problem };
    let io = |what: &'static str| {
        move |error: std::io::Error| StartError::SoftHsm { problem: format!("cannot {what}: {error}") }
    };
    let tokens = dir.join("tokens");
    let begun = fs::read_dir(&tokens).is_ok_and(|mut entries| entries.next().is_some());
    if conf.exists() && pin.exists() && begun {
        return Ok(());
    }
    if begun {
        let problem =
            format!("{} holds a token, but its PIN or configuration is gone; move it away", tokens.display());
        return Err(failed(problem));
    }
    fs::create_dir_all(&tokens).map_err(io("make the token folder"))?;
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(conf, text).map_err(io("write softhsm2.conf"))?;
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| failed(format!("no random bytes: {error}")))?;
    let (user, officer) = random.split_at(8);
    let (user, officer) = (hex(user), hex(officer));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(pin)
        .map_err(io("create hsm.pin"))?;
    file.write_all(user.as_bytes()).map_err(io("write hsm.pin"))?;
    // The tool takes PINs as arguments only; this one guards a toy, for the moment the tool runs.
    let output = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", LABEL, "--so-pin", &officer, "--pin", &user])
        .env(CONF_VARIABLE, conf)
        .output()
        .map_err(|error| failed(format!("cannot run softhsm2-util: {error}; apt-get install softhsm2")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(format!("softhsm2-util: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
