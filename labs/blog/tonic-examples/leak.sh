#!/bin/sh
# Job `leak`: does on purpose what the check must see: one real e-mail in one note of the copy.
set -eu
email=$(psql -X -At -d shop -c 'SELECT email FROM customers ORDER BY id LIMIT 1')
psql -X -q -v ON_ERROR_STOP=1 -v email="$email" -d masked <<'SQL'
UPDATE support_notes SET body = body || ' cc ' || :'email' WHERE id = (SELECT min(id) FROM support_notes);
SQL
echo 'one note has a real e-mail in it now'
