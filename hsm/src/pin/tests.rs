use std::fs::{self, Permissions};
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_pin_file_loses_one_line_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pin");
    for (content, pin) in [("1234\n", "1234"), ("1234", "1234"), ("12 34\r\n", "12 34")] {
        write(&path, content.as_bytes(), 0o400);
        assert_eq!(PinSource::File(path.clone()).read(None).unwrap().as_str(), pin);
    }
}

#[test]
fn what_is_no_pin_is_refused_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pin");
    let long = [b'9'; 256];
    let cases: [(&[u8], &str); 6] = [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"99\n99\n", "control characters"),
        (b"99\0", "control characters"),
        (b"99\xff", "not UTF-8"),
        (&long, "longer than 255 bytes"),
    ];
    for (content, problem) in cases {
        write(&path, content, 0o600);
        let message = PinSource::File(path.clone()).read(None).unwrap_err().to_string();
        assert!(message.contains(problem) && !message.contains("99"), "{message}");
    }
}

#[test]
fn a_lax_file_a_link_a_folder_and_a_pipe_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pin");
    for mode in [0o604, 0o640, 0o444, 0o1400, 0o500] {
        write(&path, b"1234", mode);
        let error = PinSource::File(path.clone()).read(None).unwrap_err();
        assert!(matches!(error, PinError::Permissions { mode: found, .. } if found == mode), "{mode:o}");
    }
    write(&path, b"1234", 0o400);
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(
        PinSource::File(link).read(None),
        Err(PinError::NotAFile { found: "a symbolic link", .. })
    ));
    let here = PinSource::File(folder.path().to_owned());
    assert!(matches!(here.read(None), Err(PinError::NotAFile { found: "a folder", .. })));
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(matches!(PinSource::File(pipe).read(None), Err(PinError::NotAFile { .. })));
    assert!(matches!(PinSource::File("/nonexistent/pin".into()).read(None), Err(PinError::File { .. })));
}

#[test]
fn a_credential_is_found_in_the_folder_of_systemd() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("hsm-pin"), b"1234", 0o440);
    let source = PinSource::parse("credential:hsm-pin").unwrap();
    assert_eq!(source.read(Some(folder.path())).unwrap().as_str(), "1234");
    assert!(matches!(source.read(None), Err(PinError::NoCredentials { .. })));
    for name in [
        "credential:../pin",
        "credential:",
        "credential:.hidden",
        "credential:a/b",
        "|cat pin",
        "fd:1",
        "fd:03",
    ] {
        assert_eq!(PinSource::parse(name), None, "{name}");
    }
}

#[test]
fn a_descriptor_of_a_file_can_be_read_at_each_login() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"1234\n").unwrap();
    file.rewind().unwrap();
    let source = PinSource::parse(&format!("fd:{}", file.as_raw_fd())).unwrap();
    assert_eq!(source.read(None).unwrap().as_str(), "1234");
    assert_eq!(source.read(None).unwrap().as_str(), "1234");
}

#[test]
fn a_pin_for_the_operator_to_supply_is_not_read_anywhere() {
    assert!(matches!(PinSource::parse("operator:").unwrap().read(None), Err(PinError::Operator)));
}
