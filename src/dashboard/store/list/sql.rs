//! The statements of one walk along an index, in what either database understands.

use super::{Bind, Dialect, Lead, Statement, Wanted, columns};
use crate::dashboard::job::State;

/// Jobs that have ended are found by how long they ran in classes: those that ran shorter than the first of these, in
/// milliseconds, those from it on and shorter than the second, and so on. The index `jobs_lasted` has these numbers.
const CLASSES_MS: [i64; 7] = [1000, 10_000, 60_000, 600_000, 3_600_000, 21_600_000, 86_400_000];
/// The class of a row, as the index has it.
const SQLITE_CLASS: &str = "((finished_ms - started_ms >= 1000) + (finished_ms - started_ms >= 10000) \
    + (finished_ms - started_ms >= 60000) + (finished_ms - started_ms >= 600000) \
    + (finished_ms - started_ms >= 3600000) + (finished_ms - started_ms >= 21600000) \
    + (finished_ms - started_ms >= 86400000))";
const POSTGRES_CLASS: &str = "width_bucket(finished_ms - started_ms, \
    '{1000,10000,60000,600000,3600000,21600000,86400000}'::bigint[])";

/// A part of an index.
struct Arm {
    index: &'static str,
    /// Its columns with the values that they have.
    equal: Vec<(&'static str, Bind)>,
    /// Of which rows the index is, where it is not of all.
    only: &'static str,
}

/// Makes statements for one walk.
pub(super) struct Maker<'a> {
    dialect: Dialect,
    wanted: &'a Wanted,
    lead: Lead,
    from: i64,
    below: i64,
    /// The walk has whole rows, not only their ids.
    whole: bool,
    /// Only those ids of the walk count that a text's index finds as well.
    with_text: bool,
    sql: String,
    binds: Vec<Bind>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(dialect: Dialect, wanted: &'a Wanted, lead: Lead, from: i64, below: i64) -> Self {
        Self {
            dialect,
            wanted,
            lead,
            from,
            below,
            whole: false,
            with_text: false,
            sql: String::new(),
            binds: Vec::new(),
        }
    }

    /// Returns whether rows have to be asked for conditions that the index does not answer.
    pub(super) fn has_rest(&self) -> bool {
        let wanted = self.wanted;
        wanted.text.is_some()
            || (self.lead != Lead::OwnerState && wanted.owner.is_some())
            || (!self.lead.has_states() && !wanted.states.is_empty())
            || (self.lead != Lead::Template && wanted.template.is_some())
            || wanted.min_duration.is_some()
            || (0..wanted.labels.len()).any(|place| self.lead != Lead::Label(place))
    }

    /// Keeps to what a text's index finds as well: the ids of both are compared, and rows read where they are the same.
    pub(super) fn with_text(mut self) -> Self {
        self.with_text = true;
        self
    }

    /// Returns whether the walk goes along several parts of an index.
    fn merges(&self) -> bool {
        self.lead == Lead::Long || self.lead.has_states() && self.wanted.states.len() > 1
    }

    /// Returns whether PostgreSQL can run the statement in one way alone. A walk over several states it merges in one way
    /// or another, and how it finds texts depends on how often there are such.
    fn has_one_plan(&self) -> bool {
        self.dialect == Dialect::Postgres && self.lead != Lead::Text && !self.merges() && !self.with_text
    }

    /// Asks for the jobs of the walk that meet all conditions, the newest `limit` of them; `ids` says how many ids the
    /// walk has at most, where that is known.
    pub(super) fn jobs(mut self, limit: i64, ids: Option<i64>) -> Statement {
        // PostgreSQL has the row at hand when it has its entry of an index, and the walk's own limit keeps it from turning
        // other conditions into another walk.
        self.whole = self.dialect == Dialect::Postgres && self.lead.is_of_jobs() && ids.is_some() && !self.with_text;
        self.push("SELECT ");
        if self.dialect == Dialect::Sqlite && self.lead == Lead::All {
            // There is no index to walk along: the rows themselves are in this order.
            self.whole = true;
            self.push(columns!("d"));
            self.push(" FROM jobs d NOT INDEXED WHERE d.id < ");
            self.bind(Bind::Number(self.below));
            self.push(" AND d.id >= ");
            self.bind(Bind::Number(self.from));
        } else if self.whole {
            self.push(columns!("d"));
            self.push(" FROM (");
            self.ids(ids);
            self.push(") d WHERE true");
        } else {
            // Where SQLite can put the walk and the rows into one loop, it comes out in order and ends when it may; a
            // limit within would keep it from that. Several states it merges only where there is one.
            let ids = ids.filter(|_| self.dialect == Dialect::Postgres || self.merges());
            self.push(columns!("j"));
            self.push(" FROM (");
            if self.with_text && self.dialect == Dialect::Postgres {
                self.push("SELECT i.id FROM (SELECT w.id FROM (");
                self.ids(ids);
                self.push(") w INTERSECT ");
                self.found();
                self.push(") i ORDER BY i.id DESC OFFSET 0");
            } else {
                self.ids(ids);
            }
            self.push(match self.dialect {
                // CROSS JOIN keeps SQLite from turning the tables around.
                Dialect::Sqlite => ") d CROSS JOIN jobs j ON j.id = d.id WHERE true",
                // Nor can PostgreSQL turn around what looks up one row for each.
                Dialect::Postgres => concat!(
                    ") d CROSS JOIN LATERAL (SELECT ",
                    columns!("jobs"),
                    " FROM jobs WHERE jobs.id = d.id LIMIT 1) j WHERE true"
                ),
            });
        }
        self.rest();
        self.push(" ORDER BY d.id DESC");
        self.limit(Some(limit));
        self.statement()
    }

