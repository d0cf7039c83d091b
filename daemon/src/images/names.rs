//! Names of images as Docker writes them, short, and as containerd keeps them, whole.

const HUB: &str = "docker.io";
const OFFICIAL: &str = "library/";
const LATEST: &str = "latest";

/// Returns the whole name that a short one stands for: with host, repository and tag.
pub fn whole(name: &str) -> String {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) if is_host(host) => (host, path),
        _ => (HUB, rest),
    };
    let host = if host == "index.docker.io" { HUB } else { host };
    let (repository, tag) = match path.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (path, None),
    };
    let official = if host == HUB && !repository.contains('/') {
        OFFICIAL
    } else {
        ""
    };
    // A digest says all that a tag could say.
    match digest {
        Some(digest) => format!("{host}/{official}{repository}@{digest}"),
        None => format!("{host}/{official}{repository}:{}", tag.unwrap_or(LATEST)),
    }
}

/// Returns the name as Docker shows it: without the host and the folder that it takes for granted.
pub fn short(name: &str) -> String {
    let has_object =
        name.contains('@') || name.rsplit('/').next().is_some_and(|end| end.contains(':'));
    let name = match has_object {
        true => name.to_owned(),
        false => format!("{name}:{LATEST}"),
    };
    let Some(rest) = name.strip_prefix("docker.io/") else {
        return name;
    };
    rest.strip_prefix(OFFICIAL).unwrap_or(rest).to_owned()
}

/// Returns the tag of a name, or all of it if it has none.
pub fn tag(name: &str) -> &str {
    let end = name.rsplit('/').next().unwrap_or(name);
    match end.split_once(':') {
        Some((_, tag)) if !name.contains('@') => tag,
        _ => name,
    }
}

fn is_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text.chars().any(char::is_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_whole_and_short_again() {
        for (given, full, docker, object) in [
            (
                "busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
                "latest",
            ),
            ("me/app:1", "docker.io/me/app:1", "me/app:1", "1"),
            (
                "localhost/a",
                "localhost/a:latest",
                "localhost/a:latest",
                "latest",
            ),
            ("host:5000/a/b:2", "host:5000/a/b:2", "host:5000/a/b:2", "2"),
            ("index.docker.io/a:1", "docker.io/library/a:1", "a:1", "1"),
        ] {
            assert_eq!(whole(given), full);
            assert_eq!(short(full), docker);
            assert_eq!(tag(full), object);
        }
        let digest = format!("sha256:{}", "0".repeat(64));
        let pinned = format!("docker.io/library/a@{digest}");
        assert_eq!(whole(&format!("a:1@{digest}")), pinned);
        assert_eq!(tag(&pinned), pinned);
    }
}
