//! How a page of a list is found: the same for both databases.
//!
//! Every condition that has an index (owner and state, a label, a template, how long it ran, a text) could lead: its ids are walked from
//! the newest on, and the row of each is asked for the other conditions. Which one leads is not guessed from statistics,
//! which are wrong when it matters. Where there are several, it is looked how far the next so many ids of each come, which
//! costs little beside reading rows: all that is wanted is among the ids of every one of them, so whichever comes farthest
//! (or to its end) has the fewest ids to look at, and its rows alone are read. Then all look on from there, eight times as
//! far each time, until the page is full.
//!
//! No statement here counts or skips rows, and none reads a table from end to end.

mod sql;

use async_trait::async_trait;

use self::sql::Maker;
use super::gram::Sought;
use super::listed::{self, Key, Listed, Rows};
use super::{Filter, MinDuration, Page, Scope, StoreError, row};
use crate::dashboard::job::{Job, JobId, State};

/// How many ids the first walk of each index has at most, and how much longer every next one is.
const FIRST_WALK: i64 = 2048;
const LONGER: i64 = 8;
/// How many ids the first walk has at least where a text alone is wanted.
const SHORT_WALK: i64 = 256;
/// Finding a text in PostgreSQL's index over texts takes about as long as reading one row of so many of all that there
/// are: where another index has no more left than that, it is walked instead.
const TEXT_SHARE: i64 = 64;
/// The most rows that are read instead, in either database.
const TEXT_WALK: i64 = 4096;
/// Up to so many ids that another index has left are compared with those that the text's index finds, before rows are
/// read.
const TEXT_IDS: i64 = 32_768;
/// From how many characters on a text can be the beginning of an id: these eight tell 8 ms of creation apart.
const ID_CHARACTERS: usize = 8;

/// The columns of a job's row, in the order in which [`super::row::job`] reads them.
macro_rules! columns {
    ($table:literal) => {
        concat!(
            $table,
            ".id, ",
            $table,
            ".name, ",
            $table,
            ".owner, ",
            $table,
            ".state, ",
            $table,
            ".reason, ",
            $table,
            ".message, ",
            $table,
            ".template, ",
            $table,
            ".labels, ",
            $table,
            ".parent, ",
            $table,
            ".created_ms, ",
            $table,
            ".started_ms, ",
            $table,
            ".finished_ms, ",
            $table,
            ".exit_code, ",
            $table,
            ".attempts, ",
            $table,
            ".cancelling, ",
            $table,
            ".log_complete, ",
            $table,
            ".version"
        )
    };
}
pub(super) use columns;

/// A value that is bound to a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bind {
    Number(i64),
    State(i16),
    Text(String),
    Numbers(Vec<i32>),
}

/// A statement and its values. Its text is made of constants alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) binds: Vec<Bind>,
    /// The database can run it in one way alone, whatever the values: it need not be planned for them.
    pub(super) has_one_plan: bool,
}

/// What the databases write differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// How far a walk comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// The oldest id of the walk.
    pub(super) oldest: Option<i64>,
    /// How many ids it has.
    pub(super) ids: i64,
}

/// A database that is asked.
#[async_trait]
pub(super) trait Ask: Send {
    /// What it speaks.
    const DIALECT: Dialect;

    /// Returns the jobs of a statement whose columns are [`columns`].
    async fn jobs(&mut self, statement: &Statement) -> Result<Vec<Job>, StoreError>;

    /// Returns which jobs [`Self::jobs`] would return, without reading more of them than that.
    async fn keys(&mut self, statement: &Statement) -> Result<Vec<Key>, StoreError>;

    /// Returns the jobs with these ids, as far as there are any.
    async fn with_ids(&mut self, ids: Vec<i64>) -> Result<Vec<Job>, StoreError>;

    /// Returns how many jobs there are, everybody's and in every state.
    async fn size(&mut self) -> Result<i64, StoreError>;

    /// Returns the one row of a statement that asks how far a walk comes.
    async fn reach(&mut self, statement: Statement) -> Result<Reach, StoreError>;
}

