//! PAX's extended headers: records that say what a header has no room for.

use rustix::fs::Timespec;

use super::{decimal, malformed};
use crate::error::Result;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of an extended header.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    /// Parses records of the form `LENGTH KEY=VALUE\n`, where the length counts all of it.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let space = position(bytes, b' ')?;
            let length = decimal(&bytes[..space])? as usize;
            let record = bytes.get(space + 1..length).ok_or_else(malformed)?;
            let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = position(record, b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            records.push((key.to_vec(), value.to_vec()));
            bytes = &bytes[length..];
        }
        Ok(Self { records })
    }

    /// Returns the last record of a key; an empty one stands for none.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.records.iter().rev();
        let mut found = found.filter(|record| record.0 == key.as_bytes());
        let value = found.next()?.1.as_slice();
        (!value.is_empty()).then_some(value)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(decimal).transpose()
    }

    pub(super) fn time(&self, key: &str) -> Result<Option<Timespec>> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(text).map_err(|_| malformed())?;
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let nanos: String = fraction
            .chars()
            .chain("000000000".chars())
            .take(9)
            .collect();
        Ok(Some(Timespec {
            tv_sec: seconds.parse().map_err(|_| malformed())?,
            tv_nsec: nanos.parse().map_err(|_| malformed())?,
        }))
    }

    pub(super) fn xattrs(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (key, value) in &self.records {
            let Some(name) = key.strip_prefix(XATTR) else {
                continue;
            };
            if name.is_empty() || name.contains(&0) {
                return Err(malformed());
            }
            xattrs.retain(|known| known.0 != name);
            xattrs.push((name.to_vec(), value.clone()));
        }
        Ok(xattrs)
    }
}

fn position(bytes: &[u8], wanted: u8) -> Result<usize> {
    let found = bytes.iter().position(|byte| *byte == wanted);
    found.ok_or_else(malformed)
}
