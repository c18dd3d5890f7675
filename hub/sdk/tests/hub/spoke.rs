//! Spokes: registration, handlers, and connections that end under them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alkhub_sdk::protocol::register::RegisterOutput;
use alkhub_sdk::{CallOptions, Code, Context, Error, Failure, Operation, RawJson, Spoke, Status};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::stage::{SOON, Stage, Watched, soon, upper, within};

/// Waits for a registration after this one.
async fn registered(spoke: &Spoke, after: u64) -> Result<Arc<RegisterOutput>> {
    let mut status = spoke.status();
    let newer = |status: &Status| matches!(status, Status::Registered(output) if output.generation > after);
    let newer = soon("the spoke registers", status.wait_for(newer)).await?.clone();
    match newer {
        Status::Registered(output) => Ok(output),
        other => anyhow::bail!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_registers_with_its_schemas_and_answers() -> Result<()> {
    let stage = Stage::start().await?;
    let spoke = stage
        .spoke()
        .operation(Operation::query("text.upper", upper).description("Shouts"));
    let _spoke = spoke.start().await?;
    let http = stage.http();

    let listed = http.send("GET", "/v1/operations/text.upper", None).await?.body["data"].take();
    let answered = http.call("text.upper", &json!("hello")).await?;
    let refused = http.call("text.upper", &json!(5)).await?;

    assert_eq!(
        (&listed["description"], &listed["inputSchema"]["type"], &listed["type"]),
        (&json!("Shouts"), &json!("string"), &json!("query")),
        "{listed}"
    );
    assert_eq!((answered.status, &answered.body["data"]), (200, &json!("HELLO")));
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (422, &json!("VALIDATION_ERROR"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_sees_who_asks_and_everything_that_came_with_the_call() -> Result<()> {
    let stage = Stage::start().await?;
    let operation = Operation::query("text.who", |(): (), context: Context| async move {
        let metadata = context.metadata().map(|raw| raw.as_str().to_owned());
        let identity = context.identity().cloned().unwrap_or_default();
        let parent = context.parent().map(ToString::to_string);
        let has_deadline = context.time_left().is_some();
        Ok::<_, Failure>((metadata, identity.id, identity.scopes, parent, has_deadline))
    });
    let spoke = stage.spoke().operation(operation.required_scope("text:read"));
    let _spoke = spoke.start().await?;
    let scopes = ["call:*", "text:read", "text:write"];
    let (id, key) = stage.key(json!({ "name": "k", "scopes": scopes })).await?;
    let options = CallOptions {
        parent: Some("p".parse()?),
        metadata: Some(RawJson::parse(r#"{"n":1.50}"#.to_owned())?),
        ..CallOptions::default()
    };

    let client = stage.client_with(&key);
    let seen: Value = client.call_with("text.who", &(), options).await?;

    assert_eq!(seen, json!([r#"{"n":1.50}"#, id, ["text:read"], "p", true]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_operation_fails_the_start_and_is_named() -> Result<()> {
    let stage = Stage::start().await?;
    let (_, key) = stage
        .key(json!({ "name": "k", "spoke": "text", "scopes": ["spoke"] }))
        .await?;
    let spoke = stage
        .spoke()
        .token(key)
        .operation(Operation::query("other.upper", upper));

    let error = spoke.start().await.expect_err("rejected");

    assert!(matches!(&error, Error::Rejected(_)), "{error}");
    assert!(error.to_string().contains("other.upper"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_whose_session_is_lost_registers_again_as_the_same_instance() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let spoke = stage.spoke().operation(Operation::query("text.upper", upper));
    let spoke = spoke.start().await?;
    let first = registered(&spoke, 0).await?;

    stage.break_link();
    let second = registered(&spoke, first.generation).await?;

    assert_eq!(first.instance_id, second.instance_id);
    let answered = stage.http().call("text.upper", &json!("a")).await?;
    assert_eq!((answered.status, &answered.body["data"]), (200, &json!("A")));
    let listed = stage
        .metric("alkhub_spoke_instances_known")
        .await
        .map_err(anyhow::Error::msg)?;
    assert_eq!(listed, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_whose_key_is_revoked_ends_and_says_so() -> Result<()> {
    let stage = Stage::start().await?;
    let (id, key) = stage
        .key(json!({ "name": "k", "spoke": "text", "scopes": ["spoke"] }))
        .await?;
    let spoke = stage
        .spoke()
        .token(key)
        .operation(Operation::query("text.upper", upper));
    let spoke = spoke.start().await?;

    stage
        .http()
        .send("DELETE", &format!("/v1/admin/keys/{id}"), None)
        .await?;

    let error = soon("the spoke ends", spoke.ended()).await.expect_err("revoked");
    assert!(
        matches!(&error, Error::Refused { status: 4401, reason, .. } if reason.contains("revoked")),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_whose_instance_is_taken_over_ends_and_says_so() -> Result<()> {
    let stage = Stage::start().await?;
    let spoke = || {
        stage
            .spoke()
            .instance_id("one")
            .operation(Operation::query("text.upper", upper))
    };
    let first = spoke().start().await?;

    let second = spoke().start().await?;

    let error = soon("the first ends", first.ended()).await.expect_err("replaced");
    assert!(matches!(error, Error::Refused { status: 4409, .. }), "{error}");
    assert!(matches!(&*second.status().borrow(), Status::Registered(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_and_the_loss_of_the_session_end_the_handler() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let watched = Arc::new(Watched::default());
    let spoke = stage.spoke().operation(watched.endless()).start().await?;
    let (client, http) = (stage.client(), stage.http());

    // No deadline ends the handlers while they are waited for.
    let aborted = client.call_with::<_, String>("text.wait", &(), within(10 * SOON));
    tokio::select! {
        () = watched.began.notified() => {}
        answered = aborted => panic!("answered by nobody: {answered:?}"),
    }
    soon("the aborted handler ends", watched.ended.notified()).await;
    let cut = async {
        soon("a second call", watched.began.notified()).await;
        assert_eq!(spoke.running(), 1);
        stage.break_link();
        soon("the handler ends with its link", watched.ended.notified()).await;
    };
    let timeout = [("alkhub-timeout", "600")];
    let call = http.send_with("POST", "/v1/call/text.wait", Some(&Value::Null), &timeout);
    let (answered, ()) = tokio::join!(call, cut);

    assert_eq!(watched.dropped.load(Ordering::SeqCst), 2);
    let answered = answered?;
    assert_eq!(
        (&answered.body["code"], &answered.body["delivered"]),
        (&json!("SPOKE_LOST"), &json!("maybe")),
        "{answered:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_handler_fails_its_call_and_no_other() -> Result<()> {
    let stage = Stage::start().await?;
    let panics = Operation::query("text.panics", |_: String| async move {
        assert!(std::env::consts::OS.is_empty(), "as it should");
        Ok::<_, Failure>(())
    });
    let spoke = stage
        .spoke()
        .operation(panics)
        .operation(Operation::query("text.upper", upper));
    let _spoke = spoke.start().await?;
    let client = stage.client();

    let (panicked, answered) = tokio::join!(
        client.call::<_, ()>("text.panics", ""),
        client.call::<_, String>("text.upper", "a")
    );

    let panicked = panicked.expect_err("it panics");
    assert_eq!(panicked.code(), Some(&Code::ExecutionError));
    assert_eq!(answered.context("the other one")?, "A");
    Ok(())
}
