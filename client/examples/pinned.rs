//! A publisher for the lowest latency: a thread pinned to a core of its own, polling without a pause.
//!
//!     cargo run --release -p ringmain-client --example pinned -- 127.0.0.1:7411 [CORE] [MESSAGES]

use std::time::Duration;

use ringmain_client::blocking::{Client, pin_to_core};
use ringmain_client::{Error, IdleStrategy, Message, QueueSettings};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7411".to_owned());
    // The last core, unless told otherwise: shards take theirs from the first on. On a shard's own core a thread that
    // polls without a pause would hold it up.
    let last = std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
    let core = arguments.next().and_then(|core| core.parse().ok()).unwrap_or(last);
    let count = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(10_000);

    pin_to_core(core)?;
    let client = Client::builder().agent("example-pinned").idle(IdleStrategy::Spin).connect(&address)?;
    client.create_queue("example/pinned", &QueueSettings::default())?;
    let mut producer = client.producer("example/pinned")?;

    let payload = [7; 256];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let receipt = producer.publish(&Message::new(&payload), Duration::from_secs(5))?;
        times.push((receipt.round_trip, receipt.waited, receipt.durable));
    }
    times.sort_unstable();
    for (name, permille) in [("p50", 500), ("p99", 990), ("p99.9", 999)] {
        let (round_trip, waited, durable) = times[(count - 1) * permille / 1000];
        println!("{name}: {round_trip:?}, of which in the shard {waited:?} waiting and {durable:?} to disk");
    }
    let removed = client.purge_queue("example/pinned")?;
    println!("{removed} messages removed again");
    client.close(Duration::from_secs(5))
}
