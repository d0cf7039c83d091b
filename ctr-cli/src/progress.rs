//! Progress of a transfer: a bar for each blob, redrawn in place on a terminal; a line for each change elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api_protos::containerd::types::transfer::Progress;

use crate::format::{bytes, seconds};
use crate::table::printable;
use crate::terminal;

/// How long the redrawn lines stay as they are.
const REDRAW: Duration = Duration::from_millis(90);

/// A blob, or an image in the store, and how far it is.
#[derive(Debug, Clone)]
struct Item {
    name: String,
    event: String,
    done: u64,
    total: u64,
    size: u64,
    /// When the first bytes were seen, and how many there were by then.
    started: Option<(Instant, u64)>,
    rate: f64,
}

/// What is shown of one transfer.
#[derive(Debug)]
pub struct Display {
    items: Vec<Item>,
    status: String,
    terminal: bool,
    quiet: bool,
    lines: usize,
    began: Instant,
    drawn: Option<Instant>,
    watched: Option<Watched>,
}

/// An archive that moves on another thread.
#[derive(Debug)]
struct Watched {
    name: String,
    event: &'static str,
    moved: Arc<AtomicU64>,
    total: u64,
}

impl Display {
    /// Returns a display on standard output that fits what standard output is; `quiet` shows nothing.
    pub fn new(quiet: bool) -> Display {
        Display {
            items: Vec::new(),
            status: String::new(),
            terminal: std::io::stdout().is_terminal(),
            quiet,
            lines: 0,
            began: Instant::now(),
            drawn: None,
            watched: None,
        }
    }

    /// Takes in a message of the daemon.
    pub fn update(&mut self, progress: &Progress) {
        if progress.name.is_empty() {
            if self.status != progress.event {
                self.status = printable(&progress.event);
                self.line(&self.status.clone());
            }
            return self.draw(false);
        }
        let size = progress
            .desc
            .as_ref()
            .map_or(0, |descriptor| descriptor.size);
        self.set(
            &progress.name,
            &progress.event,
            progress.progress,
            progress.total,
            size,
        );
    }

    /// Shows how many bytes of an archive have moved, of `total` or of nobody knows how many if that is 0.
    pub fn watch(&mut self, name: String, event: &'static str, moved: Arc<AtomicU64>, total: u64) {
        self.watched = Some(Watched {
            name,
            event,
            moved,
            total,
        });
    }

    fn set(&mut self, name: &str, event: &str, done: i64, total: i64, size: i64) {
        let positive = |number: i64| u64::try_from(number).unwrap_or(0);
        let found = self.items.iter().position(|item| item.name == name);
        let index = found.unwrap_or_else(|| {
            self.items.push(Item {
                name: name.to_owned(),
                event: String::new(),
                done: 0,
                total: 0,
                size: 0,
                started: None,
                rate: 0.0,
            });
            self.items.len() - 1
        });
        let item = &mut self.items[index];
        let changed = item.event != event;
        if changed {
            item.event = printable(event);
            item.started = None;
            item.rate = 0.0;
        }
        (item.done, item.total) = (positive(done), positive(total));
        item.size = item.size.max(positive(size)).max(item.total);
        let (at, first) = *item.started.get_or_insert((Instant::now(), item.done));
        let span = at.elapsed().as_secs_f64();
        if span > 0.2 {
            item.rate = item.done.saturating_sub(first) as f64 / span;
        }
        if changed {
            let line = plain(&self.items[index]);
            self.line(&line);
        }
        self.draw(false);
    }

    /// Redraws if it is time to.
    pub fn tick(&mut self) {
        if let Some(watched) = self.watched.take() {
            let moved = watched.moved.load(Ordering::Relaxed);
            let event = if moved > 0 && moved == watched.total {
                "sent"
            } else {
                watched.event
            };
            self.set(&watched.name, event, moved as i64, watched.total as i64, 0);
            self.watched = Some(watched);
        }
        self.draw(false);
    }

    /// Shows the last state and how long it took.
    pub fn finish(&mut self) {
        self.tick();
        self.draw(true);
        let total: u64 = self
            .items
            .iter()
            .filter(|item| item.event != "already exists")
            .map(|item| item.size.max(item.done))
            .sum();
        let span = self.began.elapsed();
        let rate = total as f64 / span.as_secs_f64().max(0.001);
        if !self.quiet {
            let text = format!(
                "done: {} in {}, {}/s\n",
                bytes(total),
                seconds(span),
                bytes(rate as u64)
            );
            let _ = std::io::stdout().write_all(text.as_bytes());
        }
    }

    /// Leaves the last state on the terminal, for an error to follow.
    pub fn abandon(&mut self) {
        self.draw(true);
    }

