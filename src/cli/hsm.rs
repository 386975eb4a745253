//! `edgate hsm`: look into a token, generate keys, test and time it. Works without a running node.
//!
//! Everything is named by one PKCS#11 URI (RFC 7512), for example
//! `pkcs11:token=edgate;serial=0123?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use edgate_hsm::{
    Admin, Algorithm, AuditCheckpoint, Callers, HsmError, KeyName, KeyPurpose, Officer, PinPolicy, PinSource,
    Pkcs11Uri, Pool, PoolSettings, Purpose, Report, TlsServer, TokenSigning, UriRules,
};
use serde_json::{Value, json};

use super::{EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, print_line};
use crate::audit::hex;
use crate::daemon::release_checks;
use crate::verify::Engine;

#[derive(Debug, Subcommand)]
pub(super) enum HsmCommand {
    /// Examine a token: what it can do, and whether it keeps what must not leave. Exit code 1 if it is not fit.
    Doctor(DoctorArguments),
    /// Generate a key in a token. A running service makes no other than its next signing key (edgate keys rotate).
    Keygen(KeygenArguments),
    /// List the tokens of a module, or the keys in a token.
    List(TokenArguments),
    /// Have a key sign and verify the signature.
    Selftest(TokenArguments),
    /// Measure signatures per second, bare and through the session pool.
    Bench(BenchArguments),
    /// Work through a script of steps and leave a signed transcript: dry on SoftHSM, then for real.
    Ceremony(super::hsm_ceremony::CeremonyArguments),
    /// Wrap a key that was made `--wrappable` into a file, by the token; it is tried at once whether it comes back.
    Backup(super::hsm_backup::BackupArguments),
    /// Put a key back from its backup; it stays only if it signs as the key of the backup.
    Restore(super::hsm_backup::RestoreArguments),
    /// Check a backup, offline: whole, and signed by its key. Exit code 1 if it proves nothing.
    VerifyBackup(super::hsm_backup::VerifyBackupArguments),
    /// Make the request for a certificate of a TLS key in a token (PKCS#10, RFC 2986), signed by that key.
    Csr(super::hsm_csr::CsrArguments),
    /// Check a ceremony's transcript, offline. Exit code 1 if it proves nothing.
    VerifyTranscript(super::hsm_transcript::TranscriptArguments),
    /// Hand the PIN to a running node, or to an agent, whose token waits for it (`pin_source = "operator:"`). Asks for it on the terminal, or
    /// reads one line of standard input; never an argument.
    Unlock(super::control_client::UnlockArguments),
}

#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    /// PKCS#11 URI of a token or key, with `pin-source` and, unless `--module` is given, `module-path`.
    uri: String,
    /// The PKCS#11 library.
    #[arg(long)]
    module: Option<PathBuf>,
    /// Folder that remembers rejected PINs; the service's own.
    #[arg(long, default_value = "/var/lib/edgate")]
    state: PathBuf,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    #[command(flatten)]
    token: TokenArguments,
    /// Sign the report with this key of the token: its `object` label.
    #[arg(long, value_name = "LABEL")]
    sign_with: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct KeygenArguments {
    #[command(flatten)]
    token: TokenArguments,
    /// What the key is for.
    #[arg(long, value_enum)]
    purpose: KeyUse,
    /// Its name; the label will be `edgate/PURPOSE/NAME`.
    #[arg(long)]
    name: String,
    /// Its algorithm: TLS keys are P-256 unless told otherwise, as browsers take no Ed25519 certificates; all others that sign
    /// are Ed25519.
    #[arg(long, value_enum)]
    algorithm: Option<KeyAlgorithm>,
    /// The key may leave the token wrapped under a trusted backup key, and in no other way: `edgate hsm backup` makes backups of it.
    /// The service uses it only with `hsm.allow_wrapped_export = true`.
    #[arg(long)]
    wrappable: bool,
    /// Where the security officer's PIN is, who alone makes backup keys: file:/PATH, credential:NAME or fd:NUMBER.
    #[arg(long, value_name = "SOURCE", required_if_eq("purpose", "backup"))]
    so_pin_source: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    #[command(flatten)]
    token: TokenArguments,
    /// Threads and sessions.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Duration of each measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// What a key is for, on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeyUse {
    AuditCheckpoint,
    /// Wraps other keys for their backups.
    Backup,
    TlsServer,
    TokenSigning,
    Wrapping,
}

