use std::io::Cursor;

use super::*;

fn header(kind: tar::EntryType, name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(7);
    header.set_cksum();
    header
}

fn append(archive: &mut Vec<u8>, header: &tar::Header, data: &[u8]) {
    archive.extend(header.as_bytes());
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..)
        .find(|length| length.to_string().len() + rest == *length)
        .unwrap();
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut entries = Entries::new(Cursor::new(archive));
    let mut all = Vec::new();
    while let Some(entry) = entries.next_entry()? {
        let mut file = tempfile::tempfile().unwrap();
        entries.copy(&entry, &mut file)?;
        let mut data = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut data, 0).unwrap();
        all.push((entry, data));
    }
    Ok(all)
}

#[test]
fn a_value_with_a_line_break_hides_no_later_record() {
    let mut pax = record("SCHILY.xattr.user.a", b"1\n2\n=x");
    pax.extend(record("path", b"long"));
    pax.extend(record("size", b"3"));
    pax.extend(record("mtime", b"12.5"));
    let mut archive = Vec::new();
    append(
        &mut archive,
        &header(tar::EntryType::XHeader, "x", pax.len() as u64),
        &pax,
    );
    append(
        &mut archive,
        &header(tar::EntryType::Regular, "short", 0),
        b"abc",
    );
    append(
        &mut archive,
        &header(tar::EntryType::Regular, "next", 1),
        b"d",
    );
    let all = read(&archive).unwrap();
    assert_eq!(all.len(), 2);
    let (entry, data) = &all[0];
    assert_eq!(
        (entry.path.as_slice(), data.as_slice()),
        (&b"long"[..], &b"abc"[..])
    );
    assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"1\n2\n=x".to_vec())]);
    assert_eq!(
        (entry.modified.tv_sec, entry.modified.tv_nsec),
        (12, 500_000_000)
    );
    assert_eq!((entry.uid, entry.gid, entry.mode), (1, 2, 0o644));
}

#[test]
fn all_forms_of_holes_are_read() {
    let expected = [&[0; 1024][..], &[b'a'; 512], &[0; 488], b"end", &[0; 5]].concat();
    let stored = [&[b'a'; 512][..], b"end"].concat();
    let total = expected.len().to_string();
    let forms = [
        [
            record("GNU.sparse.size", total.as_bytes()),
            record("GNU.sparse.offset", b"1024"),
            record("GNU.sparse.numbytes", b"512"),
            record("GNU.sparse.offset", b"2024"),
            record("GNU.sparse.numbytes", b"3"),
        ]
        .concat(),
        [
            record("GNU.sparse.size", total.as_bytes()),
            record("GNU.sparse.map", b"1024,512,2024,3"),
        ]
        .concat(),
        [
            record("GNU.sparse.major", b"1"),
            record("GNU.sparse.realsize", total.as_bytes()),
            record("GNU.sparse.name", b"f"),
        ]
        .concat(),
    ];
    for (number, pax) in forms.iter().enumerate() {
        let mut data = stored.clone();
        if number == 2 {
            let mut map = b"2\n1024\n512\n2024\n3\n".to_vec();
            map.resize(BLOCK, 0);
            data = [map, data].concat();
        }
        let mut archive = Vec::new();
        append(
            &mut archive,
            &header(tar::EntryType::XHeader, "x", pax.len() as u64),
            pax,
        );
        append(
            &mut archive,
            &header(tar::EntryType::Regular, "f", data.len() as u64),
            &data,
        );
        append(&mut archive, &header(tar::EntryType::Regular, "g", 0), b"");
        let all = read(&archive).unwrap();
        assert_eq!(all.len(), 2, "{number}");
        assert_eq!(all[0].1, expected, "{number}");
    }
}

#[test]
fn what_is_cut_or_lies_is_refused() {
    let mut good = Vec::new();
    append(
        &mut good,
        &header(tar::EntryType::Regular, "f", 600),
        &[1; 600],
    );
    assert_eq!(read(&good).unwrap().len(), 1);
    for length in [1, 511, 513, 1111] {
        let error = read(&good[..length]).unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss, "{length}");
    }
    let mut wrong = good.clone();
    wrong[0] ^= 1;
    assert_eq!(read(&wrong).unwrap_err().kind(), Kind::InvalidArgument);
    let bomb = header(tar::EntryType::XHeader, "x", 1 << 40);
    assert!(read(bomb.as_bytes()).is_err());
    for pax in [
        &b"5 a=\n"[..],
        b"99 a=b\n",
        b"x a=b\n",
        b"6 ab=c\n",
        b"-1 a=b\n",
        b"0 a=\n",
    ] {
        let mut archive = Vec::new();
        append(
            &mut archive,
            &header(tar::EntryType::XHeader, "x", pax.len() as u64),
            pax,
        );
        append(&mut archive, &header(tar::EntryType::Regular, "f", 0), b"");
        let result = read(&archive);
        assert_eq!(
            result.is_ok(),
            pax == b"5 a=\n",
            "{:?}",
            String::from_utf8_lossy(pax)
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_input_makes_it_panic(bytes: Vec<u8>, at in 0usize..4096, value: u8) {
        let _ = read(&bytes);
        let pax = record("GNU.sparse.map", b"0,1,2,3");
        let mut archive = Vec::new();
        append(&mut archive, &header(tar::EntryType::XHeader, "x", pax.len() as u64), &pax);
        append(&mut archive, &header(tar::EntryType::Regular, "f", 600), &[1; 600]);
        let at = at % archive.len();
        archive[at] = value;
        if let Ok(mut checked) = <[u8; 512]>::try_from(&archive[..512]).map(|block| *tar::Header::from_byte_slice(&block).as_bytes()) {
            let mut header = tar::Header::from_byte_slice(&checked).clone();
            header.set_cksum();
            checked = *header.as_bytes();
            archive[..512].copy_from_slice(&checked);
        }
        let _ = read(&archive);
    }
}
