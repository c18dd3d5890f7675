//! The tasks of the command line that begin outside of a cluster: they prepare everything, and hand over to [`life`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cli::{ImageArgs, Up};
use crate::image::{Files, Image, catalog};
use crate::spec::{Spec, absolute};
use crate::work::Work;
use crate::{binaries, deps, dump as report, enter, life, say};

/// Boots a cluster, runs the command in it and ends it; returns the command's exit code.
pub(crate) fn cluster(arguments: Up) -> Result<i32> {
    deps::require_root()?;
    deps::require(deps::CLUSTER)?;
    let Up {
        work,
        binaries,
        images: folder,
        nodes,
        image,
        ready_file,
        dump,
        command,
    } = arguments;
    let work = Work::at(&work.work)?;
    let bin = binaries::ensure(&binaries.bin)?;
    let mut archives = images(&folder.images)?;
    archives.extend(existing(&image)?);
    let lock = life::prepare(&work)?;
    let spec = Spec {
        work: work.root().to_owned(),
        bin,
        nodes,
        images: archives,
        ready_file: ready_file.as_deref().map(absolute).transpose()?,
        dump: dump.as_deref().map(absolute).transpose()?,
        shell: command.is_empty(),
    };
    spec.store(&work)?;
    life::live(&work, lock, inside("inside-cluster", &work, &[], or_shell(command)))
}

/// Starts a Docker engine, runs the command next to it and ends it; returns the command's exit code.
pub(crate) fn docker(work: &Path, images: &[PathBuf], command: Vec<String>) -> Result<i32> {
    deps::require_root()?;
    deps::require(deps::DOCKER)?;
    let images = existing(images)?;
    let work = Work::at(work)?;
    let lock = life::prepare(&work)?;
    life::live(&work, lock, inside("inside-docker", &work, &images, or_shell(command)))
}

/// Makes the test images unless they are up to date.
pub(crate) fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    deps::require(deps::IMAGES)?;
    catalog::ensure(folder)
}

/// Makes one image from files.
pub(crate) fn image(arguments: &ImageArgs) -> Result<()> {
    let ImageArgs {
        out,
        name,
        user,
        entrypoint,
        cmd,
        file,
        dir,
        env,
        workdir,
    } = arguments;
    let mut files = Files::default();
    for text in file {
        let mut parts = text.split(':');
        let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
            anyhow::bail!("--file {text}: write SRC:DST or SRC:DST:MODE");
        };
        files.copy(target, mode(parts.next(), 0o644)?, Path::new(source));
    }
    for text in dir {
        let (path, bits) = text
            .split_once(':')
            .map_or((text.as_str(), None), |(path, bits)| (path, Some(bits)));
        files.folder(path, mode(bits, 0o755)?);
    }
    let image = Image {
        name: name.clone(),
        user: user.clone(),
        entrypoint: entrypoint.clone(),
        command: cmd.clone(),
        env: env.clone(),
        folder: workdir.clone(),
        stop_signal: None,
        files,
    };
    let bytes = image.write(out)?;
    say!("image {name}: {} kB in {}", bytes / 1000, out.display());
    Ok(())
}

/// Dumps a running cluster.
pub(crate) fn dump(work: &Work, folder: &Path) -> Result<i32> {
    let folder = absolute(folder)?;
    let text = folder.to_str().context("the folder's name is not text")?.to_owned();
    match enter::relocate(work, ["dump".to_owned(), text])? {
        Some(code) => Ok(code),
        None => report::write(work, &folder).map(|()| 0),
    }
}

/// The command, or a shell if there is none.
pub(crate) fn or_shell(command: Vec<String>) -> Vec<String> {
    if command.is_empty() {
        vec!["bash".to_owned()]
    } else {
        command
    }
}

/// How this program is started again as the first process of new namespaces.
fn inside(task: &str, work: &Work, images: &[PathBuf], command: Vec<String>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![task.into(), "--work".into(), work.root().into()];
    for image in images {
        arguments.extend(["--image".into(), image.into()]);
    }
    arguments.push("--".into());
    arguments.extend(command.into_iter().map(OsString::from));
    arguments
}

fn existing(archives: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let find =
        |path: &PathBuf| std::fs::canonicalize(path).with_context(|| format!("no image archive {}", path.display()));
    archives.iter().map(find).collect()
}

fn mode(bits: Option<&str>, default: u32) -> Result<u32> {
    bits.map_or(Ok(default), |bits| {
        u32::from_str_radix(bits, 8).with_context(|| format!("`{bits}` is no octal mode"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode(Some("755"), 0).expect("octal"), 0o755);
        assert_eq!(mode(None, 0o644).expect("default"), 0o644);
        assert!(mode(Some("9"), 0).is_err());
    }

    #[test]
    fn no_command_is_a_shell() {
        assert_eq!(or_shell(Vec::new()), ["bash"]);
        assert_eq!(or_shell(vec!["true".to_owned()]), ["true"]);
    }
}
