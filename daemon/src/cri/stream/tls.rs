//! Streams over TLS: the certificate, from files or made on the spot.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::cri::config::Tls;
use crate::error::{Context, Error, Result};

/// A connection to a client, be it encrypted or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of either kind.
pub type Socket = Box<dyn Io>;

type Certificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Returns what encrypts connections to the server at this address, if they are to be.
pub fn acceptor(tls: &Tls, address: IpAddr) -> Result<Option<TlsAcceptor>> {
    let (chain, key) = match tls {
        Tls::Not => return Ok(None),
        Tls::SelfSigned => {
            self_signed(address).context(|| "make a certificate for the streaming server")?
        }
        Tls::Files { cert, key } => {
            load(cert, key).context(|| "load the key pair of the streaming server")?
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| Error::other("use the certificate of the streaming server", error))?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn load(cert: &Path, key: &Path) -> Result<Certificate> {
    let wrong = |path: &Path, error| Error::other(format!("read {path:?}"), error);
    let chain = CertificateDer::pem_file_iter(cert).map_err(|error| wrong(cert, error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| wrong(cert, error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error))?;
    Ok((chain, key))
}

fn self_signed(address: IpAddr) -> Result<Certificate> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let names = vec![host, "localhost".to_owned(), address.to_string()];
    let made = rcgen::generate_simple_self_signed(names);
    let made = made.map_err(|error| Error::other("sign it", error))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_or_read() {
        let address = IpAddr::from([127, 0, 0, 1]);
        assert!(acceptor(&Tls::Not, address).unwrap().is_none());
        assert!(acceptor(&Tls::SelfSigned, address).unwrap().is_some());
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        let files = Tls::Files {
            cert: cert.clone(),
            key: key.clone(),
        };
        std::fs::write(&cert, made.cert.pem()).unwrap();
        assert!(acceptor(&files, address).is_err(), "there is no key");
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        assert!(acceptor(&files, address).unwrap().is_some());
        std::fs::write(&cert, "nonsense").unwrap();
        assert!(acceptor(&files, address).is_err());
    }
}
