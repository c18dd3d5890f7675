//! Puts programs of this machine into an image, together with the libraries that they load.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Files;

/// Copies `paths` (folders with everything in them), except for anything whose path contains one of `except`.
pub(super) fn add(files: &mut Files, paths: &[&str], except: &[&str]) -> Result<()> {
    let mut found = BTreeSet::new();
    for path in paths {
        collect(Path::new(path), except, &mut found)?;
    }
    let programs: Vec<_> = found.iter().filter(|path| is_elf(path)).cloned().collect();
    found.extend(libraries(&programs)?);
    for path in found {
        let name = path
            .to_str()
            .with_context(|| format!("{} is not text", path.display()))?;
        let mode = fs::metadata(&path)?.permissions().mode() & 0o755;
        files.copy(name, mode, &path);
    }
    Ok(())
}

fn collect(path: &Path, except: &[&str], found: &mut BTreeSet<PathBuf>) -> Result<()> {
    if except.iter().any(|part| path.to_string_lossy().contains(part)) {
        return Ok(());
    }
    if !path.is_dir() {
        if !path.exists() {
            bail!("{} is not on this machine: see `alkhub-cluster deps`", path.display());
        }
        found.insert(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), except, found)?;
    }
    Ok(())
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

/// What the loader would load for all of them, in one call, since `ldd` takes any number of files.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    if programs.is_empty() {
        return Ok(BTreeSet::new());
    }
    // ldd fails if one of them is static; its output about the others is still right.
    let answer = Command::new("ldd")
        .args(programs)
        .output()
        .context("cannot start `ldd`")?;
    Ok(parse(&String::from_utf8_lossy(&answer.stdout)))
}

/// Paths of libraries in the output of `ldd`: lines with an address in brackets.
fn parse(answer: &str) -> BTreeSet<PathBuf> {
    let library = |line: &str| {
        let (before, _) = line.trim().rsplit_once(" (0x")?;
        let path = before.rsplit_once(" => ").map_or(before, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    answer.lines().filter_map(library).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_lines_with_an_address() {
        let answer = "/usr/bin/redis-server:
\tlinux-vdso.so.1 (0x00007ffd)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f01)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f02)
/bin/busybox:
\tnot a dynamic executable
";

        let paths: Vec<_> = parse(answer).into_iter().collect();

        assert_eq!(
            paths,
            [
                Path::new("/lib/x86_64-linux-gnu/libm.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }
}
