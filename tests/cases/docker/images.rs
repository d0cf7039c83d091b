//! Images: loaded, saved, tagged, pulled, pushed, removed.

use tests::docker::{Setup, Store};
use tests::{Dockerd, Image};

use super::{Step, long_or_skip, play, same_on_both, script_on_both};

pub(super) const LOCAL: &str = r#"
0   docker images --format '{{.Repository}}:{{.Tag}}'
0   docker tag busybox example.org/a/b:1 && docker images --format '{{.Repository}}:{{.Tag}}' | sort
0   docker inspect -f '{{.Os}}/{{.Architecture}} {{json .Config.Cmd}} {{json .Config.Env}} {{len .RootFS.Layers}}' busybox
0   docker history -q busybox | wc -l
0   docker save busybox example.org/a/b:1 -o saved.tar && tar -tf saved.tar | sed -E 's/[0-9a-f]{64}/DIGEST/' | sort | uniq -c
0   docker rmi example.org/a/b:1; docker rmi -f busybox | grep -c Untagged; docker images -q
125 docker run --rm --pull never busybox true
0   docker load -i saved.tar | sort; docker images --format '{{.Repository}}:{{.Tag}}' | sort
0   docker run --rm example.org/a/b:1 echo again
0   docker load <saved.tar | sort
1   docker load </etc/passwd
1   head -c 100000 saved.tar >short.tar; docker load -i short.tar
0   docker images --format '{{.Repository}}:{{.Tag}}' | sort
1   docker rmi not-there
1   docker tag not-there x
0   docker run -d --name user example.org/a/b:1 sleep 1000 >/dev/null; docker rmi busybox example.org/a/b:1; docker rm -f user
0   docker run -d --name user example.org/a/b:1 sleep 1000 >/dev/null; docker rmi -f example.org/a/b:1; docker rm -f user
0   docker images --format '{{.Repository}}:{{.Tag}}'
0   docker image prune -af | tail -1 | cut -d: -f1; docker images -aq; docker system df --format '{{.Type}} {{.TotalCount}}'
"#;

const REGISTRY: &str = r#"
0   docker tag busybox 127.0.0.1:5000/team/box:1 && docker push -q 127.0.0.1:5000/team/box:1
0   docker rmi 127.0.0.1:5000/team/box:1 busybox >/dev/null; docker images -q; docker pull -q 127.0.0.1:5000/team/box:1
0   docker run --rm 127.0.0.1:5000/team/box:1 echo pulled
0   docker inspect -f '{{len .RepoDigests}} {{.RepoTags}}' 127.0.0.1:5000/team/box:1
0   docker pull 127.0.0.1:5000/team/box:1 | grep -v Digest
0   docker tag 127.0.0.1:5000/team/box:1 127.0.0.1:5000/other/box:2 && docker push -q 127.0.0.1:5000/other/box:2
0   docker rmi -f $(docker images -q) >/dev/null; docker run --rm 127.0.0.1:5000/other/box:2 echo pulled by run 2>/dev/null
0   docker pull -a -q 127.0.0.1:5000/team/box
0   docker pull -q 127.0.0.1:5000/team/box@$(docker inspect -f '{{index .RepoDigests 0}}' 127.0.0.1:5000/other/box:2 | cut -d@ -f2) | sed s/@.*//
1   docker pull 127.0.0.1:5000/team/box:none
1   docker pull 127.0.0.1:5000/no/such
1   docker pull 127.0.0.1:1/no/registry
1   docker push 127.0.0.1:5000/team/unknown
0   docker manifest inspect --insecure 127.0.0.1:5000/team/box:1 | grep -c '"digest"'
0   docker rmi -f $(docker images -q | sort -u) >/dev/null; docker images -aq
"#;

const MANY: &str = r#"
0   docker load -qi many.tar; docker push -q 127.0.0.1:5000/many:1; docker rmi -f 127.0.0.1:5000/many:1 >/dev/null
0   docker pull -q 127.0.0.1:5000/many:1 && docker run --rm 127.0.0.1:5000/many:1 sh -c 'cat /data/last; ls /data | wc -l'
0   docker history -q 127.0.0.1:5000/many:1 | wc -l
0   docker save 127.0.0.1:5000/many:1 | tar -t | grep -c blobs/sha256/.
0   docker rmi 127.0.0.1:5000/many:1 | grep -c . && docker images --format '{{.Repository}}'
"#;

const PRIVATE: &str = r#"
1   docker tag busybox 10.9.9.9:5443/mine:1; docker push -q 10.9.9.9:5443/mine:1
1   echo wrong | docker login -u user --password-stdin 10.9.9.9:5443
0   echo secret | docker login -u user --password-stdin 10.9.9.9:5443 2>/dev/null
0   docker push -q 10.9.9.9:5443/mine:1 && docker rmi 10.9.9.9:5443/mine:1 >/dev/null && docker pull -q 10.9.9.9:5443/mine:1
0   docker logout 10.9.9.9:5443
1   docker rmi 10.9.9.9:5443/mine:1 >/dev/null; docker pull -q 10.9.9.9:5443/mine:1
"#;

#[test]
fn images_come_and_go_on_the_graph_driver() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Overlay2), LOCAL);
    }
}

#[test]
fn images_come_and_go_on_the_image_store() {
    script_on_both(&Setup::new(Store::Containerd), LOCAL);
}

#[test]
fn a_registry_gives_and_takes_images_on_the_graph_driver() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Overlay2), with_a_registry);
    }
}

#[test]
fn a_registry_gives_and_takes_images_on_the_image_store() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Containerd), with_a_registry);
    }
}

fn with_a_registry(dockerd: &mut Dockerd) -> Vec<Step> {
    dockerd.serve_registry("127.0.0.1:5000", "");
    let many = Image::many_layers(30, 20_000);
    let archive = many.write_docker_archive(&dockerd.work(), "127.0.0.1:5000/many:1");
    std::fs::rename(archive, dockerd.work().join("many.tar")).expect("rename the archive");
    let mut steps = play(dockerd, REGISTRY);
    steps.extend(play(dockerd, MANY));
    steps
}

#[test]
fn a_private_registry_wants_tls_and_a_password() {
    if long_or_skip() {
        for store in [Store::Overlay2, Store::Containerd] {
            let setup = Setup::new(store).trusting();
            same_on_both(&setup, |dockerd| {
                let folder = dockerd.daemon.folder().display().to_string();
                let config = format!(
                    "  tls: {{certificate: {folder}/tls.crt, key: {folder}/tls.key}}\n\
                     auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}\n"
                );
                // user, secret
                let line = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
                std::fs::write(dockerd.daemon.folder().join("htpasswd"), line)
                    .expect("write a file");
                // Not on 127.0.0.0/8, where Docker asks for no certificate.
                dockerd.ok("ip addr add 10.9.9.9/32 dev lo");
                dockerd.serve_registry("10.9.9.9:5443", &config);
                play(dockerd, PRIVATE)
            });
        }
    }
}
