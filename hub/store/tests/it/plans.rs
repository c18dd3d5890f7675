//! How Postgres reads what is listed page by page: by an index, whatever the language of its database.

use alkhub_devdb::testing::server;
use sqlx::AssertSqlSafe;

use crate::fixture::{config, connection, execute, ready};

/// The schema in a database whose texts are ordered as in English, with more rows than a page has.
async fn filled() -> String {
    let (server, name) = (server().await, format!("t{}", uuid::Uuid::new_v4().simple()));
    let create = format!("CREATE DATABASE {name} LOCALE_PROVIDER icu ICU_LOCALE 'en' TEMPLATE template0");
    execute(&server.url(), create).await;
    let url = server.url_of(&name);
    ready(&config(&url)).await.close().await;
    let rows = "INSERT INTO alkhub.spokes (name, uid, spoke_type, operations, scopes, labels, suspended)
                SELECT 's-' || n, n, 'compute', '{}', '{}', '{}', false FROM generate_series(1, 5000) AS n;
                INSERT INTO alkhub.keys (id, hash, hash_key_id, origin, name, hint, scopes, created_at)
                SELECT gen_random_uuid(), sha256(n::text::bytea), '1', 'api', 'k', 'alk_0', '{}',
                       now() - n * interval '1 s'
                FROM generate_series(1, 5000) AS n;
                ANALYZE alkhub.spokes; ANALYZE alkhub.keys";
    execute(&url, rows).await;
    url
}

/// The plan of a query, in one text.
async fn plan(url: &str, query: &str) -> String {
    let mut connection = connection(url).await;
    let explain = AssertSqlSafe(format!("EXPLAIN {query}"));
    let lines: Vec<String> = sqlx::query_scalar(explain)
        .fetch_all(&mut connection)
        .await
        .expect("planned");
    lines.join("\n")
}

#[tokio::test]
async fn pages_of_spokes_and_of_keys_come_in_their_order_from_an_index() {
    let url = filled().await;
    let spokes = r#"SELECT * FROM alkhub.spokes WHERE name COLLATE "C" > 's-2' ORDER BY name COLLATE "C" LIMIT 100"#;
    let keys = "SELECT * FROM alkhub.keys k
                LEFT JOIN alkhub.spokes s ON s.name = k.spoke AND s.uid = k.spoke_uid
                WHERE (k.created_at, k.id) < (now() - interval '1 h', '018f0000-0000-7000-8000-000000000000'::uuid)
                ORDER BY k.created_at DESC, k.id DESC LIMIT 100";

    for (index, query) in [("spokes_name_bytes", spokes), ("keys_created", keys)] {
        let plan = plan(&url, query).await;
        assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
    }
}
