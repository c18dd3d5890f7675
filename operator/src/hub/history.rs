//! The revisions of a Hub that are kept, as ControllerRevisions: the wanted one is found, or made.
//!
//! Invariants
//! - A revision is made once. One that is found is used as it stands, whatever this operator would make of it.
//! - The numbers grow with each use, so that they tell which revisions were wanted last.

use alkhub_crds::Hub;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use serde_json::json;

use crate::context::Context;
use crate::error::Error;
use crate::hub::build;
use crate::hub::generated::Generated;
use crate::hub::revision::{Inputs, Made, Revision};
use crate::hub::validate::Plan;
use crate::kubernetes::Going as _;
use crate::names::{ObjectNames, is_owned_by};

/// Revisions without pods that are kept besides the newest, so that a change can be reverted in one step.
const KEPT: usize = 2;

/// The revisions of a Hub, newest first; the newest is the one that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct KeptRevisions {
    revisions: Vec<Revision>,
    /// Whether this operator would make a different template of the newest one.
    pub(crate) is_outdated: bool,
}

/// Finds the revision that a plan asks for, or makes it.
pub(crate) async fn ensure(ctx: &Context, plan: &Plan, generated: &Generated) -> Result<KeptRevisions, Error> {
    let names = &plan.names;
    let inputs = Inputs::of(plan, generated);
    let mut revisions = known(ctx, names);
    revisions.retain(|revision| revision.name != inputs.name);
    let last = revisions.first().map(|revision| revision.number).unwrap_or_default();
    let newest = match live(ctx, names, &inputs.name).await? {
        Some(live) => again(ctx, names, &live, last).await?,
        None => make(ctx, plan, &inputs, last + 1).await?,
    };
    let is_outdated = build::made(plan, &inputs, newest.made.count)? != newest.made;
    revisions.insert(0, newest);
    Ok(KeptRevisions { revisions, is_outdated })
}

/// The revision that was wanted last, according to the cache.
pub(crate) fn newest(ctx: &Context, hub: &Hub) -> Option<String> {
    known(ctx, &ObjectNames::of(hub))
        .into_iter()
        .next()
        .map(|revision| revision.name)
}

/// The Hub's revisions, the highest number first.
fn known(ctx: &Context, names: &ObjectNames) -> Vec<Revision> {
    let ours = |kept: &ControllerRevision| is_owned_by(&kept.metadata, &names.uid) && !kept.meta_is_going();
    let kept = ctx.stores.revisions.state_filter(ours);
    let mut revisions: Vec<_> = kept.iter().filter_map(|kept| Revision::read(kept)).collect();
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    revisions
}

async fn live(ctx: &Context, names: &ObjectNames, revision: &str) -> Result<Option<ControllerRevision>, Error> {
    let name = names.revision(revision);
    let place = ObjectRef::new(&name).within(&names.namespace);
    let live = match ctx.stores.revisions.get(&place) {
        Some(live) => live.as_ref().clone(),
        // It may exist all the same, without our label or younger than the cache.
        None => match ctx
            .kubernetes
            .get::<ControllerRevision>(&names.namespace, &name)
            .await?
        {
            Some(live) => live,
            None => return Ok(None),
        },
    };
    let kind = || "ControllerRevision".to_owned();
    if live.meta_is_going() {
        return Err(Error::Going { kind: kind(), name });
    }
    if !is_owned_by(&live.metadata, &names.uid) {
        return Err(Error::Taken { kind: kind(), name });
    }
    Ok(Some(live))
}

async fn make(ctx: &Context, plan: &Plan, inputs: &Inputs, number: i64) -> Result<Revision, Error> {
    let names = &plan.names;
    let revision = Revision {
        name: inputs.name.clone(),
        number,
        made: build::made(plan, inputs, number)?,
    };
    let metadata = names.revision_meta(names.revision(&revision.name), &revision.name);
    let made = ctx
        .kubernetes
        .create(&names.namespace, &revision.kept(metadata))
        .await?;
    read(&made)
}

