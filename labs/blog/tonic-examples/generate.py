"""Job `generate`: an invented shop, the same for the same seed, and the truth about what its notes say of people.

    generate.py CUSTOMERS SEED TRUTH_FILE
"""

import datetime
import json
import random
import string
import sys

import db

GIVEN = """Olivia Amelia Isla Ava Ivy Freya Lily Florence Mia Willow Rosie Sophia Isabella Grace Daisy Emily Jessica Sarah
Claire Emma Laura Rebecca Gemma Rachel Kelly Victoria Katherine Elizabeth Nicola Jennifer Hannah Amy Lucy Joanne Rose May
Jasmine Amber Hope Margaret Susan Patricia Noah George Oliver Arthur Leo Oscar Theodore Freddie Archie Jack Thomas Harry
Charlie Jacob William Will James David Michael Andrew Richard Robert Daniel Christopher Matthew Mark Simon Stephen Anthony
Jonathan Benjamin Samuel Alexander Edward Peter Alan Graham Kevin Ahmed Priya Fatima Mohammed Wei Anne-Marie""".split()
FAMILY = """Smith Jones Taylor Brown Williams Wilson Johnson Davies Patel Robinson Wright Thompson Evans Walker White
Roberts Green Hall Wood Jackson Clarke Khan Clark Lewis Phillips James Young Hill Cooper Ward Turner Martin Shaw Begum
Moore King Baker Harrison Morris Allen Mitchell Ali Anderson Bailey Parker Bell Scott Lee Watson Adams Davis Singh
Edwards Hughes Bennett Cook Carter Richardson Miller Marshall Hussain Collins Simpson Gray Murphy Ellis Foster Kelly Cox
Griffiths Stevens Mason Hunt Rogers Butler Price Palmer Holmes Mills Barnes Knight Matthews Webb Russell Stone Fisher
Powell Reid Harvey Pearson Fletcher Long Day Rice O'Brien Murray Chapman Dixon Gibson Grant Ford Hamilton Graham Reynolds
West Cole Wallace Ellison Hart Payne Spencer Burton Nicholls Osborne Lambert Warren Barker Page Cross Bishop Perry Frost
Pritchard Sutcliffe Ramsbottom Entwistle Featherstone Thistlethwaite Okonjo Lindqvist""".split()
# People who are in no table: neighbours, partners.
OUTSIDERS = """Tomasz Kowalczyk Ingrid Halvorsen Dmitri Volkov Chidi Okonkwo Yusuf Demir Bronwen Llewellyn Niamh Gallagher
Siobhan Doherty""".split()
NICKNAMES = {
    "William": "Bill", "Robert": "Bob", "Elizabeth": "Liz", "Margaret": "Maggie", "Richard": "Rick", "Michael": "Mike",
    "Jennifer": "Jen", "Katherine": "Kate", "Christopher": "Chris", "Matthew": "Matt", "Alexander": "Sandy",
    "Victoria": "Vicky", "Edward": "Ted", "Patricia": "Trish", "Daniel": "Dan", "Andrew": "Drew",
}
CITIES = {
    "Birmingham": ("B", 150), "Leeds": ("LS", 110), "Sheffield": ("S", 85), "Manchester": ("M", 82), "Bradford": ("BD", 70),
    "Liverpool": ("L", 68), "Bristol": ("BS", 66), "Cardiff": ("CF", 52), "Leicester": ("LE", 50), "Nottingham": ("NG", 47),
    "Newcastle": ("NE", 42), "Plymouth": ("PL", 37), "Derby": ("DE", 36), "Portsmouth": ("PO", 31), "York": ("YO", 30),
    "Norwich": ("NR", 28), "Exeter": ("EX", 19), "Carlisle": ("CA", 11), "Hereford": ("HR", 9), "Lerwick": ("ZE", 1.0),
    "Kirkwall": ("KW", 1.2), "Stornoway": ("HS", 0.8), "Llandrindod": ("LD", 0.6), "Galashiels": ("TD", 0.9),
}
STREETS = """Orchard Station Victoria Church Mill School Chapel Albert Queens Manor Springfield Grange Highfield Northgate
Wellington Beech Cedar Windsor Kestrel Foundry""".split()
KINDS = ["Road", "Street", "Lane", "Close", "Avenue", "Terrace"]
PROVIDERS = {"brightmail.test": 45, "postbox.test": 25, "inboxly.test": 15, "oldnet.test": 10, "own-domain.test": 5}
PRODUCTS = """Rose Garden Mug|Jasmine Tea Tin|Amber Desk Lamp|Willow Basket|Green Wool Blanket|Oak Shelf|Brass Hook|Linen Apron
Cast Iron Pan|Copper Kettle|Walnut Tray|Wool Socks|Rain Jacket|Garden Fork|Seed Box|Candle Set|Wall Clock|Door Mat|Tea Towel
Bread Knife|Storm Lantern|Picnic Rug|Bird Feeder|Boot Brush|Cake Tin|Coffee Grinder|Flower Press|Fire Poker|Plant Stand
Umbrella""".replace("\n", "|").split("|")

