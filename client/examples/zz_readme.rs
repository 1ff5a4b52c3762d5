use ringmain_client::{Message, QueueSettings, blocking::Client};
use std::time::Duration;
fn main() -> Result<(), ringmain_client::Error> {
    let client = Client::builder().connect("127.0.0.1:7411")?;
    client.create_queue("orders", &QueueSettings { priorities: 10, ..QueueSettings::default() })?;
    let mut producer = client.producer("orders")?;
    let receipt = producer.publish(&Message::new("buy 100").priority(9), Duration::from_secs(1))?;
    println!("on disk at index {} after {:?}", receipt.index, receipt.round_trip);
    let mut consumer = client.consumer("orders", 64)?;
    while consumer.poll(64, |delivery| delivery.ack())? == 0 {
        client.idle();
    }
    client.close(Duration::from_secs(5))?;
    Ok(())
}
