//! The HTTP/1.1 request that a connection begins with, and the answers to it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{Context, Error, Kind, Result, invalid};

/// The longest head of a request.
const LONGEST: usize = 64 << 10;
const HEADERS: usize = 64;
const TEXT: &str = "text/plain; charset=utf-8";
/// How long a client may take to send it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The head of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head, and returns it with what came after it.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Self, Vec<u8>)> {
        let mut bytes = Vec::new();
        let read = async {
            loop {
                if let Some((head, length)) = Self::parse(&bytes)? {
                    return Ok((head, bytes.split_off(length)));
                }
                if bytes.len() >= LONGEST {
                    return Err(invalid("the head of the request is too long"));
                }
                let read = stream.read_buf(&mut bytes).await;
                if read.context(|| "read a request")? == 0 {
                    return Err(Error::new(Kind::Unavailable, "the request is cut short"));
                }
            }
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.map_err(|_| Error::new(Kind::DeadlineExceeded, "no request came"))?
    }

    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request
            .parse(bytes)
            .map_err(|error| invalid(format!("parse a request: {error}")))?;
        let httparse::Status::Complete(length) = parsed else {
            return Ok(None);
        };
        let headers = request.headers.iter().map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_ascii_lowercase(), value)
        });
        let head = Self {
            method: request.method.unwrap_or_default().to_owned(),
            path: request.path.unwrap_or_default().to_owned(),
            headers: headers.collect(),
        };
        Ok(Some((head, length)))
    }

    /// Returns the values of a header, which may be in lists, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter().filter(|(key, _)| key == name);
        let values = headers.flat_map(|(_, value)| value.split(','));
        values
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// Returns whether the client wants to go on with `protocol`.
    pub fn upgrades_to(&self, protocol: &str) -> bool {
        let has = |name: &str, wanted: &str| {
            let mut values = self.values(name).into_iter();
            values.any(|value| value.eq_ignore_ascii_case(wanted))
        };
        has("connection", "upgrade") && has("upgrade", protocol)
    }
}

/// Answers that the connection goes on with another protocol.
pub async fn switch(
    stream: &mut (impl AsyncWrite + Unpin),
    headers: &[(&str, &str)],
) -> Result<()> {
    let mut answer = String::from("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
    for (name, value) in headers {
        answer += &format!("{name}: {value}\r\n");
    }
    answer += "\r\n";
    let written = stream.write_all(answer.as_bytes()).await;
    written.context(|| "answer a request")
}

/// Answers that nothing comes of the request.
pub async fn refuse(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    message: &str,
) -> Result<()> {
    answer(stream, status, TEXT, &format!("{message}\n")).await
}

/// Answers with a whole body, after which the connection ends.
pub async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    media_type: &str,
    body: &str,
) -> Result<()> {
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    let written = stream.write_all(answer.as_bytes()).await;
    written.context(|| "answer a request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_piece_by_piece() {
        let text = b"POST /exec/abc HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: SPDY/3.1\r\n\
            X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n\r\nrest";
        assert_eq!(Head::parse(&text[..40]).unwrap(), None);
        let (head, length) = Head::parse(text).unwrap().unwrap();
        assert_eq!(&text[length..], b"rest");
        assert_eq!(
            (head.method.as_str(), head.path.as_str()),
            ("POST", "/exec/abc")
        );
        assert!(head.upgrades_to("spdy/3.1") && !head.upgrades_to("websocket"));
        assert_eq!(
            head.values("x-stream-protocol-version"),
            ["v4.channel.k8s.io", "v3.channel.k8s.io"]
        );
        assert!(Head::parse(b"\0\0\r\n\r\n").is_err());
    }
}
