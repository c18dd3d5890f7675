//! Container images without a registry, a daemon or a base: a `docker load`-able archive of one layer.
//!
//! Invariants
//! - The same content gives the same bytes, whoever builds it and when: entries are sorted, belong to root and are
//!   dated to the epoch.
//! - The archive is either complete or absent: it is written under another name and renamed.

pub(crate) mod catalog;
mod closure;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::work::hex;

/// One image: its contents, and how it is run.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// Name and tag; without a registry in front, as all names in alkhub.
    pub(crate) name: String,
    /// User (and group) that it runs as.
    pub(crate) user: String,
    /// Always run.
    pub(crate) entrypoint: Vec<String>,
    /// Run, or given to the entry point, unless the pod says otherwise.
    pub(crate) command: Vec<String>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    /// Working directory.
    pub(crate) folder: String,
    /// Signal that asks it to stop, if not SIGTERM.
    pub(crate) stop_signal: Option<&'static str>,
    /// Its files, by absolute path.
    pub(crate) files: Files,
}

/// The file tree of an image; parents of a path are made as they are needed.
#[derive(Debug, Default)]
pub(crate) struct Files {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
struct Entry {
    mode: u32,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Folder,
    Symlink(String),
    Copy(PathBuf),
    Bytes(Vec<u8>),
}

// === impl Image ===

impl Image {
    /// Writes the archive; returns its size in bytes.
    pub(crate) fn write(&self, out: &Path) -> Result<u64> {
        if let Some(folder) = out.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let fresh = out.with_extension("tar.new");
        let layer = self.files.layer()?;
        let digest = hex(&Sha256::digest(&layer));
        let config = self.config(&digest).to_string().into_bytes();
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{digest}/layer.tar");
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}]);

        let file = File::create(&fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
        let mut archive = Builder::new(BufWriter::new(file));
        append(&mut archive, &config_name, 0o644, &config)?;
        append(&mut archive, &layer_name, 0o644, &layer)?;
        append(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
        archive.into_inner()?.flush()?;
        fs::rename(&fresh, out).with_context(|| format!("cannot write {}", out.display()))?;
        Ok(fs::metadata(out)?.len())
    }

    fn config(&self, digest: &str) -> Value {
        let mut run = json!({
            "User": self.user,
            "Env": self.env,
            "Entrypoint": self.entrypoint,
            "Cmd": self.command,
            "WorkingDir": self.folder,
        });
        if let Some(signal) = self.stop_signal {
            run["StopSignal"] = json!(signal);
        }
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "alkhub-cluster image"}],
        })
    }
}

// === impl Files ===

impl Files {
    /// An empty folder.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) {
        self.put(path, mode, Content::Folder);
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.put(path, 0o777, Content::Symlink(target.to_owned()));
    }

    /// A file with this content.
    pub(crate) fn bytes(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.put(path, mode, Content::Bytes(content.into()));
    }

    /// A copy of a file of this machine; the target of a symbolic link is copied under the name of the link.
    pub(crate) fn copy(&mut self, path: &str, mode: u32, source: &Path) {
        self.put(path, mode, Content::Copy(source.to_owned()));
    }

    /// Whether the path is taken.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(&normal(path))
    }

    /// The layer: a tar of everything, each folder before its contents.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match &entry.content {
                Content::Folder => special(&mut layer, path, entry.mode, EntryType::Directory, "")?,
                Content::Symlink(target) => special(&mut layer, path, entry.mode, EntryType::Symlink, target)?,
                Content::Bytes(content) => append(&mut layer, path, entry.mode, content)?,
                Content::Copy(source) => {
                    let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
                    append(&mut layer, path, entry.mode, &content)?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }

    fn put(&mut self, path: &str, mode: u32, content: Content) {
        let path = normal(path);
        let parents = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
        for parent in parents.map(Path::to_owned).collect::<Vec<_>>() {
            self.entries.entry(parent).or_insert(Entry {
                mode: 0o755,
                content: Content::Folder,
            });
        }
        self.entries.insert(path, Entry { mode, content });
    }
}

/// Paths in a layer have no leading slash, and the folders that Debian merged into `/usr` exist only there.
fn normal(path: &str) -> PathBuf {
    let path = path.trim_matches('/');
    let merged = ["bin", "sbin", "lib", "lib64"]
        .iter()
        .any(|folder| path.starts_with(&format!("{folder}/")));
    if merged {
        Path::new("usr").join(path)
    } else {
        PathBuf::from(path)
    }
}

fn header(mode: u32, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn append<W: Write>(archive: &mut Builder<W>, path: impl AsRef<Path>, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(mode, EntryType::Regular, content.len() as u64);
    Ok(archive.append_data(&mut header, path, content)?)
}

fn special<W: Write>(archive: &mut Builder<W>, path: &Path, mode: u32, kind: EntryType, target: &str) -> Result<()> {
    let mut header = header(mode, kind, 0);
    if kind == EntryType::Symlink {
        return Ok(archive.append_link(&mut header, path, target)?);
    }
    Ok(archive.append_data(&mut header, path, std::io::empty())?)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
