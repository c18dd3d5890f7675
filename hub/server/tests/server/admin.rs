//! The admin API: keys and spokes, and what ends with them.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, TestHub, hub, hub_with, new_key};
use crate::wire::{Dialect, Wire, operation, request};

async fn put(hub: &TestHub, name: &str, spoke: &Value) -> Answer {
    let request = hub
        .request(Method::PUT, &format!("/v1/admin/spokes/{name}"))
        .body(spoke.to_string());
    Answer::of(request.send().await.expect("answered")).await
}

async fn delete(hub: &TestHub, path: &str) -> Answer {
    Answer::of(hub.request(Method::DELETE, path).send().await.expect("answered")).await
}

#[tokio::test]
async fn a_key_is_shown_once_and_listed_without_its_secret() {
    let hub = hub().await;
    let created = hub
        .post(
            "/v1/admin/keys",
            &json!({ "name": "ci", "scopes": ["call:*"], "expiresInSeconds": 60 }),
        )
        .await;
    assert_eq!(created.status, 201);
    let key = created.body["data"]["key"].as_str().expect("a key");

    let list = hub.get("/v1/admin/keys").await;

    let ci = list.body["data"]
        .as_array()
        .expect("keys")
        .iter()
        .find(|key| key["name"] == "ci")
        .expect("listed");
    assert!(key.starts_with(ci["hint"].as_str().expect("a hint")));
    assert!(ci["expiresAt"].is_string());
    assert!(!list.text.contains(key));
    for (bad, named) in [
        (json!({ "name": "", "scopes": [] }), "name"),
        (json!({ "name": "x", "scopes": ["with space"] }), "scopes"),
        (json!({ "name": "x\u{1b}[2J", "scopes": [] }), "control characters"),
        (json!({ "name": "x", "scopes": ["call:text*"] }), "`call:text.*`"),
        (json!({ "name": "x", "scopes": ["Admin"] }), "`admin`"),
        (json!({ "name": "x", "scopes": ["spoke"] }), "cannot register"),
        (
            json!({ "name": "x", "scopes": [], "expiresInSeconds": 0 }),
            "expiresInSeconds",
        ),
        (
            json!({ "name": "x", "scopes": [], "spoke": "Not A Label" }),
            "spoke name",
        ),
        (json!({ "name": "x", "scopes": [1] }), "`scopes[0]`: "),
        (json!({ "name": "x", "scopes": [], "more": 1 }), "`more`"),
    ] {
        hub.post("/v1/admin/keys", &bad)
            .await
            .is_problem(400, "BAD_REQUEST")
            .names(named);
    }
}

/// serde also reads a struct from an array: `["x", ["call:*"]]` used to create a key.
#[tokio::test]
async fn an_array_declares_nothing() {
    let hub = hub().await;

    hub.post("/v1/admin/keys", &json!(["x", ["call:*"]]))
        .await
        .is_problem(400, "BAD_REQUEST")
        .names("an object with named fields");
    put(&hub, "arr", &json!(["uid1"])).await.is_problem(400, "BAD_REQUEST");
    hub.post("/v1/admin/spokes/sweep", &json!([["uid1"]]))
        .await
        .is_problem(400, "BAD_REQUEST");

    let keys = hub.get("/v1/admin/keys").await;
    assert!(!keys.text.contains("\"x\""), "{}", keys.text);
    assert_eq!(hub.get("/v1/admin/spokes").await.body["data"], json!([]));
}

/// The scopes that a client's key can have, except `admin`, which includes them all.
const SCOPES: [&str; 6] = [
    "call:*",
    "events:publish:*",
    "events:subscribe:*",
    "operations:read",
    "spokes:read",
    "calls:read",
];

