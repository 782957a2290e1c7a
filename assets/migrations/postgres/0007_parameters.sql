-- Jobs by the parameters of their templates, under names that no label has; `store::row::tags` writes them for new jobs.
-- What no text can hold is left out before it is read as JSON.
INSERT INTO job_labels (name, value, id)
WITH readable AS MATERIALIZED (
    SELECT id, parameters FROM job_origins WHERE position('\u0000' IN parameters) = 0
)
SELECT 'parameter ' || p.key, p.value #>> '{}', r.id
FROM readable r CROSS JOIN LATERAL json_each(r.parameters::json) p
WHERE json_typeof(p.value) IN ('string', 'number', 'boolean') AND octet_length(p.value #>> '{}') <= 255
ON CONFLICT DO NOTHING;
