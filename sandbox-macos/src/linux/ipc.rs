//! System V objects, which outlive whoever made them.

use std::ffi::c_int;
use std::fs;
use std::io;

use nix::libc;

/// Removes every shared memory segment, message queue and semaphore set that `uid` owns or has made.
///
/// POSIX message queues and shared memory are files, which `sweep` removes.
pub(crate) fn remove_of(uid: u32) -> io::Result<()> {
    for id in of("shm", "shmid", uid)? {
        // SAFETY: this command takes no buffer.
        gone(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) })?;
    }
    for id in of("msg", "msqid", uid)? {
        // SAFETY: this command takes no buffer.
        gone(unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) })?;
    }
    for id in of("sem", "semid", uid)? {
        // SAFETY: this command takes no fourth argument.
        gone(unsafe { libc::semctl(id, 0, libc::IPC_RMID) })?;
    }
    Ok(())
}

fn of(kind: &str, id: &str, uid: u32) -> io::Result<Vec<c_int>> {
    match fs::read_to_string(format!("/proc/sysvipc/{kind}")) {
        Ok(table) => Ok(ids(&table, id, uid)),
        // A kernel without them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The numbers in column `id` of the rows that have to do with `uid`.
fn ids(table: &str, id: &str, uid: u32) -> Vec<c_int> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let names = lines.next().unwrap_or_default();
    let column = |name: &str| names.iter().position(|other| *other == name);
    let (id, owners) = (column(id), [column("uid"), column("cuid")]);
    let value = |row: &[&str], column: Option<usize>| row.get(column?)?.parse::<i64>().ok();
    let theirs =
        |row: &Vec<&str>| owners.iter().any(|owner| value(row, *owner) == Some(uid.into()));
    let id = |row: Vec<&str>| value(&row, id)?.try_into().ok();
    lines.filter(theirs).filter_map(id).collect()
}

fn gone(done: c_int) -> io::Result<()> {
    match io::Error::last_os_error() {
        _ if done != -1 => Ok(()),
        // Another of its user's processes was faster.
        error if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIDRM)) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_owner_and_by_maker() {
        let table = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime\n\
             0          3   600          1   705   705   705   705          0\n\
             7          4   600          1     0     0   705   705          0\n\
             8 2147483647   600          1   705     0     0     0          0\n\
             9          5   600        705     1   705     1   705          0\n";
        assert_eq!(ids(table, "semid", 705), [3, 4, i32::MAX]);
        assert!(ids("", "semid", 705).is_empty());
    }
}
