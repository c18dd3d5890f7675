//! Running other programs: to their end, with their complaint in the error, or in the background with a log file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end; returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| cannot_start(&name))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("`{name}` failed ({}): {}", out.status, last_lines(&said, 5));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a program with arguments to its end; returns its standard output.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Result<String> {
    output(Command::new(program).args(arguments))
}

/// Runs a command to its end with `input` on its standard input; returns its standard output.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().display().to_string();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| cannot_start(&name))?;
    let mut stdin = child.stdin.take().expect("standard input was asked for");
    stdin
        .write_all(input.as_bytes())
        .with_context(|| format!("`{name}` does not read"))?;
    drop(stdin);
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!(
            "`{name}` failed ({}): {}",
            out.status,
            last_lines(&String::from_utf8_lossy(&out.stderr), 5)
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Starts a command in the background; its output is appended to `log`.
pub(crate) fn beside(command: &mut Command, log: &Path) -> Result<Child> {
    let name = command.get_program().display().to_string();
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    command.spawn().with_context(|| cannot_start(&name))
}

/// The end of a log file, for an error message.
pub(crate) fn log_end(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    format!("{}:\n{}", log.display(), last_lines(&String::from_utf8_lossy(&text), 8))
}

/// The exit code that stands for a status, as shells count it.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn cannot_start(name: &str) -> String {
    format!("cannot start `{name}`: is its package installed? (see `alkhub-cluster deps`)")
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_repeats_its_complaint() {
        let failure = run("sh", ["-c", "echo one; echo two >&2; exit 3"])
            .expect_err("it fails")
            .to_string();

        assert!(
            failure.contains("two") && failure.contains('3') && !failure.contains("one"),
            "{failure}"
        );
    }

    #[test]
    fn a_missing_program_names_the_cure() {
        let failure = run("no-such-program", [""; 0]).expect_err("missing").to_string();

        assert!(failure.contains("alkhub-cluster deps"), "{failure}");
    }

    #[test]
    fn a_signal_becomes_a_code_as_in_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
    }
}
