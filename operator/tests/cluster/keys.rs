//! Keys against a real hub: lost, restored, ended, rotated, and the Secrets that hold them.

use alkhub_crds::{Hub, Spoke, SpokePhase, condition};
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::ResourceExt as _;
use serde_json::json;

use crate::harness::{Operator, World, eventually, given, world};
use crate::real::{Place, Real, text};

/// A namespace with the Hub `demo`, a real hub behind it, and an operator.
async fn running(namespace: &str) -> (World, Place, Real, Operator) {
    let world = world(namespace).await;
    let place = Place::free();
    let operator = world.operator_at(&place.url(), &[]).await;
    world.demo().await;
    let real = place.hub(&world, None).await;
    (world, place, real, operator)
}

async fn issued(world: &World, name: &str, secret: &str) -> String {
    let ready = |spoke: &Spoke| {
        let status = spoke.status.as_ref();
        status.is_some_and(|s| {
            condition::is_true(&s.conditions, condition::CREDENTIALS_ISSUED)
                && s.secret_name.as_deref() == Some(secret)
                && s.observed_generation == spoke.metadata.generation
        })
    };
    world.until::<Spoke>(name, &format!("{name} is issued"), ready).await;
    token(world, secret).await
}

async fn token(world: &World, secret: &str) -> String {
    text(&world.api::<Secret>().get(secret).await.expect("a Secret"), "token")
}

async fn admin_key(world: &World) -> String {
    text(
        &world.api::<Secret>().get("demo-auth").await.expect("a Secret"),
        "admin-key",
    )
}

fn reads() -> serde_json::Value {
    json!({"hubRef": {"name": "demo"}, "scopes": ["operations:read"]})
}

/// Waits until the hub has the spoke with this token in its database; what the hub remembers of keys may be a minute
/// old.
async fn held(world: &World, real: &Real, token: &str) {
    let admin = admin_key(world).await;
    eventually("the hub has the spoke and its key", || async {
        let spoke = real.spoke(&admin, "builder").await;
        if spoke["keyHint"] == token[..10] {
            Ok(())
        } else {
            Err(spoke.to_string())
        }
    })
    .await;
}

