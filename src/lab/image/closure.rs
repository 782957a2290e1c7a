//! Exactly the files that programs need to run on an empty base: they, their ELF interpreter, and their shared
//! libraries, recursively.
//!
//! Works on any root file system, so the programs of a Debian tree can be taken out of it on another machine. Libraries
//! are looked for as the dynamic loader does: RPATH or RUNPATH with `$ORIGIN`, then the loader's built-in directories.
//! `/etc/ld.so.cache` and `LD_LIBRARY_PATH` are not read, since the image has neither; so a library that is found here
//! is found there. What is opened with `dlopen` cannot be seen in a file: name it (a directory takes all in it).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use goblin::elf::Elf;

use super::layer::Tree;

/// How many symbolic links one path may lead through.
const LINK_LIMIT: usize = 40;

/// What programs need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// The programs that were asked for, and the links that lead to them.
    pub programs: Tree,
    /// Interpreters and libraries.
    pub libraries: Tree,
}

/// The parts of an ELF file that say what it needs.
struct Needs {
    interpreter: Option<String>,
    libraries: Vec<String>,
    rpath: Vec<String>,
    runpath: Vec<String>,
    machine: u16,
    wide: bool,
}

struct Object {
    /// Where it is in the root file system, as an absolute path.
    at: PathBuf,
    /// The RPATHs of what needed it, which apply to what it needs.
    inherited: Vec<PathBuf>,
}

impl Closure {
    /// Finds what programs need in a root file system.
    ///
    /// Each of `wanted` is an absolute path inside `root`; a directory stands for every file in it (plug-ins). A program
    /// that is a link, such as `/usr/sbin/iptables`, keeps its name as a link to the real file.
    ///
    /// # Errors
    /// A program is not there, or a library cannot be found: the message says which, who needs it, and where it was
    /// looked for.
    pub fn of(root: &Path, wanted: &[&Path]) -> Result<Self> {
        let mut found = Self {
            programs: Tree::new(),
            libraries: Tree::new(),
        };
        let mut queue = VecDeque::new();
        for &path in wanted {
            let real = resolve(root, path).with_context(|| format!("look for `{}`", path.display()))?;
            let on_disk = inside(root, &real);
            if on_disk.is_dir() {
                let mut names: Vec<_> = std::fs::read_dir(&on_disk)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .with_context(|| format!("read the directory `{}`", on_disk.display()))?
                    .into_iter()
                    .map(|entry| entry.file_name())
                    .collect();
                names.sort();
                for name in names {
                    let literal = path.join(&name);
                    let real = resolve(root, &literal).with_context(|| format!("look for `{}`", literal.display()))?;
                    if inside(root, &real).is_file() {
                        found.program(root, &literal, real, &mut queue)?;
                    }
                }
            } else {
                found.program(root, path, real, &mut queue)?;
            }
        }
        found.follow(root, queue)?;
        Ok(found)
    }

    /// Returns programs and libraries in one tree.
    pub fn tree(&self) -> Tree {
        let mut tree = self.libraries.clone();
        tree.merge(&self.programs);
        tree
    }

