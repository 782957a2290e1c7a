use super::*;

fn texts(document: &Document) -> Vec<String> {
    document.blocks.iter().map(|block| block.text.clone()).collect()
}

/// Checks that every word of every block is, in the file, where the block says.
fn places_are_exact(text: &str, language: Language) {
    let document = Document::new(text, language);
    for block in &document.blocks {
        for token in &block.tokens {
            let range = token.start..token.end;
            let source = block.source(range.clone());
            assert!(source.end <= text.len(), "{source:?} of {text:?}");
            if block.is_literal(&range) {
                assert_eq!(&text[source], &block.text[range], "{text:?}");
            } else {
                assert!(text.is_char_boundary(source.start) && text.is_char_boundary(source.end));
            }
        }
    }
}

const SAMPLE: &str = "# A *title* with `code`\n\nOne **bold** word and a [link](to.md \"t\"),\nthen `x` &amp; <https://a.b/c>. \
Zwölf ﬁne wörds.  \nAfter the break.\n\n> quoted text\n\n1. first\n2. second\n   still\n\n```sh\necho  \n```\n\n| a | b |\n|---|---|\n| c c | d |\n";

#[test]
fn markdown_becomes_prose_with_its_places() {
    let document = Document::new(SAMPLE, Language::Markdown);
    assert_eq!(
        texts(&document),
        [
            "A title with \u{fffc}",
            "One bold word and a link, then \u{fffc} & \u{fffc}. Zwölf ﬁne wörds. After the break.",
            "quoted text",
            "first",
            "second still",
            "a",
            "b",
            "c c",
            "d",
        ]
    );
    assert_eq!(document.headings[0].anchor, "a-title-with-code");
    assert_eq!(
        document.fences[0].lines,
        [("echo  ".to_owned(), SAMPLE.find("echo").expect("there"))]
    );
    assert_eq!(
        document.lists[0].items.iter().map(|item| item.0).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(document.links.len(), 2);
    assert_eq!(document.breaks.len(), 1);
    assert!(document.blocks[2].quoted);
    places_are_exact(SAMPLE, Language::Markdown);
}

#[test]
fn words_across_markup_and_lines_are_one_range() {
    let text = "say **the**\nthe word";
    let document = Document::new(text, Language::Markdown);
    let block = &document.blocks[0];
    assert_eq!(block.text, "say the the word");
    assert_eq!(&text[block.source(4..11)], "the**\nthe");
    assert!(!block.is_literal(&(4..11)));
    assert!(block.is_literal(&(4..7)));
}

#[test]
fn comments_are_prose_and_strings_are_not() {
    let rust = "//! Module docs\n//! go on.\n\n/// Item `x`.\nfn a<'a>() { let s = \"// no\"; let c = '\"'; } // trailing\n\
                let r = r#\"raw // no\n  \"#; /* block\n * starred */\n";
    let document = Document::new(rust, Language::Rust);
    assert_eq!(
        texts(&document),
        ["Module docs go on.", "Item \u{fffc}.", "trailing", "block starred"]
    );
    assert_eq!(document.verbatim.len(), 1);
    places_are_exact(rust, Language::Rust);

    let go = "//go:build linux\npackage a // the name\nvar s = `// no\n`\n";
    assert_eq!(texts(&Document::new(go, Language::Go)), ["the name"]);

    let python = "#!/usr/bin/python3\nx = '# no' # yes\ny = \"\"\"# no\n  \n\"\"\"\n# two\n# lines\n";
    let document = Document::new(python, Language::Python);
    assert_eq!(texts(&document), ["yes", "two lines"]);
    assert_eq!(document.verbatim.len(), 1);

    let shell = "echo $# ${#x} '# no' # yes\ncat <<EOF | tr a b\n# no  \nEOF\n# after\n";
    let document = Document::new(shell, Language::Shell);
    assert_eq!(texts(&document), ["yes", "after"]);
    assert_eq!(&shell[document.verbatim[0].clone()], "# no  \nEOF\n");

    let yaml = "# top\na: 'x # no'\nb: |\n  # no  \n\n  more\nc: d # yes\n- >-\n  text\n# end\n";
    let document = Document::new(yaml, Language::Yaml);
    assert_eq!(texts(&document), ["top", "yes", "end"]);

    let toml = "# top\na = \"# no\" # yes\nb = '''\n# no\n'''\n";
    assert_eq!(texts(&Document::new(toml, Language::Toml)), ["top", "yes"]);
}

#[test]
fn plain_text_is_paragraphs() {
    let text = "One line\nand two.\n\n    code here\n\nThree\r\nfour.";
    let document = Document::new(text, Language::Plain);
    assert_eq!(texts(&document), ["One line and two.", "Three four."]);
    places_are_exact(text, Language::Plain);
}

#[test]
fn sentences_end_where_people_end_them() {
    let document = Document::new(
        "Use it, e.g. here. Version 1.2 runs! \"Really?\" He said so. It is at https://a.b/c.d: see there.",
        Language::Markdown,
    );
    let block = &document.blocks[0];
    let said: Vec<&str> = block
        .sentences
        .iter()
        .map(|range| &block.text[block.range(range.start, range.end - 1)])
        .collect();
    assert_eq!(
        said,
        [
            "Use it, e.g. here.",
            "Version 1.2 runs!",
            "\"Really?\"",
            "He said so.",
            "It is at \u{fffc}: see there."
        ]
    );
}

#[test]
fn anchors_are_githubs() {
    let text = "# What's new?\n## `labctl up` & co.\n## What's new?\n## Größe A-b_c\n";
    let document = Document::new(text, Language::Markdown);
    let anchors: Vec<&str> = document
        .headings
        .iter()
        .map(|heading| heading.anchor.as_str())
        .collect();
    assert_eq!(anchors, ["whats-new", "labctl-up--co", "whats-new-1", "größe-a-b_c"]);
}

#[test]
fn places_count_characters() {
    let document = Document::new("ä b\r\nc", Language::Plain);
    assert_eq!(document.place(3), Place { line: 1, column: 3 });
    assert_eq!(document.place(6), Place { line: 2, column: 1 });
    assert_eq!(document.place(999), Place { line: 2, column: 2 });
}

/// A small generator of numbers, so that a failure can be repeated.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).expect("small")
    }
}