/// Returns a page of a list, newest first.
pub(super) async fn page<A: Ask>(
    database: &mut A,
    rows: &Rows,
    scope: &Scope,
    filter: &Filter,
    page: Page,
) -> Result<Vec<Listed>, StoreError> {
    let mut source = Source { database, rows };
    let Some(wanted) = Wanted::new(scope, filter, page) else {
        return Ok(Vec::new());
    };
    let Some(text) = filter.text.as_deref().filter(|text| !text.is_empty()) else {
        return find(&mut source, &wanted).await;
    };
    let mut jobs = find(&mut source, &wanted.clone().with_text(text)).await?;
    if let Some(by_id) = wanted.with_id(text) {
        jobs.extend(find(&mut source, &by_id).await?);
        jobs.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
        jobs.dedup_by_key(|job| job.id);
        jobs.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
    }
    Ok(jobs)
}

/// What a list is to show.
#[derive(Debug, Clone)]
struct Wanted {
    /// Ids from this one on.
    from: i64,
    /// Ids below this one.
    below: i64,
    owner: Option<String>,
    /// One of these; none of them means any.
    states: Vec<State>,
    template: Option<String>,
    labels: Vec<(String, String)>,
    min_duration: Option<MinDuration>,
    text: Option<Text>,
    limit: i64,
}

#[derive(Debug, Clone)]
struct Text {
    /// The pattern of LIKE.
    pattern: String,
    sought: Sought,
}

impl Wanted {
    /// Returns nothing where no job can be wanted.
    fn new(scope: &Scope, filter: &Filter, page: Page) -> Option<Self> {
        let owner = match (scope, &filter.owner) {
            (Scope::All, owner) => owner.clone(),
            (Scope::Owner(own), Some(other)) if own != other => return None,
            (Scope::Owner(own), _) => Some(own.clone()),
        };
        let parameters = filter.parameters.iter();
        let parameters = parameters.map(|(name, value)| (row::parameter(name), value.clone()));
        let labels: Vec<(String, String)> = filter.labels.clone().into_iter().chain(parameters).collect();
        // No stored text has this character, and PostgreSQL takes no text with it.
        let has_it = |text: &String| text.contains('\0');
        if [&owner, &filter.template, &filter.text]
            .into_iter()
            .flatten()
            .any(has_it)
            || labels.iter().any(|(name, value)| has_it(name) || has_it(value))
        {
            return None;
        }
        let mut states = filter.states.clone();
        states.sort_unstable();
        states.dedup();
        if states.len() == State::ALL.len() {
            states.clear();
        }
        let from = filter.since_ms.map_or(0, |since| at(since).number());
        let until = filter.until_ms.map_or(i64::MAX, |until| at(until).number());
        let below = page.after.map_or(until, |after| after.number().min(until));
        (from < below && page.limit > 0).then_some(Self {
            from,
            below,
            owner,
            states,
            template: filter.template.clone(),
            labels,
            min_duration: filter.min_duration,
            text: None,
            limit: page.limit.into(),
        })
    }

    fn with_text(mut self, text: &str) -> Self {
        self.text = Some(Text {
            pattern: pattern(text),
            sought: Sought::new(text),
        });
        self
    }

    /// Narrows it to ids that begin with a text; nothing where the text is the beginning of none.
    fn with_id(mut self, text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if text.len() < ID_CHARACTERS {
            return None;
        }
        // Also the first id after those: the last one that begins so, and one more.
        let first: JobId = format!("{text:0<13}").parse().ok()?;
        let last: JobId = format!("{text:z<13}").parse().ok()?;
        self.from = self.from.max(first.number());
        self.below = self.below.min(last.number().saturating_add(1));
        (self.from < self.below).then_some(self)
    }

    /// Returns the indexes that could lead.
    fn leads(&self) -> Vec<Lead> {
        let mut leads = Vec::new();
        // Of states alone there is more than of a template's in these states.
        if self.owner.is_some() || (!self.states.is_empty() && self.template.is_none()) {
            leads.push(Lead::OwnerState);
        }
        leads.extend((0..self.labels.len()).map(Lead::Label));
        if self.template.is_some() {
            leads.push(Lead::Template);
        }
        if self.min_duration.is_some() {
            leads.push(Lead::Long);
        }
        if leads.is_empty() {
            leads.push(Lead::All);
        }
        if self.text.is_some() {
            leads.push(Lead::Text);
        }
        leads
    }
}

