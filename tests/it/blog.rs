//! `labctl blog`: the book as a folder of pages, and the sessions in chapters and posts.

mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use insta::assert_snapshot;
use labctl::config;
use labctl::course::book::{self, Book};
use labctl::drive::files;

use crate::harness::{TestEnvironment, checkout};

/// Writes a small course and returns its top.
fn course(world: &TestEnvironment) -> String {
    let chapter = |title: &str| {
        format!(
            "id: \"{}\"\ntitle: {title}\nworks_after: it <works> & waits.\nbudget: 1s\ncriteria:\n  - id: a\n    text: b\n    \
             checks: [c]\nchecks:\n  - id: c\n    http: {{get: \"http://127.0.0.1:1/\", expect: {{status: 200}}}}\n    eventually: {{within: 1s}}\n",
            &title[..2]
        )
    };
    world.write("c/labs/01-one/chapter.yaml", chapter("01 <One>"));
    world.write("c/labs/02-two/chapter.yaml", chapter("02 Two"));
    world.write(
        "c/labs/01-one/README.md",
        "# 01 One\n\n<!-- a note\nof two lines -->\nGo to [two](../02-two/README.md#a-b-1), [here](#own), [the file](chapter.yaml) or <a@b.c>.\n\n\
         ## Own\n\n![A line](pic%20ture.svg)\n\n| a | b |\n|---|---|\n| `<b>` | 1 |\n",
    );
    world.write(
        "c/labs/01-one/pic ture.svg",
        "<svg xmlns='http://www.w3.org/2000/svg'/>",
    );
    world.write(
        "c/labs/02-two/README.md",
        "# 02 Two\n\n## A b\n\n## A b\n\n[More](../../docs/more.md)\n",
    );
    world.write(
        "c/docs/more.md",
        "# More\n\n[back](/labs/blog/new.md) and [on](deep/)\n",
    );
    world.write("c/docs/deep/README.md", "# Deep\n\nText.\n");
    world.write(
        "c/labs/blog/old.md",
        "---\ndate: 2026-01-02\nsummary: The \"old\" one & more\n---\n\n# Old <i>post</i>\n\n```console vary=time\n$ echo '<b>' \\\n  x\n<b> x\n```\n\n```yaml file=a.yaml\na: <b>\n```\n\n```console untested there is no moon\n$ moon\n```\n",
    );
    world.write(
        "c/labs/blog/new.md",
        "---\ntitle: New\ndate: 2026-02-01\nsummary: A new one\n---\n\nText.\n",
    );
    world.path("c").display().to_string()
}

fn files_below(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let found = files::walk(dir).expect("readable");
    found
        .iter()
        .map(|path| {
            let name = path.strip_prefix(dir).expect("below").display().to_string();
            (name, std::fs::read(path).expect("readable"))
        })
        .collect()
}

/// Returns the values of an attribute in a page; a test needs no more of HTML.
fn values(page: &str, attribute: &str) -> Vec<String> {
    let mark = format!(" {attribute}=\"");
    let parts = page.split(&mark).skip(1);
    parts
        .map(|part| part.split('"').next().unwrap_or_default().replace("&amp;", "&"))
        .collect()
}

fn is_page(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == "html")
}

/// Fails where a link of a book leads nowhere, where a page loads anything from elsewhere, or holds a script.
fn whole(book: &BTreeMap<String, Vec<u8>>) {
    let pages: BTreeMap<&str, &str> = book
        .iter()
        .filter(|(name, _)| is_page(name))
        .map(|(name, bytes)| (name.as_str(), std::str::from_utf8(bytes).expect("text")))
        .collect();
    let ids: BTreeMap<&str, BTreeSet<String>> = pages
        .iter()
        .map(|(name, page)| {
            let ids = values(page, "id");
            let different: BTreeSet<String> = ids.iter().cloned().collect();
            assert_eq!(ids.len(), different.len(), "{name}: an id stands twice in {ids:?}");
            (*name, different)
        })
        .collect();
    let mut led = 0;
    for (name, page) in &pages {
        assert!(
            !page.contains("<script") && !page.contains("javascript:"),
            "{name} has a script"
        );
        for source in values(page, "src") {
            assert!(!source.contains(':'), "{name} loads {source}");
        }
        for to in values(page, "href").into_iter().chain(values(page, "src")) {
            if to.contains("://") || to.starts_with("mailto:") || to.starts_with("data:,") {
                continue;
            }
            assert!(!to.starts_with('/'), "{name}: {to} does not work from a file");
            let (path, fragment) = to.split_once('#').unwrap_or((to.as_str(), ""));
            let mut at: Vec<&str> = name.split('/').collect();
            if !path.is_empty() {
                at.pop();
                for part in path.split('/') {
                    if part == ".." {
                        assert!(at.pop().is_some(), "{name}: {to} leads out of the book");
                    } else {
                        at.push(part);
                    }
                }
            }
            let target = at.join("/").replace("%20", " ");
            assert!(book.contains_key(&target), "{name}: {to} leads nowhere");
            if !fragment.is_empty() {
                assert!(
                    ids[target.as_str()].contains(fragment),
                    "{name}: {to} has no such anchor"
                );
            }
            led += 1;
        }
    }
    assert!(led > pages.len(), "no links were found");
}

