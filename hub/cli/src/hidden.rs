//! Secrets on the command line, out of the sight of `ps`.
//!
//! Everybody on a machine can read the command lines of its processes, but only their user can read the environment. So
//! a command that is given a key, or an address that may contain a password, runs itself again at once with the secret
//! in the environment instead.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Flags that carry a secret, and the equivalent variables.
const HIDDEN: [(&str, &str); 3] = [
    ("--token", "ALKHUB_TOKEN"),
    ("--database-url", "ALKHUB_STORE__DATABASE_URL"),
    ("--redis-url", "ALKHUB_EVENTS__REDIS_URL"),
];

/// Secrets by their variables.
type Secrets = Vec<(&'static str, OsString)>;

/// Does not return if there was a secret to hide; the command line must be a valid one. If the program cannot be run
/// again, the secret stays where it is.
pub(crate) fn hide_secrets() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let Some((rest, secrets)) = without_secrets(&arguments) else {
        return;
    };
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = Command::new(program);
    if let Some(name) = arguments.first() {
        again.arg0(name);
    }
    // Returns only if it failed.
    let _ = again.args(&rest).envs(secrets).exec();
}

/// The arguments without the program and the secrets, and the secrets by their variables; `None` if there are no
/// secrets. What follows `--` belongs to another program.
fn without_secrets(arguments: &[OsString]) -> Option<(Vec<OsString>, Secrets)> {
    let (mut rest, mut secrets) = (Vec::new(), Secrets::new());
    let mut left = arguments.iter().skip(1);
    while let Some(argument) = left.next() {
        if argument == "--" {
            rest.push(argument.clone());
            rest.extend(left.by_ref().cloned());
            continue;
        }
        let Some((variable, value)) = HIDDEN.iter().find_map(|hidden| given(hidden, argument)) else {
            rest.push(argument.clone());
            continue;
        };
        // Giving it twice, or without a value, is a mistake that the parser of the command line reports.
        if secrets.iter().any(|(known, _)| *known == variable) {
            return None;
        }
        let value = match value {
            Some(value) => value,
            None => left.next()?.clone(),
        };
        secrets.push((variable, value));
    }
    (!secrets.is_empty()).then_some((rest, secrets))
}

/// The variable of a flag, if an argument is that flag, and the value that the argument itself contains.
fn given((flag, variable): &(&str, &'static str), argument: &OsStr) -> Option<(&'static str, Option<OsString>)> {
    match argument.as_bytes().strip_prefix(flag.as_bytes())? {
        [] => Some((variable, None)),
        [b'=', value @ ..] => Some((variable, Some(OsString::from_vec(value.to_vec())))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_and_all_else_stays() {
        let token = ("ALKHUB_TOKEN", "k");
        for (line, hidden) in [
            ("alkhub call a.b --token k 1", Some(("call a.b 1", vec![token]))),
            ("alkhub --token=k call a.b", Some(("call a.b", vec![token]))),
            (
                "alkhub offer a.b --token k -- x --token y",
                Some(("offer a.b -- x --token y", vec![token])),
            ),
            (
                "alkhub dev --database-url postgres://me:p@x --redis-url=redis://:p@y --quiet",
                Some((
                    "dev --quiet",
                    vec![
                        ("ALKHUB_STORE__DATABASE_URL", "postgres://me:p@x"),
                        ("ALKHUB_EVENTS__REDIS_URL", "redis://:p@y"),
                    ],
                )),
            ),
            ("alkhub offer a.b -- x --token y", None),
            ("alkhub call a.b --token-file f", None),
            ("alkhub call --token", None),
            ("alkhub call --token a --token b", None),
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let found = without_secrets(&arguments);
            let wanted = hidden.map(|(rest, secrets)| {
                let rest = rest.split(' ').map(Into::into).collect();
                let secrets = secrets.into_iter().map(|(variable, value)| (variable, value.into()));
                (rest, secrets.collect())
            });
            assert_eq!(found, wanted, "{line}");
        }
    }
}
