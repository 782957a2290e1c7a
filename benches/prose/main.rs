//! `cargo bench --bench prose`: what `labctl prose` finds, and what it finds wrongly, beside other tools.
//!
//! It needs Debian 12 with apt, and writes below `target/prose-bench`. Texts are from packages whose upstream version is
//! from 2022-11-30 or earlier. Thresholds come from the tune half (`-- --tune` prints them), figures from the test half;
//! the halves share no package. Errors are seeded at known places by a generator that is the same in every run. Other
//! tools are run on the same files, in the same run, where they are on PATH: codespell, typos, vale, proselint, sg
//! (slop-guard; set `LABCTL_BENCH_SLOP_GUARD` to its folder for its list of phrases).

mod corpus;
mod stats;
mod tools;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use corpus::{Half, PACKAGES, Text};
use labctl::config;
use labctl::drive::files;
use labctl::prose::config::Config;
use labctl::prose::finding::Report;
use labctl::prose::rule::{Class, Rules, Strength};
use labctl::prose::show::PADDED;
use labctl::prose::slop::Register;
use labctl::prose::{Checker, Selection};
use stats::{Numbers, p90, share};
use tools::{Run, TOOLS};

/// How many errors of a kind are seeded in each document, at most.
const SEEDS: usize = 5;
/// Findings on untouched text that were read one by one, and what they are.
const LABELS: &str = include_str!("labels.tsv");

#[tokio::main]
async fn main() -> Result<()> {
    let has = |word: &str| std::env::args().any(|arg| arg == word);
    // `cargo test --benches` runs it with this word; it downloads, so it is for hands.
    if has("--test") {
        return Ok(());
    }
    let work = std::path::absolute("target/prose-bench")?;
    let mut texts = Vec::new();
    let mut rows = Vec::new();
    for package in &PACKAGES {
        let (folder, digest) = corpus::unpack(&work, package.name, package.version).await?;
        let own = corpus::texts(package, &folder, &work)?;
        let words: usize = own.iter().map(|text| text.words).sum();
        let half = if package.half == Half::Tune { "tune" } else { "test" };
        rows.push(format!(
            "| {} {} | {} | {half} | {} | {words} | {} |",
            package.name,
            package.version,
            package.dated,
            own.len(),
            digest.short()
        ));
        texts.extend(own);
    }
    if has("--tune") {
        tune(&texts);
        return Ok(());
    }
    say("## Texts\n\n| package | text dated | half | documents | words | sha256 |\n|---|---|---|---|---|---|");
    say(&rows.join("\n"));
    let test: Vec<&Text> = texts.iter().filter(|text| text.half == Half::Test).collect();
    let folder = work.join("text/test");
    let checker = checker();
    let start = Instant::now();
    let reports: Vec<Report> = test
        .iter()
        .map(|text| checker.check(&text.path, text.markdown.as_bytes()))
        .collect();
    let own = start.elapsed();
    let mut runs = HashMap::new();
    for tool in TOOLS {
        if let Some(run) = tools::run(tool, &folder, &work).await? {
            runs.insert(tool, run);
        }
    }
    slop(&test, &reports, runs.get("sg"));
    rules(&test, &reports);
    untouched(&test, &reports, &runs, false, has("--dump"));
    untouched(&test, &reports, &runs, true, false);
    seeded(&test, &checker, &work).await?;
    phrases(&checker, &work).await?;
    speed(&test, own, &runs);
    Ok(())
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    _ = std::io::Write::write_all(&mut out, text.as_bytes());
    _ = std::io::Write::write_all(&mut out, b"\n");
}

fn checker() -> Checker {
    Checker::new(Config::new("/no/such/project"), &Selection::default())
}

/// Prints the human rates, and how the tune half fares at some gates.
fn tune(texts: &[Text]) {
    let tune: Vec<&Text> = texts.iter().filter(|text| text.half == Half::Tune).collect();
    let checker = checker();
    for register in Register::ALL {
        let own: Vec<_> = tune.iter().filter(|text| text.register == register).collect();
        say(&format!("\n[p90.{}]  # {} documents", register.name(), own.len()));
        let rates: Vec<_> = own
            .iter()
            .map(|text| checker.rates(&text.path, &text.markdown))
            .collect();
        for rule in Rules::built_in()
            .all()
            .iter()
            .filter(|rule| rule.class == Class::Slop && rule.strength == Strength::Weak)
        {
            let values = rates
                .iter()
                .map(|rates| rates.get(&rule.id).copied().unwrap_or(0.0))
                .collect();
            say(&format!("{} = {:.1}", rule.id, p90(values)));
        }
    }
    let reports: Vec<Report> = tune
        .iter()
        .map(|text| checker.check(&text.path, text.markdown.as_bytes()))
        .collect();
    for gate in [5.0, 10.0, 15.0, 20.0, 30.0] {
        let over = reports.iter().filter(|report| report.score.per_1000 >= gate).count();
        say(&format!("# gate {gate}: {}", share(over, reports.len())));
    }
    rules(&tune, &reports);
}

