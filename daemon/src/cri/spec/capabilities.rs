//! Capabilities: the default set, and what is added to it and taken from it.

use api_protos::oci::CAPABILITIES;
use api_protos::runtime::v1::Capability;
use sys::capability::full_name;

/// Returns the capabilities of sandboxes and of containers that ask for nothing.
pub fn default() -> Vec<String> {
    CAPABILITIES.map(str::to_owned).to_vec()
}

/// Returns the default set changed as `asked`; `ALL` stands for `all`.
pub fn apply(asked: Option<&Capability>, all: &[String]) -> Vec<String> {
    let mut set = default();
    let Some(asked) = asked else {
        return set;
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    if asked.add_capabilities.iter().any(is_all) {
        set = all.to_vec();
    }
    if asked.drop_capabilities.iter().any(is_all) {
        set.clear();
    }
    for name in asked.add_capabilities.iter().filter(|name| !is_all(name)) {
        let name = full_name(name);
        if !set.contains(&name) {
            set.push(name);
        }
    }
    for name in asked.drop_capabilities.iter().filter(|name| !is_all(name)) {
        let name = full_name(name);
        set.retain(|held| *held != name);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::capability::named;

    #[test]
    fn sets_are_changed_as_asked() {
        let all = named(u64::MAX);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let without = |name: &str| {
            let kept = CAPABILITIES.iter().filter(|held| **held != name);
            kept.copied().collect::<Vec<_>>()
        };
        let plus = |name| [&CAPABILITIES[..], &[name]].concat();
        let cases: [(&[&str], &[&str], Vec<&str>); 6] = [
            (&[], &[], CAPABILITIES.to_vec()),
            (&["sys_time"], &[], plus("CAP_SYS_TIME")),
            (&["CHOWN"], &["KILL"], without("CAP_KILL")),
            (&["ALL"], &[], all.clone()),
            (&[], &["all"], vec![]),
            (&["NET_ADMIN"], &["ALL"], vec!["CAP_NET_ADMIN"]),
        ];
        for (add, drop, wanted) in cases {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let asked = Capability {
                add_capabilities: owned(add),
                drop_capabilities: owned(drop),
                ..Capability::default()
            };
            assert_eq!(
                apply(Some(&asked), &named(u64::MAX)),
                wanted,
                "{add:?} {drop:?}"
            );
        }
        assert_eq!(apply(None, &[]), CAPABILITIES);
    }
}