/// Returns the first id of a time that a stranger may have given.
fn at(ms: i64) -> JobId {
    JobId::at(ms.clamp(0, i64::from(u32::MAX) * 1000))
}

/// Returns the pattern of LIKE for names that contain a text, with `\` as the escape character.
fn pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// The index that is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    All,
    OwnerState,
    Label(usize),
    Template,
    /// How long jobs ran.
    Long,
    Text,
}

impl Lead {
    /// Returns whether the index is one of the table of jobs.
    fn is_of_jobs(self) -> bool {
        matches!(self, Self::All | Self::OwnerState | Self::Template | Self::Long)
    }

    /// Returns whether the index answers which states are wanted.
    fn has_states(self) -> bool {
        matches!(self, Self::OwnerState | Self::Template)
    }
}

/// The next part of a walk along an index.
#[derive(Debug, Clone, Copy)]
struct Part {
    lead: Lead,
    /// It has so many ids, and then it ends or not.
    ids: i64,
    ends: bool,
    /// Its oldest id; where it ends, the oldest one that is wanted.
    oldest: i64,
}

impl Part {
    /// Returns whether fewer rows have to be read than along another one.
    fn beats(&self, other: &Self) -> bool {
        match (self.ends, other.ends) {
            (true, true) => self.ids < other.ids,
            (false, false) => self.oldest < other.oldest,
            (ends, _) => ends,
        }
    }
}

/// A database, and what was read of it lately.
struct Source<'a, A> {
    database: &'a mut A,
    rows: &'a Rows,
}

impl<A: Ask> Source<'_, A> {
    /// Returns how many jobs there are, or were a moment ago.
    async fn size(&mut self) -> Result<i64, StoreError> {
        if let Some(size) = self.rows.size() {
            return Ok(size);
        }
        let size = self.database.size().await?;
        self.rows.keep_size(size);
        Ok(size)
    }

    /// Returns the jobs of a statement, newest first; `limit` is how many it has at most.
    async fn jobs(&mut self, statement: &Statement, limit: i64) -> Result<Vec<Listed>, StoreError> {
        if limit > listed::PAGE {
            let jobs = self.database.jobs(statement).await?;
            return Ok(jobs.into_iter().map(Listed::new).collect());
        }
        let keys = self.database.keys(statement).await?;
        let (mut found, missing) = self.rows.known(&keys);
        if missing.is_empty() {
            return Ok(found);
        }
        let read = self.database.with_ids(missing).await?;
        let read: Vec<Listed> = read.into_iter().map(Listed::new).collect();
        self.rows.keep(&read);
        found.extend(read);
        found.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
        let is_as_said = |(job, key): (&Listed, &Key)| job.id == key.id && job.version == key.version;
        if found.len() == keys.len() && found.iter().zip(&keys).all(is_as_said) {
            return Ok(found);
        }
        // One of them was changed or deleted between the two statements: it may not belong here any more.
        let jobs = self.database.jobs(statement).await?;
        Ok(jobs.into_iter().map(Listed::new).collect())
    }
}

