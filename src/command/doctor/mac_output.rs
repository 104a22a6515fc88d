//! What macOS's own tools say, and what it means for builds. Pure, so that all of it is tested on Linux.

use std::io;

use nix::errno::Errno;

use super::check::Check;
use super::tool::Said;

/// `csrutil status` says `System Integrity Protection status: enabled.`, or `disabled.`, or `unknown (Custom Configuration).`
/// and a table (ss64.com/mac/csrutil.html).
pub(super) fn integrity(said: &Said) -> Check {
    const NAME: &str = "SIP";
    let status = said.text.split_once("status: ").map_or("", |(_, rest)| rest);
    let status = status.lines().next().unwrap_or_default().trim_end_matches('.');
    match status.split_whitespace().next() {
        Some("enabled") => Check::ok(NAME, "System Integrity Protection is on"),
        Some(_) => Check::weak(
            NAME,
            format!("System Integrity Protection is not fully on: {status}"),
            "obuild does not need it off: `csrutil enable` in the recovery system",
        ),
        None => {
            Check::unknown(NAME, first_line(&said.text), "`csrutil status` as an administrator")
        }
    }
}

/// `kmutil showloaded --list-only` names the extensions in the kernel, macFUSE's as `io.macfuse.filesystems.macfuse` and the
/// release of the system it is for; `installed` is whether macFUSE's bundle is there. Its FSKit side mounts below `/Volumes`
/// alone and does not tell who asks (macFUSE wiki, "FUSE Backends"), so the kernel extension it must be.
pub(super) fn macfuse(loaded: &Said, installed: bool) -> Check {
    const NAME: &str = "FUSE";
    if loaded.text.contains("io.macfuse.filesystems.macfuse") {
        return Check::ok(NAME, "macFUSE's kernel extension is loaded");
    }
    match installed {
        true => Check::weak(
            NAME,
            "macFUSE is installed, and its kernel extension is not loaded; its FSKit backend cannot remap `/usr/local`",
            "mount something with it once, allow it in System Settings > Privacy & Security and restart; on Apple silicon \
             allow kernel extensions in the recovery system's Startup Security Utility first",
        ),
        false => Check::weak(
            NAME,
            "macFUSE is not installed, so `/usr/local` cannot be remapped by a filesystem",
            "install macFUSE, or use one slot",
        ),
    }
}

/// What opening the privacy database comes to: the system's protection says EPERM, plain permissions EACCES
/// (Apple developer forums, 804548).
pub(super) fn full_disk_access(opened: io::Result<()>) -> Check {
    const NAME: &str = "Full Disk Access";
    let error = match opened {
        Ok(()) => return Check::ok(NAME, "obuild has it"),
        Err(error) => error,
    };
    let remedy = "add the terminal, or the program that launchd starts, in System Settings > Privacy & Security > Full \
                  Disk Access";
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => Check::weak(
            NAME,
            "obuild has not got it: people's documents and removable volumes are closed, even to root",
            remedy,
        ),
        Some(Errno::EACCES) => {
            Check::unknown(NAME, "plain permissions stand before it", "run `obuild doctor` as root")
        }
        _ => Check::unknown(NAME, error, remedy),
    }
}

/// `mdutil -s VOLUME` says `Indexing enabled.`, `Indexing disabled.` or `Indexing and searching disabled.` on its last line.
pub(super) fn spotlight(said: &Said, volume: &str) -> Check {
    const NAME: &str = "Spotlight";
    let remedy = format!("`sudo mdutil -i off -d '{volume}'`");
    match said.text.trim_end().lines().last().map(str::trim) {
        Some(line) if line.contains("disabled") => {
            Check::ok(NAME, "the store's volume is not indexed")
        }
        Some("Indexing enabled.") => Check::weak(
            NAME,
            "the store's volume is indexed, which slows builds and keeps files busy",
            remedy,
        ),
        Some(line) if line.contains("server is disabled") => Check::ok(NAME, line),
        line => Check::unknown(NAME, line.unwrap_or("`mdutil` says nothing"), remedy),
    }
}

