//! Mounting for real, in private mount namespaces, by both interfaces.

use std::fs;

use super::*;

fn overlay(options: &[String]) -> Mount {
    Mount {
        fstype: "overlay".to_string(),
        source: "overlay".to_string(),
        target: String::new(),
        options: options.to_vec(),
    }
}

fn tmpfs(target: &Path) {
    let tmpfs = Mount {
        fstype: "tmpfs".to_string(),
        source: "tmpfs".to_string(),
        target: String::new(),
        options: vec!["mode=700".to_string(), "nosuid".to_string()],
    };
    tmpfs.mount(target).unwrap();
}

/// A scratch folder on a tmpfs in a private mount namespace; `None` without the right to make one.
fn scratch() -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: mounting needs root");
        return None;
    }
    private_namespace().unwrap();
    let dir = tempfile::tempdir().unwrap();
    tmpfs(dir.path());
    Some(dir)
}

/// The test's own tmpfs goes with its namespace, but the folder under it is removed by path.
fn finish(dir: tempfile::TempDir) {
    unmount_all(dir.path()).unwrap();
    dir.close().unwrap();
}

/// Makes `count` layers, each with a file of its own and one that all have; returns overlay's options.
fn layers(root: &Path, count: usize, name_length: usize) -> Vec<String> {
    let base = root.join("x".repeat(name_length));
    let mut lower = Vec::new();
    for number in (0..count).rev() {
        let layer = base.join(number.to_string()).join("fs");
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join(format!("own-{number}")), "").unwrap();
        fs::write(layer.join("top"), number.to_string()).unwrap();
        lower.push(layer.to_str().unwrap().to_string());
    }
    let (upper, work) = (root.join("upper"), root.join("work"));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&work).unwrap();
    vec![
        "index=off".to_string(),
        format!("workdir={}", work.display()),
        format!("upperdir={}", upper.display()),
        format!("lowerdir={}", lower.join(":")),
    ]
}

fn check_layers(target: &Path, count: usize) {
    let names = fs::read_dir(target).unwrap().count();
    assert_eq!(names, count + 1);
    let top = fs::read_to_string(target.join("top")).unwrap();
    assert_eq!(top, (count - 1).to_string());
    fs::write(target.join("top"), "written").unwrap();
    fs::remove_file(target.join("own-0")).unwrap();
}

fn by_mount2(mount: &Mount, target: &Path) -> Result<()> {
    let at = resolve(mount, target)?;
    old::mount(mount, &Options::parse(&mount.options), at.as_fd())
}

#[test]
fn hundreds_of_layers_with_long_paths_are_mounted() {
    let Some(dir) = scratch() else { return };
    for (count, length) in [(1, 10), (128, 200), (500, 200)] {
        let root = dir.path().join(count.to_string());
        let target = root.join("target");
        fs::create_dir_all(&target).unwrap();
        let mount = overlay(&layers(&root, count, length));
        mount.mount(&target).unwrap();
        check_layers(&target, count);
        unmount_all(&target).unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
    finish(dir);
}

#[test]
fn more_layers_than_the_kernel_takes_are_refused_with_its_words() {
    let Some(dir) = scratch() else { return };
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let error = overlay(&layers(dir.path(), 501, 200))
        .mount(&target)
        .unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("limit is 500"), "{message}");
    finish(dir);
}

#[test]
fn both_interfaces_give_the_same_overlay() {
    let Some(dir) = scratch() else { return };
    for count in [1, 30, 200] {
        let mut seen = Vec::new();
        for interface in ["new", "old"] {
            let root = dir.path().join(format!("{interface}-{count}"));
            let target = root.join("target");
            fs::create_dir_all(&target).unwrap();
            let mut options = layers(&root, count, 150);
            options.push("nosuid".to_string());
            let mount = overlay(&options);
            match interface {
                "new" => mount.mount(&target).unwrap(),
                _ => by_mount2(&mount, &target).unwrap(),
            }
            let all = entries().unwrap();
            let entry = all.iter().find(|entry| entry.target == target).unwrap();
            let own = entry
                .super_options
                .split(',')
                .filter(|option| !option.contains("dir"))
                .collect::<Vec<_>>()
                .join(",");
            seen.push((entry.options.clone(), entry.source.clone(), own));
            check_layers(&target, count);
            unmount_all(&target).unwrap();
        }
        assert_eq!(seen[0], seen[1]);
    }
    finish(dir);
}

#[test]
fn both_interfaces_give_the_same_bind() {
    let Some(dir) = scratch() else { return };
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("below")).unwrap();
    tmpfs(&source.join("below"));
    fs::write(source.join("below/file"), "").unwrap();
    for options in [
        vec!["bind"],
        vec!["rbind", "rw"],
        vec!["rbind", "ro"],
        vec!["bind", "ro", "nodev", "noexec", "noatime"],
    ] {
        let mut seen = Vec::new();
        let mount = Mount {
            fstype: "bind".to_string(),
            source: source.to_str().unwrap().to_string(),
            target: String::new(),
            options: options.iter().map(ToString::to_string).collect(),
        };
        let target = dir.path().join("target");
        fs::create_dir_all(&target).unwrap();
        for mounter in [Mount::mount, by_mount2] {
            mounter(&mount, &target).unwrap();
            let mut table: Vec<String> = entries()
                .unwrap()
                .into_iter()
                .filter(|entry| entry.target.starts_with(&target))
                // mount(2) drops the source's flags when it sets others, the new interface adds to them.
                .map(|entry| entry.options.replace("nosuid,", "").replace(",nosuid", ""))
                .collect();
            table.push(target.join("below/file").exists().to_string());
            table.push(fs::write(target.join("new"), "").is_ok().to_string());
            seen.push(table);
            unmount_all(&target).unwrap();
        }
        assert_eq!(seen[0], seen[1], "{options:?}");
    }
    finish(dir);
}

