//! `corten events`: what happens, in every namespace or where a filter looks.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::Value;
use tests::{Ctr, eventually};

use super::{LIMIT, Setup, on_both};

/// A client that writes events into a file.
struct Listener {
    child: Child,
    output: PathBuf,
}

impl Listener {
    /// Starts a client, and waits until it hears of namespaces that are made for it to hear of.
    fn start(setup: &Setup, client: &Ctr, name: &str, line: &[&str]) -> Listener {
        let output = setup.daemon.folder().join(name);
        let file = File::create(&output).expect("make a file");
        let mut command = client.command(line);
        command.stdin(Stdio::null()).stdout(file);
        let child = command.spawn().expect("start a client");
        let listener = Listener { child, output };
        let mut number = 0;
        eventually("events are heard", LIMIT, || {
            number += 1;
            let id = format!("{name}-{number}");
            setup.ok(&["ns", "create", &id]);
            setup.ok(&["ns", "rm", &id]);
            (!listener.text().is_empty()).then_some(())
        });
        listener
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.output).expect("read what was heard")
    }

    /// Waits for an event of the container `last`, and returns what was heard of containers and tasks before it, sorted.
    fn until(&self, last: &str, parse: impl Fn(&str) -> (String, String)) -> Vec<(String, String)> {
        let text = eventually("the last event is heard", LIMIT, || {
            let text = self.text();
            let whole = text.ends_with('\n') && text.contains(last);
            whole.then_some(text)
        });
        let events = text.lines().take_while(|line| !line.contains(last));
        let telling = |(_, topic): &(String, String)| {
            topic.starts_with("/containers/") || topic.starts_with("/tasks/")
        };
        let mut events: Vec<_> = events.map(parse).filter(telling).collect();
        events.sort();
        events
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The namespace and topic of a line of `corten events --json`.
fn of_json(line: &str) -> (String, String) {
    let event: Value = serde_json::from_str(line).expect("an event is JSON");
    let text = |key: &str| event[key].as_str().expect("a text").to_owned();
    (text("namespace"), text("topic"))
}

#[test]
fn events_are_told_as_ctr_tells_them_and_filtered() {
    on_both(|setup| {
        let image = setup.import();
        let own = setup.corten.namespace().to_owned();
        let filter = "topic~=\"^/namespaces/\"";
        let all = Listener::start(setup, &setup.corten, "all", &["events"]);
        let json = Listener::start(setup, &setup.corten, "json", &["events", "--json"]);
        let ctr = Listener::start(setup, &setup.daemon.ctr(), "ctr", &["events"]);
        let ends = format!("namespace=={own},topic==\"/tasks/exit\"");
        let some = Listener::start(setup, &setup.corten, "some", &["events", &ends, filter]);
        setup.ok(&["run", "--rm", image, "one", "true"]);
        // A shim's event may come after those of calls that followed.
        for listener in [&all, &json, &ctr] {
            eventually("the deletion is heard", LIMIT, || {
                listener.text().contains("/tasks/delete").then_some(())
            });
        }
        let other = setup.corten.in_namespace(&format!("{own}-b"));
        let folder = setup.daemon.folder().display().to_string();
        for (client, id) in [(&other, "elsewhere"), (&setup.corten, "last")] {
            client.ok(&["containers", "create", "--rootfs", &folder, id, "true"]);
            client.ok(&["containers", "rm", id]);
        }
        setup.ok(&["ns", "create", "last"]);
        setup.ok(&["ns", "rm", "last"]);
        let of_words = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[1].to_owned(), words[2].to_owned())
        };
        // Go prints the date, the time and the zone with blanks between them.
        let of_go = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[4].to_owned(), words[5].to_owned())
        };
        let heard = all.until("last", of_words);
        let topics = |namespace: &str| {
            let events = heard.iter().filter(|(of, _)| of == namespace);
            events.map(|(_, topic)| topic.as_str()).collect::<Vec<_>>()
        };
        let life = [
            "/containers/create",
            "/containers/delete",
            "/tasks/create",
            "/tasks/delete",
            "/tasks/exit",
            "/tasks/start",
        ];
        assert_eq!(topics(&own), life);
        assert_eq!(
            topics(other.namespace()),
            ["/containers/create", "/containers/delete"]
        );
        assert_eq!(json.until("last", of_json), heard);
        assert_eq!(ctr.until("last", of_go), heard);
        let ended = [(own.clone(), "/tasks/exit".to_owned())];
        assert_eq!(some.until("\"last\"", of_words), ended);
        let told = all.text();
        let exit = told.lines().find(|line| line.contains("/tasks/exit"));
        assert!(
            exit.is_some_and(|line| line.contains("\"exit_status\":0")),
            "{exit:?}"
        );
        setup.ok(&["ns", "rm", other.namespace()]);
    });
}
