//! What a killed run has left.

use sandbox_macos::probe;

use super::check::Check;
use super::subject::Subject;
use crate::session;

const NAME: &str = "leftovers";

/// One check for each thing that is left, or one that says that there is none.
pub(super) fn checks(subject: &Subject<'_>) -> Vec<Check> {
    let remedy = "mend the settings named above";
    let sandbox = match session::build_user_sandbox(subject.settings) {
        Ok(sandbox) => sandbox,
        Err(error) => return vec![Check::unknown(NAME, error.brief().0, remedy)],
    };
    match probe::leavings(sandbox.config()) {
        Ok(found) if found.is_empty() => {
            vec![Check::ok(NAME, "no process, no mount and no file of a step that has ended")]
        }
        Ok(found) => {
            found.into_iter().map(|left| Check::weak(NAME, left.what, left.remedy)).collect()
        }
        Err(error) => vec![Check::unknown(NAME, error, "look at the home's directory")],
    }
}
