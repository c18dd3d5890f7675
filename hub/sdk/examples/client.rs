//! A client: a call, a declared error, a subscription, an event published and received.
//!
//! It calls the operations of the example `spoke`:
//!
//! ```sh
//! cargo run -p alkhub-sdk --example client -- http://127.0.0.1:7420 admin.key
//! ```

use std::time::Duration;

use alkhub_sdk::{CallOptions, Client, Delivery};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "http://127.0.0.1:7420".to_owned());
    let mut client = Client::builder(url);
    if let Some(key_file) = arguments.next() {
        client = client.token(std::fs::read_to_string(key_file)?);
    }
    let client = client.build()?;

    let price: Value = client.call("shop.price", &json!({ "number": 7 })).await?;
    eprintln!("7 costs {} cents", price["cents"]);

    let options = CallOptions {
        timeout: Some(Duration::from_secs(5)),
        ..CallOptions::default()
    };
    let refused = client
        .call_with::<_, String>("shop.buy", &json!({ "number": 700 }), options)
        .await;
    match refused {
        Ok(bought) => eprintln!("{bought}"),
        Err(error) => eprintln!("not bought: {error} (retryable: {})", error.retryable()),
    }

    let numbers: Vec<u32> = client
        .subscribe::<_, u32>("shop.countdown", &3)
        .await?
        .try_collect()
        .await?;
    eprintln!("counted {numbers:?}");

    let mut events = client.events("shop.opened:*").await?;
    client
        .publish("shop.opened:main-street", &json!({ "at": "08:00" }))
        .await?;
    match events.next().await {
        Some(Ok(Delivery::Event(event))) => eprintln!("event on {}: {}", event.topic, event.payload::<Value>()?),
        Some(Ok(Delivery::Gap(gap))) => eprintln!("something was lost: {}", gap.reason),
        Some(Err(error)) => return Err(error.into()),
        None => {}
    }
    client.close().await;
    Ok(())
}