/// First an emptied Postgres, then one that was restored from an older dump.
#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_hub_that_lost_its_database_or_got_an_older_one_back_is_told_everything_again() {
    let (world, _place, real, operator) = running("lost").await;
    world.spoke("builder", reads()).await;
    let first = issued(&world, "builder", "builder-key").await;
    real.until_status(&first, 200, "the key works").await;

    real.sql("DROP SCHEMA alkhub CASCADE").await;
    held(&world, &real, &first).await;
    real.until_status(&first, 200, "the key works in the schema that was made anew")
        .await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;

    real.sql("CREATE SCHEMA dump; CREATE TABLE dump.keys AS TABLE keys; CREATE TABLE dump.spokes AS TABLE spokes")
        .await;
    world.delete::<Secret>("builder-key").await;
    let other = |secret: &Secret| text(secret, "token") != first;
    world.until::<Secret>("builder-key", "another key", other).await;
    world
        .patch::<Spoke>("builder", json!({"spec": {"suspended": true}}))
        .await;
    let second = issued(&world, "builder", "builder-key").await;
    real.until_status(&second, 403, "the spoke is suspended").await;
    real.until_status(&first, 401, "the first key has ended").await;
    real.sql("TRUNCATE keys, spokes; INSERT INTO keys TABLE dump.keys; INSERT INTO spokes TABLE dump.spokes")
        .await;

    held(&world, &real, &second).await;
    real.until_status(&second, 403, "it is suspended again").await;
    real.until_status(&first, 401, "the first key has ended again").await;
    assert_eq!(token(&world, "builder-key").await, second, "nothing is minted for it");
    world
        .patch::<Spoke>("builder", json!({"spec": {"suspended": false}}))
        .await;
    real.until_status(&second, 200, "the second key works").await;
    drop(operator);
    real.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_key_that_has_ended_at_the_hub_is_made_anew_and_a_secret_that_is_no_longer_named_goes() {
    let (world, _place, real, operator) = running("ended").await;
    let named = |name: &str| json!({"spec": {"credentials": {"secretName": name, "overlapSeconds": 0}}});
    let mut spec = reads();
    spec["credentials"] = json!({"secretName": "shared"});
    world.spoke("builder", spec).await;
    let first = issued(&world, "builder", "shared").await;

    world.patch::<Spoke>("builder", named("moved")).await;
    let second = issued(&world, "builder", "moved").await;
    world.gone::<Secret>("shared").await;
    real.until_status(&second, 200, "the second key works").await;
    assert_eq!(real.status(&first).await, 401);

    world.patch::<Spoke>("builder", named("shared")).await;
    let third = issued(&world, "builder", "shared").await;
    world.gone::<Secret>("moved").await;
    real.until_status(&third, 200, "the third key works").await;
    assert_eq!(real.status(&second).await, 401);

    // An old token is put back: the hub does not revive it, so it cannot stay there.
    let old = json!({"stringData": {"token": first, "ALKHUB_TOKEN": first}});
    world.patch::<Secret>("shared", old).await;
    let renewed = |secret: &Secret| ![&first, &third].contains(&&text(secret, "token"));
    let fourth = text(&world.until::<Secret>("shared", "a new key", renewed).await, "token");
    real.until_status(&fourth, 200, "the fourth key works").await;
    assert_eq!((real.status(&first).await, real.status(&third).await), (401, 401));

    // With an overlap, the previous key keeps working.
    world
        .patch::<Spoke>("builder", json!({"spec": {"credentials": {"overlapSeconds": 600}}}))
        .await;
    issued(&world, "builder", "shared").await;
    world.delete::<Secret>("shared").await;
    let fifth = |secret: &Secret| text(secret, "token") != fourth;
    let fifth = text(&world.until::<Secret>("shared", "a fifth key", fifth).await, "token");
    real.until_status(&fifth, 200, "the fifth key works").await;
    assert_eq!(real.status(&fourth).await, 200, "and the fourth for ten minutes more");
    drop(operator);
    real.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn the_admin_key_is_rotated_in_its_secret_and_an_ended_one_is_a_condition() {
    let (world, _place, real, operator) = running("rotated").await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    let (old, new) = (admin_key(&world).await, alkhub_protocol::ApiKey::from_entropy([9; 32]));
    let uid = world.api::<Secret>().get("demo-auth").await.expect("a Secret").uid();

    // Between the edit and the kubelet's update, the hub knows only the old key.
    world
        .patch::<Secret>("demo-auth", json!({"stringData": {"admin-key": new.expose()}}))
        .await;
    world.spoke("builder", reads()).await;
    let token = issued(&world, "builder", "builder-key").await;
    real.bring_admin_key(&world).await;
    real.until_status(new.expose(), 200, "the hub takes the new admin key")
        .await;
    real.until_status(&old, 401, "and ends the old one").await;
    world.spoke("other", reads()).await;
    issued(&world, "other", "other-key").await;
    assert_eq!(real.status(&token).await, 200, "no other key is touched");
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;

    // A key that has ended does not come back.
    world
        .patch::<Secret>("demo-auth", json!({"stringData": {"admin-key": old}}))
        .await;
    real.bring_admin_key(&world).await;
    real.sql("UPDATE keys SET revoked_at = now() WHERE origin = 'admin'")
        .await;
    world
        .hub_says("demo", condition::DEGRADED, "True", "AdminKeyRefused")
        .await;
    let again = alkhub_protocol::ApiKey::from_entropy([10; 32]);
    world
        .patch::<Secret>("demo-auth", json!({"stringData": {"admin-key": again.expose()}}))
        .await;
    real.bring_admin_key(&world).await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    assert_eq!(
        world.api::<Secret>().get("demo-auth").await.expect("a Secret").uid(),
        uid
    );
    drop(operator);
    real.end().await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn the_hubs_keys_outlive_it_and_their_loss_is_a_condition_and_mended_for_spokes() {
    let (world, place, real, operator) = running("outlives").await;
    world.spoke("builder", reads()).await;
    let token = issued(&world, "builder", "builder-key").await;
    let secrets = world.api::<Secret>();
    let before = secrets.get("demo-auth").await.expect("a Secret");
    world.hub_says("demo", condition::KEYS_VALID, "True", "Valid").await;

    // Without its label the Secret would not be watched.
    world
        .patch::<Secret>(
            "demo-auth",
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}),
        )
        .await;
    world
        .patch::<Secret>(
            "builder-key",
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}),
        )
        .await;
    let labelled = |secret: &Secret| secret.labels().contains_key("app.kubernetes.io/managed-by");
    world
        .until::<Secret>("demo-auth", "its label is put back", labelled)
        .await;
    world
        .until::<Secret>("builder-key", "its label is put back", labelled)
        .await;

    world.delete::<Hub>("demo").await;
    world.gone::<Hub>("demo").await;
    let pending = |spoke: &Spoke| {
        let status = spoke.status.as_ref();
        status.is_some_and(|s| s.phase == Some(SpokePhase::Pending) && s.instances == 0)
    };
    world
        .until::<Spoke>("builder", "a Spoke without its Hub is pending", pending)
        .await;
    world.gone::<Service>("demo").await;
    world.hub("demo", given()).await;
    issued(&world, "builder", "builder-key").await;
    let after = secrets.get("demo-auth").await.expect("it stayed");
    assert_eq!((after.uid(), after.data.clone()), (before.uid(), before.data));
    real.until_status(&token, 200, "the key is as valid as before").await;

    // A client's key, and then the loss of the Secret.
    real.sql(
        "INSERT INTO keys (id, hash, hash_key_id, hash_key_fingerprint, origin, name, hint, scopes)
         SELECT gen_random_uuid(), decode(repeat('ab', 32), 'hex'), hash_key_id, hash_key_fingerprint, 'api', 'ci',
                'alk_aaaaaa', '{call:*}' FROM keys WHERE origin = 'admin' LIMIT 1",
    )
    .await;
    world.delete::<Secret>("demo-auth").await;
    let another = |secret: &Secret| secret.uid() != after.uid();
    world.until::<Secret>("demo-auth", "another Secret", another).await;
    // What a roll-out of the pods does.
    let database = real.end().await;
    let real = place.hub(&world, Some(database)).await;
    real.until_status(&token, 200, "the Spoke's key is entered under the new hash key")
        .await;
    world
        .hub_says("demo", condition::KEYS_VALID, "False", "HashKeyChanged")
        .await;
    let admin = admin_key(&world).await;
    assert_eq!(real.spoke(&admin, "builder").await["keyHint"], token[..10]);
    real.sql("UPDATE keys SET revoked_at = now() WHERE name = 'ci'").await;
    world.hub_says("demo", condition::KEYS_VALID, "True", "Valid").await;

    world
        .patch::<Hub>("demo", json!({"spec": {"auth": {"whenDeleted": "Delete"}}}))
        .await;
    let owned = |secret: &Secret| !secret.owner_references().is_empty();
    world.until::<Secret>("demo-auth", "it is the Hub's own", owned).await;
    world.delete::<Spoke>("builder").await;
    world.gone::<Spoke>("builder").await;
    world.delete::<Hub>("demo").await;
    world.gone::<Secret>("demo-auth").await;
    drop(operator);
    real.end().await;
    world.end().await;
}