    /// Asks how far a walk over so many ids comes.
    pub(super) fn reach(mut self, length: i64) -> Statement {
        self.push("SELECT min(d.id), count(*) FROM (");
        self.ids(Some(length));
        self.push(") d");
        self.statement()
    }

    fn statement(self) -> Statement {
        Statement {
            has_one_plan: self.has_one_plan(),
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
                self.states("jobs_template", "jobs_template_state", &[("template", template)], limit);
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
            Lead::Long => self.long(limit),
            Lead::Text => self.text(limit),
        }
    }

    fn owner_state(&mut self, limit: Option<i64>) {
        let owner: Vec<(&'static str, Bind)> = self
            .wanted
            .owner
            .iter()
            .map(|owner| ("owner", Bind::Text(owner.clone())))
            .collect();
        let with_states = if owner.is_empty() {
            "jobs_state"
        } else {
            "jobs_owner_state"
        };
        self.states("jobs_owner", with_states, &owner, limit);
    }

    /// Writes a walk along the entries of an index in the states that are wanted.
    fn states(
        &mut self,
        index: &'static str,
        with_states: &'static str,
        equal: &[(&'static str, Bind)],
        limit: Option<i64>,
    ) {
        let states = &self.wanted.states;
        if states.is_empty() {
            return self.walk("jobs", index, equal, limit);
        }
        let arm = |state: &State| {
            let state = ("state", Bind::State(state.number()));
            Arm {
                index: with_states,
                equal: equal.iter().cloned().chain([state]).collect(),
                only: "",
            }
        };
        let arms: Vec<_> = states.iter().map(arm).collect();
        if let [arm] = &arms[..] {
            return self.walk("jobs", with_states, &arm.equal, limit);
        }
        self.merge(&arms, limit);
    }

    /// Writes a walk along jobs that may have run so long: those of its length and of longer ones, and those that have
    /// not ended.
    fn long(&mut self, limit: Option<i64>) {
        let least = self.wanted.min_duration.map_or(0, |least| least.ms);
        let class = match self.dialect {
            Dialect::Sqlite => SQLITE_CLASS,
            Dialect::Postgres => POSTGRES_CLASS,
        };
        let shortest = CLASSES_MS.iter().filter(|ms| **ms <= least).count();
        let ended = (shortest..=CLASSES_MS.len()).map(|number| Arm {
            index: "jobs_lasted",
            equal: vec![(class, Bind::Number(i64::try_from(number).unwrap_or_default()))],
            only: "started_ms IS NOT NULL AND finished_ms IS NOT NULL",
        });
        let begun = Arm {
            index: "jobs_begun",
            equal: Vec::new(),
            only: "started_ms IS NOT NULL AND finished_ms IS NULL",
        };
        let arms: Vec<_> = ended.chain([begun]).collect();
        self.merge(&arms, limit);
    }

    /// Writes walks along several parts of indexes as one. Each is ordered by itself, and the database merges them: SQLite
    /// where all are told to be ordered at their end alone, PostgreSQL where each is.
    fn merge(&mut self, arms: &[Arm], limit: Option<i64>) {
        for (place, arm) in arms.iter().enumerate() {
            self.push(if place > 0 { " UNION ALL " } else { "" });
            if self.dialect == Dialect::Sqlite {
                self.entries("jobs", arm);
                continue;
            }
            self.push("SELECT ");
            self.push(if self.whole { columns!("a") } else { "a.id" });
            self.push(" FROM (");
            self.entries("jobs", arm);
            self.push(" ORDER BY id DESC");
            self.limit(limit);
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
                // The range of ids stays outside, so that it tempts nobody to walk along it.
                self.push("WITH n AS MATERIALIZED (");
                self.found();
                self.push(") SELECT m.id FROM n m WHERE m.id < ");
                self.bind(Bind::Number(self.below));
                self.push(" AND m.id >= ");
                self.bind(Bind::Number(self.from));
                self.push(" ORDER BY m.id DESC");
                // It is to be put in order before rows are looked up, of which a page is enough.
                self.push(if limit.is_none() { " OFFSET 0" } else { "" });
            }
        }
        self.limit(limit);
    }

    /// Writes the ids that PostgreSQL's index over texts finds, in no order.
    fn found(&mut self) {
        let Some(text) = &self.wanted.text else { return };
        let (all, numbers) = text.sought.numbers();
        self.push("SELECT id FROM job_names WHERE grams ");
        self.push(if all { "@> " } else { "&& " });
        self.bind(Bind::Numbers(numbers));
    }

    /// Writes a walk along an index whose columns have these values.
    fn walk(&mut self, table: &str, index: &'static str, equal: &[(&'static str, Bind)], limit: Option<i64>) {
        let arm = Arm {
            index,
            equal: equal.to_vec(),
            only: "",
        };
        self.entries(table, &arm);
        self.push(" ORDER BY ");
        if self.compares_rows(table) {
            for (column, _) in equal {
                self.push(column);
                self.push(" DESC, ");
            }
        }
        self.push("id DESC");
        self.limit(limit);
    }

