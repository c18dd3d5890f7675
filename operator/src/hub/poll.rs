//! Asks a Hub's admin API how it is: one request for the hub and one for all its spokes, at most once per interval.
//! While a pod is to be emptied, the hub is asked more often, but its spokes are not.
//!
//! News of a Spoke wakes it. A spoke at the hub whose resource no longer exists is ended there, by its uid, and only
//! after the API server itself has confirmed that the resource is gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::{Hub, Spoke};
use alkhub_protocol::admin::BY_HAND;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use crate::admin::{self, ReportedSpoke};
use crate::context::{AdminKey, Context, Poll, Seen};
use crate::error::{Error, chain};
use crate::hub::door::door;
use crate::hub::generated;
use crate::hub::status::Pods;
use crate::names::{ObjectNames, is_kept_for};

/// A hub that did not answer is asked again after this long.
pub(crate) const AGAIN: Duration = Duration::from_secs(2);

/// How often a hub is asked while a pod gives away what it has: somebody may wait for that.
const EMPTYING: Duration = Duration::from_secs(1);

/// How many spokes are swept with one poll.
const SWEEP: usize = 50;

/// The last poll of a Hub. It is repeated when it is old (sooner while a pod is to be emptied), and at once when the
/// first pod becomes ready.
pub(crate) async fn at(hub: &Hub, ctx: &Context, pods: Option<&Pods>) -> Arc<Poll> {
    let names = ObjectNames::of(hub);
    let ready = pods.is_some_and(|pods| pods.ready > 0);
    let before = ctx.polls.of(&names.uid);
    let interval = interval(pods, ctx.options.poll_interval);
    if let Some(before) = &before
        && is_fresh(before, ready, interval)
    {
        return Arc::clone(before);
    }
    let poll = poll(ctx, &names, before.as_deref(), ready).await;
    let poll = ctx.polls.keep(&names.uid, poll);
    wake(ctx, &names, before.as_deref(), &poll);
    if let (Ok(seen), Some(key)) = (&poll.seen, &poll.key)
        && let Ok(spokes) = &seen.spokes
        && seen.listed_at == poll.at
        && let Err(error) = sweep(ctx, &names, key, spokes).await
    {
        tracing::warn!(
            hub.namespace = names.namespace,
            hub.name = names.hub,
            error = chain(&error),
            "could not sweep spokes"
        );
    }
    poll
}

/// How often a hub that answers is asked: sooner than usual while a pod is to be emptied.
pub(crate) fn interval(pods: Option<&Pods>, usual: Duration) -> Duration {
    match pods {
        Some(pods) if pods.is_emptying => usual.min(EMPTYING),
        Some(pods) if pods.is_draining => usual.min(AGAIN),
        Some(_) | None => usual,
    }
}

/// What is known before the first poll.
pub(crate) fn none() -> Arc<Poll> {
    Arc::new(Poll {
        at: Instant::now(),
        asked: false,
        key: None,
        denied: false,
        seen: Err("the hub was not asked yet".to_owned()),
    })
}

/// Whether a poll still holds. A poll from before there was a pod to ask is stale once there is one: conditions would
/// otherwise combine the present pods with an earlier poll and contradict themselves.
fn is_fresh(poll: &Poll, ready: bool, interval: Duration) -> bool {
    // A hub that refuses the key counts every further attempt with it.
    let holds = if poll.seen.is_ok() || poll.denied {
        trusted(interval)
    } else {
        AGAIN
    };
    poll.at.elapsed() < holds && (poll.asked || !ready)
}

async fn poll(ctx: &Context, names: &ObjectNames, before: Option<&Poll>, ready: bool) -> Poll {
    let at = Instant::now();
    let unasked = |key, why: String| Poll {
        at,
        asked: false,
        key,
        denied: false,
        seen: Err(why),
    };
    let key = match admin_key(ctx, names, before).await {
        Ok(Some(key)) => key,
        Ok(None) => {
            let why = format!("the Hub has no pods yet: Secret `{}` is not there", names.auth());
            return unasked(None, why);
        }
        Err(error) => return unasked(None, chain(&error)),
    };
    if !ready {
        return unasked(Some(key), "no pod is ready".to_owned());
    }
    let listed = before.filter(|before| has_spokes(before, ctx.options.poll_interval));
    let listed = listed.and_then(|before| before.seen.as_ref().ok());
    let ask = async |key: &AdminKey| ask(ctx, names, key, at, listed).await;
    let (mut key, mut seen) = match ask(&key).await {
        Ok(seen) => (key, seen),
        Err(error) => return unasked(Some(key), chain(&error)),
    };
    // Hubs read a changed key a minute after it was written; until then they know the previous one.
    if seen.as_ref().is_err_and(admin::Error::is_denied)
        && let Some(old) = before.and_then(|poll| poll.key.as_ref())
        && old.key.expose_secret() != key.key.expose_secret()
        && let Ok(Ok(again)) = ask(old).await
    {
        (key, seen) = (old.clone(), Ok(again));
    }
    let result = if seen.is_ok() { "ok" } else { "error" };
    ctx.metrics.hub_polls.with_label_values(&[result]).inc();
    Poll {
        at,
        asked: true,
        key: Some(key),
        denied: seen.as_ref().is_err_and(admin::Error::is_denied),
        seen: seen.map_err(|error| chain(&error)),
    }
}

