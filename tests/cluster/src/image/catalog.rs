//! The images for the tests, made of this machine's Debian packages.
//!
//! `postgres:15` and `redis:7` keep the official images' contract (environment, entry point, user 999, data folder),
//! since the operator relies on that when it runs them itself; they are nowhere more permissive than the originals.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{Files, Image, closure};
use crate::process::run;
use crate::say;
use crate::wait::Clock;
use crate::work::hex;

/// The image that holds a pod's namespaces open.
pub(crate) const PAUSE: &str = "alkhub/pause:1";
/// Increased when this file changes what it builds in a way that [`inputs`] does not notice.
const FORM: u32 = 2;

const POSTGRES_FILES: &str = "/usr/lib/postgresql/15";
const POSTGRES_ENTRY: &str = include_str!("../../images/postgres-entrypoint.sh");
const REDIS_ENTRY: &str = include_str!("../../images/redis-entrypoint.sh");
const PATH: &str = "PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin";

/// How one image is made, and the file in which it is kept.
struct Recipe {
    file: &'static str,
    make: fn() -> Result<Image>,
}

/// All of them; the pause image comes first, since a node can do nothing without it.
const RECIPES: [Recipe; 4] = [
    Recipe {
        file: "pause.tar",
        make: pause,
    },
    Recipe {
        file: "redis.tar",
        make: redis,
    },
    Recipe {
        file: "tool.tar",
        make: tool,
    },
    Recipe {
        file: "postgres.tar",
        make: postgres,
    },
];

/// Builds all images into `folder`, unless they exist and were made from the same files; returns the archives.
pub(crate) fn ensure(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = fs::canonicalize(folder)?;
    let mark = folder.join("built-from");
    let inputs = inputs()?;
    let archives: Vec<_> = RECIPES.iter().map(|recipe| folder.join(recipe.file)).collect();
    if fs::read_to_string(&mark).is_ok_and(|built| built == inputs) && archives.iter().all(|path| path.exists()) {
        return Ok(archives);
    }
    for (recipe, archive) in RECIPES.iter().zip(&archives) {
        let clock = Clock::start();
        let image = (recipe.make)().with_context(|| format!("cannot make {}", recipe.file))?;
        let bytes = image.write(archive)?;
        say!("image {}: {} MB in {}", image.name, bytes / 1_000_000, clock.seconds());
    }
    fs::write(&mark, inputs)?;
    Ok(archives)
}

/// A name for the inputs of the images: the programs' sizes and dates, and our own scripts.
fn inputs() -> Result<String> {
    let programs = [
        "/usr/lib/postgresql/15/bin/postgres",
        "/usr/bin/redis-server",
        "/usr/bin/curl",
        "/bin/busybox",
        "/usr/bin/setpriv",
    ];
    let mut hash = Sha256::new();
    for program in programs {
        let about =
            fs::metadata(program).with_context(|| format!("{program} is missing: see `alkhub-cluster deps`"))?;
        hash.update(format!("{program} {} {}\n", about.len(), about.mtime()));
    }
    hash.update(format!("{FORM}{POSTGRES_ENTRY}{REDIS_ENTRY}"));
    Ok(hex(&hash.finalize()))
}

fn pause() -> Result<Image> {
    let mut files = Files::default();
    files.copy("/busybox", 0o755, Path::new("/bin/busybox"));
    let entrypoint = ["/busybox", "tail", "-f", "/dev/null"].map(str::to_owned).to_vec();
    Ok(Image {
        name: PAUSE.to_owned(),
        user: "65535".to_owned(),
        entrypoint,
        files,
        ..Image::default()
    })
}

fn postgres() -> Result<Image> {
    let mut files = system()?;
    let bin = ["postgres", "initdb", "pg_ctl", "psql", "pg_isready", "createdb"];
    let bin = bin.map(|program| format!("{POSTGRES_FILES}/bin/{program}"));
    let mut paths: Vec<&str> = bin.iter().map(String::as_str).collect();
    paths.extend([
        "/usr/lib/postgresql/15/lib",
        "/usr/share/postgresql/15",
        "/usr/bin/setpriv",
    ]);
    paths.extend(["/usr/share/zoneinfo/UTC", "/usr/share/zoneinfo/Etc"]);
    // Just-in-time compilation needs LLVM, which is larger than everything else.
    closure::add(&mut files, &paths, &["bitcode", "llvmjit", "/man/", "/pgxs/"])?;
    files.bytes("/usr/local/bin/docker-entrypoint.sh", 0o755, POSTGRES_ENTRY);
    files.folder("/docker-entrypoint-initdb.d", 0o755);
    files.folder("/var/lib/postgresql/data", 0o1777);
    files.folder("/run/postgresql", 0o3777);
    Ok(Image {
        name: "postgres:15".to_owned(),
        entrypoint: vec!["docker-entrypoint.sh".to_owned()],
        command: vec!["postgres".to_owned()],
        env: vec![
            PATH.to_owned(),
            "LANG=C.UTF-8".to_owned(),
            "PGDATA=/var/lib/postgresql/data".to_owned(),
        ],
        stop_signal: Some("SIGINT"),
        files,
        ..Image::default()
    })
}

