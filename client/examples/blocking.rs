//! Publishes a few messages of different priorities and consumes them again, on one thread.
//!
//!     cargo run --release -p ringmain-client --example blocking -- 127.0.0.1:7411

use std::time::Duration;

use ringmain_client::blocking::Client;
use ringmain_client::{Error, Message, QueueSettings};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7411".to_owned());
    let client = Client::builder().agent("example-blocking").connect(&address)?;
    client.create_queue("example/orders", &QueueSettings { priorities: 4, ..QueueSettings::default() })?;

    let mut producer = client.producer("example/orders")?;
    for number in 0..8_u8 {
        let payload = format!("order {number}");
        let message = Message::new(&payload).priority(number % 4).key("ACME").header("source", "example")?;
        let receipt = producer.publish(&message, Duration::from_secs(5))?;
        println!("{payload}: durable at index {} after {:?}", receipt.index, receipt.round_trip);
    }

    // Highest priority first, and in order within a priority.
    let mut consumer = client.consumer("example/orders", 4)?;
    let mut consumed = 0;
    while consumed < 8 {
        let handled = consumer.poll(4, |delivery| {
            let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
            println!(
                "priority {}: {payload}, delivered {} times",
                delivery.priority(),
                delivery.deliveries()
            );
            delivery.ack();
        })?;
        consumed += handled;
        if handled == 0 {
            client.idle();
        }
    }
    client.close(Duration::from_secs(5))
}
