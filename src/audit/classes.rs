//! Kinds of reasons, with names and exit codes that never change.

use super::{note::NoteError, proof::ProofClass, verify::Class};

/// Declares an enum of them: variant, name, exit code, meaning, each once.
macro_rules! classes {
    (
        $(#[$about:meta])*
        pub enum $class:ident {
            $($(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $code:literal;)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $class {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl $class {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What a command exits with that finds this first. 2 means that it could not run.
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ }
            }
        }

        impl std::fmt::Display for $class {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(super) use classes;

/// What is wrong with a note has one name, in whichever list of classes.
macro_rules! name_note_errors {
    ($($class:ident),+) => {
        $(impl From<NoteError> for $class {
            fn from(error: NoteError) -> Self {
                match error {
                    NoteError::BadSignature => Self::BadSignature,
                    NoteError::Malformed => Self::Malformed,
                    NoteError::Unsigned => Self::Unsigned,
                    NoteError::OutOfTurn | NoteError::WrongKey => Self::WrongKey,
                }
            }
        })+
    };
}

name_note_errors!(Class, ProofClass);
