-- no-transaction
-- Jobs of a template in some states: of a template's jobs few have failed, and without this each of its rows is read.
-- Made beside those who write, which no transaction allows, and one statement a file; what an attempt that was cut off
-- leaves is removed before the next one.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_template_state ON jobs (template, state, id) WHERE template IS NOT NULL;