    fn line(&self, text: &str) {
        if !self.terminal && !self.quiet {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    fn draw(&mut self, last: bool) {
        if !self.terminal
            || self.quiet
            || (!last && self.drawn.is_some_and(|at| at.elapsed() < REDRAW))
        {
            return;
        }
        self.drawn = Some(Instant::now());
        let (columns, rows) =
            terminal::size().map_or((80, 24), |(columns, rows)| (columns.into(), rows.into()));
        let rows = if last { usize::MAX } else { rows };
        let lines = render(&self.status, &self.items, columns, rows);
        let mut text = String::new();
        if self.lines > 0 {
            text.push_str(&format!("\x1b[{}A", self.lines));
        }
        for line in &lines {
            text.push_str(&format!("\r{line}\x1b[K\n"));
        }
        text.push_str("\x1b[J");
        self.lines = lines.len();
        let mut stdout = std::io::stdout();
        let _ = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
    }
}

/// Returns the lines for a terminal of this size: what has ended gives way first if there is no room.
fn render(status: &str, items: &[Item], columns: usize, rows: usize) -> Vec<String> {
    let room = rows.saturating_sub(2).max(1);
    let mut left_out = items.len().saturating_sub(room);
    let mut lines = Vec::new();
    if !status.is_empty() {
        lines.push(cut(status, columns));
    }
    for item in items {
        if left_out > 0 && ended(&item.event) {
            left_out -= 1;
            continue;
        }
        if lines.len() > room {
            break;
        }
        lines.push(bar(item, columns));
    }
    lines
}

fn bar(item: &Item, columns: usize) -> String {
    let name = short(&item.name);
    let total = if item.total > 0 {
        item.total
    } else {
        item.size
    };
    let complete = ended(&item.event);
    if name.contains('/') && (complete || total == 0) {
        return cut(&format!("{name} {}", item.event), columns);
    }
    let numbers = match (complete, total) {
        (true, _) => bytes(item.size.max(item.done)),
        (false, 0) => bytes(item.done),
        (false, total) => format!("{}/{}", bytes(item.done), bytes(total)),
    };
    let rate = if !complete && item.rate > 0.0 {
        format!("{}/s", bytes(item.rate as u64))
    } else {
        String::new()
    };
    let tail = format!(" {:11} {numbers:>20} {rate:>11}", item.event);
    let room = columns.saturating_sub(21 + tail.chars().count() + 1);
    let mut line = format!("{name:21}");
    if room >= 4 && name.chars().count() <= 21 {
        let inner = room - 3;
        let part = if complete {
            1.0
        } else {
            item.done as f64 / total.max(1) as f64
        };
        let filled = ((part.clamp(0.0, 1.0) * inner as f64) as usize).min(inner);
        let head = if filled < inner && filled > 0 {
            ">"
        } else {
            ""
        };
        let bar = format!("{}{head}", "=".repeat(filled - head.len()));
        line.push_str(&format!(" [{bar:inner$}]"));
    }
    cut(&(line + &tail), columns)
}

/// Returns whether there is nothing more to come of an item.
fn ended(event: &str) -> bool {
    matches!(
        event,
        "complete" | "extracted" | "already exists" | "saved" | "done" | "sent" | "received"
    )
}

fn plain(item: &Item) -> String {
    let size = if item.size > 0 {
        format!(" ({})", bytes(item.size))
    } else {
        String::new()
    };
    format!("{}: {}{size}", short(&item.name), item.event)
}

/// Returns a blob's name with the first twelve digits of its digest, an image's name as it is.
fn short(name: &str) -> String {
    let name = printable(name);
    match name
        .split_once("sha256:")
        .or_else(|| name.split_once("sha512:"))
    {
        Some((kind, digest)) if digest.len() > 12 && digest.is_ascii() && !kind.contains('/') => {
            format!(
                "{} {}",
                kind.split(['-', '@', ' ', '(']).next().unwrap_or_default(),
                &digest[..12]
            )
            .trim()
            .to_owned()
        }
        _ => name,
    }
}

fn cut(text: &str, columns: usize) -> String {
    // The last column stays free: some terminals wrap when it is written.
    text.chars()
        .take(columns.saturating_sub(1))
        .collect::<String>()
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, event: &str, done: u64, total: u64, rate: f64) -> Item {
        Item {
            name: name.into(),
            event: event.into(),
            done,
            total,
            size: total,
            started: None,
            rate,
        }
    }

    #[test]
    fn a_bar_shows_name_state_bytes_and_rate_in_eighty_columns() {
        let digest = "a".repeat(64);
        let half = item(
            &format!("layer-sha256:{digest}"),
            "downloading",
            5 << 20,
            10 << 20,
            2.5 * 1048576.0,
        );
        let line = bar(&half, 100);
        assert!(line.starts_with("layer aaaaaaaaaaaa"), "{line}");
        for part in ["=>", " downloading ", "5.0 MiB/10.0 MiB", "2.5 MiB/s"] {
            assert!(line.contains(part), "{part} in {line}");
        }
        for columns in [20, 40, 60, 80, 200] {
            assert!(bar(&half, columns).chars().count() < columns, "{columns}");
        }
        for part in ["===>", "2.5 MiB/s"] {
            assert!(bar(&half, 80).contains(part), "{}", bar(&half, 80));
        }
    }

    #[test]
    fn what_has_ended_gives_way_when_there_is_no_room() {
        let mut items: Vec<Item> = (0..30)
            .map(|number| item(&format!("old{number}"), "complete", 1, 1, 0.0))
            .collect();
        items.push(item("busy", "downloading", 1, 2, 0.0));
        let lines = render("Pulling", &items, 80, 10);
        assert!(lines.len() < 10, "{lines:?}");
        assert!(lines.last().unwrap().starts_with("busy"));
    }

    #[test]
    fn a_registrys_names_cannot_move_the_cursor() {
        assert!(!bar(&item("x\x1b[2J", "y", 0, 0, 0.0), 80).contains('\x1b'));
    }

    #[test]
    fn images_keep_their_names() {
        assert_eq!(short("127.0.0.1:5000/x:latest"), "127.0.0.1:5000/x:latest");
        assert_eq!(
            short(&format!("config-sha256:{}", "0".repeat(64))),
            "config 000000000000"
        );
    }
}