#[test]
fn a_book_is_whole_and_the_same_every_time() {
    let world = TestEnvironment::new();
    let root = course(&world);
    let run = |out: &str| world.run(&["blog", "build", "--root", &root, "--out", out]);
    assert_snapshot!(run("site"), @r"
    exit 0
    ----- stdout
    site/index.html: 2 chapters, 2 posts and 2 pages that they lead to
    ");
    let first = files_below(&world.path("home/site"));
    whole(&first);
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            ".labctl-book",
            "book.css",
            "chapters/01-one.html",
            "chapters/02-two.html",
            "feed.xml",
            "files/labs/01-one/chapter.yaml",
            "files/labs/01-one/pic ture.svg",
            "index.html",
            "more/docs/deep/README.html",
            "more/docs/more.html",
            "posts/new.html",
            "posts/old.html",
        ]
    );
    assert_eq!(run("other").exit, Some(0));
    assert_eq!(files_below(&world.path("home/other")), first);
    assert_eq!(run("site").exit, Some(0));
    assert_eq!(files_below(&world.path("home/site")), first);
    for (name, bytes) in &first {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains(&root), "{name} tells where it was made");
    }
}

#[test]
fn what_is_written_is_shown_and_not_obeyed() {
    let world = TestEnvironment::new();
    let root = course(&world);
    let book = book::make(Path::new(&root), None).expect("made");
    let page = |name: &str| std::str::from_utf8(&book.files[name]).expect("text");
    let one = page("chapters/01-one.html");
    assert!(one.contains("<h1>01 &lt;One&gt;</h1>"), "{one}");
    assert!(one.contains("content=\"it &lt;works&gt; &amp; waits.\""), "{one}");
    assert!(one.contains("<code>&lt;b&gt;</code>"), "{one}");
    assert!(!one.contains("a note"), "comments are not shown: {one}");
    assert!(one.contains("href=\"../chapters/02-two.html#a-b-1\""), "{one}");
    assert!(one.contains("href=\"mailto:a@b.c\""), "{one}");
    assert!(one.contains("rel=\"next\" href=\"../chapters/02-two.html\""), "{one}");
    let old = page("posts/old.html");
    assert!(
        old.contains("<kbd>echo '&lt;b&gt;' \\\n  x</kbd>\n<samp>&lt;b&gt; x</samp>"),
        "{old}"
    );
    assert!(old.contains("<figcaption><code>a.yaml</code></figcaption>"), "{old}");
    assert!(old.contains("<h1>Old post</h1>"), "{old}");
    assert!(
        old.contains("<figcaption>Not run by the tests: there is no moon</figcaption>"),
        "{old}"
    );
    // To read on is to go forward in time.
    assert!(old.contains("rel=\"next\" href=\"../posts/new.html\""), "{old}");
    let feed = page("feed.xml");
    assert!(feed.contains("<updated>2026-02-01T00:00:00Z</updated>"), "{feed}");
    assert!(feed.contains("The &quot;old&quot; one &amp; more"), "{feed}");
    let away = book::make(Path::new(&root), Some("https://example.org/course/")).expect("made");
    let feed = std::str::from_utf8(&away.files["feed.xml"]).expect("text").to_owned();
    assert!(
        feed.contains("<link href=\"https://example.org/course/posts/new.html\"/>"),
        "{feed}"
    );
}

