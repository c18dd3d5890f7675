//! One temporary server for all tests of a program, with a database for each; and servers of a test's own. Failures
//! here panic.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::OnceCell;

use crate::options::Options;
use crate::server::Server;

/// Ends with the process.
static SERVER: OnceCell<Server> = OnceCell::const_new();

/// The server of all tests.
///
/// # Panics
/// It does not start.
pub async fn server() -> &'static Server {
    SERVER
        .get_or_init(|| async { Server::temporary().await.expect("a private Postgres starts") })
        .await
}

/// A server in `pg` below a folder, which from then on anybody may enter. It also listens on a port of 127.0.0.1, where
/// `alkhub` has the password `secret`.
///
/// # Panics
/// It does not start.
pub async fn server_in(folder: &Path, port: u16) -> Server {
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(folder, open).expect("the folder is the test's");
    let options = Options {
        durable: false,
        tcp_port: Some(port),
        ..Options::new(folder.join("pg"))
    };
    let server = Server::start(options).await.expect("a private Postgres starts");
    execute(&server.url(), "ALTER ROLE alkhub PASSWORD 'secret'").await;
    server
}

/// The URL of a new database.
///
/// # Panics
/// It cannot be made.
pub async fn database() -> String {
    let name = format!("t{}", uuid::Uuid::new_v4().simple());
    server().await.create_database(&name).await.expect("a database")
}

/// A connection of the test's own.
///
/// # Panics
/// It is refused.
pub async fn connection(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("connects")
}

/// Runs a statement on a connection of its own.
///
/// # Panics
/// It fails.
pub async fn execute(url: &str, sql: impl Into<String>) {
    let mut connection = connection(url).await;
    sqlx::raw_sql(AssertSqlSafe(sql.into()))
        .execute(&mut connection)
        .await
        .expect("the statement is right");
}

/// The single number that a query returns.
///
/// # Panics
/// It fails, or returns something else.
pub async fn number(url: &str, sql: impl Into<String>) -> i64 {
    let mut connection = connection(url).await;
    sqlx::query_scalar(AssertSqlSafe(sql.into()))
        .fetch_one(&mut connection)
        .await
        .expect("the query is right")
}
