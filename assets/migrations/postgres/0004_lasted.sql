-- no-transaction
-- Jobs by how long they ran, in classes; `store::list::sql` has the same numbers.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_lasted
    ON jobs (width_bucket(finished_ms - started_ms, '{1000,10000,60000,600000,3600000,21600000,86400000}'::bigint[]), id)
    WHERE started_ms IS NOT NULL AND finished_ms IS NOT NULL;
