//! A spoke with a query, a mutation that fails in a declared way, and a subscription.
//!
//! ```sh
//! cargo run -p alkhub-sdk --example spoke -- http://127.0.0.1:7420 admin.key
//! ```

use std::time::Duration;

use alkhub_sdk::{Context, Failure, Operation, Spoke};
use futures::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `shop.price` takes.
#[derive(Deserialize, JsonSchema)]
struct Article {
    /// Its number.
    number: u32,
}

/// What `shop.price` gives.
#[derive(Serialize, JsonSchema)]
struct Price {
    /// In cents.
    cents: u32,
}

/// Details of the error `SOLD_OUT`.
#[derive(Serialize, JsonSchema)]
struct SoldOut {
    /// When there is more.
    days: u32,
}

async fn price(article: Article) -> Result<Price, Failure> {
    Ok(Price {
        cents: 100 * article.number,
    })
}

async fn buy(article: Article, context: Context) -> Result<String, Failure> {
    if article.number > 100 {
        return Err(Failure::new("SOLD_OUT", "there is none left").details(&SoldOut { days: 3 }));
    }
    Ok(format!("bought {} in call {}", article.number, context.request_id()))
}

/// Counts down, one number at a time.
fn countdown(from: u32) -> impl Stream<Item = Result<u32, Failure>> {
    async_stream::stream! {
        for left in (0..=from).rev() {
            yield Ok(left);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "http://127.0.0.1:7420".to_owned());
    let mut spoke = Spoke::builder(url)
        .name("shop")
        .concurrency(16)
        .operation(Operation::query("shop.price", price).description("What an article costs"))
        .operation(
            Operation::mutation("shop.buy", buy)
                .description("Buys an article")
                .error::<SoldOut>("SOLD_OUT", "There is none left", Some(409)),
        )
        .operation(Operation::subscription("shop.countdown", countdown).description("Counts down to 0"));
    if let Some(key_file) = arguments.next() {
        spoke = spoke.token(std::fs::read_to_string(key_file)?);
    }
    let spoke = spoke.start().await?;
    eprintln!("offering shop.price, shop.buy and shop.countdown; Ctrl-C ends");
    tokio::signal::ctrl_c().await?;
    spoke.shutdown().await;
    Ok(())
}