/// The methods and paths in the document that need a scope whatever is asked for, each with that scope.
async fn guarded(hub: &TestHub) -> Vec<(Method, String, String)> {
    let document: Value = serde_json::from_str(&hub.get("/v1/openapi.json").await.text).expect("JSON");
    let mut guarded = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let needs = operation["description"].as_str().unwrap_or_default();
            let scope = needs
                .strip_prefix("Needs scope `")
                .and_then(|rest| rest.strip_suffix("`."));
            assert!(
                scope.is_some() || !path.starts_with("/v1/admin"),
                "{method} {path} needs no scope"
            );
            if let Some(scope) = scope.filter(|scope| !scope.contains('{')) {
                let method = method.to_uppercase().parse().expect("a method");
                guarded.push((method, path.replace(['{', '}'], ""), scope.to_owned()));
            }
        }
    }
    guarded
}

/// Neither the body, which is not JSON, nor the path is looked at: the key's lack of the scope decides. Only a query
/// parameter that the route does not know is refused earlier.
#[tokio::test]
async fn every_route_asks_for_its_scope_before_it_reads_anything() {
    let hub = hub().await;
    let routes = guarded(&hub).await;
    assert!(routes.len() >= 13, "{routes:?}");
    for (method, path, scope) in routes {
        let others: Vec<&str> = SCOPES.into_iter().filter(|held| *held != scope).collect();
        let (key, _) = hub.key(&others).await;

        let lacking = hub.as_key(&key, method.clone(), &path).body("no JSON");
        let without = hub.client.request(method.clone(), format!("{}{path}", hub.hub.url()));
        let unknown = hub.as_key(&key, method.clone(), &format!("{path}?unheard=of"));

        let answer = Answer::of(lacking.send().await.expect("answered")).await;
        answer.is_problem(403, "ACCESS_DENIED").names(&format!("`{scope}`"));
        let answer = Answer::of(without.send().await.expect("answered")).await;
        answer.is_problem(401, "UNAUTHENTICATED");
        let answer = Answer::of(unknown.send().await.expect("answered")).await;
        answer.is_problem(400, "BAD_REQUEST").names("unheard");
    }
}

/// Otherwise each changed declaration would make every hub look up all its keys in Postgres.
#[tokio::test]
async fn a_declaration_that_changes_has_only_the_keys_of_its_spoke_looked_up_again() {
    let hub = hub().await;
    let (other, _) = hub.key(&["operations:read"]).await;
    let own = new_key();
    let declare = async |concurrency: u32| {
        let spoke = json!({ "uid": "u-1", "key": own, "concurrency": concurrency, "scopes": ["operations:read"] });
        let answer = put(&hub, "text", &spoke).await;
        assert!(answer.status < 300, "{answer:?}");
    };
    let look_ups_by_using = async |key: &str| {
        let look_ups = "alkhub_postgres_query_seconds_count{statement=\"key_find\"}";
        let before = hub.metric(look_ups).await.expect("counted");
        let used = hub.as_key(key, Method::GET, "/v1/operations").send().await;
        assert_eq!(used.expect("answered").status(), 200);
        hub.metric(look_ups).await.expect("counted") - before
    };
    declare(1).await;
    assert_eq!(look_ups_by_using(&other).await, 1.0);
    assert_eq!(look_ups_by_using(&own).await, 1.0);

    declare(2).await;

    assert_eq!(look_ups_by_using(&other).await, 0.0);
    assert_eq!(look_ups_by_using(&hub.admin).await, 0.0);
    assert_eq!(look_ups_by_using(&own).await, 1.0);
}