/// Parts from which texts are put together that are as bad as can be.
pub(crate) const BITS: [&str; 58] = [
    "the ",
    "a ",
    "an ",
    "word",
    "\n",
    "\n\n",
    "```",
    "~~~~",
    "`",
    "*",
    "**",
    "_",
    "[",
    "](",
    ")",
    "(",
    "\"",
    "'",
    "#",
    "# ",
    "> ",
    "- ",
    "1. ",
    "    ",
    "\t",
    "  \n",
    "\r\n",
    "\r",
    "<!--",
    "-->",
    "labctl-prose: allow x",
    "|",
    "---\n",
    "&amp;",
    "\\",
    "\u{5e9}\u{5dc}\u{5d5}\u{5dd} ",
    "\u{202e}",
    "\u{200b}",
    "\u{feff}",
    "\u{1f468}\u{200d}\u{1f469} ",
    "e\u{301}",
    "$#",
    "<<EOF",
    "EOF\n",
    "'''",
    "\"\"\"",
    "r#\"",
    "\"#",
    "/*",
    "*/",
    "//",
    "https://x.y/z",
    "{",
    "}",
    "<a id=\"",
    ": |\n",
    "…",
    ". ",
];

#[test]
fn no_text_is_too_strange() {
    let languages = [
        Language::Markdown,
        Language::Mdx,
        Language::Plain,
        Language::Rust,
        Language::Python,
        Language::Go,
        Language::Shell,
        Language::Yaml,
        Language::Toml,
        Language::Other,
    ];
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..3000 {
        let length = numbers.next(40);
        let text: String = (0..length).map(|_| BITS[numbers.next(BITS.len())]).collect();
        places_are_exact(&text, languages[round % languages.len()]);
    }
}
