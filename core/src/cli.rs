//! The command line: one file a command, in the order in which `ringmain --help` lists them.

mod args;
mod broker;
mod cluster;
mod completions;
mod consume;
mod demo;
mod link;
mod output;
mod publish;
mod queue;
mod server;
mod wal;

use std::fmt;
use std::io;
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

/// Why a command ends without having done what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// One sentence for the person at the terminal.
    Told(String),
    /// The command has printed its result, and the result is bad.
    Judged,
    /// Whoever read our stdout has gone: there is nobody left to tell.
    Unread,
}

/// Does what the command line of this process says.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Demo(options) => demo::run(options),
        Command::Server(options) => server::run(options),
        Command::Queue(options) => queue::run(options),
        Command::Publish(options) => publish::run(options),
        Command::Consume(options) => consume::run(options),
        Command::Cluster(options) => cluster::run(options),
        Command::Wal(options) => wal::run(options),
        Command::Completions { shell } => completions::print(shell),
    };
    match result {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(Failure::Judged) => ExitCode::FAILURE,
        Err(Failure::Told(why)) => {
            eprintln!("ringmain: {why}");
            ExitCode::FAILURE
        }
    }
}

impl Failure {
    pub(crate) fn told(why: impl fmt::Display) -> Self {
        Self::Told(why.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(why) => formatter.write_str(why),
            Self::Judged => formatter.write_str("the result is bad"),
            Self::Unread => formatter.write_str("nobody reads the output"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Unread } else { Self::told(error) }
    }
}
