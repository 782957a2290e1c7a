"""Job `check DATABASE`: fails where anything of the original shop is found in any text or id of a copy.

It says where, and never what: a job's log is read by more people than the shop.
"""

import re
import sys

import db
import masking

# Not personal, and copied as they are: a town may be called as somebody is, and so may a mug.
PUBLIC = {"products.name", "addresses.city", "addresses.kind", "orders.status"}
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
AT = re.compile(r"[^\s@<>\"(),;:]*@[A-Za-z0-9.-]*[A-Za-z0-9]")
PHONE = re.compile(r"\d(?:[ .()/-]?\d){9,}")
PART = re.compile(r"[A-Za-z0-9'-]+")
NUMBER = re.compile(r"\b\d{6}\b")


def only_digits(text):
    return re.sub(r"\D", "", text)


class Originals:
    def __init__(self):
        customers = db.read("shop", "SELECT * FROM customers")
        addresses = db.read("shop", "SELECT * FROM addresses")
        emails = db.read("shop", "SELECT email FROM newsletter")
        self.names = {row[f"{kind}_name"] for row in customers for kind in ["given", "family"]}
        # Capitals only: `will` and `green` are words. What is written small is measure.py's to find.
        self.names |= {name.upper() for name in self.names}
        self.emails = {row["email"].lower() for row in customers + emails}
        self.phones = {masking.national_number(row["phone"]) for row in customers}
        assert None not in self.phones
        self.phrases = {tuple(PART.findall(row["street"].lower())) for row in addresses}
        self.phrases |= {
            tuple(PART.findall(f"{row['given_name']} {row['family_name']}".lower())) for row in customers
        }
        self.lengths = {len(phrase) for phrase in self.phrases}
        self.postcodes = {row["postcode"].replace(" ", "") for row in addresses}
        self.ids = set()
        for table in ["customers", "addresses", "orders", "support_notes"]:
            self.ids |= {row["id"] for row in db.read("shop", f"SELECT id FROM {table}")}
        self.count = sum(map(len, [self.names, self.emails, self.phones, self.phrases, self.postcodes, self.ids]))

    def has_phone(self, digits):
        """Other digits may stand before and after it."""
        return any(
            masking.national_number(digits[i : i + length]) in self.phones
            for i in range(len(digits))
            for length in (11, 12)
        )

    def found(self, text, public):
        """Yields the kinds of originals that a text has in it."""
        if not public and any(word.removesuffix("'s") in self.names for word in WORD.findall(text)):
            yield "name"
        for match in AT.findall(text.lower()):
            # An address may stick to what stands before it.
            local, _, domain = match.rpartition("@")
            if any(f"{local[i:]}@{domain}" in self.emails for i in range(len(local))):
                yield "e-mail"
        if any(self.has_phone(digits) for digits in map(only_digits, PHONE.findall(text))):
            yield "phone"
        parts = PART.findall(text.lower())
        pieces = (tuple(parts[i : i + n]) for n in self.lengths for i in range(len(parts) - n + 1))
        if any(piece in self.phrases for piece in pieces):
            yield "full name or street"
        codes = [part.upper() for part in parts]
        if any(code in self.postcodes for code in codes + [a + b for a, b in zip(codes, codes[1:])]):
            yield "postcode"
        if any(number in self.ids for number in NUMBER.findall(PHONE.sub(" ", text))):
            yield "id"


def main():
    copy = sys.argv[1]
    originals = Originals()
    columns = {}
    for table, column, kind in db.columns(copy):
        if kind in ("text", "character varying", "character", "json", "jsonb", "bigint"):
            columns.setdefault(table, []).append(column)
    texts, leaks = 0, []
    for table, names in columns.items():
        for row in db.read(copy, f"SELECT ctid AS place, * FROM {table}"):
            for column in names:
                texts += 1
                place = f"{table}.{column}"
                for kind in originals.found(row[column], place in PUBLIC):
                    leaks.append(f"{place} at {row['place']} has an original {kind}")
    if not texts:
        raise SystemExit(f"there is nothing in {copy}: a check of nothing says nothing")
    print(f"searched {texts} values of {len(columns)} tables for {originals.count} originals: {len(leaks)} found")
    for leak in leaks[:10]:
        print(leak)
    if leaks:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