#[tokio::test]
async fn a_revoked_key_ends_its_sockets_with_4401_and_is_401_from_then_on() {
    let hub = hub().await;
    let (key, id) = hub.key(&["events:subscribe:*"]).await;
    let mut socket = Wire::connect(&hub, &key).await;
    let mut other = Wire::connect(&hub, &hub.admin).await;

    assert_eq!(delete(&hub, &format!("/v1/admin/keys/{id}")).await.status, 200);

    assert_eq!(socket.closed().await, (4401, "the key was revoked".to_owned()));
    assert_eq!(Wire::refused(request(&hub, Some(&key))).await, 401);
    let answer = Answer::of(
        hub.as_key(&key, Method::GET, "/v1/operations")
            .send()
            .await
            .expect("answered"),
    )
    .await;
    answer.is_problem(401, "UNAUTHENTICATED").names("revoked");
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"alkhub\"");
    other.text(r#"{"type":"__subscribe","id":"","payload":"a:1"}"#).await;
    other.expect("__subscribed").await;
    delete(&hub, "/v1/admin/keys/not-an-id")
        .await
        .is_problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_key_that_expires_ends_its_sockets() {
    let hub = hub_with(|config| config.server.ping_interval = Duration::from_millis(200)).await;
    let created = hub
        .post(
            "/v1/admin/keys",
            &json!({ "name": "brief", "scopes": [], "expiresInSeconds": 5 }),
        )
        .await;
    let key = created.body["data"]["key"].as_str().expect("a key").to_owned();
    let mut socket = Wire::connect(&hub, &key).await;

    assert_eq!(socket.closed().await, (4401, "the key has expired".to_owned()));

    assert_eq!(Wire::refused(request(&hub, Some(&key))).await, 401);
}

#[tokio::test]
async fn the_last_use_of_a_key_outlives_its_hub() {
    let one = hub().await;
    let (key, id) = one.key(&["operations:read"]).await;
    let used = one
        .as_key(&key, Method::GET, "/v1/operations")
        .send()
        .await
        .expect("answered");
    assert_eq!(used.status(), 200);

    one.hub.shutdown().await;

    let two = hub_with(|config| config.store.schema = one.schema().clone()).await;
    let keys = two.get("/v1/admin/keys").await;
    let record = keys.body["data"]
        .as_array()
        .expect("keys")
        .iter()
        .find(|key| key["id"] == *id);
    assert!(record.expect("listed")["lastUsedAt"].is_string(), "{keys:?}");
}

#[tokio::test]
async fn a_spoke_is_declared_connects_with_its_key_and_goes_with_its_resource() {
    let hub = hub().await;
    let key = new_key();
    let declared = json!({ "uid": "u-1", "key": key, "operations": ["text.*"], "labels": { "team": "a" } });
    assert_eq!(put(&hub, "builder", &declared).await.status, 201);
    assert_eq!(put(&hub, "builder", &declared).await.status, 200);
    let mut spoke = Wire::connect(&hub, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "upper", "query")])
        .await;

    let info = hub.get("/v1/admin/spokes/builder").await;
    assert_eq!(info.body["data"]["status"], "connected", "{info:?}");
    assert_eq!(info.body["data"]["operations"], json!(["text.upper"]));
    let report = hub.get("/v1/admin/hub").await;
    assert_eq!(report.body["data"]["spokesConnected"], 1, "{report:?}");
    assert_eq!(report.body["data"]["postgres"], "up");
    assert_eq!(report.body["data"]["redis"], "none");
    assert_eq!(report.body["data"]["hubId"], hub.hub.hub_id().as_str());

    delete(&hub, "/v1/admin/spokes/builder?uid=another")
        .await
        .is_problem(404, "NOT_FOUND");
    assert_eq!(delete(&hub, "/v1/admin/spokes/builder?uid=u-1").await.status, 204);
    assert_eq!(spoke.closed().await.0, 4401);
    hub.get("/v1/admin/spokes/builder").await.is_problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_suspended_spoke_is_let_go_and_refused_at_the_door() {
    let hub = hub().await;
    let key = new_key();
    put(&hub, "builder", &json!({ "uid": "u-1", "key": key })).await;
    let mut spoke = Wire::connect(&hub, &key).await;

    put(&hub, "builder", &json!({ "uid": "u-1", "suspended": true })).await;

    assert_eq!(spoke.closed().await.0, 4403);
    assert_eq!(Wire::refused(request(&hub, Some(&key))).await, 403);
    put(&hub, "builder", &json!({ "uid": "u-1", "suspended": false })).await;
    Wire::connect(&hub, &key).await;
}

