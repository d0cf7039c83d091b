//! Marking: which nodes of a graph no root reaches. It knows nothing of what the nodes stand for.

use std::collections::HashMap;
use std::hash::Hash;

/// A graph with roots. Roots and edges may be added at any time; what is reached by then stays reached.
#[derive(Debug)]
pub struct Graph<N> {
    numbers: HashMap<N, usize>,
    edges: Vec<Vec<usize>>,
    reached: Vec<bool>,
    /// The nodes that are reached and whose edges have not been followed yet.
    next: Vec<usize>,
}

impl<N> Default for Graph<N> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            edges: Vec::new(),
            reached: Vec::new(),
            next: Vec::new(),
        }
    }
}

impl<N: Eq + Hash> Graph<N> {
    /// Makes `node` a root.
    pub fn root(&mut self, node: N) {
        let number = self.number(node);
        self.reach(number);
    }

    /// Makes `from` hold `to`; neither need exist.
    pub fn edge(&mut self, from: N, to: N) {
        let (from, to) = (self.number(from), self.number(to));
        self.edges[from].push(to);
        if self.reached[from] {
            self.reach(to);
        }
    }

    /// Follows the edges from all that is reached.
    pub fn follow(&mut self) {
        while let Some(node) = self.next.pop() {
            for at in 0..self.edges[node].len() {
                self.reach(self.edges[node][at]);
            }
        }
    }

    /// Returns whether the roots reach `node`, once they were followed.
    pub fn reaches(&self, node: &N) -> bool {
        let number = self.numbers.get(node);
        number.is_some_and(|number| self.reached[*number])
    }

    /// Orders `nodes` so that none comes before one that holds it; those that hold each other come last, together.
    ///
    /// Returns how many come before those last ones.
    pub fn order(&self, nodes: &mut Vec<N>) -> usize {
        let mut holders = vec![0_usize; self.edges.len()];
        let mut wanted: HashMap<usize, N> = HashMap::with_capacity(nodes.len());
        let mut alone = Vec::new();
        for node in nodes.drain(..) {
            match self.numbers.get(&node) {
                Some(number) => drop(wanted.insert(*number, node)),
                None => alone.push(node),
            }
        }
        *nodes = alone;
        for to in wanted.keys().flat_map(|node| &self.edges[*node]) {
            holders[*to] += 1;
        }
        let mut free: Vec<usize> = wanted.keys().copied().collect();
        free.retain(|node| holders[*node] == 0);
        while let Some(number) = free.pop() {
            for to in &self.edges[number] {
                holders[*to] -= 1;
                if holders[*to] == 0 && wanted.contains_key(to) {
                    free.push(*to);
                }
            }
            nodes.extend(wanted.remove(&number));
        }
        let ordered = nodes.len();
        nodes.extend(wanted.into_values());
        ordered
    }

    fn number(&mut self, node: N) -> usize {
        let next = self.edges.len();
        let number = *self.numbers.entry(node).or_insert(next);
        if number == next {
            self.edges.push(Vec::new());
            self.reached.push(false);
        }
        number
    }

    fn reach(&mut self, node: usize) {
        if !self.reached[node] {
            self.reached[node] = true;
            self.next.push(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn closure(roots: &[u8], edges: &[(u8, u8)]) -> HashSet<u8> {
        let mut expected: HashSet<u8> = roots.iter().copied().collect();
        loop {
            let more: Vec<u8> = edges
                .iter()
                .filter(|(from, to)| expected.contains(from) && !expected.contains(to))
                .map(|(_, to)| *to)
                .collect();
            if more.is_empty() {
                return expected;
            }
            expected.extend(more);
        }
    }

    proptest! {
        /// What is reached is the least set that has the roots and is closed under the edges, whenever they came.
        #[test]
        fn the_reached_are_the_roots_and_what_the_reached_hold(
            roots in proptest::collection::vec(0_u8..40, 0..4),
            edges in proptest::collection::vec((0_u8..40, 0_u8..40), 0..80),
            late_roots in proptest::collection::vec(0_u8..40, 0..2),
            late_edges in proptest::collection::vec((0_u8..40, 0_u8..40), 0..20),
        ) {
            let mut graph = Graph::default();
            roots.iter().for_each(|root| graph.root(*root));
            edges.iter().for_each(|(from, to)| graph.edge(*from, *to));
            graph.follow();
            let expected = closure(&roots, &edges);
            (0..40).for_each(|node| assert_eq!(graph.reaches(&node), expected.contains(&node)));
            late_edges.iter().for_each(|(from, to)| graph.edge(*from, *to));
            late_roots.iter().for_each(|root| graph.root(*root));
            graph.follow();
            let expected = closure(&[roots, late_roots].concat(), &[edges, late_edges].concat());
            (0..40).for_each(|node| assert_eq!(graph.reaches(&node), expected.contains(&node)));
        }

        /// Whoever is taken from the front leaves no node behind that holds it.
        #[test]
        fn holders_come_before_what_they_hold(
            edges in proptest::collection::vec((0_u8..20, 0_u8..20), 0..40),
        ) {
            let mut graph = Graph::default();
            edges.iter().for_each(|(from, to)| graph.edge(*from, *to));
            let mut nodes: Vec<u8> = (0..20).filter(|node| edges.iter().any(|(a, b)| a == node || b == node)).collect();
            let all = nodes.len();
            let ordered = graph.order(&mut nodes);
            prop_assert_eq!(nodes.len(), all);
            for (at, node) in nodes[..ordered].iter().enumerate() {
                for later in &nodes[at..] {
                    prop_assert!(!edges.contains(&(*later, *node)), "{} holds {}", later, node);
                }
            }
        }
    }
}
