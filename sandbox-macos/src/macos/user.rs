//! Users by `dscl`.

use crate::error::Result;
use crate::slot::Slot;
use crate::user::{PERSON, tool};

/// `staff`, as every person has.
pub(crate) fn default_gid(_uid: u32) -> u32 {
    20
}

/// Makes the user: hidden, without a password, without a token.
pub(crate) fn create(slot: &Slot) -> Result<()> {
    let record = format!("/Users/{}", slot.user.name);
    let (uid, gid) = (slot.user.uid.to_string(), slot.owner().gid.to_string());
    let home = slot.home.to_string_lossy();
    dscl(&["-create", &record])?;
    let attributes = [
        ("UniqueID", uid.as_str()),
        ("PrimaryGroupID", &gid),
        ("NFSHomeDirectory", &home),
        ("UserShell", "/bin/bash"),
        ("RealName", PERSON),
        ("IsHidden", "1"),
        ("Password", "*"),
    ];
    for (key, value) in attributes {
        dscl(&["-create", &record, key, value])?;
    }
    Ok(())
}

/// Removes the user; the system's cache of users is told.
pub(crate) fn remove(slot: &Slot) -> Result<()> {
    dscl(&["-delete", &format!("/Users/{}", slot.user.name)])?;
    tool("/usr/bin/dscacheutil", &["-flushcache"], |_, _| false)
}

/// `dscl . -create` is idempotent, and now and then fails with eNotYetImplemented (status 140, -14988) for no reason.
fn dscl(arguments: &[&str]) -> Result<()> {
    tool("/usr/bin/dscl", &[&["."], arguments].concat(), |status, stderr| {
        status == Some(140) || stderr.contains("eNotYetImplemented") || stderr.contains("-14988")
    })
}
