//! A SoftHSM of a test's own.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Makes a token labelled `edgate` in `dir`, configured by `softhsm2.conf` there; its PKCS#11 URI.
pub(crate) fn make_token(dir: &Path, pin: &str) -> String {
    let (tokens, conf) = (dir.join("tokens"), dir.join("softhsm2.conf"));
    fs::create_dir(&tokens).unwrap();
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(&conf, text).unwrap();
    let util = |arguments: &[&str]| {
        let output =
            Command::new("softhsm2-util").env("SOFTHSM2_CONF", &conf).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    util(&["--init-token", "--free", "--label", "edgate", "--so-pin", "12345678", "--pin", pin]);
    let shown = util(&["--show-slots"]);
    let mut serials =
        shown.lines().filter_map(|line| line.trim().strip_prefix("Serial number:")).map(str::trim);
    let serial = serials.find(|serial| !serial.is_empty()).unwrap();
    format!("pkcs11:token=edgate;serial={serial}")
}
