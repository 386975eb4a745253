//! `[audit.retention]`: how long segments of the audit log stay in its folder.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::file::{in_range, wrong};

/// How long segments stay, and where their archives go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Segments older than this are retired: `audit.retention.preset` or `audit.retention.hot_days`. Never if absent.
    pub hot: Option<Duration>,
    /// Where archives of retired segments go: `audit.retention.destination`. Without it nothing is retired.
    pub destination: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RetentionTable {
    preset: Preset,
    hot_days: Option<u64>,
    destination: Option<PathBuf>,
}

/// Days in the folder that a standard is read to ask for; how long the archives are kept is their folder's business.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Preset {
    #[default]
    None,
    Soc2,
    Hipaa,
    Pci,
    Iso27001,
}

impl Preset {
    const fn hot_days(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Soc2 | Self::Pci | Self::Iso27001 => Some(90),
            Self::Hipaa => Some(30),
        }
    }
}

impl RetentionTable {
    pub(super) fn check(self) -> Result<Retention, ConfigError> {
        let Self { preset, hot_days, destination } = self;
        if let (true, Some(days)) = (preset != Preset::None, hot_days) {
            return Err(wrong(
                "audit.retention.hot_days",
                days,
                "a preset says it too",
                "keep one of the two",
            ));
        }
        let days = preset.hot_days().or(hot_days);
        let days = days.map(|days| in_range("audit.retention.hot_days", days, 0, DAYS_MAX)).transpose()?;
        if days.is_some() && destination.is_none() {
            return Err(wrong(
                "audit.retention.destination",
                "nothing",
                "segments leave the folder only when their archives are elsewhere",
                "name a folder, best on another disk",
            ));
        }
        Ok(Retention { hot: days.map(|days| Duration::from_secs(days * 86_400)), destination })
    }
}

/// A hundred years.
const DAYS_MAX: u64 = 36_500;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Retention, String> {
        let table: RetentionTable = toml::from_str(text).map_err(|error| error.to_string())?;
        table.check().map_err(|error| error.to_string())
    }

    #[test]
    fn presets_and_own_numbers_say_how_long_segments_stay() {
        let days = |text: &str| read(text).unwrap().hot.map(|time| time.as_secs() / 86_400);
        assert_eq!(read("").unwrap(), Retention::default());
        for (preset, expected) in [("soc2", 90), ("hipaa", 30), ("pci", 90), ("iso27001", 90)] {
            assert_eq!(days(&format!("preset = {preset:?}\ndestination = \"/a\"")), Some(expected));
        }
        assert_eq!(days("hot_days = 7\ndestination = \"/a\""), Some(7));
        assert_eq!(days("destination = \"/a\""), None);
        for (text, word) in [
            ("preset = \"soc2\"", "destination"),
            ("hot_days = 7", "destination"),
            ("preset = \"soc2\"\nhot_days = 7\ndestination = \"/a\"", "preset"),
            ("preset = \"gdpr\"", "gdpr"),
            ("days = 7", "days"),
            ("hot_days = 99999\ndestination = \"/a\"", "hot_days"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
