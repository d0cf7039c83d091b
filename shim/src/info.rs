//! `-info`: what the shim is, for daemons that ask before they use it.

use std::io::{Read, Write};

use api_protos::containerd::types::{RuntimeInfo, RuntimeVersion};
use prost::Message;
use prost_types::Any;
use sys::{Context, Error, Kind, Result};

/// Reads the options of a runtime from stdin and prints a `RuntimeInfo`.
pub fn print() -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .context(|| "read stdin")?;
    let info = info(&input)?;
    std::io::stdout()
        .write_all(&info.encode_to_vec())
        .context(|| "print the answer")
}

fn info(input: &[u8]) -> Result<RuntimeInfo> {
    let options = match input {
        [] => None,
        input => Some(Any::decode(input).map_err(|error| {
            Error::new(Kind::InvalidArgument, format!("decode options: {error}"))
        })?),
    };
    Ok(RuntimeInfo {
        name: "io.containerd.corten.v2".to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: String::new(),
        }),
        options,
        ..RuntimeInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_come_back() {
        let options = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: vec![1],
        };
        let info = info(&options.encode_to_vec()).unwrap();
        assert_eq!(info.options, Some(options));
        assert_eq!(super::info(&[]).unwrap().options, None);
        assert!(super::info(&[0xff]).is_err());
    }
}
