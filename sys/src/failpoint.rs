//! Failpoints: named moments at which the tests of crashes have a program die, fail or wait.
//!
//! Builds without debug assertions, such as released ones, have none. The others look, at each moment, in the folder
//! that `CORTEN_FAILPOINTS` names for a file of the moment's name, and do once what it says:
//!
//! ```text
//! kill        the program ends as by SIGKILL
//! error       the function fails
//! delay       the thread waits for half a second
//! 3 kill      the same when the moment comes for the third time
//! ```
//!
//! The file is gone as soon as it is heeded.

#[cfg(debug_assertions)]
use crate::{Context, Error, Kind, Result};

/// Marks a moment of a function that can fail with [`crate::Error`]. No two have the same name.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::failpoint::pass($name)?;
    };
}

/// Does what the file `name` in the folder of failpoints says.
#[cfg(debug_assertions)]
pub fn pass(name: &str) -> Result<()> {
    match std::env::var_os("CORTEN_FAILPOINTS") {
        Some(folder) => pass_in(std::path::Path::new(&folder), name),
        None => Ok(()),
    }
}

#[cfg(debug_assertions)]
fn pass_in(folder: &std::path::Path, name: &str) -> Result<()> {
    let file = folder.join(name);
    // Of all threads that pass at a time, one has the file.
    let taken = folder.join(format!("{name}.taken"));
    if std::fs::rename(&file, &taken).is_err() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&taken).context(|| format!("read {taken:?}"))?;
    let (count, action) = match text.split_once(' ') {
        Some((count, action)) => (count.parse().unwrap_or(0), action),
        None => (1, text.as_str()),
    };
    if count > 1 {
        return std::fs::write(&taken, format!("{} {action}", count - 1))
            .and_then(|()| std::fs::rename(&taken, &file))
            .context(|| format!("put back {file:?}"));
    }
    std::fs::remove_file(&taken).context(|| format!("remove {taken:?}"))?;
    match action {
        "kill" => loop {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            std::thread::park();
        },
        "delay" => {
            std::thread::sleep(std::time::Duration::from_millis(500));
            Ok(())
        }
        "error" => Err(Error::new(Kind::Internal, format!("failpoint {name}"))),
        other => panic!("failpoint {name} is to do {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_fails_once_and_at_the_count_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.b");
        std::fs::write(&file, "3 error").unwrap();
        let mut failed = Vec::new();
        for pass in 1..=5 {
            pass_in(folder.path(), "a.other").unwrap();
            if let Err(error) = pass_in(folder.path(), "a.b") {
                assert_eq!(error.to_string(), "failpoint a.b");
                failed.push(pass);
            }
        }
        assert_eq!(failed, [3]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
