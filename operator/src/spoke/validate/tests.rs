//! What is to be done for a Spoke, without a cluster.

use std::sync::Arc;

use alkhub_crds::SpokeStatus;
use alkhub_crds::spoke::{HubRef, SpokeSpec};
use alkhub_protocol::admin::{
    CONCURRENCY_LIMIT, LABEL_LIMIT, PATTERN_LIMIT, SPOKE_LABELS, SPOKE_OPERATIONS, SPOKE_SCOPES,
};
use alkhub_protocol::scope::SCOPE_LIMIT_BYTES;
use k8s_openapi::api::core::v1::Secret;
use kube::CustomResourceExt as _;
use kube::core::ObjectMeta;
use kube::core::PartialObjectMeta;
use tokio::time::Instant;

use super::*;
use crate::context::{AdminKey, Poll, Seen};
use crate::hub::testing::{given, hub};
use crate::names::{FINALIZER, owner};

/// A Spoke `builder` of the Hub `demo` in `team`.
pub(in crate::spoke) fn spoke() -> Spoke {
    let hub_ref = HubRef {
        name: "demo".to_owned(),
    };
    let mut spoke = Spoke::new(
        "builder",
        SpokeSpec {
            hub_ref,
            ..SpokeSpec::default()
        },
    );
    spoke.metadata.namespace = Some("team".to_owned());
    spoke.metadata.uid = Some("uid-spoke".to_owned());
    spoke
}

/// A poll that saw these spokes, or the hub alone, or nothing.
fn poll(seen: Result<Result<Vec<ReportedSpoke>, String>, String>) -> Arc<Poll> {
    let report = crate::admin::ReportedHub::healthy();
    let seen = seen.map(|spokes| Seen {
        report,
        spokes: spokes.map(|spokes| {
            let named = spokes.into_iter().map(|info| (info.name.to_string(), info));
            Arc::new(named.collect())
        }),
        listed_at: Instant::now(),
    });
    Arc::new(Poll {
        asked: true,
        at: Instant::now(),
        key: Some(AdminKey {
            uid: "uid-auth".to_owned(),
            version: "1".to_owned(),
            key: "k".into(),
        }),
        denied: false,
        seen,
    })
}

/// What a hub reports of the Spoke `builder`.
fn reported(uid: &str, declaration: Option<&str>, hint: Option<&str>) -> ReportedSpoke {
    let info = serde_json::json!({"name": "builder", "uid": uid, "declarationDigest": declaration, "keyHint": hint});
    serde_json::from_value(info).expect("a spoke")
}

fn observed() -> Observed {
    Observed {
        hub: Some(Arc::new(hub(given()))),
        poll: Some(poll(Ok(Ok(Vec::new())))),
        secret: None,
        declared_at: None,
    }
}

fn declared(spoke: &Spoke, observed: &Observed) -> Declaration {
    match validate(spoke, observed) {
        Course::Declare(declaration) => *declaration,
        Course::Wait(waiting) => panic!("waits: {waiting:?}"),
    }
}

fn waits(spoke: &Spoke, observed: &Observed) -> Option<Waiting> {
    match validate(spoke, observed) {
        Course::Declare(_) => None,
        Course::Wait(waiting) => Some(waiting),
    }
}

#[tokio::test]
async fn a_spoke_waits_for_its_hub() {
    let mut paused = hub(given());
    paused.spec.paused = true;
    let with = |hub| Observed { hub, ..observed() };

    assert_eq!(waits(&spoke(), &with(None)), Some(Waiting::HubNotFound));
    assert_eq!(waits(&spoke(), &with(Some(Arc::new(paused)))), Some(Waiting::HubPaused));
    let silent = Observed {
        poll: Some(poll(Err("away".to_owned()))),
        ..observed()
    };
    assert_eq!(waits(&spoke(), &silent), Some(Waiting::HubUnreachable));
    let listless = Observed {
        poll: Some(poll(Ok(Err("503".to_owned())))),
        ..observed()
    };
    assert_eq!(waits(&spoke(), &listless), Some(Waiting::HubUnreachable));
    assert_eq!(
        waits(
            &spoke(),
            &Observed {
                poll: None,
                ..observed()
            }
        ),
        Some(Waiting::HubNotAsked)
    );
    assert_eq!(waits(&spoke(), &observed()), None);
}

#[tokio::test]
async fn the_digest_is_another_when_anything_is_another() {
    let base = declared(&spoke(), &observed());
    let mut suspended = spoke();
    suspended.spec.suspended = true;
    let mut rekeyed = declared(&spoke(), &observed());
    rekeyed.key.uid = "uid-auth-2".to_owned();

    assert_eq!(base.digest("s", "1"), declared(&spoke(), &observed()).digest("s", "1"));
    assert_ne!(base.digest("s", "1"), base.digest("s", "2"));
    assert_ne!(
        base.digest("s", "1"),
        declared(&suspended, &observed()).digest("s", "1")
    );
    assert_ne!(base.digest("s", "1"), rekeyed.digest("s", "1"));
}

