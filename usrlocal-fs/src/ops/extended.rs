//! Extended attributes, and the two that are not on any disk.

use std::ffi::{CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::io::{Errno, Result};

use crate::core::Call;
use crate::node::Node;
use crate::os::{self, credentials};
use crate::status;

/// The attribute of a mount point that tells root what goes on in it, as JSON.
pub(crate) const STATUS: &str = "user.usrlocal-fs.status";
const ACCESS_LIST: &str = "system.posix_acl_access";

/// What a size and a value are asked for with.
pub(crate) enum Value {
    Size(u32),
    Bytes(Vec<u8>),
}

impl Call<'_> {
    /// Reads an attribute.
    pub(crate) fn getxattr(&self, number: u64, name: &OsStr, room: u32) -> Result<Value> {
        if name == STATUS && number == crate::node::TOP && self.caller.uid == 0 {
            return fit(status::of_mount(self.core).into_attribute(), room);
        }
        let node = self.node(number)?;
        if name == ACCESS_LIST && node.is_top() && self.core.top.is_some() {
            return Err(Errno::NODATA);
        }
        if name == ACCESS_LIST
            && node.is_top()
            && let Some(list) = self.who_may_pass(&node)?
        {
            return fit(list, room);
        }
        let fd = self.descriptor(&node)?;
        let name = attribute_name(name)?;
        measure(room, |room| os::special::get_attribute(fd.as_fd(), &name, room))
    }

    /// Lists the names of attributes.
    pub(crate) fn listxattr(&self, number: u64, room: u32) -> Result<Value> {
        let node = self.node(number)?;
        let fd = self.descriptor(&node)?;
        measure(room, |room| os::special::list_attributes(fd.as_fd(), room))
    }

    /// Sets an attribute.
    pub(crate) fn setxattr(
        &self,
        number: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        let node = self.node(number)?;
        let fd = self.descriptor(&node)?;
        let c_name = attribute_name(name)?;
        let set = || os::special::set_attribute(fd.as_fd(), &c_name, value, flags);
        if name.as_bytes().starts_with(b"system.") {
            // An access list may take set-group-id away, which depends on the caller's groups.
            credentials::as_caller_in_groups(self.caller, set)
        } else {
            // As the caller first, who may not fill what the disk keeps for root.
            match credentials::as_caller(self.caller, set) {
                Err(Errno::ACCESS | Errno::PERM) if !node.is_top() => set(),
                result => result,
            }
        }
    }

    /// Removes an attribute.
    pub(crate) fn removexattr(&self, number: u64, name: &OsStr) -> Result<()> {
        let node = self.node(number)?;
        let fd = self.descriptor(&node)?;
        let name = attribute_name(name)?;
        self.within(&node, || os::special::remove_attribute(fd.as_fd(), &name))
    }

    /// An access list for the top that lets every user of a view pass.
    ///
    /// The kernel has one set of attributes for the top. While one user's are in it, it may be checking another, who is
    /// then no owner; this list keeps it from turning that user away. What users really may do at the top is checked
    /// against their own tree, see [`Call::within`].
    fn who_may_pass(&self, node: &Node) -> Result<Option<Vec<u8>>> {
        const USER_OBJ: u16 = 1;
        const USER: u16 = 2;
        const GROUP_OBJ: u16 = 4;
        const MASK: u16 = 0x10;
        const OTHER: u16 = 0x20;
        const NOBODY: u32 = u32::MAX;
        if !self.core.views.differ() {
            return Ok(None);
        }
        let owners = self.core.views.owners();
        let mode = os::meta::of_fd(node.view.top.as_fd())?.mode;
        let bits = |shift: u32| ((mode >> shift) & 7) as u16;
        // All others see the same directory, so this is the same whoever asks.
        let others = match self.core.views.otherwise() {
            Some(top) => (os::meta::of_fd(top.view.top.as_fd())?.mode & 7) as u16,
            None => 0,
        };
        let mut list = 2u32.to_le_bytes().to_vec();
        let mut entry = |tag: u16, bits: u16, id: u32| {
            list.extend(tag.to_le_bytes());
            list.extend(bits.to_le_bytes());
            list.extend(id.to_le_bytes());
        };
        entry(USER_OBJ, bits(6), NOBODY);
        owners.iter().for_each(|owner| entry(USER, 7, *owner));
        entry(GROUP_OBJ, bits(3) | others, NOBODY);
        entry(MASK, 7, NOBODY);
        entry(OTHER, others, NOBODY);
        Ok(Some(list))
    }
}

fn attribute_name(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

fn fit(bytes: Vec<u8>, room: u32) -> Result<Value> {
    if room == 0 {
        Ok(Value::Size(bytes.len() as u32))
    } else if bytes.len() <= room as usize {
        Ok(Value::Bytes(bytes))
    } else {
        Err(Errno::RANGE)
    }
}

fn measure(room: u32, read: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Value> {
    if room == 0 {
        return read(&mut []).map(|size| Value::Size(size as u32));
    }
    let mut bytes = vec![0; room as usize];
    let size = read(&mut bytes)?;
    bytes.truncate(size);
    Ok(Value::Bytes(bytes))
}
