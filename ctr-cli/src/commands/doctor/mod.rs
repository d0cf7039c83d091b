//! `corten doctor`: what of this machine keeps containers from running well, and what to do about it.
//!
//! Nothing is changed. The daemon need not run; if it does, it is asked for its version.

mod kernel;
mod limits;
mod places;
mod remains;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::output::{print_json, print_line};
use crate::client::Client;
use crate::table::printable;

/// How bad a finding is; the program's exit code is that of the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Good to know.
    Note,
    /// Some containers, or many at once, will not work.
    Warning,
    /// No container works.
    Failure,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }

    /// 1 is a failure of the program itself, and 2 a wrong command line.
    fn exit_code(self) -> u8 {
        match self {
            Self::Fine | Self::Note => 0,
            Self::Warning => 3,
            Self::Failure => 4,
        }
    }
}

/// What was looked at, how it is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    severity: Severity,
    /// Which part of the machine it is of.
    area: &'static str,
    what: String,
    /// Empty if nothing is to be done.
    advice: String,
}

impl Finding {
    fn fine(area: &'static str, what: impl Into<String>) -> Self {
        Self::new(Severity::Fine, area, what, "")
    }

    fn new(
        severity: Severity,
        area: &'static str,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            area,
            what: what.into(),
            advice: advice.into(),
        }
    }
}

/// Check this machine: kernel, limits, folders, and what is left of containers
///
/// Says of each finding what to do. Changes nothing, and needs no daemon; as root it sees more.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten doctor
  corten doctor --all --json

The exit code is 0 if all is well, 3 if something is worth a look (warning), and 4 if containers cannot run (failure).")]
pub struct Options {
    /// Show what is as it should be, too
    #[arg(long)]
    all: bool,
    /// The daemon's root
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/corten")]
    root: PathBuf,
    /// The daemon's state
    #[arg(long, value_name = "FOLDER", default_value = "/run/corten")]
    state: PathBuf,
}

/// Prints the findings and returns the exit code.
pub async fn run(options: &Options, address: &str, json: bool) -> Result<u8> {
    let socket = PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
    let mut findings = kernel::findings();
    findings.extend(limits::findings());
    findings.extend(places::findings(&options.root, &options.state, &socket));
    findings.push(daemon(address).await);
    findings.extend(remains::findings(&options.state, &socket));
    let worst = findings.iter().map(|finding| finding.severity).max();
    let worst = worst.unwrap_or(Severity::Fine);
    if json {
        let list: Vec<_> = findings.iter().map(value).collect();
        print_json(&list.into())?;
    } else {
        print(&findings, options.all)?;
    }
    Ok(worst.exit_code())
}

/// Asks the daemon for its version.
async fn daemon(address: &str) -> Finding {
    let limit = Some(std::time::Duration::from_secs(5));
    let asked = async {
        let client = Client::connect(address, "default", limit, limit).await?;
        anyhow::Ok(client.version().version(()).await?.into_inner().version)
    };
    match asked.await {
        Ok(version) => Finding::fine("daemon", format!("cortend {version} answers at {address}")),
        Err(error) => Finding::new(
            Severity::Note,
            "daemon",
            format!("no daemon answers: {error:#}"),
            "start it, as by `systemctl start cortend`, or say where it is by --address",
        ),
    }
}

fn value(finding: &Finding) -> serde_json::Value {
    json!({
        "severity": finding.severity.name(),
        "area": finding.area,
        "finding": finding.what,
        "advice": finding.advice,
    })
}

fn print(findings: &[Finding], all: bool) -> Result<()> {
    let shown = |finding: &&Finding| all || finding.severity > Severity::Fine;
    for finding in findings.iter().filter(shown) {
        let (severity, area) = (finding.severity.name(), finding.area);
        print_line(&format!(
            "{severity:<8} {area:<8} {}",
            printable(&finding.what)
        ))?;
        if !finding.advice.is_empty() {
            print_line(&format!("{:<18}→ {}", "", printable(&finding.advice)))?;
        }
    }
    let count = |severity| {
        findings
            .iter()
            .filter(|one| one.severity == severity)
            .count()
    };
    print_line(&format!(
        "{} looked at: {} failures, {} warnings, {} notes",
        findings.len(),
        count(Severity::Failure),
        count(Severity::Warning),
        count(Severity::Note)
    ))
}

/// Returns the trimmed text of a file of the kernel's, if it is there.
fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        let codes = [
            Severity::Fine,
            Severity::Note,
            Severity::Warning,
            Severity::Failure,
        ];
        assert!(codes.is_sorted());
        assert_eq!(codes.map(Severity::exit_code), [0, 0, 3, 4]);
    }
}
