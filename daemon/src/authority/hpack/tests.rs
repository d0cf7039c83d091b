use super::*;

/// Returns the fields of a rewritten block; static ones by number.
pub fn fields(mut block: &[u8]) -> Vec<(String, String)> {
    let input = &mut block;
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while let Some(first) = input.first() {
        if first & 0x80 != 0 {
            fields.push((integer(input, 7).unwrap().to_string(), String::new()));
            continue;
        }
        assert_eq!(first & 0xf0, 0, "only literals that are not indexed");
        let name = match integer(input, 4).unwrap() {
            0 => text(&string(input).unwrap()),
            index => index.to_string(),
        };
        let value = text(&string(input).unwrap());
        fields.push((name, value));
    }
    fields
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(owned).collect()
}

/// The three requests of RFC 7541, appendix C.4: Huffman strings and a table that grows.
#[test]
fn the_examples_of_the_specification_are_rewritten() {
    let mut rewriter = Rewriter::default();
    let first = [
        0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90,
        0xf4, 0xff,
    ];
    let host = ("1", "www.example.com");
    let common = [("2", ""), ("6", ""), ("4", ""), host];
    let block = rewriter.rewrite(&first).unwrap();
    assert_eq!(fields(&block), pairs(&common));

    let second = [
        0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
    ];
    let block = rewriter.rewrite(&second).unwrap();
    let expected = [&common[..], &[("24", "no-cache")]].concat();
    assert_eq!(fields(&block), pairs(&expected));

    let third = [
        0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f, 0x89,
        0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
    ];
    let block = rewriter.rewrite(&third).unwrap();
    let expected = [
        ("2", ""),
        ("7", ""),
        ("5", ""),
        host,
        ("custom-key", "custom-value"),
    ];
    assert_eq!(fields(&block), pairs(&expected));
    assert_eq!(rewriter.size, 164);
}

#[test]
fn an_authority_that_names_no_host_becomes_localhost() {
    for (given, expected) in [
        ("/run/containerd/containerd.sock", "localhost"),
        ("%2Frun%2Fcontainerd%2Fcontainerd.sock", "localhost"),
        ("unix:///run/c.sock", "localhost"),
        ("", "localhost"),
        ("localhost", "localhost"),
        ("example.com:443", "example.com:443"),
    ] {
        for name in [
            Name::Static(1),
            Name::Text(Bytes::from_static(b":authority")),
        ] {
            let mut block = Vec::new();
            match &name {
                Name::Static(index) => put_integer(&mut block, 0x40, 6, *index),
                Name::Text(text) => {
                    block.push(0x40);
                    put_string(&mut block, text);
                }
            }
            put_string(&mut block, given.as_bytes());
            block.push(0x80 | 62);
            let rewritten = Rewriter::default().rewrite(&block).unwrap();
            for (_, value) in fields(&rewritten) {
                assert_eq!(value, expected, "{given} as {name:?}");
            }
        }
    }
    let bare = Rewriter::default().rewrite(&[0x81]).unwrap();
    assert_eq!(fields(&bare), pairs(&[("1", "localhost")]));
}

#[test]
fn entries_leave_the_table_when_it_is_full() {
    let mut rewriter = Rewriter::default();
    let mut insert = |value: &str| {
        let mut block = vec![0x40];
        put_string(&mut block, b"k");
        put_string(&mut block, value.as_bytes());
        rewriter.rewrite(&block).unwrap();
        (rewriter.table.len(), rewriter.size)
    };
    assert_eq!(insert(&"a".repeat(2000)), (1, 2033));
    assert_eq!(insert(&"b".repeat(2030)), (2, 4096));
    assert_eq!(insert("c"), (2, 2097));
    assert_eq!(insert(&"d".repeat(5000)), (0, 0));
    let mut rewriter = Rewriter::default();
    assert_eq!(
        rewriter.rewrite(&[0x20, 0x40, 1, b'k', 1, b'v']),
        Ok(vec![0, 1, b'k', 1, b'v'])
    );
    assert_eq!(rewriter.table.len(), 0, "a table of size 0 keeps nothing");
}

#[test]
fn malformed_blocks_are_refused() {
    let long = [0x3f, 0xe1, 0x1f, 0x40, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let table_too_large = [0x3f, 0xff, 0x7f];
    let bad: [&[u8]; 8] = [
        &[0x80],
        &[0xbe],
        &[0x40],
        &[0x40, 0x05, b'a'],
        &[0x41, 0x81, 0x00],
        &[0x0f, 0xff, 0xff, 0xff, 0xff, 0xff],
        &long,
        &table_too_large,
    ];
    for block in bad {
        assert_eq!(
            Rewriter::default().rewrite(block),
            Err(Malformed),
            "{block:x?}"
        );
    }
}

/// Short references to a long entry must not make the server's memory grow.
#[test]
fn a_block_that_grows_too_much_is_refused() {
    let mut block = vec![0x40];
    put_string(&mut block, b"k");
    put_string(&mut block, &[b'v'; 4000]);
    block.extend([0x80 | 62; 10_000]);
    assert_eq!(Rewriter::default().rewrite(&block), Err(Malformed));
}
