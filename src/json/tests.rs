use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

fn check(text: impl AsRef<[u8]>) -> Result<(), JsonError> {
    read(text.as_ref(), &mut Scratch::default(), Reader::skip)
}

fn cause(text: impl AsRef<[u8]>) -> Cause {
    check(text).unwrap_err().cause
}

/// The value as `serde_json` would build it, by way of our reader.
fn value(reader: &mut Reader<'_>) -> Result<Value, JsonError> {
    Ok(match reader.kind()? {
        Kind::Array => {
            let mut array = Vec::new();
            reader.array(|reader| {
                array.push(value(reader)?);
                Ok::<_, JsonError>(())
            })?;
            Value::Array(array)
        }
        Kind::Boolean => Value::Bool(reader.boolean()?),
        Kind::Null => {
            reader.null()?;
            Value::Null
        }
        Kind::Number => {
            let number = reader.number()?;
            number.to_u64().map_or_else(|| number.to_f64().into(), Value::from)
        }
        Kind::Object => {
            let mut object = Map::new();
            reader.object(|reader, name| {
                object.insert(name.to_owned(), value(reader)?);
                Ok::<_, JsonError>(())
            })?;
            Value::Object(object)
        }
        Kind::String => Value::String(reader.string()?.to_owned()),
    })
}

/// Equal but for the last bits of doubles, which `serde_json` does not always round to nearest.
fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(ours), Value::Number(theirs)) => {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
            (ours - theirs).abs() <= 1e-12 * ours.abs().max(f64::MIN_POSITIVE)
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(name, value)| theirs.get(name).is_some_and(|theirs| same(value, theirs)))
        }
        _ => ours == theirs,
    }
}

fn agrees_with_serde_json(text: &[u8]) {
    let ours = read(text, &mut Scratch::default(), value);
    assert_eq!(
        check(text),
        ours.as_ref().map(drop).map_err(|error| *error),
        "skipping is as strict as reading"
    );
    match (ours, serde_json::from_slice::<Value>(text)) {
        (Ok(ours), Ok(theirs)) => assert!(same(&ours, &theirs), "{ours} / {theirs}"),
        (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => panic!("accepted, serde_json refuses: {error}"),
        (Err(error), Ok(_)) => {
            assert!(matches!(error.cause, Cause::DuplicateMember | Cause::DepthExceeded), "{error}");
        }
    }
}

#[test]
fn repeated_names_are_refused_at_every_level_and_after_unescaping() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":1}"#,
        r#"{"\u00e9":1,"é":1}"#,
        r#"{"":1,"":2}"#,
        r#"{"x":[{"y":{"longer than eight":1,"longer than eight":2}}]}"#,
        r#"[{"a":{}},{"b":1,"c":{},"b":1}]"#,
    ] {
        assert_eq!(cause(text), Cause::DuplicateMember, "{text}");
    }
    for text in [
        r#"{"a":{"a":{"a":1}},"b":{"a":1}}"#,
        r#"[{"a":1},{"a":1}]"#,
        r#"{"seven77":1,"seven778":2,"seven77a":3,"a":4,"a\u0000":5,"A":6}"#,
    ] {
        check(text).unwrap();
    }
}

