use proptest::prelude::*;

use super::super::{hpack, huffman};
use super::*;

/// How a client may put a header block into frames.
#[derive(Clone, Debug)]
struct Layout {
    huffman: bool,
    indexed: bool,
    padding: Option<u8>,
    priority: bool,
    parts: usize,
}

fn layout() -> impl Strategy<Value = Layout> {
    let choices = (
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(0_u8..40),
        any::<bool>(),
        1_usize..4,
    );
    choices.prop_map(|(huffman, indexed, padding, priority, parts)| Layout {
        huffman,
        indexed,
        padding,
        priority,
        parts,
    })
}

fn string(text: &str, huffman: bool) -> Vec<u8> {
    let (flag, bytes) = match huffman {
        true => (0x80, huffman::encode(text.as_bytes())),
        false => (0, text.as_bytes().to_vec()),
    };
    assert!(bytes.len() < 127);
    let mut string = vec![flag | bytes.len() as u8];
    string.extend(bytes);
    string
}

fn block(fields: &[(String, String)], layout: &Layout) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(if layout.indexed { 0x40 } else { 0x10 });
        block.extend(string(name, layout.huffman));
        block.extend(string(value, layout.huffman));
        if layout.indexed {
            block.push(0x80 | 62);
        }
    }
    block
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Returns the frames of a request: its headers, and `data`.
fn request(stream: u32, block: &[u8], data: &[u8], layout: &Layout) -> Vec<u8> {
    let length = block.len().div_ceil(layout.parts).max(1);
    let parts: Vec<&[u8]> = block.chunks(length).collect();
    let mut bytes = Vec::new();
    for (nth, part) in parts.iter().enumerate() {
        let last = if nth + 1 == parts.len() {
            END_HEADERS
        } else {
            0
        };
        if nth > 0 {
            bytes.extend(frame(CONTINUATION, last, stream, part));
            continue;
        }
        let (mut flags, mut payload) = (last, Vec::new());
        if let Some(padding) = layout.padding {
            flags |= PADDED;
            payload.push(padding);
        }
        if layout.priority {
            flags |= PRIORITY;
            payload.extend([0; 5]);
        }
        payload.extend_from_slice(part);
        payload.extend(vec![0; layout.padding.unwrap_or(0).into()]);
        bytes.extend(frame(HEADERS, flags, stream, &payload));
    }
    bytes.extend(frame(0, END_STREAM, stream, data));
    bytes
}

/// What the server sees of a request.
#[derive(Debug, PartialEq)]
enum Seen {
    Headers(u32, Vec<(String, String)>),
    Other(u8, Vec<u8>),
}

fn parse(mut bytes: &[u8]) -> Vec<Seen> {
    bytes = bytes.strip_prefix(PREFACE).unwrap();
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        let (frame, rest) = bytes.split_at(HEADER + length);
        let payload = &frame[HEADER..];
        seen.push(match frame[3] {
            HEADERS => {
                assert_eq!(frame[4], END_HEADERS);
                Seen::Headers(stream, hpack::tests::fields(payload))
            }
            kind => Seen::Other(kind, payload.to_vec()),
        });
        bytes = rest;
    }
    seen
}

proptest! {
    /// However a client lays its requests out and however they arrive, the server sees their fields and data.
    #[test]
    fn requests_arrive_as_they_were_meant(
        requests in proptest::collection::vec(
            (proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,60}"), 1..6),
             proptest::collection::vec(any::<u8>(), 0..50), layout()), 1..6),
        chunk in 1_usize..200,
    ) {
        let mut sent = PREFACE.to_vec();
        let mut expected = Vec::new();
        sent.extend(frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
        expected.push(Seen::Other(4, vec![0, 3, 0, 0, 0, 100]));
        for (nth, (fields, data, layout)) in requests.iter().enumerate() {
            let stream = nth as u32 * 2 + 1;
            sent.extend(request(stream, &block(fields, layout), data, layout));
            let times = if layout.indexed { 2 } else { 1 };
            let fields = fields.iter().flat_map(|field| vec![field.clone(); times]).collect();
            expected.push(Seen::Headers(stream, fields));
            expected.push(Seen::Other(0, data.clone()));
        }
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        for part in sent.chunks(chunk) {
            frames.feed(part, &mut out).unwrap();
        }
        prop_assert_eq!(parse(&out), expected);
    }

    /// Whatever a client sends, it does not bring the daemon down.
    #[test]
    fn nonsense_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400), preface: bool) {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        if preface {
            frames.feed(PREFACE, &mut out).unwrap();
        }
        let _ = frames.feed(&bytes, &mut out);
    }
}

#[test]
fn what_is_not_http2_passes_as_it_is() {
    let (mut frames, mut out) = (Frames::default(), Vec::new());
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    frames.feed(request, &mut out).unwrap();
    assert_eq!(out, request);
}

#[test]
fn frames_between_the_parts_of_a_header_block_are_refused() {
    let part = frame(HEADERS, 0, 1, &[0x82]);
    for bad in [
        frame(0, 0, 1, b"data"),
        frame(CONTINUATION, END_HEADERS, 3, &[0x86]),
        frame(HEADERS, END_HEADERS, 1, &[0x86]),
    ] {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        frames.feed(PREFACE, &mut out).unwrap();
        frames.feed(&part, &mut out).unwrap();
        assert_eq!(frames.feed(&bad, &mut out), Err(Malformed));
    }
    let mut frames = Frames::default();
    let alone = frame(CONTINUATION, END_HEADERS, 1, &[0x82]);
    frames.feed(PREFACE, &mut Vec::new()).unwrap();
    assert_eq!(frames.feed(&alone, &mut Vec::new()), Err(Malformed));
}

#[test]
fn a_block_of_many_continuations_is_cut_off() {
    let mut frames = Frames::default();
    frames.feed(PREFACE, &mut Vec::new()).unwrap();
    frames
        .feed(&frame(HEADERS, 0, 1, &[0x82]), &mut Vec::new())
        .unwrap();
    let part = frame(CONTINUATION, 0, 1, &[0x82; 8000]);
    let refused = (0..20).find(|_| frames.feed(&part, &mut Vec::new()).is_err());
    assert_eq!(refused, Some(8));
    let empty = frame(CONTINUATION, 0, 1, &[]);
    let mut frames = Frames::default();
    frames.feed(PREFACE, &mut Vec::new()).unwrap();
    frames
        .feed(&frame(HEADERS, 0, 1, &[]), &mut Vec::new())
        .unwrap();
    for _ in 0..10 {
        frames.feed(&empty, &mut Vec::new()).unwrap();
    }
}
