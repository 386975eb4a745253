//! Checking a bundle: offline, without a clock, with nothing but what the checker brings.

use std::{cell::RefCell, collections::BTreeSet, io, path::Path};

use sha2::{Digest as _, Sha256};

use super::{
    CHECKPOINT, DECISION_END, DECISIONS, PART_PROOF, POLICY, Part, SEGMENTS, SINCE, SINCE_PROOF,
    STAMP_PROOF_END, STAMPS, STATE, Summary, TEXT_BYTES_MAX,
    container::{Container, MANIFEST},
    fault::{BundleClass, CheckError, broken, refused},
    manifest::{MANIFEST_BYTES_MAX, Manifest, Member},
    policy::Policy,
};
use crate::audit::{
    cosignature::{Cosigned, WitnessKey, cosignatures},
    folder::{SegmentFile, segment_index, segment_name},
    note::{Checkpoint, CheckpointKey},
    proof::{
        ConsistencyProof, Expected, PROOF_BYTES_MAX, ProofClass, ProvenRecord, is_consistent, open_note,
        verify_consistency, verify_inclusion,
    },
    record::Hash,
    recover::FIRST_SEGMENT,
    settings::SEGMENT_BYTES_MAX,
    timestamp::{Authorities, Stamp, StampExpected, TOKEN_BYTES_MAX, stamp_files, verify_stamp},
    verify::{Break, Class, Options, Trusted, VerifyProgress, verify_part},
};

/// What a checker brings along.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// Keys that may have signed checkpoints.
    pub keys: &'a [CheckpointKey],
    /// The log's name; `None`: the name of the key.
    pub origin: Option<&'a str>,
    /// A checkpoint kept from earlier, which the bundle's log must continue.
    pub kept: Option<&'a [u8]>,
    /// Witnesses each of which must have cosigned the signed state.
    pub witnesses: &'a [WitnessKey],
    /// Whose timestamps count. With any, there must be a timestamp, and each must hold.
    pub authorities: Option<&'a Authorities>,
    /// The policy that timestamps must have been given under.
    pub stamp_policy: Option<&'a str>,
}

/// What a bundle established.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The signed state, and what is held to it.
    pub summary: Summary,
    /// Who cosigned it, of the witnesses that were asked for.
    pub cosigned: Vec<Cosigned>,
    /// The older state that it continues.
    pub since: Option<Checkpoint>,
    /// The decisions shown by themselves, in the log's order, with their members.
    pub decisions: Vec<(String, ProvenRecord)>,
    /// The timestamps that hold, each with the number of records that were there then.
    pub stamps: Vec<(u64, Stamp)>,
    /// What is worth knowing about the records and no break.
    pub notices: Vec<Break>,
    /// What is there and could not be checked, and what nobody vouches for.
    pub not_checked: Vec<String>,
    /// SHA-256 of the manifest before the log's answer is in it: what an EXPORT record holds.
    pub digest: Hash,
}

/// Checks the bundle at `path`. Reads each member once, writes nothing, asks no clock.
///
/// # Errors
/// [`CheckError::Refused`] with the first reason why it proves nothing.
pub fn verify_bundle(
    path: &Path,
    trust: &Trust<'_>,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Verified, CheckError> {
    let container = Container::open(path)?;
    let manifest = container.read(MANIFEST, MANIFEST_BYTES_MAX)?;
    let manifest = std::str::from_utf8(&manifest).ok().and_then(Manifest::parse);
    let manifest = manifest.ok_or_else(|| {
        BundleClass::Proof(ProofClass::Malformed).at(MANIFEST, "not a manifest of a bundle")
    })?;
    let members = Members::of(&container, &manifest)?;
    let expected = Expected { keys: trust.keys, origin: trust.origin, id: None };
    let check = Check { members, manifest: &manifest, expected };
    let (log, note) = check.checkpoint()?;
    let cosigned = cosigned(&note, trust.witnesses)?;
    let policy = check.policy()?;
    let since = check.since(&note)?;
    if let Some(kept) = trust.kept {
        check.kept(kept, since.as_ref(), &log)?;
    }
    let (part, notices) = check.part(&log, &note, progress)?.unzip();
    let decisions = check.decisions(&note)?;
    if part.is_none() && decisions.is_empty() {
        return Err(BundleClass::MemberMissing.at("", "it holds neither segments nor decisions"));
    }
    let summary = Summary { log, part, decisions: decisions.len() as u64 };
    if summary != manifest.summary {
        let detail = "what it says of the log is not what the other members show";
        return Err(BundleClass::MemberAltered.at(MANIFEST, detail));
    }
    let stamps = check.stamps(trust, &note)?;
    check.members.all_were_read()?;
    let mut not_checked = not_checked(trust, &manifest, &policy, &note);
    not_checked.extend(stamps.unjudged);
    Ok(Verified {
        summary,
        cosigned,
        since,
        decisions,
        stamps: stamps.held,
        notices: notices.unwrap_or_default(),
        not_checked,
        digest: manifest.digest(),
    })
}