/// With what a key signs, on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeyAlgorithm {
    Ed25519,
    P256,
}

/// How long an operator waits for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(command: &HsmCommand) -> u8 {
    let outcome = match command {
        HsmCommand::Doctor(arguments) => doctor(arguments),
        HsmCommand::Keygen(arguments) => keygen(arguments),
        HsmCommand::List(arguments) => list(arguments),
        HsmCommand::Selftest(arguments) => selftest(arguments),
        HsmCommand::Bench(arguments) => bench(arguments),
        HsmCommand::Ceremony(arguments) => super::hsm_ceremony::run(arguments),
        HsmCommand::Backup(arguments) => super::hsm_backup::backup(arguments),
        HsmCommand::Restore(arguments) => super::hsm_backup::restore(arguments),
        HsmCommand::VerifyBackup(arguments) => return super::hsm_backup::verify(arguments),
        HsmCommand::Csr(arguments) => super::hsm_csr::run(arguments),
        HsmCommand::VerifyTranscript(arguments) => return super::hsm_transcript::run(arguments),
        HsmCommand::Unlock(arguments) => return super::control_client::unlock(arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(Failure::Hsm(error)) => {
            complain(&error);
            error.exit_code()
        }
        Err(Failure::Input(problem)) => {
            complain(problem);
            EXIT_INPUT
        }
    }
}

pub(super) enum Failure {
    Hsm(HsmError),
    Input(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hsm(error) => error.fmt(f),
            Self::Input(problem) => f.write_str(problem),
        }
    }
}

impl<E: Into<HsmError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Hsm(error.into())
    }
}

/// A token as named on the command line.
pub(super) struct Named {
    module: PathBuf,
    uri: Pkcs11Uri,
    pin: PinPolicy,
}

impl TokenArguments {
    pub(super) fn json(&self) -> bool {
        self.output.json
    }

    pub(super) fn resolve(&self) -> Result<Named, Failure> {
        let uri = Pkcs11Uri::parse(&self.uri, UriRules::Production)?;
        let module = match (&self.module, &uri.module_path) {
            (Some(module), None) => module.clone(),
            (None, Some(module)) => module.clone(),
            (Some(module), Some(named)) if module == named => module.clone(),
            (Some(_), Some(_)) => {
                return Err(Failure::Input(
                    "--module and module-path of the URI name different libraries".to_owned(),
                ));
            }
            (None, None) => {
                return Err(Failure::Input("name the PKCS#11 library by --module or module-path".to_owned()));
            }
        };
        let pin = PinPolicy {
            source: uri.pin_source.clone().unwrap_or(PinSource::Operator),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            guard_folder: self.state.clone(),
        };
        Ok(Named { module, uri, pin })
    }
}

impl Named {
    pub(super) fn admin(&self) -> Result<Admin, Failure> {
        if self.uri.pin_source.is_none() {
            let advice =
                "say where the PIN is: ?pin-source=file:/PATH, credential:NAME or fd:NUMBER in the URI";
            return Err(Failure::Input(advice.to_owned()));
        }
        Ok(Admin::open(&self.module, &self.uri.token_only(), &self.pin)?)
    }

    /// The security officer, whose PIN is where `source` says.
    fn officer(&self, source: &str) -> Result<Officer, Failure> {
        // A bare word would be a credential's name, and would be shown: it may be the PIN.
        let named = Some(source).filter(|text| text.contains(':')).and_then(PinSource::parse);
        let source = named.filter(|source| *source != PinSource::Operator).ok_or_else(|| {
            let advice =
                "--so-pin-source takes file:/PATH, credential:NAME or fd:NUMBER, never the PIN itself";
            Failure::Input(advice.to_owned())
        })?;
        let pin = PinPolicy { source, ..self.pin.clone() };
        Ok(Officer::open(&self.module, &self.uri.token_only(), &pin)?)
    }

    /// The key that the URI names, without PIN and module.
    pub(super) fn key(&self) -> Result<Pkcs11Uri, Failure> {
        self.uri.require_object()?;
        Ok(Pkcs11Uri { pin_source: None, module_path: None, ..self.uri.clone() })
    }
}

