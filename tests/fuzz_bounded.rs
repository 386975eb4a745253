//! Every fuzz body on its corpus and on mutations of it: a short, repeatable run of what `tests/fuzz` runs for hours.
//!
//! `EDGATE_FUZZ_ITERATIONS` sets how many mutations a body gets, `EDGATE_SEED` which ones. An input that breaks a
//! promise is kept as a file, and the file's place is printed: put it into `tests/fuzz/corpus/<target>/`, where every
//! run begins.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[expect(
    unreachable_pub,
    reason = "the bodies are also a library, for the programs in tests/fuzz/fuzz_targets"
)]
#[path = "fuzz/bodies/mod.rs"]
mod bodies;

/// The longest one input may take. A quadratic loop over the longest input takes longer, a busy machine does not.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);

/// The most memory one input may take, of whatever length: the longest input many times over.
const INPUT_MEMORY_BYTES_MAX: u64 = 24 << 20;

/// The longest input.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Small, fast and seeded: xorshift64*.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // SplitMix64's finalizer, so that neighbouring seeds have nothing in common; never zero.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ mixed >> 31) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which must not be 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % end
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

/// A target's corpus, and the words in it: mutations put whole words where others stood.
struct Corpus {
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Corpus {
    fn load(target: &str) -> Self {
        let folder = fuzz_folder().join("corpus").join(target);
        let mut seeds = read_folder(&folder);
        assert!(!seeds.is_empty(), "{} has no seeds", folder.display());
        if target == "json" {
            let suite =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/json-testsuite/test_parsing");
            if suite.is_dir() {
                seeds.extend(read_folder(&suite).into_iter().filter(|text| text.len() < 8192));
            } else {
                eprintln!("SKIPPED: JSONTestSuite as further seeds, no folder {}", suite.display());
            }
        }
        let mut words: Vec<Vec<u8>> = seeds
            .iter()
            .flat_map(|seed| seed.split_inclusive(|byte| !byte.is_ascii_alphanumeric()))
            .filter(|word| (2..=64).contains(&word.len()))
            .map(<[u8]>::to_vec)
            .collect();
        words.sort_unstable();
        words.dedup();
        Self { seeds, words }
    }

    fn mutate(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.seeds[random.below(self.seeds.len())].clone();
        for _ in 0..=random.below(5) {
            self.step(&mut bytes, random);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn step(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below((bytes.len() - at).min(32) + 1);
        match random.below(13) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.byte(),
            2 => bytes.insert(at, random.byte()),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let (part, to) = (bytes[at..end].to_vec(), random.below(bytes.len() + 1));
                bytes.splice(to..to, part);
            }
            6 => {
                let other = &self.seeds[random.below(self.seeds.len())];
                let from = random.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            7 | 8 if !self.words.is_empty() => {
                let word = &self.words[random.below(self.words.len())];
                let end = if random.below(2) == 0 { at } else { end };
                bytes.splice(at..end, word.iter().copied());
            }
            9 => {
                const SPECIAL: &[u8] = b"\0\n\r\t \"\\/{}[]:,.=%+-_e0919\x7f\x80\xbf\xc3\xed\xf4\xff";
                let special = SPECIAL[random.below(SPECIAL.len())];
                bytes.splice(at..at, std::iter::repeat_n(special, 1 + random.below(4)));
            }
            // Now and then very much of something: limits must be met as well.
            10 if random.below(16) == 0 => {
                let part = bytes[at..end].repeat(1 + random.below(3000));
                bytes.splice(at..at, part);
            }
            11 if at < bytes.len() && bytes[at].is_ascii_digit() => {
                bytes.splice(at..=at, random.next().to_string().into_bytes());
            }
            12 if random.below(8) == 0 => *bytes = (0..random.below(300)).map(|_| random.byte()).collect(),
            _ => {}
        }
    }
}

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn read_folder(folder: &Path) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort_unstable();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs one body over its corpus and `iterations` mutations, which `EDGATE_FUZZ_ITERATIONS` replaces.
fn run(target: &str, iterations: u64) {
    let (_, body) = bodies::TARGETS.iter().find(|(name, _)| *name == target).expect("a target of this name");
    let corpus = Corpus::load(target);
    let seed = number("EDGATE_SEED").unwrap_or(0x5eed);
    let iterations = number("EDGATE_FUZZ_ITERATIONS").unwrap_or(iterations);
    println!("{target}: {} seeds and {iterations} mutations, EDGATE_SEED={seed}", corpus.seeds.len());
    corpus.seeds.iter().for_each(|input| run_one(target, *body, input));
    for i in 0..iterations {
        let mut random = Random::new(seed ^ i.rotate_left(32));
        run_one(target, *body, &corpus.mutate(&mut random));
    }
}

fn run_one(target: &str, body: fn(&[u8]), input: &[u8]) {
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let memory = allocation_counter::measure(|| body(input)).bytes_max;
        assert!(memory <= INPUT_MEMORY_BYTES_MAX, "the input took {memory} bytes");
        let took = started.elapsed();
        assert!(took <= INPUT_TIME_MAX, "the input took {took:?}");
    }));
    if let Err(panic) = result {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
        let place =
            fs::write(&kept, input).map_or_else(|error| error.to_string(), |()| kept.display().to_string());
        let shown = &input[..input.len().min(2000)];
        eprintln!("{target} fails on {} bytes, kept in {place}:\n{}", input.len(), shown.escape_ascii());
        resume_unwind(panic);
    }
}