/// How often documents that people wrote are called padded.
fn slop(test: &[&Text], reports: &[Report], other: Option<&Run>) {
    say("\n## Human documents that are called padded (test half; fewer is better; 95 % interval after Wilson)\n");
    say(
        "| register | a strong hit | a strong or medium hit | padding weighs 15 or more | slop-guard below 60 | slop-guard below 80 |\n|---|---|---|---|---|---|",
    );
    for register in Register::ALL {
        let own: Vec<_> = test
            .iter()
            .zip(reports)
            .filter(|(text, _)| text.register == register)
            .collect();
        let with = |least: Strength| {
            let hit = |report: &Report| {
                report
                    .findings
                    .iter()
                    .any(|finding| finding.rule.class == Class::Slop && finding.rule.strength >= least)
            };
            own.iter().filter(|(_, report)| hit(report)).count()
        };
        let gate = own.iter().filter(|(_, report)| report.score.per_1000 >= PADDED).count();
        let score = |limit: u32| {
            let Some(run) = other else { return "not run".to_owned() };
            let scores: Vec<u32> = own
                .iter()
                .filter_map(|(text, _)| run.found.get(&text.path)?.first()?.words.parse().ok())
                .collect();
            share(scores.iter().filter(|score| **score < limit).count(), scores.len())
        };
        say(&format!(
            "| {} | {} | {} | {} | {} | {} |",
            register.name(),
            share(with(Strength::Strong), own.len()),
            share(with(Strength::Medium), own.len()),
            share(gate, own.len()),
            score(60),
            score(80)
        ));
    }
}

/// In how many human documents each rule finds something.
fn rules(texts: &[&Text], reports: &[Report]) {
    say(
        "\n## Human documents in which a rule finds something\n\n| rule | how-to | reference | general |\n|---|---|---|---|",
    );
    for rule in Rules::built_in().all() {
        let cells: Vec<String> = Register::ALL
            .iter()
            .map(|register| {
                let own: Vec<_> = texts
                    .iter()
                    .zip(reports)
                    .filter(|(text, _)| text.register == *register)
                    .collect();
                let hit = own
                    .iter()
                    .filter(|(_, report)| report.findings.iter().any(|finding| finding.rule.id == rule.id))
                    .count();
                share(hit, own.len())
            })
            .collect();
        if cells.iter().any(|cell| !cell.starts_with("0 ")) {
            say(&format!("| {} | {} |", rule.id, cells.join(" | ")));
        }
    }
}