/// `tmutil isexcluded PATH` says `[Excluded]` or `[Included]`, and the path (tmutil(8)).
pub(super) fn time_machine(said: &Said, store: &str) -> Check {
    const NAME: &str = "Time Machine";
    let remedy = format!("`sudo tmutil addexclusion -p '{store}'`");
    match said.text.split_whitespace().next() {
        Some("[Excluded]") => Check::ok(NAME, "the store is not backed up"),
        Some("[Included]") => Check::weak(
            NAME,
            "the store is backed up: local snapshots keep the space of results that are long deleted",
            remedy,
        ),
        _ => Check::unknown(NAME, first_line(&said.text), remedy),
    }
}

/// `version` is what `sw_vers -productVersion` says; `allowed` what `defaults read com.apple.network.local-network
/// AllowedEthernetLocalNetworkAddresses` says. From macOS 15 on processes other than root's, launchd's daemons and those of a
/// terminal need a person's consent to reach the local network (Apple TN3179).
pub(super) fn local_network(version: &Said, allowed: &Said, root: bool) -> Check {
    const NAME: &str = "local network";
    let major = version.text.trim().split('.').next().and_then(|major| major.parse::<u32>().ok());
    let remedy = "`sudo defaults write com.apple.network.local-network AllowedEthernetLocalNetworkAddresses -array \
                  10.0.0.0/8 172.16.0.0/12 192.168.0.0/16` (and AllowedWiFiLocalNetworkAddresses), and restart";
    match major {
        None => Check::unknown(NAME, first_line(&version.text), remedy),
        Some(..15) => Check::ok(NAME, "this system asks nobody"),
        Some(_) if allowed.success && allowed.text.contains('.') => {
            Check::ok(NAME, "addresses of the local network are allowed to everybody")
        }
        Some(_) => Check::weak(
            NAME,
            match root {
                true => {
                    "root reaches it; steps with `(network host)` may not, as nobody answers the system's question"
                }
                false => {
                    "what obuild starts may not reach it before somebody answers the system's question"
                }
            },
            remedy,
        ),
    }
}

/// `xcode-select -p` names the directory of the developer tools.
pub(super) fn command_line_tools(said: &Said) -> Check {
    const NAME: &str = "command-line tools";
    match said.success {
        true => Check::ok(NAME, format!("in `{}`", said.text.trim())),
        false => Check::weak(NAME, "there is no compiler", "`xcode-select --install`"),
    }
}

/// What `rsync --version` begins with tells Apple's (`openrsync: protocol version 29`, from macOS 15.4 on) from the real one.
pub(super) fn rsync(said: &Said) -> Check {
    const NAME: &str = "rsync";
    let line = first_line(&said.text);
    match (said.success, line.starts_with("openrsync")) {
        (true, false) => Check::ok(NAME, line),
        (true, true) => Check::weak(
            NAME,
            format!(
                "`{line}` is Apple's; obuild needs none, but opam and scripts may need the real one"
            ),
            "`brew install rsync`",
        ),
        (false, _) => Check::weak(
            NAME,
            "there is none; obuild needs none, but opam does",
            "`brew install rsync`",
        ),
    }
}

/// Homebrew's pre-built packages are good for one prefix, by processor; `cp -c`, which `brew` uses, never leaves a volume
/// (issue 132 of ocaml/infrastructure).
pub(super) fn homebrew(
    arch: &str,
    there: impl Fn(&str) -> bool,
    same_volume: impl Fn(&str) -> bool,
) -> Check {
    const NAME: &str = "Homebrew";
    let (wanted, other) = match arch {
        "aarch64" => ("/opt/homebrew", "/usr/local"),
        _ => ("/usr/local", "/opt/homebrew"),
    };
    let brew = |prefix: &str| there(&format!("{prefix}/bin/brew"));
    match (brew(wanted), brew(other)) {
        (true, _) if same_volume(wanted) => Check::ok(NAME, format!("in `{wanted}`")),
        (true, _) => Check::weak(
            NAME,
            format!(
                "`{wanted}` is on another volume than the store, where `brew` cannot clone files to"
            ),
            "keep the store on the system's volume, or do not run `brew` in builds",
        ),
        (false, true) => Check::weak(
            NAME,
            format!("it is in `{other}`, where this processor's packages do not belong"),
            format!("install it in `{wanted}`"),
        ),
        (false, false) => Check::ok(NAME, "not installed"),
    }
}

fn first_line(text: &str) -> String {
    text.trim().lines().next().unwrap_or("nothing was said").to_owned()
}

#[cfg(test)]
mod tests;
