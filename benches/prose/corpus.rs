//! Texts that people wrote before 2022-11-30, from Debian packages whose upstream version is that old.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use labctl::drive::exec::{Cmd, Exec, System};
use labctl::drive::files::{self, Digest};
use labctl::prose::slop::Register;
use labctl::prose::span::{Document, Language};

/// The last day on which a text may have been written.
const LAST_DAY: &str = "2022-11-30";
/// A document has at least so many words of prose.
const SHORTEST: usize = 150;

/// Which half of the corpus a package belongs to: thresholds come from one, figures from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Tune,
    Test,
}

/// A package and why its text is old enough.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) dated: &'static str,
    parts: &'static [(&'static str, Register)],
    pub(crate) half: Half,
}

const HOW_TO: Register = Register::HowTo;
const REFERENCE: Register = Register::Reference;
const GENERAL: Register = Register::General;

/// The packages of Debian 12, with the day of the upstream release that the text is from. Dropped, because the text may
/// be younger: debian-policy, debian-reference, developers-reference, docker-doc, git-doc, bash-doc, apache2-doc,
/// python3.11-doc, python-django-doc, postgresql-doc-15.
pub(crate) const PACKAGES: [Package; 16] = [
    Package {
        name: "debian-handbook",
        version: "11.20220922",
        dated: "2022-09-22, its version",
        parts: &[("/en-US/", HOW_TO)],
        half: Half::Tune,
    },
    Package {
        name: "python-flask-doc",
        version: "2.2.2-3",
        dated: "2022-08-08, Flask 2.2.2",
        parts: &[("/html/", HOW_TO)],
        half: Half::Tune,
    },
    Package {
        name: "python-requests-doc",
        version: "2.28.1+dfsg-1",
        dated: "2022-06-29, Requests 2.28.1",
        parts: &[("/html/", HOW_TO)],
        half: Half::Tune,
    },
    Package {
        name: "zsh-doc",
        version: "5.9-4",
        dated: "2022-05-14, zsh 5.9",
        parts: &[("/html/", REFERENCE)],
        half: Half::Tune,
    },
    Package {
        name: "python-click-doc",
        version: "8.1.3-2",
        dated: "2022-04-28, Click 8.1.3",
        parts: &[("/html/", REFERENCE)],
        half: Half::Tune,
    },
    Package {
        name: "python-jinja2-doc",
        version: "3.1.2-1+deb12u3",
        dated: "2022-04-28, Jinja 3.1.2",
        parts: &[("/html/", REFERENCE)],
        half: Half::Tune,
    },
    Package {
        name: "python-celery-doc",
        version: "5.2.6-5",
        dated: "2022-04-22 at the latest, its changelog",
        parts: &[
            ("/userguide/", REFERENCE),
            ("/getting-started/", REFERENCE),
            ("/reference/", REFERENCE),
        ],
        half: Half::Tune,
    },
    Package {
        name: "fortunes",
        version: "1:1.99.1-7.3",
        dated: "2022-11-20, its changelog",
        parts: &[("/games/fortunes/", GENERAL)],
        half: Half::Tune,
    },
    Package {
        name: "rust-doc",
        version: "1.63.0+dfsg1-2",
        dated: "2022-08-11, Rust 1.63.0",
        parts: &[
            ("/html/book/", HOW_TO),
            ("/html/embedded-book/", HOW_TO),
            ("/html/edition-guide/", HOW_TO),
            ("/html/cargo/", HOW_TO),
            ("/html/reference/", REFERENCE),
            ("/html/rustc/", REFERENCE),
        ],
        half: Half::Test,
    },
    Package {
        name: "maint-guide",
        version: "1.2.53",
        dated: "2022-10-08, its changelog",
        parts: &[(".en.html", HOW_TO)],
        half: Half::Test,
    },
    Package {
        name: "debmake-doc",
        version: "1.17-7",
        dated: "2022-05-09, its changelog",
        parts: &[(".en.html", HOW_TO)],
        half: Half::Test,
    },
    Package {
        name: "aptitude-doc-en",
        version: "0.8.13-5",
        dated: "2022-08-06, its changelog",
        parts: &[("/html/", HOW_TO)],
        half: Half::Test,
    },
    Package {
        name: "sphinx-doc",
        version: "5.3.0-4",
        dated: "2022-10-16, Sphinx 5.3.0",
        parts: &[("/html/", REFERENCE)],
        half: Half::Test,
    },
    Package {
        name: "python-werkzeug-doc",
        version: "2.2.2-3+deb12u1",
        dated: "2022-08-08, Werkzeug 2.2.2",
        parts: &[("/html/", REFERENCE)],
        half: Half::Test,
    },
    Package {
        name: "sqlite3-doc",
        version: "3.40.1-2+deb12u2",
        dated: "each page names its day",
        parts: &[("/sqlite3/", REFERENCE)],
        half: Half::Test,
    },
    Package {
        name: "r-cran-janeaustenr",
        version: "1.0.0-1",
        dated: "1811 to 1817, six novels",
        parts: &[("Rdata.rdb", GENERAL)],
        half: Half::Test,
    },
];