/// One test per target: its name says what must hold, the number how many mutations fit an ordinary test run.
macro_rules! bounded {
    ($($sentence:ident: $target:literal, $iterations:literal;)+) => {
        $(#[test] fn $sentence() { run($target, $iterations); })+

        const RUN_HERE: &[&str] = &[$($target),+];
    };
}

bounded! {
    a_frame_of_an_agent_says_nothing_that_steers_a_terminal: "agent_frame", 20_000;
    an_archive_restores_what_was_signed_or_is_named: "audit_archive", 1_500;
    a_body_of_a_record_has_one_spelling: "audit_body", 20_000;
    a_bundle_shows_nothing_but_the_log_it_is_of: "audit_bundle", 2_000;
    a_copy_is_whole_only_as_the_log_that_was_signed: "audit_copy", 2_000;
    a_changed_log_is_never_called_whole: "audit_log", 1_500;
    a_checkpoint_opens_only_as_it_was_signed: "audit_note", 4_000;
    a_proof_has_one_spelling_and_proves_only_what_was_signed: "audit_proof", 6_000;
    a_header_of_a_record_is_read_as_it_was_written: "audit_record", 10_000;
    a_log_is_recovered_whole_or_not_at_all: "audit_recovery", 300;
    a_wrapped_key_has_one_spelling_and_one_name: "audit_sealed_key", 6_000;
    a_stored_tree_is_read_as_it_was_written: "audit_tree", 10_000;
    claims_are_decided_as_a_slow_reading_of_the_rules_decides: "claims", 6_000;
    a_token_has_one_spelling: "compact_jws", 10_000;
    an_accepted_configuration_keeps_what_the_daemon_relies_on: "config", 4_000;
    a_delegation_says_one_thing_and_nothing_that_is_not_known: "delegation", 2_000;
    a_forward_authentication_query_is_understood_or_refused: "forward_auth", 10_000;
    a_backup_of_a_key_has_one_form_and_is_whole_or_refused: "hsm_backup", 4_000;
    a_json_text_is_judged_as_another_library_judges_it: "json", 20_000;
    a_key_set_is_usable_or_says_why_not: "jwks", 6_000;
    a_pkcs11_uri_has_one_form_and_never_shows_its_pin: "pkcs11_uri", 10_000;
    a_record_has_one_name: "record_id", 20_000;
    a_request_body_ends_where_it_ends_however_it_arrives: "request_body", 10_000;
    a_request_head_means_the_same_to_every_reader: "request_head", 20_000;
    a_verify_call_means_what_another_library_reads_in_it: "verify_call", 10_000;
    a_signed_event_is_believed_whole_or_not_at_all: "security_event", 10_000;
    a_status_list_is_bounded_and_says_nothing_beyond_its_end: "status_list", 4_000;
    a_witness_cosigns_what_continues_and_convicts_nobody_who_signed_once: "witness_request", 4_000;
}

#[test]
fn every_body_has_its_program_its_corpus_and_its_bounded_run() {
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    let mut names: Vec<&str> = bodies::TARGETS.iter().map(|(name, _)| *name).collect();
    for name in &names {
        let program = fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            program.contains(&format!("edgate_fuzz::{name}(")),
            "fuzz_targets/{name}.rs runs another body"
        );
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is missing in tests/fuzz/Cargo.toml"
        );
    }
    let mut here = RUN_HERE.to_vec();
    names.sort_unstable();
    here.sort_unstable();
    assert_eq!(names, here);
    let listed = |folder: &str| {
        let files = fs::read_dir(fuzz_folder().join(folder)).unwrap();
        let mut found: Vec<String> = files
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort_unstable();
        found
    };
    // `tests/fuzz_verify.rs` runs this one: its inputs are structures, made anew each time.
    let programs = [names.as_slice(), &["verify"]].concat();
    let mut listed_programs = listed("fuzz_targets");
    listed_programs.sort_unstable();
    let mut programs: Vec<String> = programs.into_iter().map(str::to_owned).collect();
    programs.sort_unstable();
    assert_eq!(listed_programs, programs);
    assert_eq!(listed("corpus"), programs);
}