#[tokio::test]
async fn a_new_uid_is_another_spoke_and_a_sweep_removes_those_without_a_resource() {
    let hub = hub().await;
    let (old, new) = (new_key(), new_key());
    put(&hub, "builder", &json!({ "uid": "u-1", "key": old })).await;
    let mut spoke = Wire::connect(&hub, &old).await;
    put(&hub, "builder", &json!({ "uid": "u-2", "key": new })).await;
    assert_eq!(spoke.closed().await.0, 4401);
    let mut spoke = Wire::connect(&hub, &new).await;

    let kept = hub.post("/v1/admin/spokes/sweep", &json!({ "uids": ["u-2"] })).await;
    assert_eq!(kept.body["data"]["revokedKeys"], json!([]), "{kept:?}");
    let swept = hub.post("/v1/admin/spokes/sweep", &json!({ "uids": [] })).await;

    assert_eq!(
        swept.body["data"]["revokedKeys"].as_array().map(Vec::len),
        Some(1),
        "{swept:?}"
    );
    assert_eq!(spoke.closed().await.0, 4401);
}

#[tokio::test]
async fn what_a_spoke_may_not_be_is_told() {
    let hub = hub().await;
    let (taken, _) = hub.key(&[]).await;
    for (name, spoke, status, code, named) in [
        ("Bad_Name", json!({ "uid": "u" }), 400, "BAD_REQUEST", "spoke name"),
        ("a", json!({ "uid": "" }), 400, "BAD_REQUEST", "uid"),
        (
            "a",
            json!({ "uid": "u", "key": "alk_short" }),
            400,
            "BAD_REQUEST",
            "key",
        ),
        (
            "a",
            json!({ "uid": "u", "operations": ["hub.*"] }),
            400,
            "BAD_REQUEST",
            "hub.*",
        ),
        (
            "a",
            json!({ "uid": "u", "operations": ["x"] }),
            400,
            "BAD_REQUEST",
            "`x`",
        ),
        ("a", json!({ "uid": "u", "key": taken }), 409, "CONFLICT", "key"),
    ] {
        put(&hub, name, &spoke).await.is_problem(status, code).names(named);
    }
}

async fn admits(hub: &TestHub, key: &str) -> bool {
    let asked = hub.as_key(key, Method::GET, "/v1/admin/hub").send().await;
    asked.expect("answered").status() == 200
}

async fn until_admits(hub: &TestHub, key: &str, what: &str) {
    alkhub_test_support::until(what, async || match admits(hub, key).await {
        true => Ok(()),
        false => Err("refused".to_owned()),
    })
    .await;
}

/// As with a managed Postgres without a volume, or one that somebody has emptied.
#[tokio::test]
async fn a_schema_that_is_dropped_leaves_the_admin_and_takes_a_restored_spokes_key_at_once() {
    let hub = hub_with(|config| {
        config.store.ping_interval = Duration::from_millis(200);
        config.auth.cache_ttl = Duration::from_secs(1);
    })
    .await;
    let key = new_key();
    let spoke = json!({ "uid": "u1", "key": key, "scopes": ["operations:read"] });
    assert_eq!(put(&hub, "builder", &spoke).await.status, 201);
    let mut socket = Wire::connect(&hub, &key).await;

    hub.execute(&format!("DROP SCHEMA {} CASCADE", hub.schema())).await;

    alkhub_test_support::until("the spokes are gone", async || {
        let spokes = hub.get("/v1/admin/spokes").await;
        match spokes.body["data"].as_array() {
            Some(spokes) if spokes.is_empty() => Ok(()),
            _ => Err(spokes.text),
        }
    })
    .await;
    // Connected peers are disconnected when their key is next looked up.
    assert_eq!(socket.closed().await.0, 4401);
    assert_eq!(put(&hub, "builder", &spoke).await.status, 201);
    Wire::connect(&hub, &key).await;
}

