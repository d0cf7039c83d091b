//! The rows of the report: printed as a table, kept in `target/bench/summary.tsv`, drawn, and shown in the README.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::command;
use anyhow::{Context, Result};

use crate::plot;

const COLUMNS: &str = "suite\tname\tunit\tours\tpeer\tpeer_version\tratio\tgoal\tmet";
const END: &str = "<!-- measured: end -->\n";

/// One comparison.
#[derive(Debug, Clone)]
pub struct Row {
    /// What is compared; unique in its suite.
    pub name: &'static str,
    /// The unit of both values; empty for counts.
    pub unit: &'static str,
    /// Our median.
    pub ours: f64,
    /// The peer's median.
    pub peer: f64,
    /// The peer and its version.
    pub version: String,
    /// The largest ratio that is good enough.
    pub goal: Option<f64>,
}

impl Row {
    /// Returns a row without a goal.
    pub fn new(name: &'static str, unit: &'static str, ours: f64, peer: f64) -> Row {
        Row {
            name,
            unit,
            ours,
            peer,
            version: String::new(),
            goal: None,
        }
    }

    /// Says who the peer is.
    pub fn peer(mut self, name: &str, version: &str) -> Row {
        self.version = format!("{name} {version}").trim_end().to_owned();
        self
    }

    /// Sets the largest ratio that is good enough.
    pub fn goal(mut self, goal: f64) -> Row {
        self.goal = Some(goal);
        self
    }

    fn line(&self, suite: &str) -> Line {
        let ratio = self.ours / self.peer;
        let met = self
            .goal
            .map(|goal| if ratio <= goal { "yes" } else { "no" });
        let fields = [
            suite.to_owned(),
            self.name.to_owned(),
            self.unit.to_owned(),
            number(self.ours),
            number(self.peer),
            self.version.clone(),
            format!("{ratio:.3}"),
            self.goal.map_or("-".to_owned(), |goal| goal.to_string()),
            met.unwrap_or("-").to_owned(),
        ];
        Line(fields)
    }
}

/// A line of the summary, in the order of its columns.
#[derive(Debug, Clone)]
pub struct Line([String; 9]);

impl Line {
    fn parse(text: &str) -> Option<Line> {
        let fields: Vec<String> = text.split('\t').map(str::to_owned).collect();
        fields.try_into().ok().map(Line)
    }

    /// Returns the suite.
    pub fn suite(&self) -> &str {
        &self.0[0]
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.0[1]
    }

    /// Returns the peer and its version.
    pub fn peer(&self) -> &str {
        &self.0[5]
    }

    /// Returns ours divided by the peer's.
    pub fn ratio(&self) -> Option<f64> {
        self.0[6]
            .parse()
            .ok()
            .filter(|ratio: &f64| ratio.is_finite())
    }

    /// Returns the largest ratio that is good enough.
    pub fn goal(&self) -> Option<f64> {
        self.0[7].parse().ok()
    }

    fn key(&self) -> (&str, &str) {
        (self.suite(), self.name())
    }
}

/// Prints the rows and puts them into the summary, where rows that were not measured now stay; draws the plots.
///
/// The README gets the table of each suite of `whole`, those that were measured from end to end, where it has a place.
pub fn publish(rows: &[(&str, Row)], whole: &[&str]) -> Result<()> {
    let lines: Vec<Line> = rows.iter().map(|(suite, row)| row.line(suite)).collect();
    print!("{}", table(&lines));
    let summary = Path::new("target/bench/summary.tsv");
    let all = merge(
        &fs::read_to_string(summary).unwrap_or_default(),
        lines,
        whole,
    );
    let text: String = all.iter().map(|line| line.0.join("\t") + "\n").collect();
    write(summary, &format!("{COLUMNS}\n{text}"))?;
    let mut suites: Vec<&str> = all.iter().map(Line::suite).collect();
    suites.dedup();
    for suite in suites {
        let of: Vec<&Line> = all.iter().filter(|line| line.suite() == suite).collect();
        write(
            &PathBuf::from(format!("docs/bench/{suite}.svg")),
            &plot::draw(suite, &of),
        )?;
    }
    let readme = Path::new("README.md");
    let mut text = fs::read_to_string(readme).context("read README.md")?;
    for suite in whole {
        let of: Vec<&Line> = all.iter().filter(|line| line.suite() == *suite).collect();
        text = with_table(&text, suite, &of).unwrap_or(text);
    }
    write(readme, &text)
}

