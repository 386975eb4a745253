//! A SoftHSM of a test's own.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Makes a token labelled `edgate` in `dir`, configured by `softhsm2.conf` there; its PKCS#11 URI.
pub(crate) fn make_token(dir: &Path, pin: &str) -> String {
    let tokens = dir.join("tokens");
    fs::create_dir(&tokens).unwrap();
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(dir.join("softhsm2.conf"), text).unwrap();
    add_token(dir, "edgate", pin)
}

/// One more token beside those in `dir`.
pub(crate) fn add_token(dir: &Path, label: &str, pin: &str) -> String {
    util(dir, &["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", pin]);
    let shown = util(dir, &["--show-slots"]);
    let values = |name: &'static str| {
        shown.lines().filter_map(move |line| line.trim().strip_prefix(name)).map(str::trim)
    };
    let mut slots = values("Serial number:").zip(values("Label:"));
    let (serial, _) = slots.find(|(_, found)| *found == label).unwrap();
    format!("pkcs11:token={label};serial={serial}")
}

/// Runs `softhsm2-util` on the tokens in `dir`; what it said.
pub(crate) fn util(dir: &Path, arguments: &[&str]) -> String {
    let conf = dir.join("softhsm2.conf");
    let output = Command::new("softhsm2-util").env("SOFTHSM2_CONF", &conf).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
