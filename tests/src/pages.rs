//! Runs the commands of pages (`alkhub_test_support::pages` reads them) as a person types them.

use std::fs;
use std::process::Stdio;

use anyhow::{Result, bail};
use tokio::process::Command;

/// Runs texts in order in one bash, each under its name; what an earlier one sets, a later one sees. `command` is the
/// bash, with its folder and its environment.
///
/// # Errors
/// A command failed: the message has the text's name and all output.
pub async fn run(texts: &[(String, String)], command: &mut Command) -> Result<String> {
    let mut script = "set -euEo pipefail\ntrap 'echo \"the block at $block failed\" >&2' ERR\n".to_owned();
    for (name, text) in texts {
        script += &format!("block='{name}'\necho \"--- $block\"\n{text}");
    }
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), script)?;
    let output = command
        .arg(file.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{said}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_block_that_fails_is_named_and_later_ones_do_not_run() {
        let texts = [
            ("p.md:2", "x=1\n"),
            ("p.md:5", "test $x = 2\n"),
            ("p.md:8", "echo after\n"),
        ];
        let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned()));

        let error = run(&texts, &mut Command::new("bash")).await.expect_err("2 is not 1");

        let said = format!("{error:#}");
        assert!(said.contains("the block at p.md:5 failed"), "{said}");
        assert!(!said.contains("after"), "{said}");
    }
}