fn doctor(arguments: &DoctorArguments) -> Result<u8, Failure> {
    let named = arguments.token.resolve()?;
    let admin = named.admin()?;
    let report = admin.examine()?;
    let signed = match &arguments.sign_with {
        Some(label) => {
            let key = Pkcs11Uri { object: Some(label.clone()), id: None, ..named.uri.token_only() };
            Some(admin.sign_report(&key, &report)?)
        }
        None => None,
    };
    if arguments.token.output.json {
        print_line(report_json(&report, signed.as_ref()));
    } else {
        print_line(report.to_string().trim_end());
        if let Some((public_key, signature)) = signed {
            print_line(format_args!("signed by {} {}", hex(&public_key), hex(&signature)));
        }
    }
    if report.is_fit() {
        return Ok(EXIT_YES);
    }
    complain("the token is not fit for production keys");
    Ok(EXIT_NO)
}

fn report_json(report: &Report, signed: Option<&([u8; 32], [u8; 64])>) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({"subject": finding.subject, "verdict": finding.verdict.name(), "detail": finding.detail})
        })
        .collect();
    json!({
        "token": report.token,
        "module": report.module,
        "fit": report.is_fit(),
        "findings": findings,
        // Over "edgate-hsm report", NUL, and `text`.
        "text": report.to_string(),
        "public_key": signed.map(|(public_key, _)| hex(public_key)),
        "signature": signed.map(|(_, signature)| hex(signature)),
    })
}

fn keygen(arguments: &KeygenArguments) -> Result<u8, Failure> {
    let named = arguments.token.resolve()?;
    let purpose = arguments.purpose.purpose();
    let name = KeyName::new(purpose, &arguments.name)
        .ok_or_else(|| Failure::Input("--name takes 1 to 64 of A-Z a-z 0-9 . _ -".to_owned()))?;
    let name = match arguments.algorithm {
        None => name,
        Some(algorithm) => name.with_algorithm(algorithm.algorithm()).ok_or_else(|| {
            Failure::Input(format!("{purpose} keys are not of that algorithm; leave --algorithm out"))
        })?,
    };
    let name = match arguments.wrappable {
        false => name,
        true => name.wrappable().ok_or_else(|| {
            Failure::Input(format!("--wrappable is for keys that sign; {purpose} keys stay in their token"))
        })?,
    };
    let key = match (&arguments.so_pin_source, purpose) {
        (Some(source), Purpose::Backup) => named.officer(source)?.make_backup_key(&name)?,
        (Some(_), _) => {
            return Err(Failure::Input(
                "--so-pin-source is for --purpose backup; the user makes all other keys".to_owned(),
            ));
        }
        (None, _) => named.admin()?.generate(&name)?,
    };
    if arguments.token.output.json {
        print_line(json!({
            "uri": key.uri.to_string(),
            "purpose": purpose.name(),
            "public_key": key.public_key.map(|key| key.to_string()),
            "refused": key.refused,
        }));
    } else {
        print_line(&key.uri);
        if let Some(public_key) = key.public_key {
            print_line(format_args!("public key {public_key}"));
        }
        for refused in key.refused {
            print_line(format_args!("the token does not take {refused}"));
        }
    }
    Ok(EXIT_YES)
}

fn list(arguments: &TokenArguments) -> Result<u8, Failure> {
    let named = arguments.resolve()?;
    if named.uri.token.is_none() && named.uri.serial.is_none() {
        for token in edgate_hsm::tokens(&named.module)? {
            let flags = token.flags;
            if arguments.output.json {
                print_line(json!({
                    "uri": token.uri.to_string(),
                    "sessions_max": token.sessions_max,
                    "pin_count_low": flags.pin_count_low,
                    "pin_final_try": flags.pin_final_try,
                    "pin_locked": flags.pin_locked,
                    "write_protected": flags.write_protected,
                }));
            } else {
                let state = match (flags.pin_locked, flags.pin_final_try, flags.pin_count_low) {
                    (true, _, _) => "  PIN LOCKED",
                    (_, true, _) => "  one PIN try left",
                    (_, _, true) => "  a wrong PIN was entered",
                    _ => "",
                };
                print_line(format_args!("{}{state}", token.uri));
            }
        }
        return Ok(EXIT_YES);
    }
    for key in named.admin()?.keys()? {
        let public_key = key.public_key.map(|key| key.to_string());
        if arguments.output.json {
            print_line(json!({
                "uri": key.uri.to_string(),
                "algorithm": key.algorithm,
                "public_key": public_key,
                "extractable": key.extractable,
            }));
        } else {
            let extractable = if key.extractable == Some(true) { "  EXTRACTABLE" } else { "" };
            let shown = public_key.map(|text| format!("  {text}")).unwrap_or_default();
            print_line(format_args!("{}  {}{shown}{extractable}", key.uri, key.algorithm));
        }
    }
    Ok(EXIT_YES)
}

