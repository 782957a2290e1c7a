-- Jobs of a template in some states: of a template's jobs few have failed, and without this each of its rows is read.
CREATE INDEX jobs_template_state ON jobs (template, state) WHERE template IS NOT NULL;
