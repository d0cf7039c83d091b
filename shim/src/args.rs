//! The command line: flags as Go's flag package writes them, then what to do.

use std::path::PathBuf;

use sys::{Error, Kind, Result};

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Serve in a new process, and say where.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Print the version.
    Version,
    /// Print what the shim can do.
    Info,
    /// Nothing was asked for.
    #[default]
    None,
}

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pub action: Action,
    pub namespace: String,
    pub id: String,
    /// The daemon's socket.
    pub address: String,
    pub bundle: PathBuf,
    pub debug: bool,
}

impl Args {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut parsed = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix('-') else {
                parsed.action = match arg.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(invalid(format!("unknown command {arg:?}"))),
                };
                return Ok(parsed);
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let set = |value: &Option<String>| value.as_deref().is_none_or(|value| value == "true");
            match name {
                "v" => parsed.action = Action::Version,
                "info" => parsed.action = Action::Info,
                "debug" => parsed.debug = set(&value),
                _ => {
                    let value = value
                        .or_else(|| args.next())
                        .ok_or_else(|| invalid(format!("flag needs an argument: -{name}")))?;
                    parsed.set(name, value)?;
                }
            }
        }
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "bundle" => self.bundle = value.into(),
            // The program that published events before there was a socket for them, and where the shim listens, which
            // is the shim's to choose.
            "publish-binary" | "socket" => {}
            _ => {
                return Err(invalid(format!("flag provided but not defined: -{name}")));
            }
        }
        Ok(())
    }
}

fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_come_in_every_form_of_go() {
        let expected = Args {
            action: Action::Start,
            namespace: "ns1".into(),
            id: "c1".into(),
            address: "/a.sock".into(),
            bundle: "/b".into(),
            debug: true,
        };
        let lines = [
            "-namespace ns1 -address /a.sock -publish-binary /bin/x -id c1 -bundle /b -debug start",
            "--namespace=ns1 -address=/a.sock --id=c1 -bundle=/b -debug=true start",
        ];
        for line in lines {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("").unwrap().action, Action::None);
        for line in ["-nope x start", "-id", "stop"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