fn selftest(arguments: &TokenArguments) -> Result<u8, Failure> {
    let named = arguments.resolve()?;
    let key = named.key()?;
    let started = Instant::now();
    let public_key = named.admin()?.selftest(&key)?;
    let elapsed_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    if arguments.output.json {
        print_line(json!({
            "uri": key.to_string(),
            "public_key": public_key.to_string(),
            "elapsed_us": elapsed_us,
        }));
    } else {
        print_line(format_args!("{key} signs as {public_key} ({elapsed_us} us with login)"));
    }
    Ok(EXIT_YES)
}

fn bench(arguments: &BenchArguments) -> Result<u8, Failure> {
    let named = arguments.token.resolve()?;
    let key = named.key()?;
    let lasting = Duration::from_secs(arguments.seconds.clamp(1, 600));
    let admin = named.admin()?;
    // Three calls are timed with Ed25519 only.
    let paths = match admin.selftest(&key)?.algorithm() {
        Algorithm::Ed25519 => Some(admin.sign_paths(&key, 200)?),
        Algorithm::P256 => None,
    };
    let bare = admin.raw_rate(&key, arguments.workers.max(1), lasting)?;
    let settings = PoolSettings {
        workers: arguments.workers,
        checks: release_checks(Engine::Auto),
        ..PoolSettings::new(named.module.clone(), named.uri.token_only(), named.pin)
    };
    let pool = Pool::start(settings)?;
    let pooled = pooled_rate(&pool, &key, lasting)?;
    let us = |duration: Duration| duration.as_secs_f64() * 1e6;
    if arguments.token.output.json {
        print_line(json!({
            "workers": arguments.workers,
            "bare_per_second": bare,
            "pool_per_second": pooled,
            "two_calls_us": paths.as_ref().map(|paths| us(paths.two_calls)),
            "three_calls_us": paths.as_ref().and_then(|paths| paths.three_calls).map(us),
        }));
    } else {
        if let Some(paths) = paths {
            print_line(format_args!("one signature: {:.0} us", us(paths.two_calls)));
        }
        print_line(format_args!("{} threads, bare module: {bare:.0} signatures/s", arguments.workers));
        print_line(format_args!("{} workers, verified: {pooled:.0} signatures/s", arguments.workers));
    }
    Ok(EXIT_YES)
}

/// The key's label says what it is for; a pool will not use it for anything else.
fn pooled_rate(pool: &Pool, key: &Pkcs11Uri, lasting: Duration) -> Result<f64, Failure> {
    fn measure<P: KeyPurpose>(pool: &Pool, key: &Pkcs11Uri, lasting: Duration) -> Result<f64, HsmError> {
        let signer = pool.signing_key::<P>(key, None, Instant::now() + PATIENCE)?;
        edgate_hsm::pooled_rate(&signer, Callers { count: 64, together: 1 }, lasting)
    }
    match measure::<TokenSigning>(pool, key, lasting) {
        Err(HsmError::KeyInUse { found: Purpose::AuditCheckpoint, .. }) => {
            Ok(measure::<AuditCheckpoint>(pool, key, lasting)?)
        }
        Err(HsmError::KeyInUse { found: Purpose::TlsServer, .. }) => {
            Ok(measure::<TlsServer>(pool, key, lasting)?)
        }
        other => Ok(other?),
    }
}

impl KeyAlgorithm {
    const fn algorithm(self) -> Algorithm {
        match self {
            Self::Ed25519 => Algorithm::Ed25519,
            Self::P256 => Algorithm::P256,
        }
    }
}

impl KeyUse {
    const fn purpose(self) -> Purpose {
        match self {
            Self::AuditCheckpoint => Purpose::AuditCheckpoint,
            Self::Backup => Purpose::Backup,
            Self::TlsServer => Purpose::TlsServer,
            Self::TokenSigning => Purpose::TokenSigning,
            Self::Wrapping => Purpose::Wrapping,
        }
    }
}
