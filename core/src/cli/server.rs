//! `ringmain server`: runs a node until it is told to stop.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::thread;

use ringmain_core::config::{Address, Config};
use ringmain_core::formation::{State, StopFlag};
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
    advertise: String,
    nodes: Vec<String>,
    shards: Option<u32>,
    spin: bool,
}

/// Said once, when every shard listens.
#[derive(Serialize)]
struct Serving {
    node: u32,
    cluster: String,
    /// Those that the cluster was formed from.
    nodes: Vec<u32>,
    shards: Vec<String>,
}

pub(super) fn run(options: Server) -> Result<(), Failure> {
    let (check_config, output) = (options.check_config, options.output);
    let config = configuration(options)?;
    if check_config {
        return understood(output, &config);
    }
    let (waiting, stopper) = (StopFlag::default(), Arc::new(OnceLock::new()));
    let signals = Signals::new([SIGINT, SIGTERM])?;
    let (ended, told) = (waiting.clone(), Arc::clone(&stopper));
    thread::spawn(move || stop_on_signal(signals, &ended, &told));
    let Some(broker) = Broker::start_unless(&waiting, &config)? else {
        eprintln!("stopped");
        return Ok(());
    };
    let first = stopper.set(broker.stopper()).is_ok();
    assert!(first, "a server starts one broker");
    serving(output, &broker)?;
    broker.join()?;
    eprintln!("stopped");
    Ok(())
}

/// The first signal stops in good order, unless there is nothing to put in order yet: a node that still reads its log has
/// promised nothing. One that waits for other nodes just ends. The second signal stops at once.
fn stop_on_signal(mut signals: Signals, waiting: &StopFlag, stopper: &OnceLock<Stopper>) {
    let mut signals = signals.forever();
    if signals.next().is_some() {
        if let Some(stopper) = stopper.get() {
            eprintln!("stopping: what was admitted is being finished; a second signal stops at once");
            stopper.stop();
            signals.next();
        } else if waiting.stop() {
            signals.next();
        }
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
    config.advertise_among(options.advertise, options.peers).map_err(Failure::told)?;
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
        advertise: config.advertise.to_string(),
        nodes: if config.peers.is_empty() { Vec::new() } else { listed(config) },
        shards: config.shards,
        spin: config.spin,
    };
    match output {
        Format::Json => print_json(&understood),
        Format::Text => print_text(&page(&understood)),
    }
}

fn listed(config: &Config) -> Vec<String> {
    config.nodes().iter().map(ToString::to_string).collect()
}

fn page(understood: &Understood<'_>) -> String {
    let shards = understood
        .shards
        .map_or_else(|| "as the data directory has, or one a core".to_owned(), |n| n.to_string());
    let advertise =
        if understood.advertise.is_empty() { "the host that was dialled" } else { &understood.advertise };
    let nodes =
        if understood.nodes.is_empty() { "this one alone".to_owned() } else { understood.nodes.join(", ") };
    let mut text = "the configuration is good\n\n".to_owned();
    for (name, value) in [
        ("node", understood.node.to_string()),
        ("data", understood.data.to_owned()),
        ("listen", understood.listen.clone()),
        ("advertise", advertise.to_owned()),
        ("nodes", nodes),
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
    let nodes: Vec<u32> = identity.founders.iter().map(|founder| founder.node).collect();
    match output {
        Format::Json => {
            let shards = addresses.iter().map(Address::to_string).collect();
            print_json(&Serving { node: identity.node, cluster, nodes, shards })
        }
        Format::Text => {
            let shards = addresses.len();
            let plural = if shards == 1 { "" } else { "s" };
            let verb = if identity.state == State::Joining { "listens" } else { "serves" };
            eprintln!(
                "node {} of cluster {cluster}{} {verb} on {} ({shards} shard{plural})",
                identity.node,
                company(&nodes),
                span(addresses)
            );
            Ok(())
        }
    }
}

/// The nodes that the cluster was formed from, unless it is this one alone.
fn company(nodes: &[u32]) -> String {
    let nodes: Vec<String> = nodes.iter().map(u32::to_string).collect();
    if nodes.len() > 1 { format!(" (nodes {})", nodes.join(", ")) } else { String::new() }
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
    fn company_is_named_where_there_is_some() {
        assert_eq!(company(&[1]), "");
        assert_eq!(company(&[1, 2, 3]), " (nodes 1, 2, 3)");
    }

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
