//! The archive is what Docker and containerd expect, and the same each time.

use std::io::Read as _;

use super::*;

fn image() -> Image {
    let mut files = Files::default();
    files.bytes("/alkhub", 0o755, "program");
    files.bytes("/etc/ssl/certs/ca-certificates.crt", 0o644, "authorities");
    files.symlink("/usr/bin/sh", "busybox");
    files.folder("/tmp", 0o1777);
    Image {
        name: "alkhub/hub:test".to_owned(),
        user: "65532".to_owned(),
        files,
        ..Image::default()
    }
}

fn entries(archive: &[u8]) -> Vec<(String, u32, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let header = entry.header();
        let path = entry.path().expect("path").display().to_string();
        (
            path,
            header.mode().expect("mode"),
            header.mtime().expect("time"),
            content,
        )
    };
    archive.entries().expect("a tar").map(read).collect()
}

#[test]
fn a_layer_has_folders_first_and_no_dates() {
    let layer = image().files.layer().expect("a layer");

    let all = entries(&layer);
    let names: Vec<_> = all
        .iter()
        .map(|(path, mode, ..)| format!("{} {mode:o}", path.trim_end_matches('/')))
        .collect();
    assert_eq!(
        names,
        [
            "alkhub 755",
            "etc 755",
            "etc/ssl 755",
            "etc/ssl/certs 755",
            "etc/ssl/certs/ca-certificates.crt 644",
            "tmp 1777",
            "usr 755",
            "usr/bin 755",
            "usr/bin/sh 777",
        ]
    );
    assert!(all.iter().all(|(_, _, time, _)| *time == 0));
}

#[test]
fn the_same_image_is_the_same_archive() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (one, two) = (folder.path().join("one.tar"), folder.path().join("two.tar"));

    image().write(&one).expect("written");
    image().write(&two).expect("written");

    assert_eq!(fs::read(one).expect("one"), fs::read(two).expect("two"));
}

#[test]
fn the_manifest_leads_to_the_configuration_and_the_layer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("image.tar");
    image().write(&out).expect("written");

    let all = entries(&fs::read(out).expect("an archive"));
    let find = |name: &str| {
        all.iter()
            .find(|(path, ..)| path == name)
            .map(|(.., content)| content.clone())
    };
    let manifest: Value = serde_json::from_slice(&find("manifest.json").expect("a manifest")).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let config = find(&text(&manifest[0]["Config"])).expect("a configuration");
    let layer = find(&text(&manifest[0]["Layers"][0])).expect("a layer");

    assert_eq!(manifest[0]["RepoTags"][0], "alkhub/hub:test");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["config"]["User"], "65532");
    assert_eq!(
        config["rootfs"]["diff_ids"][0],
        format!("sha256:{}", hex(&Sha256::digest(&layer)))
    );
}

#[test]
fn merged_folders_are_found_under_usr() {
    assert_eq!(
        normal("/lib/x86_64-linux-gnu/libc.so.6"),
        Path::new("usr/lib/x86_64-linux-gnu/libc.so.6")
    );
    assert_eq!(
        normal("/lib64/ld-linux-x86-64.so.2"),
        Path::new("usr/lib64/ld-linux-x86-64.so.2")
    );
    assert_eq!(normal("/alkhub"), Path::new("alkhub"));
}