/// The members of a bundle, each read once and held to the manifest.
struct Members<'a> {
    container: &'a Container,
    listed: &'a [Member],
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Members<'a> {
    /// Compares the names and lengths of what is there with what is listed.
    fn of(container: &'a Container, manifest: &'a Manifest) -> Result<Self, CheckError> {
        let listed = &manifest.members;
        for (name, bytes) in container.members().filter(|(name, _)| *name != MANIFEST) {
            let listed = find(listed, name)
                .ok_or_else(|| BundleClass::MemberExtra.at(name, "the manifest does not list it"))?;
            if bytes != listed.bytes {
                let detail = format!("{bytes} bytes, where the manifest says {}", listed.bytes);
                return Err(BundleClass::MemberAltered.at(name, detail));
            }
        }
        let there: BTreeSet<_> = container.members().map(|(name, _)| name).collect();
        match listed.iter().find(|member| !there.contains(member.name.as_str())) {
            Some(missing) => Err(BundleClass::MemberMissing.at(&missing.name, "it is not there")),
            None => Ok(Self { container, listed, read: RefCell::default() }),
        }
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.listed.iter().map(|member| member.name.as_str())
    }

    fn listed(&self, name: &str) -> Option<&'a Member> {
        find(self.listed, name)
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, CheckError> {
        let content = self.container.read(name, bytes_max)?;
        if self.listed(name).is_none_or(|listed| Sha256::digest(&content)[..] != listed.digest) {
            return Err(BundleClass::MemberAltered.at(name, "its digest is not the one in the manifest"));
        }
        self.read.borrow_mut().insert(name.to_owned());
        Ok(content)
    }

    fn text(&self, name: &str) -> Result<String, CheckError> {
        String::from_utf8(self.read(name, TEXT_BYTES_MAX)?)
            .map_err(|_| BundleClass::Proof(ProofClass::Malformed).at(name, "it is not text"))
    }

    fn all_were_read(&self) -> Result<(), CheckError> {
        let read = self.read.borrow();
        match self.names().find(|name| !read.contains(*name)) {
            Some(extra) => Err(BundleClass::MemberExtra.at(extra, "no member of a bundle")),
            None => Ok(()),
        }
    }
}

/// How far the clocks of two authorities may be apart.
const SKEW_SECONDS_MAX: i64 = 300;

/// The member of this name in the list, which is sorted.
fn find<'a>(listed: &'a [Member], name: &str) -> Option<&'a Member> {
    listed.binary_search_by(|member| member.name.as_str().cmp(name)).ok().map(|at| &listed[at])
}

/// The timestamps of a bundle.
#[derive(Default)]
struct Stamps {
    /// Those that hold, by size.
    held: Vec<(u64, Stamp)>,
    /// What is said of those that cannot be judged.
    unjudged: Vec<String>,
}

/// A bundle's claims, one after the other.
struct Check<'a> {
    members: Members<'a>,
    manifest: &'a Manifest,
    expected: Expected<'a>,
}

