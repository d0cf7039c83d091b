//! The pages of parity are whole: no RPC and no flag without a row, no row without a reason to be believed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use tests::{Peers, binaries, command};
use toml::{Table, Value};

const PAGE: &str = "docs/parity/containerd.toml";
const RUNTIME: &str = "docs/parity/runtime.toml";
const CTR: &str = "docs/parity/ctr.toml";
const STATES: [&str; 3] = ["full", "partial", "no"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is in the workspace")
}

/// Returns the rows of one kind.
fn rows(kind: &str) -> Vec<Table> {
    rows_of(PAGE, kind)
}

/// Returns the rows of one kind of a page.
fn rows_of(page: &str, kind: &str) -> Vec<Table> {
    let text = fs::read_to_string(root().join(page)).expect("read the page");
    let page: Table = text.parse().expect("the page is TOML");
    let rows = page
        .get(kind)
        .and_then(Value::as_array)
        .expect("it has rows");
    let table = |row: &Value| row.as_table().cloned().expect("a row is a table");
    rows.iter().map(table).collect()
}

fn text<'a>(row: &'a Table, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the RPCs of the daemon's services, such as `leases.v1.Leases/Create`.
fn rpcs() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let protos = fs::read_dir(root().join("api-protos/proto")).expect("list the protos");
    for entry in protos {
        let path = entry.expect("list the protos").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("containerd.services.") && !name.starts_with("grpc.health.") {
            continue;
        }
        let proto = fs::read_to_string(&path).expect("read a proto");
        let (mut package, mut service) = (String::new(), String::new());
        for line in proto.lines().map(str::trim) {
            let words: Vec<&str> = line.split([' ', '(', ';', '{']).collect();
            match words.as_slice() {
                ["package", name, ..] => {
                    package = name.trim_start_matches("containerd.services.").to_owned();
                }
                ["service", name, ..] => service = (*name).to_owned(),
                ["rpc", name, ..] => drop(found.insert(format!("{package}.{service}/{name}"))),
                _ => {}
            }
        }
    }
    found
}

/// Returns the text of all sources in which tests are.
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("list a folder of the tree") {
        let path = entry.expect("list a folder of the tree").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, into);
        } else if name.ends_with(".rs") && name != "parity.rs" {
            into.push_str(&fs::read_to_string(&path).expect("read a source"));
        }
    }
}

#[test]
fn every_rpc_has_one_row() {
    let named: Vec<String> = rows("rpc")
        .iter()
        .map(|row| text(row, "name").to_owned())
        .collect();
    let unique: BTreeSet<String> = named.iter().cloned().collect();
    assert_eq!(unique.len(), named.len(), "a row is there twice");
    let rpcs = rpcs();
    assert!(rpcs.len() > 80, "the protos are not understood: {rpcs:?}");
    let missing: Vec<&String> = rpcs.difference(&unique).collect();
    let strange: Vec<&String> = unique.difference(&rpcs).collect();
    assert!(missing.is_empty(), "no row in {PAGE}: {missing:?}");
    assert!(strange.is_empty(), "no such RPC: {strange:?}");
}

#[test]
fn every_row_names_a_test_that_exists_or_says_what_is_missing() {
    let mut all = String::new();
    sources(root(), &mut all);
    let kinds = ["command", "flag", "config"];
    let runtime: Vec<Table> = kinds
        .iter()
        .flat_map(|kind| rows_of(RUNTIME, kind))
        .collect();
    let ctr = rows_of(CTR, "command");
    let rows = [rows("rpc"), rows("config"), runtime, ctr].concat();
    for row in &rows {
        let (name, state) = (text(row, "name"), text(row, "status"));
        assert!(STATES.contains(&state), "{name}: status {state:?}");
        let test = text(row, "test");
        if test.is_empty() {
            assert_ne!(state, "full", "{name} needs a test");
            assert!(
                !text(row, "note").is_empty(),
                "{name} needs a test or a note"
            );
        } else {
            let exists = [format!("fn {test}("), format!("\"{test}\"")];
            let exists = exists.iter().any(|wanted| all.contains(wanted));
            assert!(exists, "{name}: there is no test {test}");
        }
    }
}

/// Returns the help of the runtime, or of one of its commands.
fn help(command: Option<&str>) -> String {
    let runtime = binaries::find("corten-runtime").expect("the tree has a runtime");
    command::run(Command::new(runtime).args(command).arg("--help")).ok()
}

