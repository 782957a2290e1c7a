//! Files: written whole or not at all, digests, locks, sizes.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::error::{Code, Diagnose, Diagnosis};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Makes a digest from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a digest from 64 hexadecimal digits, with or without `sha256:` before them.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns the digest of a file's contents.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self(hasher.finalize().into())),
                n => hasher.update(&buffer[..n]),
            }
        }
    }

    /// Returns the digest as 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Returns the first 12 hexadecimal digits: enough for a tag or a label that people read.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// Returns the digest in the form of the OCI specification, `sha256:<hex>`.
    pub fn oci(&self) -> String {
        format!("sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.oci())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.oci())
    }
}

/// Digests a sequence of fields so that no two different sequences give the same bytes.
#[derive(Default, Clone)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds a field.
    pub fn field(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Returns the digest of all fields.
    pub fn finish(&self) -> Digest {
        Digest(self.0.clone().finalize().into())
    }
}

/// Hashes what passes through it on its way to another writer, and counts it.
pub struct Tee<W> {
    inner: W,
    hasher: Sha256,
    written: u64,
}

impl<W: Write> Tee<W> {
    /// Makes a writer that passes everything on to `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            written: 0,
        }
    }

    /// Returns the inner writer, the digest and the number of bytes of what was written.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest(self.hasher.finalize().into()), self.written)
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Makes a directory and its parents.
///
/// # Errors
/// [`Code::NotWritable`] or [`Code::Disk`], with the way to another place.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| explain(error, "make the directory", path))
}

/// Writes a file whole: a reader sees the old contents or the new, also after a crash.
///
/// # Errors
/// [`Code::NotWritable`] or [`Code::Disk`], with the way to another place.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    write_with_mode(path, contents.as_ref(), 0o644)
}

/// Writes a file whole that only its owner may read: keys, kubeconfigs.
///
/// # Errors
/// As [`write()`].
pub fn write_secret(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    write_with_mode(path, contents.as_ref(), 0o600)
}

/// Writes a file whole that can be executed.
///
/// # Errors
/// As [`write()`].
pub fn write_executable(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    write_with_mode(path, contents.as_ref(), 0o755)
}

/// Replaces a file that is there: whole or not at all. What a symbolic link leads to is replaced, not the link, and the
/// file keeps its mode and, where the system allows it, its owner.
///
/// # Errors
/// As [`write()`]; also where there is no file. The file is then as it was.
pub fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let attempt = || -> io::Result<()> {
        let target = fs::canonicalize(path)?;
        let meta = fs::metadata(&target)?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        // A file that may not be written is not replaced either, although its directory would allow it.
        drop(File::options().write(true).open(&target)?);
        let mut file = tempfile::Builder::new()
            .prefix(".labctl-")
            .permissions(fs::Permissions::from_mode(meta.permissions().mode() & 0o7777))
            .tempfile_in(parent)?;
        file.write_all(contents)?;
        // The umask took bits away when the file was made; and its owner is who runs this.
        file.as_file().set_permissions(meta.permissions())?;
        _ = std::os::unix::fs::fchown(file.as_file(), Some(meta.uid()), Some(meta.gid()));
        file.as_file().sync_data()?;
        file.persist(&target).map_err(|error| error.error)?;
        Ok(())
    };
    attempt().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => anyhow::Error::new(error).context(
            Diagnosis::new(
                Code::NotWritable,
                format!("replace `{}`: it cannot be written", path.display()),
            )
            .hint("it is as it was; chmod u+w makes it writable where it is yours"),
        ),
        _ => explain(error, "replace", path),
    })
}

fn write_with_mode(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let parent = path.parent().unwrap_or(Path::new("."));
    make_dir(parent)?;
    let attempt = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".labctl-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(parent)?;
        file.write_all(contents)?;
        file.as_file().sync_data()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    attempt().map_err(|error| explain(error, "write", path))
}

