//! Taking the snapshots of another store as they are.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use sys::{Context, Result};

use super::{Record, Store, check_name, crash_point, without_empty};
use crate::copy::{self, Files};
use crate::{Foreign, Kind};

impl Store {
    /// Takes `snapshots`, whose folders have their numbers in the folder `from`, and drops all others that are here.
    ///
    /// Committed snapshots share their files with `from` where the file system has links: nobody writes to those files,
    /// and whoever is done with them removes names of them. The others are copied. What an earlier call has taken of
    /// committed ones stays, so one that was cut short can be made again.
    pub fn take(&self, from: &Path, snapshots: &[Foreign]) -> Result<()> {
        self.keep(snapshots)?;
        // `restore` looks below snapshots that are not committed at the next start, even if this goes no further.
        let (below, above): (Vec<&Foreign>, Vec<&Foreign>) = snapshots
            .iter()
            .partition(|snapshot| snapshot.info.kind == Kind::Committed);
        for snapshot in below.into_iter().chain(above) {
            let name = &snapshot.info.name;
            check_name(name)?;
            if self.database.view()?.find(name)?.is_none() {
                self.take_one(from, snapshot)
                    .context(|| format!("take snapshot {name:?}"))?;
            }
        }
        Ok(())
    }

    /// Removes what is not a committed snapshot among `snapshots`, with the same number.
    fn keep(&self, snapshots: &[Foreign]) -> Result<()> {
        let names = snapshots
            .iter()
            .map(|snapshot| (snapshot.info.name.as_str(), snapshot));
        let names: HashMap<&str, &Foreign> = names.collect();
        let wanted = |name: &str, record: &Record| {
            record.kind == Kind::Committed
                && names.get(name).is_some_and(|snapshot| {
                    (snapshot.id, snapshot.info.kind) == (record.id, record.kind)
                        && snapshot.info.parent == record.parent
                })
        };
        let mut others = Vec::new();
        self.database.view()?.each(&mut |name, record| {
            if !wanted(name, &record) {
                others.push((name.to_owned(), record.parent));
            }
            Ok(())
        })?;
        if others.is_empty() {
            return Ok(());
        }
        self.database.change(|change| {
            for (name, parent) in &others {
                change.delete(name)?;
                change.unlink(parent, name)?;
            }
            Ok(())
        })?;
        self.cleanup()
    }

