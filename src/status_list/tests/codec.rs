//! The bits and the texts, without a network.
//!
//! The examples of the draft lie outside the project (`../shared/vectors/status-list`); without that folder their test says
//! that it was skipped. The two short ones of §4 are here as well.

use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::base64url;
use crate::decision::UnixSeconds;
use crate::json as our_json;
use crate::status_list::*;

const WIDTHS: [Bits; 4] = [Bits::One, Bits::Two, Bits::Four, Bits::Eight];

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Every token that is not valid, with its status.
fn marked(list: &StatusList) -> Vec<(u64, u8)> {
    let all = (0..list.len() as u64).map(|index| (index, list.status(index).unwrap().0));
    all.filter(|(_, status)| *status != 0).collect()
}

#[test]
fn the_short_examples_of_the_draft_read_as_it_says() {
    let list = StatusList::decode(Bits::One, "eNrbuRgAAhcBXQ").unwrap();
    let statuses: Vec<u8> = (0..16).map(|index| list.status(index).unwrap().0).collect();
    assert_eq!(statuses, [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]);
    let list = StatusList::decode(Bits::Two, "eNo76fITAAPfAgc").unwrap();
    let statuses: Vec<u8> = (0..12).map(|index| list.status(index).unwrap().0).collect();
    assert_eq!(statuses, [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]);
    assert_eq!(list.status(12), Err(ListError::OutOfRange));
}

#[test]
fn the_long_examples_of_the_draft_read_as_it_says() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors/status-list");
    if !Path::new(folder).is_dir() {
        eprintln!("SKIPPED: examples of the status list draft, no folder {folder}");
        return;
    }
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("{folder}/status_list_{name}_json.md")).unwrap();
        let text = text[text.find('{').unwrap()..].replace("\n  ", "").replace('\n', "");
        let value: Value = serde_json::from_str(&text).unwrap();
        let bits = Bits::from_number(value["bits"].as_u64().unwrap()).unwrap();
        StatusList::decode(bits, value["lst"].as_str().unwrap()).unwrap()
    };
    // Appendix "Test vectors for Status List encoding": 2^20 tokens each.
    let one = [0, 1993, 25460, 159_495, 495_669, 554_353, 645_645, 723_232, 854_545, 934_534, 1_000_345];
    let one: Vec<(u64, u8)> = one.into_iter().map(|index| (index, 1)).collect();
    let two: Vec<(u64, u8)> =
        one.iter().map(|(index, _)| *index).zip([1, 2, 1, 3, 1, 1, 2, 1, 1, 2, 3]).collect();
    let four = [
        (0, 1),
        (1993, 2),
        (35460, 3),
        (459_495, 4),
        (595_669, 5),
        (754_353, 6),
        (845_645, 7),
        (923_232, 8),
        (924_445, 9),
        (934_534, 10),
        (1_000_345, 12),
        (1_004_534, 11),
        (1_030_203, 13),
        (1_030_204, 14),
        (1_030_205, 15),
    ];
    for (name, expected) in [("encoding1_long", one), ("encoding2_long", two), ("encoding4", four.to_vec())] {
        let list = read(name);
        assert_eq!((list.len(), marked(&list)), (1 << 20, expected), "{name}");
        let again = StatusList::decode(list.bits(), &list.encode().unwrap()).unwrap();
        assert_eq!(again, list, "{name}");
    }
    let eight = marked(&read("encoding8"));
    assert_eq!((eight.len(), eight[0], eight[5]), (255, (1199, 121), (19535, 255)));
    for text in ["encoding", "encoding2"] {
        read(text);
    }
}