#[tokio::test]
async fn another_admin_key_in_the_file_is_entered_without_a_restart_and_ends_the_one_before() {
    let hub = hub_with(|config| config.server.bad_keys_per_minute = 10_000).await;
    let next = new_key();
    assert!(admits(&hub, &hub.admin).await && !admits(&hub, &next).await);

    std::fs::write(hub.folder().join("admin.key"), &next).expect("written");

    until_admits(&hub, &next, "the new admin key is entered").await;
    alkhub_test_support::until("the old one has ended", async || match admits(&hub, &hub.admin).await {
        false => Ok(()),
        true => Err("admitted".to_owned()),
    })
    .await;
    std::fs::write(hub.folder().join("admin.key"), "no key").expect("written");
    assert!(admits(&hub, &next).await, "a file that holds no key changes nothing");
}

#[tokio::test]
async fn a_put_says_which_key_is_in_force_and_a_list_what_was_declared() {
    let hub = hub().await;
    let (first, second) = (new_key(), new_key());
    let declared = |key: &str, suspended: bool| json!({ "uid": "u1", "key": key, "suspended": suspended });
    let hint = |answer: &Answer| answer.body["data"]["keyHint"].as_str().map(str::to_owned);

    let one = put(&hub, "builder", &declared(&first, false)).await;
    let two = put(&hub, "builder", &declared(&second, false)).await;
    let late = put(&hub, "builder", &declared(&first, true)).await;

    assert_eq!(hint(&one).as_deref(), Some(&first[..10]));
    assert_eq!(hint(&two).as_deref(), Some(&second[..10]));
    assert_eq!(hint(&late).as_deref(), Some(&second[..10]), "the first has ended");
    let parsed: alkhub_protocol::admin::SpokePut = serde_json::from_value(declared(&first, true)).expect("a put");
    let list = hub.get("/v1/admin/spokes").await;
    assert_eq!(list.body["data"][0]["declarationDigest"], parsed.digest());
    assert_eq!(list.body["data"][0]["keyHint"], second[..10]);
    let (reader, _) = hub.key(&["spokes:read"]).await;
    let read = Answer::of(
        hub.as_key(&reader, Method::GET, "/v1/spokes")
            .send()
            .await
            .expect("answered"),
    )
    .await;
    assert!(
        read.body["data"][0]["keyHint"].is_null(),
        "only admins see hints: {}",
        read.text
    );
}

#[tokio::test]
async fn keys_of_another_hash_key_are_listed_as_dead_and_counted() {
    let one = hub().await;
    one.key(&["operations:read"]).await;
    one.hub.shutdown().await;

    let two = hub_with(|config| {
        config.store.schema = one.schema().clone();
        let file = config.auth.hash_key_file.clone().expect("set");
        std::fs::write(file, "6b".repeat(32)).expect("written");
    })
    .await;

    let keys = two.get("/v1/admin/keys").await;
    let dead = keys.body["data"]
        .as_array()
        .expect("keys")
        .iter()
        .filter(|key| key["dead"] == true);
    // These are the client's key and the first hub's admin key.
    assert_eq!(dead.count(), 2, "{}", keys.text);
    assert_eq!(two.get("/v1/admin/hub").await.body["data"]["deadKeys"], 2);
}

/// An operator of the next minor version may send fields that this hub does not know yet.
#[tokio::test]
async fn a_declaration_with_a_field_of_the_next_version_is_taken() {
    let hub = hub().await;

    let answer = put(&hub, "builder", &json!({ "uid": "u1", "fieldOfTheNextVersion": [1] })).await;

    assert_eq!(answer.status, 201);
    assert!(
        answer.body["data"]["declarationDigest"]
            .as_str()
            .is_some_and(|digest| digest.starts_with("1:"))
    );
}

