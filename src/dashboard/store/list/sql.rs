//! The statements of one walk along an index, in what either database understands.

use super::{Bind, Dialect, Lead, Statement, Wanted, columns};
use crate::dashboard::job::State;

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
            || (0..wanted.labels.len()).any(|place| self.lead != Lead::Label(place))
    }

    /// Keeps to what a text's index finds as well: the ids of both are compared, and rows read where they are the same.
    /// For PostgreSQL, whose index over texts has no order.
    pub(super) fn with_text(mut self) -> Self {
        self.with_text = true;
        self
    }

    /// Returns whether PostgreSQL can run the statement in one way alone. A walk over several states it merges in one way
    /// or another, and how it finds texts depends on how often there are such.
    fn has_one_plan(&self) -> bool {
        let several = self.lead.has_states() && self.wanted.states.len() > 1;
        self.dialect == Dialect::Postgres && self.lead != Lead::Text && !several && !self.with_text
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
            let merges = self.lead.has_states() && self.wanted.states.len() > 1;
            let ids = ids.filter(|_| self.dialect == Dialect::Postgres || merges);
            self.push(columns!("j"));
            self.push(" FROM (");
            if self.with_text {
                self.push("SELECT w.id FROM (");
                self.ids(ids);
                self.push(") w INTERSECT ");
                self.found();
            } else {
                self.ids(ids);
            }
            self.push(match self.dialect {
                // CROSS JOIN keeps SQLite from turning the tables around.
                Dialect::Sqlite => ") d CROSS JOIN jobs j ON j.id = d.id WHERE true",
                Dialect::Postgres => ") d JOIN jobs j ON j.id = d.id WHERE true",
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
            Lead::Text => self.text(limit),
        }
    }

    fn owner_state(&mut self, limit: Option<i64>) {
        let owner: Vec<(&str, Bind)> = self
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
    fn states(&mut self, index: &str, with_states: &str, equal: &[(&str, Bind)], limit: Option<i64>) {
        let states = &self.wanted.states;
        if states.is_empty() {
            return self.walk("jobs", index, equal, limit);
        }
        let arm = |state: &State| {
            let state = ("state", Bind::State(state.number()));
            equal.iter().cloned().chain([state]).collect::<Vec<_>>()
        };
        let arms: Vec<_> = states.iter().map(arm).collect();
        if let [equal] = &arms[..] {
            return self.walk("jobs", with_states, equal, limit);
        }
        // Each state is ordered by itself, and the database merges them: SQLite where all are told to be ordered at their
        // end alone, PostgreSQL where each is.
        for (place, equal) in arms.iter().enumerate() {
            self.push(if place > 0 { " UNION ALL " } else { "" });
            if self.dialect == Dialect::Sqlite {
                self.entries("jobs", with_states, equal);
                continue;
            }
            self.push("SELECT ");
            self.push(if self.whole { columns!("a") } else { "a.id" });
            self.push(" FROM (");
            self.walk("jobs", with_states, equal, limit);
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
    fn walk(&mut self, table: &str, index: &str, equal: &[(&str, Bind)], limit: Option<i64>) {
        self.entries(table, index, equal);
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
    fn entries(&mut self, table: &str, index: &str, equal: &[(&str, Bind)]) {
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
        let row = if self.whole { "d" } else { "j" };
        // PostgreSQL is to look for a row by its id alone, and not along another index: no index is over these.
        let (owner, state, template) = match (self.dialect, self.whole) {
            (Dialect::Postgres, false) => ("j.owner || ''", "j.state + 0", "j.template || ''"),
            (_, true) => ("d.owner", "d.state", "d.template"),
            (Dialect::Sqlite, false) => ("j.owner", "j.state", "j.template"),
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
