"""Job `measure`: what the copy kept, what the redaction found and missed, and what is still possible with the copy.

    measure.py TRUTH_FILE
"""

import collections
import json
import math
import sys

import db
import redact

JOINS = {
    "orders of customers": "SELECT count(*) FROM customers c JOIN orders o ON o.customer_id = c.id",
    "lines of orders of customers": """SELECT count(*) FROM customers c JOIN orders o ON o.customer_id = c.id
        JOIN order_lines l ON l.order_id = o.id""",
    "customers and who referred them": "SELECT count(*) FROM customers c JOIN customers r ON r.id = c.referred_by",
    "newsletter by lower(email)": """SELECT count(*) FROM newsletter n
        JOIN customers c ON lower(c.email) = lower(n.email)""",
    "order numbers in notes, same customer": r"""SELECT count(*) FROM support_notes n
        JOIN orders o ON o.id = substring(n.body from '(?i)order (\d+)')::bigint AND o.customer_id = n.customer_id""",
}
VALUE = "SELECT sum(l.quantity * l.price_cents) AS cents FROM orders o JOIN order_lines l ON l.order_id = o.id"
SPREAD = {
    "town of the home address": "SELECT city AS x FROM addresses WHERE kind = 'home'",
    "year of birth": "SELECT extract(year FROM birth_date) AS x FROM customers",
    "orders per customer": "SELECT count(o.id) AS x FROM customers c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id",
    "order value, in steps of 10.00": f"SELECT cents / 1000 AS x FROM ({VALUE} GROUP BY o.id) v",
    "days between a customer's orders": """SELECT placed_at::date - lag(placed_at::date)
        OVER (PARTITION BY customer_id ORDER BY placed_at) AS x FROM orders""",
    "weekday of orders": "SELECT extract(isodow FROM placed_at) AS x FROM orders",
    "month of orders": "SELECT to_char(placed_at, 'YYYY-MM') AS x FROM orders",
}
RARE = {
    "year of birth and town": """SELECT extract(year FROM c.birth_date), a.city FROM customers c
        JOIN addresses a ON a.customer_id = c.id AND a.kind = 'home'""",
    "what each of their orders cost": f"""SELECT string_agg(cents::text, ',' ORDER BY cents) FROM
        (SELECT o.customer_id, {VALUE[7:]} GROUP BY o.id) v GROUP BY customer_id""",
    "days between their orders": """SELECT string_agg(coalesce(gap::text, 'first'), ',' ORDER BY placed_at) FROM
        (SELECT customer_id, placed_at, placed_at::date - lag(placed_at::date)
        OVER (PARTITION BY customer_id ORDER BY placed_at) AS gap FROM orders) g GROUP BY customer_id""",
}


def rows_of(database, query):
    return [tuple(row.values()) for row in db.read(database, query)]


def distance(before, after):
    """Total variation distance: the share that would have to move to make one distribution the other."""
    a, b = collections.Counter(before), collections.Counter(after)
    return sum(abs(a[x] / len(before) - b[x] / len(after)) for x in a | b) / 2


def wilson(hits, total):
    """A 95 % interval of a share, in per cent."""
    if not total:
        return "no cases"
    z, p = 1.96, hits / total
    middle, side = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    low, high = ((middle + sign * side) / (1 + z * z / total) for sign in (-1, 1))
    return f"{100 * p:5.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def score(finder, notes, truth):
    """Returns findings, those that were no mention, (mentions found, mentions) by type, and the missed mentions."""
    findings, wrong = 0, []
    found_by_type, missed = collections.defaultdict(lambda: [0, 0]), []
    for note in notes:
        found = finder.find(note["customer_id"], note["body"])
        spans = truth[note["id"]]
        findings += len(found)
        wrong += [
            note["body"][start:end]
            for start, end, _, _ in found
            if not any(start < e and s < end for s, e, _, _ in spans)
        ]
        for start, end, kind, how in spans:
            # One letter or digit that stays makes it a miss.
            whole = all(any(s <= at < e for s, e, _, _ in found) for at in range(start, end) if note["body"][at].isalnum())
            found_by_type[kind][0] += whole
            found_by_type[kind][1] += 1
            if not whole:
                missed.append((kind, how, note["body"][start:end]))
    return findings, wrong, found_by_type, missed


def main():
    print("joins: rows in the shop, rows in the copy")
    for name, query in JOINS.items():
        before, after = (rows_of(database, query)[0][0] for database in ["shop", "masked"])
        print(f"  {name:<38} {before:>6} {after:>6}{'' if before == after else '  DIFFERENT'}")
        if before != after:
            raise SystemExit("the copy does not join as the shop does")

    print("distributions: share that moved")
    for name, query in SPREAD.items():
        print(f"  {name:<38} {100 * distance(rows_of('shop', query), rows_of('masked', query)):5.1f} %")

    customers = db.read("shop", "SELECT id, given_name, family_name FROM customers")
    notes = db.read("shop", "SELECT id, customer_id, body FROM support_notes ORDER BY id")
    with open(sys.argv[1], encoding="utf-8") as file:
        truth = {str(line["id"]): line["spans"] for line in map(json.loads, file)}
    print("redaction: precision, recall (with 95 % intervals)")
    for n in range(1, len(redact.LAYERS) + 1):
        layers = redact.LAYERS[:n]
        findings, wrong, by_type, missed = score(redact.Finder(customers, layers), notes, truth)
        found, total = (sum(counts[i] for counts in by_type.values()) for i in (0, 1))
        print(f"  {'+ ' if n > 1 else ''}{layers[-1]:<12} {wilson(findings - len(wrong), findings):<24} {wilson(found, total)}")
    print("recall by type, all layers")
    for kind, (found, total) in sorted(by_type.items()):
        print(f"  {kind:<12} {wilson(found, total):<24} {total - found} of {total} missed")
    words = [f"{word} ({n})" for word, n in collections.Counter(wrong).most_common(8)]
    print(f"masked, and no mention: {len(wrong)}, most often {', '.join(words)}")
    print("missed, by how it was written")
    for (kind, how), count in collections.Counter((kind, how) for kind, how, _ in missed).most_common():
        # The shop is invented. Of a real one, a log must never show what was missed.
        words = sorted({text for k, h, text in missed if (k, h) == (kind, how)})[:3]
        print(f"  {count:>5} {kind}, {how}: {'; '.join(words)}")

    print("still possible: customers of the copy who are the only one with their")
    for name, query in RARE.items():
        counts = collections.Counter(rows_of("masked", query))
        total = sum(counts.values())
        print(f"  {name:<38} {sum(n == 1 for n in counts.values()):>6} of {total}")
    ranks = []
    for database in ["shop", "masked"]:
        names = db.read(database, "SELECT id, family_name FROM customers")
        ranks.append([name for name, _ in collections.Counter(row["family_name"] for row in names).most_common(20)])
    import mask

    masker = mask.masker()
    guessed = sum(masker.name("family", real) == masked for real, masked in zip(*ranks))
    print(f"  family names guessed by rank alone     {guessed:>6} of the 20 most frequent")


if __name__ == "__main__":
    main()
