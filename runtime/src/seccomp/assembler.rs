//! An assembler of classic BPF that works from the end of a program to its start.
//!
//! Jumps only go forward, so all targets of an instruction are known when it is written, and code that several places
//! need is written once. Conditional jumps reach 255 instructions; further ones go by way of a long jump.

use std::collections::HashMap;

use sys::seccomp::Instruction;

use super::rules::{Condition, Outcome, Rule, Test};

/// An instruction, by its distance from the end.
pub(super) type Label = usize;

/// How far a target may be when one more long jump may have to be written before it is used.
const NEAR: usize = 253;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in seccomp_data.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The tail of a program, last instruction first.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    returns: HashMap<u32, Label>,
}

impl Assembler {
    /// Returns the program that starts at `entry`.
    pub(super) fn finish(mut self, entry: Label) -> Vec<Instruction> {
        self.fall_into(entry);
        self.reversed.reverse();
        self.reversed
    }

    /// Returns an instruction that ends the program with `value`; it is near enough to jump to.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        match self.returns.get(&value) {
            Some(&label) if self.distance(label) < NEAR => label,
            _ => {
                let label = self.push(RETURN, 0, 0, value);
                self.returns.insert(value, label);
                label
            }
        }
    }

    /// Emits a test for the machine that made a call.
    pub(super) fn machine_test(&mut self, audit: u32, matched: Label, otherwise: Label) -> Label {
        let test = self.branch(JUMP_EQUAL, audit, matched, otherwise);
        self.load(MACHINE, test)
    }

    /// Emits the load of the call's number.
    pub(super) fn load_number(&mut self, next: Label) -> Label {
        self.load(NUMBER, next)
    }

    /// Emits a binary search for the loaded number. Each outcome holds from its number up to the next one's.
    pub(super) fn number_tree(&mut self, mut outcomes: Vec<(u32, Outcome)>, default: u32) -> Label {
        outcomes.sort_by_key(|(number, _)| *number);
        // Of several for a number the last is meant; neighbours with the same outcome are one range.
        let mut ranges: Vec<(u32, Outcome)> = Vec::with_capacity(outcomes.len());
        for (number, outcome) in outcomes {
            if ranges.last().is_some_and(|(last, _)| *last == number) {
                ranges.pop();
            }
            if ranges.last().is_none_or(|(_, last)| *last != outcome) {
                ranges.push((number, outcome));
            }
        }
        let mut chains = HashMap::new();
        self.search(&ranges, default, &mut chains)
    }

    fn search<'a>(
        &mut self,
        ranges: &'a [(u32, Outcome)],
        default: u32,
        chains: &mut HashMap<&'a [Rule], Label>,
    ) -> Label {
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        match (lower, upper) {
            ([], [(_, Outcome::Return(value))]) => self.ret(*value),
            ([], [(_, Outcome::Conditional(rules))]) => {
                if let Some(&label) = chains.get(rules.as_slice()) {
                    return label;
                }
                let label = self.chain(rules, default);
                chains.insert(rules, label);
                label
            }
            ([], _) => self.ret(default),
            (_, upper) => {
                let from = upper[0].0;
                let above = self.search(upper, default, chains);
                let below = self.search(lower, default, chains);
                self.branch(JUMP_GREATER_OR_EQUAL, from, above, below)
            }
        }
    }

    /// Emits rules of which the first that holds decides.
    fn chain(&mut self, rules: &[Rule], default: u32) -> Label {
        let mut next = self.ret(default);
        for rule in rules.iter().rev() {
            let failed = next;
            next = self.ret(rule.action);
            for condition in rule.conditions.iter().rev() {
                next = self.condition(condition, next, failed);
            }
        }
        next
    }

    fn condition(&mut self, condition: &Condition, yes: Label, no: Label) -> Label {
        let low = ARGUMENTS + 8 * condition.argument + if LITTLE { 0 } else { 4 };
        let halves = Halves {
            low,
            high: condition.wide.then_some(low ^ 4),
        };
        match condition.test {
            Test::Equal(value) => self.equal(halves, u64::MAX, value, yes, no),
            Test::NotEqual(value) => self.equal(halves, u64::MAX, value, no, yes),
            Test::Masked { mask, value } => self.equal(halves, mask, value, yes, no),
            Test::GreaterOrEqual(value) => {
                self.ordered(halves, JUMP_GREATER_OR_EQUAL, value, yes, no)
            }
            Test::Less(value) => self.ordered(halves, JUMP_GREATER_OR_EQUAL, value, no, yes),
            Test::Greater(value) => self.ordered(halves, JUMP_GREATER, value, yes, no),
            Test::LessOrEqual(value) => self.ordered(halves, JUMP_GREATER, value, no, yes),
        }
    }

    fn equal(&mut self, halves: Halves, mask: u64, value: u64, yes: Label, no: Label) -> Label {
        let low = self.equal_half(halves.low, mask as u32, value as u32, yes, no);
        match halves.high {
            None => low,
            Some(high) => {
                let (mask, value) = ((mask >> 32) as u32, (value >> 32) as u32);
                self.equal_half(high, mask, value, low, no)
            }
        }
    }

    fn equal_half(&mut self, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        if mask == 0 {
            return if value == 0 { yes } else { no };
        }
        let mut next = self.branch(JUMP_EQUAL, value, yes, no);
        if mask != u32::MAX {
            self.fall_into(next);
            next = self.push(AND, 0, 0, mask);
        }
        self.load(offset, next)
    }

    fn ordered(&mut self, halves: Halves, test: u16, value: u64, yes: Label, no: Label) -> Label {
        let low = self.branch(test, value as u32, yes, no);
        let low = self.load(halves.low, low);
        match halves.high {
            None => low,
            Some(high) => {
                let value = (value >> 32) as u32;
                let equal = self.branch(JUMP_EQUAL, value, low, no);
                let above = self.branch(JUMP_GREATER, value, yes, equal);
                self.load(high, above)
            }
        }
    }

    fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_into(next);
        self.push(LOAD, 0, 0, offset)
    }

    fn branch(&mut self, test: u16, value: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.push(test, jt as u8, jf as u8, value)
    }

    /// Returns a label for `target` that conditional jumps reach.
    fn near(&mut self, target: Label) -> Label {
        if self.distance(target) < NEAR {
            return target;
        }
        let distance = self.distance(target);
        self.push(JUMP, 0, 0, distance as u32)
    }

    /// Makes `next` what follows the instruction that is written next.
    fn fall_into(&mut self, next: Label) {
        let distance = self.distance(next);
        if distance > 0 {
            self.push(JUMP, 0, 0, distance as u32);
        }
    }

    /// Returns how many instructions an instruction written now has to skip to get to `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - 1 - target
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }
}

/// Where the halves of an argument are in seccomp_data.
#[derive(Clone, Copy)]
struct Halves {
    low: u32,
    /// None where only the lower half is compared.
    high: Option<u32>,
}

const LITTLE: bool = cfg!(target_endian = "little");
