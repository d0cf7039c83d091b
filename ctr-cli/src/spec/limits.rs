//! The options of `run` and `containers create` that say how much of the machine a container may use.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

/// How long a period of the processor's scheduler is if it is not given, in microseconds.
const PERIOD: u64 = 100_000;

/// The heading of these options.
const HEADING: &str = "Limits";

/// What the user allows a container to use.
#[derive(Debug, Clone, Default, Args)]
pub struct Limits {
    /// Most memory, in bytes or with a unit, as 64m or 2g
    #[arg(long, help_heading = HEADING, value_name = "BYTES", value_parser = parse_bytes)]
    pub memory_limit: Option<u64>,
    /// Most processors, as 1.5
    #[arg(long, help_heading = HEADING, value_name = "NUMBER", conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub cpus: Option<f64>,
    /// Share of the processors among containers that want more than there are [default: 1024]
    #[arg(long, help_heading = HEADING, value_name = "NUMBER")]
    pub cpu_shares: Option<u64>,
    /// Most processor time in a period, in microseconds; -1 is no limit
    #[arg(long, help_heading = HEADING, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Length of a period, in microseconds
    #[arg(long, help_heading = HEADING, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Processor time that may be saved up for later periods, in microseconds
    #[arg(long, help_heading = HEADING, value_name = "MICROSECONDS")]
    pub cpu_burst: Option<u64>,
    /// Processors to run on, as 0-2,4
    #[arg(long, help_heading = HEADING, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use, as 0-1
    #[arg(long, help_heading = HEADING, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Most open files of each process [default: 1024]
    #[arg(long, help_heading = HEADING, value_name = "SOFT[:HARD]", value_parser = parse_rlimit)]
    pub rlimit_nofile: Option<(u64, u64)>,
}

impl Limits {
    /// Puts the limits into `spec`.
    pub fn apply(&self, spec: &mut Value) -> Result<()> {
        let resources = &mut spec["linux"]["resources"];
        if let Some(limit) = self.memory_limit {
            resources["memory"]["limit"] = json!(limit);
        }
        let mut quota = self.cpu_quota;
        if let Some(cpus) = self.cpus {
            let all = (cpus * PERIOD as f64) as i64;
            if !cpus.is_finite() || all < 1000 {
                bail!("--cpus {cpus} is less than a hundredth of a processor");
            }
            quota = Some(all);
        }
        if let Some(quota) = quota {
            resources["cpu"]["quota"] = json!(quota);
        }
        if quota.is_some() || self.cpu_period.is_some() {
            resources["cpu"]["period"] = json!(self.cpu_period.unwrap_or(PERIOD));
        }
        for (name, value) in [("shares", self.cpu_shares), ("burst", self.cpu_burst)] {
            if let Some(value) = value {
                resources["cpu"][name] = json!(value);
            }
        }
        for (name, list) in [("cpus", &self.cpuset_cpus), ("mems", &self.cpuset_mems)] {
            if let Some(list) = list {
                resources["cpu"][name] = json!(list);
            }
        }
        if let Some((soft, hard)) = self.rlimit_nofile {
            let limit = json!({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard});
            spec["process"]["rlimits"] = json!([limit]);
        }
        Ok(())
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_lowercase();
    let number = lower.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let scale: u64 = match &lower[number.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        unit => return Err(format!("{unit:?} is none of k, m, g")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "not a number of bytes".to_owned())?;
    number
        .checked_mul(scale)
        .ok_or_else(|| "too many bytes".into())
}

/// Reads `SOFT:HARD`, or one number for both.
fn parse_rlimit(text: &str) -> Result<(u64, u64), String> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{text:?} is not a number of files"))
    };
    match (number(soft)?, number(hard)?) {
        (soft, hard) if soft > hard => Err("the soft limit is above the hard one".into()),
        limits => Ok(limits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_lands_where_the_runtime_reads_it() {
        let limits = Limits {
            memory_limit: Some(64 << 20),
            cpus: Some(1.5),
            cpu_shares: Some(7),
            cpuset_cpus: Some("0-1".into()),
            rlimit_nofile: Some((5, 6)),
            ..Limits::default()
        };
        let mut spec = json!({});
        limits.apply(&mut spec).unwrap();
        let resources = &spec["linux"]["resources"];
        assert_eq!(resources["memory"], json!({"limit": 64 << 20}));
        let cpu = json!({"quota": 150_000, "period": 100_000, "shares": 7, "cpus": "0-1"});
        assert_eq!(resources["cpu"], cpu);
        let limit = json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]);
        assert_eq!(spec["process"]["rlimits"], limit);
        for cpus in [0.001, f64::NAN, -1.0] {
            let limits = Limits {
                cpus: Some(cpus),
                ..Limits::default()
            };
            assert!(limits.apply(&mut json!({})).is_err(), "{cpus}");
        }
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(parse_bytes("64m"), Ok(64 << 20));
        assert_eq!(parse_bytes("1024"), Ok(1024));
        assert!(
            parse_bytes("1x").is_err()
                && parse_bytes("").is_err()
                && parse_bytes("99999999999999999999").is_err()
        );
    }

    #[test]
    fn files_have_a_soft_and_a_hard_limit() {
        assert_eq!(parse_rlimit("10:20"), Ok((10, 20)));
        assert_eq!(parse_rlimit("10"), Ok((10, 10)));
        for wrong in ["", "a", "20:10", "1:2:3"] {
            assert!(parse_rlimit(wrong).is_err(), "{wrong}");
        }
    }
}
