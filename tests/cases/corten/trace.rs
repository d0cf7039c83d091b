//! `corten trace run`: where the time of a start goes, with our daemon and with one that does not say.

use std::fs;

use serde_json::Value;
use tests::Engine;

use super::on_both;

#[test]
fn a_start_is_shown_call_by_call_with_what_our_daemon_did_in_each() {
    on_both(|setup| {
        let image = setup.import();
        let file = setup.daemon.folder().join("start.svg");
        let svg = file.display().to_string();
        let ours = setup.daemon.engine == Engine::Corten;
        let script = ["sh", "-c", "echo ran; exit 7"];
        let line = ["trace", "run", "--rm", "--svg", &svg, image, "traced"];
        let ended = setup.run(&[&line[..], &script].concat());
        assert_eq!(ended.code, Some(7), "{ended}");
        assert_eq!(ended.stdout, "ran\n");
        let told = &ended.stderr;
        let at = |what: &str| told.lines().position(|line| line.ends_with(what));
        let order = ["Snapshots/Prepare", "Tasks/Create", "Tasks/Start"].map(at);
        assert!(order.is_sorted() && order[0].is_some(), "{told}");
        assert_eq!(at("Tasks/Delete"), None, "that is after the start: {told}");
        assert!(told.contains("ms until the command ran: "), "{told}");
        for inside in [
            "start the shim",
            "have the shim create it",
            "commit metadata",
        ] {
            assert_eq!(at(inside).is_some(), ours, "{inside}: {told}");
        }
        let drawn = fs::read_to_string(&file).expect("read the drawing");
        assert!(
            drawn.starts_with("<svg ") && drawn.contains(">Tasks/Start<"),
            "{drawn}"
        );
        assert_eq!(drawn.contains(">start the shim<"), ours);

        let line = ["trace", "run", "--rm", "--json", image, "again", "true"];
        let calls: Value = serde_json::from_str(&setup.ok(&line)).expect("it prints JSON");
        let calls = calls.as_array().expect("a list");
        let create = calls.iter().find(|call| call["name"] == "Tasks/Create");
        let create = create.expect("the task is created");
        let took = |span: &Value| span["took_ms"].as_f64().expect("a number");
        let inside = create["inside"].as_array().expect("a list");
        assert_eq!(!inside.is_empty(), ours);
        assert!(
            inside.iter().all(|span| took(span) <= took(create)),
            "{create}"
        );
        setup.assert_clean();
    });
}
