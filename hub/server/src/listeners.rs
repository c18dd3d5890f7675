//! The two listeners of a hub: the main one serves clients as soon as the hub can answer, the management one serves
//! probes and scrapes from the start to the very end.

use std::sync::Arc;

use alkhub_edge::Scope;
use alkhub_edge::listener::{self, Listener, ListenerLimits, tls};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::router;

/// How many connections the management listener takes at once.
const MANAGEMENT_CONNECTIONS: usize = 256;

/// Spawns both under the hub's supervisor.
pub(crate) fn start(app: &App, main: TcpSocket, management: TcpListener, tls: Option<tls::Acceptor>) {
    let server = Arc::new(app.edge.server().clone());
    let scope = app.edge.scope();
    let management = Listener {
        socket: management,
        router: router::management(app),
        tls: None,
        limits: ListenerLimits {
            connections: MANAGEMENT_CONNECTIONS,
            per_address: None,
            server: server.clone(),
        },
        edge: None,
        // Probes and scrapes are answered to the very end, so that "draining" can be seen.
        scope: Scope {
            drain: CancellationToken::new(),
            ..scope.clone()
        },
    };
    scope.supervisor.keep("server.management", management.serve());
    let limits = ListenerLimits {
        connections: server.max_connections,
        per_address: Some(server.max_connections_per_address),
        server,
    };
    let main = open_main(app.clone(), main, tls, limits);
    scope
        .supervisor
        .keep_until("server.listener", scope.drain.clone(), main);
}

/// Serves clients as soon as the hub can answer them.
async fn open_main(app: App, main: TcpSocket, tls: Option<tls::Acceptor>, limits: ListenerLimits) {
    let scope = app.edge.scope();
    let answerable = async {
        app.readiness.answerable().await;
        // A client that comes here can reach spokes that other hubs hold.
        app.calls.caught_up().await;
    };
    tokio::select! {
        () = scope.drain.cancelled() => return,
        () = scope.stop.cancelled() => return,
        () = answerable => {}
    }
    let socket = match listener::listen(main) {
        Ok(socket) => socket,
        Err(error) => {
            let address = app.edge.server().listen;
            return app
                .readiness
                .failed(format!("cannot listen on {address} (`server.listen`): {error}"));
        }
    };
    app.readiness.listening();
    let listener = Listener {
        socket,
        router: router::main(&app),
        tls,
        limits,
        edge: Some(app.edge.clone()),
        scope: scope.clone(),
    };
    listener.serve().await;
}
