//! `corten`: reads the command line, runs one command, prints a failure as one line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use ctr_cli::attach::Interrupted;
use ctr_cli::cli::Cli;

/// The exit code is the container's for `run` and `tasks exec`, 1 for a failure, 2 for a wrong command line, and 128 and
/// the signal for a start that was interrupted.
fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("corten: start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli.run());
    // A thread may still wait for a key: it ends with the process.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corten: {error:#}");
            let interrupted = error.downcast_ref::<Interrupted>();
            interrupted.map_or(ExitCode::FAILURE, |signal| signal.exit_code().into())
        }
    }
}

/// Whoever reads our output may stop reading, as `corten images list | head` does; that is no failure.
fn broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