#[test]
fn a_failure_undoes_the_mounts_before_it() {
    let Some(dir) = scratch() else { return };
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let good = overlay(&layers(dir.path(), 2, 5));
    let bad = Mount {
        fstype: "no-such-fs".to_string(),
        ..Mount::default()
    };
    let error = mount_all(&[good, bad], &target).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NODEV));
    let all = entries().unwrap();
    assert!(all.iter().all(|entry| entry.target != target));
    finish(dir);
}

#[test]
fn a_target_below_the_target_cannot_lead_out_of_it() {
    let Some(dir) = scratch() else { return };
    let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
    fs::create_dir_all(target.join("outside")).unwrap();
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink("../../outside", target.join("link")).unwrap();
    let mount = Mount {
        fstype: "tmpfs".to_string(),
        source: "tmpfs".to_string(),
        target: "link".to_string(),
        options: Vec::new(),
    };
    mount_all(&[mount], &target).unwrap();
    let all = entries().unwrap();
    assert!(all.iter().all(|entry| entry.target != outside));
    let inside = target.join("outside");
    assert!(all.iter().any(|entry| entry.target == inside));
    finish(dir);
}

#[test]
fn a_busy_mount_is_detached() {
    let Some(dir) = scratch() else { return };
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    tmpfs(&target);
    fs::create_dir(target.join("below")).unwrap();
    tmpfs(&target.join("below"));
    let user = fs::File::create(target.join("below/open")).unwrap();
    unmount_all(&target).unwrap();
    let all = entries().unwrap();
    assert!(all.iter().all(|entry| !entry.target.starts_with(&target)));
    drop(user);
    unmount_all(&target).unwrap();
    unmount_all(&dir.path().join("not-there")).unwrap();
    finish(dir);
}

#[test]
fn a_temporary_mount_leaves_nothing() {
    let Some(dir) = scratch() else { return };
    let mounts = [overlay(&layers(dir.path(), 3, 5))];
    let holder = dir.path().join("holder");
    fs::create_dir(&holder).unwrap();
    let mount = TempMount::new_in(&holder, &mounts).unwrap();
    let path = mount.path().to_path_buf();
    check_layers(&path, 3);
    drop(mount);
    assert!(!path.exists());
    let view = TempMount::new_in(&holder, &read_only(&mounts)).unwrap();
    assert_eq!(
        fs::read_to_string(view.path().join("top")).unwrap(),
        "written"
    );
    assert!(fs::write(view.path().join("top"), "").is_err());
    view.close().unwrap();
    assert_eq!(fs::read_dir(&holder).unwrap().count(), 0);
    finish(dir);
}

#[test]
fn mounts_become_read_only_recursively() {
    let Some(dir) = scratch() else { return };
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    tmpfs(&target);
    fs::create_dir(target.join("below")).unwrap();
    tmpfs(&target.join("below"));
    remount_readonly(&target, false).unwrap();
    assert!(fs::write(target.join("a"), "").is_err());
    fs::write(target.join("below/a"), "").unwrap();
    remount_readonly(&target, true).unwrap();
    assert!(fs::write(target.join("below/b"), "").is_err());
    finish(dir);
}

#[test]
fn both_interfaces_map_the_owners_of_lower_folders() {
    use std::os::unix::fs::MetadataExt;
    let Some(dir) = scratch() else { return };
    let mut options = layers(dir.path(), 3, 4);
    options.extend(["uidmap=0:1000:10", "gidmap=0:2000:10"].map(str::to_owned));
    let mount = overlay(&options);
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let own = format!("corten-mount-{}-", std::process::id());
    let left = || {
        let names = fs::read_dir(std::env::temp_dir()).unwrap();
        let mut names = names.map(|name| name.unwrap().file_name());
        names.any(|name| name.to_string_lossy().starts_with(&own))
    };
    let by_new: fn(&Mount, &Path) -> Result<()> = Mount::mount;
    for interface in [by_new, by_mount2] {
        interface(&mount, &target).unwrap();
        let found = fs::metadata(target.join("top")).unwrap();
        assert_eq!((found.uid(), found.gid()), (1000, 2000));
        // What is copied up belongs to the same on disk.
        fs::write(target.join("own-1"), "changed").unwrap();
        let upper = fs::metadata(dir.path().join("upper/own-1")).unwrap();
        assert_eq!((upper.uid(), upper.gid()), (1000, 2000));
        unmount_all(&target).unwrap();
        assert!(!left(), "no folder is left");
        let readable = &read_only(std::slice::from_ref(&mount))[0];
        interface(readable, &target).unwrap();
        assert!(fs::write(target.join("new"), "").is_err());
        unmount_all(&target).unwrap();
    }
    let half = overlay(&[options[3].clone(), "uidmap=0:1:1".to_owned()]);
    assert!(half.mount(&target).is_err());
    finish(dir);
}

#[test]
fn the_owners_of_a_bind_are_mapped() {
    use std::os::unix::fs::MetadataExt;
    let Some(dir) = scratch() else { return };
    let [source, target] = ["source", "target"].map(|name| dir.path().join(name));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join("file"), "").unwrap();
    let mount = Mount {
        fstype: "bind".to_string(),
        source: source.display().to_string(),
        target: String::new(),
        options: ["ro", "rbind", "uidmap=0:7:1", "gidmap=0:8:1"]
            .map(str::to_owned)
            .into(),
    };
    mount.mount(&target).unwrap();
    let found = fs::metadata(target.join("file")).unwrap();
    assert_eq!((found.uid(), found.gid()), (7, 8));
    finish(dir);
}
