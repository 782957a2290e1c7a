#!/bin/sh
# Job `subset PERCENT`: takes customers of the masked copy with all that belongs to them, and the rows that those
# point to, into a database of its own. It needs neither the shop nor the key.
set -eu
percent=$1

# Masked ids are a keyed permutation, so the lowest ones are a sample. A sample's referrers come along, and theirs, as
# rows that are pointed to: without orders or notes of their own.
psql -X -q -v ON_ERROR_STOP=1 -v percent="$percent" -d masked <<'SQL'
SET client_min_messages = warning;
DROP TABLE IF EXISTS sample, pointed;
CREATE UNLOGGED TABLE sample AS
    SELECT id FROM customers ORDER BY id LIMIT (SELECT ceil(count(*) * :percent / 100.0) FROM customers);
CREATE UNLOGGED TABLE pointed AS
    WITH RECURSIVE needed AS (
        SELECT id FROM sample
        UNION
        SELECT c.referred_by FROM customers c JOIN needed USING (id) WHERE c.referred_by IS NOT NULL
    )
    SELECT id FROM needed;
SQL

# COPY checks each reference as the rows come in: a row that is missing stops it.
copy() {
    psql -X -q -d masked -c "COPY ($2) TO STDOUT" | psql -X -q -v ON_ERROR_STOP=1 -d subset -c "COPY $1 FROM STDIN"
    printf '%-13s %6s of %6s rows\n' "$1" "$(psql -X -At -d subset -c "SELECT count(*) FROM $1")" \
        "$(psql -X -At -d masked -c "SELECT count(*) FROM $1")"
}
psql -X -q -v ON_ERROR_STOP=1 -d subset -c \
    'TRUNCATE products, customers, addresses, orders, order_lines, support_notes, newsletter'
copy customers 'SELECT c.* FROM customers c JOIN pointed USING (id)'
copy addresses 'SELECT a.* FROM addresses a JOIN sample s ON s.id = a.customer_id'
copy orders 'SELECT o.* FROM orders o JOIN sample s ON s.id = o.customer_id'
copy products 'SELECT * FROM products WHERE id IN (SELECT l.product_id FROM order_lines l
    JOIN orders o ON o.id = l.order_id JOIN sample s ON s.id = o.customer_id)'
copy order_lines 'SELECT l.* FROM order_lines l JOIN orders o ON o.id = l.order_id JOIN sample s ON s.id = o.customer_id'
copy support_notes 'SELECT n.* FROM support_notes n JOIN sample s ON s.id = n.customer_id'
copy newsletter 'SELECT n.* FROM newsletter n JOIN customers c ON lower(c.email) = lower(n.email) JOIN sample USING (id)'

# References show that nothing points nowhere. That all of a customer came along shows only against the copy.
totals='SELECT count(DISTINCT o.id), count(*), sum(l.quantity * l.price_cents) FROM orders o JOIN order_lines l ON l.order_id = o.id'
whole=$(psql -X -At -d masked -c "$totals JOIN sample s ON s.id = o.customer_id")
part=$(psql -X -At -d subset -c "$totals")
psql -X -q -d masked -c 'DROP TABLE sample, pointed'
[ "$whole" = "$part" ] || { echo "the subset lost orders: $part, not $whole" >&2; exit 1; }
echo "orders, lines and cents as in the copy: $part"