async fn find<A: Ask>(source: &mut Source<'_, A>, wanted: &Wanted) -> Result<Vec<Listed>, StoreError> {
    let leads = wanted.leads();
    if let [lead] = leads[..] {
        let maker = Maker::new(A::DIALECT, wanted, lead, wanted.from, wanted.below);
        if !maker.has_rest() {
            let statement = maker.jobs(wanted.limit, Some(wanted.limit));
            return source.jobs(&statement, wanted.limit).await;
        }
    }
    let text_alone = wanted.text.as_ref().filter(|_| leads == [Lead::All, Lead::Text]);
    if let Some(text) = text_alone
        && source.rows.is_rare(&text.pattern)
    {
        let maker = Maker::new(A::DIALECT, wanted, Lead::Text, wanted.from, wanted.below);
        return source.jobs(&maker.jobs(wanted.limit, None), wanted.limit).await;
    }
    let mut found = Vec::new();
    let mut below = wanted.below;
    let mut length = FIRST_WALK.max(wanted.limit * 16);
    if text_alone.is_some() {
        // What is not in these is in so few names that the text's index finds them soon; the fewer jobs there are, the
        // sooner.
        let most = (source.size().await? * 16).isqrt();
        length = length.min(most.max(SHORT_WALK).max(wanted.limit * 4));
    }
    loop {
        let mut best: Option<Part> = None;
        for lead in leads.iter().copied() {
            // Looking along a text takes about as long as going: where another comes to its end, or has not been walked
            // at all, nobody asks it, and often the page is full by then.
            let best_ends = best.is_some_and(|best| best.ends);
            if lead == Lead::Text && (A::DIALECT == Dialect::Postgres || best_ends || below == wanted.below) {
                continue;
            }
            // Whoever does not end before the shortest that ends is not it.
            let length = best.filter(|best| best.ends).map_or(length, |best| best.ids.max(1));
            let part = look(source.database, wanted, lead, below, length).await?;
            if best.is_none_or(|best| part.beats(&best)) {
                best = Some(part);
            }
        }
        // There is always one: a text is never alone.
        let Some(part) = best else { return Ok(found) };
        let left = wanted.limit - i64::try_from(found.len()).unwrap_or(i64::MAX);
        let mut maker = Maker::new(A::DIALECT, wanted, part.lead, part.oldest, below);
        // The rows before had the text too seldom for a page, so its index finds fewer than there are to be read here.
        let is_beside_text = wanted.text.is_some() && !matches!(part.lead, Lead::Text | Lead::All);
        if A::DIALECT == Dialect::Sqlite && is_beside_text && part.ends && part.ids > TEXT_WALK {
            maker = maker.with_text();
        }
        found.extend(source.jobs(&maker.jobs(left, Some(length)), left).await?);
        if part.ends || i64::try_from(found.len()).is_ok_and(|found| found >= wanted.limit) {
            return Ok(found);
        }
        below = part.oldest;
        length *= LONGER;
        // SQLite's index over texts is in order, and stops when the page is full. Nearly all that it finds is wanted where
        // nothing else is asked for, so nobody needs to know how far it comes, which is to walk it to its end.
        if A::DIALECT == Dialect::Sqlite
            && let Some(text) = text_alone
        {
            source.rows.keep_rare(&text.pattern);
            let left = wanted.limit - i64::try_from(found.len()).unwrap_or(i64::MAX);
            let maker = Maker::new(A::DIALECT, wanted, Lead::Text, wanted.from, below);
            found.extend(source.jobs(&maker.jobs(left, None), left).await?);
            return Ok(found);
        }
        // PostgreSQL's index over texts has no order: what it finds, it finds at once. By now it is known that the text is
        // not in every name; but it can be in so many that another index has less left.
        if A::DIALECT == Dialect::Postgres && wanted.text.is_some() {
            let mut best: Option<Part> = None;
            let walk = (source.size().await? / TEXT_SHARE).clamp(1, TEXT_WALK);
            for lead in leads.iter().copied().filter(|lead| *lead != Lead::Text) {
                // What a text's index finds is among all jobs in any case.
                let most = if lead == Lead::All { walk } else { TEXT_IDS };
                let length = best.map_or(most, |best| best.ids.max(1));
                let part = look(source.database, wanted, lead, below, length).await?;
                if part.ends {
                    best = Some(part);
                }
            }
            let left = wanted.limit - i64::try_from(found.len()).unwrap_or(i64::MAX);
            let maker = |lead| Maker::new(A::DIALECT, wanted, lead, wanted.from, below);
            let statement = match best {
                Some(best) if best.ids < walk => maker(best.lead).jobs(left, Some(best.ids + 1)),
                Some(best) => maker(best.lead).with_text().jobs(left, Some(best.ids + 1)),
                None => {
                    if let Some(text) = text_alone {
                        source.rows.keep_rare(&text.pattern);
                    }
                    maker(Lead::Text).jobs(left, None)
                }
            };
            found.extend(source.jobs(&statement, left).await?);
            return Ok(found);
        }
    }
}

/// Asks how far the next so many ids of an index come.
async fn look<A: Ask>(
    database: &mut A,
    wanted: &Wanted,
    lead: Lead,
    below: i64,
    length: i64,
) -> Result<Part, StoreError> {
    let maker = Maker::new(A::DIALECT, wanted, lead, wanted.from, below);
    let reach = database.reach(maker.reach(length)).await?;
    let ends = reach.ids < length;
    Ok(Part {
        lead,
        ids: reach.ids,
        ends,
        oldest: reach.oldest.filter(|_| !ends).unwrap_or(wanted.from),
    })
}

