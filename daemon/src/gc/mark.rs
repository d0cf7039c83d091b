//! Marking: which nodes of a graph no root reaches. It knows nothing of what the nodes stand for.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// A graph with roots.
#[derive(Debug)]
pub struct Graph<N> {
    roots: Vec<N>,
    edges: HashMap<N, Vec<N>>,
}

impl<N> Default for Graph<N> {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            edges: HashMap::new(),
        }
    }
}

impl<N: Clone + Eq + Hash> Graph<N> {
    /// Makes `node` a root.
    pub fn root(&mut self, node: N) {
        self.roots.push(node);
    }

    /// Makes `from` hold `to`; neither need exist.
    pub fn edge(&mut self, from: N, to: N) {
        self.edges.entry(from).or_default().push(to);
    }

    /// Returns the nodes that the roots reach, themselves among them.
    pub fn reachable(&self) -> HashSet<N> {
        let mut reached: HashSet<N> = self.roots.iter().cloned().collect();
        let mut next: Vec<&N> = self.roots.iter().collect();
        while let Some(node) = next.pop() {
            for to in self.edges.get(node).into_iter().flatten() {
                if reached.insert(to.clone()) {
                    next.push(to);
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is reached is the least set that has the roots and is closed under the edges.
        #[test]
        fn the_reached_are_the_roots_and_what_the_reached_hold(
            roots in proptest::collection::vec(0_u8..40, 0..4),
            edges in proptest::collection::vec((0_u8..40, 0_u8..40), 0..80),
        ) {
            let mut graph = Graph::default();
            roots.iter().for_each(|root| graph.root(*root));
            edges.iter().for_each(|(from, to)| graph.edge(*from, *to));
            let mut expected: HashSet<u8> = roots.iter().copied().collect();
            loop {
                let more: Vec<u8> = edges
                    .iter()
                    .filter(|(from, to)| expected.contains(from) && !expected.contains(to))
                    .map(|(_, to)| *to)
                    .collect();
                if more.is_empty() {
                    break;
                }
                expected.extend(more);
            }
            prop_assert_eq!(graph.reachable(), expected);
        }
    }
}
