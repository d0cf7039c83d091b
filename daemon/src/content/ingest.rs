//! Writing blobs: one writer for a reference at a time, resumable, verified on commit.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom, Write as _};
use std::sync::PoisonError;
use std::time::{Instant, SystemTime};

use api_protos::containerd::events::ContentCreate;
use prost_types::Timestamp;

use super::{Content, Digest, Hasher, missing};
use crate::context::Context;
use crate::digest::Algorithm;
use crate::error::{Context as _, Error, Kind, Result, invalid, precondition};
use crate::filter::{Fields, Filter};
use crate::labels::{self, Labels};
use crate::metadata::{Blob, Ingest, Namespace, Read, Table, Tx, db, leases};
use crate::time::now;
use sys::failpoint;

/// How long an ingest that no lease holds is kept for resuming.
const KEPT_SECONDS: i64 = 24 * 60 * 60;

/// What a writer is opened with.
#[derive(Clone, Debug, Default)]
pub struct WriterOptions {
    /// The name of the ingest in its namespace.
    pub reference: String,
    /// The size of the whole blob, 0 if unknown.
    pub total: i64,
    /// The digest of the whole blob, if known.
    pub expected: Option<Digest>,
}

/// How far an ingest has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub reference: String,
    pub offset: i64,
    pub total: i64,
    pub expected: String,
    pub started_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
}

/// An open ingest. Dropping it keeps what was written, for a later writer with the same reference.
#[derive(Debug)]
pub struct Writer {
    content: Content,
    context: Context,
    reference: String,
    ingest: Ingest,
    data: Data,
    updated_at: Timestamp,
    _lock: Lock,
}

/// Where the bytes of an ingest are.
#[derive(Debug)]
enum Data {
    /// In a file of its own.
    Own {
        file: File,
        hasher: Box<Hasher>,
        offset: i64,
    },
    /// In the blob that another namespace has.
    Shared { digest: Digest, size: i64 },
}

