//! The texts that clients match on: dockerd and containerd choose exit codes and error classes by runc's words.

use rustix::io::Errno;
use sys::{Error, Kind};

/// Says that a name is taken.
pub(crate) fn exists() -> Error {
    Error::new(
        Kind::AlreadyExists,
        "container with given ID already exists",
    )
}

/// Says that there is no container of that name.
pub(crate) fn does_not_exist(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("container {id:?} does not exist")).with_kind(Kind::NotFound)
}

/// Says that a name cannot be one.
pub(crate) fn invalid_id() -> Error {
    Error::new(Kind::InvalidArgument, "invalid container ID format")
}

/// Says that there is no root file system.
pub(crate) fn invalid_rootfs(path: &std::path::Path, error: std::io::Error) -> Error {
    Error::other(format!("invalid rootfs: stat {}", path.display()), error)
        .with_kind(Kind::InvalidArgument)
}

/// Says that the first process has ended.
pub(crate) fn not_running() -> Error {
    Error::new(Kind::NotFound, "container not running")
}

/// Says that the limit of memory did not let the first process get to its program.
pub(crate) fn out_of_memory() -> Error {
    let message =
        "unable to start container process: container init was OOM-killed (memory limit too low?)";
    Error::new(Kind::ResourceExhausted, message)
}

/// Says that a program is in no folder of `PATH`.
pub(crate) fn not_in_path(program: &str) -> Error {
    let message = format!("exec: {program:?}: executable file not found in $PATH");
    Error::new(Kind::NotFound, message)
}

/// Says why the process cannot be the user or the group (`kind`) that it is to be.
pub(crate) fn cannot_become(kind: &str, id: u32, errno: Errno) -> Error {
    match errno {
        Errno::INVAL => {
            let message = format!("cannot set{kind} to unmapped {kind} {id} in user namespace");
            Error::new(Kind::InvalidArgument, message)
        }
        errno => Error::other(format!("set {kind} {id}"), std::io::Error::from(errno)),
    }
}

/// Says why a program cannot be executed.
pub(crate) fn cannot_execute(program: &str, errno: Errno) -> Error {
    let reason = reason(errno);
    let (kind, message) = match errno {
        Errno::NOENT => (
            Kind::NotFound,
            format!("exec: {program:?}: stat {program}: {reason}"),
        ),
        Errno::ACCESS | Errno::PERM => (
            Kind::PermissionDenied,
            format!("exec: {program:?}: {reason}"),
        ),
        _ => (Kind::Unknown, format!("exec: {program:?}: {reason}")),
    };
    Error::new(kind, message)
}

/// Says why the working folder cannot be entered.
pub(crate) fn cannot_enter(cwd: &std::path::Path, errno: Errno) -> Error {
    let reason = reason(errno);
    let message = format!("chdir to cwd ({cwd:?}) set in config.json failed: {reason}");
    Error::new(Kind::Unknown, message)
}

/// Returns an error's whole chain, with error numbers as Go prints them.
pub fn render(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let errno = inner.downcast_ref::<Errno>().copied();
        let io = inner.downcast_ref::<std::io::Error>();
        let errno = errno.or_else(|| io?.raw_os_error().map(Errno::from_raw_os_error));
        text.push_str(": ");
        match errno {
            Some(errno) => text.push_str(&reason(errno)),
            None => text.push_str(&inner.to_string()),
        }
        cause = inner.source();
    }
    text
}

/// Returns the text of an error number as Go has it: without a capital, without the number.
pub(crate) fn reason(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let bare = text
        .rsplit_once(" (os error")
        .map_or(&*text, |(bare, _)| bare);
    // Words such as "RFS" stay as they are.
    let mut chars = bare.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            let rest = &bare[first.len_utf8()..];
            format!("{}{rest}", first.to_lowercase())
        }
        _ => bare.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use sys::Context;

    use super::*;

    #[test]
    fn the_words_are_those_that_dockerd_looks_for() {
        let cases = [
            (
                not_in_path("frob"),
                r#"exec: "frob": executable file not found in $PATH"#,
            ),
            (
                cannot_execute("/no", Errno::NOENT),
                r#"exec: "/no": stat /no: no such file or directory"#,
            ),
            (
                cannot_execute("/etc/passwd", Errno::ACCESS),
                r#"exec: "/etc/passwd": permission denied"#,
            ),
            (
                cannot_execute("/tmp", Errno::ISDIR),
                r#"exec: "/tmp": is a directory"#,
            ),
            (exists(), "container with given ID already exists"),
            (does_not_exist("a"), r#"container "a" does not exist"#),
            (not_running(), "container not running"),
        ];
        for (error, expected) in cases {
            assert_eq!(render(&error), expected);
        }
    }

    #[test]
    fn causes_are_printed_as_go_prints_them() {
        let failed: Result<(), Errno> = Err(Errno::NOENT);
        let error = failed
            .context(|| "open \"/a\"")
            .context(|| "mount")
            .unwrap_err();
        assert_eq!(
            render(&error),
            "mount: open \"/a\": no such file or directory"
        );
        assert_eq!(reason(Errno::IO), "input/output error");
    }
}
