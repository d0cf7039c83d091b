//! Networks of containers, and a stack of several services.

use tests::Dockerd;
use tests::docker::{Setup, Store};

use super::{Step, long_or_skip, play, same_on_both, script_on_both};

const NETWORKS: &str = r#"
0   docker network ls --format '{{.Name}} {{.Driver}} {{.Scope}}' | sort
0   docker run --rm busybox sh -c 'ip -o addr show | cut -d" " -f2,7; ip route | grep -c default; ls /sys/class/net'
0   docker run --rm --network none busybox ls /sys/class/net
0   docker run --rm --network host busybox ls /sys/class/net | grep -e docker0 -e '^lo'
0   docker run --rm -h boat --dns 10.1.2.3 --dns-search example.org busybox sh -c 'cat /etc/resolv.conf | grep -v "^#"; tail -1 /etc/hosts | grep -o boat'
0   docker run -d --name web -p 8080:80 busybox sh -c 'mkdir /www; echo served >/www/index.html; exec httpd -f -p 80 -h /www'
0   get() { busybox wget -q -O- http://127.0.0.1:8080/; }; eventually get; get
0   docker port web; docker ps --format '{{.Ports}}'
0   docker run --rm busybox wget -q -O- http://$(docker inspect -f '{{.NetworkSettings.IPAddress}}' web)/
125 docker run --rm -p 8080:80 busybox true 2>/dev/null
0   docker restart -t 0 web; get() { busybox wget -q -O- http://127.0.0.1:8080/; }; eventually get; get
0   docker rm -f web; busybox wget -q -O- http://127.0.0.1:8080/ 2>/dev/null || echo closed
0   docker network create --subnet 10.77.0.0/24 own | wc -c; docker network inspect -f '{{(index .IPAM.Config 0).Subnet}} {{.Driver}}' own
0   docker run -d --name server --network own --network-alias alias --ip 10.77.0.9 busybox sh -c 'mkdir /www; echo spoken >/www/index.html; exec httpd -f -p 99 -h /www'
0   talk() { docker run --rm --network own busybox wget -q -O- http://$1:99/; }; eventually talk server; talk server; talk alias; talk 10.77.0.9
0   docker run --rm --network own busybox nslookup server 2>/dev/null | grep -c 10.77.0.9
0   docker run -d --name wanderer busybox sleep 1000; docker network connect own wanderer; docker exec wanderer ls /sys/class/net; docker exec wanderer wget -q -O- http://server:99/
0   docker network disconnect own wanderer; docker exec wanderer ls /sys/class/net
0   docker run --rm --network container:server busybox sh -c 'ip -o addr show eth0 | grep -c 10.77.0.9'
1   docker network rm own
125 docker run --rm --network not-there busybox true
0   docker rm -f server wanderer; docker network rm own; docker network prune -f; docker network ls -q | wc -l
0   docker run --rm --sysctl net.ipv4.ip_forward=0 --cap-add NET_ADMIN busybox sh -c 'cat /proc/sys/net/ipv4/ip_forward; ip link add dummy0 type bridge && ip link show dummy0 | grep -c dummy0'
0   docker run --rm --mac-address 02:42:ac:11:00:77 busybox ip link show eth0 | grep -o 02:42:ac:11:00:77
"#;

const FILE: &str = r#"
services:
  redis:
    image: stack
    command: redis-server --save "" --appendonly yes --dir /data
    volumes: [data:/data]
    healthcheck: {test: [CMD, redis-cli, ping], interval: 300ms, timeout: 5s, retries: 50}
    networks: [back]
  web:
    image: busybox
    command: sh -c "mkdir -p /www; echo from $${HOSTNAME:+compose} >/www/index.html; exec httpd -f -p 80 -h /www"
    depends_on: {redis: {condition: service_healthy}}
    environment: {COLOUR: red}
    networks: [back]
  client:
    image: busybox
    command: sh -c 'until wget -q -O- http://web/; do sleep 0.2; done; echo done'
    depends_on: [web]
    networks: [back]
volumes: {data: {}}
networks: {back: {}}
"#;

const STACK: &str = r#"
0   cd stack; docker compose config --services | sort
0   cd stack; docker compose up -d 2>/dev/null; docker compose ps --format '{{.Service}} {{.State}} {{.Health}}' redis web | sort
0   cd stack; docker compose exec -T redis redis-cli set key value; docker compose exec -T redis redis-cli get key
0   cd stack; docker compose exec -T web sh -c 'echo $COLOUR; printf "get key\r\nquit\r\n" | nc -w 5 redis 6379 | tail -2'
0   cd stack; docker compose wait client; docker compose logs client --no-log-prefix | tail -2
0   cd stack; docker compose up -d --scale web=3 2>/dev/null; docker compose ps -q web | wc -l
0   cd stack; docker compose top web | grep -c httpd
0   cd stack; docker compose restart -t 1 redis 2>/dev/null; alive() { docker compose exec -T redis redis-cli ping; }; eventually alive; docker compose exec -T redis redis-cli get key
0   cd stack; docker compose pause web 2>/dev/null; docker compose ps --format '{{.State}}' web | sort; docker compose unpause web 2>/dev/null
0   cd stack; docker compose kill web 2>/dev/null; docker compose ps -a --format '{{.State}} {{.ExitCode}}' web
3   cd stack; docker compose run --rm -T client sh -c 'echo run; exit 3' 2>/dev/null
0   cd stack; docker compose down -t 1 2>/dev/null; docker ps -aq; docker volume ls -q
0   cd stack; docker compose up -d --wait redis 2>/dev/null; docker compose exec -T redis redis-cli get key
0   cd stack; docker compose down -t 1 -v 2>/dev/null; docker ps -aq; docker volume ls -q; docker network ls -q | wc -l
"#;

#[test]
fn containers_have_networks() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Overlay2).with_network(), NETWORKS);
    }
}

#[test]
fn compose_runs_a_stack_on_the_graph_driver() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Overlay2).with_network(), compose);
    }
}

#[test]
fn compose_runs_a_stack_on_the_image_store() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Containerd).with_network(), compose);
    }
}

fn compose(dockerd: &mut Dockerd) -> Vec<Step> {
    let folder = dockerd.work().join("stack");
    std::fs::create_dir(&folder).expect("make a folder");
    std::fs::write(folder.join("compose.yaml"), FILE).expect("write a file");
    let stack = dockerd.docker.stack.display().to_string();
    dockerd.ok(&format!(
        "tar -C {stack} -c . | docker import -c 'ENV PATH=/usr/bin:/bin' - stack"
    ));
    play(dockerd, STACK)
}
