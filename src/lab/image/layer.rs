//! A layer's file tree, and how it becomes a tar archive that is the same byte for byte wherever it is made.
//!
//! Entries are sorted by path, every time is [`EPOCH`], owners are numbers, and nothing of the machine (user names,
//! extended attributes, inode order) gets in. The archive is not compressed, so a layer's digest is its diff id, and a
//! registry, an engine and a node all know it by one name.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::drive::files::{self, Digest, Hasher};

/// The time of every file in every layer, in seconds since 1970.
pub const EPOCH: u64 = 0;

/// The version of the way trees are written; it grows when the same tree would give other bytes.
const FORMAT: &str = "layer-1";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Dir,
    File(Content),
    Link(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
}

/// The files of a layer, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// Makes an empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    fn set(&mut self, path: &str, kind: Kind, mode: u32) -> &mut Self {
        let path = normal(path);
        if path.is_empty() {
            return self;
        }
        // A file in a directory that nobody named would be unpacked with whatever mode the reader likes.
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry {
                kind: Kind::Dir,
                mode: 0o755,
                owner: (0, 0),
            });
        }
        self.entries.insert(
            path,
            Entry {
                kind,
                mode,
                owner: (0, 0),
            },
        );
        self
    }

    /// Adds a directory; directories above it are added with mode 755 where they are not there yet.
    pub fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.set(path, Kind::Dir, mode)
    }

    /// Adds a file with these contents.
    pub fn bytes(&mut self, path: &str, mode: u32, contents: impl Into<Vec<u8>>) -> &mut Self {
        self.set(path, Kind::File(Content::Bytes(contents.into())), mode)
    }

    /// Adds a file with the contents that the file `source` has when the layer is written.
    pub fn file(&mut self, path: &str, mode: u32, source: impl Into<PathBuf>) -> &mut Self {
        self.set(path, Kind::File(Content::File(source.into())), mode)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: impl Into<String>) -> &mut Self {
        self.set(path, Kind::Link(target.into()), 0o777)
    }

    /// Gives what is at a path to a user and a group; everything else belongs to 0:0.
    pub fn own(&mut self, path: &str, uid: u64, gid: u64) -> &mut Self {
        if let Some(entry) = self.entries.get_mut(&normal(path)) {
            entry.owner = (uid, gid);
        }
        self
    }

    /// Adds everything below the directory `source` at `path`: files with their modes, links as they are.
    ///
    /// # Errors
    /// A directory cannot be read, or something is neither a file, a directory nor a link.
    pub fn copy(&mut self, path: &str, source: &Path) -> Result<&mut Self> {
        let entries =
            std::fs::read_dir(source).with_context(|| format!("read the directory `{}`", source.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("read the directory `{}`", source.display()))?;
            let from = entry.path();
            let name = entry.file_name();
            let name = name
                .to_str()
                .with_context(|| format!("`{}` has a name that is not UTF-8", from.display()))?;
            let to = format!("{path}/{name}");
            let meta = std::fs::symlink_metadata(&from).with_context(|| format!("look at `{}`", from.display()))?;
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                self.dir(&to, mode);
                self.copy(&to, &from)?;
            } else if meta.is_symlink() {
                let target =
                    std::fs::read_link(&from).with_context(|| format!("read the link `{}`", from.display()))?;
                self.link(&to, target.to_string_lossy());
            } else if meta.is_file() {
                self.file(&to, mode, from);
            } else {
                anyhow::bail!(
                    "`{}` is neither a file, a directory nor a symbolic link",
                    from.display()
                );
            }
        }
        Ok(self)
    }

    /// Adds everything of another tree; where both have a path, the other's entry wins.
    pub fn merge(&mut self, other: &Self) -> &mut Self {
        for (path, entry) in &other.entries {
            self.entries.insert(path.clone(), entry.clone());
        }
        self
    }

    /// Returns whether there is something at a path.
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(&normal(path))
    }

    /// Returns the paths, sorted, without a leading slash.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns a digest of everything that decides what the layer's bytes will be, without writing them.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn inputs(&self, known: &KnownFiles) -> Result<Digest> {
        self.fingerprint(|content| match content {
            Content::Bytes(bytes) => Ok(Digest::of(bytes)),
            Content::File(path) => known.digest(path),
        })
    }

    fn fingerprint(&self, mut digest: impl FnMut(&Content) -> Result<Digest>) -> Result<Digest> {
        let mut hasher = Hasher::default();
        hasher.field(FORMAT);
        for (path, entry) in &self.entries {
            hasher.field(path).field(format!("{:o} {:?}", entry.mode, entry.owner));
            match &entry.kind {
                Kind::Dir => hasher.field("dir"),
                Kind::Link(target) => hasher.field("link").field(target),
                Kind::File(content) => hasher.field("file").field(digest(content)?.oci()),
            };
        }
        Ok(hasher.finish())
    }

    /// Writes the tar archive and returns [`Tree::inputs`] of the bytes that were really read.
    ///
    /// # Errors
    /// A file cannot be read, changes while it is read, or `out` fails.
    pub fn write(&self, out: impl Write) -> Result<Digest> {
        let mut archive = tar::Builder::new(out);
        archive.mode(tar::HeaderMode::Deterministic);
        let mut read = Vec::new();
        for (path, entry) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.0);
            header.set_gid(entry.owner.1);
            header.set_mtime(EPOCH);
            header.set_size(0);
            match &entry.kind {
                Kind::Dir => {
                    header.set_entry_type(tar::EntryType::Directory);
                    archive
                        .append_data(&mut header, format!("{path}/"), io::empty())
                        .with_context(|| format!("pack the directory `{path}`"))?;
                }
                Kind::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    archive
                        .append_link(&mut header, path, target)
                        .with_context(|| format!("pack the link `{path}`"))?;
                }
                Kind::File(Content::Bytes(bytes)) => {
                    header.set_size(bytes.len() as u64);
                    archive
                        .append_data(&mut header, path, bytes.as_slice())
                        .with_context(|| format!("pack `{path}`"))?;
                    read.push(Digest::of(bytes));
                }
                Kind::File(Content::File(source)) => {
                    let doing = || format!("pack `{}` as `{path}`", source.display());
                    let file = std::fs::File::open(source).with_context(doing)?;
                    let size = file.metadata().with_context(doing)?.len();
                    header.set_size(size);
                    let mut hashing = Hashing {
                        inner: file.take(size),
                        hasher: Sha256::new(),
                        read: 0,
                    };
                    archive
                        .append_data(&mut header, path, &mut hashing)
                        .with_context(doing)?;
                    anyhow::ensure!(
                        hashing.read == size,
                        "`{}` got shorter while it was read",
                        source.display()
                    );
                    read.push(hashing.finish());
                }
            }
        }
        archive.into_inner().context("end the archive")?.flush()?;
        let mut read = read.into_iter();
        self.fingerprint(|_| read.next().context("one digest a file"))
    }
}

struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    read: u64,
}

impl<R> Hashing<R> {
    fn finish(self) -> Digest {
        Digest::from_bytes(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.read += n as u64;
        Ok(n)
    }
}

/// Brings a path into the one form that the tree uses: relative, without `.` and `..`.
pub(super) fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => parts.extend(name.to_str()),
            Component::ParentDir => _ = parts.pop(),
            _ => {}
        }
    }
    parts.join("/")
}

/// Digests of files that were read before: by path, size, time of change and inode, so that a large executable is read
/// once and not at every `up`.
#[derive(Debug, Clone)]
pub struct KnownFiles {
    dir: PathBuf,
}

impl KnownFiles {
    /// Keeps what is known in a directory, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Returns the digest of a file's contents.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest(&self, path: &Path) -> Result<Digest> {
        let doing = || format!("read `{}`", path.display());
        let meta = std::fs::metadata(path).with_context(doing)?;
        // ctime as well: a program can set mtime back, and `cp -p` over a file of the same size does.
        let stamp = format!(
            "{} {} {} {}.{} {}.{}",
            meta.dev(),
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        );
        let note = self.dir.join(Digest::of(path.as_os_str().as_encoded_bytes()).hex());
        if let Ok(text) = std::fs::read_to_string(&note)
            && let Some((hex, rest)) = text.split_once(' ')
            && rest == stamp
            && let Some(known) = Digest::parse(hex)
        {
            return Ok(known);
        }
        let digest = Digest::of_file(path).with_context(doing)?;
        // Small files are read faster than their note.
        if meta.len() > 64 << 10 {
            _ = files::write(&note, format!("{} {stamp}", digest.hex()));
        }
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(tree: &Tree) -> Vec<u8> {
        let mut out = Vec::new();
        tree.write(&mut out).expect("written");
        out
    }