/// Reuses an existing revision: it becomes the newest (`last` is the highest number of the others), and is found by our
/// labels again.
async fn again(ctx: &Context, names: &ObjectNames, live: &ControllerRevision, last: i64) -> Result<Revision, Error> {
    let revision = read(live)?;
    let labels = names
        .revision_meta(String::new(), &revision.name)
        .labels
        .unwrap_or_default();
    let is_marked = labels.iter().all(|(key, value)| live.labels().get(key) == Some(value));
    if revision.number > last && is_marked {
        return Ok(revision);
    }
    let fields = json!({
        "metadata": { "uid": live.uid(), "resourceVersion": live.resource_version(), "labels": labels },
        "revision": revision.number.max(last + 1),
    });
    let live = ctx
        .kubernetes
        .merge::<ControllerRevision>(&names.namespace, &live.name_any(), &fields)
        .await?;
    read(&live)
}

fn read(live: &ControllerRevision) -> Result<Revision, Error> {
    Revision::read(live).ok_or_else(|| Error::Unkept { name: live.name_any() })
}

// === impl KeptRevisions ===

impl KeptRevisions {
    /// The revision that is wanted.
    pub(crate) fn newest(&self) -> &Revision {
        &self.revisions[0]
    }

    /// Drops old revisions beyond those that are kept, unless somebody still needs them.
    pub(crate) fn forget(&mut self, is_needed: impl Fn(&Revision) -> bool) {
        let mut place = 0;
        self.revisions.retain(|revision| {
            place += 1;
            place <= 1 + KEPT || is_needed(revision)
        });
    }

    /// Those that are kept.
    pub(crate) fn revisions(&self) -> &[Revision] {
        &self.revisions
    }

    /// Secrets whose content has changed since revisions that still have pods were made. `auth` is the Secret with the
    /// hash key, which salts the digests of the others.
    pub(crate) fn changed_secrets(&self, auth: &str, has_pods: impl Fn(&Revision) -> bool) -> Vec<String> {
        let now: &Made = &self.newest().made;
        let old = self.revisions.iter().skip(1).filter(|revision| has_pods(revision));
        let secrets = old.flat_map(|revision| &revision.made.secrets);
        let mut changed: Vec<_> = secrets
            .filter(|(name, digest)| now.secrets.get(*name).is_some_and(|now| now != *digest))
            .map(|(name, _)| name.clone())
            .collect();
        changed.sort();
        changed.dedup();
        if changed.iter().any(|name| name == auth) {
            changed.retain(|name| name == auth);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn revision(name: &str, secrets: &[(&str, &str)]) -> Revision {
        let owned = |(name, digest): &(&str, &str)| ((*name).to_owned(), (*digest).to_owned());
        Revision {
            name: name.to_owned(),
            number: 1,
            made: Made {
                count: 1,
                template: Default::default(),
                settings: String::new(),
                secrets: secrets.iter().map(owned).collect::<BTreeMap<_, _>>(),
            },
        }
    }

    fn history(revisions: Vec<Revision>) -> KeptRevisions {
        KeptRevisions {
            revisions,
            is_outdated: false,
        }
    }

    #[test]
    fn two_old_revisions_are_kept_and_those_that_have_pods() {
        let mut all = history(["e", "d", "c", "b", "a"].map(|name| revision(name, &[])).into());

        all.forget(|revision| revision.name == "a");

        let names: Vec<_> = all.revisions().iter().map(|revision| revision.name.as_str()).collect();
        assert_eq!(names, ["e", "d", "c", "a"]);
    }

    #[test]
    fn a_secret_is_told_while_pods_run_that_were_made_for_another_content() {
        let all = history(vec![
            revision("b", &[("redis", "2"), ("postgres", "1")]),
            revision("a", &[("redis", "1"), ("postgres", "1"), ("gone", "1")]),
        ]);

        assert_eq!(all.changed_secrets("demo-auth", |_| true), ["redis"]);
        assert!(all.changed_secrets("demo-auth", |_| false).is_empty());
    }

    #[test]
    fn another_hash_key_says_nothing_of_what_it_salts() {
        let all = history(vec![
            revision("b", &[("demo-auth", "2"), ("redis", "2")]),
            revision("a", &[("demo-auth", "1"), ("redis", "1")]),
        ]);

        assert_eq!(all.changed_secrets("demo-auth", |_| true), ["demo-auth"]);
    }
}
