//! Snapshotters in other processes: ours under upstream's containerd and under our own daemon, and some that misbehave.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::{Ctr, Daemon, Engine, Image, Peers, binaries, eventually};

const IMAGE: &str = "example.org/many:1";
const SOON: Duration = Duration::from_secs(20);

/// A process that serves one of our snapshotters.
struct Plugin {
    root: PathBuf,
    address: PathBuf,
    child: Child,
}

impl Plugin {
    /// Starts a plugin in `folder` and waits until it serves.
    fn start(folder: &Path) -> Self {
        let (root, address) = (folder.join("snapshots"), folder.join("plugin.sock"));
        let child = spawn(&root, &address);
        let plugin = Self {
            root,
            address,
            child,
        };
        plugin.wait();
        plugin
    }

    /// Kills the plugin with no warning, and starts it again.
    fn kill_and_restart(&mut self) {
        self.kill();
        self.child = spawn(&self.root, &self.address);
        self.wait();
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill a child of ours");
        self.child.wait().expect("wait for a child of ours");
    }

    fn wait(&self) {
        eventually("the plugin serves", SOON, || {
            UnixStream::connect(&self.address).ok()
        });
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(root: &Path, address: &Path) -> Child {
    let program = binaries::find("cortend").expect("cortend is built");
    let log = root.with_extension("log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .expect("open the log");
    Command::new(program)
        .arg("snapshotter")
        .arg("--root")
        .arg(root)
        .arg("--address")
        .arg(address)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("start the plugin")
}

/// Starts a daemon that has the snapshotter `far` at this address.
fn daemon(engine: Engine, peers: &Peers, address: &Path, capabilities: &str) -> Daemon {
    let version = match engine {
        Engine::Corten => "version = 3\n",
        _ => "",
    };
    let address = address.display().to_string();
    let config = format!(
        "{version}[proxy_plugins.far]\ntype = \"snapshot\"\naddress = {address:?}\ncapabilities = [{capabilities}]\n\
         [proxy_plugins.far.exports]\nroot = \"/far\"\n"
    );
    Daemon::start_with(engine, peers, &config)
}

fn import(daemon: &Daemon, args: &[&str]) {
    let image = Image::busybox();
    let archive = image.write_archive(daemon.folder(), IMAGE);
    let archive = archive.display().to_string();
    let command = [&["images", "import"], args, &[&archive]].concat();
    daemon.ctr().ok(&command);
}

/// Runs a container to its end upon a snapshotter, and returns what it has written.
fn echo(ctr: &Ctr, snapshotter: &str, id: &str) -> String {
    let script =
        "echo written > /file; cat /file; grep -q ' / overlay ' /proc/mounts && echo overlay";
    ctr.ok(&[
        "run",
        "--rm",
        "--snapshotter",
        snapshotter,
        IMAGE,
        id,
        "/bin/sh",
        "-c",
        script,
    ])
}

fn snapshots(ctr: &Ctr) -> Vec<String> {
    let table = ctr.ok(&["snapshots", "--snapshotter", "far", "ls"]);
    let rows = table.lines().skip(1);
    let mut rows: Vec<String> = rows
        .map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    rows.sort();
    rows
}

#[test]
fn our_snapshotter_is_a_proxy_plugin_that_can_be_killed_at_any_time() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let listed = [
        (Engine::Containerd2, ""),
        (Engine::Corten, ""),
        (Engine::Corten, "\"rebase\""),
    ]
    .map(|(engine, capabilities)| {
        let folder = tempfile::tempdir().expect("make a folder");
        let mut plugin = Plugin::start(folder.path());
        let daemon = daemon(engine, &peers, &plugin.address, capabilities);
        let ctr = daemon.ctr();
        import(&daemon, &["--local", "--snapshotter", "far"]);
        assert_eq!(echo(&ctr, "far", "first"), "written\noverlay\n");
        let listed = snapshots(&ctr);

        let command = [
            "run",
            "-d",
            "--snapshotter",
            "far",
            IMAGE,
            "lives",
            "sleep",
            "1000",
        ];
        ctr.ok(&command);
        plugin.kill_and_restart();
        // A client that was refused in between waits before it connects again.
        eventually("the daemon is connected again", SOON, || {
            let listing = ctr.run(&["snapshots", "--snapshotter", "far", "ls"]);
            (listing.code == Some(0)).then_some(())
        });
        assert_eq!(snapshots(&ctr).len(), listed.len() + 1);
        assert_eq!(echo(&ctr, "far", "second"), "written\noverlay\n");
        let inside = [
            "tasks",
            "exec",
            "--exec-id",
            "e",
            "lives",
            "/bin/echo",
            "alive",
        ];
        assert_eq!(ctr.ok(&inside), "alive\n");
        ctr.ok(&["tasks", "delete", "--force", "lives"]);
        ctr.ok(&["containers", "rm", "lives"]);

        ctr.ok(&["images", "rm", "--sync", IMAGE]);
        eventually("the plugin has removed all snapshots", SOON, || {
            let left = std::fs::read_dir(plugin.root.join("snapshots")).ok()?;
            (left.count() == 0 && snapshots(&ctr).is_empty()).then_some(())
        });
        daemon.assert_nothing_left();
        listed
    });
    assert!(!listed[0].is_empty());
    assert_eq!(listed[1], listed[0], "left: ours, right: upstream's");
    assert_eq!(listed[2], listed[0], "left: ours, right: upstream's");
}

#[test]
fn a_proxy_plugin_is_listed_with_its_address_and_exports() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("make a folder");
    let address = folder.path().join("nobody.sock");
    let [upstream, ours] = [Engine::Containerd2, Engine::Corten].map(|engine| {
        let daemon = daemon(engine, &peers, &address, "\"rebase\"");
        let filter = "type==io.containerd.snapshotter.v1,id==far";
        let listed = daemon.ctr().ok(&["plugins", "ls", "--detailed", filter]);
        let shown = listed.lines().filter(|line| !line.contains("Platforms"));
        // Upstream's exports are in another order each time.
        let mut lines: Vec<String> = shown
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        lines
    });
    assert!(ours.iter().any(|line| line.contains("rebase")), "{ours:?}");
    assert_eq!(ours, upstream, "left: ours, right: upstream's");
}

/// Fails unless everything that does not need the proxy works, collections included.
fn others_work(daemon: &Daemon) {
    let ctr = daemon.ctr();
    import(daemon, &["--local"]);
    assert_eq!(echo(&ctr, "overlayfs", "near"), "written\noverlay\n");
    ctr.ok(&["images", "rm", "--sync", IMAGE]);
    let left = ctr.ok(&["snapshots", "ls"]);
    assert_eq!(left.lines().count(), 1, "{left}");
    assert_eq!(ctr.ok(&["content", "ls", "-q"]), "");
}

#[test]
fn an_absent_proxy_fails_its_own_calls_alone() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("make a folder");
    for engine in [Engine::Containerd2, Engine::Corten] {
        let daemon = daemon(engine, &peers, &folder.path().join("nobody.sock"), "");
        others_work(&daemon);
        let prepared = daemon
            .ctr()
            .run(&["snapshots", "--snapshotter", "far", "prepare", "key"]);
        assert_eq!(prepared.code, Some(1), "{engine:?}: {prepared:?}");
    }
}

