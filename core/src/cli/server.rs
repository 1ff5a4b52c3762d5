//! `ringmain server`: runs a node until it is told to stop.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::thread;

use ringmain_core::config::{Address, Config};
use ringmain_core::node::Stopper;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use super::args::{Format, Server};
use super::broker::Broker;
use super::output::{print_json, print_text};

/// What `--check-config` has understood.
#[derive(Serialize)]
struct Understood<'a> {
    ok: bool,
    node: u32,
    data: &'a str,
    listen: String,
    advertise: &'a str,
    peers: Vec<String>,
    shards: Option<u32>,
    spin: bool,
}

/// Said once, when every shard listens.
#[derive(Serialize)]
struct Serving {
    node: u32,
    cluster: String,
    shards: Vec<String>,
}

pub(super) fn run(options: Server) -> Result<(), Failure> {
    let (check_config, output) = (options.check_config, options.output);
    let config = configuration(options)?;
    if check_config {
        return understood(output, &config);
    }
    if !config.peers.is_empty() {
        return Err(Failure::told(
            "peers are not supported yet: a node serves alone until there is replication",
        ));
    }
    let stopper = Arc::new(OnceLock::new());
    let signals = Signals::new([SIGINT, SIGTERM])?;
    let told = Arc::clone(&stopper);
    thread::spawn(move || stop_on_signal(signals, &told));
    let broker = Broker::start(&config)?;
    let first = stopper.set(broker.stopper()).is_ok();
    assert!(first, "a server starts one broker");
    serving(output, &broker)?;
    broker.join()?;
    eprintln!("stopped");
    Ok(())
}

/// The first signal stops in good order, unless there is nothing to put in order yet: a node that still reads its log has
/// promised nothing. The second one stops at once.
fn stop_on_signal(mut signals: Signals, stopper: &OnceLock<Stopper>) {
    let mut signals = signals.forever();
    if let (Some(_), Some(stopper)) = (signals.next(), stopper.get()) {
        eprintln!("stopping: what was admitted is being finished; a second signal stops at once");
        stopper.stop();
        signals.next();
    }
    eprintln!("stopped at once");
    std::process::exit(1);
}

fn configuration(options: Server) -> Result<Config, Failure> {
    if let Some(path) = options.config {
        return Config::load(&path).map_err(Failure::told);
    }
    let given = "clap asks for --node, --data and --listen where there is no --config";
    let (node, data) = (options.node.expect(given), options.data.expect(given));
    let mut config = Config::new(node, data, options.listen.expect(given));
    config.list_nodes(options.peers).map_err(Failure::told)?;
    config.shards = options.shards;
    config.spin = options.spin;
    config.checked().map_err(Failure::told)
}

fn understood(output: Format, config: &Config) -> Result<(), Failure> {
    let data = config.data.to_string_lossy();
    let understood = Understood {
        ok: true,
        node: config.node,
        data: &data,
        listen: config.listen.to_string(),
        advertise: &config.advertise,
        peers: config.peers.iter().map(|peer| format!("{}={}", peer.node, peer.address)).collect(),
        shards: config.shards,
        spin: config.spin,
    };
    match output {
        Format::Json => print_json(&understood),
        Format::Text => print_text(&page(&understood)),
    }
}

fn page(understood: &Understood<'_>) -> String {
    let shards = understood
        .shards
        .map_or_else(|| "as the data directory has, or one a core".to_owned(), |n| n.to_string());
    let advertise =
        if understood.advertise.is_empty() { "the host that was dialled" } else { understood.advertise };
    let peers = if understood.peers.is_empty() { "none".to_owned() } else { understood.peers.join(", ") };
    let mut text = "the configuration is good\n\n".to_owned();
    for (name, value) in [
        ("node", understood.node.to_string()),
        ("data", understood.data.to_owned()),
        ("listen", understood.listen.clone()),
        ("advertise", advertise.to_owned()),
        ("peers", peers),
        ("shards", shards),
        ("spin", if understood.spin { "yes".to_owned() } else { "no".to_owned() }),
    ] {
        writeln!(text, "  {name:<10}  {value}").expect("a String takes everything");
    }
    text
}

fn serving(output: Format, broker: &Broker) -> Result<(), Failure> {
    let addresses = broker.addresses();
    let identity = broker.identity();
    let cluster = format!("{:#018x}", identity.cluster);
    match output {
        Format::Json => {
            let shards = addresses.iter().map(Address::to_string).collect();
            print_json(&Serving { node: identity.node, cluster, shards })
        }
        Format::Text => {
            let shards = addresses.len();
            let plural = if shards == 1 { "" } else { "s" };
            eprintln!(
                "node {} of cluster {cluster} serves on {} ({shards} shard{plural})",
                identity.node,
                span(addresses)
            );
            Ok(())
        }
    }
}

/// The addresses of the shards, which are one host and a run of ports unless the system chose them.
fn span(addresses: &[Address]) -> String {
    let [first, .., last] = addresses else {
        return addresses.iter().map(Address::to_string).collect();
    };
    let run = addresses.windows(2).all(|pair| u32::from(pair[0].port) + 1 == u32::from(pair[1].port));
    if run {
        format!("{first} to {}", last.port)
    } else {
        addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_as_a_run_of_ports() {
        for (ports, told) in [
            (&[7411][..], "h:7411"),
            (&[7411, 7412, 7413], "h:7411 to 7413"),
            (&[7411, 9000], "h:7411, h:9000"),
        ] {
            let address = |port: &u16| Address { host: "h".to_owned(), port: *port };
            assert_eq!(span(&ports.iter().map(address).collect::<Vec<_>>()), told);
        }
    }
}