fn redis() -> Result<Image> {
    let mut files = system()?;
    closure::add(
        &mut files,
        &["/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/bin/setpriv"],
        &[],
    )?;
    files.bytes("/usr/local/bin/docker-entrypoint.sh", 0o755, REDIS_ENTRY);
    files.folder("/data", 0o1777);
    Ok(Image {
        name: "redis:7".to_owned(),
        entrypoint: vec!["docker-entrypoint.sh".to_owned()],
        command: vec!["redis-server".to_owned()],
        env: vec![PATH.to_owned()],
        folder: "/data".to_owned(),
        files,
        ..Image::default()
    })
}

fn tool() -> Result<Image> {
    let mut files = system()?;
    let programs = [
        "/usr/bin/curl",
        "/usr/bin/redis-cli",
        "/usr/lib/postgresql/15/bin/psql",
        "/usr/lib/postgresql/15/bin/pg_isready",
    ];
    closure::add(&mut files, &programs, &[])?;
    files.copy(
        "/etc/ssl/certs/ca-certificates.crt",
        0o644,
        Path::new("/etc/ssl/certs/ca-certificates.crt"),
    );
    Ok(Image {
        name: "alkhub/tool:1".to_owned(),
        user: "65534:65534".to_owned(),
        command: vec!["sleep".to_owned(), "2147483647".to_owned()],
        env: vec![PATH.to_owned()],
        files,
        ..Image::default()
    })
}

/// What every program of Debian expects around it: a shell, the merged folders, names of users, a locale.
fn system() -> Result<Files> {
    let mut files = Files::default();
    for folder in ["bin", "sbin", "lib", "lib64"] {
        files.folder(&format!("/usr/{folder}"), 0o755);
        files.symlink(&format!("/{folder}"), &format!("usr/{folder}"));
    }
    for folder in ["dev", "proc", "sys", "root"] {
        files.folder(&format!("/{folder}"), 0o755);
    }
    files.folder("/run", 0o755);
    files.symlink("/var/run", "/run");
    files.folder("/tmp", 0o1777);
    files.bytes("/etc/passwd", 0o644, passwd());
    files.bytes(
        "/etc/group",
        0o644,
        "root:x:0:\npostgres:x:999:\nredis:x:1000:\nnogroup:x:65534:\n",
    );
    files.bytes(
        "/etc/nsswitch.conf",
        0o644,
        "passwd: files\ngroup: files\nhosts: files dns\n",
    );
    files.copy("/usr/bin/busybox", 0o755, Path::new("/bin/busybox"));
    for applet in run("/bin/busybox", ["--list"])?.lines() {
        let path = format!("/usr/bin/{applet}");
        if !files.has(&path) {
            files.symlink(&path, "busybox");
        }
    }
    closure::add(&mut files, &["/usr/lib/locale/C.utf8"], &[])?;
    Ok(files)
}

/// The official images disagree about user 999: whoever looks it up in an image finds that image's name first.
fn passwd() -> String {
    let users = [
        ("root", 0, 0),
        ("postgres", 999, 999),
        ("redis", 999, 1000),
        ("nobody", 65534, 65534),
    ];
    users
        .iter()
        .map(|(name, user, group)| format!("{name}:x:{user}:{group}::/:/bin/sh\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_image_is_first_for_nodes_cannot_wait_for_it() {
        assert_eq!(RECIPES[0].file, "pause.tar");
    }

    #[test]
    fn names_carry_no_registry() {
        for recipe in RECIPES.iter().take(1) {
            let image = (recipe.make)().expect("an image");
            assert!(
                !image.name.split('/').next().unwrap_or_default().contains('.'),
                "{}",
                image.name
            );
        }
    }
}
