//! Key files, plain and wrapped, and what an interrupted rewrap leaves.

use std::{os::unix::fs::PermissionsExt as _, sync::Mutex};

use super::*;
use crate::audit::{EpochKey, TagKeys, tag::TagField, tag_keys};

/// Stands for a token: "wraps" by putting id and usage before the secret, turned over, and refuses when it is told to.
#[derive(Debug)]
pub(in crate::audit) struct Token {
    ids: Vec<Vec<u8>>,
    away: Mutex<bool>,
}

impl Token {
    pub(in crate::audit) fn with(ids: &[&str]) -> Self {
        Self { ids: ids.iter().map(|id| id.as_bytes().to_vec()).collect(), away: Mutex::new(false) }
    }

    fn head(id: &[u8], usage: &[u8]) -> Vec<u8> {
        [id, b"|", usage, b"|"].concat()
    }
}

impl TagKeyWrap for Token {
    fn ids(&self) -> Vec<Vec<u8>> {
        self.ids.clone()
    }

    fn wrap(&self, usage: &[u8], secret: &[u8]) -> Result<Vec<u8>, String> {
        if *self.away.lock().unwrap() {
            return Err("the token is away".to_owned());
        }
        let turned: Vec<u8> = secret.iter().map(|byte| !byte).collect();
        Ok([Self::head(&self.ids[0], usage), turned].concat())
    }

    fn open(&self, id: &[u8], usage: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        if *self.away.lock().unwrap() {
            return Err(NotOpened::Unavailable("the token is away".to_owned()));
        }
        let turned = wrapped.strip_prefix(&*Self::head(id, usage)).ok_or(NotOpened::Altered)?;
        Ok(Zeroizing::new(turned.iter().map(|byte| !byte).collect()))
    }
}

fn tag(key: &TagKey) -> crate::audit::tag::Tag {
    key.tag(TagField::Jti, b"x")
}

#[test]
fn lax_key_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tag.key");
    let key = create(&path, 1, None).unwrap();
    assert_eq!(tag(&read(&path, 1, None).unwrap()), tag(&key));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(read(&path, 1, None), Err(AuditError::KeyFileLax { mode: 0o640, .. })));
}

#[test]
fn a_wrapped_key_opens_with_its_own_key_and_for_its_epoch_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tag.key.2");
    let (one, two, both) = (Token::with(&["one"]), Token::with(&["two"]), Token::with(&["two", "one"]));
    let key = create(&path, 2, Some(&one)).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    for wrap in [&one, &both] {
        assert_eq!(tag(&read(&path, 2, Some(wrap)).unwrap()), tag(&key));
    }
    // Neither without a token nor with another key of one: the key that it wants is named.
    for wrap in [None, Some(&two as &dyn TagKeyWrap)] {
        let refused = read(&path, 2, wrap).unwrap_err();
        assert!(
            matches!(&refused, AuditError::TagKeyUnderOther { id, .. } if *id == hex(b"one")),
            "{refused}"
        );
        assert!(refused.to_string().contains("hsm.previous_wrapping_key"), "{refused}");
    }
    assert!(matches!(read(&path, 3, Some(&one)), Err(AuditError::TagKeyAltered { .. })));
    *one.away.lock().unwrap() = true;
    let refused = read(&path, 2, Some(&one)).unwrap_err().to_string();
    assert!(refused.contains("cannot open the tag key") && refused.contains("is away"), "{refused}");
    // Cut anywhere, it is no key: in particular no plain one of 32 bytes.
    let whole = fs::read(&path).unwrap();
    for end in 0..whole.len() {
        assert!(open(&path, 2, &whole[..end], Some(&both)).is_err(), "{end}");
    }
    assert!(open(&path, 2, &[&whole[..], &[0; 1024]].concat(), Some(&both)).is_err());
}

