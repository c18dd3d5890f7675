//! Finds Debian's PostgreSQL, in the version of the data.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// Where Debian installs, one folder for each version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The newest installed version; if there are data already, the version that made them.
pub(crate) fn find(data: &Path) -> Result<PathBuf, Error> {
    find_in(Path::new(DEBIAN), data)
}

fn find_in(installed: &Path, data: &Path) -> Result<PathBuf, Error> {
    let bin = |version: &str| {
        let bin = installed.join(version).join("bin");
        ["initdb", "postgres"]
            .iter()
            .all(|name| bin.join(name).is_file())
            .then_some(bin)
    };
    if let Ok(version) = std::fs::read_to_string(data.join("PG_VERSION")) {
        let version = version.trim();
        return bin(version).ok_or_else(|| Error::Version {
            folder: data.to_owned(),
            version: version.to_owned(),
        });
    }
    let versions = std::fs::read_dir(installed).into_iter().flatten().flatten();
    let mut versions: Vec<u32> = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    versions
        .iter()
        .rev()
        .find_map(|version| bin(&version.to_string()))
        .ok_or(Error::BinariesMissing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(folder: &Path, version: &str) {
        let bin = folder.join(version).join("bin");
        std::fs::create_dir_all(&bin).expect("a folder");
        for name in ["initdb", "postgres"] {
            std::fs::write(bin.join(name), "").expect("a file");
        }
    }

    #[test]
    fn missing_binaries_name_the_package() {
        let folder = tempfile::tempdir().expect("a folder");

        let error = find_in(folder.path(), Path::new("/nowhere")).expect_err("nothing is installed");

        assert!(error.to_string().contains("apt-get install postgresql"), "{error}");
    }

    #[test]
    fn new_data_gets_the_newest_version_and_old_data_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        install(folder.path(), "9");
        install(folder.path(), "15");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");

        assert!(find_in(folder.path(), &data).is_ok_and(|bin| bin.ends_with("15/bin")));
        std::fs::write(data.join("PG_VERSION"), "9\n").expect("a file");
        assert!(find_in(folder.path(), &data).is_ok_and(|bin| bin.ends_with("9/bin")));
        std::fs::write(data.join("PG_VERSION"), "14\n").expect("a file");
        let error = find_in(folder.path(), &data).expect_err("14 is not installed");
        assert!(error.to_string().contains("postgresql-14"), "{error}");
    }
}