#[test]
fn repeated_names_are_found_among_very_many() {
    // 100,000 names: compared pairwise, this test would take minutes.
    let names = |count: usize| (0..count).map(|i| format!(r#""common prefix {i}":0"#)).collect::<Vec<_>>();
    let distinct = names(100_000);
    check(format!("{{{}}}", distinct.join(","))).unwrap();
    for count in [31, 32, 33, 34, 100_000] {
        for repeated in [0, count / 2, count - 1] {
            let mut names = distinct[..count].to_vec();
            names.push(names[repeated].replace("common", "c\\u006fmmon"));
            assert_eq!(
                cause(format!("{{{}}}", names.join(","))),
                Cause::DuplicateMember,
                "{count} {repeated}"
            );
        }
    }
}

#[test]
fn nesting_has_a_limit() {
    let nested =
        |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":"#, "}]")] {
        let levels = open.matches(['[', '{']).count();
        check(nested(open, close, DEPTH_MAX / levels)).unwrap();
        assert_eq!(cause(nested(open, close, DEPTH_MAX / levels + 1)), Cause::DepthExceeded);
        assert_eq!(cause(open.repeat(100_000)), Cause::DepthExceeded);
    }
    // Depth counts what is open, not what was.
    check(format!("[{}1]", "[],{\"a\":{}},".repeat(200))).unwrap();
}

#[test]
fn escapes_are_resolved_once_and_surrogates_come_in_pairs() {
    for (text, expected) in [
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u0000\u00DF\u20ac\uD834\udd1e!""#, "\0ß€𝄞!"),
        (r#""12345678\u0039""#, "123456789"),
        (r#""\\u0041""#, r"\u0041"),
        (r#""ünïcödé""#, "ünïcödé"),
    ] {
        let mut scratch = Scratch::default();
        assert_eq!(read(text.as_bytes(), &mut scratch, Reader::string).unwrap(), expected);
    }
    for text in
        [r#""\ud834""#, r#""\udd1e\ud834""#, r#""\ud834\ud834""#, r#""\ud834x\udd1e""#, r#""\ud834\n""#]
    {
        assert_eq!(cause(text), Cause::LoneSurrogate, "{text}");
        assert_eq!(cause(format!("{{{text}:1}}")), Cause::LoneSurrogate, "{text} as a name");
    }
    for text in [r#""\x41""#, r#""\u00g0""#, r#""\u+041""#, r#""\U0041""#] {
        assert_eq!(cause(text), Cause::Syntax, "{text}");
    }
}

#[test]
fn strings_end_at_the_first_special_byte_at_every_offset() {
    for length in 0..40 {
        let plain = "é".repeat(length / 2) + &"x".repeat(length % 2);
        check(format!("\"{plain}\"")).unwrap();
        check(format!("\"{plain}\\n{plain}\\u0041{plain}\"")).unwrap();
        check(format!("\"{plain}\x7f\"")).unwrap();
        for control in ['\0', '\n', '\u{1f}'] {
            assert_eq!(cause(format!("\"{plain}{control}{plain}\"")), Cause::ControlCharacter);
            assert_eq!(cause(format!("\"\\t{plain}{control}{plain}\"")), Cause::ControlCharacter);
        }
        assert_eq!(cause(format!("\"{plain}")), Cause::Incomplete);
    }
}

#[test]
fn numbers_follow_the_grammar_and_are_finite() {
    for text in ["0", "-0", "10", "1.0", "1e5", "1E+5", "-1.25e-3", "18446744073709551616", "1e308", "1e-400"]
    {
        check(text).unwrap();
    }
    for text in ["1e309", "-1e309", &"9".repeat(310)] {
        assert_eq!(cause(text), Cause::NumberNotFinite, "{text}");
    }
    for text in [
        "01",
        "-",
        "+1",
        "1.",
        ".1",
        "1e",
        "1e+",
        "0x1",
        "1_0",
        "NaN",
        "Infinity",
        "-Infinity",
        "--1",
        "1.e1",
    ] {
        check(text).unwrap_err();
    }
    let number =
        |text: &str| read(text.as_bytes(), &mut Scratch::default(), Reader::number).unwrap().to_u64();
    assert_eq!(number("18446744073709551615"), Some(u64::MAX));
    for text in ["18446744073709551616", "-1", "1.0", "1e0"] {
        assert_eq!(number(text), None, "no silent conversion of {text}");
    }
}

#[test]
fn what_surrounds_the_value_is_white_space_of_json_only() {
    check(" \t\r\n{ \"a\" : [ 1 , 2 ] } \n").unwrap();
    assert_eq!(cause("\u{feff}{}"), Cause::ByteOrderMark);
    assert_eq!(cause("{}{}"), Cause::TrailingData);
    assert_eq!(cause("1 2"), Cause::TrailingData);
    assert_eq!(cause("{}\0"), Cause::TrailingData);
    assert_eq!(cause(""), Cause::Incomplete);
    assert_eq!(cause("{\"a\":"), Cause::Incomplete);
    assert_eq!(cause(b"\"\xff\""), Cause::NotUtf8);
    for text in [
        "\u{a0}1",
        "\u{c}1",
        "{\"a\":1,}",
        "[1,]",
        "[,1]",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "[1 2]",
        "/**/1",
        "tru",
        "nul1",
    ] {
        check(text).unwrap_err();
    }
}

#[test]
fn a_caller_that_consumes_nothing_gets_an_error() {
    let nothing =
        read(b"{\"a\":1}", &mut Scratch::default(), |reader| reader.object(|_, _| Ok::<_, JsonError>(())));
    assert_eq!(nothing.unwrap_err(), JsonError { cause: Cause::Syntax, offset: 5 });
    let nothing = read(b"1", &mut Scratch::default(), |_| Ok::<_, JsonError>(()));
    assert_eq!(nothing.unwrap_err().cause, Cause::TrailingData);
}

#[test]
fn errors_say_where_and_what_was_expected() {
    let text = br#"{"token": 7}"#;
    let error =
        read(text, &mut Scratch::default(), |reader| reader.object(|reader, _| reader.string().map(drop)));
    assert_eq!(error.unwrap_err().to_string(), "expected a string at byte 10");
}

#[test]
fn raw_text_is_the_value_as_received() {
    let text = br#"{"cns": {"max" : [1,  "\u0041"]} ,"b":2}"#;
    let mut scratch = Scratch::default();
    let mut raw = None;
    read(text, &mut scratch, |reader| {
        reader.object(|reader, name| {
            match name {
                "cns" => raw = Some(reader.raw()?),
                _ => reader.skip()?,
            }
            Ok::<_, JsonError>(())
        })
    })
    .unwrap();
    assert_eq!(raw, Some(r#"{"max" : [1,  "\u0041"]}"#));
}

#[test]
fn json_test_suite_gets_the_verdict_of_serde_json() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors/json-testsuite/test_parsing");
    let Ok(files) = std::fs::read_dir(folder) else {
        eprintln!("SKIPPED: no folder {folder}");
        return;
    };
    for file in files {
        agrees_with_serde_json(&std::fs::read(file.unwrap().path()).unwrap());
    }
}

/// JSON texts with everything in them that readers differ about, well-formed or nearly so.
fn nearly_json() -> impl Strategy<Value = String> {
    let string =
        prop_oneof!["\"[a-c]{0,9}\"", r#""([ -!#-\[\]-~]|é|𝄞|\\[nu"/\\]|\\u[0d][08a-f][0-9a-f]{2}){0,6}""#,];
    let leaf = prop_oneof![
        string.clone(),
        "-?(0|[1-9][0-9]{0,20})([.][0-9]{1,3})?([eE][+-]?[0-9]{1,3})?",
        "true|false|null|nul|-|01|1[.]|NaN|\"a",
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        let member = (string.clone(), inner.clone()).prop_map(|(name, value)| format!("{name}:{value}"));
        let join = |items: Vec<String>| items.join(" ,");
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(move |items| format!("[{}]", join(items))),
            prop::collection::vec(member, 0..6).prop_map(move |items| format!("{{{} }}", join(items))),
        ]
    })
}

proptest! {
    #[test]
    fn random_texts_get_the_verdict_of_serde_json(text in nearly_json()) {
        agrees_with_serde_json(text.as_bytes());
    }

    #[test]
    fn mutated_texts_get_the_verdict_of_serde_json(
        text in nearly_json(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut text = text.into_bytes();
        for (index, byte) in edits {
            let index = index.index(text.len());
            text[index] = byte;
        }
        agrees_with_serde_json(&text);
    }
}