#[tokio::test]
async fn the_list_of_spokes_comes_whole_or_in_pages_for_who_asks_for_them() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("middle").await;
    for name in ["alpha", "omega"] {
        assert_eq!(put(&hub, name, &json!({ "uid": name })).await.status, 201);
    }
    let mut sockets = Vec::new();
    for instance in ["one", "two"] {
        let mut socket = Wire::connect(&hub, &key).await;
        let input = json!({
            "operations": [operation("middle", "a", "query")],
            "spokeType": "dev-env",
            "instanceId": instance,
            "labels": { "weight": "x".repeat(100) },
        });
        socket.call(Dialect::Origin, "register-1", "hub.register", input).await;
        socket.expect("call.responded").await;
        sockets.push(socket);
    }

    let whole = hub.get("/v1/spokes").await;
    let (mut paged, mut next, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let cursor = next.map(|next| format!("&cursor={next}")).unwrap_or_default();
        let page = hub.get(&format!("/v1/admin/spokes?limit=1{cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        paged.extend(page.body["data"].as_array().expect("a list").clone());
        pages += 1;
        next = page.body["meta"]["next"].as_str().map(str::to_owned);
        if next.is_none() {
            break;
        }
    }

    let names: Vec<&str> = paged.iter().filter_map(|spoke| spoke["name"].as_str()).collect();
    assert_eq!((names, pages), (vec!["alpha", "middle", "omega"], 3));
    assert_eq!(whole.body["data"], json!(paged));
    assert_eq!(whole.body["meta"]["next"], json!(null));
    let instances: Vec<&str> = paged[1]["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|instance| instance["instanceId"].as_str())
        .collect();
    assert_eq!(instances, ["one", "two"]);
    assert_eq!(paged[1]["status"], "connected");
    for wrong in ["limit=0", "limit=1001", "cursor=No%20Name"] {
        let refused = hub.get(&format!("/v1/spokes?{wrong}")).await;
        refused.is_problem(400, "BAD_REQUEST");
    }
}

/// The names on each page of the list of keys.
async fn key_pages(hub: &TestHub, query: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), None::<String>);
    loop {
        let cursor = next.map(|next| format!("&cursor={next}")).unwrap_or_default();
        let page = hub.get(&format!("/v1/admin/keys?{query}{cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        let keys = page.body["data"].as_array().expect("a list").iter();
        let name = |key: &Value| key["name"].as_str().expect("a name").to_owned();
        pages.push(keys.map(name).collect());
        next = page.body["meta"]["next"].as_str().map(str::to_owned);
        if next.is_none() {
            return pages;
        }
    }
}

#[tokio::test]
async fn the_list_of_keys_comes_in_pages_the_newest_first() {
    let hub = hub().await;
    for name in ["alpha", "middle", "omega"] {
        let key = json!({ "name": name, "scopes": ["call:*"] });
        assert_eq!(hub.post("/v1/admin/keys", &key).await.status, 201);
    }

    let (odd, even) = (key_pages(&hub, "limit=3").await, key_pages(&hub, "limit=2").await);
    let whole = hub.get("/v1/admin/keys").await;

    assert_eq!(odd, [vec!["omega", "middle", "alpha"], vec!["admin"]]);
    assert_eq!(even, [["omega", "middle"], ["alpha", "admin"]], "no page is empty");
    assert_eq!(whole.body["data"].as_array().expect("a list").len(), 4);
    assert_eq!(whole.body["meta"]["next"], json!(null));
    for wrong in ["limit=0", "limit=1001", "cursor=nodot"] {
        let refused = hub.get(&format!("/v1/admin/keys?{wrong}")).await;
        refused.is_problem(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn a_page_of_keys_with_many_scopes_ends_by_its_size() {
    let hub = hub().await;
    let scopes: Vec<String> = (0..256).map(|n| format!("own{n:03}{}", "x".repeat(250))).collect();
    for number in 0..10 {
        let key = json!({ "name": format!("key {number}"), "scopes": scopes });
        assert_eq!(hub.post("/v1/admin/keys", &key).await.status, 201);
    }

    let pages = key_pages(&hub, "limit=1000").await;

    let newest_first = (0..10).rev().map(|number| format!("key {number}"));
    assert_eq!(pages.len(), 2, "{pages:?}");
    assert_eq!(
        pages.concat(),
        newest_first.chain(["admin".to_owned()]).collect::<Vec<_>>()
    );
}
