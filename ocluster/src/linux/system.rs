//! What Linux can be asked for.

use std::io;
use std::time::Duration;

use socket2::SockRef;

/// Has the system give a connection up when what was written has no receipt for so long.
pub(crate) fn give_up_after(socket: &SockRef<'_>, longest: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(longest))
}
