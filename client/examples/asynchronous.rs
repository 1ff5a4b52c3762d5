//! Publishes and consumes concurrently, without any async runtime.
//!
//!     cargo run --release -p ringmain-client --example asynchronous -- 127.0.0.1:7411

use std::time::Duration;

use futures_lite::future::{block_on, try_zip};
use ringmain_client::asynchronous::{Client, Consumer, Producer};
use ringmain_client::{Error, Message, QueueSettings};

const MESSAGES: usize = 1000;

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7411".to_owned());
    block_on(async {
        let client = Client::builder().agent("example-asynchronous").connect(&address).await?;
        client.create_queue("example/ticks", &QueueSettings::default()).await?;
        let producer = client.producer("example/ticks").await?;
        let consumer = client.consumer("example/ticks", 64).await?;
        try_zip(publish(producer), consume(consumer)).await?;
        client.close(Duration::from_secs(5)).await
    })
}

/// Many publishes in flight, in order; their receipts afterwards.
async fn publish(producer: Producer) -> Result<(), Error> {
    let mut pending = Vec::new();
    for number in 0..MESSAGES {
        pending.push(producer.enqueue(Message::owned(format!("tick {number}"))).await?);
    }
    let mut slowest = Duration::ZERO;
    for receipt in pending {
        slowest = slowest.max(receipt.await?.round_trip);
    }
    println!("{MESSAGES} messages are durable; the slowest took {slowest:?}");
    Ok(())
}

async fn consume(mut consumer: Consumer) -> Result<(), Error> {
    for _ in 0..MESSAGES {
        let delivery = consumer.next().await?;
        delivery.ack_soon().await?;
    }
    println!("{MESSAGES} messages are consumed");
    Ok(())
}
