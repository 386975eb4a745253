//! `edgate hsm ceremony`: a script of steps at a token, and the signed transcript of what was done.
//!
//! The script says what is done and is the same for the dry run and the real one. Module, serial and PIN source stand
//! in a credentials file. Everything is checked before the first step, so that what stops early has changed nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use edgate_hsm::{
    ATTRIBUTE_NAMES, Admin, KeyName, PinPolicy, PinSource, Pkcs11Uri, PublicKey, Purpose, UriRules, Verdict,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::hsm::Failure;
use super::{EXIT_FAILURE, EXIT_YES, complain, hsm_transcript, print_line};
use crate::audit::hex;
use crate::keys::thumbprint;

#[derive(Debug, Args)]
pub(super) struct CeremonyArguments {
    /// The script (TOML).
    script: PathBuf,
    /// Module, token and PIN source (TOML); its PIN source never enters the transcript.
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    /// Where the transcript is written; it must not exist.
    #[arg(long, value_name = "FILE")]
    transcript: PathBuf,
    /// A rehearsal: refused at any token that is not SoftHSM's.
    #[arg(long)]
    dry_run: bool,
    /// Take every confirmation as given; in a real run only if the script has `allow_yes = true`.
    #[arg(long)]
    yes: bool,
    /// Folder that remembers rejected PINs; the service's own.
    #[arg(long, default_value = "/var/lib/edgate")]
    state: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    title: String,
    /// Label of the token.
    token: String,
    /// Label of the Ed25519 key that signs the transcript.
    signer: String,
    #[serde(default)]
    allow_yes: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Step {
    /// Waits until somebody types `yes`.
    Confirm { text: String },
    /// Examines the token; failures in subjects of `accept` are let pass.
    Doctor {
        #[serde(default)]
        accept: Vec<String>,
    },
    /// Compares attributes as read back.
    Expect { key: String, attributes: BTreeMap<String, bool> },
    /// Generates a key.
    Keygen {
        purpose: String,
        name: String,
        /// It may leave the token wrapped under a trusted key.
        #[serde(default)]
        wrappable: bool,
    },
    /// Has a key sign.
    Selftest { key: String },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    module: PathBuf,
    token: String,
    pin_source: String,
}

pub(super) fn run(arguments: &CeremonyArguments) -> Result<u8, Failure> {
    let (script, script_bytes): (Script, _) = load(&arguments.script)?;
    let (credentials, _): (Credentials, _) = load(&arguments.credentials)?;
    if arguments.yes && !arguments.dry_run && !script.allow_yes {
        return Err(input("--yes is refused for a real run: the script does not have allow_yes = true"));
    }
    let names = script.steps.iter().map(Step::key_name).collect::<Result<Vec<_>, _>>()?;
    let uri = Pkcs11Uri::parse(&credentials.token, UriRules::Production)?.token_only();
    uri.require_token()?;
    if uri.token.as_deref() != Some(&script.token) {
        let found = uri.token.unwrap_or_default();
        return Err(input(format!(
            "the script is for token {:?}, the credentials name {found:?}",
            script.token
        )));
    }
    let source = PinSource::parse(&credentials.pin_source)
        .ok_or_else(|| input("pin_source must be credential:NAME, file:/PATH or fd:NUMBER"))?;
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let pin = PinPolicy { source, credentials: folder, guard_folder: arguments.state.clone() };
    if arguments.transcript.exists() {
        return Err(exists(&arguments.transcript));
    }
    let admin = Admin::open(&credentials.module, &uri, &pin)?;
    let seen = &admin.token().uri;
    if arguments.dry_run && seen.manufacturer.as_deref().is_none_or(|name| !name.contains("SoftHSM")) {
        return Err(input(format!("--dry-run is for SoftHSM, and {seen} is not; nothing was done")));
    }
    check_keys(&admin, &script, &names)?;
    let mut transcript = Transcript::create(&arguments.transcript)?;
    transcript.write(json!({
        "ceremony": 1, "title": script.title, "dry_run": arguments.dry_run, "steps": script.steps.len(),
        "script_sha256": hex(&Sha256::digest(&script_bytes)), "token": seen.to_string(), "signer": script.signer,
        "module": credentials.module, "module_sha256": hex(&Sha256::digest(read(&credentials.module)?)),
        "at": jiff::Timestamp::now().to_string(),
    }))?;
    let mut ceremony = Ceremony { admin: &admin, yes: arguments.yes, transcript, done: 0 };
    let path = arguments.transcript.display();
    match ceremony.work_through(&script, &names) {
        Ok(public_key) => {
            print_line(format_args!("complete; {path} is signed by {}", hex(&public_key)));
            Ok(EXIT_YES)
        }
        Err(failure) => {
            let (done, steps) = (ceremony.done, script.steps.len());
            complain(format_args!(
                "it stopped: {failure}. {done} of {steps} steps were done, keys made by them stay in the token, and {path} says so, \
                 unsigned. Find the cause, then go on with a script of the steps that are left and another transcript"
            ));
            Ok(EXIT_FAILURE)
        }
    }
}

impl Step {
    fn shown(&self) -> String {
        match self {
            Self::Confirm { text } => format!("confirm {text:?}"),
            Self::Doctor { .. } => "doctor".to_owned(),
            Self::Expect { key, .. } => format!("expect {key}"),
            Self::Keygen { purpose, name, wrappable } => {
                format!("keygen edgate/{purpose}/{name}{}", if *wrappable { ", wrappable" } else { "" })
            }
            Self::Selftest { key } => format!("selftest {key}"),
        }
    }