/// One document.
pub(crate) struct Text {
    pub(crate) register: Register,
    pub(crate) half: Half,
    /// The file that the tools read.
    pub(crate) path: PathBuf,
    pub(crate) markdown: String,
    pub(crate) words: usize,
}

/// Downloads a package with apt, unless it is there, and unpacks it; returns its folder and the archive's digest.
pub(crate) async fn unpack(work: &Path, name: &str, version: &str) -> Result<(PathBuf, Digest)> {
    let debs = work.join("deb");
    files::make_dir(&debs)?;
    let deb = debs.join(format!("{name}_{}_all.deb", version.replace(':', "%3a")));
    if !deb.exists() {
        let what = format!("{name}={version}");
        System
            .run(&Cmd::new("apt-get").args(["download", what.as_str()]).dir(&debs))
            .await?;
    }
    ensure!(deb.exists(), "`{}` was not downloaded", deb.display());
    let to = work.join("unpacked").join(name);
    if !to.exists() {
        files::make_dir(&to)?;
        System.run(&Cmd::new("dpkg-deb").arg("-x").arg(&deb).arg(&to)).await?;
    }
    let digest = Digest::of_file(&deb)?;
    Ok((to, digest))
}

/// Turns the documents of a package into Markdown files for the tools.
pub(crate) fn texts(package: &Package, from: &Path, work: &Path) -> Result<Vec<Text>> {
    let mut out = Vec::new();
    for file in files::walk(from)? {
        let name = file.to_string_lossy().into_owned();
        let Some((_, register)) = package.parts.iter().find(|(part, _)| name.contains(part)) else {
            continue;
        };
        if file.is_symlink() {
            continue;
        }
        let documents = if name.ends_with("Rdata.rdb") {
            novels(&std::fs::read(&file)?)
        } else if file.extension().is_some_and(|ending| ending == "html") {
            let html = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
            if package.name == "sqlite3-doc" && !is_old(&html) {
                continue;
            }
            vec![from_html(&html)]
        } else if package.name == "fortunes" && file.extension().is_none() {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            vec![text.replace("\n%\n", "\n\n").replace('\t', " ")]
        } else {
            continue;
        };
        for (number, text) in documents.into_iter().enumerate() {
            let words = Document::new(&text, Language::Markdown).words();
            if words < SHORTEST {
                continue;
            }
            let half = if package.half == Half::Tune { "tune" } else { "test" };
            let stem = file
                .strip_prefix(from)
                .unwrap_or(&file)
                .to_string_lossy()
                .replace(['/', '%'], "_");
            let path = work
                .join("text")
                .join(half)
                .join(register.name())
                .join(format!("{}-{stem}-{number}.md", package.name));
            files::write(&path, &text)?;
            out.push(Text {
                register: *register,
                half: package.half,
                path,
                markdown: text,
                words,
            });
        }
    }
    // The same page may be in a package twice (print versions, indexes).
    let mut seen = std::collections::HashSet::new();
    out.retain(|text| seen.insert(Digest::of(text.markdown.as_bytes())));
    Ok(out)
}

/// Returns whether a page of SQLite's says that it was changed last before the last day.
fn is_old(html: &str) -> bool {
    let Some(at) = html.find("last modified on") else {
        return false;
    };
    let day: String = html[at..]
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take(10)
        .collect();
    day.len() == 10 && day.as_str() <= LAST_DAY
}

/// Elements whose content is not prose.
const SKIPPED: [&str; 14] = [
    "script", "style", "pre", "table", "nav", "header", "footer", "head", "title", "select", "button", "form", "svg",
    "math",
];
const CODE: [&str; 5] = ["code", "tt", "kbd", "samp", "var"];