/// Returns a program's version, the first word of what it says that begins with a digit.
pub fn version(program: &Path) -> String {
    let said = command::run(Command::new(program).arg("--version")).ok();
    said.split_whitespace()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .unwrap_or("unknown")
        .to_owned()
}

/// Returns the old lines with the new ones in their places or after them; of a `whole` suite no old ones.
fn merge(old: &str, new: Vec<Line>, whole: &[&str]) -> Vec<Line> {
    let mut all: Vec<Line> = old.lines().skip(1).filter_map(Line::parse).collect();
    all.retain(|line| !whole.contains(&line.suite()));
    for line in new {
        match all.iter_mut().find(|known| known.key() == line.key()) {
            Some(known) => *known = line,
            None => all.push(line),
        }
    }
    // Stable: the rows of a suite stay in order.
    all.sort_by(|a, b| a.suite().cmp(b.suite()));
    all
}

fn table(lines: &[Line]) -> String {
    let header = Line(
        COLUMNS
            .split('\t')
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .try_into()
            .expect("as many columns as fields"),
    );
    let all: Vec<&Line> = std::iter::once(&header).chain(lines).collect();
    let width = |column: usize| {
        all.iter()
            .map(|line| line.0[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..9).map(width).collect();
    let mut text = String::new();
    for line in &all {
        for (column, field) in line.0.iter().enumerate() {
            let width = widths[column];
            match column {
                3 | 4 | 6 | 7 => text.push_str(&format!("{field:>width$}  ")),
                _ => text.push_str(&format!("{field:<width$}  ")),
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Returns the README with the table of a suite between its markers, if it has them.
fn with_table(readme: &str, suite: &str, lines: &[&Line]) -> Option<String> {
    let begin = format!("<!-- measured: {suite}, written by make bench -->\n");
    let (before, rest) = readme.split_once(&begin)?;
    let (_, after) = rest.split_once(END)?;
    let mut text = String::from(
        "\n| measured | ours | peer's | peer | ratio | goal |\n|---|--:|--:|---|--:|--:|\n",
    );
    for Line([_, name, unit, ours, peer, version, ratio, goal, met]) in lines {
        let missed = if met == "no" { " (missed)" } else { "" };
        text.push_str(&format!(
            "| {name} | {ours} {unit} | {peer} {unit} | {version} | {ratio} | {goal}{missed} |\n"
        ));
    }
    Some(format!("{before}{begin}{text}\n{END}{after}"))
}

fn number(value: f64) -> String {
    match value {
        value if value.fract() == 0.0 || value >= 1000.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, text));
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &'static str, ours: f64, goal: f64) -> Line {
        Row::new(name, "ms", ours, 2.0)
            .peer("runc", "1")
            .goal(goal)
            .line("main-job")
    }

    #[test]
    fn a_goal_is_met_up_to_its_value() {
        assert_eq!(line("run", 1.0, 0.5).0[8], "yes");
        assert_eq!(line("run", 1.01, 0.5).0[8], "no");
    }

    #[test]
    fn new_lines_take_the_places_of_old_ones() {
        let old = [line("run", 1.0, 0.5), line("exec", 1.0, 0.5)].map(|line| line.0.join("\t"));
        let old = format!("{COLUMNS}\n{}\n", old.join("\n"));
        let new = vec![line("pull", 3.0, 0.5), line("run", 3.0, 0.5)];
        let all = merge(&old, new.clone(), &[]);
        let names: Vec<&str> = all.iter().map(Line::name).collect();
        assert_eq!(names, ["run", "exec", "pull"]);
        assert_eq!(all[0].ratio(), Some(1.5));
        let all = merge(&old, new, &["main-job"]);
        let names: Vec<&str> = all.iter().map(Line::name).collect();
        assert_eq!(names, ["pull", "run"]);
    }

    #[test]
    fn the_readme_keeps_what_is_around_its_table() {
        let begin = "<!-- measured: main-job, written by make bench -->";
        let readme = format!("before\n{begin}\nold\n{END}after\n");
        let new = with_table(&readme, "main-job", &[&line("run", 3.0, 0.5)]).unwrap();
        assert!(
            new.starts_with("before\n") && new.ends_with("after\n"),
            "{new}"
        );
        assert!(
            new.contains("| run | 3 ms | 2 ms | runc 1 | 1.500 | 0.5 (missed) |"),
            "{new}"
        );
        assert!(!new.contains("old"), "{new}");
        let again = with_table(&new, "main-job", &[&line("run", 3.0, 0.5)]);
        assert_eq!(again, Some(new.clone()));
        assert_eq!(with_table(&new, "docker", &[]), None);
    }
}
