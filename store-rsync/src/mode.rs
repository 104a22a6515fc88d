//! How a store copies trees.

use std::fmt;
use std::str::FromStr;

use tree_copy::{How, Trust};

/// How a store copies trees and what it lets results share. In every mode a tree that a build can write shares no file with
/// any result. In every mode but [`Mode::Copy`] the tree of a large result is kept for the next step, and the result shares
/// by hard links what the step has not touched with the result before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// [`Mode::Reflink`] where the store's volume can, else [`Mode::Hardlink`].
    #[default]
    Auto,
    /// Every byte is copied, for every result anew; results share nothing with each other.
    Copy,
    /// What must be copied is cloned where that is possible. A result shares by hard links all files it has in common with
    /// its base; the contents of those that were touched are compared.
    Hardlink,
    /// As [`Mode::Hardlink`], but files of the same size and modification time are taken for the same.
    HardlinkUnsafe,
    /// As [`Mode::Hardlink`], but what must be copied shares its contents with the original and is copied on write; a volume
    /// that cannot is an error.
    Reflink,
}

impl Mode {
    /// All modes with their names.
    pub const NAMES: [(Self, &'static str); 5] = [
        (Self::Auto, "auto"),
        (Self::Copy, "copy"),
        (Self::Hardlink, "hardlink"),
        (Self::HardlinkUnsafe, "hardlink_unsafe"),
        (Self::Reflink, "reflink"),
    ];

    /// How contents are copied. In the modes with hard links, bytes that must be copied are cloned where that is possible.
    pub(crate) fn how(self) -> How {
        match self {
            Self::Auto | Self::Copy => How::Copy,
            Self::Hardlink | Self::HardlinkUnsafe => How::TryReflink,
            Self::Reflink => How::Reflink,
        }
    }

    /// Whether results may share files with each other.
    pub(crate) fn links(self) -> bool {
        self != Self::Copy
    }

    /// When a file that was touched counts as the one before.
    pub(crate) fn trust(self) -> Trust {
        if self == Self::HardlinkUnsafe { Trust::Times } else { Trust::Contents }
    }

    /// What a result whose tree is too small to be kept may share with its base.
    pub(crate) fn shares(self) -> Option<Trust> {
        match self {
            Self::Hardlink => Some(Trust::Contents),
            Self::HardlinkUnsafe => Some(Trust::Times),
            Self::Auto | Self::Copy | Self::Reflink => None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(mode, _)| mode == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

/// A text that names no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no mode `{0}`; it is one of {known}", known = known())]
pub struct UnknownMode(String);

fn known() -> String {
    Mode::NAMES.map(|(_, name)| format!("`{name}`")).join(", ")
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(mode, _)| *mode).ok_or_else(|| UnknownMode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_read_back_from_its_name() {
        for (mode, name) in Mode::NAMES {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(mode.to_string(), name);
        }
        let error = "rsync".parse::<Mode>().unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no mode `rsync`; it is one of `auto`, `copy`, `hardlink`, `hardlink_unsafe`, `reflink`"
        );
    }
}