impl Content {
    /// Opens a writer, or fails with `AlreadyExists`, having leased the blob, if the namespace has what is expected.
    pub fn writer(&self, context: &Context, options: WriterOptions) -> Result<Writer> {
        let reference = options.reference.clone();
        if reference.is_empty() {
            return Err(invalid("ref must not be empty"));
        }
        leases::check_text("ref", &reference)?;
        let lock = Lock::take(self, context.namespace(), &reference)?;
        let expected = options.expected.as_ref();
        let claim = expected.map(|digest| self.inner.claims.claim(digest));
        let opened = self.open_ingest(context, &options)?;
        drop(claim);
        failpoint!("content.opened");
        let Some(ingest) = opened else {
            let digest = options.expected.map(|digest| digest.to_string());
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("content {}", digest.unwrap_or_default()),
            ));
        };
        let shared = Digest::parse(&ingest.shared)
            .ok()
            .and_then(|digest| Some((self.inner.blobs.size(&digest)? as i64, digest)));
        let data = match shared {
            Some((size, digest)) => Data::Shared { digest, size },
            None => {
                let expected = options.expected.as_ref();
                let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
                Data::open(self.inner.blobs.open_ingest(&ingest.file)?, algorithm)?
            }
        };
        Ok(Writer {
            content: self.clone(),
            context: context.clone(),
            reference,
            updated_at: self.updated_at(&ingest),
            ingest,
            data,
            _lock: lock,
        })
    }

    /// Records an ingest, or returns nothing if the blob is there and has been leased.
    ///
    /// What an ingest of the same name has of a blob of another size is of no use for this one and is removed.
    fn open_ingest(&self, context: &Context, options: &WriterOptions) -> Result<Option<Ingest>> {
        let (content, context, options) = (self.clone(), context.clone(), options.clone());
        let (ingest, useless) = self.inner.store.write(move |tx| {
            let (namespace, reference) = (context.namespace(), &options.reference);
            let mut shared = None;
            if let Some(expected) = &options.expected {
                if tx
                    .bytes(Table::Blobs, namespace, expected.as_str())?
                    .is_some()
                {
                    leases::attach(tx, &context, leases::CONTENT, expected.as_str())?;
                    return Ok((None, None));
                }
                shared = content.sharable(tx, expected, options.total)?;
            }
            let known: Option<Ingest> = tx.get(Table::Ingests, namespace, reference)?;
            let other = |ingest: &Ingest| {
                options.total > 0 && ingest.total > 0 && options.total != ingest.total
            };
            let (known, useless) = match known {
                Some(ingest) if other(&ingest) => (None, Some(ingest.file)),
                known => (known, None),
            };
            let mut ingest = match known {
                Some(ingest) => ingest,
                None => Ingest {
                    file: tx.next_sequence()?.to_string(),
                    started_at: Some(now()),
                    ..Default::default()
                },
            };
            ingest.total = ingest.total.max(options.total);
            if let Some(expected) = shared {
                ingest.shared = expected;
            }
            let leased = leases::attach(tx, &context, leases::INGESTS, reference)?;
            let mut expire_at = now();
            expire_at.seconds += KEPT_SECONDS;
            ingest.expire_at = (!leased).then_some(expire_at);
            tx.put(Table::Ingests, namespace, reference, &ingest)?;
            Ok((Some(ingest), useless))
        })?;
        if let Some(file) = useless {
            self.inner.blobs.remove_ingest(&file)?;
        }
        Ok(ingest)
    }

    /// Returns the digest if the blob is in the store and this namespace may have it for the asking.
    fn sharable(&self, tx: &Tx<'_, '_>, expected: &Digest, total: i64) -> Result<Option<String>> {
        if !self.inner.shared && !offered(tx, expected)? {
            return Ok(None);
        }
        let size = self.inner.blobs.size(expected).map(|size| size as i64);
        let fits = size.is_some_and(|size| total == 0 || total == size);
        Ok(fits.then(|| expected.to_string()))
    }

    /// Returns how far the ingest `reference` has come.
    pub fn status(&self, context: &Context, reference: &str) -> Result<Status> {
        let ingest: Ingest = self
            .inner
            .store
            .read(|view| view.get(Table::Ingests, context.namespace(), reference))?
            .ok_or_else(|| no_reference(reference))?;
        Ok(self.status_of(reference, &ingest))
    }

    /// Returns the ingests that one of `filters` asks for.
    pub fn statuses<S: AsRef<str>>(&self, context: &Context, filters: &[S]) -> Result<Vec<Status>> {
        let filter = Filter::parse(filters)?;
        let ingests = self
            .inner
            .store
            .read(|view| view.list::<Ingest>(Table::Ingests, context.namespace(), ""))?;
        Ok(ingests
            .iter()
            .map(|(reference, ingest)| self.status_of(reference, ingest))
            .filter(|status| filter.matches(status))
            .collect())
    }

    /// Forgets an ingest and what was written of it.
    pub fn abort(&self, context: &Context, reference: &str) -> Result<()> {
        let (owner, key) = (context.clone(), reference.to_owned());
        let ingest = self.inner.store.write(move |tx| {
            let ingest: Ingest = tx
                .get(Table::Ingests, owner.namespace(), &key)?
                .ok_or_else(|| no_reference(&key))?;
            tx.remove(Table::Ingests, owner.namespace(), &key);
            leases::detach(tx, &owner, leases::INGESTS, &key);
            Ok(ingest)
        })?;
        self.inner.blobs.remove_ingest(&ingest.file)
    }

    fn status_of(&self, reference: &str, ingest: &Ingest) -> Status {
        let own = self.inner.blobs.ingest_metadata(&ingest.file);
        Status {
            reference: reference.to_owned(),
            offset: own.map_or(0, |file| file.len() as i64),
            total: ingest.total,
            expected: ingest.shared.clone(),
            started_at: ingest.started_at,
            updated_at: Some(self.updated_at(ingest)),
        }
    }

    fn updated_at(&self, ingest: &Ingest) -> Timestamp {
        self.inner
            .blobs
            .ingest_metadata(&ingest.file)
            .and_then(|file| file.modified().ok())
            .map(Timestamp::from)
            .or(ingest.started_at)
            .unwrap_or_default()
    }
}

