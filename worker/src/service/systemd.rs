//! A systemd unit.

use super::{Deed, Service, Step, Unit};

/// Where an administrator's units are.
pub(super) const DIR: &str = "/etc/systemd/system";

pub(super) fn unit(unit: &Unit) -> String {
    let argv: Vec<_> = unit.argv.iter().map(|word| quoted(word)).collect();
    let (argv, drain, path) = (argv.join(" "), unit.drain, quoted(&format!("PATH={}", unit.path)));
    format!(
        "[Unit]\n\
         Description=obuild worker\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         # It is started again however often it ends.\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={argv}\n\
         Environment={path}\n\
         Restart=always\n\
         RestartSec=2\n\
         # The worker alone is told to stop: it takes no more jobs and lets those under way end.\n\
         KillMode=mixed\n\
         TimeoutStopSec={drain}\n\
         # A step that needs too much memory is its job's failure and not the worker's.\n\
         OOMPolicy=continue\n\
         Delegate=yes\n\
         TasksMax=infinity\n\
         LimitNOFILE=65536\n\
         UMask=0022\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

/// `word` as systemd reads one word: in quotes, with nothing put in its place.
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' | '$' => text.extend([c, c]),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text + "\""
}

pub(super) fn steps(service: &Service, deed: Deed) -> Vec<Step> {
    let name = format!("{}.service", service.name);
    let reload = Step::must(&["systemctl", "daemon-reload"]);
    let systemctl = |verb: &str| vec![Step::must(&["systemctl", verb, &name])];
    match deed {
        Deed::Install => vec![reload, Step::must(&["systemctl", "enable", &name])],
        Deed::Uninstall => vec![Step::must(&["systemctl", "disable", "--now", &name])],
        Deed::Forget => vec![reload],
        Deed::Start => systemctl("start"),
        Deed::Stop => systemctl("stop"),
        Deed::Status => vec![Step::must(&["systemctl", "--no-pager", "status", &name])],
        Deed::Logs { lines, follow } => {
            let lines = lines.to_string();
            let mut argv = vec!["journalctl", "--no-pager", "-u", &name, "-n", &lines];
            argv.extend(follow.then_some("-f"));
            vec![Step::must(&argv)]
        }
    }
}
