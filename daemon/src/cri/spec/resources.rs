//! Limits: from CRI's to those of the OCI specification.

use api_protos::runtime::v1::LinuxContainerResources;
use serde_json::{Map, Value, json};

use super::Host;

/// Returns the limits that `asked` stands for; zero is no limit.
pub fn limits(
    asked: &LinuxContainerResources,
    host: &Host,
    huge_pages: bool,
) -> Map<String, Value> {
    let mut limits = Map::new();
    let mut cpu = Map::new();
    for (key, value) in [
        ("period", asked.cpu_period),
        ("quota", asked.cpu_quota),
        ("shares", asked.cpu_shares),
    ] {
        if value != 0 {
            cpu.insert(key.into(), value.into());
        }
    }
    for (key, value) in [("cpus", &asked.cpuset_cpus), ("mems", &asked.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(key.into(), value.as_str().into());
        }
    }
    let mut memory = Map::new();
    let (limit, mut swap) = (
        asked.memory_limit_in_bytes,
        asked.memory_swap_limit_in_bytes,
    );
    if limit != 0 {
        memory.insert("limit".into(), limit.into());
        if swap == 0 {
            // The swap limit has memory in it: that both are the same means no swap at all.
            swap = limit;
        }
    }
    if swap != 0 && host.swap {
        memory.insert("swap".into(), swap.into());
    }
    for (key, values) in [("cpu", cpu), ("memory", memory)] {
        if !values.is_empty() {
            limits.insert(key.into(), values.into());
        }
    }
    if huge_pages && !asked.hugepage_limits.is_empty() {
        let pages = asked.hugepage_limits.iter();
        let pages = pages.map(|limit| json!({"pageSize": limit.page_size, "limit": limit.limit}));
        limits.insert("hugepageLimits".into(), pages.collect());
    }
    if !asked.unified.is_empty() {
        let unified: std::collections::BTreeMap<_, _> = asked.unified.iter().collect();
        limits.insert("unified".into(), json!(unified));
    }
    limits
}

/// Takes over from `asked` what it says, and leaves everything else of `current` as it is.
pub fn merge(current: &mut LinuxContainerResources, asked: &LinuxContainerResources) {
    for (current, asked) in [
        (&mut current.cpu_period, asked.cpu_period),
        (&mut current.cpu_quota, asked.cpu_quota),
        (&mut current.cpu_shares, asked.cpu_shares),
        (
            &mut current.memory_limit_in_bytes,
            asked.memory_limit_in_bytes,
        ),
        (
            &mut current.memory_swap_limit_in_bytes,
            asked.memory_swap_limit_in_bytes,
        ),
        (&mut current.oom_score_adj, asked.oom_score_adj),
    ] {
        if asked != 0 {
            *current = asked;
        }
    }
    for (current, asked) in [
        (&mut current.cpuset_cpus, &asked.cpuset_cpus),
        (&mut current.cpuset_mems, &asked.cpuset_mems),
    ] {
        if !asked.is_empty() {
            current.clone_from(asked);
        }
    }
    if !asked.hugepage_limits.is_empty() {
        current.hugepage_limits.clone_from(&asked.hugepage_limits);
    }
    current.unified.extend(asked.unified.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_that_are_set() {
        let with_swap = Host {
            swap: true,
            ..Host::default()
        };
        let memory = |limit, swap| LinuxContainerResources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: swap,
            ..LinuxContainerResources::default()
        };
        let cpu = LinuxContainerResources {
            cpu_quota: -1,
            cpu_shares: 512,
            cpuset_cpus: "0-1".into(),
            ..LinuxContainerResources::default()
        };
        let plain = Host::default();
        for (asked, host, wanted) in [
            (memory(0, 0), &with_swap, json!({})),
            (
                memory(9, 0),
                &with_swap,
                json!({"memory": {"limit": 9, "swap": 9}}),
            ),
            (
                memory(9, 20),
                &with_swap,
                json!({"memory": {"limit": 9, "swap": 20}}),
            ),
            (memory(9, 20), &plain, json!({"memory": {"limit": 9}})),
            (
                cpu,
                &plain,
                json!({"cpu": {"quota": -1, "shares": 512, "cpus": "0-1"}}),
            ),
        ] {
            assert_eq!(Value::from(limits(&asked, host, true)), wanted);
        }
    }

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let mut current = LinuxContainerResources {
            cpu_shares: 2,
            memory_limit_in_bytes: 9,
            ..LinuxContainerResources::default()
        };
        let asked = LinuxContainerResources {
            cpu_shares: 4,
            cpuset_cpus: "0".into(),
            ..LinuxContainerResources::default()
        };
        merge(&mut current, &asked);
        assert_eq!((current.cpu_shares, current.memory_limit_in_bytes), (4, 9));
        assert_eq!(current.cpuset_cpus, "0");
    }
}