/// `cargo test --test fuzz_bounded -- --ignored` writes the log that `audit_log` and `audit_recovery` change. Only a
/// new version of the record format is a reason to: the sample stands for the logs that are out there.
#[test]
#[ignore = "writes tests/fuzz/log anew"]
fn the_sample_log_is_written() {
    bodies::write_sample(&fuzz_folder().join("log"));
}

/// `cargo test --test fuzz_bounded -- --ignored the_sample_proofs` writes the seeds of `audit_proof`.
#[test]
#[ignore = "writes tests/fuzz/corpus/audit_proof anew"]
fn the_sample_proofs_are_written() {
    bodies::write_proofs(&fuzz_folder().join("corpus/audit_proof"));
}

/// `cargo test --test fuzz_bounded -- --ignored the_sample_requests` writes the seeds of `witness_request`.
#[test]
#[ignore = "writes tests/fuzz/corpus/witness_request anew"]
fn the_sample_requests_are_written() {
    bodies::write_requests(&fuzz_folder().join("corpus/witness_request"));
}

/// `cargo test --test fuzz_bounded -- --ignored the_sample_bundles` writes the seeds of `audit_bundle`.
#[test]
#[ignore = "writes tests/fuzz/corpus/audit_bundle anew"]
fn the_sample_bundles_are_written() {
    bodies::write_bundles(&fuzz_folder().join("corpus/audit_bundle"));
}

/// `cargo test --test fuzz_bounded -- --ignored the_sample_copies` writes the seeds of `audit_copy`.
#[test]
#[ignore = "writes tests/fuzz/corpus/audit_copy anew"]
fn the_sample_copies_are_written() {
    bodies::write_copies(&fuzz_folder().join("corpus/audit_copy"));
}

/// `cargo test --test fuzz_bounded -- --ignored the_sample_archives` writes the seeds of `audit_archive`.
#[test]
#[ignore = "writes tests/fuzz/corpus/audit_archive anew"]
fn the_sample_archives_are_written() {
    bodies::write_archives(&fuzz_folder().join("corpus/audit_archive"));
}
