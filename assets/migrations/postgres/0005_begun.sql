-- no-transaction
-- Jobs that have begun and not ended: there are never many.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_begun ON jobs (id) WHERE started_ms IS NOT NULL AND finished_ms IS NULL;