#[test]
fn a_rewrap_can_be_cut_off_anywhere_and_done_again() {
    let old = Token::with(&["one"]);
    let new = Token::with(&["two", "one"]);
    let only = Token::with(&["two"]);
    for before in [None, Some(&old as &dyn TagKeyWrap)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tag.key");
        let key = create(&path, 1, before).unwrap();
        let (draft, first) = (folder.path().join("tag.key.new"), fs::read(&path).unwrap());
        // Cut off before and while the draft is written, and before it takes the file's place: the file is as it was.
        let whole = wrapped(&path, 1, &open(&path, 1, &first, Some(&new)).unwrap(), &new).unwrap();
        for left in [&[][..], &whole[..20], &whole] {
            fs::write(&draft, left).unwrap();
            assert_eq!(tag(&read(&path, 1, Some(&new)).unwrap()), tag(&key));
            assert_eq!(fs::read(&path).unwrap(), first);
            // A key is there, and a draft is none.
            assert_eq!(
                TagKeys::load(folder.path(), Some(&new)).unwrap().tags(TagField::Jti, b"x"),
                [tag(&key)]
            );
        }
        // A token that goes away leaves the file, too.
        *new.away.lock().unwrap() = true;
        assert!(rewrap(&path, 1, &new).is_err());
        *new.away.lock().unwrap() = false;
        assert_eq!(fs::read(&path).unwrap(), first);

        let found = if before.is_none() { Found::Plain } else { Found::Previous };
        assert_eq!(rewrap(&path, 1, &new).unwrap(), found);
        assert!(!draft.exists());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let second = fs::read(&path).unwrap();
        assert_eq!(rewrap(&path, 1, &new).unwrap(), Found::Current);
        assert_eq!(fs::read(&path).unwrap(), second);
        // From now on the previous key is not needed.
        assert_eq!(tag(&read(&path, 1, Some(&only)).unwrap()), tag(&key));
    }
}

/// Wraps something else than it is given.
#[derive(Debug)]
struct Liar(Token);

impl TagKeyWrap for Liar {
    fn ids(&self) -> Vec<Vec<u8>> {
        self.0.ids()
    }

    fn wrap(&self, usage: &[u8], _: &[u8]) -> Result<Vec<u8>, String> {
        self.0.wrap(usage, &[1; TAG_KEY_BYTES])
    }

    fn open(&self, id: &[u8], usage: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        self.0.open(id, usage, wrapped)
    }
}

#[test]
fn a_key_is_not_given_up_for_what_does_not_open_as_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tag.key");
    let key = create(&path, 1, None).unwrap();
    let refused = rewrap(&path, 1, &Liar(Token::with(&["one"]))).unwrap_err();
    assert!(refused.to_string().contains("opens as something else"), "{refused}");
    assert_eq!(tag(&read(&path, 1, None).unwrap()), tag(&key));
}

/// The bytes of a plain key stand in the file that was there before, which somebody may still have open.
#[test]
fn what_was_plain_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tag.key");
    create(&path, 1, None).unwrap();
    let mut before = File::open(&path).unwrap();
    rewrap(&path, 1, &Token::with(&["one"])).unwrap();
    let mut left = Vec::new();
    before.read_to_end(&mut left).unwrap();
    assert_eq!(left, [0; TAG_KEY_BYTES]);
}

#[test]
fn every_key_is_rewrapped_and_a_destroyed_one_is_destroyed_however_its_copies_are_wrapped() {
    let parent = tempfile::tempdir().unwrap();
    let [dir, aside] = ["log", "log.damaged-1"].map(|name| parent.path().join(name));
    for folder in [&dir, &aside] {
        fs::create_dir(folder).unwrap();
    }
    let (old, new) = (Token::with(&["one"]), Token::with(&["two", "one"]));
    create(&tag_keys::key_path(&dir, 1), 1, None).unwrap();
    create(&tag_keys::key_path(&dir, 2), 2, Some(&old)).unwrap();
    tag_keys::copy(&dir, &aside).unwrap();
    create(&tag_keys::key_path(&dir, 3), 3, Some(&new)).unwrap();
    let tags = |wrap: &Token| TagKeys::load(&dir, Some(wrap)).unwrap().tags(TagField::Jti, b"x");
    let before = tags(&new);
    // One file was done when an earlier call was killed.
    assert_eq!(rewrap(&tag_keys::key_path(&dir, 2), 2, &new).unwrap(), Found::Previous);
    let done = tag_keys::rewrap(&dir, &new).unwrap();
    assert_eq!((done.current, done.plain, done.previous), (2, 2, 1));
    let done = tag_keys::rewrap(&dir, &new).unwrap();
    assert_eq!((done.current, done.plain, done.previous), (5, 0, 0));
    let only = Token::with(&["two"]);
    assert_eq!(tags(&only), before);

    // A copy that was wrapped at another time is known all the same.
    fs::remove_file(tag_keys::key_path(&aside, 2)).unwrap();
    let key = open(&dir, 2, &stored(&tag_keys::key_path(&dir, 2)).unwrap(), Some(&only)).unwrap();
    fs::write(tag_keys::key_path(&aside, 2), *key).unwrap();
    tag_keys::destroy(&dir, 2, "00-0-7", Some(&only)).unwrap();
    for folder in [&dir, &aside] {
        assert!(!tag_keys::key_path(folder, 2).exists() && tag_keys::key_path(folder, 1).exists());
        assert!(matches!(TagKeys::load(folder, Some(&only)).unwrap().of(2), Some(EpochKey::Destroyed(_))));
    }
    // Killed when half of it was overwritten: the next start goes on, with or without the token.
    fs::write(tag_keys::key_path(&dir, 2), [0; 90]).unwrap();
    TagKeys::open(&dir, false, Some(&only)).unwrap();
    assert!(!tag_keys::key_path(&dir, 2).exists());
}

