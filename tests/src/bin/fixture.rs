//! The harness for shell scripts: pushes images made on the spot, tells and removes what a fixture has left.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tests::image::Recipe;
use tests::leftovers::Leftovers;
use tests::{Image, registry};

const USAGE: &str = "usage:
  fixture push HOST:PORT REPOSITORY TAG [LAYER.tar.gz...]   push busybox with these layers above it
  fixture left FOLDER NAMESPACE                             print what is left; fail if anything is
  fixture remove FOLDER NAMESPACE                           kill, unmount and remove what is left
  fixture nri                                               be a plugin of NRI, over standard input";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fixture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["push", host, repository, tag, layers @ ..] => {
            let address = host.parse().with_context(|| format!("parse {host}"))?;
            let image = layered(layers)?;
            println!("{}", registry::push(address, repository, tag, &image));
            Ok(ExitCode::SUCCESS)
        }
        ["left", folder, namespace] => {
            let left = Leftovers::find(Path::new(folder), namespace);
            if left.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
            println!("{left:#?}");
            Ok(ExitCode::FAILURE)
        }
        ["remove", folder, namespace] => {
            Leftovers::remove(Path::new(folder), namespace);
            Ok(ExitCode::SUCCESS)
        }
        ["nri"] => {
            tests::nri::installed()?;
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("{USAGE}"),
    }
}

fn layered(layers: &[&str]) -> Result<Image> {
    let mut recipe: Recipe = Image::busybox_recipe();
    for layer in layers {
        let bytes = std::fs::read(layer).with_context(|| format!("read {layer}"))?;
        recipe = recipe.gzip_layer(bytes);
    }
    Ok(recipe.build())
}