/// Findings of copyediting on text as it was published, and how many of them are right, as they were labelled by hand.
fn untouched(test: &[&Text], reports: &[Report], runs: &HashMap<&str, Run>, novels: bool, dump: bool) {
    let labels: HashMap<(&str, &str), &str> = LABELS
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('\t');
            Some(((cells.next()?, cells.next()?), cells.next()?))
        })
        .collect();
    let mut all: BTreeMap<(String, String), BTreeMap<String, usize>> = BTreeMap::new();
    let mut add = |kind: &str, words: &str, tool: &str| {
        let key = (kind.to_owned(), words.split_whitespace().collect::<Vec<_>>().join(" "));
        *all.entry(key).or_default().entry(tool.to_owned()).or_default() += 1;
    };
    let own = |text: &Text| (text.register == Register::General) == novels;
    let files: BTreeSet<&Path> = test
        .iter()
        .filter(|text| own(text))
        .map(|text| text.path.as_path())
        .collect();
    for (text, report) in test.iter().zip(reports).filter(|(text, _)| own(text)) {
        for finding in report
            .findings
            .iter()
            .filter(|finding| finding.rule.class == Class::Copyedit)
        {
            let kind = finding.rule.id.as_str();
            let words = if kind == "unclosed" {
                // The mark alone says nothing; its surroundings do.
                let line = text.markdown.lines().nth(finding.start.line - 1).unwrap_or_default();
                let at = finding.start.column.saturating_sub(1);
                line.chars().skip(at.saturating_sub(25)).take(60).collect()
            } else {
                finding.words.clone()
            };
            add(kind, &words, "labctl");
        }
    }
    for (tool, run) in runs {
        let inside = run.found.iter().filter(|(path, _)| files.contains(path.as_path()));
        for said in inside.flat_map(|(_, said)| said) {
            let kind = match said.rule.as_str() {
                "spelling" => "spelling",
                "Vale.Repetition" | "lexical_illusions" => "doubled-word",
                _ => continue,
            };
            add(kind, &said.words, tool);
        }
    }
    if dump {
        for ((kind, words), by) in &all {
            let by: Vec<String> = by.iter().map(|(tool, count)| format!("{tool} {count}")).collect();
            say(&format!("{kind}\t{words}\t?\t{}", by.join(", ")));
        }
    }
    let texts = if novels { "six novels" } else { "how-to and reference" };
    say(&format!(
        "\n## Findings on untouched text ({texts}, test half; right means that the text is wrong there)\n"
    ));
    say("| kind | tool | findings | different ones | of these labelled | right |\n|---|---|---|---|---|---|");
    let kinds: BTreeSet<&str> = all.keys().map(|(kind, _)| kind.as_str()).collect();
    for kind in kinds {
        for tool in ["labctl", "codespell", "typos", "vale", "proselint"] {
            let own: Vec<_> = all
                .iter()
                .filter(|((k, _), by)| k == kind && by.contains_key(tool))
                .collect();
            if own.is_empty() {
                continue;
            }
            let findings: usize = own.iter().map(|(_, by)| by[tool]).sum();
            let label = |words: &str| labels.get(&(kind, words)).copied();
            let labelled: Vec<&str> = own.iter().filter_map(|((_, words), _)| label(words)).collect();
            let right = labelled.iter().filter(|label| **label == "right").count();
            say(&format!(
                "| {kind} | {tool} | {findings} | {} | {} | {} |",
                own.len(),
                labelled.len(),
                share(right, labelled.len())
            ));
        }
    }
    if let Some(vale) = runs.get("vale") {
        let inside = vale.found.iter().filter(|(path, _)| files.contains(path.as_path()));
        let words = inside
            .flat_map(|(_, said)| said)
            .filter(|said| said.rule == "Vale.Spelling")
            .count();
        say(&format!(
            "\nVale.Spelling, which reports every word that it does not know, has {words} findings on the same text."
        ));
    }
}

/// Spoils a line; returns it with the words that are wrong now.
type Spoil<'s> = &'s mut dyn FnMut(&str, &mut Numbers) -> Option<(String, String)>;

/// An error that was put into a text.
struct Seed {
    file: PathBuf,
    line: usize,
    words: String,
}

/// Puts errors of one kind into copies of the documents, a paragraph a line.
fn plant(test: &[&Text], folder: &Path, numbers: &mut Numbers, spoil: Spoil<'_>) -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for text in test.iter().filter(|text| text.register != Register::General) {
        let mut lines: Vec<String> = text.markdown.lines().map(str::to_owned).collect();
        let file = folder.join(text.path.file_name().unwrap_or_default());
        let mut used = BTreeSet::new();
        for _ in 0..SEEDS * 4 {
            let at = numbers.below(lines.len());
            let long = lines[at].split(' ').count() >= 12;
            if used.len() == SEEDS || used.contains(&at) || !long || lines[at].starts_with('#') {
                continue;
            }
            if let Some((line, words)) = spoil(&lines[at], numbers) {
                lines[at] = line;
                used.insert(at);
                seeds.push(Seed {
                    file: file.clone(),
                    line: at + 1,
                    words,
                });
            }
        }
        files::write(&file, lines.join("\n") + "\n")?;
    }
    Ok(seeds)
}

/// Returns a plain lower-case word of a line that is not within code, with its place.
fn word<'l>(line: &'l str, numbers: &mut Numbers, fits: &dyn Fn(&str) -> bool) -> Option<(usize, &'l str)> {
    let mut code = false;
    let mut at = 0;
    let mut words = Vec::new();
    for part in line.split_inclusive(' ') {
        let bare = part.trim_end();
        let plain = bare.chars().all(|c| c.is_ascii_lowercase());
        if !code && plain && fits(bare) {
            words.push((at, bare));
        }
        code ^= part.matches('`').count() % 2 == 1;
        at += part.len();
    }
    (!words.is_empty()).then(|| words[numbers.below(words.len())])
}