# {x} is filled by a person's data; capital words that look like names and are none are there on purpose.
NOTES = [
    "Called {given} about order {order}, no answer.",
    "{given} {family} rang from {phone}. The {product} arrived broken. Will call back on 3 May.",
    "Spoke to {given}. Refund for order {order} approved.",
    "{full_email} bounces. New e-mail is {email}.",
    "Please send the invoice to {email}, not to the old one. Thanks, {given}",
    "Customer wants the {product} delivered to {postcode} instead.",
    "Mr {family} says that the Green one was shown on the page. Price was right.",
    "Mrs {family} asked twice. Mark as urgent, and ring {phone} after six.",
    "Parcel was taken by a neighbour, {outsider}. {given} has collected it.",
    "{given}'s partner {outsider_given} will pick up order {order}.",
    "Account merged: {given} {family} and {email} are the same person.",
    "{other_given} {other_family} ordered as a present for {given} {family}. Do not tell {given}!",
    "From: {email}\nTo: support\n\nHello, where is order {order}? Regards, {given} {family}",
    "Rose Garden Mug out of stock. Hope to have it in May. Told {given}.",
    "Checked with the depot. Order {order} left on Monday. Bill was paid.",
    "Will ring again. Grace period ends on Friday.",
    "Left a message on {phone} for {family}, {given}.",
    "Moved house. New postcode is {postcode}. Confirmed by {given} {family}.",
    "King size was sent, Long version was meant. {given} keeps both. Young customer, first order.",
    "{given} wants to speak to a manager, was told to write to {email}",
]


def typo(rng, word):
    """Swaps, drops or doubles one letter inside."""
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0 and word[i] != word[i + 1]:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word[:i] + word[i + 1 :] if kind == 1 else word[:i] + word[i] + word[i:]


def as_written(rng, person, what):
    """Returns how somebody in a hurry writes a name, and what that is called."""
    name = person[what]
    dice = rng.random()
    if dice < 0.84:
        return name, "as stored"
    if dice < 0.89:
        return name.lower(), "small letters"
    if dice < 0.92:
        return name.upper(), "capitals"
    if dice < 0.96 and len(name) > 3:
        once = typo(rng, name)
        return (typo(rng, once), "misspelt twice") if rng.random() < 0.25 and len(once) > 3 else (once, "misspelt")
    if what == "given_name" and name in NICKNAMES:
        return NICKNAMES[name], "nickname"
    return name, "as stored"


def spoken(email):
    return email.replace("@", " at ").replace(".", " dot "), "spoken"


def note(rng, people, person, orders, postcode):
    """Returns a note and its truth: [start, end, type, how it is written]."""
    pieces = string.Formatter().parse(rng.choice(NOTES))
    other = rng.choice(people)
    body, truth = "", []
    for text, field, _, _ in pieces:
        body += text
        kind = how = None
        if field in ("given", "family"):
            (value, how), kind = as_written(rng, person, f"{field}_name"), "name"
        elif field in ("other_given", "other_family"):
            (value, how), kind = as_written(rng, other, f"{field[6:]}_name"), "name"
        elif field == "outsider":
            given, family = rng.choice(OUTSIDERS[::2]), rng.choice(OUTSIDERS[1::2])
            value, how = rng.choice([f"Mrs {family}", f"{given} {family}", given]), "not a customer"
            kind = "name"
            if value.startswith("Mrs "):
                body += "Mrs "
                value = family
        elif field == "outsider_given":
            value, how, kind = rng.choice(OUTSIDERS[::2]), "not a customer", "name"
        elif field in ("email", "full_email"):
            value, how, kind = person["email"], "as stored", "e-mail"
            dice = rng.random()
            if dice < 0.05:
                value, how = spoken(value)
            elif dice < 0.10:
                value, how = value.upper(), "capitals"
        elif field == "phone":
            value, how, kind = person["phone"], "as stored", "phone"
            if rng.random() < 0.3:
                digits = "0" + "".join(c for c in value if c.isdigit())[-10:]
                value, how = f"{digits[:4]}.{digits[4:7]}.{digits[7:]}", "other form"
        elif field == "postcode":
            value, how, kind = postcode, "as stored", "postcode"
            if rng.random() < 0.2:
                value, how = postcode.replace(" ", "").lower(), "other form"
        elif field == "order":
            value, how, kind = str(rng.choice(orders)), "as stored", "order"
        elif field == "product":
            value = rng.choice(PRODUCTS)
        else:
            continue
        if kind:
            truth.append([len(body), len(body) + len(value), kind, how])
        body += value
    return body, truth