/// Says what an I/O error on a path means for the user.
pub fn explain(error: io::Error, doing: &str, path: &Path) -> anyhow::Error {
    let diagnosis = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Diagnosis::new(Code::Disk, format!("{doing} `{}`: the disk is full", path.display()))
                .hint("labctl image prune frees images that no lab uses; labctl teardown --all frees everything")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Diagnosis::new(
            Code::NotWritable,
            format!("{doing} `{}`: it cannot be written", path.display()),
        )
        .hint("set LABCTL_STATE_DIR and LABCTL_CACHE_DIR to directories that can be written"),
        _ => return anyhow::Error::new(error).context(format!("{doing} `{}`", path.display())),
    };
    anyhow::Error::new(error).context(diagnosis)
}

/// Returns every regular file and symbolic link below a directory, sorted; none where there is no directory.
///
/// # Errors
/// A directory cannot be read.
pub fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    fn inner(dir: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                inner(&entry.path(), out)?;
            } else {
                out.push(entry.path());
            }
        }
        Ok(())
    }
    let mut out = Vec::new();
    if dir.exists() {
        inner(dir, &mut out).with_context(|| format!("read the directory `{}`", dir.display()))?;
    }
    out.sort();
    Ok(out)
}

/// Returns how many bytes of disk the files below a path take; what cannot be read counts as nothing.
pub fn disk_usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let Ok(entries) = fs::read_dir(path) else {
        return own;
    };
    own + entries.flatten().map(|entry| disk_usage(&entry.path())).sum::<u64>()
}

/// Returns how many bytes can still be written to the file system of a path or of its nearest parent that exists.
///
/// # Errors
/// The file system does not say.
pub fn free_space(path: &Path) -> Result<u64> {
    let existing = path
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or_else(|| Path::new("/"));
    let stat = rustix::fs::statvfs(existing).with_context(|| format!("look at `{}`", existing.display()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// An exclusive lock on a file, held until it is dropped or the process ends, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Tries to take the lock and writes `who` into the file for others to read.
    ///
    /// Returns what the holder wrote where somebody else holds it.
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub fn try_take(path: &Path, who: &str) -> Result<Result<Self, String>> {
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| explain(error, "open the lock", path))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)
                    .and_then(|()| file.write_all(who.as_bytes()))
                    .map_err(|error| explain(error, "write the lock", path))?;
                Ok(Ok(Self { _file: file }))
            }
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                _ = file.read_to_string(&mut holder);
                Ok(Err(holder))
            }
            Err(fs::TryLockError::Error(error)) => Err(error).diagnose(|| {
                Diagnosis::new(Code::NotWritable, format!("lock `{}`", path.display()))
                    .hint("set LABCTL_STATE_DIR to a directory on a local file system")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cannot_run_into_each_other() {
        let a = Hasher::default().field("ab").field("c").finish();
        let b = Hasher::default().field("a").field("bc").finish();
        assert_ne!(a, b);
    }

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        // FIPS 180-4 example value for the empty message.
        assert_eq!(
            Digest::of(b"").hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_full_disk_and_a_read_only_one_are_told_apart() {
        let code = |kind: io::ErrorKind| {
            let error = explain(kind.into(), "write", Path::new("/x"));
            crate::error::diagnosis(&error).map(|found| found.code)
        };
        assert_eq!(code(io::ErrorKind::StorageFull), Some(Code::Disk));
        assert_eq!(code(io::ErrorKind::ReadOnlyFilesystem), Some(Code::NotWritable));
        assert_eq!(code(io::ErrorKind::NotFound), None);
    }

    #[test]
    fn a_lock_names_its_holder() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("deep/lock");
        let held = Lock::try_take(&path, "pid 1 `labctl up`").expect("lockable").ok();
        assert!(held.is_some());
        let second = Lock::try_take(&path, "other").expect("lockable");
        assert_eq!(second.err().as_deref(), Some("pid 1 `labctl up`"));
        drop(held);
        assert!(Lock::try_take(&path, "other").expect("lockable").is_ok());
    }

    #[test]
    fn what_is_replaced_keeps_its_mode_and_its_link() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temporary directory");
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        write(&real, "old").expect("written");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o764)).expect("set");
        std::os::unix::fs::symlink("real", &link).expect("linked");
        replace(&link, b"new").expect("replaced");
        assert_eq!(fs::read(&real).expect("there"), b"new");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::metadata(&real).expect("there").permissions().mode() & 0o7777, 0o764);
        assert!(replace(&dir.path().join("absent"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 2);
    }

    #[test]
    fn a_secret_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("key");
        write_secret(&path, "k").expect("written");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
