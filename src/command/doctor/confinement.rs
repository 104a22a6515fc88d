//! What steps are kept from, besides what permissions say.

use sandbox_macos::probe;

use super::check::Check;
use super::subject::Subject;
use crate::session;

/// The checks on networks and on what the system has to confine processes with.
pub(super) fn checks(subject: &Subject<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    if subject.root {
        checks.push(network(subject));
    }
    checks.extend(probe::means().into_iter().map(|means| match means.found {
        Ok(finding) => Check::ok(means.name, finding),
        Err(finding) => Check::weak(means.name, finding, means.remedy),
    }));
    checks
}

fn network(subject: &Subject<'_>) -> Check {
    const NAME: &str = "network";
    match session::build_user_sandbox(subject.settings) {
        Ok(sandbox) if sandbox.isolates_network() => {
            Check::ok(NAME, "steps without `(network host)` have loopback alone")
        }
        Ok(_) => Check::weak(
            NAME,
            "steps without `(network host)` reach the network all the same",
            "the system refuses root to keep them from it; a container may have to be given more rights",
        ),
        Err(error) => Check::broken(NAME, error.to_string(), "mend the settings named above"),
    }
}
