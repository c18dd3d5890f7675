//! The routes of a surface as a router, and what every request passes through before it reaches one.

use std::sync::Arc;

use alkhub_config::Origin;
use alkhub_protocol::Code;
use axum::extract::{FromRef, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::{Router, middleware};
use http::{HeaderValue, Method, Uri};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::edge::Edge;
use crate::endpoint::{Endpoint, RouteScope};
use crate::error::ApiError;
use crate::header;
use crate::key_holder::KeyHolder;
use crate::metrics::EdgeMetrics;
use crate::query::QueryParameters;
use crate::request;

/// How many characters of a path are repeated in an answer, at most.
const SHOWN: usize = 200;

/// The routes of one surface with its state. A query parameter that a route does not declare is refused, then a key
/// without the scope that the route [needs](Endpoint::needs).
pub fn mount<S: Clone + Send + Sync + 'static>(endpoints: Vec<Endpoint<S>>, state: S) -> Router
where
    Edge: FromRef<S>,
{
    let edge = Edge::from_ref(&state);
    let routes = endpoints
        .into_iter()
        .fold(Router::new(), |router, Endpoint { route, mut handler }| {
            if let Some(RouteScope::Fixed(scope)) = route.scope {
                handler = handler.route_layer(middleware::from_fn_with_state((edge.clone(), scope), guard));
            }
            let parameters = QueryParameters::of(&route.parameters);
            let check = middleware::from_fn(move |request, next| parameters.clone().pass(request, next));
            router.route(route.path, handler.route_layer(check))
        });
    routes.with_state(state)
}

/// Passes a request on if its key has the scope.
async fn guard(State((edge, scope)): State<(Edge, &'static str)>, request: Request, next: Next) -> Response {
    match KeyHolder::with_scope(&edge, scope, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// A listener's router: adds the answers for unknown routes, and what every request passes through.
pub fn around(routes: Router, metrics: &Arc<EdgeMetrics>) -> Router {
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(middleware::from_fn_with_state(metrics.clone(), request::observe))
}

/// Lets pages of these origins use the router; no page if there are none. Answers given on the way, such as those to
/// preflights, have a request id too.
pub fn with_cors(router: Router, origins: &[Origin]) -> Router {
    match cors(origins) {
        Some(cors) => router.layer(cors).layer(middleware::from_fn(request::identify)),
        None => router,
    }
}

fn cors(origins: &[Origin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(Origin::is_any) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin.as_str()).ok()),
        )
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(header::sent_by_pages())
            .expose_headers(header::READ_BY_PAGES),
    )
}

/// No such route.
async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(
        Code::NotFound,
        format!("there is no route `{}`; see /v1/openapi.json", shown(&uri)),
    )
}

/// The route has other methods; `Allow` names them.
async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!("`{}` has no method {method}", shown(&uri)),
    )
}

/// The part of a path that is repeated in answers: even requests without a key choose it.
fn shown(uri: &Uri) -> String {
    uri.path().chars().take(SHOWN).collect()
}