/// A log and one that was set aside, with the key of epoch 2 in both, wrapped under "one".
fn with_a_copy() -> (tempfile::TempDir, [std::path::PathBuf; 2]) {
    let parent = tempfile::tempdir().unwrap();
    let folders = ["log", "log.damaged-1"].map(|name| parent.path().join(name));
    folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
    create(&tag_keys::key_path(&folders[0], 2), 2, Some(&Token::with(&["one"]))).unwrap();
    tag_keys::copy(&folders[0], &folders[1]).unwrap();
    (parent, folders)
}

#[test]
fn a_destruction_that_cannot_be_done_is_not_said_to_be() {
    let (_parent, [dir, aside]) = with_a_copy();
    let [own, copy] = [&dir, &aside].map(|folder| tag_keys::key_path(folder, 2));
    let marks = || [&own, &copy].map(|path| path.with_added_extension("destroyed").exists());
    // The token goes away; and then the copy is under a key that nobody has.
    let away = Token::with(&["one"]);
    *away.away.lock().unwrap() = true;
    assert!(matches!(
        tag_keys::destroy(&dir, 2, "00-0-7", Some(&away)),
        Err(AuditError::TagKeyWrap { what: "open", .. })
    ));
    rewrap(&own, 2, &Token::with(&["two", "one"])).unwrap();
    let two = Token::with(&["two"]);
    assert!(matches!(
        tag_keys::destroy(&dir, 2, "00-0-7", Some(&two)),
        Err(AuditError::TagKeyUnderOther { .. })
    ));
    assert!(own.exists() && copy.exists());
    assert_eq!(marks(), [false, false]);
    // What opens for nobody is no copy, and keeps no key alive: here one of another epoch's.
    fs::remove_file(&copy).unwrap();
    create(&copy, 9, Some(&Token::with(&["one"]))).unwrap();
    tag_keys::destroy(&dir, 2, "00-0-7", Some(&Token::with(&["two", "one"]))).unwrap();
    assert!(!own.exists() && copy.exists());
    assert_eq!(marks(), [true, false]);
}

#[test]
fn a_draft_does_not_outlive_its_key() {
    let (_parent, [dir, aside]) = with_a_copy();
    let token = Token::with(&["one"]);
    for folder in [&dir, &aside] {
        let path = tag_keys::key_path(folder, 2);
        fs::copy(&path, path.with_added_extension(DRAFT)).unwrap();
    }
    tag_keys::destroy(&dir, 2, "00-0-7", Some(&token)).unwrap();
    for folder in [&dir, &aside] {
        let left: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["tag.key.2.destroyed"]);
    }
    // At a start, too; but not the key itself under a draft's name, as an interrupted creation leaves it.
    let path = tag_keys::key_path(&dir, 3);
    let key = create(&path, 3, Some(&token)).unwrap();
    fs::hard_link(&path, path.with_added_extension(DRAFT)).unwrap();
    TagKeys::open(&dir, false, Some(&token)).unwrap();
    assert!(!path.with_added_extension(DRAFT).exists());
    assert_eq!(tag(&read(&path, 3, Some(&token)).unwrap()), tag(&key));
}

#[test]
fn a_rewrap_completes_a_destruction_that_was_interrupted() {
    let (_parent, [dir, aside]) = with_a_copy();
    let own = tag_keys::key_path(&dir, 2);
    // Said, and not done.
    fs::write(own.with_added_extension("destroyed"), "00-0-7\n").unwrap();
    tag_keys::rewrap(&dir, &Token::with(&["two", "one"])).unwrap();
    assert!(!own.exists() && !tag_keys::key_path(&aside, 2).exists());
    // The previous key is not needed any more.
    let keys = TagKeys::open(&dir, false, Some(&Token::with(&["two"]))).unwrap();
    assert!(matches!(keys.of(2), Some(EpochKey::Destroyed(record)) if record == "00-0-7"));
}
