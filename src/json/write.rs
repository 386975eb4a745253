//! Texts written as JSON strings.

/// Appends `text` as a JSON string (RFC 8259 §7).
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    // Most need no escape, and are found out faster than escaped.
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("text is written to memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_another_library_writes_them() {
        let every: String =
            (0..0x300).filter_map(char::from_u32).chain("\u{fffd}\u{1f600}".chars()).collect();
        for text in every.chars().map(String::from).chain([String::new(), every.clone(), "plain".into()]) {
            let mut out = b"x".to_vec();
            write_text(&mut out, &text);
            assert_eq!(out[1..], *serde_json::to_string(&text).unwrap().as_bytes());
        }
    }
}
