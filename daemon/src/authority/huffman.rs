//! The Huffman code of HPACK (RFC 7541, appendix B). It is canonical: the lengths of the codes tell the codes.

/// The end of a string, which no string contains.
const END: u16 = 256;
const LONGEST: usize = 30;

/// The length of each octet's code, and last that of the end.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The codes of each length: they are consecutive numbers, and so are the places of their symbols.
struct Code {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    place: [usize; LONGEST + 1],
    symbols: [u16; 257],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let mut code = Self {
            first: [0; LONGEST + 1],
            count: [0; LONGEST + 1],
            place: [0; LONGEST + 1],
            symbols: [0; 257],
        };
        let (mut next, mut place, mut length) = (0, 0, 1);
        while length <= LONGEST {
            next <<= 1;
            code.first[length] = next;
            code.place[length] = place;
            let mut symbol = 0;
            while symbol < LENGTHS.len() {
                if LENGTHS[symbol] as usize == length {
                    code.symbols[place] = symbol as u16;
                    place += 1;
                    next += 1;
                }
                symbol += 1;
            }
            code.count[length] = next - code.first[length];
            length += 1;
        }
        code
    }
}

/// Returns the string that `bytes` encode, or nothing if they encode none.
pub fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes.len() * 3 / 2);
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in bytes {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if length > LONGEST {
                return None;
            }
            let nth = code.wrapping_sub(CODE.first[length]);
            if nth < CODE.count[length] {
                let symbol = CODE.symbols[CODE.place[length] + nth as usize];
                if symbol == END {
                    return None;
                }
                text.push(symbol as u8);
                (code, length) = (0, 0);
            }
        }
    }
    // What is left over is the beginning of the end's code, all ones, and shorter than an octet.
    (length < 8 && code == (1 << length) - 1).then_some(text)
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let mut bits = Vec::new();
    for octet in text {
        let length = LENGTHS[usize::from(*octet)] as usize;
        let place = CODE.symbols.iter().position(|at| *at == u16::from(*octet));
        let code = CODE.first[length] + (place.unwrap() - CODE.place[length]) as u32;
        bits.extend((0..length).rev().map(|bit| code >> bit & 1));
    }
    let octet = |bits: &[u32]| (0..8).fold(0, |sum, at| sum << 1 | bits.get(at).unwrap_or(&1));
    bits.chunks(8).map(|bits| octet(bits) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification_decode() {
        let example = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decode(&example).unwrap(), b"www.example.com");
        assert_eq!(encode(b"www.example.com"), example);
        assert_eq!(
            decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(),
            b"no-cache"
        );
    }

    #[test]
    fn every_octet_goes_there_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
    }

    #[test]
    fn bad_endings_are_refused() {
        // A whole octet of padding, the code of the end, and padding that is not all ones.
        for bad in [&[0xff][..], &[0xff, 0xff, 0xff, 0xff], &[0x00]] {
            assert_eq!(decode(bad), None, "{bad:x?}");
        }
    }
}
