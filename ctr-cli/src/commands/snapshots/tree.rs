//! Snapshots drawn as a forest.

use std::collections::HashSet;

use api_protos::containerd::services::snapshots::v1::Info;

use crate::table::printable;

/// Returns each snapshot on a line, below its parent and indented.
pub fn render(infos: &[Info]) -> String {
    let names: HashSet<&str> = infos.iter().map(|info| info.name.as_str()).collect();
    let mut text = String::new();
    // Children are put on the stack in reverse, so that they come off in order; a stack, as chains may be very deep.
    let roots = infos
        .iter()
        .filter(|info| !names.contains(info.parent.as_str()));
    let mut stack: Vec<(usize, &Info)> = roots.rev().map(|info| (0, info)).collect();
    while let Some((depth, info)) = stack.pop() {
        let branch = if depth == 0 {
            String::new()
        } else {
            format!("{}\\_ ", "  ".repeat(depth - 1))
        };
        text.push_str(&format!("{branch}{}\n", printable(&info.name)));
        let children = infos.iter().filter(|child| child.parent == info.name);
        stack.extend(children.rev().map(|child| (depth + 1, child)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stand_below_their_parent() {
        let info = |name: &str, parent: &str| Info {
            name: name.into(),
            parent: parent.into(),
            ..Default::default()
        };
        let infos = [
            info("a", ""),
            info("b", "a"),
            info("c", "b"),
            info("d", "a"),
            info("e", ""),
        ];
        assert_eq!(render(&infos), "a\n\\_ b\n  \\_ c\n\\_ d\ne\n");
    }
}
