//! What can be said on the command line. Parsing refuses with exit code 2 and a usage line; whatever is refused later is
//! exit code 1.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringmain_core::config::{Address, Advertised, Bytes, NODES_MAX, Peer, Period};

/// The longest demo. Its ledger remembers every message to find duplicates: 3,600 s × 3,000/s × 24 B = 260 MB.
const DEMO_SECONDS_MAX: u64 = 3_600;

#[derive(Parser)]
#[command(
    name = "ringmain",
    version,
    about = "A durable priority message queue.",
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 usage. Results go to stdout, logs and progress to stderr.",
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Watch a cluster carry this host's telemetry, lose its leader halfway, and lose nothing
    Demo(Demo),
    /// Run a node
    Server(Server),
    /// Create, show, list, delete and purge queues
    Queue(Queue),
    /// Publish messages, one a line
    Publish(Publish),
    /// Take messages from a queue
    Consume(Consume),
    /// Look at a cluster, and change it
    Cluster(Cluster),
    /// Check or print the log of a stopped node
    #[command(subcommand)]
    Wal(Wal),
    /// Print the completions of a shell
    Completions { shell: clap_complete::Shell },
}

/// How results are printed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs: JSON on stdout, and nothing else there
    Json,
}

#[derive(Args)]
pub(crate) struct Connect {
    /// Any shards of the cluster
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:7411",
        global = true
    )]
    pub(crate) connect: Vec<Address>,
    /// How results are printed
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    pub(crate) output: Format,
}

#[derive(Args)]
pub(crate) struct Demo {
    /// How long messages are produced
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=DEMO_SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// Nodes of the cluster; with fewer than three it stands still while one is away
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=NODES_MAX as i64))]
    pub(crate) nodes: u32,
    /// Shards of each node; default: as the cores of this machine allow
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) shards: Option<u32>,
    /// Keep the broker's data in this directory, which must be empty or an earlier demo's; default: a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// How the verdict is printed
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}

#[derive(Args)]
pub(crate) struct Server {
    /// Read everything from this TOML file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["node", "data", "listen", "advertise", "peers", "shards", "spin"])]
    pub(crate) config: Option<PathBuf>,
    /// This node's number in the cluster, from 1
    #[arg(long, value_name = "ID", required_unless_present = "config")]
    pub(crate) node: Option<u32>,
    /// The directory of everything the node must not forget
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    pub(crate) data: Option<PathBuf>,
    /// The address of the first shard; the others take the ports after it
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "config")]
    pub(crate) listen: Option<Address>,
    /// Where clients and the other nodes reach the first shard, if that is not where it listens: in a container, say
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) advertise: Option<Advertised>,
    /// The nodes of the cluster, the same on each of them; this one may be left out if the others dial where it listens
    #[arg(long, value_name = "ID=HOST:PORT", value_delimiter = ',')]
    pub(crate) peers: Vec<Peer>,
    /// Pinned threads; default: as many as the data directory has, or one for every core when it is new
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<u32>,
    /// Poll without sleeping: lower latency, a whole core for every shard
    #[arg(long)]
    pub(crate) spin: bool,
    /// Say whether the configuration is good, and start nothing
    #[arg(long)]
    pub(crate) check_config: bool,
    /// How the addresses are printed once the node serves
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}

#[derive(Args)]
pub(crate) struct Queue {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(subcommand)]
    pub(crate) action: QueueAction,
}

#[derive(Subcommand)]
pub(crate) enum QueueAction {
    /// Create a queue; the same settings twice are no error
    Create {
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Show the settings and the exact counts of a queue
    Show { name: String },
    /// List all queues
    List,
    /// Delete a queue and everything in it
    Delete { name: String },
    /// Delete every ready message of a queue
    Purge { name: String },
}

#[derive(Args)]
pub(crate) struct Settings {
    /// Priority levels; a higher number is served first
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) priorities: u16,
    /// Messages that the queue may hold; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_length: u64,
    /// Bytes that the queue may hold; 0: no limit
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub(crate) max_bytes: Bytes,
    /// What happens to a message that does not fit
    #[arg(long, value_name = "POLICY", default_value = "reject")]
    pub(crate) overflow: Overflow,
    /// How long a message waits before it expires; default: for ever
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Period>,
    /// How long a consumer may hold a message before it returns to the queue
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub(crate) lease: Period,
    /// Deliveries of one message before it is given up; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_deliveries: u32,
    /// The queue that takes what is given up
    #[arg(long, value_name = "QUEUE", default_value = "")]
    pub(crate) dead_letter: String,
    /// Where a message must be before its publish is acknowledged
    #[arg(long, value_name = "WHERE", default_value = "quorum-disk")]
    pub(crate) durability: Durability,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Overflow {
    /// It is refused
    Reject,
    /// The oldest message of the lowest priority makes room
    DropOldest,
    /// It goes to the dead-letter queue
    DeadLetter,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// On the disks of a majority
    QuorumDisk,
    /// In the memory of a majority
    QuorumMemory,
}

#[derive(Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    pub(crate) connect: Connect,
    pub(crate) queue: String,
    /// One message a line; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    /// The priority of every message; a higher number is served first
    #[arg(long, value_name = "P", default_value_t = 0)]
    pub(crate) priority: u8,
    /// How long a message waits before it expires
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Period>,
    /// How long a message is held back
    #[arg(long, value_name = "DURATION")]
    pub(crate) delay: Option<Period>,
    /// The key of every message
    #[arg(long, value_name = "K", default_value = "")]
    pub(crate) key: String,
    /// A header of every message; may be given again
    #[arg(long, value_name = "K=V", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
}