    /// The name of the key that the step makes.
    fn key_name(&self) -> Result<Option<KeyName>, Failure> {
        let Self::Keygen { purpose, name, wrappable } = self else { return Ok(None) };
        let known = Purpose::from_name(purpose)
            .ok_or_else(|| input(format!("script: unknown purpose {purpose:?}")))?;
        let name = KeyName::new(known, name)
            .ok_or_else(|| input(format!("script: name {name:?} must be 1 to 64 of A-Z a-z 0-9 . _ -")))?;
        if known == Purpose::Backup {
            return Err(input(
                "script: a backup key is the security officer's to make, with `edgate hsm keygen`",
            ));
        }
        if !wrappable {
            return Ok(Some(name));
        }
        let name = name.wrappable().ok_or_else(|| input("script: wrappable is for keys that sign"))?;
        Ok(Some(name))
    }
}

/// Every key that is to be made is not there; every other one is, or is made before, and signs where it has to.
fn check_keys(admin: &Admin, script: &Script, names: &[Option<KeyName>]) -> Result<(), Failure> {
    // By label, whether the key signs.
    let mut there: BTreeMap<String, bool> = BTreeMap::new();
    for key in admin.keys()? {
        if let Some(label) = key.uri.object {
            *there.entry(label).or_default() |= key.algorithm == "ed25519";
        }
    }
    for (step, name) in script.steps.iter().zip(names) {
        match step {
            Step::Keygen { purpose, .. } => {
                let label = name.as_ref().map(KeyName::label).unwrap_or_default();
                if there.contains_key(&label) {
                    return Err(input(format!(
                        "key {label} exists already and is never overwritten; nothing was done"
                    )));
                }
                there.insert(label, purpose != Purpose::Wrapping.name());
            }
            Step::Expect { key, attributes } => {
                require(&there, key)?;
                if let Some(unknown) =
                    attributes.keys().find(|name| !ATTRIBUTE_NAMES.contains(&name.as_str()))
                {
                    let known = ATTRIBUTE_NAMES.join(", ");
                    return Err(input(format!(
                        "script: unknown attribute {unknown:?}; there are {known}; nothing was done"
                    )));
                }
            }
            Step::Selftest { key } => require_signing(&there, key)?,
            Step::Confirm { .. } | Step::Doctor { .. } => {}
        }
    }
    require_signing(&there, &script.signer)
}

fn require(there: &BTreeMap<String, bool>, label: &str) -> Result<bool, Failure> {
    there.get(label).copied().ok_or_else(|| {
        input(format!("key {label} is neither in the token nor made by an earlier step; nothing was done"))
    })
}

fn require_signing(there: &BTreeMap<String, bool>, label: &str) -> Result<(), Failure> {
    match require(there, label)? {
        true => Ok(()),
        false => Err(input(format!("key {label} is no Ed25519 key and cannot sign; nothing was done"))),
    }
}

struct Ceremony<'a> {
    admin: &'a Admin,
    yes: bool,
    transcript: Transcript,
    done: usize,
}

