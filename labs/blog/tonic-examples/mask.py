"""Job `mask`: copies everything but the notes from the shop, masked. A column without a rule stops it."""

import collections

import db
import masking


def keep(_mask, _row, value):
    return value


RULES = {
    "products": {"id": keep, "name": keep, "price_cents": keep},
    "customers": {
        "id": lambda mask, row, value: mask.id("customers", value),
        "given_name": lambda mask, row, value: mask.name("given", value),
        "family_name": lambda mask, row, value: mask.name("family", value),
        "email": lambda mask, row, value: mask.email(value),
        "phone": lambda mask, row, value: mask.phone(value),
        "birth_date": lambda mask, row, value: mask.birth(row["id"], value),
        "created_at": lambda mask, row, value: masking.moved(value, mask.shift(row["id"])),
        "referred_by": lambda mask, row, value: value and mask.id("customers", value),
    },
    "addresses": {
        "id": lambda mask, row, value: mask.id("addresses", value),
        "customer_id": lambda mask, row, value: mask.id("customers", value),
        "kind": keep,
        "street": lambda mask, row, value: mask.street(value),
        "city": lambda mask, row, value: masking.ELSEWHERE[0] if value in mask.small_cities else value,
        "postcode": lambda mask, row, value: mask.postcode(value, mask.small_areas),
    },
    "orders": {
        "id": lambda mask, row, value: mask.id("orders", value),
        "customer_id": lambda mask, row, value: mask.id("customers", value),
        "placed_at": lambda mask, row, value: masking.moved(value, mask.shift(row["customer_id"])),
        "status": keep,
    },
    "order_lines": {
        "order_id": lambda mask, row, value: mask.id("orders", value),
        "line": keep,
        "product_id": keep,
        "quantity": keep,
        "price_cents": keep,
    },
    # The notes are free text: redact.py copies them. Their columns stand here so that a new one is noticed.
    "support_notes": {"id": None, "customer_id": None, "written_at": None, "body": None},
    "newsletter": {
        "email": lambda mask, row, value: mask.email(value),
        "subscribed_at": lambda mask, row, value: masking.moved(value, mask.shift(mask.owner(row["email"]))),
    },
}


def small(addresses):
    """Returns the towns with too few customers to be named, and their postcode areas."""
    customers = collections.defaultdict(set)
    areas = collections.defaultdict(set)
    for row in addresses:
        customers[row["city"]].add(row["customer_id"])
        areas[row["city"]].add(masking.POSTCODE.fullmatch(row["postcode"]).group(1))
    cities = {city for city, known in customers.items() if len(known) < masking.SMALL}
    kept = set().union(*(areas[city] for city in areas if city not in cities))
    return cities, set().union(*(areas[city] for city in cities)) - kept


def masker():
    mask = masking.Masker(masking.read_key())
    people = {row["email"].lower(): row["id"] for row in db.read("shop", "SELECT id, email FROM customers")}
    # Dates move with their customer also where a table knows no more of them than an address.
    mask.owner = lambda email: people.get(email.lower(), email.lower())
    mask.small_cities, mask.small_areas = small(db.read("shop", "SELECT customer_id, city, postcode FROM addresses"))
    return mask


def main():
    unknown = [f"{table}.{column}" for table, column, _ in db.columns("shop") if column not in RULES.get(table, {})]
    if unknown:
        raise SystemExit(f"no rule for {', '.join(unknown)}: nothing was copied. Say in mask.py what becomes of it.")
    names = db.read("shop", "SELECT given_name, family_name FROM customers")
    if any(masking.MARK.search(name) for row in names for name in row.values()):
        raise SystemExit("an original name looks like a masked one: choose another mark in masking.py")
    mask = masker()
    db.psql("masked", f"TRUNCATE {', '.join(db.TABLES)}")
    for table in db.TABLES:
        rules = RULES[table]
        if None in rules.values():
            continue
        rows = [
            {column: rules[column](mask, row, value) for column, value in row.items()}
            for row in db.read("shop", f"SELECT * FROM {table}")
        ]
        # In the order of the originals, the place of a row would tell which one it was.
        rows.sort(key=lambda row: [str(value) for value in row.values()])
        db.write("masked", table, rows)
        print(f"{table:<12} {len(rows):>7} rows")
    if mask.small_cities:
        print(f"{len(mask.small_cities)} towns with fewer than {masking.SMALL} customers became {masking.ELSEWHERE[0]}")


if __name__ == "__main__":
    main()
