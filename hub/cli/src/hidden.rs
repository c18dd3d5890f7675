//! A key on the command line, out of the sight of `ps`.
//!
//! Everybody on a machine can read the command lines of its processes, and nobody but their user the environment. So a
//! command that is given `--token` runs itself again at once, with the key in the environment instead.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

const FLAG: &str = "--token";
const VARIABLE: &str = "ALKHUB_TOKEN";

/// Does not return when there was a key to hide. Where the program cannot be run again, the key stays where it is.
pub(crate) fn hide_key() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let Some((rest, key)) = without_key(&arguments) else {
        return;
    };
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = Command::new(program);
    if let Some(name) = arguments.first() {
        again.arg0(name);
    }
    // Returns only when it failed.
    let _ = again.args(&rest).env(VARIABLE, key).exec();
}

/// The arguments without the program and the one key, and the key. What follows `--` is another program's.
fn without_key(arguments: &[OsString]) -> Option<(Vec<OsString>, OsString)> {
    let (mut rest, mut key) = (Vec::new(), None);
    let mut left = arguments.iter().skip(1);
    while let Some(argument) = left.next() {
        let given = if argument == "--" {
            rest.push(argument.clone());
            rest.extend(left.by_ref().cloned());
            continue;
        } else if argument == FLAG {
            left.next()?.clone()
        } else if let Some(value) = value_of(argument) {
            value
        } else {
            rest.push(argument.clone());
            continue;
        };
        // Twice is a mistake, which the parser of the command line names.
        if key.replace(given).is_some() {
            return None;
        }
    }
    key.map(|key| (rest, key))
}

fn value_of(argument: &OsStr) -> Option<OsString> {
    let value = argument.as_bytes().strip_prefix(b"--token=")?;
    Some(OsString::from_vec(value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_taken_out_and_what_is_anothers_stays() {
        for (line, rest) in [
            ("alkhub call a.b --token k 1", Some("call a.b 1")),
            ("alkhub --token=k call a.b", Some("call a.b")),
            (
                "alkhub offer a.b --token k -- x --token y",
                Some("offer a.b -- x --token y"),
            ),
            ("alkhub offer a.b -- x --token y", None),
            ("alkhub call a.b --token-file f", None),
            ("alkhub call --token", None),
            ("alkhub call --token a --token b", None),
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let found = without_key(&arguments);
            let wanted = rest.map(|rest| (rest.split(' ').map(Into::into).collect(), "k".into()));
            assert_eq!(found, wanted, "{line}");
        }
    }
}