#[test]
fn a_hung_proxy_holds_up_nobody_else() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("make a folder");
    let address = folder.path().join("hung.sock");
    // Connections are made and never answered.
    let _listener = UnixListener::bind(&address).expect("listen");
    let daemon = daemon(Engine::Corten, &peers, &address, "");
    let mut stuck: Vec<Child> = (0..100)
        .map(|number| {
            let key = format!("key{number}");
            let command = ["snapshots", "--snapshotter", "far", "prepare", &key];
            let mut command = daemon.ctr().command(&command);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("start a client")
        })
        .collect();
    // Some wait; the others have been refused.
    eventually("only so many wait", SOON, || {
        let waiting = stuck
            .iter_mut()
            .filter_map(|child| {
                child
                    .try_wait()
                    .expect("wait for a child of ours")
                    .is_none()
                    .then_some(())
            })
            .count();
        (0 < waiting && waiting < 50).then_some(())
    });
    others_work(&daemon);
    for child in &mut stuck {
        let _ = child.kill();
        child.wait().expect("wait for a child of ours");
    }
}

#[test]
fn a_proxy_that_talks_nonsense_is_an_error() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("make a folder");
    let address = folder.path().join("nonsense.sock");
    let listener = UnixListener::bind(&address).expect("listen");
    let daemon = daemon(Engine::Corten, &peers, &address, "");
    let talk = std::thread::spawn(move || {
        // Whoever connects last, with this one word, ends it.
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept a connection");
            let mut word = [0; 4];
            let _ = stream.read_exact(&mut word);
            if &word == b"stop" {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nnonsense");
        }
    });
    let ctr = daemon.ctr();
    let prepared = ctr.run(&["snapshots", "--snapshotter", "far", "prepare", "key"]);
    assert_eq!(prepared.code, Some(1), "{prepared:?}");
    others_work(&daemon);
    let mut stop = UnixStream::connect(&address).expect("connect");
    stop.write_all(b"stop").expect("end the thread");
    talk.join().expect("the thread ends well");
}