#[test]
fn what_is_no_list_is_refused() {
    let text = |bytes: &[u8]| base64url::encode(bytes);
    let good = compressed(&[1, 2, 3]);
    let mut longer = good.clone();
    longer.push(0);
    let two_streams = [good.clone(), good.clone()].concat();
    let mut wrong_sum = good.clone();
    *wrong_sum.last_mut().unwrap() ^= 1;
    let raw_deflate = good[2..good.len() - 4].to_vec();
    let cases = [
        ("not base64url", "e+==".to_owned(), ListError::Encoding),
        ("padded", format!("{}=", "eNo76fITAAPfAgc"), ListError::Encoding),
        ("empty", String::new(), ListError::Compression),
        ("not compressed", text(&[1, 2, 3]), ListError::Compression),
        ("cut", text(&good[..good.len() - 1]), ListError::Compression),
        ("something follows", text(&longer), ListError::Compression),
        ("two streams", text(&two_streams), ListError::Compression),
        ("wrong checksum", text(&wrong_sum), ListError::Compression),
        ("raw deflate", text(&raw_deflate), ListError::Compression),
        ("a byte too long", text(&compressed(&vec![0; LIST_BYTES_MAX + 1])), ListError::TooLong),
        ("a bomb", text(&compressed(&vec![0; 16 << 20])), ListError::TooLong),
    ];
    for (what, lst, error) in cases {
        assert_eq!(StatusList::decode(Bits::One, &lst).unwrap_err(), error, "{what}");
    }
    assert_eq!(
        StatusList::decode(Bits::One, &text(&compressed(&vec![0; LIST_BYTES_MAX]))).unwrap().len(),
        32 << 20
    );
    assert_eq!(StatusList::new(Bits::Eight, u32::MAX), Err(ListError::TooLong));
}

/// A bomb is a thousandth of what it would become. No more than the limit is ever there, twice over while the memory grows.
#[test]
fn a_bomb_takes_no_more_memory_than_the_longest_list() {
    let bomb = base64url::encode(&compressed(&vec![0; 64 << 20]));
    let measured = allocation_counter::measure(|| {
        assert_eq!(StatusList::decode(Bits::One, &bomb), Err(ListError::TooLong));
    });
    assert!(measured.bytes_max < 4 * LIST_BYTES_MAX as u64, "{} bytes", measured.bytes_max);
}

#[test]
fn a_place_outside_the_list_says_nothing() {
    for bits in WIDTHS {
        let mut list = StatusList::new(bits, 8).unwrap();
        let count = list.len() as u64;
        for index in [count, count + 1, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(list.status(index), Err(ListError::OutOfRange));
            assert_eq!(list.set(index, Status::VALID), Err(ListError::OutOfRange));
        }
    }
    let empty = StatusList::decode(Bits::One, &base64url::encode(&compressed(&[]))).unwrap();
    assert!(empty.is_empty() && empty.status(0) == Err(ListError::OutOfRange));
    let mut narrow = StatusList::new(Bits::One, 8).unwrap();
    assert_eq!(narrow.set(0, Status::SUSPENDED), Err(ListError::StatusTooWide));
}

#[test]
fn a_list_token_is_read_back_as_it_was_written() {
    let mut list = StatusList::new(Bits::Two, 100).unwrap();
    list.set(7, Status::SUSPENDED).unwrap();
    let document = Document {
        uri: "https://issuer.test/lists/1".into(),
        issuer: Some("https://issuer.test".into()),
        issued_at: UnixSeconds(1_800_000_000),
        expires_at: Some(UnixSeconds(1_800_000_600)),
        ttl_s: Some(60),
        list,
    };
    let input = document.signing_input("key-1").unwrap();
    let (header, payload) = input.split_once('.').unwrap();
    let decode = |text: &str| {
        let mut buffer = vec![0; text.len()];
        base64url::decode(text.as_bytes(), &mut buffer).unwrap().to_vec()
    };
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    assert_eq!(header, json!({"alg": "Ed25519", "typ": "statuslist+jwt", "kid": "key-1"}));
    assert_eq!(Document::read(&decode(payload)).unwrap(), document);
}

