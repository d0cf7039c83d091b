//! `corten trace run`: where the time of a start goes.
//!
//! Each call that the run makes is noted, and the daemon says what it did in it. Nobody pays for this who does not ask.

mod svg;
mod waterfall;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::print_json;
use super::run;
use crate::cli::Session;
use crate::trace::{Recorder, Span};

/// The call by whose end the command in the container runs.
const STARTED: &str = "Tasks/Start";

/// What can be traced.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Box<Options>),
}

/// Run a command in a new container, and show where the time until its start went
///
/// Takes what `corten run` takes. When the command has ended, standard error gets a line for each call to the daemon, and
/// below it one for each thing that the daemon did for it; with --json, standard output gets them as JSON. Other daemons
/// than cortend do not say what they do.
#[derive(Debug, Args)]
#[group(skip)]
#[command(override_usage = "corten trace run [OPTIONS] <IMAGE> <ID> [COMMAND]...
       corten trace run [OPTIONS] --config <FILE> <ID>")]
#[command(after_long_help = "Examples:
  corten trace run --rm docker.io/library/debian:12 try true
  corten trace run --rm --svg start.svg docker.io/library/debian:12 try true")]
pub struct Options {
    /// Draw it as an SVG in this file, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    run: run::Options,
}

/// Runs what is to be traced, prints where its time went, and returns the container's exit code.
pub async fn run(session: &Session, command: Command) -> Result<u8> {
    let Command::Run(options) = command;
    let recorder = Recorder::begin();
    let traced = Session {
        client: session.client.recorded(recorder.clone()),
        fifo_dir: session.fifo_dir.clone(),
        json: session.json,
    };
    let code = run::run(&traced, options.run).await?;
    let calls = until_started(recorder.calls());
    if let Some(path) = &options.svg {
        std::fs::write(path, svg::draw(&calls))
            .with_context(|| format!("write {}", path.display()))?;
    }
    match session.json {
        true => print_json(&calls.iter().map(value).collect::<Vec<_>>().into())?,
        false => eprint!("{}", waterfall::draw(&calls)),
    }
    Ok(code)
}

/// Leaves the calls that a start is made of: what is waited for, and cleaned up, comes later.
fn until_started(mut calls: Vec<Span>) -> Vec<Span> {
    if let Some(start) = calls.iter().find(|call| call.name == STARTED) {
        let end = start.began + start.took;
        calls.retain(|call| call.began + call.took <= end);
    }
    calls
}

/// Returns when the last call has ended.
fn end(calls: &[Span]) -> Duration {
    let ends = calls.iter().map(|call| call.began + call.took);
    ends.max().unwrap_or_default()
}

/// Returns a call and what is in it, one after the other, with how deep they are.
fn rows(calls: &[Span]) -> impl Iterator<Item = (usize, &Span)> {
    calls.iter().flat_map(|call| {
        let inside = call.inside.iter().map(|span| (1, span));
        std::iter::once((0, call)).chain(inside)
    })
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

fn value(span: &Span) -> Value {
    json!({
        "name": span.name,
        "began_ms": millis(span.began),
        "took_ms": millis(span.took),
        "inside": span.inside.iter().map(value).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a span in milliseconds.
    pub fn span(name: &str, began: u64, took: u64, inside: Vec<Span>) -> Span {
        Span {
            name: name.into(),
            began: Duration::from_millis(began),
            took: Duration::from_millis(took),
            inside,
        }
    }

    #[test]
    fn a_start_ends_when_the_command_runs() {
        let calls = vec![
            span("Images/Get", 0, 5, Vec::new()),
            span("Tasks/Wait", 10, 500, Vec::new()),
            span(STARTED, 12, 8, Vec::new()),
            span("Tasks/Delete", 520, 4, Vec::new()),
        ];
        let left = until_started(calls.clone());
        let names: Vec<&str> = left.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["Images/Get", STARTED]);
        assert_eq!(end(&left), Duration::from_millis(20));
        assert_eq!(until_started(calls[..2].to_vec()).len(), 2);
        assert_eq!(end(&[]), Duration::ZERO);
    }
}
