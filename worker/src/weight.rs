//! How much of a worker a job takes.

use std::sync::{Condvar, Mutex, PoisonError};

use obuilder_core::Cancel;

/// Largest weight of a job.
const HEAVIEST: u32 = 1000;

/// What jobs weigh, by their cache hints. A job of which nothing is said weighs 1.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Weights(Vec<(String, u32)>);

impl Weights {
    /// Reads rules such as `ocaml*=4`: jobs whose hint looks like that weigh 4. The first that fits counts.
    ///
    /// # Errors
    /// Which rule cannot be read, in words.
    pub fn parse(rules: &[String]) -> Result<Self, String> {
        let rule = |rule: &String| {
            let (pattern, weight) = rule.rsplit_once('=')?;
            let weight =
                weight.parse::<u32>().ok().filter(|weight| (1..=HEAVIEST).contains(weight))?;
            Some((pattern.to_owned(), weight))
        };
        let read = |text: &String| {
            let wrong =
                || format!("`{text}` is not of the form HINT=N with a number from 1 to {HEAVIEST}");
            rule(text).ok_or_else(wrong)
        };
        rules.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// What a job with that cache hint weighs.
    pub fn of(&self, hint: &str) -> u32 {
        self.0.iter().find(|(pattern, _)| fits(pattern, hint)).map_or(1, |(_, weight)| *weight)
    }
}

/// Whether `text` looks like `pattern`, in which each `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        // The earliest place leaves the most for the rest.
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(last)
}

/// Lets jobs in as long as together they weigh no more than there is room for. One that alone is too heavy goes in alone.
#[derive(Debug)]
pub struct Scale {
    room: u32,
    inside: Mutex<u32>,
    changed: Condvar,
}

/// A job's place, until it is dropped.
#[derive(Debug)]
pub struct Place<'a> {
    scale: &'a Scale,
    weight: u32,
}

impl Scale {
    /// Room for so much at once.
    pub fn new(room: u32) -> Self {
        Self { room, inside: Mutex::new(0), changed: Condvar::new() }
    }

    /// Waits for room, which `told` is told of first if there is none; `None` when `cancel` comes before.
    pub fn enter(&self, weight: u32, cancel: &Cancel, told: impl FnOnce()) -> Option<Place<'_>> {
        let full = |inside: u32| inside > 0 && inside.saturating_add(weight) > self.room;
        let lock = || self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inside = lock();
        if full(*inside) {
            drop(inside);
            told();
            inside = lock();
        }
        while full(*inside) {
            // Looked at now and then as well, for whoever cancels holds no lock.
            let bound = std::time::Duration::from_millis(100);
            inside =
                self.changed.wait_timeout(inside, bound).unwrap_or_else(PoisonError::into_inner).0;
            if cancel.is_cancelled() {
                return None;
            }
        }
        *inside += weight;
        drop(inside);
        Some(Place { scale: self, weight })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.scale.inside.lock().unwrap_or_else(PoisonError::into_inner) -= self.weight;
        self.scale.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn weights(rules: &[&str]) -> Result<Weights, String> {
        Weights::parse(&rules.iter().map(|&rule| rule.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let weights = weights(&["a=b*=3", "ocaml*-flambda*=4", "ocaml*=2", "*big=9"]).unwrap();
        for (hint, weight) in [
            ("", 1),
            ("a=b", 3),
            ("ocaml", 2),
            ("ocaml-5.2-flambda-x", 4),
            ("ocaml-flambda", 4),
            ("not ocaml", 1),
            ("big", 9),
            ("big big", 9),
            ("bigger", 1),
        ] {
            assert_eq!(weights.of(hint), weight, "{hint}");
        }
    }

    #[test]
    fn what_is_no_rule_is_said() {
        for rule in ["", "x", "x=", "x=0", "x=1001", "x=-1", "x=1.5"] {
            let error = weights(&[rule]).unwrap_err();
            assert!(error.contains(&format!("`{rule}`")), "{error}");
        }
    }

    #[test]
    fn a_pattern_with_stars_fits_whatever_stands_for_them() {
        assert!(
            fits("*", "") && fits("**", "x") && fits("a*b*c", "abc") && fits("a*b*c", "axbxbc")
        );
        assert!(!fits("a*b*c", "acb") && !fits("ab*ba", "aba") && !fits("", "x"));
    }

    #[test]
    fn together_they_never_weigh_too_much() {
        let (scale, inside, most) = (Scale::new(4), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for number in 0..16_u32 {
                let (scale, inside, most) = (&scale, &inside, &most);
                scope.spawn(move || {
                    let weight = number % 3 + 1;
                    let _place = scale.enter(weight, &Cancel::new(), || {}).unwrap();
                    most.fetch_max(
                        inside.fetch_add(weight, Ordering::SeqCst) + weight,
                        Ordering::SeqCst,
                    );
                    std::thread::yield_now();
                    inside.fetch_sub(weight, Ordering::SeqCst);
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 4);
        let alone = scale.enter(9, &Cancel::new(), || panic!("there is room")).unwrap();
        let cancel = Cancel::new();
        let mut waits = false;
        cancel.cancel();
        assert!(scale.enter(1, &cancel, || waits = true).is_none() && waits);
        drop(alone);
        assert!(scale.enter(1, &cancel, || {}).is_some());
    }
}
