//! Header blocks (HPACK, RFC 7541): decoded with the connection's table, and written anew without one.
//!
//! The fields of the static table keep their numbers, so that nothing but the length of their names need be known.

use std::collections::VecDeque;

use bytes::Bytes;
use http::uri::Authority;

use super::huffman;

/// What `:authority` becomes when it names no host.
const LOCALHOST: &[u8] = b"localhost";
const AUTHORITY_INDEX: usize = 1;
/// The size of the table that a client may use unless the server allows more, which it does not.
const TABLE_SIZE: usize = 4096;
/// What an entry counts for beside its name and value.
const ENTRY_OVERHEAD: usize = 32;
/// How long a rewritten block may be; h2 accepts 16 KiB.
const MAX_BLOCK: usize = 64 << 10;

/// The lengths of the names in the static table, from number 1 on.
#[rustfmt::skip]
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12,
    6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// The header block breaks the rules; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The name of a field: a number of the static table, or text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Static(usize),
    Text(Bytes),
}

/// The state of a connection's header compression.
#[derive(Debug)]
pub struct Rewriter {
    /// The newest first.
    table: VecDeque<(Name, Bytes)>,
    size: usize,
    limit: usize,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            limit: TABLE_SIZE,
        }
    }
}

impl Rewriter {
    /// Returns `block` without references to the table, and with an `:authority` that names a host.
    pub fn rewrite(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::with_capacity(block.len() * 2);
        let input = &mut block;
        while let Some(first) = input.first().copied() {
            if first & 0x80 != 0 {
                match integer(input, 7)? {
                    index
                        if index != AUTHORITY_INDEX
                            && (1..=STATIC_NAMES.len()).contains(&index) =>
                    {
                        put_integer(&mut out, 0x80, 7, index);
                    }
                    AUTHORITY_INDEX => put(&mut out, &Name::Static(AUTHORITY_INDEX), b""),
                    index => {
                        let (name, value) = self.entry(index)?;
                        put(&mut out, name, value);
                    }
                }
            } else if first & 0xe0 == 0x20 {
                let limit = integer(input, 5)?;
                if limit > TABLE_SIZE {
                    return Err(Malformed);
                }
                self.limit = limit;
                self.evict();
            } else {
                let indexed = first & 0x40 != 0;
                let name = match integer(input, if indexed { 6 } else { 4 })? {
                    0 => Name::Text(string(input)?),
                    index if index <= STATIC_NAMES.len() => Name::Static(index),
                    index => self.entry(index)?.0.clone(),
                };
                let value = string(input)?;
                put(&mut out, &name, &value);
                if indexed {
                    self.insert(name, value);
                }
            }
            if out.len() > MAX_BLOCK {
                return Err(Malformed);
            }
        }
        Ok(out)
    }

    fn entry(&self, index: usize) -> Result<&(Name, Bytes), Malformed> {
        let place = index.checked_sub(STATIC_NAMES.len() + 1);
        place
            .and_then(|place| self.table.get(place))
            .ok_or(Malformed)
    }

    fn insert(&mut self, name: Name, value: Bytes) {
        self.size += size(&name, &value);
        self.table.push_front((name, value));
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let (name, value) = self.table.pop_back().expect("an empty table has size 0");
            self.size -= size(&name, &value);
        }
    }
}

fn size(name: &Name, value: &[u8]) -> usize {
    let name = match name {
        Name::Static(index) => STATIC_NAMES[index - 1].into(),
        Name::Text(text) => text.len(),
    };
    name + value.len() + ENTRY_OVERHEAD
}

/// Takes an integer with a prefix of `bits` from `input`.
fn integer(input: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(take(input)?) & most;
    if value < most {
        return Ok(value);
    }
    // Four octets more say all that a header block can be about.
    for shift in [0, 7, 14, 21] {
        let octet = take(input)?;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn string(input: &mut &[u8]) -> Result<Bytes, Malformed> {
    let huffman = input.first().ok_or(Malformed)? & 0x80 != 0;
    let length = integer(input, 7)?;
    let (text, rest) = input.split_at_checked(length).ok_or(Malformed)?;
    *input = rest;
    if huffman {
        return huffman::decode(text).map(Bytes::from).ok_or(Malformed);
    }
    Ok(Bytes::copy_from_slice(text))
}

fn take(input: &mut &[u8]) -> Result<u8, Malformed> {
    let (first, rest) = input.split_first().ok_or(Malformed)?;
    *input = rest;
    Ok(*first)
}

/// Writes a field as a literal that no table keeps.
fn put(out: &mut Vec<u8>, name: &Name, value: &[u8]) {
    let authority = match name {
        Name::Static(index) => {
            put_integer(out, 0, 4, *index);
            *index == AUTHORITY_INDEX
        }
        Name::Text(text) => {
            out.push(0);
            put_string(out, text);
            text == &b":authority"[..]
        }
    };
    let acceptable = || Authority::try_from(value).is_ok();
    if authority && !acceptable() {
        put_string(out, LOCALHOST);
    } else {
        put_string(out, value);
    }
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

fn put_integer(out: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
pub(super) mod tests;
