//! What macOS has to confine processes with.

use crate::platform::confine;
use crate::probe::Means;

/// Seatbelt alone.
pub(crate) fn means() -> Vec<Means> {
    vec![Means {
        name: "Seatbelt",
        found: confine::seatbelt().map(|()| "`sandbox-exec` works".to_owned()),
        remedy: "start obuild outside of any sandbox; until then steps are kept apart by plain permissions alone",
    }]
}