/// Returns whether a namespace that has the blob shares its content.
fn offered(tx: &Tx<'_, '_>, digest: &Digest) -> Result<bool> {
    let mut offering = Vec::new();
    tx.visit(Table::Namespaces, None, "", &mut |name, _, bytes| {
        let namespace: Namespace = db::decode(bytes)?;
        let shareable = namespace.labels.get(labels::NAMESPACE_SHAREABLE);
        if shareable.is_some_and(|value| value == "true") {
            offering.push(name.to_owned());
        }
        Ok(())
    })?;
    for namespace in offering {
        if tx
            .bytes(Table::Blobs, &namespace, digest.as_str())?
            .is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn no_reference(reference: &str) -> Error {
    Error::new(Kind::NotFound, format!("reference {reference}"))
}

impl Writer {
    /// Returns how far the ingest has come.
    pub fn status(&self) -> Status {
        let (offset, total) = match &self.data {
            Data::Own { offset, .. } => (*offset, self.ingest.total),
            Data::Shared { size, .. } => (*size, *size),
        };
        Status {
            reference: self.reference.clone(),
            offset,
            total,
            expected: self.ingest.shared.clone(),
            started_at: self.ingest.started_at,
            updated_at: Some(self.updated_at),
        }
    }

    /// Returns the digest of what has been written.
    pub fn digest(&self) -> Digest {
        match &self.data {
            Data::Own { hasher, .. } => Hasher::clone(hasher).finish(),
            Data::Shared { digest, .. } => digest.clone(),
        }
    }

    /// Opens what has been written for reading.
    pub fn written(&self) -> Result<io::Take<File>> {
        let blobs = &self.content.inner.blobs;
        let file = match &self.data {
            Data::Own { .. } => blobs.open_ingest(&self.ingest.file)?,
            Data::Shared { digest, .. } => blobs.open_blob(digest)?.into_file(),
        };
        Ok(file.take(self.status().offset as u64))
    }

    /// Appends `bytes`. What a full disk cuts short is taken back, so that the writer can go on later.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.own(None)?;
        let Data::Own {
            file,
            hasher,
            offset,
        } = &mut self.data
        else {
            return Err(missing(&self.ingest.shared));
        };
        failpoint!("content.write");
        if let Err(error) = file.write_all(bytes) {
            let back = file
                .set_len(*offset as u64)
                .and_then(|()| file.seek(SeekFrom::Start(*offset as u64)));
            back.context(|| format!("take back a write to ref {:?}", self.reference))?;
            return Err(error).context(|| format!("write to ref {:?}", self.reference));
        }
        hasher.update(bytes);
        *offset += bytes.len() as i64;
        self.updated_at = now();
        Ok(())
    }

    /// Cuts what has been written to `size` bytes.
    pub fn truncate(&mut self, size: i64) -> Result<()> {
        self.own(Some(size))?;
        if let Data::Own {
            file,
            hasher,
            offset,
        } = &mut self.data
            && *offset != size
        {
            if !(0..=*offset).contains(&size) {
                return Err(invalid(format!("cannot truncate {offset} bytes to {size}")));
            }
            let algorithm = hasher.algorithm();
            file.set_len(size as u64)
                .context(|| format!("truncate ref {:?}", self.reference))?;
            let file = file.try_clone().context(|| "reopen ingest")?;
            self.data = Data::open(file, algorithm)?;
        }
        Ok(())
    }

    /// Gives an ingest that stands for a shared blob a file of its own with the blob's first `size` bytes.
    fn own(&mut self, size: Option<i64>) -> Result<()> {
        let Data::Shared { digest, size: all } = &self.data else {
            return Ok(());
        };
        let (digest, size) = (digest.clone(), size.unwrap_or(*all));
        let blobs = &self.content.inner.blobs;
        let mut source = blobs.open_blob(&digest)?.into_file().take(size as u64);
        let mut file = blobs.open_ingest(&self.ingest.file)?;
        let mut copy = || {
            file.set_len(0)?;
            io::copy(&mut source, &mut file)
        };
        copy().context(|| format!("copy content {digest}"))?;
        self.data = Data::open(file, digest.algorithm())?;
        self.ingest.shared = String::new();
        let (namespace, reference) = (self.context.namespace().to_owned(), self.reference.clone());
        self.content.inner.store.write(move |tx| {
            let known: Option<Ingest> = tx.get(Table::Ingests, &namespace, &reference)?;
            if let Some(mut ingest) = known {
                ingest.shared = String::new();
                tx.put(Table::Ingests, &namespace, &reference, &ingest)?;
            }
            Ok(())
        })
    }

    /// Makes what has been written a blob and returns its digest, when it has the size and digest that are expected.
    ///
    /// If the namespace has the blob already, the error is `AlreadyExists`, and the lease holds it all the same.
    pub fn commit(
        mut self,
        size: i64,
        expected: Option<&Digest>,
        mut labels: Labels,
    ) -> Result<Digest> {
        labels::validate("info", &labels)?;
        labels::drop_empty(&mut labels);
        let written = self.status().offset;
        if size > 0 && size != written {
            return Err(precondition(format!(
                "{:?} failed size validation: {written} != {size}",
                self.reference
            )));
        }
        let digest = self.verify(expected)?;
        if let Data::Own { file, .. } = &self.data {
            file.sync_data()
                .context(|| format!("sync ref {:?}", self.reference))?;
        }
        failpoint!("content.synced");
        let inner = self.content.inner.clone();
        let claim = inner.claims.claim(&digest);
        match &self.data {
            Data::Own { .. } => inner.blobs.commit(&self.ingest.file, &digest)?,
            Data::Shared { .. } if inner.blobs.size(&digest).is_none() => {
                return Err(missing(digest.as_str()));
            }
            Data::Shared { .. } => {}
        }
        failpoint!("content.named");
        let new = self.record(&digest, written, labels)?;
        drop(claim);
        failpoint!("content.recorded");
        if !new {
            return Err(Error::new(Kind::AlreadyExists, format!("content {digest}")));
        }
        let event = ContentCreate {
            digest: digest.to_string(),
            size: written,
            ..Default::default()
        };
        inner
            .events
            .publish(self.context.namespace(), "/content/create", &event)?;
        Ok(digest)
    }

    /// Returns the digest of what was written if it is the one expected.
    fn verify(&mut self, expected: Option<&Digest>) -> Result<Digest> {
        let mut digest = self.digest();
        let Some(expected) = expected else {
            return Ok(digest);
        };
        if let Data::Own { file, .. } = &mut self.data
            && expected.algorithm() != digest.algorithm()
        {
            digest = hash(file, expected.algorithm())?.0.finish();
        }
        if digest != *expected {
            return Err(precondition(match &self.data {
                Data::Own { .. } => {
                    format!("unexpected commit digest {digest}, expected {expected}")
                }
                Data::Shared { .. } => format!("{:?} unexpected digest", self.reference),
            }));
        }
        Ok(digest)
    }

    /// Records the blob in the namespace and returns whether it is new there.
    fn record(&self, digest: &Digest, size: i64, labels: Labels) -> Result<bool> {
        let (context, reference) = (self.context.clone(), self.reference.clone());
        let digest = digest.to_string();
        self.content.inner.store.write(move |tx| {
            let namespace = context.namespace();
            tx.remove(Table::Ingests, namespace, &reference);
            leases::detach(tx, &context, leases::INGESTS, &reference);
            leases::attach(tx, &context, leases::CONTENT, &digest)?;
            if tx.bytes(Table::Blobs, namespace, &digest)?.is_some() {
                return Ok(false);
            }
            let created_at = Some(now());
            let blob = Blob {
                size,
                created_at,
                updated_at: created_at,
                labels,
            };
            tx.put(Table::Blobs, namespace, &digest, &blob)?;
            Ok(true)
        })
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Writer::write(self, bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Data {
    fn open(mut file: File, algorithm: Algorithm) -> Result<Self> {
        let (hasher, offset) = hash(&mut file, algorithm)?;
        Ok(Self::Own {
            file,
            hasher: Box::new(hasher),
            offset,
        })
    }
}

/// Hashes a file from its start and leaves its position at the end.
fn hash(file: &mut File, algorithm: Algorithm) -> Result<(Hasher, i64)> {
    let mut hasher = Hasher::new(algorithm);
    let mut offset = 0;
    let mut read = || -> io::Result<()> {
        file.seek(SeekFrom::Start(0))?;
        if file.metadata()?.len() == 0 {
            return Ok(());
        }
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                count => {
                    hasher.update(&buffer[..count]);
                    offset += count as i64;
                }
            }
        }
    };
    read().context(|| "read ingest")?;
    Ok((hasher, offset))
}

impl Fields for Status {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        (path.first()? == "ref").then_some(Cow::Borrowed(self.reference.as_str()))
    }
}

/// Keeps other writers from a reference while it lives.
#[derive(Debug)]
struct Lock {
    content: Content,
    key: (String, String),
}

impl Lock {
    fn take(content: &Content, namespace: &str, reference: &str) -> Result<Self> {
        let key = (namespace.to_owned(), reference.to_owned());
        let mut writers = content
            .inner
            .writers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = writers.get(&key) {
            let held = since.elapsed();
            let since = Timestamp::from(SystemTime::now() - held).seconds;
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "ref {namespace}/{reference} locked for {held:?} (since {})",
                    crate::time::format(since)
                ),
            ));
        }
        writers.insert(key.clone(), Instant::now());
        drop(writers);
        Ok(Self {
            content: content.clone(),
            key,
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.content
            .inner
            .writers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}
