//! Cases about the files of snapshots.
#![allow(clippy::unwrap_used, reason = "a case fails by a panic")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::{Case, labels, layer, mounted, names, read};
use crate::{CommitOptions, Labels, Snapshotter};

pub(super) const CASES: &[Case] = &[
    ("layers_add_change_and_remove_files", layers_add_up),
    ("siblings_do_not_see_each_other", siblings),
    ("a_view_cannot_be_written", views_are_read_only),
    ("files_keep_all_that_is_known_of_them", attributes),
    ("the_root_keeps_its_owner_and_mode", roots),
    (
        "a_folder_replaces_a_file_and_the_other_way_round",
        replacements,
    ),
    ("a_hundred_and_more_layers_are_one_file_system", many_layers),
    ("usage_counts_inodes_and_blocks", usage),
    (
        "snapshots_are_made_and_removed_by_many_at_once",
        concurrency,
    ),
];

/// Shows `name` to `work` read-only.
fn viewed<T>(snapshotter: &dyn Snapshotter, name: &str, work: impl FnOnce(&Path) -> T) -> T {
    let key = format!("viewing {name}");
    let mounts = snapshotter.view(&key, name, &Labels::new()).unwrap();
    let result = mounted(&mounts, work);
    snapshotter.remove(&key).unwrap();
    result
}

fn layers_add_up(snapshotter: &dyn Snapshotter) {
    layer(snapshotter, "one", "", |root| {
        fs::write(root.join("kept"), "1").unwrap();
        fs::write(root.join("changed"), "1").unwrap();
        fs::create_dir(root.join("gone")).unwrap();
        fs::write(root.join("gone/file"), "1").unwrap();
    });
    layer(snapshotter, "two", "one", |root| {
        fs::write(root.join("changed"), "2").unwrap();
        fs::remove_dir_all(root.join("gone")).unwrap();
        fs::write(root.join("new"), "2").unwrap();
    });
    layer(snapshotter, "three", "two", |root| {
        assert!(!root.join("gone").exists());
        fs::create_dir(root.join("gone")).unwrap();
    });
    viewed(snapshotter, "three", |root| {
        assert_eq!(read(root.join("kept")), "1");
        assert_eq!(read(root.join("changed")), "2");
        assert_eq!(read(root.join("new")), "2");
        assert_eq!(fs::read_dir(root.join("gone")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(root).unwrap().count(), 4);
    });
    viewed(snapshotter, "one", |root| {
        assert_eq!(read(root.join("changed")), "1");
        assert_eq!(read(root.join("gone/file")), "1");
        assert!(!root.join("new").exists());
    });
}

fn siblings(snapshotter: &dyn Snapshotter) {
    layer(snapshotter, "base", "", |root| {
        fs::write(root.join("file"), "base").unwrap();
    });
    let left = snapshotter.prepare("left", "base", &Labels::new()).unwrap();
    let right = snapshotter
        .prepare("right", "base", &Labels::new())
        .unwrap();
    mounted(&left, |root| fs::write(root.join("file"), "left").unwrap());
    mounted(&right, |root| {
        assert_eq!(read(root.join("file")), "base");
        fs::remove_file(root.join("file")).unwrap();
    });
    mounted(&snapshotter.mounts("left").unwrap(), |root| {
        assert_eq!(read(root.join("file")), "left");
    });
}

fn views_are_read_only(snapshotter: &dyn Snapshotter) {
    layer(snapshotter, "one", "", |_| {});
    layer(snapshotter, "two", "one", |_| {});
    for (key, parent) in [("none", ""), ("single", "one"), ("several", "two")] {
        let mounts = snapshotter.view(key, parent, &Labels::new()).unwrap();
        mounted(&mounts, |root| {
            let error = fs::write(root.join("file"), "").unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ReadOnlyFilesystem,
                "{key}"
            );
        });
    }
}

