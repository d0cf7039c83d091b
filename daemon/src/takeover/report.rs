//! The plan of a takeover as people read it.

use std::fmt::Write;

use snapshotter::Kind;

use super::plan::Plan;

/// Returns what is taken, what stays behind and what is in the way, as text.
pub fn of(plan: &Plan) -> String {
    let mut text = format!("From {:?} to {:?}\n\n", plan.from, plan.to);
    table(&mut text, plan);
    sums(&mut text, plan);
    section(&mut text, "Left behind", &plan.left);
    section(&mut text, "In the way", &plan.obstacles);
    text
}

/// A row for each namespace.
fn table(text: &mut String, plan: &Plan) {
    let mut rows = vec![
        [
            "NAMESPACE",
            "IMAGES",
            "CONTENT",
            "SNAPSHOTS",
            "CONTAINERS",
            "SANDBOXES",
            "LEASES",
        ]
        .map(str::to_owned),
    ];
    for (name, namespace) in &plan.namespaces {
        let [images, blobs, snapshots, containers, sandboxes, leases] = [
            namespace.images.len(),
            namespace.blobs.len(),
            namespace.snapshots.len(),
            namespace.containers.len(),
            namespace.sandboxes.len(),
            namespace.leases.len(),
        ]
        .map(|count| count.to_string());
        rows.push([
            name.clone(),
            images,
            blobs,
            snapshots,
            containers,
            sandboxes,
            leases,
        ]);
    }
    let first = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
    for row in &rows {
        write!(text, "{:first$}", row[0]).expect("a text takes all");
        for (cell, title) in row.iter().zip(&rows[0]).skip(1) {
            write!(text, "  {cell:>width$}", width = title.len()).expect("a text takes all");
        }
        text.push('\n');
    }
}

/// What is shared and what is copied.
fn sums(text: &mut String, plan: &Plan) {
    let how = |links: bool| if links { "shared by links" } else { "copied" };
    let snapshots = plan.snapshotters.iter();
    let snapshots = snapshots.flat_map(|(_, snapshotter)| snapshotter.snapshots.values());
    let (mut committed, mut others) = (0, 0);
    for snapshot in snapshots {
        match snapshot.info.kind {
            Kind::Committed => committed += 1,
            Kind::Active | Kind::View => others += 1,
        }
    }
    let names: Vec<&str> = plan.snapshotter_names().into_iter().collect();
    let lines = [
        ("blobs", plan.blobs.len(), plan.bytes.blobs, how(plan.links)),
        (
            "committed snapshots",
            committed,
            plan.bytes.committed,
            how(plan.links),
        ),
        ("other snapshots", others, plan.bytes.active, how(false)),
    ];
    text.push('\n');
    for (what, count, size, how) in lines {
        writeln!(text, "{count:>7} {what:<19}  {:>10}  {how}", bytes(size))
            .expect("a text takes all");
    }
    if !names.is_empty() {
        writeln!(text, "        of {}", names.join(" and ")).expect("a text takes all");
    }
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        writeln!(text, "\n{title}:").expect("a text takes all");
        for line in lines {
            writeln!(text, "- {line}").expect("a text takes all");
        }
    }
}

/// Returns a number of bytes with a unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let scaled = UNITS.iter().scan(count as f64, |value, unit| {
        *value /= 1024.0;
        Some((*value, unit))
    });
    match scaled.take_while(|(value, _)| *value >= 1.0).last() {
        Some((value, unit)) => format!("{value:.1} {unit}"),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_largest_unit_that_fits() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
