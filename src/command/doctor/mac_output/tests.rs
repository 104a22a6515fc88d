use super::super::check::Status;
use super::*;

fn said(text: &str) -> Said {
    Said { success: true, text: text.to_owned() }
}

fn failed(text: &str) -> Said {
    Said { success: false, text: text.to_owned() }
}

/// A check came out as `status`, with `part` in what it found, and with a remedy unless all is well.
fn check(check: &Check, status: Status, part: &str) {
    assert_eq!(check.status, status, "{check:?}");
    assert!(check.finding.contains(part), "{part:?} is not in {check:?}");
    assert_eq!(check.remedy.is_some(), status != Status::Ok, "{check:?}");
}

#[test]
fn integrity_is_on_or_not() {
    let on = "System Integrity Protection status: enabled.\n";
    let off = "System Integrity Protection status: disabled.\n";
    let custom = "System Integrity Protection status: unknown (Custom Configuration).\n\nConfiguration:\n\tApple Internal: disabled\n\tKext Signing: disabled\n";
    check(&integrity(&said(on)), Status::Ok, "on");
    check(&integrity(&said(off)), Status::Weak, "not fully on: disabled");
    check(&integrity(&said(custom)), Status::Weak, "unknown (Custom Configuration)");
    check(&integrity(&failed("")), Status::Weak, "cannot be told: nothing was said");
}

#[test]
fn the_kernel_extension_is_what_counts() {
    let with = "Index Refs Address            Size       Wired      Name (Version) UUID <Linked Against>\n  201    0 0xfffffe0007a1c000 0x20000    0x20000    io.macfuse.filesystems.macfuse.23 (2128.20) 5C2B… <8 6 5 1>\n";
    let without = "    1  165 0    0    0    com.apple.kpi.bsd (24.0.0) 4F6B… <>\n";
    check(&macfuse(&said(with), true), Status::Ok, "is loaded");
    check(&macfuse(&said(without), true), Status::Weak, "FSKit");
    check(&macfuse(&said(without), false), Status::Weak, "not installed");
}

#[test]
fn protection_is_told_from_permissions() {
    let error = |errno: Errno| Err(io::Error::from(errno));
    check(&full_disk_access(Ok(())), Status::Ok, "has it");
    check(&full_disk_access(error(Errno::EPERM)), Status::Weak, "has not got it");
    check(&full_disk_access(error(Errno::EACCES)), Status::Weak, "plain permissions");
    check(&full_disk_access(error(Errno::ENOENT)), Status::Weak, "cannot be told");
}

#[test]
fn the_store_is_better_left_alone() {
    let on = said("/Volumes/builds:\n\tIndexing enabled. \n");
    check(&spotlight(&on, "/Volumes/builds"), Status::Weak, "is indexed");
    assert_eq!(spotlight(&on, "/v").remedy.unwrap(), "`sudo mdutil -i off -d '/v'`");
    for off in
        ["Indexing disabled.", "Indexing and searching disabled.", "Spotlight server is disabled."]
    {
        check(&spotlight(&said(&format!("/:\n\t{off}\n")), "/"), Status::Ok, "not indexed");
    }
    check(
        &spotlight(&failed("/x:\n\tError: unknown indexing state.\n"), "/"),
        Status::Weak,
        "cannot be told",
    );
    check(&spotlight(&failed(""), "/"), Status::Weak, "says nothing");
    check(
        &time_machine(&said("[Excluded]    /Volumes/builds/store\n"), "/s"),
        Status::Ok,
        "not backed up",
    );
    check(
        &time_machine(&said("[Included]    /Volumes/builds/store\n"), "/s"),
        Status::Weak,
        "is backed up",
    );
    check(
        &time_machine(&failed("tmutil: no such file\n"), "/s"),
        Status::Weak,
        "tmutil: no such file",
    );
}

#[test]
fn the_local_network_is_guarded_from_version_15_on() {
    let unset =
        failed("The domain/default pair of (com.apple.network.local-network, …) does not exist\n");
    let set = said("(\n    \"10.0.0.0/8\",\n    \"192.168.0.0/16\"\n)\n");
    check(&local_network(&said("14.7.1\n"), &unset, false), Status::Ok, "asks nobody");
    check(&local_network(&said("15.5\n"), &unset, false), Status::Weak, "what obuild starts");
    check(&local_network(&said("26.1\n"), &unset, true), Status::Weak, "root reaches it");
    check(&local_network(&said("26.1\n"), &set, true), Status::Ok, "allowed");
    check(&local_network(&failed(""), &unset, true), Status::Weak, "cannot be told");
}

#[test]
fn tools_are_there_or_not() {
    check(
        &command_line_tools(&said("/Library/Developer/CommandLineTools\n")),
        Status::Ok,
        "`/Library",
    );
    let none = "xcode-select: error: unable to get active developer directory, use `sudo xcode-select --switch path`\n";
    check(&command_line_tools(&failed(none)), Status::Weak, "no compiler");
    check(
        &rsync(&said("rsync  version 3.4.1  protocol version 32\nCopyright\n")),
        Status::Ok,
        "3.4.1",
    );
    check(
        &rsync(&said("openrsync: protocol version 29\nrsync version 2.6.9 compatible\n")),
        Status::Weak,
        "Apple's",
    );
    check(
        &rsync(&failed("env: rsync: No such file or directory\n")),
        Status::Weak,
        "there is none",
    );
}

#[test]
fn each_processor_has_its_prefix() {
    let at = |prefix: &'static str| move |path: &str| path == format!("{prefix}/bin/brew");
    let here = |_: &str| true;
    check(&homebrew("aarch64", at("/opt/homebrew"), here), Status::Ok, "/opt/homebrew");
    check(&homebrew("x86_64", at("/usr/local"), here), Status::Ok, "/usr/local");
    check(&homebrew("aarch64", at("/usr/local"), here), Status::Weak, "do not belong");
    check(&homebrew("aarch64", at("/opt/homebrew"), |_| false), Status::Weak, "another volume");
    check(&homebrew("aarch64", |_| false, here), Status::Ok, "not installed");
}
