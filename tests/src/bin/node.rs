//! The `ringmain` program itself, built where the tests find it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringmain_core::cli::run()
}