/// Returns the long flags that a help shows.
fn flags(help: &str) -> Vec<String> {
    let shown = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = match line.split_once(", ") {
            Some((short, long)) if short.len() == 2 && short.starts_with('-') => long,
            _ => line,
        };
        let flag = line.split(' ').next()?;
        flag.starts_with("--").then(|| flag.to_owned())
    });
    shown.filter(|flag| flag != "--help").collect()
}

#[test]
fn every_command_and_flag_of_the_runtime_has_one_row() {
    let all = help(None);
    let commands = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .map_while(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"exec"), "not understood: {all}");
    let mut found: BTreeSet<String> = flags(&all).into_iter().collect();
    for command in &commands {
        let flags = flags(&help(Some(command)));
        found.extend(flags.iter().map(|flag| format!("{command} {flag}")));
    }
    found.extend(commands.into_iter().map(str::to_owned));
    let rows = [rows_of(RUNTIME, "command"), rows_of(RUNTIME, "flag")].concat();
    let named: Vec<&Table> = rows.iter().collect();
    let unique: BTreeSet<String> = named
        .iter()
        .map(|row| text(row, "name").to_owned())
        .collect();
    assert_eq!(unique.len(), named.len(), "a row is there twice");
    let missing: Vec<&String> = found.difference(&unique).collect();
    assert!(missing.is_empty(), "no row in {RUNTIME}: {missing:?}");
    let served = named.iter().filter(|row| text(row, "status") != "no");
    let strange: Vec<&str> = served
        .map(|row| text(row, "name"))
        .filter(|name| !found.contains(*name))
        .collect();
    assert!(strange.is_empty(), "no such command or flag: {strange:?}");
}

/// Returns the commands that a help of `ctr` names; those below them are found by their own help.
fn commands_of_ctr(ctr: &Path, above: &[String], into: &mut BTreeSet<String>) {
    let help = command::run(Command::new(ctr).args(above).arg("--help")).ok();
    let lines = help.lines().skip_while(|line| *line != "COMMANDS:").skip(1);
    let names: Vec<&str> = lines
        .map_while(|line| line.strip_prefix("   "))
        .filter_map(|line| line.split([',', ' ']).next())
        .filter(|name| *name != "help")
        .collect();
    if names.is_empty() {
        into.insert(above.join(" "));
    }
    for name in names {
        commands_of_ctr(ctr, &[above, &[name.to_owned()]].concat(), into);
    }
}

#[test]
fn every_command_of_ctr_has_one_row_and_is_there_if_that_says_so() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let mut found = BTreeSet::new();
    commands_of_ctr(&peers.sid.join("ctr"), &[], &mut found);
    assert!(found.len() > 60, "ctr's help is not understood: {found:?}");
    let rows = rows_of(CTR, "command");
    let named: BTreeSet<String> = rows
        .iter()
        .map(|row| text(row, "name").to_owned())
        .collect();
    assert_eq!(named.len(), rows.len(), "a row is there twice");
    let missing: Vec<&String> = found.difference(&named).collect();
    assert!(missing.is_empty(), "no row in {CTR}: {missing:?}");
    let strange: Vec<&String> = named.difference(&found).collect();
    assert!(strange.is_empty(), "no such command of ctr: {strange:?}");
    let corten = binaries::find("corten").expect("the tree has a command line");
    for row in &rows {
        let (name, served) = (text(row, "name"), text(row, "status") != "no");
        // `corten` knows ctr's names for its own commands, if only as aliases.
        let line = name.split(' ').chain(["--help"]);
        let help = command::run(Command::new(&corten).args(line));
        assert_eq!(help.code == Some(0), served, "{name}: {help}");
    }
}

#[test]
fn each_class_of_holes_has_a_test_that_exists_and_a_mutant_that_does() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("read a file of the tree");
    let (cases, mutants) = (read("tests/cases/security.rs"), read("sys/src/mutant.rs"));
    let page = read("docs/security.md");
    let mut count = 0;
    for row in page
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
    {
        let cells: Vec<&str> = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let (test, mutant) = (cells[3], cells[4]);
        assert!(
            cases.contains(&format!("fn {test}()")),
            "there is no test {test}"
        );
        for mutant in mutant.split(',').filter(|name| !name.is_empty()) {
            let exists = mutants.contains(&format!("    {mutant},"));
            assert!(exists, "there is no mutant {mutant}");
        }
        count += 1;
    }
    assert!(count >= 15, "the page is not understood");
}