    fn program(&mut self, root: &Path, literal: &Path, real: PathBuf, queue: &mut VecDeque<Object>) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let on_disk = inside(root, &real);
        let mode = std::fs::metadata(&on_disk)
            .with_context(|| format!("look at `{}`", on_disk.display()))?
            .permissions()
            .mode();
        self.programs.file(text(&real)?, mode & 0o755, &on_disk);
        if literal != real {
            self.programs.link(text(literal)?, text(&real)?);
        }
        queue.push_back(Object {
            at: real,
            inherited: Vec::new(),
        });
        Ok(())
    }

    fn follow(&mut self, root: &Path, mut queue: VecDeque<Object>) -> Result<()> {
        let mut seen = BTreeSet::new();
        // The loader takes a library that is already there by its name, wherever it came from.
        let mut loaded: BTreeMap<String, PathBuf> = BTreeMap::new();
        while let Some(object) = queue.pop_front() {
            if !seen.insert(object.at.clone()) {
                continue;
            }
            let Some(needs) = read(&inside(root, &object.at))? else {
                continue;
            };
            if let Some(interpreter) = &needs.interpreter {
                let literal = PathBuf::from(interpreter);
                let real = resolve(root, &literal)
                    .with_context(|| format!("`{}` needs the interpreter `{interpreter}`", object.at.display()))?;
                self.libraries.file(interpreter, 0o755, inside(root, &real));
            }
            let origin = object.at.parent().unwrap_or(Path::new("/")).to_owned();
            let expand = |entries: &[String]| -> Vec<PathBuf> {
                entries
                    .iter()
                    .flat_map(|entry| entry.split(':'))
                    .filter(|entry| !entry.is_empty())
                    .map(|entry| {
                        let origin = origin.to_string_lossy();
                        PathBuf::from(
                            entry
                                .replace("${ORIGIN}", &origin)
                                .replace("$ORIGIN", &origin)
                                .replace("$LIB", "lib"),
                        )
                    })
                    .collect()
            };
            // RUNPATH silences every RPATH, and does not reach what the libraries need.
            let (mut dirs, inherited) = if needs.runpath.is_empty() {
                let mut rpath = expand(&needs.rpath);
                rpath.extend(object.inherited.iter().cloned());
                (rpath.clone(), rpath)
            } else {
                (expand(&needs.runpath), Vec::new())
            };
            dirs.extend(defaults(needs.machine, needs.wide).into_iter().map(PathBuf::from));
            for name in &needs.libraries {
                let at = if let Some(at) = loaded.get(name) {
                    at.clone()
                } else {
                    let at = find(root, name, &dirs, &needs).with_context(|| {
                        let places: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
                        format!(
                            "`{}` needs the library `{name}`, which is in none of {}",
                            inside(root, &object.at).display(),
                            places.join(", ")
                        )
                    })?;
                    loaded.insert(name.clone(), at.clone());
                    at
                };
                let real = resolve(root, &at)?;
                // As a file under the name that is asked for: links of the tree it came from are not in the image.
                let asked = text(&at)?;
                if !self.programs.has(asked) {
                    self.libraries.file(asked, 0o755, inside(root, &real));
                }
                queue.push_back(Object {
                    at,
                    inherited: inherited.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Returns where a library is, as the loader of the image will look for it.
fn find(root: &Path, name: &str, dirs: &[PathBuf], needs: &Needs) -> Option<PathBuf> {
    let fits = |at: &Path| {
        let real = resolve(root, at).ok()?;
        let found = read(&inside(root, &real)).ok()??;
        (found.machine == needs.machine && found.wide == needs.wide).then_some(())
    };
    if name.contains('/') {
        let at = PathBuf::from(name);
        return fits(&at).map(|()| at);
    }
    dirs.iter().map(|dir| dir.join(name)).find(|at| fits(at).is_some())
}

/// Returns the directories that loaders have built in, for an ELF machine number: Debian's and musl's first, then those
/// of distributions that keep 64-bit libraries in `lib64`.
fn defaults(machine: u16, wide: bool) -> Vec<String> {
    use goblin::elf::header;
    let triple = match machine {
        header::EM_X86_64 => Some("x86_64-linux-gnu"),
        header::EM_AARCH64 => Some("aarch64-linux-gnu"),
        header::EM_386 => Some("i386-linux-gnu"),
        header::EM_ARM => Some("arm-linux-gnueabihf"),
        header::EM_RISCV => Some("riscv64-linux-gnu"),
        header::EM_S390 => Some("s390x-linux-gnu"),
        header::EM_PPC64 => Some("powerpc64le-linux-gnu"),
        _ => None,
    };
    let mut dirs = Vec::new();
    if let Some(triple) = triple {
        dirs.extend([format!("/lib/{triple}"), format!("/usr/lib/{triple}")]);
    }
    if wide {
        dirs.extend(["/lib64".to_owned(), "/usr/lib64".to_owned()]);
    }
    dirs.extend(["/lib".to_owned(), "/usr/lib".to_owned(), "/usr/local/lib".to_owned()]);
    dirs
}

/// Reads what a file needs; nothing for a file that is not ELF (a script, a text).
fn read(path: &Path) -> Result<Option<Needs>> {
    use std::io::Read;
    let doing = || format!("read `{}`", path.display());
    let mut file = std::fs::File::open(path).with_context(doing)?;
    let mut bytes = Vec::new();
    (&mut file).take(4).read_to_end(&mut bytes).with_context(doing)?;
    if bytes != *b"\x7fELF" {
        return Ok(None);
    }
    file.read_to_end(&mut bytes).with_context(doing)?;
    let elf = Elf::parse(&bytes).with_context(|| format!("`{}` is not a sound ELF file", path.display()))?;
    let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    Ok(Some(Needs {
        interpreter: elf.interpreter.map(str::to_owned),
        libraries: own(&elf.libraries),
        rpath: own(&elf.rpaths),
        runpath: own(&elf.runpaths),
        machine: elf.header.e_machine,
        wide: elf.is_64,
    }))
}

/// Follows the symbolic links of an absolute path as a process with this root directory would; none leads out.
fn resolve(root: &Path, path: &Path) -> Result<PathBuf> {
    let mut todo: Vec<std::ffi::OsString> = Vec::new();
    let push = |todo: &mut Vec<std::ffi::OsString>, path: &Path| {
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => todo.push(name.to_owned()),
                Component::ParentDir => todo.push("..".into()),
                _ => {}
            }
        }
    };
    push(&mut todo, path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let on_disk = inside(root, &next);
        let meta =
            std::fs::symlink_metadata(&on_disk).with_context(|| format!("`{}` is not there", on_disk.display()))?;
        if meta.is_symlink() {
            links += 1;
            anyhow::ensure!(links <= LINK_LIMIT, "`{}` leads through too many links", path.display());
            let target =
                std::fs::read_link(&on_disk).with_context(|| format!("read the link `{}`", on_disk.display()))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            push(&mut todo, &target);
        } else {
            at = next;
        }
    }
    Ok(at)
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("`{}` is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::exec::{Cmd, Exec, System};

    fn unpack(tree: &Tree, to: &Path) {
        let mut bytes = Vec::new();
        tree.write(&mut bytes).expect("written");
        tar::Archive::new(bytes.as_slice()).unpack(to).expect("unpacked");
    }

    /// Runs a program with `root` as its root directory, where this user may do that.
    async fn run_in(root: &Path, argv: &[&str]) -> Option<String> {
        let cmd = if rustix::process::geteuid().is_root() {
            Cmd::new("chroot").arg(root).args(argv.iter().copied())
        } else {
            let ok = System.run(&Cmd::new("unshare").args(["-r", "true"])).await.is_ok();
            if !ok {
                return None;
            }
            Cmd::new("unshare")
                .args(["-r", "-R"])
                .arg(root)
                .args(argv.iter().copied())
        };
        Some(System.run(&cmd).await.expect("it runs").stdout)
    }

    #[tokio::test]
    async fn real_programs_run_on_nothing_but_their_closure() {
        let closure = Closure::of(
            Path::new("/"),
            &[Path::new("/bin/ls"), Path::new("/bin/bash"), Path::new("/usr/bin/awk")],
        )
        .expect("a closure");
        let dir = tempfile::tempdir().expect("temporary directory");
        unpack(&closure.tree(), dir.path());
        let Some(listed) = run_in(dir.path(), &["/bin/ls", "/"]).await else {
            return;
        };
        assert!(listed.contains("lib"), "{listed}");
        // A link of two steps on Debian: /usr/bin/awk -> /etc/alternatives/awk -> mawk.
        let said = run_in(dir.path(), &["/usr/bin/awk", "BEGIN { print 6 * 7 }"]).await;
        assert_eq!(said.as_deref(), Some("42\n"));
        assert_eq!(
            run_in(dir.path(), &["/bin/bash", "-c", "echo $((1+1))"])
                .await
                .as_deref(),
            Some("2\n")
        );
        // Nothing can be left out: without its C library it must not run.
        let libc = closure
            .libraries
            .paths()
            .find(|path| path.ends_with("libc.so.6"))
            .expect("a C library");
        std::fs::remove_file(dir.path().join(libc)).expect("removed");
        let broken = System
            .run(&Cmd::new("chroot").arg(dir.path()).args(["/bin/ls", "/"]))
            .await;
        assert!(broken.is_err(), "the closure holds more than it needs");
    }

    #[test]
    fn a_missing_library_is_named_with_who_needs_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let real = std::fs::read("/bin/ls").expect("there");
        crate::drive::files::write_executable(&dir.path().join("usr/bin/ls"), real).expect("written");
        let interpreter = read(Path::new("/bin/ls"))
            .expect("readable")
            .expect("ELF")
            .interpreter
            .expect("one");
        crate::drive::files::write_executable(&inside(dir.path(), Path::new(&interpreter)), b"x").expect("written");
        let error = Closure::of(dir.path(), &[Path::new("/usr/bin/ls")]).expect_err("no libraries");
        let text = format!("{error:#}");
        assert!(
            text.contains("usr/bin/ls` needs the library `lib") && text.contains("/usr/lib"),
            "{text}"
        );
        let error = Closure::of(dir.path(), &[Path::new("/usr/bin/nft")]).expect_err("not there");
        assert!(format!("{error:#}").contains("usr/bin/nft` is not there"), "{error:#}");
    }

    #[test]
    fn links_stay_inside_the_root() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        crate::drive::files::write(&root.join("usr/sbin/multi"), "#!/bin/sh\n").expect("written");
        std::fs::create_dir_all(root.join("etc/alternatives")).expect("made");
        let link = |target: &str, at: &str| std::os::unix::fs::symlink(target, root.join(at)).expect("linked");
        link("/etc/alternatives/tool", "usr/sbin/tool");
        link("../../usr/sbin/multi", "etc/alternatives/tool");
        link("usr/sbin", "sbin");
        link("../../../../../../etc/passwd", "escape");
        link("loop", "loop");
        let real = resolve(root, Path::new("/sbin/tool")).expect("resolved");
        assert_eq!(real, Path::new("/usr/sbin/multi"));
        let escaped = resolve(root, Path::new("/escape")).expect_err("there is no /etc/passwd inside");
        assert!(
            format!("{escaped:#}").contains(&root.display().to_string()),
            "{escaped:#}"
        );
        assert!(resolve(root, Path::new("/loop")).is_err());
        // A script needs nothing that can be seen, and keeps its names.
        let closure = Closure::of(root, &[Path::new("/sbin/tool")]).expect("a closure");
        let paths: Vec<_> = closure.programs.paths().collect();
        assert_eq!(paths, ["sbin", "sbin/tool", "usr", "usr/sbin", "usr/sbin/multi"]);
        assert_eq!(closure.libraries.paths().count(), 0);
    }

    #[test]
    fn this_very_test_program_has_a_closure() {
        let exe = std::env::current_exe().expect("a path");
        let closure = Closure::of(Path::new("/"), &[&exe]).expect("a closure");
        assert!(closure.programs.has(exe.to_str().expect("UTF-8")));
        assert!(closure.libraries.paths().any(|path| path.contains("ld-")));
    }
}
