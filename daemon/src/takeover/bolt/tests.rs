//! Databases made here, page by page, and every kind of damage to them. Those of containerd are read by the black-box
//! cases.

use proptest::prelude::*;

use super::*;

const SIZE: usize = 4096;

fn header(id: u64, flags: u16, count: usize, overflow: usize) -> Vec<u8> {
    let mut page = id.to_le_bytes().to_vec();
    page.extend(flags.to_le_bytes());
    page.extend((count as u16).to_le_bytes());
    page.extend((overflow as u32).to_le_bytes());
    page
}

/// Returns a leaf page of these entries, each a bucket or not, as long as it needs to be.
fn leaf(id: u64, entries: &[(&[u8], Vec<u8>, bool)]) -> Vec<u8> {
    let data: usize = entries
        .iter()
        .map(|(key, value, _)| key.len() + value.len())
        .sum();
    let length = PAGE_HEADER + ELEMENT * entries.len() + data;
    let mut page = header(id, LEAF, entries.len(), length.div_ceil(SIZE) - 1);
    let mut at = ELEMENT * entries.len();
    for (index, (key, value, is_bucket)) in entries.iter().enumerate() {
        let numbers = [
            u32::from(*is_bucket),
            (at - ELEMENT * index) as u32,
            key.len() as u32,
            value.len() as u32,
        ];
        page.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        at += key.len() + value.len();
    }
    for (key, value, _) in entries {
        page.extend_from_slice(key);
        page.extend_from_slice(value);
    }
    page
}

fn branch_page(id: u64, children: &[u64]) -> Vec<u8> {
    let mut page = header(id, BRANCH, children.len(), 0);
    for child in children {
        page.extend([0; 8]);
        page.extend(child.to_le_bytes());
    }
    page
}

fn bucket_at(root: u64) -> Vec<u8> {
    [root.to_le_bytes(), 7_u64.to_le_bytes()].concat()
}

fn meta_page(id: u64, root: u64, transaction: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [MAGIC, VERSION, SIZE as u32, 0] {
        body.extend(number.to_le_bytes());
    }
    for number in [root, 0, 2, 9, transaction] {
        body.extend(number.to_le_bytes());
    }
    let sum = fnv(&body);
    [header(id, META, 0, 0), body, sum.to_le_bytes().to_vec()].concat()
}

fn file(pages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for page in pages {
        bytes.extend_from_slice(page);
        bytes.resize(bytes.len().next_multiple_of(SIZE), 0);
    }
    bytes
}

/// A database with a branch, a page that overflows, a bucket of its own page and a small one.
fn sample() -> Vec<u8> {
    let inline = [vec![0; 16], leaf(0, &[(b"in", b"line".to_vec(), false)])].concat();
    file(&[
        meta_page(0, 3, 5),
        meta_page(1, 99, 4),
        header(2, 0x10, 0, 0),
        branch_page(3, &[4, 5]),
        leaf(
            4,
            &[(b"a", b"1".to_vec(), false), (b"b", bucket_at(7), true)],
        ),
        // Pages 5 and 6.
        leaf(5, &[(b"c", vec![42; SIZE], false), (b"d", inline, true)]),
        leaf(
            7,
            &[(b"x", b"y".to_vec(), false), (b"z", Vec::new(), false)],
        ),
    ])
}

/// Returns all that is in a bucket, as text.
fn shown(bucket: &Bucket<'_>, depth: usize) -> Result<String> {
    let mut text = String::new();
    for (key, item) in bucket.entries()? {
        text.push_str(&String::from_utf8_lossy(key));
        text.push_str(&match item {
            Item::Value(value) if value.len() > 9 => format!("={} bytes ", value.len()),
            Item::Value(value) => format!("={} ", String::from_utf8_lossy(value)),
            Item::Bucket(_) if depth == 0 => "{...} ".to_owned(),
            Item::Bucket(inner) => format!("{{ {}}} ", shown(&inner, depth - 1)?),
        });
    }
    Ok(text)
}

const WHOLE: &str = "a=1 b{ x=y z= } c=4096 bytes d{ in=line } ";

#[test]
fn all_kinds_of_pages_are_read() {
    let database = Database::parse(sample()).unwrap();
    assert_eq!(shown(&database.root(), 3).unwrap(), WHOLE);
    let bucket = database.root().bucket("b").unwrap().unwrap();
    assert!(matches!(bucket.find("x").unwrap(), Some(Item::Value(b"y"))));
    assert!(bucket.find("nothing").unwrap().is_none());
    assert!(database.root().bucket("a").unwrap().is_none());
}

/// Returns what kind of damage keeps the root from being read.
fn refusal(database: &Database) -> Kind {
    let read = database.root().entries();
    read.map(|entries| entries.len()).unwrap_err().kind()
}

#[test]
fn the_newest_meta_page_that_is_whole_counts() {
    let mut bytes = sample();
    // A torn write of the first: the second, whose root is beyond the end, is all there is.
    bytes[PAGE_HEADER + 20] ^= 1;
    let database = Database::parse(bytes).unwrap();
    assert_eq!(database.meta.transaction, 4);
    assert_eq!(refusal(&database), Kind::DataLoss);
    for bytes in [
        Vec::new(),
        vec![0; 3 * SIZE],
        sample()[..SIZE - 1][..40].to_vec(),
    ] {
        assert_eq!(Database::parse(bytes).unwrap_err().kind(), Kind::DataLoss);
    }
}

#[test]
fn a_tree_that_bites_its_tail_ends() {
    let pages = [
        meta_page(0, 3, 5),
        meta_page(1, 3, 4),
        header(2, 0x10, 0, 0),
        branch_page(3, &[3, 3, 3]),
    ];
    let database = Database::parse(file(&pages)).unwrap();
    assert_eq!(refusal(&database), Kind::DataLoss);
}

#[test]
fn a_file_that_nobody_writes_is_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    std::fs::write(&path, sample()).unwrap();
    let database = Database::read(&path).unwrap();
    assert_eq!(shown(&database.root(), 3).unwrap(), WHOLE);
    std::fs::write(&path, b"no database").unwrap();
    assert_eq!(Database::read(&path).unwrap_err().kind(), Kind::DataLoss);
}

proptest! {
    #[test]
    fn damage_is_an_error_and_never_a_panic(
        flips in proptest::collection::vec((0..8 * SIZE, any::<u8>()), 1..12),
        length in 0..=8 * SIZE,
    ) {
        let mut bytes = sample();
        for (at, flip) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
        }
        let cut = bytes[..length.min(bytes.len())].to_vec();
        for bytes in [bytes, cut] {
            if let Ok(database) = Database::parse(bytes) {
                let _ = shown(&database.root(), 4);
            }
        }
    }

    #[test]
    fn damage_to_the_parts_that_say_where_things_are_is_no_panic(
        flips in proptest::collection::vec((0_usize..5, 0_usize..80, any::<u8>()), 1..4),
    ) {
        let mut bytes = sample();
        for (page, at, flip) in flips {
            bytes[(page + 3) * SIZE + at] ^= flip;
        }
        let database = Database::parse(bytes).unwrap();
        let _ = shown(&database.root(), 4);
    }
}
