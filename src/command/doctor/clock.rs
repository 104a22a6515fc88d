//! The clock: results are known by times of files, and used and old by the time of day.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::check::Check;
use super::subject::Subject;

/// Clocks that differ by less agree: some filesystems count in seconds of two.
const SLACK: Duration = Duration::from_secs(3);

/// The checks on clocks.
pub(super) fn checks(subject: &Subject<'_>) -> Vec<Check> {
    vec![time_of_day(made_at(), SystemTime::now()), file_times(subject.on_volume())]
}

/// When this program was made.
fn made_at() -> io::Result<SystemTime> {
    std::env::current_exe()?.metadata()?.modified()
}

/// Nothing that is there can have been made in the future.
fn time_of_day(made: io::Result<SystemTime>, now: SystemTime) -> Check {
    const NAME: &str = "clock";
    const REMEDY: &str = "set the clock, and have it set by the network";
    match made.map(|made| made.duration_since(now)) {
        Ok(Ok(ahead)) if ahead > SLACK => {
            let text = format!("obuild itself was made {} s in the future", ahead.as_secs());
            Check::weak(NAME, text, REMEDY)
        }
        Ok(_) => Check::ok(NAME, "it is later than when obuild was made"),
        Err(error) => Check::unknown(NAME, error, REMEDY),
    }
}

/// A volume that another machine serves has another clock.
fn file_times(dir: &Path) -> Check {
    const NAME: &str = "file times";
    let written = tempfile::tempfile_in(dir).and_then(|file| {
        let before = SystemTime::now();
        rustix::fs::ftruncate(&file, 1)?;
        Ok((file.metadata()?.modified()?, before))
    });
    match written {
        Ok((written, now)) => judge(NAME, written, now),
        Err(error) => Check::unknown(NAME, error, "run obuild as a user who may write there"),
    }
}

fn judge(name: &'static str, written: SystemTime, now: SystemTime) -> Check {
    let apart = written.duration_since(now).unwrap_or_else(|error| error.duration());
    match apart > SLACK {
        false => Check::ok(name, "the store's volume has this machine's time"),
        true => Check::weak(
            name,
            format!(
                "files on the store's volume are {} s away from this machine's time",
                apart.as_secs()
            ),
            "set both clocks by the network, or keep the store on a disk of this machine",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn a_clock_that_stands_wrong_is_told() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        assert_eq!(time_of_day(Ok(now - hour), now).status, Status::Ok);
        assert_eq!(time_of_day(Ok(now + Duration::from_secs(1)), now).status, Status::Ok);
        let check = time_of_day(Ok(now + hour), now);
        assert_eq!(check.finding, "obuild itself was made 3600 s in the future");
        assert_eq!(time_of_day(Err(io::Error::other("x")), now).status, Status::Weak);
        assert_eq!(judge("x", now, now).status, Status::Ok);
        assert_eq!(judge("x", now + hour, now).status, Status::Weak);
        assert_eq!(judge("x", now - hour, now).status, Status::Weak);
    }
}