    fn take_one(&self, from: &Path, snapshot: &Foreign) -> Result<()> {
        let info = &snapshot.info;
        let record = Record {
            id: snapshot.id,
            kind: info.kind,
            parent: info.parent.clone(),
            labels: without_empty(&info.labels),
            created: info.created,
            updated: info.updated,
            usage: snapshot.usage,
        };
        let making = self.folders.begin()?;
        let source = from.join(record.id.to_string());
        let files = match info.kind {
            Kind::View => {
                let parents = self.parents(&self.database.view()?, &record)?;
                (self.layout.fill)(making.path(), info.kind, &parents, None)?;
                None
            }
            Kind::Active => Some(Files::Copied),
            Kind::Committed => Some(Files::Linked),
        };
        if let Some(files) = files {
            (self.layout.fill)(making.path(), info.kind, &[], None)?;
            let [source, target] = [&source, making.path()].map(|at| at.join(self.layout.content));
            copy::tree(&source, &target, files)?;
        }
        // The record is to be durable: so must be what it is of, which only its owner could make again.
        File::open(making.path())
            .and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
            .context(|| "sync the copy")?;
        crash_point("filled");
        self.database.change(|change| {
            change.put(&info.name, &record)?;
            change.link(&record.parent, &info.name)?;
            change.reserve(record.id)?;
            making.place(record.id).map(drop)?;
            crash_point("placed");
            Ok(())
        })?;
        crash_point("recorded");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::overlay::{Options, Overlay};
    use crate::{Info, Labels, Snapshotter, Usage};

    fn snapshot(id: u64, kind: Kind, name: &str, parent: &str) -> Foreign {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(id);
        Foreign {
            id,
            info: Info {
                kind,
                name: name.into(),
                parent: parent.into(),
                labels: Labels::from([("a".into(), name.into())]),
                created,
                updated: created,
            },
            usage: Usage { inodes: 3, size: 7 },
        }
    }

    /// Folders as containerd's overlay snapshotter has them: a rebased base, a layer above it, what is at work there.
    fn source(root: &Path) -> (PathBuf, Vec<Foreign>) {
        for (id, file) in [(9, "base"), (4, "layer"), (12, "own")] {
            let folder = root.join(id.to_string()).join("fs");
            fs::create_dir_all(folder.join("etc")).unwrap();
            fs::write(folder.join("etc").join(file), file).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        }
        symlink("nowhere", root.join("4/fs/etc/symlink")).unwrap();
        fs::hard_link(root.join("12/fs/etc/own"), root.join("12/fs/etc/twin")).unwrap();
        fs::create_dir_all(root.join("13/fs")).unwrap();
        let snapshots = vec![
            snapshot(4, Kind::Committed, "layer", "base"),
            snapshot(9, Kind::Committed, "base", ""),
            snapshot(12, Kind::Active, "active", "layer"),
            snapshot(13, Kind::View, "view", "layer"),
        ];
        (root.to_owned(), snapshots)
    }

    fn infos(snapshotter: &Overlay) -> Vec<Info> {
        let mut infos = Vec::new();
        let mut note = |info| {
            infos.push(info);
            Ok(())
        };
        snapshotter.walk(&mut note).unwrap();
        infos
    }

    #[test]
    fn foreign_snapshots_are_taken_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (from, snapshots) = source(&folder.path().join("from"));
        let root = folder.path().join("to");
        let overlay = Overlay::open(&root, Options::default()).unwrap();
        overlay.prepare("own", "", &Labels::new()).unwrap();
        overlay.take(&from, &snapshots).unwrap();

        let mut expected: Vec<Info> = snapshots.iter().map(|taken| taken.info.clone()).collect();
        expected.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(infos(&overlay), expected);
        assert_eq!(
            overlay.usage("layer").unwrap(),
            Usage { inodes: 3, size: 7 }
        );
        let inode = |path: PathBuf| path.symlink_metadata().unwrap().ino();
        let at = |root: &Path, path: &str| inode(root.join(path));
        let here = root.join("snapshots");
        for shared in ["9/fs/etc/base", "4/fs/etc/layer", "4/fs/etc/symlink"] {
            assert_eq!(at(&here, shared), at(&from, shared), "{shared}");
        }
        assert_ne!(at(&here, "12/fs/etc/own"), at(&from, "12/fs/etc/own"));
        assert_eq!(at(&here, "12/fs/etc/own"), at(&here, "12/fs/etc/twin"));
        assert_eq!(fs::read(here.join("12/fs/etc/own")).unwrap(), b"own");
        for layer in ["4", "9", "12", "13"] {
            let mode = fs::metadata(here.join(layer).join("fs")).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o750, "{layer}");
        }
        assert!(here.join("12/work").is_dir());
        let options = overlay.mounts("active").unwrap()[0].options.join(",");
        let lower = ["4", "9"].map(|layer| here.join(layer).join("fs").display().to_string());
        let lower = format!("lowerdir={}", lower.join(":"));
        assert!(options.contains(&lower), "{options}");
        overlay.prepare("next", "layer", &Labels::new()).unwrap();
        assert!(here.join("14/fs").is_dir());
    }

    #[test]
    fn a_second_call_keeps_what_cannot_have_changed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (from, mut snapshots) = source(&folder.path().join("from"));
        let root = folder.path().join("to");
        let overlay = Overlay::open(&root, Options::default()).unwrap();
        overlay.take(&from, &snapshots).unwrap();
        let kept = root.join("snapshots/4");
        let before = fs::metadata(&kept).unwrap().ino();
        // Meanwhile containerd has gone on.
        fs::write(from.join("12/fs/etc/own"), "changed").unwrap();
        snapshots.pop();
        overlay.take(&from, &snapshots).unwrap();
        assert_eq!(fs::metadata(&kept).unwrap().ino(), before);
        assert_eq!(
            fs::read(root.join("snapshots/12/fs/etc/own")).unwrap(),
            b"changed"
        );
        assert_eq!(infos(&overlay).len(), 3);
        assert!(!root.join("snapshots/13").exists());
        fs::remove_dir_all(&from).unwrap();
        assert_eq!(fs::read(kept.join("fs/etc/layer")).unwrap(), b"layer");
    }
}