    /// Returns whether a walk is written as a range of whole entries of its index, which no other index has in that
    /// order: a plan that is made once could take another one where a column were said to be equal to a value.
    fn compares_rows(&self, table: &str) -> bool {
        table == "jobs" && self.has_one_plan()
    }

    /// Writes the entries of an index whose columns have these values.
    fn entries(&mut self, table: &str, arm: &Arm) {
        let Arm { index, equal, only } = arm;
        self.push("SELECT ");
        self.push(if self.whole { columns!("jobs") } else { "id" });
        self.push(" FROM ");
        self.push(table);
        if self.dialect == Dialect::Sqlite && !index.is_empty() {
            self.push(" INDEXED BY ");
            self.push(index);
        }
        self.push(" WHERE ");
        if self.compares_rows(table) && !equal.is_empty() {
            for (place, (sign, id)) in [("<", self.below), (">=", self.from)].into_iter().enumerate() {
                self.push(if place > 0 { " AND (" } else { "(" });
                for (column, _) in equal {
                    self.push(column);
                    self.push(", ");
                }
                self.push("id) ");
                self.push(sign);
                self.push(" (");
                for (_, value) in equal {
                    self.bind(value.clone());
                    self.push(", ");
                }
                self.bind(Bind::Number(id));
                self.push(")");
            }
            if index.starts_with("jobs_template") {
                // It has only the jobs that have one, and the database does not see that these do.
                self.push(" AND template IS NOT NULL");
            }
            return;
        }
        self.push("id < ");
        self.bind(Bind::Number(self.below));
        self.push(" AND id >= ");
        self.bind(Bind::Number(self.from));
        for (column, value) in equal {
            self.push(" AND ");
            self.push(column);
            self.push(" = ");
            self.bind(value.clone());
        }
        if !only.is_empty() {
            self.push(" AND ");
            self.push(only);
        }
    }

    fn limit(&mut self, limit: Option<i64>) {
        if let Some(limit) = limit {
            self.push(match self.dialect {
                // SQLite plans a statement anew for each value of a bare `?` here and after LIKE, and that takes longer
                // than the walk. The plan is the same one; a test holds it to that.
                Dialect::Sqlite => " LIMIT +",
                Dialect::Postgres => " LIMIT ",
            });
            self.bind(Bind::Number(limit));
        }
    }

    /// Writes the conditions that the index does not answer.
    fn rest(&mut self) {
        let wanted = self.wanted;
        if self.with_text && self.dialect == Dialect::Sqlite {
            // They are put into a table once, and looked for there before a row is read.
            self.push(" AND d.id IN (");
            self.text(None);
            self.push(")");
        }
        let row = if self.whole { "d" } else { "j" };
        let (owner, state, template) = if self.whole {
            ("d.owner", "d.state", "d.template")
        } else {
            ("j.owner", "j.state", "j.template")
        };
        if self.lead != Lead::OwnerState
            && let Some(wanted) = &wanted.owner
        {
            self.equal(owner, Bind::Text(wanted.clone()));
        }
        if !self.lead.has_states()
            && let [first, others @ ..] = &wanted.states[..]
        {
            self.push(&format!(" AND {state} IN ("));
            self.bind(Bind::State(first.number()));
            for other in others {
                self.push(", ");
                self.bind(Bind::State(other.number()));
            }
            self.push(")");
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
        if let Some(least) = wanted.min_duration {
            self.push(&format!(" AND coalesce({row}.finished_ms, "));
            self.bind(Bind::Number(least.now_ms));
            self.push(&format!(") - {row}.started_ms >= "));
            self.bind(Bind::Number(least.ms));
        }
        if let Some(text) = &wanted.text {
            let like = match self.dialect {
                Dialect::Sqlite => "LIKE +",
                Dialect::Postgres => "ILIKE ",
            };
            self.push(&format!(" AND {row}.name {like}"));
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
