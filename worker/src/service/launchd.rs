//! A launchd daemon.

use std::fmt::Write;

use super::{Deed, Service, Step, Unit};

/// Where an administrator's daemons are.
pub(super) const DIR: &str = "/Library/LaunchDaemons";

/// Seconds after which a daemon that was unloaded is no longer waited for: jobs may take their time to end.
const LONGEST: u32 = 7200;

/// Descriptors that the worker may have open; launchd gives 256.
const DESCRIPTORS: u32 = 65_536;

pub(super) fn unit(service: &Service, unit: &Unit) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n<dict>\n",
    );
    let argv: String = unit.argv.iter().map(|word| format!("\n    {}", string(word))).collect();
    let path = format!("<dict>\n    <key>PATH</key>{}\n  </dict>", string(&unit.path));
    let files =
        format!("<dict>\n    <key>NumberOfFiles</key><integer>{DESCRIPTORS}</integer>\n  </dict>");
    let err = service.stray_log().unwrap_or_else(|| "/dev/null".into()).display().to_string();
    let entries = [
        ("Label", string(&service.name)),
        ("ProgramArguments", format!("<array>{argv}\n  </array>")),
        ("EnvironmentVariables", path),
        ("RunAtLoad", "<true/>".into()),
        // However it ends: after an update, too.
        ("KeepAlive", "<true/>".into()),
        // From the request to end until the kill; jobs end in it.
        ("ExitTimeOut", format!("<integer>{}</integer>", unit.drain)),
        // Else its processor time and input and output are held back.
        ("ProcessType", string("Interactive")),
        ("SoftResourceLimits", files.clone()),
        ("HardResourceLimits", files),
        ("StandardOutPath", string("/dev/null")),
        ("StandardErrorPath", string(&err)),
    ];
    for (key, value) in entries {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  <key>{key}</key>\n  {value}");
    }
    text + "</dict>\n</plist>\n"
}

fn string(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<string>{text}</string>")
}

pub(super) fn steps(service: &Service, deed: Deed) -> Vec<Step> {
    let (target, path) =
        (format!("system/{}", service.name), service.unit_path().display().to_string());
    let load = Step::may(&["launchctl", "bootstrap", "system", &path]);
    // What is not loaded need not be unloaded; 36 says that it goes on by itself.
    let unload = format!(
        "launchctl print {target} >/dev/null 2>&1 || exit 0; launchctl bootout {target} || [ $? = 36 ]"
    );
    let unload = Step::must(&["/bin/sh", "-c", &unload]);
    // `bootout` may return while the worker's jobs still end.
    let wait = format!(
        "n=0; while launchctl print {target} >/dev/null 2>&1; do n=$((n+1)); \
         if [ $n -gt {LONGEST} ]; then echo '{target} does not end' >&2; exit 1; fi; sleep 1; done"
    );
    let gone = Step::must(&["/bin/sh", "-c", &wait]);
    match deed {
        // One of the same name may run with an older unit.
        Deed::Install => vec![unload, gone, Step::must(&["launchctl", "enable", &target])],
        Deed::Uninstall | Deed::Stop => vec![unload, gone],
        Deed::Forget => Vec::new(),
        // It may be loaded already; then this starts it.
        Deed::Start => vec![load, Step::must(&["launchctl", "kickstart", &target])],
        Deed::Status => vec![Step::must(&["launchctl", "print", &target])],
        // What the worker says is in files.
        Deed::Logs { .. } => Vec::new(),
    }
}
