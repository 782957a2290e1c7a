-- Jobs by the parameters of their templates, under names that no label has; `store::row::tags` writes them for new jobs.
-- Numbers with fractions are left out: here they could be written in another way.
INSERT OR IGNORE INTO job_labels (name, value, id)
SELECT 'parameter ' || p.key,
    CASE p.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' ELSE CAST(p.atom AS TEXT) END,
    o.id
FROM job_origins o, json_each(o.parameters) p
WHERE p.type IN ('text', 'integer', 'true', 'false') AND length(CAST(p.atom AS BLOB)) <= 255;