def make(count, seed):
    rng = random.Random(seed)
    tables = {table: [] for table in db.TABLES}
    for i, name in enumerate(PRODUCTS):
        tables["products"].append({"id": i + 1, "name": name, "price_cents": rng.randrange(4, 160) * 50 - 1})
    zipf = [1 / (rank + 2.7) for rank in range(len(FAMILY))]
    given_weights = [1 / (rank + 9) for rank in range(len(GIVEN))]
    months = [7, 6, 7, 7, 8, 7, 7, 7, 8, 9, 14, 18]
    truth, seen, people = [], set(), tables["customers"]
    order = 500_000
    for i in range(count):
        given = rng.choices(GIVEN, given_weights)[0]
        family = rng.choices(FAMILY, zipf)[0]
        provider = rng.choices(list(PROVIDERS), PROVIDERS.values())[0]
        local = f"{given}.{family}".lower().replace("'", "")
        email = f"{local}@{provider}"
        while email in seen:
            email = f"{local}{rng.randrange(10, 10_000)}@{provider}"
        seen.add(email)
        number = f"7{rng.randrange(10**9):09d}"
        phone = f"+44 {number[:4]} {number[4:]}" if rng.random() < 0.4 else f"0{number[:4]} {number[4:]}"
        created = datetime.datetime(2023, 1, 1) + datetime.timedelta(minutes=rng.randrange(2 * 365 * 1440))
        people.append({
            "id": 100_001 + i, "given_name": given, "family_name": family, "email": email, "phone": phone,
            "birth_date": datetime.date(1935, 1, 1) + datetime.timedelta(days=int(rng.triangular(0, 26_500, 16_000))),
            "created_at": created, "referred_by": 100_001 + rng.randrange(i) if i and rng.random() < 0.15 else "",
        })
    for person in people:
        city = rng.choices(list(CITIES), [weight for _, weight in CITIES.values()])[0]
        for kind in ["home"] + ["delivery"] * (rng.random() < 0.2):
            inward = f"{rng.randrange(10)}{rng.choice('ABDEFGHJLN')}{rng.choice('PQRSTUWXYZ')}"
            tables["addresses"].append({
                "id": 300_001 + len(tables["addresses"]), "customer_id": person["id"], "kind": kind,
                "street": f"{rng.randrange(1, 180)} {rng.choice(STREETS)} {rng.choice(KINDS)}", "city": city,
                "postcode": f"{CITIES[city][0]}{rng.randrange(1, 21)} {inward}",
            })
        postcode = tables["addresses"][-1]["postcode"]
        own = []
        for _ in range(min(int(rng.paretovariate(1.3)), 30) if rng.random() < 0.8 else 0):
            order += 1
            own.append(order)
            month = rng.choices(range(1, 13), months)[0]
            placed = datetime.datetime(2025, month, rng.randrange(1, 29), rng.randrange(6, 23), rng.randrange(60))
            tables["orders"].append({
                "id": order, "customer_id": person["id"], "placed_at": placed,
                "status": rng.choices(["delivered", "returned", "open"], [90, 7, 3])[0],
            })
            for line in range(1, 1 + min(int(rng.paretovariate(1.2)), 8)):
                product = rng.choice(tables["products"])
                tables["order_lines"].append({
                    "order_id": order, "line": line, "product_id": product["id"],
                    "quantity": min(int(rng.paretovariate(2)), 9), "price_cents": product["price_cents"],
                })
        if rng.random() < 0.35:
            # In small letters here, as typed there: only lower(email) joins them.
            email = person["email"].title() if rng.random() < 0.1 else person["email"]
            tables["newsletter"].append({"email": email, "subscribed_at": person["created_at"]})
        for _ in range(rng.choice([0, 0, 1, 1, 2]) if own else 0):
            body, spans = note(rng, people, person, own, postcode)
            written = datetime.datetime(2025, 6, 1) + datetime.timedelta(minutes=rng.randrange(200 * 1440))
            number = 800_001 + len(truth)
            tables["support_notes"].append(
                {"id": number, "customer_id": person["id"], "written_at": written, "body": body}
            )
            truth.append({"id": number, "spans": spans})
    return tables, truth


def main():
    count, seed, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    tables, truth = make(count, seed)
    for table in db.TABLES:
        db.write("shop", table, tables[table])
        print(f"{table:<13} {len(tables[table]):>6} rows")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in truth)
    print(f"truth         {sum(len(line['spans']) for line in truth):>6} mentions in the notes")


if __name__ == "__main__":
    main()