/// Asks the hub how it is and which spokes it has, unless these were listed recently. The two answers are independent:
/// a hub that has lost Postgres says so, and cannot list spokes.
async fn ask(
    ctx: &Context,
    names: &ObjectNames,
    key: &AdminKey,
    at: Instant,
    listed: Option<&Seen>,
) -> Result<Result<Seen, admin::Error>, Error> {
    let door = door(ctx, names, &key.key)?;
    if let Some(listed) = listed {
        let (spokes, listed_at) = (listed.spokes.clone(), listed.listed_at);
        return Ok(door.report().await.map(|report| Seen {
            report,
            spokes,
            listed_at,
        }));
    }
    let declared = ctx.stores.spokes_of(&names.namespace, &names.hub).len();
    let (report, spokes) = tokio::join!(door.report(), door.spokes(declared));
    let by_name = |spokes: Vec<ReportedSpoke>| {
        let named = spokes.into_iter().map(|spoke| (spoke.name.as_str().to_owned(), spoke));
        Arc::new(named.collect::<HashMap<_, _>>())
    };
    Ok(report.map(|report| Seen {
        report,
        spokes: spokes.map(by_name).map_err(|error| chain(&error)),
        listed_at: at,
    }))
}

/// Whether the spokes that a poll has listed, itself or an earlier one, still hold.
fn has_spokes(poll: &Poll, interval: Duration) -> bool {
    let listed = poll.seen.as_ref().ok().filter(|seen| seen.spokes.is_ok());
    listed.is_some_and(|seen| seen.listed_at.elapsed() < trusted(interval))
}

/// Makes the next poll a little early rather than a whole look too late.
fn trusted(interval: Duration) -> Duration {
    interval.mul_f64(0.7)
}

/// The admin key; read again only when the Secret was replaced or changed.
async fn admin_key(ctx: &Context, names: &ObjectNames, before: Option<&Poll>) -> Result<Option<AdminKey>, Error> {
    let Some(meta) = ctx.stores.secret(&names.namespace, &names.auth()) else {
        return Ok(None);
    };
    let known = before.and_then(|poll| poll.key.clone()).filter(|known| {
        Some(&known.uid) == meta.metadata.uid.as_ref()
            && Some(&known.version) == meta.metadata.resource_version.as_ref()
    });
    if known.is_some() {
        return Ok(known);
    }
    let secret: Option<Secret> = ctx.kubernetes.get(&names.namespace, &names.auth()).await?;
    let secret = secret.filter(|secret| is_kept_for(&secret.metadata, &names.uid));
    Ok(secret.and_then(|secret| {
        Some(AdminKey {
            uid: secret.uid()?,
            version: secret.resource_version()?,
            key: generated::admin_key(&secret)?,
        })
    }))
}

/// Wakes the Spokes for which the poll has news.
fn wake(ctx: &Context, names: &ObjectNames, before: Option<&Poll>, now: &Poll) {
    let (old, new) = (before.and_then(spokes), spokes(now));
    let listed_at = now.seen.as_ref().map_or(now.at, |seen| seen.listed_at);
    let turned = old.is_some() != new.is_some() || before.is_none();
    for spoke in ctx.stores.spokes_of(&names.namespace, &names.hub) {
        let name = spoke.name_any();
        let (old, new) = [old, new].map(|spokes| spokes?.get(&name)).into();
        // A spoke that was lost before any poll saw it looks the same in this poll and the previous one.
        let declared_at = || spoke.uid().and_then(|uid| ctx.declaration_times.at(&uid));
        let is_lost = new.is_none() && declared_at().is_some_and(|at| at < listed_at);
        if (turned || is_lost || old != new) && !ctx.wake.spoke(&spoke) {
            // The queue is full: the rest is reached by its own resync.
            return;
        }
    }
}

/// The spokes that a poll has seen; `None`: it could not see them.
fn spokes(poll: &Poll) -> Option<&HashMap<String, ReportedSpoke>> {
    poll.seen.as_ref().ok()?.spokes.as_deref().ok()
}

