//! What is run: arguments and environment, made of the image's and of the container's.

use std::collections::HashMap;

use api_protos::runtime::v1::ContainerConfig;

use super::ImageConfig;
use crate::error::{Result, invalid};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the arguments of a container's first process.
///
/// A command replaces both of the image's, arguments alone only its second part.
pub fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let (mut command, mut args) = (config.command.clone(), config.args.clone());
    if command.is_empty() {
        if args.is_empty() {
            args.clone_from(&image.cmd);
        }
        command.clone_from(&image.entrypoint);
    }
    command.append(&mut args);
    match command.is_empty() {
        true => Err(invalid("no command specified")),
        false => Ok(command),
    }
}

/// Returns the environment of a container's processes.
pub fn env(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env = Env::default();
    env.set(PATH.to_owned());
    if config.tty {
        env.set("TERM=xterm".to_owned());
    }
    env.set(format!("HOSTNAME={hostname}"));
    image.env.iter().for_each(|entry| env.set(entry.clone()));
    for pair in &config.envs {
        let value = String::from_utf8_lossy(&pair.value);
        env.set(format!("{}={value}", pair.key));
    }
    env.entries
}

/// An environment in which a later value takes the place of an earlier one.
#[derive(Debug, Default)]
struct Env {
    entries: Vec<String>,
    places: HashMap<String, usize>,
}

impl Env {
    fn set(&mut self, entry: String) {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        match self.places.get(&name) {
            Some(place) => self.entries[*place] = entry,
            None => {
                self.places.insert(name, self.entries.len());
                self.entries.push(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_protos::runtime::v1::KeyValue;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn commands_and_arguments_replace_those_of_the_image() {
        let cases: [(&[&str], &[&str], &[&str]); 4] = [
            (&[], &[], &["ie", "ic"]),
            (&[], &["a"], &["ie", "a"]),
            (&["c"], &[], &["c"]),
            (&["c"], &["a"], &["c", "a"]),
        ];
        let image = ImageConfig {
            entrypoint: strings(&["ie"]),
            cmd: strings(&["ic"]),
            ..ImageConfig::default()
        };
        for (command, given, wanted) in cases {
            let config = ContainerConfig {
                command: strings(command),
                args: strings(given),
                ..ContainerConfig::default()
            };
            assert_eq!(args(&config, &image).unwrap(), wanted);
        }
        let nothing = args(&ContainerConfig::default(), &ImageConfig::default());
        assert_eq!(nothing.unwrap_err().to_string(), "no command specified");
    }

    #[test]
    fn the_container_has_the_last_word_on_its_environment() {
        let image = ImageConfig {
            env: strings(&["PATH=/i", "A=image", "B=image"]),
            ..ImageConfig::default()
        };
        let config = ContainerConfig {
            tty: true,
            envs: vec![KeyValue {
                key: "A".into(),
                value: b"container".to_vec(),
            }],
            ..ContainerConfig::default()
        };
        assert_eq!(
            env(&config, &image, "h"),
            [
                "PATH=/i",
                "TERM=xterm",
                "HOSTNAME=h",
                "A=container",
                "B=image"
            ]
        );
    }
}