fn replaced(line: &str, at: usize, length: usize, with: &str) -> String {
    format!("{}{with}{}", &line[..at], &line[at + length..])
}

async fn seeded(test: &[&Text], checker: &Checker, work: &Path) -> Result<()> {
    say("\n## Seeded errors that are found (test half, how-to and reference; more is better)\n");
    let pairs = corpus::misspellings(work).await?;
    let mut by_right: HashMap<&str, Vec<&str>> = HashMap::new();
    for (wrong, right) in &pairs {
        by_right.entry(right).or_default().push(wrong);
    }
    let mut known = |line: &str, numbers: &mut Numbers| {
        let (at, right) = word(line, numbers, &|word| by_right.contains_key(word))?;
        let wrong = &by_right[right];
        let wrong = wrong[numbers.below(wrong.len())];
        Some((replaced(line, at, right.len(), wrong), wrong.to_owned()))
    };
    let mut slips = |line: &str, numbers: &mut Numbers| {
        let (at, right) = word(line, numbers, &|word| word.len() >= 6)?;
        let mut bytes = right.as_bytes().to_vec();
        let i = 1 + numbers.below(bytes.len() - 2);
        match numbers.below(3) {
            0 => bytes.swap(i, i + 1),
            1 => _ = bytes.remove(i),
            _ => bytes.insert(i, bytes[i]),
        }
        let wrong = String::from_utf8(bytes).ok()?;
        (wrong != right).then(|| (replaced(line, at, right.len(), &wrong), wrong))
    };
    let mut twice = |line: &str, numbers: &mut Numbers| {
        let (at, right) = word(line, numbers, &|word| word.len() >= 2)?;
        Some((
            replaced(line, at, right.len(), &format!("{right} {right}")),
            right.to_owned(),
        ))
    };
    let mut article = |line: &str, numbers: &mut Numbers| {
        let (at, right) = word(line, numbers, &|word| word == "a" || word == "an")?;
        let wrong = if right == "a" { "an" } else { "a" };
        let next = line[at + right.len()..]
            .trim_start()
            .split(' ')
            .next()
            .unwrap_or_default();
        // Code has no sound, so nobody can tell.
        next.starts_with(|c: char| c.is_ascii_alphabetic())
            .then(|| (replaced(line, at, right.len(), wrong), wrong.to_owned()))
    };
    let mut bracket = |line: &str, _: &mut Numbers| {
        let (open, close) = (line.find('(')?, line.find(')')?);
        (open < close && !line[..close].contains('`')).then(|| (replaced(line, close, 1, ""), "(".to_owned()))
    };
    let kinds: [(&str, &[&str], Spoil<'_>); 5] = [
        (
            "misspellings that packagers met (lintian's list)",
            &["spelling"],
            &mut known,
        ),
        ("slips: letters swapped, dropped, doubled", &["spelling"], &mut slips),
        (
            "doubled words",
            &["doubled-word", "Vale.Repetition", "lexical_illusions"],
            &mut twice,
        ),
        ("`a` for `an` and back", &["article"], &mut article),
        ("a closing bracket is gone", &["unclosed"], &mut bracket),
    ];
    say("| errors | tool | found (95 % interval) | findings elsewhere in these files |\n|---|---|---|---|");
    for (number, (name, accepted, spoil)) in kinds.into_iter().enumerate() {
        let folder = work.join(format!("seeded/{number}"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let seeds = plant(test, &folder, &mut Numbers(0x5eed_0000 + number as u64), spoil)?;
        let mut own: HashMap<PathBuf, Vec<tools::Said>> = HashMap::new();
        for file in files::walk(&folder)? {
            let bytes = std::fs::read(&file)?;
            let findings = checker.check(&file, &bytes).findings;
            let said = findings.into_iter().map(|finding| tools::Said {
                line: finding.start.line,
                rule: finding.rule.id.clone(),
                words: finding.words,
            });
            own.insert(file, said.collect());
        }
        let row = |tool: &str, found: &HashMap<PathBuf, Vec<tools::Said>>| {
            let hit = |seed: &&Seed| {
                found.get(&seed.file).is_some_and(|said| {
                    said.iter().any(|said| {
                        let same = said.words.to_lowercase().contains(&seed.words)
                            || seed.words.contains(&said.words.to_lowercase());
                        said.line == seed.line
                            && accepted.contains(&said.rule.as_str())
                            && (same || said.words.is_empty())
                    })
                })
            };
            let hits = seeds.iter().filter(hit).count();
            let all = found
                .values()
                .flatten()
                .filter(|said| accepted.contains(&said.rule.as_str()))
                .count();
            say(&format!(
                "| {name} | {tool} | {} | {} |",
                share(hits, seeds.len()),
                all.saturating_sub(hits)
            ));
        };
        row("labctl", &own);
        for tool in ["codespell", "typos", "vale", "proselint"] {
            let speaks = match accepted[0] {
                "spelling" => tool == "codespell" || tool == "typos",
                "doubled-word" => tool == "vale" || tool == "proselint",
                _ => false,
            };
            if speaks && let Some(run) = tools::run(tool, &folder, work).await? {
                row(tool, &run.found);
            }
        }
    }
    Ok(())
}

/// How much of the other's list of phrases each tool knows.
async fn phrases(checker: &Checker, work: &Path) -> Result<()> {
    let Some(folder) = config::text_variable("LABCTL_BENCH_SLOP_GUARD") else {
        return Ok(());
    };
    let source = std::fs::read_to_string(Path::new(&folder).join("rules/sentence/slop_phrase.py"))?;
    let list = source
        .split("_LITERAL = (")
        .nth(1)
        .and_then(|rest| rest.split("\n)").next())
        .unwrap_or_default();
    let phrases: Vec<&str> = list
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","))
        .collect();
    let knows = |text: &str| {
        let report = checker.check(Path::new("a.md"), text.as_bytes());
        report.findings.iter().any(|finding| finding.rule.class == Class::Slop)
    };
    let sentence = |phrase: &str| {
        let (first, rest) = phrase.split_at(1);
        format!("{}{rest} the node has three pods.\n", first.to_uppercase())
    };
    let ours = phrases.iter().filter(|phrase| knows(&sentence(phrase))).count();
    say("\n## Each tool on the other's phrases\n");
    say(&format!(
        "labctl finds {} of slop-guard's literal phrases.",
        share(ours, phrases.len())
    ));
    let place = work.join("examples");
    if place.exists() {
        std::fs::remove_dir_all(&place)?;
    }
    let strong = |least: Strength| {
        Rules::built_in()
            .all()
            .iter()
            .filter(move |rule| rule.class == Class::Slop && rule.strength >= least)
    };
    let mut count = 0;
    for bad in strong(Strength::Medium).flat_map(|rule| &rule.bad) {
        // Its score of a short text is of no use, so the example stands in a human paragraph.
        let filler = "The node asks the server for a list of all its pods and waits. When the list comes, it compares each name with what runs, and starts what is missing.";
        files::write(
            &place.join(format!("{count}.md")),
            format!("{filler}\n\n{bad}\n\n{filler}\n"),
        )?;
        count += 1;
    }
    let base = "The node asks the server for a list of all its pods and waits. When the list comes, it compares each name with what runs, and starts what is missing.";
    files::write(
        &place.join("base.md"),
        format!("{base}\n\nIt has three pods.\n\n{base}\n"),
    )?;
    if let Some(run) = tools::run("sg", &place, work).await? {
        let score = |path: &Path| {
            run.found
                .get(path)
                .and_then(|said| said.first()?.words.parse::<u32>().ok())
        };
        let base = score(&place.join("base.md")).unwrap_or(100);
        let lower = (0..count)
            .filter(|n| score(&place.join(format!("{n}.md"))).is_some_and(|score| score < base))
            .count();
        say(&format!(
            "slop-guard lowers its score for {} of labctl's own examples of padding.",
            share(lower, count)
        ));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "sizes")]
fn speed(test: &[&Text], own: Duration, runs: &HashMap<&str, Run>) {
    let bytes: usize = test.iter().map(|text| text.markdown.len()).sum();
    say(&format!(
        "\n## Time for the {:.1} MB of the test half (same run, one after the other)\n",
        bytes as f64 / 1e6
    ));
    say("| tool | seconds | MB/s |\n|---|---|---|");
    let row = |name: &str, took: Duration| {
        let seconds = took.as_secs_f64();
        say(&format!(
            "| {name} | {seconds:.2} | {:.1} |",
            bytes as f64 / 1e6 / seconds
        ));
    };
    row("labctl prose (all rules, one thread, without start)", own);
    for tool in TOOLS {
        match runs.get(tool) {
            Some(run) => row(tool, run.took),
            None => say(&format!("| {tool} | not run: it is not on PATH | |")),
        }
    }
}