/// Turns a page into Markdown: headings, paragraphs, items; inline code stays code; the rest goes.
fn from_html(html: &str) -> String {
    let mut out = String::new();
    let mut block = String::new();
    let mut mark: Option<String> = None;
    let (mut skip, mut code) = (0_usize, 0_usize);
    let mut rest = html;
    let mut flush = |block: &mut String, mark: &Option<String>| {
        let text = block
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace('\u{b6}', "");
        let text = text.trim();
        let long = mark.as_deref() != Some("- ") || text.split(' ').count() >= 8;
        if let Some(mark) = mark
            && long
            && text.len() > 1
        {
            _ = write!(out, "{mark}{text}\n\n");
        }
        block.clear();
    };
    while let Some(open) = rest.find('<') {
        if skip == 0 {
            block.push_str(&escape(&entities(&rest[..open]), code > 0));
        }
        rest = &rest[open..];
        if rest.starts_with("<!--") {
            rest = rest.find("-->").map_or("", |end| &rest[end + 3..]);
            continue;
        }
        let Some(close) = rest.find('>') else { break };
        let tag = &rest[1..close];
        rest = &rest[close + 1..];
        let ends = tag.starts_with('/');
        let name = tag
            .trim_start_matches('/')
            .split(|c: char| c.is_whitespace() || c == '/')
            .next()
            .unwrap_or_default()
            .to_lowercase();
        if SKIPPED.contains(&name.as_str()) {
            if !tag.ends_with('/') {
                skip = if ends { skip.saturating_sub(1) } else { skip + 1 };
            }
            flush(&mut block, &None);
        } else if skip > 0 {
        } else if CODE.contains(&name.as_str()) {
            code = if ends { code.saturating_sub(1) } else { code + 1 };
            if (ends && code == 0) || (!ends && code == 1) {
                block.push('`');
            }
        } else {
            let new = match name.as_str() {
                "p" | "dd" => Some(String::new()),
                "h1" | "h2" | "h3" | "h4" => Some(format!("{} ", "#".repeat(usize::from(name.as_bytes()[1] - b'0')))),
                "li" => Some("- ".to_owned()),
                "div" | "dt" | "ul" | "ol" | "dl" | "blockquote" | "section" | "body" | "main" | "hr" => None,
                _ => continue,
            };
            // A paragraph within an item is the item.
            let keeps = !ends && name == "p" && mark.as_deref() == Some("- ") && block.trim().is_empty();
            flush(&mut block, &mark);
            if !keeps {
                mark = if ends { None } else { new };
            }
            code = 0;
        }
    }
    out
}

/// Keeps text from being read as Markdown.
fn escape(text: &str, code: bool) -> String {
    if code {
        return text.replace('`', "'");
    }
    text.replace('\\', "\\\\")
        .replace('*', "\\*")
        .replace('<', "\\<")
        .replace('`', "'")
        .replace('[', "\\[")
}

fn entities(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.char_indices().take(12).find(|(_, c)| *c == ';').map(|(at, _)| at);
        let Some(end) = end else {
            out.push('&');
            rest = &rest[1..];
            continue;
        };
        let name = &rest[1..end];
        let number = name.strip_prefix("#x").map_or_else(
            || name.strip_prefix('#').and_then(|digits| digits.parse().ok()),
            |hex| u32::from_str_radix(hex, 16).ok(),
        );
        let c = number.and_then(char::from_u32).or(match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" | "ldquo" | "rdquo" => Some('"'),
            "nbsp" => Some(' '),
            "rsquo" | "lsquo" => Some('\''),
            "mdash" => Some('\u{2014}'),
            "ndash" => Some('\u{2013}'),
            "hellip" => Some('\u{2026}'),
            _ => None,
        });
        out.push(c.unwrap_or(' '));
        rest = &rest[end + 1..];
    }
    out + rest
}

/// Returns the chapters of the novels in R's database of objects: each entry is a length and a zlib stream, and in it a
/// string is the tag 9, its length and its bytes.
fn novels(database: &[u8]) -> Vec<String> {
    let mut chapters = Vec::new();
    let mut at = 0;
    while at + 6 < database.len() {
        if database[at + 4] != 0x78 {
            at += 1;
            continue;
        }
        let mut plain = Vec::new();
        let mut decoder = flate2::read::ZlibDecoder::new(&database[at + 4..]);
        if decoder.read_to_end(&mut plain).is_err() || plain.len() < 100_000 {
            at += 1;
            continue;
        }
        at += 4 + usize::try_from(decoder.total_in()).unwrap_or(1);
        let mut chapter = String::new();
        let mut p = 0;
        while p + 8 <= plain.len() {
            let word = |p: usize| u32::from_be_bytes([plain[p], plain[p + 1], plain[p + 2], plain[p + 3]]);
            let length = word(p + 4) as usize;
            if word(p) & 0xff != 9 || length > 200 || p + 8 + length > plain.len() {
                p += 1;
                continue;
            }
            let line = String::from_utf8_lossy(&plain[p + 8..p + 8 + length]).into_owned();
            p += 8 + length;
            if line.to_lowercase().starts_with("chapter") && line.len() < 30 {
                chapters.push(std::mem::take(&mut chapter));
            } else {
                chapter.push_str(&line.replace('_', ""));
                chapter.push('\n');
            }
        }
        chapters.push(chapter);
    }
    chapters
}

/// Returns misspellings that packagers met, as `wrong` and `right`, from lintian's own list.
pub(crate) async fn misspellings(work: &Path) -> Result<Vec<(String, String)>> {
    let (folder, _) = unpack(work, "lintian", "2.116.3+deb12u1").await?;
    let path = folder.join("usr/share/lintian/data/spelling/corrections");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
    let pairs = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once("||"));
    let words = |text: &str| text.chars().all(|c| c.is_ascii_lowercase());
    Ok(pairs
        .filter(|(wrong, right)| words(wrong) && words(right) && wrong.len() > 3)
        .map(|(wrong, right)| (wrong.to_owned(), right.to_owned()))
        .collect())
}
