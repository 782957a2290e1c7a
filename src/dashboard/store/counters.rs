//! Counters, and what counting finds.
//!
//! Counters change with the rows that they count, so they agree with them unless somebody changed the database by hand,
//! restored a part of it, or there is a bug. How far they are off does not change while others write, so it may be found
//! beside them and put right afterwards.

/// Where counters and rows disagree: 0 and the owner, or 1 for everybody together; the state; by how much. All in one
/// statement, which sees the rows and their counters as they are at one moment.
pub(super) const DRIFT: &str = "WITH truth AS MATERIALIZED (
        SELECT owner, state, count(*) AS n FROM jobs GROUP BY owner, state
    )
    SELECT c.everybody, c.owner, c.state, CAST(sum(c.n) AS bigint) FROM (
        SELECT 0 AS everybody, owner, state, n FROM job_counts
        UNION ALL SELECT 0, owner, state, -n FROM truth
        UNION ALL SELECT 1, '', state, n FROM job_totals
        UNION ALL SELECT 1, '', state, -n FROM truth
    ) c GROUP BY c.everybody, c.owner, c.state HAVING sum(c.n) <> 0";
