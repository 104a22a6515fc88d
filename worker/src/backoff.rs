//! How long to wait before the next attempt.

use std::time::Duration;

/// Waits that double from a first one up to a longest, each shortened by chance so that many workers which lost one scheduler
/// do not all come back at the same moment.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    seed: u64,
}

impl Backoff {
    /// Begins with `first`. `seed` differs between workers.
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self { first, longest, next: first, seed: seed.max(1) }
    }

    /// The next wait: between half and the whole of what it is by then.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next.min(self.longest);
        self.next = whole.saturating_mul(2);
        // Xorshift: chance enough to spread workers.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        whole / 2 + whole.mul_f64((self.seed % 1000) as f64 / 2000.0)
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut backoff = Backoff::new(first, longest, 42);
        let waits: Vec<_> = (0..20).map(|_| backoff.wait()).collect();
        for (wait, whole) in waits.iter().zip([1, 2, 4, 8, 16, 32, 60, 60, 60]) {
            let whole = Duration::from_secs(whole);
            assert!(*wait >= whole / 2 && *wait <= whole, "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= first);
        let other: Vec<_> = (0..3).map(|_| Backoff::new(first, longest, 43).wait()).collect();
        assert_ne!(other[0], waits[0]);
    }
}
