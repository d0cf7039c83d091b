//! D-Bus messages, as far as systemd's manager needs them (D-Bus specification, "Type System" and "Message Protocol").

use std::borrow::Cow;

use sys::{Error, Kind, Result};

/// The longest message that is taken: a bus sends nothing near it here.
const LONGEST: usize = 1 << 20;

/// Types of messages.
pub(super) const CALL: u8 = 1;
pub(super) const RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A value of a unit's property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Texts(Vec<String>),
    Flag(bool),
    Number64(u64),
    Numbers32(Vec<u32>),
    Bytes(Vec<u8>),
    Pairs(Vec<(String, String)>),
}

/// A property's name and value.
pub(super) type Property = (Cow<'static, str>, Value);

/// Bytes that are being put together; every value is aligned to its size from the start of the message.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(super) fn number(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// Writes an array whose items are aligned to `align`, which the length that precedes them does not count.
    pub(super) fn array(&mut self, align: usize, items: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.bytes.len() - 4;
        self.align(align);
        let start = self.bytes.len();
        items(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Writes properties as `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[Property]) {
        self.array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.variant(value);
            }
        });
    }

    fn variant(&mut self, value: &Value) {
        let signature = match value {
            Value::Text(_) => "s",
            Value::Texts(_) => "as",
            Value::Flag(_) => "b",
            Value::Number64(_) => "t",
            Value::Numbers32(_) => "au",
            Value::Bytes(_) => "ay",
            Value::Pairs(_) => "a(ss)",
        };
        self.signature(signature);
        match value {
            Value::Text(text) => self.text(text),
            Value::Texts(texts) => self.array(4, |writer| {
                texts.iter().for_each(|text| writer.text(text));
            }),
            Value::Flag(flag) => self.number(u32::from(*flag)),
            Value::Number64(number) => {
                self.align(8);
                self.bytes.extend(number.to_le_bytes());
            }
            Value::Numbers32(numbers) => self.array(4, |writer| {
                numbers.iter().for_each(|number| writer.number(*number));
            }),
            Value::Bytes(bytes) => self.array(1, |writer| writer.bytes.extend(bytes)),
            Value::Pairs(pairs) => self.array(8, |writer| {
                for (first, second) in pairs {
                    writer.align(8);
                    writer.text(first);
                    writer.text(second);
                }
            }),
        }
    }
}

/// A method call.
pub(super) struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub signature: &'a str,
    pub body: Writer,
}

impl Call<'_> {
    /// Returns the call's bytes under a serial number.
    pub(super) fn encode(self, serial: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.bytes.extend([b'l', CALL, 0, 1]);
        writer.number(self.body.bytes.len() as u32);
        writer.number(serial);
        writer.array(8, |writer| {
            let fields = [
                (PATH, "o", self.path),
                (DESTINATION, "s", self.destination),
                (INTERFACE, "s", self.interface),
                (MEMBER, "s", self.member),
            ];
            for (field, signature, text) in fields {
                writer.align(8);
                writer.bytes.push(field);
                writer.signature(signature);
                writer.text(text);
            }
            if !self.signature.is_empty() {
                writer.align(8);
                writer.bytes.push(SIGNATURE);
                writer.signature("g");
                writer.signature(self.signature);
            }
        });
        writer.align(8);
        writer.bytes.extend(self.body.bytes);
        writer.bytes
    }
}

/// A message that has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: u8,
    pub reply_to: u32,
    pub member: String,
    pub error: String,
    body: Vec<u8>,
    little: bool,
}

impl Message {
    /// Returns how long a message is whose first 16 bytes these are.
    pub(super) fn length(start: &[u8; 16]) -> Result<usize> {
        let mut reader = Reader {
            bytes: start,
            at: 4,
            little: start[0] == b'l',
        };
        let body = reader.number()? as usize;
        reader.at = 12;
        let fields = reader.number()? as usize;
        let length = (16 + fields).next_multiple_of(8) + body;
        match (start[0], length <= LONGEST && body <= LONGEST) {
            (b'l' | b'B', true) => Ok(length),
            _ => Err(malformed()),
        }
    }

    /// Parses a whole message.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let &[order, kind, ..] = bytes else {
            return Err(malformed());
        };
        let mut message = Self {
            kind,
            little: order == b'l',
            ..Self::default()
        };
        let mut reader = Reader {
            bytes,
            at: 12,
            little: message.little,
        };
        let fields = reader.number()? as usize;
        let end = 16 + fields;
        while reader.at < end {
            reader.align(8);
            let field = reader.byte()?;
            let signature = reader.signature()?;
            match (field, signature.as_str()) {
                (MEMBER, "s") => message.member = reader.text()?,
                (ERROR_NAME, "s") => message.error = reader.text()?,
                (REPLY_SERIAL, "u") => message.reply_to = reader.number()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.number()?),
                _ => return Err(malformed()),
            }
        }
        let body = bytes.get(end.next_multiple_of(8)..);
        message.body = body.ok_or_else(malformed)?.to_vec();
        Ok(message)
    }

    /// Returns what reads the arguments.
    pub(super) fn arguments(&self) -> Reader<'_> {
        Reader {
            bytes: &self.body,
            at: 0,
            little: self.little,
        }
    }
}

/// Bytes that are being taken apart.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(length).ok_or_else(malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u32> {
        self.align(4);
        let little = self.little;
        let bytes = self.take(4)?.try_into().map_err(|_| malformed())?;
        Ok(match little {
            true => u32::from_le_bytes(bytes),
            false => u32::from_be_bytes(bytes),
        })
    }

    /// Reads a string or the path of an object.
    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.number()? as usize;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.byte()?;
        Ok(text)
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.byte()?.into();
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.byte()?;
        Ok(text)
    }
}

fn malformed() -> Error {
    Error::new(Kind::Internal, "malformed D-Bus message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_the_bytes_of_the_specification() {
        let call = Call {
            destination: "a.b",
            path: "/p",
            interface: "a.b",
            member: "M",
            signature: "s",
            body: {
                let mut body = Writer::default();
                body.text("x");
                body
            },
        };
        let bytes = call.encode(7);
        assert_eq!(bytes[..12], [b'l', 1, 0, 1, 6, 0, 0, 0, 7, 0, 0, 0]);
        // Path: field, its signature, and the text with its length and its zero.
        let path = [1, 1, b'o', 0, 2, 0, 0, 0, b'/', b'p', 0];
        assert_eq!(bytes[16..27], path);
        assert_eq!(bytes[bytes.len() - 6..], [1, 0, 0, 0, b'x', 0]);
        let start = bytes[..16].try_into().unwrap();
        assert_eq!(Message::length(start).unwrap(), bytes.len());
        let message = Message::decode(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (CALL, "M"));
        assert_eq!(message.arguments().text().unwrap(), "x");
    }

    #[test]
    fn properties_are_aligned_and_counted() {
        let mut writer = Writer::default();
        writer.properties(&[
            (Cow::Borrowed("A"), Value::Flag(true)),
            (Cow::Borrowed("B"), Value::Number64(9)),
        ]);
        let expected = [
            // The length does not count what aligns the first item.
            [40, 0, 0, 0, 0, 0, 0, 0].as_slice(),
            &[1, 0, 0, 0, b'A', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0],
            &[1, 0, 0, 0, b'B', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0],
            &[9, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(writer.bytes, expected);
    }

    #[test]
    fn messages_that_break_off_or_lie_are_refused() {
        let whole = Call {
            destination: "a.b",
            path: "/p",
            interface: "a.b",
            member: "M",
            signature: "",
            body: Writer::default(),
        }
        .encode(1);
        for length in 0..whole.len() - 8 {
            assert!(Message::decode(&whole[..length]).is_err(), "{length}");
        }
        let mut start: [u8; 16] = whole[..16].try_into().unwrap();
        start[7] = 0xff;
        assert!(Message::length(&start).is_err());
        start[0] = b'x';
        assert!(Message::length(&start).is_err());
    }
}
