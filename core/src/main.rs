//! The `ringmain` program. Everything it can do is listed in `cli::args`; a broker is `ringmain_core::runtime`, and whatever
//! talks to one goes through the client crate like anybody else.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