#[test]
fn a_bad_list_token_is_told_which_member() {
    let good = json!({"sub": "https://i/1", "iat": 1, "ttl": 60, "status_list": {"bits": 1, "lst": "eNrbuRgAAhcBXQ"}});
    assert!(Document::read(good.to_string().as_bytes()).is_ok());
    for (member, value, part) in [
        ("sub", json!(""), "sub"),
        ("sub", json!(7), "sub"),
        ("iat", json!("1"), "iat"),
        ("iat", json!(-1), "iat"),
        ("exp", json!(1e300), "exp"),
        ("ttl", json!(0), "ttl"),
        ("status_list", json!([]), "status_list"),
        ("status_list", json!({"bits": 3, "lst": "eNrbuRgAAhcBXQ"}), "bits"),
        ("status_list", json!({"bits": 1.5, "lst": "eNrbuRgAAhcBXQ"}), "bits"),
        ("status_list", json!({"bits": "1", "lst": "eNrbuRgAAhcBXQ"}), "bits"),
        ("status_list", json!({"bits": 1}), "lst"),
        ("status_list", json!({"bits": 1, "lst": "eNrbuRgAAhcBXR"}), "base64url"),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        let error = Document::read(bad.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{bad}: {error}");
    }
    for member in ["sub", "iat", "status_list"] {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(member);
        assert!(Document::read(bad.to_string().as_bytes()).is_err(), "{member}");
    }
    for text in ["", "[]", "{", "{\"sub\":\"a\",\"sub\":\"b\"}"] {
        assert!(Document::read(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn a_reference_is_read_or_is_malformed_and_never_half() {
    let read = |claims: &Value| {
        let (text, mut scratch) = (claims.to_string(), our_json::Scratch::default());
        Reference::read(&text, &mut scratch).map(|found| found.map(|one| (one.index, one.uri.to_owned())))
    };
    let uri = "https://i.test/1";
    let place =
        |idx: Value, uri: Value| json!({"jti": "x", "status": {"status_list": {"idx": idx, "uri": uri}}});
    assert_eq!(read(&json!({"sub": "a"})), Ok(None));
    assert_eq!(read(&place(json!(0), json!(uri))), Ok(Some((0, uri.to_owned()))));
    assert_eq!(read(&place(json!(u64::MAX), json!(uri))), Ok(Some((u64::MAX, uri.to_owned()))));
    for bad in [
        place(json!(-1), json!(uri)),
        place(json!(1.5), json!(uri)),
        place(json!("1"), json!(uri)),
        place(json!(1), json!(7)),
        place(json!(1), json!("")),
        place(json!(1), json!("x".repeat(URI_BYTES_MAX + 1))),
        json!({"status": {"status_list": {"idx": 1}}}),
        json!({"status": {"status_list": [1, uri]}}),
        json!({"status": {"other": {}}}),
        json!({"status": "valid"}),
        json!({"status": null}),
    ] {
        assert_eq!(read(&bad), Err(ReferenceError::Malformed), "{bad}");
    }
}

proptest! {
    /// Against an array of one byte per token.
    #[test]
    fn a_list_says_of_each_token_what_was_set(
        width in 0..4_usize,
        changes in prop::collection::vec((0..500_u64, any::<u8>()), 0..200),
    ) {
        let bits = WIDTHS[width];
        let mut list = StatusList::new(bits, 500).unwrap();
        let mut model = vec![0_u8; list.len()];
        for (index, status) in changes {
            let status = status & (u8::MAX >> (8 - bits.number()));
            list.set(index, Status(status)).unwrap();
            model[usize::try_from(index).unwrap()] = status;
        }
        let list = StatusList::decode(bits, &list.encode().unwrap()).unwrap();
        for (index, status) in (0..).zip(model) {
            prop_assert_eq!(list.status(index), Ok(Status(status)));
        }
    }

    /// Any bytes behind a good compression are some list; any text at all is judged without a panic.
    #[test]
    fn any_text_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,100}") {
        let list = StatusList::decode(Bits::Four, &base64url::encode(&compressed(&bytes))).unwrap();
        prop_assert_eq!(list.len(), bytes.len() * 2);
        let _ = StatusList::decode(Bits::Four, &base64url::encode(&bytes));
        let _ = StatusList::decode(Bits::Four, &text);
        let _ = Document::read(text.as_bytes());
    }
}
