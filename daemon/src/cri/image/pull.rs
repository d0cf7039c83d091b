//! PullImage.

use std::sync::Arc;

use api_protos::runtime::v1::{AuthConfig, PullImageRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{MANAGED, PINNED, reference};
use crate::blocking::blocking;
use crate::cri::Cri;
use crate::error::{Context as _, Result, invalid};
use crate::images::platform::Platform;
use crate::labels::Labels;
use crate::registry::Reference;
use crate::registry::auth::{Credentials, Secret};
use crate::registry::hosts::{Options, Patience};
use crate::transfer::Side;
use crate::transfer::progress::Progress;
use crate::transfer::remote::Remote;
use crate::transfer::store::{ImageStore, Unpack};

/// Pulls an image and returns its id.
pub async fn pull(cri: &Cri, request: PullImageRequest) -> Result<String> {
    let spec = request.image.unwrap_or_default();
    let runtime = cri.config.runtime(&spec.runtime_handler)?;
    let snapshotter = cri.config.snapshotter_of(runtime).to_owned();
    image(cri, &spec.image, request.auth, snapshotter).await
}

/// Pulls an image by name to a snapshotter, and returns its id.
pub async fn image(
    cri: &Cri,
    name: &str,
    auth: Option<AuthConfig>,
    snapshotter: String,
) -> Result<String> {
    let pull = cri.operations.pull();
    let name = reference::normalize(name)
        .context(|| format!("failed to parse image reference {name:?}"))?;
    let whole = Reference::parse(&name)?;
    let secret = auth.map(|auth| secret(&auth)).transpose()?.flatten();
    let remote = Remote {
        reference: name.clone(),
        options: Options {
            host_dir: cri.config.registry_path.clone(),
            credentials: secret.map(credentials),
            patience: Patience {
                stall: cri.config.pull_stall,
                ..Patience::default()
            },
            ..Options::default()
        },
    };
    let mut labels = Labels::from([(MANAGED.0.to_owned(), MANAGED.1.to_owned())]);
    if reference::normalize(&cri.config.sandbox_image).is_ok_and(|sandbox| sandbox == name) {
        labels.insert(PINNED.0.into(), PINNED.1.into());
    }
    let store = ImageStore {
        name: name.clone(),
        labels: labels.clone(),
        platforms: vec![Platform::host()],
        limit: 1,
        unpacks: vec![Unpack {
            platform: Platform::host(),
            snapshotter,
        }],
        ..ImageStore::default()
    };
    let context = cri.store.context.clone();
    cri.parts
        .transfer
        .transfer(
            context.clone(),
            Side::Registry(remote),
            Side::Store(store),
            Progress::default(),
        )
        .await
        .context(|| format!("failed to pull and unpack image {name:?}"))?;

    let library = cri.library.clone();
    let (target, details) = blocking(move || {
        let image = library.images.get(&context, &name)?;
        let details = library.details(&image)?;
        Ok((image.target.unwrap_or_default(), details))
    })
    .await?;
    let by_digest = format!("{}@{}", reference::repository(&whole), target.digest);
    for name in [by_digest, details.id.clone()] {
        cri.library
            .name(&name, target.clone(), labels.clone())
            .await?;
    }
    pull.succeeded();
    Ok(details.id.clone())
}

/// Returns what is sent to the registry, or nothing if the pod has nothing to say.
fn secret(auth: &AuthConfig) -> Result<Option<(String, Secret)>> {
    let (username, secret, header) = match auth {
        auth if !auth.username.is_empty() => {
            (auth.username.clone(), auth.password.clone(), String::new())
        }
        auth if !auth.identity_token.is_empty() => {
            (String::new(), auth.identity_token.clone(), String::new())
        }
        auth if !auth.auth.is_empty() => {
            let wrong = || invalid("invalid auth config: no user name and password in base64");
            let decoded = STANDARD.decode(&auth.auth).map_err(|_| wrong())?;
            let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
            let (username, password) = decoded.split_once(':').ok_or_else(wrong)?;
            let password = password.trim_end_matches('\0');
            (username.to_owned(), password.to_owned(), String::new())
        }
        auth if !auth.registry_token.is_empty() => {
            let header = format!("Bearer {}", auth.registry_token);
            (String::new(), String::new(), header)
        }
        _ => return Ok(None),
    };
    let secret = Secret {
        username,
        secret,
        header,
    };
    Ok(Some((host(&auth.server_address).to_owned(), secret)))
}

/// Returns the host of an address, which may be a URL.
fn host(address: &str) -> &str {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    address.split('/').next().unwrap_or_default()
}

/// A secret is told to the host that it is for, or, if none is named, to the one that is asked for the image.
fn credentials((server, secret): (String, Secret)) -> Credentials {
    Arc::new(move |host| {
        let told = (server.is_empty() || server == host).then(|| secret.clone());
        Box::pin(async move { Ok(told) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_in_four_forms() {
        let auth = |change: fn(&mut AuthConfig)| {
            let mut auth = AuthConfig::default();
            change(&mut auth);
            auth
        };
        let basic = |user: &str, secret: &str, header: &str| Secret {
            username: user.into(),
            secret: secret.into(),
            header: header.into(),
        };
        for (auth, wanted) in [
            (AuthConfig::default(), None),
            (
                auth(|auth| {
                    auth.username = "u".into();
                    auth.password = "p".into();
                }),
                Some(basic("u", "p", "")),
            ),
            (
                auth(|auth| auth.auth = "dTpw".into()),
                Some(basic("u", "p", "")),
            ),
            (
                auth(|auth| auth.identity_token = "t".into()),
                Some(basic("", "t", "")),
            ),
            (
                auth(|auth| auth.registry_token = "t".into()),
                Some(basic("", "", "Bearer t")),
            ),
        ] {
            let found = secret(&auth).unwrap().map(|(_, secret)| secret);
            assert!(found == wanted, "{auth:?}");
        }
        assert!(secret(&auth(|auth| auth.auth = "dQ==".into())).is_err());
    }

    #[tokio::test]
    async fn a_secret_is_told_to_its_own_host_only() {
        let given = Secret {
            username: "u".into(),
            ..Secret::default()
        };
        let of = host("https://r.io:5000/v1/").to_owned();
        let ask = credentials((of, given.clone()));
        assert!(ask("r.io:5000".into()).await.unwrap() == Some(given));
        assert!(ask("evil.io".into()).await.unwrap().is_none());
    }
}
