"""Job `redact`: copies the notes, with what it finds in them masked: the same mask as in the tables.

Three layers, each of which measure.py scores by itself:

    patterns    e-mails, phones, postcodes, order numbers, and a capital word after Mr, Mrs, Ms, Miss or Dr
    dictionary  every customer's names, as words that begin with a capital; full names in any case
    own         the names of the customer whom the note is about, in any case and with one wrong letter
"""

import re

import db
import mask
import masking

WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
EMAIL = re.compile(r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
PHONE = re.compile(r"(?:\+44[ .]?|0)7(?:[ .-]?\d){9}\b")
POSTCODE = re.compile(r"\b([A-Z]{1,2}\d{1,2}) ?(\d[ABDEFGHJLNPQRSTUWXYZ]{2})\b", re.IGNORECASE)
ORDER = re.compile(r"\b(?<=order )(\d{6})\b", re.IGNORECASE)
TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Miss|Dr)\.? ([A-Z][A-Za-z'-]+)")
LAYERS = ("patterns", "dictionary", "own")


def one_edit(a, b):
    """Whether one letter more, less, other, or two swapped make the words the same."""
    if a == b:
        return True
    if abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    a, b = a[start:], b[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


class Finder:
    """Finds (start, end, type, value) in a note; `value` is what to mask, the name as stored where it is known."""

    def __init__(self, customers, layers=LAYERS):
        self.layers = layers
        self.customers = {row["id"]: row for row in customers}
        self.names = {}
        for row in customers:
            self.names[row["family_name"].casefold()] = ("family", row["family_name"])
        for row in customers:
            self.names[row["given_name"].casefold()] = ("given", row["given_name"])
        # `will` and `young` are words; `will young` is somebody where a customer is called so.
        self.full = {(row["given_name"].casefold(), row["family_name"].casefold()) for row in customers}

    def find(self, customer, body):
        found = []

        def add(start, end, kind, value):
            if all(end <= other[0] or other[1] <= start for other in found):
                found.append((start, end, kind, value))

        if "patterns" in self.layers:
            for match in EMAIL.finditer(body):
                add(*match.span(), "e-mail", match[0])
            for match in PHONE.finditer(body):
                add(*match.span(), "phone", match[0])
            for match in POSTCODE.finditer(body):
                add(*match.span(), "postcode", f"{match[1]} {match[2]}".upper())
            for match in ORDER.finditer(body):
                add(*match.span(), "order", match[0])
        words = [(match.start(), match[0].removesuffix("'s")) for match in WORD.finditer(body)]
        if "dictionary" in self.layers:
            for (start, given), (then, family) in zip(words, words[1:]):
                if (given.casefold(), family.casefold()) in self.full:
                    add(start, start + len(given), "given", given)
                    add(then, then + len(family), "family", family)
        for start, word in words:
            name = self.name(customer, word)
            if name:
                add(start, start + len(word), *name)
        if "patterns" in self.layers:
            for match in TITLE.finditer(body):
                add(*match.span(1), "family", match[1].removesuffix("'s"))
        return sorted(found)

    def name(self, customer, word):
        folded = word.casefold()
        if "dictionary" in self.layers and word[0].isupper() and folded in self.names:
            return self.names[folded]
        if "own" in self.layers:
            for kind in ["given", "family"]:
                own = self.customers[customer][f"{kind}_name"]
                if folded == own.casefold():
                    return kind, own
                if len(own) > 4 and folded[0] == own[0].casefold() and one_edit(folded, own.casefold()):
                    return kind, own
        return None


def replaced(masker, kind, value, text):
    if kind == "e-mail":
        return masker.email(value)
    if kind == "phone":
        return masker.phone(value)
    if kind == "postcode":
        return masker.postcode(value, masker.small_areas)
    if kind == "order":
        return str(masker.id("orders", value))
    name = masker.name(kind, value)
    return name.upper() if text.isupper() and len(text) > 1 else name


def redact(masker, finder, customer, body):
    done, last = [], 0
    for start, end, kind, value in finder.find(customer, body):
        done += [body[last:start], replaced(masker, kind, value, body[start:end])]
        last = end
    return "".join(done) + body[last:]


def main():
    masker = mask.masker()
    finder = Finder(db.read("shop", "SELECT id, given_name, family_name FROM customers"))
    rows = [
        {
            "id": masker.id("support_notes", row["id"]),
            "customer_id": masker.id("customers", row["customer_id"]),
            "written_at": masking.moved(row["written_at"], masker.shift(row["customer_id"])),
            "body": redact(masker, finder, row["customer_id"], row["body"]),
        }
        for row in db.read("shop", "SELECT * FROM support_notes")
    ]
    rows.sort(key=lambda row: row["id"])
    db.psql("masked", "TRUNCATE support_notes")
    db.write("masked", "support_notes", rows)
    print(f"support_notes {len(rows)} rows")


if __name__ == "__main__":
    main()
