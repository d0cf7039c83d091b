//! Configuration files that name others: each is read in turn, and what a later one says counts.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::{Context, Result, invalid};

const IMPORTS: &str = "imports";

/// Reads the file `path` and those that it imports, and returns what they say together.
pub fn load(path: &Path) -> Result<Table> {
    let mut merged = Table::new();
    let mut next = vec![path.to_owned()];
    let mut seen: Vec<PathBuf> = Vec::new();
    while let Some(path) = next.pop() {
        let path = fs::canonicalize(&path).context(|| format!("find {path:?}"))?;
        if seen.contains(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).context(|| format!("read {path:?}"))?;
        let table: Table = text
            .parse()
            .map_err(|error| invalid(format!("parse {path:?}: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut imported = Vec::new();
        for pattern in table
            .get(IMPORTS)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let pattern = pattern.as_str().unwrap_or_default();
            imported.extend(matching(&folder.join(pattern))?);
        }
        next.extend(imported.into_iter().rev());
        merge(&mut merged, table);
        seen.push(path);
    }
    merged.remove(IMPORTS);
    Ok(merged)
}

/// Returns the files that a pattern stands for, in order; `*` stands for any text within the last part of the path.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let Some((before, after)) = name.split_once('*') else {
        return Ok(vec![pattern.to_owned()]);
    };
    let folder = pattern.parent().unwrap_or(Path::new("/"));
    let mut files = Vec::new();
    // A pattern that nothing matches, such as one in a folder that is not there, imports nothing.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.context(|| format!("list {folder:?}"))?;
        let found = entry.file_name();
        let found = found.to_string_lossy();
        let fits = found.len() >= before.len() + after.len()
            && found.starts_with(before)
            && found.ends_with(after);
        if fits && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Adds what `other` says to `table`: tables are merged, lists of disabled plugins joined, all else is replaced.
fn merge(table: &mut Table, other: Table) {
    for (key, value) in other {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(known)), Value::Table(new)) => merge(known, new),
            (Some(Value::Array(known)), Value::Array(new)) if key.ends_with("_plugins") => {
                known.extend(new);
            }
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imported_files_are_read_in_order_and_the_last_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let main = write(
            "config.toml",
            "version = 3\nroot = \"/main\"\nimports = [\"conf.d/*.toml\", \"none/*.toml\"]\n\
             disabled_plugins = [\"a\"]\n[plugins.x]\nkeep = 1\nchange = 1\n",
        );
        write(
            "conf.d/10.toml",
            "version = 3\nroot = \"/ten\"\nimports = [\"../config.toml\"]\n",
        );
        write(
            "conf.d/20.toml",
            "version = 3\ndisabled_plugins = [\"b\"]\n[plugins.x]\nchange = 2\n",
        );
        write("conf.d/30.conf", "not even TOML");
        let table = load(&main).unwrap();
        let expected = "version = 3\nroot = \"/ten\"\ndisabled_plugins = [\"a\", \"b\"]\n\
                        [plugins.x]\nkeep = 1\nchange = 2\n";
        assert_eq!(table, expected.parse().unwrap());
        let lost = write("lost.toml", "version = 3\nimports = [\"missing.toml\"]\n");
        assert!(load(&lost).is_err(), "a file that is named must be there");
    }
}
