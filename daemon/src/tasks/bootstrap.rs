//! What a shim's `start` answers: where it listens and what it speaks there.

use api_protos::containerd::runtime::bootstrap::v1::BootstrapResult;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// The newest version of the task API that the daemon speaks.
pub const MAX_VERSION: u32 = 3;

/// Where a shim listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Endpoint {
    /// The version of the task API.
    pub version: u32,
    /// `unix://` and a path.
    pub address: String,
    /// `ttrpc` or `grpc`.
    pub protocol: String,
}

impl Endpoint {
    /// Reads an answer in any of its three forms: JSON, the bare address of old shims, or protobuf.
    pub fn parse(answer: &[u8]) -> Result<Self> {
        let endpoint = match std::str::from_utf8(answer) {
            Ok(text) if text.trim_start().starts_with('{') => serde_json::from_str(text)
                .map_err(|error| malformed(&format!("its JSON: {error}")))?,
            Ok(text) if !text.trim_end().contains(|c: char| c.is_control()) => Self {
                version: 2,
                address: text.trim().to_owned(),
                protocol: "ttrpc".to_owned(),
            },
            _ => Self::from_protobuf(answer)?,
        };
        if endpoint.address.is_empty() {
            return Err(malformed("it has no address"));
        }
        if !(2..=MAX_VERSION).contains(&endpoint.version) {
            return Err(Error::new(
                Kind::Unimplemented,
                format!("unsupported shim version ({})", endpoint.version),
            ));
        }
        Ok(endpoint)
    }

    fn from_protobuf(answer: &[u8]) -> Result<Self> {
        let result =
            BootstrapResult::decode(answer).map_err(|error| malformed(&error.to_string()))?;
        Ok(Self {
            version: u32::try_from(result.version).unwrap_or(0),
            address: result.address,
            protocol: result.protocol,
        })
    }

    /// Returns the endpoint as it is kept in the bundle.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and text are always JSON")
    }

    /// Returns the path of the shim's socket.
    pub fn path(&self) -> Result<&str> {
        if !self.protocol.eq_ignore_ascii_case("ttrpc") {
            return Err(Error::new(
                Kind::Unimplemented,
                format!("shim speaks {:?}, only ttrpc is supported", self.protocol),
            ));
        }
        let path = self.address.strip_prefix("unix://");
        path.filter(|path| path.starts_with('/')).ok_or_else(|| {
            Error::new(
                Kind::Unimplemented,
                format!(
                    "shim listens on {:?}, only unix:// is supported",
                    self.address
                ),
            )
        })
    }
}

fn malformed(what: &str) -> Error {
    Error::new(Kind::Internal, format!("read the shim's answer: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_answer_is_read() {
        let result = BootstrapResult {
            version: 3,
            address: "unix:///run/s/1".into(),
            protocol: "ttrpc".into(),
            ..Default::default()
        };
        let answers: [(&[u8], u32); 4] = [
            (
                br#"{"version":3,"address":"unix:///run/s/1","protocol":"ttrpc"}"#,
                3,
            ),
            (b"unix:///run/s/1", 2),
            (b"unix:///run/s/1\n", 2),
            (&result.encode_to_vec(), 3),
        ];
        for (answer, version) in answers {
            let endpoint = Endpoint::parse(answer).unwrap();
            assert_eq!(endpoint.version, version, "{answer:?}");
            assert_eq!(endpoint.path().unwrap(), "/run/s/1", "{answer:?}");
        }
    }

    #[test]
    fn an_endpoint_survives_its_file() {
        let endpoint = Endpoint::parse(b"unix:///run/s/1").unwrap();
        assert_eq!(Endpoint::parse(&endpoint.to_json()).unwrap(), endpoint);
    }

    #[test]
    fn answers_that_lead_nowhere_are_refused() {
        for answer in [
            &b""[..],
            b"{}",
            b"{\"version\":3",
            br#"{"version":4,"address":"unix:///s","protocol":"ttrpc"}"#,
            b"\x08\xff",
        ] {
            assert!(Endpoint::parse(answer).is_err(), "{answer:?}");
        }
        for answer in [
            &b"vsock://3:1024"[..],
            br#"{"version":3,"address":"unix:///s","protocol":"grpc"}"#,
        ] {
            assert!(
                Endpoint::parse(answer).unwrap().path().is_err(),
                "{answer:?}"
            );
        }
    }
}