/// The name under which the operator looks for a Hub's admin API may belong to somebody else.
#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn the_admin_key_is_not_shown_to_a_service_that_is_not_the_hubs() {
    let world = world("stranger").await;
    let fake = crate::fake::Fake::default();
    let operator = world.operator(&fake.serve().await, &[]).await;
    world.demo().await;
    world.spoke("builder", reads()).await;
    issued(&world, "builder", "builder-key").await;

    // Paused, so that the operator does not create its own again.
    world.patch::<Hub>("demo", json!({"spec": {"paused": true}})).await;
    world.hub_says("demo", condition::PAUSED, "True", "Paused").await;
    world.delete::<Service>("demo").await;
    world.gone::<Service>("demo").await;
    world.delete::<Spoke>("builder").await;

    world.spoke_tells("builder", "not shown the admin key").await;
    assert!(fake.deletes().is_empty());
    world.patch::<Hub>("demo", json!({"spec": {"paused": false}})).await;
    world.gone::<Spoke>("builder").await;
    eventually("it was ended", || async {
        (fake.deletes().len() == 1)
            .then_some(())
            .ok_or_else(|| format!("{:?}", fake.deletes()))
    })
    .await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_newline_after_the_admin_key_keeps_no_deleted_spoke() {
    let (world, _place, real, operator) = running("newline").await;
    world.spoke("builder", reads()).await;
    let key = issued(&world, "builder", "builder-key").await;
    let admin = admin_key(&world).await;

    world
        .patch::<Secret>("demo-auth", json!({"stringData": {"admin-key": format!("{admin}\n")}}))
        .await;
    world.delete::<Spoke>("builder").await;

    world.gone::<Spoke>("builder").await;
    real.until_status(&key, 401, "its key has ended").await;
    drop(operator);
    real.end().await;
    world.end().await;
}