impl Ceremony<'_> {
    /// Does every step, each on the disk before the next one begins, and signs them; the public key that did.
    fn work_through(&mut self, script: &Script, names: &[Option<KeyName>]) -> Result<[u8; 32], Failure> {
        let steps = script.steps.len();
        for (step, name) in script.steps.iter().zip(names) {
            let number = self.done + 1;
            print_line(format_args!("step {number} of {steps}: {}", step.shown()));
            let outcome = self.perform(step, name.as_ref());
            let (result, detail) = match &outcome {
                Ok(detail) => ("done", detail.clone()),
                Err(failure) => ("failed", json!(failure.to_string())),
            };
            let at = jiff::Timestamp::now().to_string();
            self.transcript.write(json!({
                "step": number, "do": step.shown(), "result": result, "detail": detail, "at": at,
            }))?;
            print_line(format_args!("  {}", outcome?));
            self.done = number;
        }
        let signer = named(self.admin, &script.signer);
        let (public_key, signature) = self.admin.sign_transcript(&signer, &self.transcript.text)?;
        self.transcript.write(json!({
            "end": steps, "public_key": hex(&public_key), "signature": hex(&signature),
        }))?;
        Ok(public_key)
    }

    fn perform(&mut self, step: &Step, name: Option<&KeyName>) -> Result<Value, Failure> {
        match (step, name) {
            (Step::Keygen { .. }, Some(name)) => {
                let made = self.admin.generate(name)?;
                let attributes = self.admin.attributes(&made.uri)?;
                Ok(json!({
                    "uri": made.uri.to_string(), "attributes": attributes, "refused": made.refused,
                    "public_key": made.public_key.map(|key| key.to_string()),
                    "public_key_sha256": made.public_key.map(|key| hex(&Sha256::digest(key.as_bytes()))),
                    "thumbprint": made.public_key.and_then(PublicKey::ed25519).map(|key| thumbprint(&key)),
                }))
            }
            (Step::Confirm { .. }, _) if self.yes => Ok(json!("--yes")),
            (Step::Confirm { .. }, _) => {
                print_line("  type yes to go on");
                let mut line = String::new();
                std::io::stdin().read_line(&mut line).map_err(|error| input(error.to_string()))?;
                if line.trim() == "yes" { Ok(json!("yes")) } else { Err(input("it was not confirmed")) }
            }
            (Step::Doctor { accept }, _) => self.doctor(accept),
            (Step::Expect { key, attributes }, _) => {
                let found = self.admin.attributes(&named(self.admin, key))?;
                for (name, wanted) in attributes {
                    if found.get(name.as_str()) != Some(wanted) {
                        let found = found.get(name.as_str());
                        return Err(input(format!("{name} of {key} is {found:?}, not {wanted}")));
                    }
                }
                Ok(json!(found))
            }
            (Step::Selftest { key }, _) => {
                let public_key = self.admin.selftest(&named(self.admin, key))?;
                let thumbprint = public_key.ed25519().map(|key| thumbprint(&key));
                Ok(json!({"public_key": public_key.to_string(), "thumbprint": thumbprint}))
            }
            (Step::Keygen { .. }, None) => unreachable!("every keygen step was given a name"),
        }
    }

    fn doctor(&self, accept: &[String]) -> Result<Value, Failure> {
        let report = self.admin.examine()?;
        let failed = |subject: &str, verdict| {
            verdict == Verdict::Fail && !accept.iter().any(|accepted| accepted == subject)
        };
        if let Some(finding) = report.findings.iter().find(|found| failed(found.subject, found.verdict)) {
            return Err(input(format!("doctor: {}: {}", finding.subject, finding.detail)));
        }
        // A rate is another one each time.
        let kept = report.findings.iter().filter(|finding| finding.subject != "rate");
        let shown = kept.map(|found| {
            json!({"subject": found.subject, "verdict": found.verdict.name(), "detail": found.detail})
        });
        Ok(shown.collect())
    }
}

/// The transcript; each line is on the disk before the next step begins.
struct Transcript {
    file: File,
    text: Vec<u8>,
}

impl Transcript {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create_new(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(path),
            _ => input(format!("cannot create {}: {error}", path.display())),
        })?;
        // The name, too, has to be on the disk before anything is done.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| input(format!("cannot sync {}: {error}", folder.display())))?;
        Ok(Self { file, text: Vec::new() })
    }

    #[expect(clippy::needless_pass_by_value, reason = "called with json!")]
    fn write(&mut self, line: Value) -> Result<(), Failure> {
        let line = format!("{line}\n");
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| input(format!("the transcript cannot be written: {error}")))?;
        self.text.extend_from_slice(line.as_bytes());
        Ok(())
    }
}

fn named(admin: &Admin, label: &str) -> Pkcs11Uri {
    Pkcs11Uri { object: Some(label.to_owned()), ..admin.token().uri.token_only() }
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<(T, Vec<u8>), Failure> {
    let bytes = read(path)?;
    let text = str::from_utf8(&bytes).map_err(|_| input(format!("{} is not UTF-8", path.display())))?;
    // The message alone: the text around it may be a PIN in the wrong place.
    let parsed = toml::from_str(text)
        .map_err(|error| input(format!("{} cannot be used: {}", path.display(), error.message())))?;
    Ok((parsed, bytes))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    hsm_transcript::read(path).map_err(input)
}

fn exists(path: &Path) -> Failure {
    input(format!("transcript {} exists already and is never overwritten; nothing was done", path.display()))
}

fn input(problem: impl Into<String>) -> Failure {
    Failure::Input(problem.into())
}
