//! `.obuilder_profile.sh`, which the sandbox sources before each command.

use crate::request::Request;

/// The text of the profile: plain POSIX shell, the same under `sh` and `bash`, and harmless when sourced twice.
///
/// It names no place but Homebrew's prefix and the system's own directories; what a step has set itself stays set. Scripts find the
/// image's name in `OBUILD_BASE_IMAGE` and the compiler that it stands for in `OBUILD_OCAML`, which is also the name of its switch.
pub fn profile(request: &Request) -> String {
    let variables =
        VARIABLES.map(|(name, value)| format!("export {name}=\"${{{name}-{value}}}\"\n"));
    PROFILE
        .replace("@NAME@", &request.name)
        .replace("@OCAML@", &request.ocaml.to_string())
        .replace("@PREFIX@", &request.prefix())
        .replace("@VARIABLES@\n", &variables.concat())
}

/// What builds of a fleet run with, unless a step says otherwise.
const VARIABLES: [(&str, &str); 6] = [
    ("HOMEBREW_DISABLE_LOCKING", "1"),
    ("HOMEBREW_NO_AUTO_UPDATE", "1"),
    ("OPAMYES", "1"),
    ("OPAMCONFIRMLEVEL", "unsafe-yes"),
    ("OPAMERRLOGLEN", "0"),
    ("OPAMPRECISETRACKING", "1"),
];

const PROFILE: &str = include_str!("profile.sh");

/// The directories of programs that steps find, Homebrew's first; GNU patch goes by its own name there.
pub(crate) fn path(prefix: &str) -> String {
    let first = "opt/gpatch/libexec/gnubin";
    format!("{prefix}/{first}:{prefix}/bin:{prefix}/sbin:/usr/bin:/bin:/usr/sbin:/sbin")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::request::tests::request;

    /// Sources the profile with `variables` in `shell`, strictly, and prints what `expression` comes to.
    fn sourced(shell: &str, text: &str, variables: &[(&str, &str)], expression: &str) -> String {
        let script = format!("set -eu\n{text}\n{text}\nprintf '%s\\n' {expression}\n");
        let mut command = Command::new(shell);
        command.args(["-c", &script]).env_clear().env("HOME", "/home/it");
        command.env("PATH", "/mine:/usr/bin:/bin").envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}: {text}");
        assert!(output.status.success(), "{shell}: {text}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[test]
    fn every_shell_reads_it_for_every_compiler_and_prefix() {
        let compilers =
            ["4.02.3", "4.08.0", "4.14.2", "5.1.0~beta1", "5.2.0+trunk", "5.4.1", "5.10.0"];
        for ocaml in compilers {
            for prefix in ["/usr/local", "/opt/homebrew"] {
                let mut request = request(ocaml);
                request.prefix = prefix.into();
                let text = profile(&request);
                assert!(!text.contains('@'), "{text}");
                for shell in ["sh", "bash"] {
                    let ask = |expression: &str| sourced(shell, &text, &[], expression);
                    let names = ask("\"$OBUILD_BASE_IMAGE $OBUILD_OCAML\"");
                    assert_eq!(names, format!("{} {ocaml}", request.name));
                    let first =
                        format!("{prefix}/opt/gpatch/libexec/gnubin:{prefix}/bin:{prefix}/sbin");
                    assert_eq!(
                        ask("\"$PATH\""),
                        format!("{first}:/mine:/usr/bin:/bin:/usr/sbin:/sbin")
                    );
                    let opam = "\"$OPAMYES $OPAMCONFIRMLEVEL $OPAMERRLOGLEN $OPAMPRECISETRACKING\"";
                    assert_eq!(ask(opam), "1 unsafe-yes 0 1");
                    let brew = "\"$HOMEBREW_DISABLE_LOCKING $HOMEBREW_NO_AUTO_UPDATE\"";
                    assert_eq!(ask(brew), "1 1");
                    assert_eq!(ask("\"$(env | grep -c ^OBUILD_)\""), "2");
                }
            }
        }
    }

    #[test]
    fn what_a_step_sets_stays() {
        let text = profile(&request("5.4.1"));
        for shell in ["sh", "bash"] {
            let found = sourced(
                shell,
                &text,
                &[("OPAMYES", "0"), ("OPAMERRLOGLEN", "")],
                "\"$OPAMYES/$OPAMERRLOGLEN\"",
            );
            assert_eq!(found, "0/");
        }
    }
}
