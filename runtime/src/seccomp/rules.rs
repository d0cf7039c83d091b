//! A profile's rules for one call convention: what each call's number comes to.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Operator};
use sys::Result;

use super::abi::Abi;
use super::{RET_ALLOW, RET_ERRNO, RET_LOG, RET_TRACE, encode, invalid};

/// `ENOSYS`, which has this number on every architecture we know.
const ENOSYS: u32 = 38;

/// System calls have at most six arguments.
const ARGUMENTS: usize = 6;

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// The filter returns this, whatever the arguments.
    Return(u32),
    /// The first rule decides whose conditions all hold; without one it is the default action.
    Conditional(Vec<Rule>),
}

/// Conditions that must all hold, and what the filter returns then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// A comparison of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    pub(super) argument: u32,
    pub(super) test: Test,
    /// Whether all 64 bits count, or the lower 32.
    pub(super) wide: bool,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    Masked { mask: u64, value: u64 },
}

/// The rules of one call convention.
#[derive(Debug)]
pub(super) struct Rules {
    abi: Abi,
    default: u32,
    calls: BTreeMap<u32, Outcome>,
    /// Numbers above this one are unknown to the profile and fail with `ENOSYS`.
    newest: Option<u32>,
}

impl Rules {
    /// Translates a profile.
    pub(super) fn new(abi: Abi, profile: &LinuxSeccomp, default: u32) -> Result<Self> {
        let table = abi.table();
        let mut calls = BTreeMap::new();
        let mut newest = 0;
        for syscall in profile.syscalls().iter().flatten() {
            let action = encode(syscall.action(), syscall.errno_ret());
            let rules = rules(abi, syscall.args().as_deref().unwrap_or_default(), action)?;
            for name in syscall.names() {
                let number = table.get(name.as_str()).copied();
                newest = newest.max(number.unwrap_or_default());
                if action == default {
                    continue;
                }
                if let Some(number) = number {
                    add(&mut calls, number, &rules);
                }
                if let Some((call, operation)) = abi.multiplexed(name) {
                    let rules: Vec<Rule> = rules
                        .iter()
                        .map(|rule| rule.multiplexed(operation))
                        .collect();
                    add(&mut calls, table[call], &rules);
                }
            }
        }
        let permissive = [RET_ALLOW, RET_LOG, RET_TRACE].contains(&(default & 0xffff_0000));
        Ok(Self {
            abi,
            default,
            calls,
            newest: (!permissive && newest > 0).then_some(newest),
        })
    }

    /// Returns what calls come to, each from its number up to the next one in the list.
    pub(super) fn into_outcomes(self) -> Vec<(u32, Outcome)> {
        let default = || Outcome::Return(self.default);
        let (first, last) = self.abi.numbers();
        let mut outcomes = vec![(first, default())];
        for (number, outcome) in self.calls {
            outcomes.push((number, outcome));
            if number < last {
                outcomes.push((number + 1, default()));
            }
        }
        if let Some(unknown) = self.newest.and_then(|newest| newest.checked_add(1)) {
            outcomes.retain(|(number, _)| *number < unknown);
            outcomes.push((unknown, Outcome::Return(RET_ERRNO | ENOSYS)));
        }
        outcomes
    }
}

impl Rule {
    /// Returns the rule for a multiplexing call: its first argument is the operation, in place of the call's own.
    fn multiplexed(&self, operation: u64) -> Self {
        let selected = Condition {
            argument: 0,
            test: Test::Equal(operation),
            wide: false,
        };
        let others = self.conditions.iter().filter(|other| other.argument != 0);
        Self {
            conditions: std::iter::once(selected).chain(others.copied()).collect(),
            action: self.action,
        }
    }
}

/// Returns what one entry of a profile asks of each of its calls.
///
/// Conditions on different arguments must all hold. Two on the same argument are alternatives: profiles were written
/// when that was how runc read them.
fn rules(abi: Abi, arguments: &[LinuxSeccompArg], action: u32) -> Result<Vec<Rule>> {
    let mut conditions = Vec::with_capacity(arguments.len());
    let mut seen = [0u8; ARGUMENTS];
    for argument in arguments {
        let count = seen.get_mut(argument.index()).ok_or_else(|| {
            invalid(format!(
                "seccomp argument index {} is above 5",
                argument.index()
            ))
        })?;
        *count += 1;
        conditions.push(condition(abi, argument));
    }
    if seen.iter().any(|count| *count > 1) {
        let alternative = |condition| Rule {
            conditions: vec![condition],
            action,
        };
        return Ok(conditions.into_iter().map(alternative).collect());
    }
    Ok(vec![Rule { conditions, action }])
}

fn condition(abi: Abi, argument: &LinuxSeccompArg) -> Condition {
    let wide = abi.is_wide();
    let bits = if wide { u64::MAX } else { u64::from(u32::MAX) };
    let value = argument.value() & bits;
    let test = match argument.op() {
        Operator::ScmpCmpEq => Test::Equal(value),
        Operator::ScmpCmpNe => Test::NotEqual(value),
        Operator::ScmpCmpLt => Test::Less(value),
        Operator::ScmpCmpLe => Test::LessOrEqual(value),
        Operator::ScmpCmpGt => Test::Greater(value),
        Operator::ScmpCmpGe => Test::GreaterOrEqual(value),
        Operator::ScmpCmpMaskedEq => Test::Masked {
            mask: value,
            value: argument.value_two().unwrap_or_default() & value,
        },
    };
    Condition {
        argument: argument.index() as u32,
        test,
        wide,
    }
}

/// Adds rules for a call: the first one without conditions is final.
fn add(calls: &mut BTreeMap<u32, Outcome>, number: u32, rules: &[Rule]) {
    let outcome = calls
        .entry(number)
        .or_insert_with(|| Outcome::Conditional(Vec::new()));
    for rule in rules {
        let Outcome::Conditional(present) = outcome else {
            return;
        };
        if rule.conditions.is_empty() {
            *outcome = Outcome::Return(rule.action);
        } else if !present.contains(rule) {
            present.push(rule.clone());
        }
    }
}