/// Returns every statement that a list may make, for tests that look at their plans.
pub(super) fn statements(dialect: Dialect, scope: &Scope, filter: &Filter) -> Vec<Statement> {
    let page = Page {
        after: JobId::from_number(i64::MAX),
        limit: 50,
    };
    let Some(mut wanted) = Wanted::new(scope, filter, page) else {
        return Vec::new();
    };
    if let Some(text) = &filter.text {
        wanted = wanted.with_text(text);
    }
    let maker = |lead| Maker::new(dialect, &wanted, lead, 1 << 40, 1 << 60);
    let leads = wanted.leads().into_iter();
    let beside = |lead: &Lead| wanted.text.is_some() && !matches!(lead, Lead::Text | Lead::All);
    let leads_beside_a_text: Vec<Lead> = leads.clone().filter(beside).collect();
    leads
        .flat_map(|lead| {
            [
                maker(lead).jobs(50, Some(50)),
                maker(lead).jobs(50, Some(2048)),
                maker(lead).reach(2048),
            ]
        })
        .chain(
            leads_beside_a_text
                .into_iter()
                .map(|lead| maker(lead).with_text().jobs(50, Some(2048))),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(filter: &Filter) -> Wanted {
        let page = Page { after: None, limit: 50 };
        let wanted = Wanted::new(&Scope::All, filter, page).expect("something is wanted");
        match &filter.text {
            Some(text) => wanted.with_text(text),
            None => wanted,
        }
    }

    #[test]
    fn what_a_user_writes_is_bound_and_never_part_of_a_statement() {
        let evil = "x' OR \"1\"=1 --%_\\";
        let filter = Filter {
            states: vec![State::Failed, State::Running],
            owner: Some(evil.into()),
            labels: [(evil.to_owned(), evil.to_owned()), ("a".into(), "b".into())].into(),
            text: Some(evil.into()),
            template: Some(evil.into()),
            min_duration: Some(MinDuration { ms: 5000, now_ms: 9 }),
            ..Filter::default()
        };
        let wanted = wanted(&filter);
        for dialect in [Dialect::Sqlite, Dialect::Postgres] {
            for lead in wanted.leads().into_iter().chain([Lead::All]) {
                for statement in [
                    Maker::new(dialect, &wanted, lead, 0, 9).jobs(5, Some(7)),
                    Maker::new(dialect, &wanted, lead, 0, 9).reach(7),
                ] {
                    assert!(
                        !statement.sql.contains("1\"=1") && !statement.sql.contains("--"),
                        "{}",
                        statement.sql
                    );
                    let marks = statement.sql.matches(['?', '$']).count();
                    assert_eq!(marks, statement.binds.len(), "{}", statement.sql);
                }
            }
        }
    }

    #[test]
    fn wildcards_of_like_mean_themselves() {
        assert_eq!(pattern(r"a_b%c\d"), r"%a\_b\%c\\d%");
    }

    #[test]
    fn times_of_any_size_are_ranges() {
        for (since, until) in [(i64::MIN, i64::MAX), (-1, 1 << 60), (0, i64::MAX)] {
            let filter = Filter {
                since_ms: Some(since),
                until_ms: Some(until),
                ..Filter::default()
            };
            assert_eq!(wanted(&filter).from, 0);
        }
        let nothing = Filter {
            since_ms: Some(5),
            until_ms: Some(5),
            ..Filter::default()
        };
        let page = Page { after: None, limit: 50 };
        assert!(Wanted::new(&Scope::All, &nothing, page).is_none());
    }

    #[test]
    fn an_id_is_found_by_its_beginning() {
        let id = JobId::after(None, 1_800_000_000_000, 12_345);
        let all = wanted(&Filter::default());
        for length in ID_CHARACTERS..=13 {
            let text = id.to_string()[..length].to_uppercase();
            let range = all.clone().with_id(&text).expect("the beginning of an id");
            assert!((range.from..range.below).contains(&id.number()), "{text}");
        }
        assert!(all.clone().with_id(&id.to_string()[..7]).is_none(), "too many begin so");
        assert!(all.clone().with_id("nightly-build").is_none());
        assert!(all.with_id("zzzzzzzzzzzzz").is_none(), "larger than every id");
    }
}
