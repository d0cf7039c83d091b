//! Who has set what of a container: of two plugins that want the same, the second is refused.

use std::collections::HashMap;

use api_protos::nri::pkg::api::v1alpha1::{CompoundFieldOwners, Field, FieldOwners, OwningPlugins};

use crate::error::{Error, Kind, Result};

/// The owners of what has been set so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    /// By container, field, and what there are several of in the field.
    owners: HashMap<(String, Field, String), Owner>,
}

#[derive(Clone, Debug)]
struct Owner {
    plugin: String,
    /// Whether it has removed what another had set, so that it may set it anew.
    cleared: bool,
}

/// One container's part of it, for one plugin.
pub(super) struct Claims<'a> {
    pub owners: &'a mut Owners,
    pub container: &'a str,
    pub plugin: &'a str,
}

impl Claims<'_> {
    /// Notes that the plugin sets a field, or one thing of those in it.
    pub fn claim(&mut self, field: Field, key: &str) -> Result<()> {
        let at = self.key(field, key);
        if let Some(other) = self.owners.owners.get(&at)
            && !(other.cleared && other.plugin == self.plugin)
        {
            let (plugin, other) = (self.plugin, &other.plugin);
            let message = format!(
                "plugins {plugin:?} and {other:?} both tried to set {} {key}",
                field.as_str_name()
            );
            return Err(Error::new(Kind::Unknown, message.trim_end()));
        }
        self.set(at, false);
        Ok(())
    }

    /// Notes that the plugin removes what was there, whoever has set it.
    pub fn clear(&mut self, field: Field, key: &str) {
        let at = self.key(field, key);
        self.set(at, true);
    }

    /// Notes that the plugin has added to what several may add to.
    pub fn join(&mut self, field: Field) {
        let at = self.key(field, "");
        let plugin = match self.owners.owners.get(&at) {
            Some(others) => format!("{},{}", others.plugin, self.plugin),
            None => self.plugin.to_owned(),
        };
        let cleared = false;
        self.owners.owners.insert(at, Owner { plugin, cleared });
    }

    fn key(&self, field: Field, key: &str) -> (String, Field, String) {
        (self.container.to_owned(), field, key.to_owned())
    }

    fn set(&mut self, at: (String, Field, String), cleared: bool) {
        let plugin = self.plugin.to_owned();
        self.owners.owners.insert(at, Owner { plugin, cleared });
    }
}

impl Owners {
    /// Returns the owners as plugins that judge are told of them.
    pub fn told(&self) -> OwningPlugins {
        let mut told = OwningPlugins::default();
        for ((container, field, key), owner) in &self.owners {
            let of_container: &mut FieldOwners = told.owners.entry(container.clone()).or_default();
            let plugin = match owner.cleared {
                true => format!("-{}", owner.plugin),
                false => owner.plugin.clone(),
            };
            let field = *field as i32;
            match key.as_str() {
                "" => drop(of_container.simple.insert(field, plugin)),
                key => {
                    let several: &mut CompoundFieldOwners =
                        of_container.compound.entry(field).or_default();
                    several.owners.insert(key.to_owned(), plugin);
                }
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims<'a>(owners: &'a mut Owners, plugin: &'a str) -> Claims<'a> {
        Claims {
            owners,
            container: "c",
            plugin,
        }
    }

    #[test]
    fn what_one_has_set_no_other_sets() {
        let owners = &mut Owners::default();
        claims(owners, "00-a").claim(Field::Env, "A").unwrap();
        claims(owners, "10-b").claim(Field::Env, "B").unwrap();
        claims(owners, "10-b").claim(Field::Args, "").unwrap();
        let refused = claims(owners, "10-b").claim(Field::Env, "A").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "plugins \"10-b\" and \"00-a\" both tried to set Env A"
        );
        let refused = claims(owners, "00-a").claim(Field::Args, "").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "plugins \"00-a\" and \"10-b\" both tried to set Args"
        );
    }

    #[test]
    fn what_is_removed_first_may_be_set() {
        let owners = &mut Owners::default();
        claims(owners, "00-a").claim(Field::Env, "A").unwrap();
        claims(owners, "10-b").clear(Field::Env, "A");
        assert!(claims(owners, "20-c").claim(Field::Env, "A").is_err());
        claims(owners, "10-b").claim(Field::Env, "A").unwrap();
        let told = owners.told().owners;
        let env = &told["c"].compound[&(Field::Env as i32)].owners;
        assert_eq!(env["A"], "10-b");
    }

    #[test]
    fn hooks_are_everybodys() {
        let owners = &mut Owners::default();
        claims(owners, "00-a").join(Field::OciHooks);
        claims(owners, "10-b").join(Field::OciHooks);
        let told = owners.told().owners;
        assert_eq!(told["c"].simple[&(Field::OciHooks as i32)], "00-a,10-b");
    }
}
