//! How a page of a list is found: the same for both databases.
//!
//! Every condition that has an index (owner and state, a label, a template, a text) could lead: its ids are walked from
//! the newest on, and the row of each is asked for the other conditions. Which one leads is not guessed from statistics,
//! which are wrong when it matters. Where there are several, each in turn walks a number of ids, then eight times as
//! many, until one has filled the page or has come to its end: that costs little more than the best of them alone.
//!
//! No statement here counts or skips rows, and none reads a table from end to end.

use async_trait::async_trait;

use super::gram::Sought;
use super::{Filter, Page, Scope, StoreError};
use crate::dashboard::job::{Job, JobId, State};

/// How many ids the first walk of each index has at most, and how much longer every next one is.
const FIRST_WALK: i64 = 2048;
const LONGER: i64 = 8;
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

    /// Returns jobs whose columns are [`columns`].
    async fn jobs(&mut self, statement: Statement) -> Result<Vec<Job>, StoreError>;

    /// Returns the one row of a statement that asks how far a walk comes.
    async fn reach(&mut self, statement: Statement) -> Result<Reach, StoreError>;
}

/// Returns a page of a list, newest first.
pub(super) async fn page<A: Ask>(
    database: &mut A,
    scope: &Scope,
    filter: &Filter,
    page: Page,
) -> Result<Vec<Job>, StoreError> {
    let Some(wanted) = Wanted::new(scope, filter, page) else {
        return Ok(Vec::new());
    };
    let Some(text) = filter.text.as_deref().filter(|text| !text.is_empty()) else {
        return find(database, &wanted).await;
    };
    let mut jobs = find(database, &wanted.clone().with_text(text)).await?;
    if let Some(by_id) = wanted.with_id(text) {
        jobs.extend(find(database, &by_id).await?);
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
        // No stored text has this character, and PostgreSQL takes no text with it.
        let texts = [&owner, &filter.template, &filter.text].into_iter().flatten();
        let labels = filter.labels.iter().flat_map(|(name, value)| [name, value]);
        if texts.chain(labels).any(|text| text.contains('\0')) {
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
            labels: filter.labels.clone().into_iter().collect(),
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
        if self.owner.is_some() || !self.states.is_empty() {
            leads.push(Lead::OwnerState);
        }
        leads.extend((0..self.labels.len()).map(Lead::Label));
        if self.template.is_some() {
            leads.push(Lead::Template);
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
    Text,
}

impl Lead {
    /// Returns whether the index is one of the table of jobs.
    fn is_of_jobs(self) -> bool {
        matches!(self, Self::All | Self::OwnerState | Self::Template)
    }
}

/// Where a walk along an index is.
struct Walk {
    lead: Lead,
    /// It goes on below this id.
    below: i64,
    found: Vec<Job>,
}

async fn find<A: Ask>(database: &mut A, wanted: &Wanted) -> Result<Vec<Job>, StoreError> {
    let leads = wanted.leads();
    if let [lead] = leads[..] {
        let maker = Maker::new(A::DIALECT, wanted, lead, wanted.from, wanted.below);
        if !maker.has_rest() {
            return database.jobs(maker.jobs(wanted.limit, Some(wanted.limit))).await;
        }
    }
    let mut walks: Vec<Walk> = leads
        .into_iter()
        .map(|lead| Walk {
            lead,
            below: wanted.below,
            found: Vec::new(),
        })
        .collect();
    let mut length = FIRST_WALK.max(wanted.limit * 16);
    loop {
        for walk in &mut walks {
            let left = wanted.limit - i64::try_from(walk.found.len()).unwrap_or(i64::MAX);
            let mut from = wanted.from;
            let mut ended = true;
            let mut ids = None;
            // PostgreSQL's index over texts has no order: what it finds is found at once. It is the last one asked, so
            // by then it is known not to be much.
            if !(A::DIALECT == Dialect::Postgres && walk.lead == Lead::Text) {
                ids = Some(length);
                let maker = Maker::new(A::DIALECT, wanted, walk.lead, wanted.from, walk.below);
                let reach = database.reach(maker.reach(length)).await?;
                if let Some(oldest) = reach.oldest.filter(|_| reach.ids >= length) {
                    (from, ended) = (oldest, false);
                }
            }
            let maker = Maker::new(A::DIALECT, wanted, walk.lead, from, walk.below);
            walk.found.extend(database.jobs(maker.jobs(left, ids)).await?);
            walk.below = from;
            if ended || i64::try_from(walk.found.len()).is_ok_and(|found| found >= wanted.limit) {
                return Ok(std::mem::take(&mut walk.found));
            }
        }
        length *= LONGER;
    }
}

/// Makes statements for one walk.
struct Maker<'a> {
    dialect: Dialect,
    wanted: &'a Wanted,
    lead: Lead,
    from: i64,
    below: i64,
    /// The walk has whole rows, not only their ids.
    whole: bool,
    sql: String,
    binds: Vec<Bind>,
}

impl<'a> Maker<'a> {
    fn new(dialect: Dialect, wanted: &'a Wanted, lead: Lead, from: i64, below: i64) -> Self {
        Self {
            dialect,
            wanted,
            lead,
            from,
            below,
            whole: false,
            sql: String::new(),
            binds: Vec::new(),
        }
    }

    /// Returns whether rows have to be asked for conditions that the index does not answer.
    fn has_rest(&self) -> bool {
        let wanted = self.wanted;
        wanted.text.is_some()
            || (self.lead != Lead::OwnerState && (wanted.owner.is_some() || !wanted.states.is_empty()))
            || (self.lead != Lead::Template && wanted.template.is_some())
            || (0..wanted.labels.len()).any(|place| self.lead != Lead::Label(place))
    }

    /// Asks for the jobs of the walk that meet all conditions, the newest `limit` of them; `ids` says how many ids the
    /// walk has at most, where that is known.
    fn jobs(mut self, limit: i64, ids: Option<i64>) -> Statement {
        // PostgreSQL has the row at hand when it has its entry of an index, and the walk's own limit keeps it from turning
        // other conditions into another walk.
        self.whole = self.dialect == Dialect::Postgres && self.lead.is_of_jobs() && ids.is_some();
        self.push("SELECT ");
        if self.whole {
            self.push(columns!("d"));
            self.push(" FROM (");
            self.ids(ids);
            self.push(") d WHERE true");
        } else {
            // Where SQLite can put the walk and the rows into one loop, it comes out in order and ends when it may; a
            // limit within would keep it from that. Several states it merges only where there is one.
            let merges = self.lead == Lead::OwnerState && self.wanted.states.len() > 1;
            let ids = ids.filter(|_| self.dialect == Dialect::Postgres || merges);
            self.push(columns!("j"));
            self.push(" FROM (");
            self.ids(ids);
            self.push(match self.dialect {
                // CROSS JOIN keeps SQLite from turning the tables around.
                Dialect::Sqlite => ") d CROSS JOIN jobs j ON j.id = d.id WHERE true",
                Dialect::Postgres => ") d JOIN jobs j ON j.id = d.id WHERE true",
            });
        }
        self.rest();
        self.push(" ORDER BY d.id DESC LIMIT ");
        self.bind(Bind::Number(limit));
        self.statement()
    }

    /// Asks how far a walk over so many ids comes.
    fn reach(mut self, length: i64) -> Statement {
        self.push("SELECT min(d.id), count(*) FROM (");
        self.ids(Some(length));
        self.push(") d");
        self.statement()
    }

    fn statement(self) -> Statement {
        Statement {
            sql: self.sql,
            binds: self.binds,
        }
    }

    fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    fn bind(&mut self, bind: Bind) {
        self.binds.push(bind);
        match self.dialect {
            Dialect::Sqlite => self.sql.push('?'),
            Dialect::Postgres => {
                self.sql.push('$');
                self.sql.push_str(&self.binds.len().to_string());
            }
        }
    }

    /// Writes the ids of the walk, newest first.
    fn ids(&mut self, limit: Option<i64>) {
        let wanted = self.wanted;
        match self.lead {
            Lead::All => self.walk("jobs", "", &[], limit),
            Lead::Template => {
                let template = Bind::Text(wanted.template.clone().unwrap_or_default());
                self.walk("jobs", "jobs_template", &[("template", template)], limit);
            }
            Lead::Label(place) => {
                let (name, value) = wanted.labels[place].clone();
                self.walk(
                    "job_labels",
                    "",
                    &[("name", Bind::Text(name)), ("value", Bind::Text(value))],
                    limit,
                );
            }
            Lead::OwnerState => self.owner_state(limit),
            Lead::Text => self.text(limit),
        }
    }

    fn owner_state(&mut self, limit: Option<i64>) {
        let wanted = self.wanted;
        let owner = wanted.owner.clone().map(|owner| ("owner", Bind::Text(owner)));
        if let (Some(owner), []) = (&owner, &wanted.states[..]) {
            return self.walk("jobs", "jobs_owner", std::slice::from_ref(owner), limit);
        }
        let index = if owner.is_some() {
            "jobs_owner_state"
        } else {
            "jobs_state"
        };
        let arms: Vec<Vec<(&str, Bind)>> = wanted
            .states
            .iter()
            .map(|state| {
                owner
                    .iter()
                    .cloned()
                    .chain([("state", Bind::State(state.number()))])
                    .collect()
            })
            .collect();
        if let [equal] = &arms[..] {
            return self.walk("jobs", index, equal, limit);
        }
        // Each state is ordered by itself, and the database merges them: SQLite where all are told to be ordered at their
        // end alone, PostgreSQL where each is.
        for (place, equal) in arms.iter().enumerate() {
            self.push(if place > 0 { " UNION ALL " } else { "" });
            if self.dialect == Dialect::Sqlite {
                self.entries("jobs", index, equal);
                continue;
            }
            self.push("SELECT ");
            self.push(if self.whole { columns!("a") } else { "a.id" });
            self.push(" FROM (");
            self.walk("jobs", index, equal, limit);
            self.push(") a");
        }
        self.push(" ORDER BY id DESC");
        self.limit(limit);
    }

    fn text(&mut self, limit: Option<i64>) {
        let Some(text) = &self.wanted.text else { return };
        match self.dialect {
            Dialect::Sqlite => {
                self.push("SELECT rowid AS id FROM job_names WHERE job_names MATCH ");
                self.bind(Bind::Text(text.sought.fts5()));
                self.push(" AND rowid < ");
                self.bind(Bind::Number(self.below));
                self.push(" AND rowid >= ");
                self.bind(Bind::Number(self.from));
                self.push(" ORDER BY rowid DESC");
            }
            Dialect::Postgres => {
                let (all, numbers) = text.sought.numbers();
                // The range of ids stays outside, so that it tempts nobody to walk along it.
                self.push("WITH n AS MATERIALIZED (SELECT id FROM job_names WHERE grams ");
                self.push(if all { "@> " } else { "&& " });
                self.bind(Bind::Numbers(numbers));
                self.push(") SELECT m.id FROM n m WHERE m.id < ");
                self.bind(Bind::Number(self.below));
                self.push(" AND m.id >= ");
                self.bind(Bind::Number(self.from));
                self.push(" ORDER BY m.id DESC");
            }
        }
        self.limit(limit);
    }

    /// Writes a walk along an index whose columns have these values.
    fn walk(&mut self, table: &str, index: &str, equal: &[(&str, Bind)], limit: Option<i64>) {
        self.entries(table, index, equal);
        self.push(" ORDER BY id DESC");
        self.limit(limit);
    }

    /// Writes the entries of an index whose columns have these values.
    fn entries(&mut self, table: &str, index: &str, equal: &[(&str, Bind)]) {
        self.push("SELECT ");
        self.push(if self.whole { columns!("jobs") } else { "id" });
        self.push(" FROM ");
        self.push(table);
        if self.dialect == Dialect::Sqlite && !index.is_empty() {
            self.push(" INDEXED BY ");
            self.push(index);
        }
        self.push(" WHERE id < ");
        self.bind(Bind::Number(self.below));
        self.push(" AND id >= ");
        self.bind(Bind::Number(self.from));
        for (column, value) in equal {
            self.push(" AND ");
            self.push(column);
            self.push(" = ");
            self.bind(value.clone());
        }
    }

    fn limit(&mut self, limit: Option<i64>) {
        if let Some(limit) = limit {
            self.push(" LIMIT ");
            self.bind(Bind::Number(limit));
        }
    }

    /// Writes the conditions that the index does not answer.
    fn rest(&mut self) {
        let wanted = self.wanted;
        let row = if self.whole { "d" } else { "j" };
        // PostgreSQL is to look for a row by its id alone, and not along another index: no index is over these.
        let (owner, state, template) = match (self.dialect, self.whole) {
            (Dialect::Postgres, false) => ("j.owner || ''", "j.state + 0", "j.template || ''"),
            (Dialect::Postgres, true) => ("d.owner", "d.state", "d.template"),
            (Dialect::Sqlite, _) => ("j.owner", "j.state", "j.template"),
        };
        if self.lead != Lead::OwnerState {
            if let Some(wanted) = &wanted.owner {
                self.equal(owner, Bind::Text(wanted.clone()));
            }
            if let [first, others @ ..] = &wanted.states[..] {
                self.push(&format!(" AND {state} IN ("));
                self.bind(Bind::State(first.number()));
                for other in others {
                    self.push(", ");
                    self.bind(Bind::State(other.number()));
                }
                self.push(")");
            }
        }
        if self.lead != Lead::Template
            && let Some(wanted) = &wanted.template
        {
            self.equal(template, Bind::Text(wanted.clone()));
        }
        for (place, (name, value)) in wanted.labels.iter().enumerate() {
            if self.lead != Lead::Label(place) {
                // Not EXISTS, which either database may turn into a join of its own liking.
                self.push(" AND (SELECT true FROM job_labels l WHERE l.name = ");
                self.bind(Bind::Text(name.clone()));
                self.push(" AND l.value = ");
                self.bind(Bind::Text(value.clone()));
                self.push(&format!(" AND l.id = {row}.id LIMIT 1)"));
            }
        }
        if let Some(text) = &wanted.text {
            let like = match self.dialect {
                Dialect::Sqlite => "LIKE",
                Dialect::Postgres => "ILIKE",
            };
            self.push(&format!(" AND {row}.name {like} "));
            self.bind(Bind::Text(text.pattern.clone()));
            self.push(r" ESCAPE '\'");
        }
    }

    fn equal(&mut self, column: &str, value: Bind) {
        self.push(" AND ");
        self.push(column);
        self.push(" = ");
        self.bind(value);
    }
}

/// Returns every statement that a list may make, for tests that look at their plans.
#[cfg(test)]
pub(super) fn statements(dialect: Dialect, scope: &Scope, filter: &Filter) -> Vec<Statement> {
    let page = Page {
        after: JobId::from_number(i64::MAX),
        limit: 50,
    };
    let mut wanted = Wanted::new(scope, filter, page).expect("something is wanted");
    if let Some(text) = &filter.text {
        wanted = wanted.with_text(text);
    }
    let maker = |lead| Maker::new(dialect, &wanted, lead, 1 << 40, 1 << 60);
    let leads = wanted.leads().into_iter();
    leads
        .flat_map(|lead| {
            [
                maker(lead).jobs(50, Some(50)),
                maker(lead).jobs(50, Some(2048)),
                maker(lead).reach(2048),
            ]
        })
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
