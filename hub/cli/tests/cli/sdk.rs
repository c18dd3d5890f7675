//! The SDK against `alkhub dev`: how it works while all is well, and that it survives its hub. Links that fail are in
//! `hub/sdk/tests/hub`.

use std::time::Duration;

use alkhub_sdk::{Client, Code, Context, Delivery, Error, Events, Failure, Operation, Spoke};
use alkhub_test_support::Port;
use futures::StreamExt as _;
use tokio::time::timeout;

use crate::fixture::{Dev, SOON, World};

fn client(dev: &Dev) -> Client {
    Client::builder(&dev.url)
        .token(dev.key())
        .build()
        .expect("valid settings")
}

async fn topic(events: &mut Events) -> String {
    match timeout(SOON, events.next())
        .await
        .expect("in time")
        .expect("open")
        .expect("no error")
    {
        Delivery::Event(event) => event.topic.to_string(),
        Delivery::Gap(gap) => format!("gap: {}", gap.reason),
    }
}

#[tokio::test]
async fn streams_of_a_topic_and_of_its_type_each_get_an_event_once() {
    let dev = Dev::start();
    let client = client(&dev);
    let mut one = client.events("job:1").await.expect("confirmed");
    let mut all = client.events("job:*").await.expect("confirmed");
    let mut again = client.events("job:1").await.expect("confirmed");

    for id in ["1", "2", "1"] {
        client.publish(&format!("job:{id}"), &id).await.expect("taken");
    }
    client.publish("job:end", &()).await.expect("taken");

    for wanted in ["job:1", "job:2", "job:1", "job:end"] {
        assert_eq!(topic(&mut all).await, wanted);
    }
    for stream in [&mut one, &mut again] {
        assert_eq!(
            (topic(stream).await, topic(stream).await),
            ("job:1".to_owned(), "job:1".to_owned())
        );
    }
    let more = timeout(Duration::from_millis(100), one.next()).await;
    assert!(more.is_err(), "a third: {more:?}");
}

#[tokio::test]
async fn a_client_and_a_spoke_outlive_their_hub() {
    // Both dial it while the hub is away.
    let port = Port::free();
    let listen = format!("127.0.0.1:{port}");
    let dev = Dev::start_at(World::new(), &listen, &[]);
    async fn double(number: u32) -> Result<u32, Failure> {
        Ok(2 * number)
    }
    let spoke = Spoke::builder(&dev.url)
        .token(dev.key())
        .name("math")
        .operation(Operation::query("math.double", double));
    let _spoke = spoke.start().await.expect("registered");
    let client = client(&dev);
    let mut events = client.events("job:*").await.expect("confirmed");
    assert_eq!(client.call::<_, u32>("math.double", &4).await.expect("answered"), 8);

    let world = tokio::task::spawn_blocking(|| dev.stop()).await.expect("stopped");
    let _again = Dev::start_at(world, &listen, &[]);

    assert_eq!(topic(&mut events).await, "gap: reconnected");
    client.publish("job:1", &()).await.expect("taken");
    assert_eq!(topic(&mut events).await, "job:1");
    let answer = timeout(SOON, async {
        loop {
            match client.call::<_, u32>("math.double", &5).await {
                Ok(answer) => break answer,
                // The spoke takes some time of its own.
                Err(Error::Call(error)) if matches!(error.code, Code::NoProvider | Code::OperationNotFound) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(answer.await.expect("the spoke is back"), 10);
}

#[tokio::test]
async fn errors_keep_their_code_details_and_status() {
    let dev = Dev::start();
    async fn buy(article: u32, context: Context) -> Result<String, Failure> {
        assert!(
            context.time_left().is_some_and(|left| left <= Duration::from_secs(30)),
            "the deadline travels"
        );
        Err(Failure::new("SOLD_OUT", format!("no {article} left")).details(&vec![article]))
    }
    let buy = Operation::mutation("shop.buy", buy).error::<Vec<u32>>("SOLD_OUT", "None left", Some(409));
    let spoke = Spoke::builder(&dev.url).token(dev.key()).name("shop").operation(buy);
    let spoke = spoke.start().await.expect("registered");
    let client = client(&dev);

    let Err(Error::Call(error)) = client.call::<_, String>("shop.buy", &7).await else {
        panic!("sold out")
    };
    let listed = client.operations(Some("shop")).await.expect("listed");
    let wrong = client
        .call::<_, String>("shop.buy", "seven")
        .await
        .expect_err("no number");
    spoke.shutdown().await;
    let gone = client.call::<_, String>("shop.buy", &7).await.expect_err("withdrawn");

    assert_eq!((error.code.as_str(), error.message.as_str()), ("SOLD_OUT", "no 7 left"));
    assert_eq!(error.details.expect("given").as_str(), "[7]");
    assert_eq!(listed[0].spec.error_schemas[0].http_status, Some(409));
    assert_eq!(wrong.code(), Some(&Code::ValidationError));
    assert_eq!(gone.code(), Some(&Code::NoProvider));
}
