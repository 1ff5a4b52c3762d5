//! The command line: one file a command, in the order in which `ringmain --help` lists them.

#![expect(dead_code, reason = "the commands that talk to a broker come with the client crate")]

mod args;
mod completions;
mod demo;
mod output;

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

pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Completions { shell } => completions::print(shell),
        _ => Err(Failure::Told("later".to_owned())),
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

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Unread } else { Self::told(error) }
    }
}
