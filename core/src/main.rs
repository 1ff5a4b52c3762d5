//! The `ringmain` program. Everything it can do is listed in `cli::args`; a broker is `node`, and whatever talks to one
//! goes through the client crate like anybody else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringmain_core::cli::run()
}
