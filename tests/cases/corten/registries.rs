//! Registries that do not let just anybody in, and those that stand in for others.

use tests::{Daemon, Engine, Image, Network, Peers, Registry};

use super::{Setup, on_both};

#[test]
fn a_password_opens_a_private_registry() {
    on_both(|setup| {
        let open = Registry::start();
        let pushed = open.push("busybox", "1", &Image::busybox());
        let private = open.with_password();
        let image = pushed.replace(&open.host(), &private.host());
        let pull = |options: &[&str]| {
            let line = [&["images", "pull", "--plain-http"], options, &[&image[..]]].concat();
            setup.run(&line)
        };
        for options in [
            &[][..],
            &["--user", "user:wrong"],
            &["--user", "nobody:secret"],
        ] {
            let refused = pull(options).refused();
            assert!(
                refused.contains(&format!("corten: pull {image}: ")),
                "{refused}"
            );
        }
        assert_eq!(setup.ok(&["images", "list", "-q"]), "");
        pull(&["--user", "user:secret"]).ok();
        assert_eq!(setup.ok(&["images", "list", "-q"]), format!("{image}\n"));
        // The password alone can come from the environment, where other users cannot see it.
        let line = ["images", "push", "--plain-http", "--user", "user", &image];
        let refused = setup.run(&line).refused();
        assert!(refused.contains("CORTEN_PASSWORD"), "{refused}");
        let mut push = setup.corten.command(&line);
        tests::command::run(push.env("CORTEN_PASSWORD", "secret")).ok();
        setup.ok(&["images", "remove", &image]);
        let line = [
            "images",
            "pull",
            "--plain-http",
            "--user",
            "user:secret",
            &image,
        ];
        setup.daemon.ctr().ok(&line);
        setup.ok(&["images", "remove", &image]);
        setup.assert_clean();
    });
}

#[test]
fn a_certificate_that_nobody_signed_is_refused_unless_it_need_not_be_verified() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    for engine in [Engine::Containerd2, Engine::Corten] {
        // On loopback no certificate is verified: the registry has an address of its own, in a network of its own.
        let daemon = Daemon::start_in(engine, &peers, "", Some(Network::new()));
        let corten = daemon.corten().expect("corten is built");
        let setup = Setup { daemon, corten };
        let open = Registry::start();
        let pushed = open.push("busybox", "1", &Image::busybox());
        let closed = open.with_tls(&setup.daemon);
        let image = pushed.replace(&open.host(), &closed.host());
        let refused = setup.run(&["images", "pull", &image]).refused();
        assert!(refused.contains("certificate"), "{refused}");
        setup.ok(&["images", "pull", "--skip-verify", &image]);
        assert_eq!(setup.ok(&["images", "list", "-q"]), format!("{image}\n"));
        setup.ok(&["images", "remove", &image]);
        let left: Vec<_> = std::fs::read_dir(setup.daemon.folder())
            .expect("list the folder")
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("hosts"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        setup.assert_clean();
    }
}

#[test]
fn a_mirror_stands_in_for_a_host() {
    on_both(|setup| {
        let registry = Registry::start();
        let pushed = registry.push("busybox", "1", &Image::busybox());
        let image = pushed.replace(&registry.host(), "mirrored.example");
        let hosts = setup.daemon.folder().join("certs.d");
        let host = hosts.join("mirrored.example");
        std::fs::create_dir_all(&host).expect("make a folder");
        let text = format!(
            "server = \"https://mirrored.example\"\n\n[host.\"http://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            registry.host()
        );
        std::fs::write(host.join("hosts.toml"), text).expect("write hosts.toml");
        let folder = hosts.display().to_string();
        let line = ["images", "pull", "--hosts-dir", &folder, &image];
        for client in [&setup.corten, &setup.daemon.ctr()] {
            client.ok(&line);
            assert_eq!(setup.ok(&["images", "list", "-q"]), format!("{image}\n"));
            setup.ok(&["images", "remove", &image]);
        }
        setup.assert_clean();
    });
}
