-- Jobs by how long they ran, in classes; `store::list::sql` has the same numbers.
CREATE INDEX jobs_lasted ON jobs (
    ((finished_ms - started_ms >= 1000) + (finished_ms - started_ms >= 10000)
        + (finished_ms - started_ms >= 60000) + (finished_ms - started_ms >= 600000)
        + (finished_ms - started_ms >= 3600000) + (finished_ms - started_ms >= 21600000)
        + (finished_ms - started_ms >= 86400000))
) WHERE started_ms IS NOT NULL AND finished_ms IS NOT NULL;
