//! Work that is stopped when it takes too long.

use std::time::Duration;

use obuilder_core::Cancel;

/// Does `work`, whose token is cancelled with `cancel` and after `longest`; says whether it was late.
pub(crate) fn within<T>(
    longest: Duration,
    cancel: &Cancel,
    work: impl FnOnce(&Cancel) -> T,
) -> (T, bool) {
    let ((bound, _passed_on), ended) = (cancel.child(), Cancel::new());
    std::thread::scope(|scope| {
        let timer = scope.spawn(|| {
            let late = !ended.wait_timeout(longest);
            if late {
                bound.cancel();
            }
            late
        });
        let done = work(&bound);
        ended.cancel();
        // A timer has nothing to panic about.
        (done, timer.join().unwrap_or(false))
    })
}
