//! A finished segment in its small form, as somebody hands it back years later.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use edgate::audit::archive::archive;
use edgate::audit::record::Hash;
use edgate::audit::verify::Mode;
use sha2::{Digest as _, Sha256};

use super::bundle::{entries, with_sample};
use super::log::verify;

/// The archive of the sample's first segment, and the segment itself.
const ARCHIVE: &str = "0000000001.arc";
const SEGMENT: &str = "0000000001.seg";

/// Bytes of the header of a file, and of a block.
const FILE_HEADER_BYTES: usize = 32;
const BLOCK_HEADER_BYTES: usize = 96;

/// An archive may stand for a segment of a GiB, which is more memory than a body may take.
const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// A log with any bytes in the place of an archive is called whole only if they restore what was signed.
///
/// The first byte says what follows: an archive, or what its one block decompresses to, whose digest is then made to fit.
pub fn audit_archive(input: &[u8]) {
    let [kind, bytes @ ..] = input else { return };
    let given = if kind & 1 == 1 { bytes.to_vec() } else { with_content(bytes) };
    let claims =
        given.get(16..24).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    if claims > SEGMENT_BYTES_MAX {
        return;
    }
    with_sample(|dir| {
        fs::remove_file(dir.join(SEGMENT)).expect("our own file");
        fs::write(dir.join(ARCHIVE), &given).expect("the folder takes files");
        let report = verify(dir, Mode::Full, false).expect("a log is there");
        if report.breaks.is_empty() {
            let hashes: Vec<Hash> = entries(dir).map(|entry| entry.hash).collect();
            assert_eq!(hashes, known().hashes, "{report:?}");
        } else {
            assert!(given != known().archive, "the archive as it was made is broken: {report:?}");
        }
    });
}

struct Known {
    archive: Vec<u8>,
    hashes: Vec<Hash>,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        with_sample(|dir| {
            let hashes = entries(dir).map(|entry| entry.hash).collect();
            archive(dir, None, &[1], &mut |_| {}).expect("a finished segment");
            Known { archive: fs::read(dir.join(ARCHIVE)).expect("it was made"), hashes }
        })
    })
}

/// The known archive with another content of its block.
fn with_content(content: &[u8]) -> Vec<u8> {
    let frame = zstd::bulk::compress(content, 1).expect("memory to memory");
    let mut bytes = known().archive[..FILE_HEADER_BYTES + BLOCK_HEADER_BYTES].to_vec();
    let block = &mut bytes[FILE_HEADER_BYTES..];
    let len = |len: usize| u32::try_from(len).expect("a small input").to_le_bytes();
    block[0..4].copy_from_slice(&len(frame.len()));
    block[4..8].copy_from_slice(&len(content.len()));
    block[64..96].copy_from_slice(&Sha256::digest(&frame));
    bytes.extend_from_slice(&frame);
    bytes
}

/// Writes the seeds: the archive as it is made, and what is in it.
///
/// # Panics
/// When the sample log is none.
pub fn write_archives(to: &Path) {
    let archive = &known().archive;
    let frame = &archive[FILE_HEADER_BYTES + BLOCK_HEADER_BYTES..];
    let content = zstd::bulk::decompress(frame, 1 << 20).expect("our own frame");
    for (name, kind, bytes) in [("archive", 1, &archive[..]), ("content", 0, &content[..])] {
        fs::write(to.join(name), [&[kind], bytes].concat()).expect("the corpus can be written");
    }
}
