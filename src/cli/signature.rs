//! `edgate signature verify`: raw Ed25519 signatures from JSON Lines.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::json::{self, JsonError, Reader};
use crate::verify::{Engine, Item, ItemKey, SignatureRejection, Verdict, Verifier};

use super::{EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, next_line, open_lines, print_line};

#[derive(Debug, Args)]
pub(super) struct SignatureArguments {
    /// JSON Lines: {"public_key": hex, "message": hex, "signature": hex}; `-` is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Lines verified together: enough for full lanes, small enough to answer a slow pipe soon.
const BATCH_LEN: usize = 256;

/// One line, decoded; or why it could not be.
type Line = Result<Signed, &'static str>;

struct Signed {
    public_key: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
}

pub(super) fn run(arguments: &SignatureArguments) -> u8 {
    let mut input = match open_lines(&arguments.file) {
        Ok(input) => input,
        Err(error) => {
            complain(error);
            return EXIT_INPUT;
        }
    };
    let mut report = Report { json: arguments.output.json, index: 0, refused: 0 };
    let mut verifier = Verifier::new(Engine::Auto);
    let mut lines = Vec::with_capacity(BATCH_LEN);
    loop {
        let line = match next_line(&mut *input) {
            Ok(line) => line,
            Err(error) => {
                complain(format_args!("cannot read {}: {error}", arguments.file.display()));
                return EXIT_INPUT;
            }
        };
        let ended = line.is_none();
        if let Some(line) = line {
            lines.push(line.map_err(|()| "line_too_long").and_then(|line| parse(&line)));
        }
        if lines.len() == BATCH_LEN || ended {
            report.batch(&mut verifier, &lines);
            lines.clear();
        }
        if ended {
            return report.finish();
        }
    }
}

struct Report {
    json: bool,
    index: u64,
    refused: u64,
}

impl Report {
    fn batch(&mut self, verifier: &mut Verifier, lines: &[Line]) {
        let items: Vec<Item<'_>> = lines
            .iter()
            .flatten()
            .map(|signed| Item {
                key: ItemKey::Unregistered(&signed.public_key),
                message: &signed.message,
                signature: &signed.signature,
            })
            .collect();
        let mut verdicts = Vec::with_capacity(items.len());
        verifier.verify(&items, &mut verdicts);
        let mut verdicts = verdicts.into_iter();
        for line in lines {
            let reason = match line {
                Ok(_) => match verdicts.next().expect("one verdict per item") {
                    Verdict::Accepted(_) => None,
                    Verdict::Rejected(rejection) => Some(name(rejection)),
                },
                Err(reason) => Some(*reason),
            };
            self.line(reason);
        }
    }

    fn line(&mut self, refused: Option<&'static str>) {
        let (valid, reason) = (refused.is_none(), refused.unwrap_or("accepted"));
        if self.json {
            print_line(json!({"index": self.index, "valid": valid, "reason": reason}));
        } else {
            print_line(format_args!(
                "{:>8}  {}  {reason}",
                self.index,
                if valid { "valid  " } else { "INVALID" }
            ));
        }
        self.index += 1;
        self.refused += u64::from(!valid);
    }

    fn finish(self) -> u8 {
        if !self.json {
            eprintln!(
                "{} signatures: {} valid, {} invalid",
                self.index,
                self.index - self.refused,
                self.refused
            );
        }
        if self.refused == 0 { EXIT_YES } else { EXIT_NO }
    }
}

fn name(rejection: SignatureRejection) -> &'static str {
    crate::decision::Rejection::from(rejection).name()
}

fn parse(line: &[u8]) -> Line {
    let (mut public_key, mut message, mut signature) = (None, None, None);
    let mut scratch = json::Scratch::default();
    json::read(line, &mut scratch, |reader: &mut Reader<'_>| {
        reader.object(|reader, name| {
            match name {
                "public_key" => public_key = Some(reader.string()?.to_owned()),
                "message" => message = Some(reader.string()?.to_owned()),
                "signature" => signature = Some(reader.string()?.to_owned()),
                _ => reader.skip()?,
            }
            Ok::<_, JsonError>(())
        })
    })
    .map_err(|_| "line_not_json")?;
    let hex = |text: Option<String>| decode_hex(&text.ok_or("member_missing")?).ok_or("not_hex");
    Ok(Signed { public_key: hex(public_key)?, message: hex(message)?, signature: hex(signature)? })
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}