impl Check<'_> {
    /// The signed state everything is held to, and as it was signed.
    fn checkpoint(&self) -> Result<(Checkpoint, String), CheckError> {
        let note = self.members.text(CHECKPOINT)?;
        let log = open_note(&note, &self.expected).map_err(refused(CHECKPOINT))?;
        if log != self.manifest.summary.log {
            return Err(BundleClass::MemberAltered.at(MANIFEST, "it names another state than the checkpoint"));
        }
        Ok((log, note))
    }

    fn policy(&self) -> Result<Policy, CheckError> {
        let text = self.members.text(POLICY)?;
        Policy::parse(&text)
            .ok_or_else(|| BundleClass::Proof(ProofClass::Malformed).at(POLICY, "not a policy of a bundle"))
    }

    /// The older state, if there is one.
    fn since(&self, note: &str) -> Result<Option<Checkpoint>, CheckError> {
        if self.members.listed(SINCE).is_none() {
            return Ok(None);
        }
        let old = self.members.text(SINCE)?;
        let proof = self.members.text(SINCE_PROOF)?;
        let refused = refused(SINCE_PROOF);
        let proven =
            verify_consistency(proof.as_bytes(), old.as_bytes(), &self.expected).map_err(&refused)?;
        same_note(SINCE_PROOF, &proven.note, note)?;
        Ok(Some(proven.old))
    }

    /// Whether the bundle's log continues what the checker has kept.
    fn kept(&self, kept: &[u8], since: Option<&Checkpoint>, log: &Checkpoint) -> Result<(), CheckError> {
        let in_kept = |refusal: crate::audit::proof::Refusal| {
            BundleClass::Proof(refusal.class)
                .at("", format!("the checkpoint that was kept: {}", refusal.detail))
        };
        let kept = std::str::from_utf8(kept).map_err(|_| ProofClass::Malformed.refuse("it is not text"));
        let kept = kept.and_then(|note| open_note(note, &self.expected)).map_err(in_kept)?;
        let rollback = |detail| Err(BundleClass::Proof(ProofClass::Rollback).at(CHECKPOINT, detail));
        if kept.origin != log.origin {
            let detail =
                format!("the checkpoint that was kept is of {:?}, this one of {:?}", kept.origin, log.origin);
            return Err(BundleClass::Proof(ProofClass::WrongOrigin).at(CHECKPOINT, detail));
        }
        if kept.size > log.size {
            return rollback(format!(
                "{} records were signed before, this log has {}: it was rolled back, or the bundle is older",
                kept.size, log.size
            ));
        }
        let mut states = [Some(log), since].into_iter().flatten();
        match states.find(|state| state.size == kept.size) {
            Some(state) if state.root == kept.root => return Ok(()),
            Some(_) => return rollback(format!("two tree heads of {} records were signed", kept.size)),
            None => {}
        }
        let detail = format!(
            "it proves nothing about the checkpoint of {} records that was kept; ask for a bundle made with --since",
            kept.size
        );
        Err(BundleClass::Unrelated.at("", detail))
    }

    /// The whole records, recomputed and led to the signed state.
    fn part(
        &self,
        log: &Checkpoint,
        note: &str,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Option<(Part, Vec<Break>)>, CheckError> {
        let files = self.segments();
        let (Some(first), Some(last)) = (files.first(), files.last()) else { return Ok(None) };
        let state = (first.index > FIRST_SEGMENT).then(|| self.state(first.index, log)).transpose()?;
        let proof = self.members.read(PART_PROOF, TEXT_BYTES_MAX)?;
        let proof = ConsistencyProof::parse(&proof).map_err(refused(PART_PROOF))?;
        same_note(PART_PROOF, &proof.note, note)?;
        let from = state.as_ref().map_or(0, |state| state.size);
        if proof.old_size <= from || proof.old_size > log.size {
            let detail = format!("it begins at {} of {} records", proof.old_size, log.size);
            return Err(BundleClass::Proof(ProofClass::WrongIndex).at(PART_PROOF, detail));
        }
        let options = Options {
            origin: Some(log.origin.clone()),
            keys: self.expected.keys.to_vec(),
            allow_unsigned: true,
            upto: Some(proof.old_size),
            since: state,
            ..Options::default()
        };
        let mut failed = None;
        let (mut bytes, bytes_total) = (0, files.iter().map(|file| file.bytes).sum());
        let report = verify_part(&files, &options, |file| {
            let name = format!("{SEGMENTS}{}", segment_name(file.index));
            let content = self.members.read(&name, SEGMENT_BYTES_MAX).map_err(|error| {
                failed = Some(error);
                io::Error::other("a member could not be read")
            });
            bytes += file.bytes;
            progress(VerifyProgress { bytes, bytes_total });
            content
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let report = report.map_err(|error| CheckError::io("read", Path::new(SEGMENTS), error))?;
        if let Some(found) = report.breaks.first() {
            return Err(broken(SEGMENTS, found));
        }
        let vouched = report.size == proof.old_size
            && report
                .root
                .is_some_and(|root| is_consistent(report.size, log.size, &root, &log.root, &proof.path));
        if !vouched {
            let detail = format!(
                "records {from}..{} do not lead to the tree head signed at {}",
                report.size, log.size
            );
            return Err(BundleClass::Log(Class::Rewritten).at(SEGMENTS, detail));
        }
        let part = Part { records: from..report.size, segments: (first.index, last.index) };
        // What no checkpoint in the records covers, the bundle's own does.
        let notices = report.notices.into_iter().filter(|notice| notice.class != Class::Unsigned);
        Ok(Some((part, notices.collect())))
    }

    fn segments(&self) -> Vec<SegmentFile> {
        let listed = self.members.listed.iter().filter_map(|member| {
            let index = segment_index(member.name.strip_prefix(SEGMENTS)?)?;
            Some(SegmentFile { index, bytes: member.bytes, finished: false })
        });
        listed.collect()
    }

    /// The tree before the first segment. What it says is vouched for by what follows: the records it is continued with
    /// lead to the signed state only from the true one.
    fn state(&self, first: u64, log: &Checkpoint) -> Result<Trusted, CheckError> {
        let malformed = |detail| BundleClass::Proof(ProofClass::Malformed).at(STATE, detail);
        let state = Trusted::from_text(&self.members.text(STATE)?).ok_or_else(|| malformed("not a state"))?;
        if state.origin != log.origin {
            let detail = format!("it is of {:?}, not of {:?}", state.origin, log.origin);
            return Err(BundleClass::Proof(ProofClass::WrongOrigin).at(STATE, detail));
        }
        if state.segment != first || state.size == 0 {
            return Err(malformed("it is not that before the first segment"));
        }
        Ok(state)
    }

    /// The timestamps, each led to the bundle's end, and judged where authorities are given.
    fn stamps(&self, trust: &Trust<'_>, note: &str) -> Result<Stamps, CheckError> {
        let tokens = self.members.names().filter_map(|name| stamp_files::size_of(name.strip_prefix(STAMPS)?));
        let mut sizes: Vec<_> = tokens.collect();
        sizes.sort_unstable();
        let mut stamps = Stamps::default();
        for size in sizes {
            let proof = self.members.text(&format!("{STAMPS}{size}{STAMP_PROOF_END}"))?;
            let name = format!("{STAMPS}{size}{}", stamp_files::NOTE_END);
            let stamped = self.members.text(&name)?;
            let refused = refused(&name);
            let proven =
                verify_consistency(proof.as_bytes(), stamped.as_bytes(), &self.expected).map_err(&refused)?;
            same_note(&name, &proven.note, note)?;
            let name = format!("{STAMPS}{size}{}", stamp_files::TOKEN_END);
            let token = self.members.read(&name, TOKEN_BYTES_MAX as u64)?;
            if proven.old.size != size {
                return Err(BundleClass::Proof(ProofClass::WrongIndex).at(&name, "it is about another size"));
            }
            let Some(authorities) = trust.authorities else {
                stamps.unjudged.push(format!("{name}: no authority is given (--tsa-ca)"));
                continue;
            };
            // No clock is asked; but a log only grows, so later sizes were stamped later.
            let after = stamps.held.last().map(|(_, before)| before.time - SKEW_SECONDS_MAX);
            let (policy, nonce, before) = (trust.stamp_policy, None, None);
            let expected = StampExpected { authorities, policy, nonce, after, before };
            let stamp = verify_stamp(&token, stamped.as_bytes(), &expected)
                .map_err(|fault| BundleClass::Stamp(fault.class).at(&name, fault.detail))?;
            stamps.held.push((size, stamp));
        }
        if trust.authorities.is_some() && stamps.held.is_empty() {
            return Err(BundleClass::Unstamped.at("", "it holds no timestamp"));
        }
        Ok(stamps)
    }

    fn decisions(&self, note: &str) -> Result<Vec<(String, ProvenRecord)>, CheckError> {
        let mut decisions = Vec::new();
        for name in self.members.names() {
            let Some(id) = name.strip_prefix(DECISIONS).and_then(|name| name.strip_suffix(DECISION_END))
            else {
                continue;
            };
            let id = id.parse().map_err(|error| BundleClass::Proof(ProofClass::Malformed).at(name, error))?;
            let file = self.members.read(name, PROOF_BYTES_MAX as u64)?;
            let expected = Expected { id: Some(id), ..self.expected };
            let proven = verify_inclusion(&file, &expected).map_err(refused(name))?;
            same_note(name, &proven.note, note)?;
            decisions.push((name.to_owned(), proven));
        }
        decisions.sort_by_key(|(_, proven)| proven.header.seq);
        // The boot of an id is in no record: one record has as many ids as anybody likes.
        let twice = decisions.windows(2).find(|pair| pair[0].1.header.seq == pair[1].1.header.seq);
        match twice {
            Some([first, (name, proven)]) => {
                let detail = format!("it shows record {}, and so does {}", proven.header.seq, first.0);
                Err(BundleClass::MemberExtra.at(name, detail))
            }
            _ => Ok(decisions),
        }
    }
}

/// The cosignatures of the witnesses that are asked for: each must be there.
fn cosigned(note: &str, witnesses: &[WitnessKey]) -> Result<Vec<Cosigned>, CheckError> {
    let cosigned = cosignatures(note, witnesses).map_err(|error| {
        BundleClass::Proof(ProofClass::BadSignature)
            .at(CHECKPOINT, format!("a witness's cosignature: {error}"))
    })?;
    let signed = |key: &WitnessKey| cosigned.iter().any(|one| one.key_id == key.id());
    match witnesses.iter().find(|key| !signed(key)) {
        Some(missing) => {
            let key_id = u32::from_be_bytes(missing.id());
            let detail = format!("{} (key {key_id:08x}) did not cosign it", missing.name);
            Err(BundleClass::Unwitnessed.at(CHECKPOINT, detail))
        }
        None => Ok(cosigned),
    }
}

/// All proofs of a bundle are about its one end.
fn same_note(member: &str, found: &str, note: &str) -> Result<(), CheckError> {
    if found == note {
        return Ok(());
    }
    Err(BundleClass::Proof(ProofClass::Malformed)
        .at(member, "it is about another checkpoint than the bundle"))
}

/// What a reader must not take for checked.
fn not_checked(trust: &Trust<'_>, manifest: &Manifest, policy: &Policy, note: &str) -> Vec<String> {
    let Manifest { made_at, maker, record, .. } = manifest;
    let mut not_checked = vec![format!("that it was made at {made_at} by {maker}: only the bundle says so")];
    match record {
        Some(id) => {
            not_checked.push(format!("EXPORT record {id}, which says that it was made: it is in the log"));
        }
        None => not_checked.push("that it was made is not on record".to_owned()),
    }
    let strangers = policy.logs.iter().filter(|key| !trust.keys.iter().any(|known| known.is(key)));
    not_checked.extend(
        strangers.map(|key| format!("key {}, which the bundle claims for the log: not given", key.to_text())),
    );
    let known = |name: &str, id: [u8; 4]| {
        trust.keys.iter().any(|key| key.name == name && key.id() == id)
            || trust.witnesses.iter().any(|key| key.name == name && key.id() == id)
    };
    let signers = Checkpoint::signers(note).into_iter().filter(|(name, id)| !known(name, *id));
    not_checked.extend(signers.map(|(name, id)| {
        format!(
            "the signature of {name} (key {:08x}) below the checkpoint: no such key is given",
            u32::from_be_bytes(id)
        )
    }));
    if trust.kept.is_none() {
        not_checked.push(
            "that this is not a state from before a rollback: no checkpoint that was kept is given"
                .to_owned(),
        );
    }
    not_checked
}
