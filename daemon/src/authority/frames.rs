//! Frames (HTTP/2, RFC 9113, section 4): all pass as they are but those that carry header blocks.

use super::hpack::{Malformed, Rewriter};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// What a frame may carry unless the server allows more, which it does not.
const MAX_FRAME: usize = 16 << 10;
/// How long a header block may be before it is rewritten.
const MAX_BLOCK: usize = 64 << 10;

/// The bytes that come from a client, on their way to the server.
#[derive(Debug)]
pub struct Frames {
    headers: Rewriter,
    state: State,
    /// The header block that is not complete yet: its stream, flags and what there is of it.
    block: Option<(u32, u8, Vec<u8>)>,
}

#[derive(Debug)]
enum State {
    /// The first bytes of a connection, of which so many have come.
    Preface(usize),
    /// The header of a frame, as far as it has come.
    Header(Vec<u8>),
    /// So many bytes of a frame that pass as they are.
    Pass(usize),
    /// A frame with a part of a header block, as far as it has come.
    Block(Frame, Vec<u8>),
    /// Not HTTP/2, or with a frame that the server will refuse: everything passes.
    Foreign,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            headers: Rewriter::default(),
            state: State::Preface(0),
            block: None,
        }
    }
}

impl Frames {
    /// Takes bytes of the client and appends to `out` what the server is to see of them.
    pub fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        while !input.is_empty() {
            match &mut self.state {
                State::Foreign => {
                    out.extend_from_slice(input);
                    return Ok(());
                }
                State::Preface(seen) => {
                    let count = input.len().min(PREFACE.len() - *seen);
                    let (part, rest) = input.split_at(count);
                    let known = part == &PREFACE[*seen..*seen + count];
                    *seen += count;
                    let complete = *seen == PREFACE.len();
                    out.extend_from_slice(part);
                    input = rest;
                    if !known {
                        self.state = State::Foreign;
                    } else if complete {
                        self.state = State::Header(Vec::with_capacity(HEADER));
                    }
                }
                State::Header(header) => {
                    fill(header, HEADER, &mut input);
                    if header.len() == HEADER {
                        let header = std::mem::take(header);
                        self.begin(&header, out)?;
                    }
                }
                State::Pass(left) => {
                    let (part, rest) = input.split_at(input.len().min(*left));
                    out.extend_from_slice(part);
                    input = rest;
                    *left -= part.len();
                    if *left == 0 {
                        self.state = State::Header(Vec::with_capacity(HEADER));
                    }
                }
                State::Block(frame, payload) => {
                    fill(payload, frame.length, &mut input);
                    if payload.len() == frame.length {
                        let (frame, payload) = (*frame, std::mem::take(payload));
                        self.state = State::Header(Vec::with_capacity(HEADER));
                        self.take(frame, &payload, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins a frame.
    fn begin(&mut self, header: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
        };
        let frame = Frame {
            length: number(&header[..3]) as usize,
            kind: header[3],
            flags: header[4],
            stream: number(&header[5..]) & 0x7fff_ffff,
        };
        let continues = self.block.as_ref().map(|(stream, ..)| *stream);
        let expected = match continues {
            Some(stream) => frame.kind == CONTINUATION && frame.stream == stream,
            None => frame.kind != CONTINUATION,
        };
        if !expected {
            return Err(Malformed);
        }
        if frame.length > MAX_FRAME {
            out.extend_from_slice(header);
            self.state = State::Foreign;
            return Ok(());
        }
        match frame.kind {
            HEADERS | CONTINUATION if frame.length == 0 => {
                self.state = State::Header(Vec::with_capacity(HEADER));
                self.take(frame, &[], out)?;
            }
            HEADERS | CONTINUATION => {
                self.state = State::Block(frame, Vec::with_capacity(frame.length));
            }
            _ => {
                out.extend_from_slice(header);
                self.state = match frame.length {
                    0 => State::Header(Vec::with_capacity(HEADER)),
                    length => State::Pass(length),
                };
            }
        }
        Ok(())
    }

    /// Takes a whole frame with a part of a header block; when it is the last part, the block goes out.
    fn take(&mut self, frame: Frame, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let (stream, flags, mut block) = match self.block.take() {
            Some(begun) => begun,
            None => (frame.stream, frame.flags, Vec::new()),
        };
        block.extend_from_slice(fragment(frame, payload)?);
        if block.len() > MAX_BLOCK {
            return Err(Malformed);
        }
        if frame.flags & END_HEADERS == 0 {
            self.block = Some((stream, flags, block));
            return Ok(());
        }
        put_block(
            stream,
            flags & END_STREAM,
            &self.headers.rewrite(&block)?,
            out,
        );
        Ok(())
    }
}

/// Moves bytes from `input` to `to` until it has `length`.
fn fill(to: &mut Vec<u8>, length: usize, input: &mut &[u8]) {
    let (part, rest) = input.split_at(input.len().min(length - to.len()));
    to.extend_from_slice(part);
    *input = rest;
}

/// Returns the header block's part in a frame: without padding and priority.
fn fragment(frame: Frame, mut payload: &[u8]) -> Result<&[u8], Malformed> {
    if frame.kind != HEADERS {
        return Ok(payload);
    }
    let mut padding = 0;
    if frame.flags & PADDED != 0 {
        let (first, rest) = payload.split_first().ok_or(Malformed)?;
        (padding, payload) = (usize::from(*first), rest);
    }
    if frame.flags & PRIORITY != 0 {
        payload = payload.get(5..).ok_or(Malformed)?;
    }
    let length = payload.len().checked_sub(padding).ok_or(Malformed)?;
    Ok(&payload[..length])
}

/// Writes a header block as one frame, or as many as it takes.
fn put_block(stream: u32, flags: u8, block: &[u8], out: &mut Vec<u8>) {
    let mut parts = block.chunks(MAX_FRAME).peekable();
    let (mut kind, mut flags) = (HEADERS, flags);
    loop {
        let part = parts.next().unwrap_or_default();
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        out.extend_from_slice(&(part.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(part);
        if flags & END_HEADERS != 0 {
            return;
        }
        (kind, flags) = (CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests;
