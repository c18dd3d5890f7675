//! Keys that end, and clients that leave, while a request is under way.

use std::process::Stdio;

use alkhub_test_support::until;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::harness::{Answer, LIMIT, TestHub, hub, hub_with, postgres};
use crate::wire::Wire;

/// A request whose header has arrived at the hub, but whose body has not been sent.
struct Begun {
    socket: TcpStream,
    body: String,
}

impl Begun {
    async fn new(hub: &TestHub, key: &str, (method, path): (&str, &str), body: String) -> Self {
        let address = hub.hub.url().replace("http://", "");
        let mut socket = TcpStream::connect(address).await.expect("connects");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.expect("written");
        // `100 Continue` is sent when the body is first read: the key was good at that time.
        let mut leave = [0; 25];
        timeout(LIMIT, socket.read_exact(&mut leave))
            .await
            .expect("in time")
            .expect("read");
        assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
        Self { socket, body }
    }

    async fn end(mut self) -> String {
        self.socket.write_all(self.body.as_bytes()).await.expect("written");
        let mut answer = String::new();
        timeout(LIMIT, self.socket.read_to_string(&mut answer))
            .await
            .expect("in time")
            .expect("read");
        answer
    }
}

/// Another user of the database.
struct Psql {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Psql {
    fn open() -> Self {
        let mut psql = Command::new("psql");
        let psql = psql.arg(postgres().url()).args(["-qAt", "-v", "ON_ERROR_STOP=1"]);
        let psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = psql.spawn().expect("psql is installed");
        Self {
            input: process.stdin.take().expect("piped"),
            output: BufReader::new(process.stdout.take().expect("piped")).lines(),
            _process: process,
        }
    }

    /// The first line of a statement's result.
    async fn ask(&mut self, sql: &str) -> String {
        self.input
            .write_all(format!("{sql};\n").as_bytes())
            .await
            .expect("written");
        let line = timeout(LIMIT, self.output.next_line()).await.expect("in time");
        line.expect("read").expect("open")
    }

    /// Locks a key's row until the end of the transaction.
    async fn lock(&mut self, hub: &TestHub, id: &str) {
        let lock = format!(
            "BEGIN; SELECT id FROM {}.keys WHERE id = '{id}' FOR UPDATE",
            hub.schema()
        );
        assert_eq!(self.ask(&lock).await, id);
    }

    /// Waits until another statement waits for the lock.
    async fn until_waited_for(&mut self) {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))";
        timeout(LIMIT, async { while self.ask(waiting).await == "0" {} })
            .await
            .expect("somebody waits in time");
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_while_its_requests_body_arrives_writes_nothing() {
    let hub = hub().await;
    let (key, id) = hub.key(&["admin", "events:publish:*", "call:*"]).await;
    let create = json!({ "name": "afterlife", "scopes": ["admin"] }).to_string();
    let put = json!({ "uid": "u-1" }).to_string();
    let mut begun = Vec::new();
    for (request, body) in [
        (("POST", "/v1/admin/keys"), create),
        (("PUT", "/v1/admin/spokes/afterlife"), put),
        (("POST", "/v1/admin/spokes/sweep"), r#"{"uids":[]}"#.to_owned()),
        (("POST", "/v1/events/a/1"), "1".to_owned()),
        (("POST", "/v1/call/hub.services"), "{}".to_owned()),
    ] {
        begun.push((request, Begun::new(&hub, &key, request, body).await));
    }

    let revoked = hub.request(Method::DELETE, &format!("/v1/admin/keys/{id}"));
    assert_eq!(revoked.send().await.expect("answered").status(), 200);

    for (request, begun) in begun {
        let answer = begun.end().await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{request:?}: {answer}");
        assert!(answer.contains("the key was revoked"), "{request:?}: {answer}");
    }
    assert!(!hub.get("/v1/admin/keys").await.text.contains("afterlife"));
    assert!(!hub.get("/v1/spokes").await.text.contains("afterlife"));
}

#[tokio::test]
async fn a_key_that_expires_while_its_requests_body_arrives_writes_nothing() {
    let hub = hub().await;
    let brief = json!({ "name": "brief", "scopes": ["admin"], "expiresInSeconds": 2 });
    let made = hub.post("/v1/admin/keys", &brief).await;
    let key = made.body["data"]["key"].as_str().expect("a key").to_owned();
    let create = json!({ "name": "afterlife", "scopes": ["admin"] }).to_string();
    let begun = Begun::new(&hub, &key, ("POST", "/v1/admin/keys"), create).await;

    until("the key has expired", || async {
        let asked = hub.as_key(&key, Method::GET, "/v1/operations").send().await;
        let status = asked.expect("answered").status();
        (status == 401).then_some(()).ok_or(status)
    })
    .await;

    let answer = begun.end().await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(!hub.get("/v1/admin/keys").await.text.contains("afterlife"));
}

/// The hub that accepts the request does not know yet that the key was revoked, but Postgres does.
#[tokio::test]
async fn a_write_that_a_revocation_overtakes_in_the_database_is_not_made() {
    let hub = hub().await;
    let (key, id) = hub.key(&["admin"]).await;
    let mut other = Psql::open();
    other.lock(&hub, &id).await;
    let create = hub
        .as_key(&key, Method::POST, "/v1/admin/keys")
        .body(json!({ "name": "afterlife", "scopes": ["admin"] }).to_string());
    let revoke = format!(
        "UPDATE {}.keys SET revoked_at = now() WHERE id = '{id}'; COMMIT; SELECT 'done'",
        hub.schema()
    );

    let (answer, ()) = tokio::join!(create.send(), async {
        other.until_waited_for().await;
        assert_eq!(other.ask(&revoke).await, "done");
    });

    let answer = Answer::of(answer.expect("answered")).await;
    answer.is_problem(401, "UNAUTHENTICATED");
    assert!(!hub.get("/v1/admin/keys").await.text.contains("afterlife"));
}

#[tokio::test]
async fn a_revocation_whose_client_leaves_before_the_answer_ends_the_keys_connections_all_the_same() {
    let hub = hub_with(|config| config.auth.cache_ttl = LIMIT * 10).await;
    let (key, id) = hub.key(&["events:subscribe:*"]).await;
    let mut socket = Wire::connect(&hub, &key).await;
    let mut other = Psql::open();
    other.lock(&hub, &id).await;
    let mut client = TcpStream::connect(hub.hub.url().replace("http://", ""))
        .await
        .expect("connects");
    let request = format!(
        "DELETE /v1/admin/keys/{id} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        hub.admin
    );
    client.write_all(request.as_bytes()).await.expect("written");
    other.until_waited_for().await;
    let open = hub.metric(r#"alkhub_connections{kind="http"}"#).await.expect("told");

    drop(client);
    until("the hub has noticed", || async {
        let now = hub.metric(r#"alkhub_connections{kind="http"}"#).await.expect("told");
        (now < open).then_some(()).ok_or(now)
    })
    .await;
    assert_eq!(other.ask("COMMIT; SELECT 'done'").await, "done");

    assert_eq!(socket.closed().await, (4401, "the key was revoked".to_owned()));
}