#[tokio::test]
async fn nothing_is_sent_again_only_while_everything_is_as_it_was() {
    let mut declaration = declared(&spoke(), &observed());
    declaration.known = true;
    let meta = ObjectMeta {
        uid: Some("s".to_owned()),
        resource_version: Some("1".to_owned()),
        owner_references: Some(vec![owner::<Spoke>("builder", "uid-spoke")]),
        ..ObjectMeta::default()
    };
    let secret = |meta: ObjectMeta| {
        Some(Arc::new(PartialObjectMeta::<Secret> {
            metadata: meta,
            ..Default::default()
        }))
    };
    let done = Observed {
        secret: secret(meta.clone()),
        ..observed()
    };
    let mut registered = spoke();
    registered.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    registered.status = Some(SpokeStatus {
        declared: Some(declaration.digest("s", "1")),
        ..SpokeStatus::default()
    });

    assert!(declaration.is_done(&registered, &done));
    assert!(!declaration.is_done(&spoke(), &done));
    assert!(!declaration.is_done(&registered, &observed()));
    let edited = ObjectMeta {
        resource_version: Some("2".to_owned()),
        ..meta.clone()
    };
    assert!(!declaration.is_done(
        &registered,
        &Observed {
            secret: secret(edited),
            ..observed()
        }
    ));
    let foreign = ObjectMeta {
        owner_references: None,
        ..meta
    };
    assert!(!declaration.is_done(
        &registered,
        &Observed {
            secret: secret(foreign),
            ..observed()
        }
    ));
    declaration.known = false;
    assert!(!declaration.is_done(&registered, &done));
}

/// A restored database, or a `PUT` by somebody else.
#[tokio::test]
async fn a_hub_that_has_another_declaration_or_key_is_told_again() {
    let mut issued = spoke();
    issued.status = Some(SpokeStatus {
        key_hint: Some("alk_aaaaaa".to_owned()),
        ..SpokeStatus::default()
    });
    let digest = declared(&issued, &observed()).put.digest();
    let known = |info: ReportedSpoke| {
        let poll = Some(poll(Ok(Ok(vec![info]))));
        declared(&issued, &Observed { poll, ..observed() }).known
    };
    let hint = Some("alk_aaaaaa");

    assert!(known(reported("uid-spoke", Some(&digest), hint)));
    assert!(!known(reported("uid-other", Some(&digest), hint)));
    assert!(!known(reported(
        "uid-spoke",
        Some("1:00000000000000000000000000000000"),
        hint
    )));
    assert!(!known(reported("uid-spoke", Some(&digest), Some("alk_bbbbbb"))));
    assert!(!known(reported("uid-spoke", Some(&digest), None)));
    assert!(known(reported("uid-spoke", Some("2:of the next version"), hint)));
    assert!(
        known(reported("uid-spoke", None, None)),
        "a hub of before reports neither"
    );
}

#[tokio::test]
async fn keys_overlap_as_long_as_the_spec_says() {
    let mut patient = spoke();
    patient.spec.credentials = Some(alkhub_crds::spoke::Credentials {
        overlap_seconds: Some(60),
        ..Default::default()
    });

    assert_eq!(declared(&patient, &observed()).put.overlap_seconds, 60);
    assert_eq!(declared(&spoke(), &observed()).put.overlap_seconds, 0);
}

#[tokio::test(start_paused = true)]
async fn a_look_from_before_the_declaration_is_not_held_against_it() {
    let before = observed();
    let just_declared = Observed {
        declared_at: Some(Instant::now()),
        ..before
    };

    assert!(declared(&spoke(), &just_declared).known);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    let later = Observed {
        poll: Some(poll(Ok(Ok(Vec::new())))),
        ..just_declared
    };
    assert!(!declared(&spoke(), &later).known);
}

#[test]
fn the_kind_spoke_has_the_bounds_that_the_hub_checks() {
    let crd = serde_json::to_value(Spoke::crd()).expect("plain data");
    let version = &crd["spec"]["versions"][0];
    let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];

    assert_eq!(spec["scopes"]["maxItems"], SPOKE_SCOPES);
    assert_eq!(spec["scopes"]["items"]["maxLength"], SCOPE_LIMIT_BYTES);
    assert_eq!(spec["operations"]["maxItems"], SPOKE_OPERATIONS);
    assert_eq!(spec["operations"]["items"]["maxLength"], PATTERN_LIMIT);
    assert_eq!(spec["labels"]["maxProperties"], SPOKE_LABELS);
    assert_eq!(spec["labels"]["additionalProperties"]["maxLength"], LABEL_LIMIT);
    assert_eq!(spec["concurrency"]["minimum"].as_f64(), Some(1.0));
    assert_eq!(
        spec["concurrency"]["maximum"].as_f64(),
        Some(f64::from(CONCURRENCY_LIMIT))
    );
}
