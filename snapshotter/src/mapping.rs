//! Snapshots whose files belong to the users of a namespace: the labels that ask for it, and what follows from them.

use sys::{Error, Kind, Result};

use crate::Labels;

const UIDS: &str = "containerd.io/snapshot/uidmapping";
const GIDS: &str = "containerd.io/snapshot/gidmapping";

/// Whom files belong to: owner 0 on disk is the first of the range, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    uids: Range,
    gids: Range,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    length: u32,
}

impl Mapping {
    /// Returns the mapping that labels ask for; that they ask for half of one is an error.
    pub fn of(labels: &Labels) -> Result<Option<Self>> {
        match (labels.get(UIDS), labels.get(GIDS)) {
            (None, None) => Ok(None),
            (Some(uids), Some(gids)) => Ok(Some(Self {
                uids: Range::parse(uids)?,
                gids: Range::parse(gids)?,
            })),
            _ => Err(Error::new(
                Kind::InvalidArgument,
                format!("labels {UIDS:?} and {GIDS:?} are only valid together"),
            )),
        }
    }

    /// Returns the options by which lower folders and binds are mounted so.
    pub fn options(&self) -> [String; 2] {
        let text = |name: &str, range: Range| format!("{name}=0:{}:{}", range.first, range.length);
        [text("uidmap", self.uids), text("gidmap", self.gids)]
    }

    /// Returns who owns a file that belongs to these on disk.
    pub fn owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        (self.uids.map(uid), self.gids.map(gid))
    }
}

impl Range {
    fn parse(text: &str) -> Result<Self> {
        let numbers: Vec<Option<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
        match numbers.as_slice() {
            [Some(0), Some(first), Some(length @ 1..)] if first.checked_add(*length).is_some() => {
                Ok(Self {
                    first: *first,
                    length: *length,
                })
            }
            _ => Err(Error::new(
                Kind::InvalidArgument,
                format!("mapping {text:?} is not 0, the first id and how many there are"),
            )),
        }
    }

    /// Ids outside of the range are nobody's, which overlay shows as they are.
    fn map(self, id: u32) -> u32 {
        match id < self.length {
            true => self.first + id,
            false => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(uids: &str, gids: &str) -> Labels {
        [(UIDS, uids), (GIDS, gids)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn both_labels_ask_for_a_mapping() {
        let mapping = Mapping::of(&labels("0:1000:10", "0:2000:5")).unwrap();
        let mapping = mapping.unwrap();
        assert_eq!(mapping.options(), ["uidmap=0:1000:10", "gidmap=0:2000:5"]);
        assert_eq!(mapping.owner(9, 5), (1009, 5));
        assert_eq!(Mapping::of(&Labels::new()).unwrap(), None);
        for (uids, gids) in [
            ("0:1:1", ""),
            ("", "0:1:1"),
            ("1:1:1", "0:1:1"),
            ("0:1:0", "0:1:1"),
            ("0:1", "0:1:1"),
            ("0:4294967295:2", "0:1:1"),
            ("x", "0:1:1"),
        ] {
            assert!(Mapping::of(&labels(uids, gids)).is_err(), "{uids} {gids}");
        }
    }
}