    fn known() -> (tempfile::TempDir, KnownFiles) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let known = KnownFiles::new(dir.path().join("known"));
        (dir, known)
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes_in_any_order() {
        let mut a = Tree::new();
        a.dir("/tmp", 0o1777)
            .bytes("etc/passwd", 0o644, "x")
            .link("lib64", "usr/lib64");
        let mut b = Tree::new();
        b.link("/lib64", "usr/lib64")
            .bytes("/etc/./x/../passwd", 0o644, "x")
            .dir("tmp/", 0o1777);
        assert_eq!(bytes(&a), bytes(&b));
        let digest = Digest::of(&bytes(&a));
        // Pinned: another digest means that every image of every user is loaded again, so raise FORMAT with it.
        assert_eq!(digest.short(), "793c61831c8a");
    }

    #[test]
    fn every_part_of_an_entry_counts() {
        let (_dir, known) = known();
        let make = |path: &str, mode, contents: &str, owner| {
            let mut tree = Tree::new();
            tree.bytes(path, mode, contents).own(path, owner, 0);
            (
                tree.inputs(&known).expect("inputs").hex(),
                Digest::of(&bytes(&tree)).hex(),
            )
        };
        let all = [
            make("a", 0o644, "x", 0),
            make("b", 0o644, "x", 0),
            make("a", 0o600, "x", 0),
            make("a", 0o644, "y", 0),
            make("a", 0o644, "x", 1),
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert_ne!(one.0, other.0);
                assert_ne!(one.1, other.1);
            }
        }
    }

    #[test]
    fn long_paths_links_and_modes_survive() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(150));
        let target = format!("../{}", "t".repeat(180));
        let mut tree = Tree::new();
        tree.bytes(&long, 0o755, "content").link("bin/link", target.clone());
        tar::Archive::new(bytes(&tree).as_slice())
            .unpack(dir.path())
            .expect("unpacked");
        let file = dir.path().join(&long);
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "content");
        let mode = file.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let link = std::fs::read_link(dir.path().join("bin/link")).expect("a link");
        assert_eq!(link, Path::new(&target));
    }

    #[test]
    fn what_is_read_is_what_was_promised() {
        let (dir, known) = known();
        let source = dir.path().join("source");
        files::write(&source, vec![7; 100_000]).expect("written");
        let mut tree = Tree::new();
        tree.file("usr/bin/x", 0o755, &source);
        let promised = tree.inputs(&known).expect("inputs");
        assert_eq!(tree.write(io::sink()).expect("written"), promised);
        // A change behind the note's back: same size, other content.
        files::write(&source, vec![8; 100_000]).expect("written");
        assert_ne!(tree.inputs(&known).expect("inputs"), promised);
        let mut literal = Tree::new();
        literal.bytes("usr/bin/x", 0o755, vec![8; 100_000]);
        assert_eq!(
            tree.inputs(&known).expect("inputs"),
            literal.inputs(&known).expect("inputs"),
            "where the bytes come from does not matter"
        );
    }

    #[test]
    fn a_folder_is_copied_whole() {
        let (dir, _) = known();
        let source = dir.path().join("folder");
        files::write_executable(&source.join("sub/run"), "#!").expect("written");
        std::os::unix::fs::symlink("run", source.join("sub/again")).expect("linked");
        let mut tree = Tree::new();
        tree.copy("opt", &source).expect("copied");
        assert_eq!(
            tree.paths().collect::<Vec<_>>(),
            ["opt", "opt/sub", "opt/sub/again", "opt/sub/run"]
        );
    }
}
