//! Security profiles: which one a pod or container asks for, read from the machine.

use std::path::Path;

use api_protos::runtime::v1::SecurityProfile;
use api_protos::runtime::v1::security_profile::ProfileType;

use super::spec::Seccomp;
use crate::error::{Context, Result, invalid};

/// How the deprecated field writes profiles.
const LOCALHOST: &str = "localhost/";
/// The longest profile that is read.
const LONGEST: u64 = 4 << 20;

/// Returns the profile that a text of the deprecated field stands for.
pub fn from_path(path: &str) -> Option<SecurityProfile> {
    let (kind, reference) = match path {
        "" => return None,
        "runtime/default" | "docker/default" => (ProfileType::RuntimeDefault, ""),
        "unconfined" => (ProfileType::Unconfined, ""),
        path => (
            ProfileType::Localhost,
            path.strip_prefix(LOCALHOST).unwrap_or(path),
        ),
    };
    Some(SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: reference.to_owned(),
    })
}

/// Returns the profile of system calls that is asked for; nothing asked for, and privilege, are no profile.
pub fn seccomp(asked: Option<&SecurityProfile>, privileged: bool) -> Result<Seccomp> {
    let Some(asked) = asked.filter(|_| !privileged) else {
        return Ok(Seccomp::Unconfined);
    };
    match asked.profile_type() {
        ProfileType::Unconfined => Ok(Seccomp::Unconfined),
        ProfileType::RuntimeDefault => Ok(Seccomp::Default),
        ProfileType::Localhost => {
            let path = Path::new(&asked.localhost_ref);
            let reading = || format!("load seccomp profile {path:?}");
            let found = std::fs::metadata(path).context(reading)?;
            if !found.is_file() || found.len() > LONGEST {
                return Err(invalid(format!("{path:?} is no seccomp profile")));
            }
            let text = std::fs::read(path).context(reading)?;
            let profile = serde_json::from_slice(&text)
                .map_err(|error| invalid(format!("decode seccomp profile {path:?}: {error}")))?;
            Ok(Seccomp::Given(profile))
        }
    }
}

/// Returns the AppArmor profile that is asked for, on a machine that has AppArmor.
pub fn apparmor(asked: Option<&SecurityProfile>, privileged: bool) -> Result<Option<String>> {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let enabled = enabled.is_ok_and(|enabled| enabled.starts_with('Y'));
    let Some(asked) = asked.filter(|_| !privileged) else {
        return Ok(None);
    };
    match asked.profile_type() {
        ProfileType::Localhost if !enabled => Err(invalid("apparmor is not supported")),
        ProfileType::Localhost => Ok(Some(asked.localhost_ref.clone())),
        ProfileType::RuntimeDefault | ProfileType::Unconfined => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deprecated_field_says_the_same() {
        for (path, kind, reference) in [
            ("runtime/default", ProfileType::RuntimeDefault, ""),
            ("docker/default", ProfileType::RuntimeDefault, ""),
            ("unconfined", ProfileType::Unconfined, ""),
            ("localhost//a/b", ProfileType::Localhost, "/a/b"),
        ] {
            let profile = from_path(path).unwrap();
            assert_eq!(profile.profile_type(), kind, "{path}");
            assert_eq!(profile.localhost_ref, reference, "{path}");
        }
        assert_eq!(from_path(""), None);
    }

    #[test]
    fn a_profile_of_the_machine_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        std::fs::write(&path, r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
        let asked = SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: path.to_string_lossy().into_owned(),
        };
        assert!(matches!(
            seccomp(Some(&asked), false),
            Ok(Seccomp::Given(_))
        ));
        assert_eq!(seccomp(Some(&asked), true).unwrap(), Seccomp::Unconfined);
        std::fs::write(&path, "no").unwrap();
        assert!(seccomp(Some(&asked), false).is_err());
        assert_eq!(seccomp(None, false).unwrap(), Seccomp::Unconfined);
    }
}
