//! What a sandbox does not keep steps from.

use std::path::Path;

use crate::config::{Config, Isolation};
use crate::confine::Abilities;
use crate::platform;

/// In words, each for itself; what has not been tried yet (`granted`) counts as granted.
pub(crate) fn of(config: &Config, root: bool, granted: Option<Abilities>) -> Vec<String> {
    let full = config.isolation == Isolation::Full;
    let mut all = of_files(root, full, granted);
    if granted.is_some_and(|granted| !granted.network) {
        all.push("steps without `(network host)` reach the network all the same".to_owned());
    }
    if let Some(granted) = granted.filter(|granted| full && granted.policy) {
        let gaps = platform::confine::gaps(granted);
        all.extend(gaps.iter().map(|gap| format!("steps {gap}")));
    }
    all.extend(crate::limits::weakness(&config.limits, root));
    if root {
        let names: Vec<_> = config.users.iter().map(|user| user.name.as_str()).collect();
        all.extend(crate::jobs::weakness(Path::new("/"), &names));
    }
    all
}

fn of_files(root: bool, full: bool, granted: Option<Abilities>) -> Vec<String> {
    let kept = full && granted.is_none_or(|granted| granted.policy);
    let weakness = match (root, kept) {
        (false, true) => {
            "without root steps run as you: they write only their own and temporary directories and read nothing in \
             your home, but may change modes and times of your files and reach whatever listens on this machine"
        }
        (false, false) => {
            "without root steps run as you, and can read and write everything you can"
        }
        (true, false) if full => {
            "steps see the store, and write wherever plain permissions let them"
        }
        (true, false) => {
            "steps see the store, and write wherever plain permissions let them (isolation is `users`)"
        }
        (true, true) => return Vec::new(),
    };
    vec![weakness.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_is_no_weakness() {
        let granted =
            |granted| Some(Abilities { network: granted, world: granted, policy: granted });
        let counts = |root, full| {
            [granted(true), granted(false), None].map(|granted| of_files(root, full, granted).len())
        };
        assert_eq!(counts(true, true), [0, 1, 0]);
        assert_eq!(counts(true, false), [1, 1, 1]);
        assert_eq!(counts(false, true), [1, 1, 1]);
        let told = |full, yes| of_files(false, full, granted(yes)).remove(0);
        assert!(told(true, true).contains("read nothing in your home"));
        assert!(told(true, false).contains("read and write everything you can"));
        assert_eq!(told(false, true), told(true, false));
    }
}