/// Ends spokes at the hub whose resources are gone: their deletion was missed.
async fn sweep(
    ctx: &Context,
    names: &ObjectNames,
    key: &AdminKey,
    seen: &HashMap<String, ReportedSpoke>,
) -> Result<(), Error> {
    let is_known = |info: &ReportedSpoke| {
        let place = ObjectRef::new(info.name.as_str()).within(&names.namespace);
        let spoke = ctx.stores.spokes.get(&place);
        spoke.is_some_and(|spoke| spoke.metadata.uid.as_ref() == Some(&info.uid))
    };
    let orphans = orphans(seen.values(), is_known);
    if orphans.is_empty() {
        return Ok(());
    }
    let door = door(ctx, names, &key.key)?;
    let there = ctx.kubernetes.list::<Spoke>(&names.namespace).await?;
    let there: HashSet<_> = there.into_iter().filter_map(|spoke| spoke.metadata.uid).collect();
    for orphan in orphans
        .into_iter()
        .filter(|orphan| !there.contains(&orphan.uid))
        .take(SWEEP)
    {
        let pass = ctx.kubernetes.gate().pass()?;
        tracing::info!(hub.namespace = names.namespace, hub.name = names.hub, spoke.name = %orphan.name, "ending a spoke whose resource is gone");
        door.delete(pass, orphan.name.as_str(), &orphan.uid).await?;
    }
    Ok(())
}

/// Spokes that a resource once declared and none declares any more. Spokes that connected undeclared, or were declared
/// by hand, do not count.
fn orphans<'a>(
    seen: impl Iterator<Item = &'a ReportedSpoke>,
    is_known: impl Fn(&ReportedSpoke) -> bool,
) -> Vec<&'a ReportedSpoke> {
    let of_none = |uid: &str| uid.is_empty() || uid.starts_with(BY_HAND);
    seen.filter(|info| !of_none(&info.uid) && !is_known(info)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_from_before_there_was_a_pod_does_not_outlive_the_first_that_is_ready() {
        let interval = Duration::from_secs(10);
        let poll = |asked| Poll {
            at: Instant::now(),
            asked,
            key: None,
            denied: false,
            seen: Err("no pod is ready".to_owned()),
        };
        let (unasked, asked) = (poll(false), poll(true));

        assert!(is_fresh(&unasked, false, interval) && is_fresh(&asked, true, interval));
        assert!(!is_fresh(&unasked, true, interval));
        tokio::time::advance(AGAIN).await;
        assert!(!is_fresh(&unasked, false, interval) && !is_fresh(&asked, true, interval));
    }

    #[test]
    fn a_hub_is_asked_most_often_while_a_pod_gives_away_what_it_has() {
        let usual = Duration::from_secs(10);
        let asked = |is_draining, is_emptying| {
            let pods = Pods {
                is_draining,
                is_emptying,
                ..Pods::default()
            };
            interval(Some(&pods), usual)
        };

        assert_eq!(interval(None, usual), usual);
        assert_eq!((asked(false, false), asked(true, false)), (usual, AGAIN));
        assert_eq!(asked(true, true), EMPTYING);
    }

    #[tokio::test(start_paused = true)]
    async fn spokes_are_listed_once_per_interval_however_often_the_hub_is_asked() {
        let interval = Duration::from_secs(10);
        let poll = |spokes| Poll {
            at: Instant::now(),
            asked: true,
            key: None,
            denied: false,
            seen: Ok(Seen {
                report: admin::ReportedHub::healthy(),
                spokes,
                listed_at: Instant::now(),
            }),
        };
        let (listed, failed) = (poll(Ok(Arc::default())), poll(Err("no Postgres".to_owned())));

        tokio::time::advance(AGAIN).await;
        assert!(!is_fresh(&listed, true, AGAIN), "the hub is asked again");
        assert!(has_spokes(&listed, interval) && !has_spokes(&failed, interval));
        tokio::time::advance(AGAIN * 3).await;
        assert!(!has_spokes(&listed, interval));
    }

    #[test]
    fn only_what_a_resource_declared_is_ended_when_there_is_none() {
        let seen: Vec<ReportedSpoke> = ["", "6f9a", "7b21", "cli-17"]
            .map(|uid| serde_json::json!({ "name": "builder", "uid": uid }))
            .map(|spoke| serde_json::from_value(spoke).expect("a spoke"))
            .into();

        let ended: Vec<_> = orphans(seen.iter(), |info| info.uid == "6f9a")
            .iter()
            .map(|info| info.uid.as_str())
            .collect();

        assert_eq!(ended, ["7b21"]);
    }

    #[test]
    fn a_heartbeat_is_no_news() {
        let heard = |at: &str| -> ReportedSpoke {
            let spoke = serde_json::json!({ "name": "builder", "uid": "u", "lastHeartbeatAt": at });
            serde_json::from_value(spoke).expect("a spoke")
        };
        let early = heard("2026-01-01T00:00:00Z");

        assert_eq!(early, heard("2026-01-01T00:01:00Z"));
        let gone = early.disconnected_at.or_else(|| "2026-01-01T00:01:00Z".parse().ok());
        assert_ne!(
            early,
            ReportedSpoke {
                disconnected_at: gone,
                ..early.clone()
            }
        );
    }
}
