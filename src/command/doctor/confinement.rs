//! What steps are kept from, besides what permissions say.

use sandbox_macos::{BuildUserSandbox, Isolation, probe};

use super::check::Check;
use super::subject::Subject;
use crate::session;

/// The checks on networks and on what the system has to confine processes with.
pub(super) fn checks(subject: &Subject<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    if subject.root {
        match session::build_user_sandbox(subject.settings) {
            Ok(sandbox) => checks.extend([network(&sandbox), policy(&sandbox)]),
            Err(error) => {
                let (finding, hint) = error.brief();
                checks.push(Check::broken("policy", finding, hint.unwrap_or("mend the settings")));
            }
        }
    }
    checks.extend(probe::means().into_iter().map(|means| match means.found {
        Ok(finding) => Check::ok(means.name, finding),
        Err(finding) => Check::weak(means.name, finding, means.remedy),
    }));
    checks
}

fn network(sandbox: &BuildUserSandbox) -> Check {
    const NAME: &str = "network";
    let granted = match sandbox.abilities() {
        Ok(granted) => granted.network,
        Err(error) => return Check::weak(NAME, error.to_string(), "try again when less runs here"),
    };
    match granted {
        true => Check::ok(NAME, "steps without `(network host)` have loopback alone"),
        false => Check::weak(
            NAME,
            "steps without `(network host)` reach the network all the same",
            "the system refuses root to keep them from it: a container may have to be given more rights; on macOS \
             Seatbelt has to work, and --isolation=full",
        ),
    }
}

fn policy(sandbox: &BuildUserSandbox) -> Check {
    const NAME: &str = "policy";
    let config = sandbox.config();
    let abilities = match sandbox.abilities() {
        Ok(abilities) => abilities,
        Err(error) => return Check::weak(NAME, error.to_string(), "try again when less runs here"),
    };
    if config.users.len() > 1 && !abilities.world {
        return Check::broken(
            NAME,
            "several slots cannot share one home, as steps cannot have mounts of their own",
            "--slots=1, or a system that grants mount namespaces",
        );
    }
    match (config.isolation, abilities.policy) {
        (Isolation::Full, true) => Check::ok(
            NAME,
            "steps do not see the store, and write their home and temporary files alone",
        ),
        (Isolation::Full, false) => Check::weak(
            NAME,
            "steps see the store, and write wherever plain permissions let them",
            "see below what the system refuses",
        ),
        (Isolation::Users, _) => Check::weak(
            NAME,
            "steps see and write whatever plain permissions let them",
            "--isolation=full",
        ),
    }
}