#[derive(Args)]
pub(crate) struct Consume {
    #[command(flatten)]
    pub(crate) connect: Connect,
    pub(crate) queue: String,
    /// Stop after this many messages; default: when the queue is empty
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Wait for more messages when the queue is empty
    #[arg(long)]
    pub(crate) follow: bool,
    /// Leave the messages in the queue: they return to it at the end
    #[arg(long)]
    pub(crate) no_ack: bool,
}

#[derive(Args)]
pub(crate) struct Cluster {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(subcommand)]
    pub(crate) action: ClusterAction,
}

#[derive(Subcommand)]
pub(crate) enum ClusterAction {
    /// Show who leads what, and how far every node is
    Status {
        /// A line for each group, however many there are
        #[arg(long)]
        groups: bool,
    },
    /// Make a node the leader of a group
    Transfer {
        #[arg(value_name = "GROUP")]
        group: u32,
        #[arg(value_name = "NODE")]
        node: u32,
    },
    /// Add a node, which runs already and waits for it, to every group
    Add {
        #[arg(value_name = "NODE=HOST:PORT")]
        node: Peer,
    },
    /// Take a node out of every group
    Remove {
        #[arg(value_name = "NODE")]
        node: u32,
    },
}

#[derive(Subcommand)]
pub(crate) enum Wal {
    /// Read everything and say, segment by segment, what is whole, torn or rotten
    Verify {
        /// A data directory, or one shard's directory in it
        directory: PathBuf,
        /// How the report is printed
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        output: Format,
    },
    /// Print every record, a line each
    Dump {
        /// A data directory, or one shard's directory in it
        directory: PathBuf,
    },
}

fn header(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = split.ok_or_else(|| format!("`{text}` is no header: write KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn usage_errors_have_exit_code_two() {
        for line in [
            "ringmain",
            "ringmain sing",
            "ringmain server",
            "ringmain server --node 1 --data d",
            "ringmain server --config f --node 1",
            "ringmain queue create",
            "ringmain queue create q --priorities 257",
            "ringmain queue create q --max-bytes many",
            "ringmain publish",
            "ringmain publish q --header colour",
            "ringmain publish q --ttl 5",
            "ringmain consume q --count 0",
            "ringmain demo --seconds 1",
            "ringmain cluster add 1",
            "ringmain cluster transfer 3",
            "ringmain demo --nodes 8",
            "ringmain queue list --connect nowhere",
        ] {
            assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }

    #[test]
    fn the_documented_commands_are_understood() {
        for line in [
            "ringmain demo --seconds 20 --nodes 3 --output json",
            "ringmain server --config f --check-config",
            "ringmain server --node 1 --data d --listen [::]:7411 --peers 1=g:7411,2=h:7411,3=i:7411 --shards 4 --spin",
            "ringmain queue create q --priorities 3 --max-length 9 --max-bytes 64MiB --overflow drop-oldest --ttl 1h",
            "ringmain queue create q --lease 5m --max-deliveries 3 --dead-letter d --durability quorum-memory",
            "ringmain queue --connect h:1,i:2 list --output json",
            "ringmain queue list --connect h:1,i:2",
            "ringmain publish q --file f --priority 9 --ttl 1s --delay 1s --key k --header a=b --header c=d",
            "ringmain consume q --count 5 --follow --no-ack --output json",
            "ringmain cluster status --groups --output json",
            "ringmain cluster transfer 3 2",
            "ringmain cluster add 4=h:7411",
            "ringmain cluster remove 4 --connect h:1",
            "ringmain wal verify d --output json",
            "ringmain completions zsh",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn addresses_are_split_at_commas() {
        let Ok(Arguments { command: Command::Queue(queue) }) = parse("ringmain queue list --connect h:1,i:2")
        else {
            panic!("the line is well formed");
        };
        let hosts: Vec<_> = queue.connect.connect.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["h:1", "i:2"]);
    }
}