#[test]
fn what_cannot_be_shown_is_refused_with_its_place_and_nothing_is_written() {
    let world = TestEnvironment::new();
    let root = course(&world);
    world.write(
        "c/labs/blog/bad.md",
        "# Bad\n\nGo [there](no.md), [up](../../../etc), [in](old.md#nope) or [on](#nope).\n\n<div onclick=\"x()\">\n\n\
         Text with <b>bold</b>, [a link][missing] and\n[run](javascript:alert(1)).\n\n![far](https://example.org/a.png)\n",
    );
    let output = world.run(&["blog", "build", "--root", &root, "--out", "site"]);
    assert_snapshot!(output, @r#"
    exit 2
    ----- stderr
    error[LAB-SPEC-002]: the book cannot be made: 12 things in its sources cannot be shown
      labs/blog/bad.md:1: a post begins with its day: `---`, `date: 2026-01-31`, `summary: ...`, `---`
      labs/blog/bad.md:1: a post has a `summary:` of one sentence beside its `date:`
      labs/blog/bad.md:3: `../../../etc` leads out of the project
      labs/blog/bad.md:3: no heading of `labs/blog/bad.md` has the anchor `#nope`
      labs/blog/bad.md:3: no heading of `labs/blog/old.md` has the anchor `#nope`
      labs/blog/bad.md:3: there is no file `no.md`
      labs/blog/bad.md:5: HTML is not taken: `<div onclick="x()">`; write Markdown, or put it into backquotes
      labs/blog/bad.md:7: HTML is not taken: `</b>`; write Markdown, or put it into backquotes
      labs/blog/bad.md:7: HTML is not taken: `<b>`; write Markdown, or put it into backquotes
      labs/blog/bad.md:7: no link definition `[missing]: ...` is in this file
      labs/blog/bad.md:8: `javascript:alert(1)`: the book leads by http, https and mailto only, not by `javascript`
      labs/blog/bad.md:10: `https://example.org/a.png`: the book shows no pictures of other hosts; put it into the project
      hint: mend these places; nothing was written
    "#);
    assert!(!world.path("home/site").exists());
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let world = TestEnvironment::new();
    let root = course(&world);
    world.write("home/site/thesis.txt", "years");
    let output = world.run(&["blog", "build", "--root", &root, "--out", "site"]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(
        output.stderr.contains("`thesis.txt`, which no build of the book made"),
        "{output}"
    );
    assert_eq!(files_below(&world.path("home/site")).len(), 1);
    let output = world.run(&["blog", "build"]);
    assert!(output.stderr.contains("there is no folder `./labs`"), "{output}");
}

/// Returns a world in which sessions find the programs of this machine.
fn session_world() -> TestEnvironment {
    let mut world = TestEnvironment::new();
    let path = config::variable("PATH").and_then(|path| path.into_string().ok());
    world.set("PATH", path.unwrap_or_default());
    world
}

#[test]
fn sessions_are_run_and_what_differs_is_shown_with_its_place() {
    let world = session_world();
    world.write(
        "home/page.md",
        "# A page\n\n```text file=in.txt\nb\na\n```\n\nSort it:\n\n```console\n$ sort in.txt\na\nc\n$ echo $WHO; false\nme\n[exit 1]\n```\n",
    );
    assert_snapshot!(world.run(&["blog", "test", "page.md", "--env", "WHO=me"]), @r"
    exit 1
    ----- stdout
    page.md:11: $ sort in.txt
      expected (-) and actual (+):
          a
        - c
        + b
    ----- stderr
    1 of 3 steps in 1 document differ
    ");
    let output = world.run(&["blog", "test", "page.md", "--env", "WHO=me", "--update"]);
    assert_eq!(output.exit, Some(1), "{output}");
    let text = std::fs::read_to_string(world.path("home/page.md")).expect("readable");
    assert!(text.contains("$ sort in.txt\na\nb\n$ echo"), "{text}");
    let output = world.run(&["blog", "test", "page.md"]);
    assert_eq!(output.exit, Some(1), "the variable is not there: {output}");
    world.write("home/bad.md", "\n```console vary=tim\n$ x\n```\n");
    let output = world.run(&["blog", "test", "bad.md"]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(
        output.stderr.contains("bad.md:2: `tim` is nothing that can vary"),
        "{output}"
    );
}

/// Returns the book of this repository.
fn own() -> Book {
    book::make(checkout(), None).expect("made")
}

#[test]
fn the_book_of_this_repository_is_whole() {
    let book = own();
    assert!(
        book.chapters >= 3 && book.posts >= 3,
        "{} chapters, {} posts",
        book.chapters,
        book.posts
    );
    whole(&book.files);
    let top = checkout().display().to_string();
    for (name, bytes) in &book.files {
        assert!(
            !String::from_utf8_lossy(bytes).contains(&top),
            "{name} tells where it was made"
        );
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "the posts speak of GNU's sed, cat, stat and od")]
fn the_posts_of_this_repository_do_what_they_say() {
    let world = session_world();
    let mut command = world.command(&["blog", "test"]);
    let output = command.current_dir(checkout()).output().expect("labctl starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
