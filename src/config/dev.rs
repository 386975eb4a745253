//! The configuration of `serve --dev`.

use std::path::{Path, PathBuf};

use super::Config;

/// A token that was prepared for `--dev --softhsm`.
#[derive(Debug, Clone)]
pub struct DevToken {
    /// The PKCS#11 library.
    pub module: PathBuf,
    /// The token, as a URI.
    pub token: String,
    /// The file with its PIN.
    pub pin: PathBuf,
    /// The key that signs tokens.
    pub signing: DevKey,
    /// The key that signs checkpoints.
    pub checkpoint: DevKey,
}

/// A key in that token.
#[derive(Debug, Clone)]
pub struct DevKey {
    /// Its URI.
    pub uri: String,
    /// Its public half, in hexadecimal.
    pub public_key: String,
}

impl Config {
    /// The configuration of `serve --dev`: everything in the folder `dir`, listening on loopback, keys in files or in the
    /// token that was prepared.
    ///
    /// # Panics
    /// If our own text is not a valid configuration.
    #[must_use]
    pub fn dev(dir: &Path, data_port: u16, control_port: u16, token: Option<&DevToken>) -> Self {
        let path = |name: &str| dir.join(name).display().to_string();
        let (hsm, checkpoint, signing) = match token {
            None => (
                String::new(),
                format!("checkpoint_key_file = {:?}\n", path("checkpoint.key")),
                format!("key_file = {:?}\n", path("signing.key")),
            ),
            Some(DevToken { module, token, pin, signing, checkpoint }) => (
                format!(
                    "[hsm]\nmodule = {:?}\ntoken = {token:?}\npin_source = {:?}\n",
                    module.display().to_string(),
                    format!("file:{}", pin.display())
                ),
                format!(
                    "checkpoint_key = {:?}\ncheckpoint_public_key = {:?}\n",
                    checkpoint.uri, checkpoint.public_key
                ),
                format!("key = {:?}\npublic_key = {:?}\n", signing.uri, signing.public_key),
            ),
        };
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:{data_port}\"]\n\
             [control]\nlisten = \"127.0.0.1:{control_port}\"\n\
             [state]\ndatabase = {database:?}\n\
             {hsm}\
             [audit]\ndir = {audit:?}\norigin = \"edgate.dev/log\"\nsegment_mib = 16\nreceipts = true\n{checkpoint}\
             [signing]\n{signing}issuer = \"dev\"\ndefault_audience = \"dev\"\n\
             [[issuers]]\nname = \"dev\"\ntenant = \"dev\"\nissuer = \"https://edgate.dev\"\n\
             audiences = [\"dev\"]\nkeys = \"signing_key\"\n",
            database = path("state.db"),
            audit = path("audit"),
        );
        Self::parse(&text, Path::new("--dev")).expect("the dev configuration is valid")
    }
}