fn attributes(snapshotter: &dyn Snapshotter) {
    let time = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    layer(snapshotter, "one", "", |root| {
        let file = fs::File::create(root.join("file")).unwrap();
        file.write_all_at(b"end", 10 << 20).unwrap();
        std::os::unix::fs::chown(root.join("file"), Some(1000), Some(2000)).unwrap();
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        rustix::fs::lsetxattr(
            root.join("file"),
            "security.capability",
            &capability,
            XattrFlags::empty(),
        )
        .unwrap();
        file.set_permissions(Permissions::from_mode(0o4751))
            .unwrap();
        file.set_modified(time).unwrap();
        fs::hard_link(root.join("file"), root.join("link")).unwrap();
        symlink("/nowhere/\u{e9}", root.join("symlink")).unwrap();
        std::os::unix::fs::lchown(root.join("symlink"), Some(7), Some(8)).unwrap();
        let mode = Mode::from_raw_mode(0o640);
        let node = |name: &str, kind, device| {
            rustix::fs::mknodat(CWD, root.join(name), kind, mode, device).unwrap();
        };
        node("fifo", FileType::Fifo, 0);
        node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        node("block", FileType::BlockDevice, rustix::fs::makedev(7, 0));
        fs::create_dir(root.join("dir")).unwrap();
        fs::set_permissions(root.join("dir"), Permissions::from_mode(0o1777)).unwrap();
        fs::File::open(root.join("dir"))
            .unwrap()
            .set_modified(time)
            .unwrap();
    });
    let active = snapshotter
        .prepare("active", "one", &Labels::new())
        .unwrap();
    mounted(&active, |root| {
        let stat = |name: &str| root.join(name).symlink_metadata().unwrap();
        let file = stat("file");
        assert_eq!((file.uid(), file.gid()), (1000, 2000));
        assert_eq!(file.mode() & 0o7777, 0o4751);
        assert_eq!(file.modified().unwrap(), time);
        assert_eq!(file.len(), (10 << 20) + 3);
        assert!(file.blocks() * 512 < 1 << 20, "the hole was filled");
        assert_eq!((file.nlink(), file.ino()), (2, stat("link").ino()));
        let mut value = [0; 64];
        let path = root.join("link");
        let length =
            rustix::fs::lgetxattr(path, "security.capability", value.as_mut_slice()).unwrap();
        assert_eq!((length, value[5]), (20, 0x20));
        let target = fs::read_link(root.join("symlink")).unwrap();
        assert_eq!(target, Path::new("/nowhere/\u{e9}"));
        assert_eq!((stat("symlink").uid(), stat("symlink").gid()), (7, 8));
        assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
        assert_eq!(stat("block").rdev(), rustix::fs::makedev(7, 0));
        assert_eq!(stat("dir").mode() & 0o7777, 0o1777);
        assert_eq!(stat("dir").modified().unwrap(), time);
    });
}

fn roots(snapshotter: &dyn Snapshotter) {
    layer(snapshotter, "one", "", |root| {
        std::os::unix::fs::chown(root, Some(1000), Some(2000)).unwrap();
        fs::set_permissions(root, Permissions::from_mode(0o711)).unwrap();
    });
    layer(snapshotter, "two", "one", |_| {});
    let active = snapshotter
        .prepare("active", "two", &Labels::new())
        .unwrap();
    mounted(&active, |root| {
        let stat = root.metadata().unwrap();
        assert_eq!((stat.uid(), stat.gid()), (1000, 2000));
        assert_eq!(stat.mode() & 0o7777, 0o711);
    });
}

fn replacements(snapshotter: &dyn Snapshotter) {
    layer(snapshotter, "one", "", |root| {
        fs::create_dir_all(root.join("dir/below")).unwrap();
        fs::write(root.join("file"), "1").unwrap();
    });
    layer(snapshotter, "two", "one", |root| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::write(root.join("dir"), "2").unwrap();
        fs::remove_file(root.join("file")).unwrap();
        fs::create_dir(root.join("file")).unwrap();
    });
    viewed(snapshotter, "two", |root| {
        assert_eq!(read(root.join("dir")), "2");
        assert!(root.join("file").is_dir());
    });
}

fn many_layers(snapshotter: &dyn Snapshotter) {
    let count = 130;
    let mut parent = String::new();
    for number in 0..count {
        let name = format!("sha256:{number:064}");
        layer(snapshotter, &name, &parent, |root| {
            fs::write(root.join(format!("own-{number}")), "").unwrap();
            fs::write(root.join("top"), number.to_string()).unwrap();
        });
        parent = name;
    }
    let active = snapshotter
        .prepare("active", &parent, &Labels::new())
        .unwrap();
    mounted(&active, |root| {
        assert_eq!(fs::read_dir(root).unwrap().count(), count + 1);
        assert_eq!(read(root.join("top")), (count - 1).to_string());
    });
}

fn usage(snapshotter: &dyn Snapshotter) {
    let mounts = snapshotter.prepare("key", "", &Labels::new()).unwrap();
    let empty = snapshotter.usage("key").unwrap();
    assert_eq!(empty.inodes, 1);
    mounted(&mounts, |root| {
        fs::write(root.join("file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(root.join("file"), root.join("link")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
    });
    let used = snapshotter.usage("key").unwrap();
    assert_eq!(used.inodes, 3);
    let size = used.size - empty.size;
    assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&size), "{size}");
    snapshotter
        .commit("name", "key", &CommitOptions::default())
        .unwrap();
    assert_eq!(snapshotter.usage("name").unwrap(), used);
    snapshotter.view("view", "name", &Labels::new()).unwrap();
    assert_eq!(snapshotter.usage("view").unwrap().inodes, 0);
}

fn concurrency(snapshotter: &dyn Snapshotter) {
    layer(snapshotter, "base", "", |root| {
        fs::write(root.join("file"), "base").unwrap();
    });
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..5 {
                    let key = format!("{thread}-{round}");
                    let mark = labels(&[("thread", "x")]);
                    snapshotter.prepare(&key, "base", &mark).unwrap();
                    snapshotter.cleanup().unwrap();
                    let folder = snapshotter.mounts(&key).unwrap();
                    assert!(!folder.is_empty());
                    if round % 2 == 0 {
                        snapshotter.remove(&key).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(names(snapshotter).len(), 1 + 4 * 2);
    for (key, _) in names(snapshotter) {
        if key != "base" {
            mounted(&snapshotter.mounts(&key).unwrap(), |root| {
                assert_eq!(read(root.join("file")), "base");
            });
        }
    }
}
