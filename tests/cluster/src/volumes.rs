//! Volumes of the default storage class: a folder for each claim, the same on every node.
//!
//! The nodes of a cluster share one file system, so a pod that moves to another node finds its data there, as on
//! network storage. The volumes are of kind `local` rather than `hostPath`, because kubelet applies a pod's `fsGroup`
//! only to the former; a fresh volume belongs to root, as on real storage.

use std::fs;
use std::io::BufReader;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Deserializer, Value, json};

use crate::api::Api;
use crate::objects::{PROVISIONER, STORAGE_CLASS};
use crate::say;
use crate::work::Work;

/// Serves claims until this process ends.
///
/// This is a process of its own, because the cluster's first one collects every child that ends, whoever waits for it.
pub(crate) fn run(work: &Work) -> Result<i32> {
    let api = Api::new(work);
    loop {
        // The server ends every watch after a while; a new one begins with all existing claims.
        if let Err(error) = follow(work, &api) {
            say!("{error:#}");
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn follow(work: &Work, api: &Api) -> Result<()> {
    let mut watch = api.follow("/api/v1/persistentvolumeclaims")?;
    let events = watch.stdout.take().context("the output of curl was asked for")?;
    for event in Deserializer::from_reader(BufReader::new(events)).into_iter::<Value>() {
        let event = event?;
        let claim = &event["object"];
        let uid = claim["metadata"]["uid"].as_str().unwrap_or_default();
        match event["type"].as_str() {
            Some("DELETED") if is_ours(claim) => remove(work, api, uid)?,
            Some("ADDED" | "MODIFIED") if wants_volume(claim) => make(work, api, uid, claim)?,
            _ => {}
        }
    }
    Ok(())
}

fn is_ours(claim: &Value) -> bool {
    claim["spec"]["storageClassName"] == STORAGE_CLASS
}

fn wants_volume(claim: &Value) -> bool {
    is_ours(claim) && claim["status"]["phase"] == "Pending" && claim["spec"]["volumeName"].is_null()
}

fn make(work: &Work, api: &Api, uid: &str, claim: &Value) -> Result<()> {
    let folder = work.path("volumes").join(uid);
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    api.create(&[(
        "/api/v1/persistentvolumes".to_owned(),
        volume(claim, uid, &folder.display().to_string()),
    )])
}

fn remove(work: &Work, api: &Api, uid: &str) -> Result<()> {
    let folder = work.path("volumes").join(uid);
    if !folder.exists() {
        return Ok(());
    }
    api.delete(&format!("/api/v1/persistentvolumes/{}", name(uid)))?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

fn name(uid: &str) -> String {
    format!("pvc-{uid}")
}

/// The volume for a claim, bound to it from the start and usable on every node.
fn volume(claim: &Value, uid: &str, folder: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name(uid), "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "volumeMode": claim["spec"]["volumeMode"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim["metadata"]["namespace"],
                "name": claim["metadata"]["name"],
                "uid": uid,
            },
            "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
            ]}]}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(class: &str, phase: &str) -> Value {
        json!({
            "metadata": {"name": "data", "namespace": "alkhub", "uid": "7"},
            "spec": {
                "storageClassName": class,
                "accessModes": ["ReadWriteOnce"],
                "volumeMode": "Filesystem",
                "resources": {"requests": {"storage": "1Gi"}},
            },
            "status": {"phase": phase},
        })
    }

    #[test]
    fn only_pending_claims_of_our_class_get_a_volume() {
        assert!(wants_volume(&claim("standard", "Pending")));
        assert!(!wants_volume(&claim("standard", "Bound")));
        assert!(!wants_volume(&claim("other", "Pending")));
    }

    #[test]
    fn a_volume_is_of_the_size_and_the_owner_of_its_claim() {
        let volume = volume(&claim("standard", "Pending"), "7", "/volumes/7");

        assert_eq!(volume["spec"]["capacity"]["storage"], "1Gi");
        assert_eq!(volume["spec"]["claimRef"]["namespace"], "alkhub");
        assert_eq!(volume["metadata"]["name"], "pvc-7");
    }
}
