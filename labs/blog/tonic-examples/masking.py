"""Masks: the same input and the same key give the same output, in every table and on every day.

Each mask's outputs lie where no original can lie. So whatever original is found in a copy has leaked; it cannot be
there by chance, and check.py needs no list of excuses.

    ids        1,000,000 and above      originals are below
    names      contain zd, zl, zn, zv   mask.py refuses originals that do
    e-mails    under .example           reserved by RFC 2606: no mail ever arrives
    phones     06...                    originals begin with 07
    postcodes  a letter of CIKMOV last  the British post uses none of them there
"""

import datetime
import functools
import hashlib
import hmac
import os
import re
import stat

MARK = re.compile("z[dlnv]", re.IGNORECASE)
SMALL = 20  # A town with fewer customers than this loses its name.
ELSEWHERE = ("Elsewhere", "ZZ")

ONSETS = ["b", "br", "d", "dr", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "tr"]
VOWELS = ["a", "e", "i", "o", "u"]
CODAS = ["k", "l", "m", "n", "r", "s", "th", "st"]
INWARD = "ABDEFGHJLNPQRSTUWXYZ"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNUSED_PAIRS = [a + b for a in LETTERS for b in LETTERS if a not in INWARD or b not in INWARD]
POSTCODE = re.compile(r"([A-Z]{1,2})(\d{1,2}) ?(\d)([A-Z])([A-Z])")


def read_key():
    """Reads the key. It is in a file that only its owner can read, never in the database, a job or its log."""
    path = os.environ["MASK_KEY_FILE"]
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        raise SystemExit("others can read the key: chmod 600 it")
    with open(path, encoding="ascii") as file:
        key = bytes.fromhex(file.read().strip())
    if len(key) < 32:
        raise SystemExit("the key has less than 32 bytes")
    return key


class Masker:
    def __init__(self, key):
        self.key = key
        # Values repeat across rows and tables, and each costs several HMACs.
        for name in ["permute", "name", "email"]:
            setattr(self, name, functools.lru_cache(maxsize=None)(getattr(self, name)))

    def number(self, domain, value, below):
        """A number below `below` that depends on key, domain and value, and on nothing else."""
        digest = hmac.digest(self.key, f"{domain}\0{value}".encode(), hashlib.sha256)
        return int.from_bytes(digest[:16], "big") % below

    def permute(self, domain, value, size):
        """A permutation of 0..size: no two inputs share an output.

        Eight rounds of a balanced Feistel network with HMAC as round function, again until it falls below `size`.
        It is the idea of NIST's FF1, not FF1: nobody reviewed it.
        """
        if not 0 <= value < size:
            raise SystemExit(f"{domain}: a value is outside of the range that this mask knows")
        half = (max(size - 1, 1).bit_length() + 1) // 2
        low = (1 << half) - 1
        while True:
            left, right = value >> half, value & low
            for turn in range(8):
                left, right = right, left ^ self.number(f"{domain}/{turn}", right, low + 1)
            value = left << half | right
            if value < size:
                return value

    def id(self, table, value):
        return 1_000_000 + self.permute(f"id/{table}", int(value), 1_000_000)

    def name(self, kind, value):
        """A word that nobody is called, the same for Anna, anna and ANNA."""
        n = self.number(f"name/{kind}", value.casefold(), 1 << 64)
        parts = []
        for letters in [ONSETS, VOWELS] + ([ONSETS, VOWELS] if kind == "family" else []):
            n, i = divmod(n, len(letters))
            parts.append(letters[i])
        n, i = divmod(n, 4)
        parts.append("z" + "dlnv"[i])
        for letters in [VOWELS, CODAS]:
            n, i = divmod(n, len(letters))
            parts.append(letters[i])
        return "".join(parts).capitalize()

    def email(self, value):
        local, _, provider = value.lower().rpartition("@")
        person = self.number("email", f"{local}@{provider}", 1 << 50)
        return f"u{person:013x}@mail{self.number('provider', provider, 1 << 20):05x}.example"

    def phone(self, value):
        """Another number in the same form: +44 stays +44, spaces stay where they are."""
        national = national_number(value)
        if national is None:
            raise SystemExit("a phone number has a form that this mask does not know")
        digits = iter(f"6{self.permute('phone', int(national[2:]), 10**9):09d}"[::-1])
        turned, left = [], 10
        for character in reversed(value):
            if character.isdigit() and left:
                turned.append(next(digits))
                left -= 1
            else:
                turned.append(character)
        return "".join(reversed(turned))

    def postcode(self, value, small_areas):
        """Another postcode of the same area, so of the same town."""
        match = POSTCODE.fullmatch(value.upper())
        if not match:
            raise SystemExit("a postcode has a form that this mask does not know")
        area, district, digit, a, b = match.groups()
        index = (((int(district) - 1) * 10 + int(digit)) * 20 + INWARD.index(a)) * 20 + INWARD.index(b)
        # 20 districts have 80,000 codes; 29 districts with the other pairs of letters have 80,040.
        index = self.permute(f"postcode/{area}", index, 29 * 10 * len(UNUSED_PAIRS))
        index, pair = divmod(index, len(UNUSED_PAIRS))
        district, digit = divmod(index, 10)
        area = ELSEWHERE[1] if area in small_areas else area
        return f"{area}{district + 1} {digit}{UNUSED_PAIRS[pair]}"

    def street(self, value):
        number, _, rest = value.partition(" ")
        kind = rest.rpartition(" ")[2]
        house = self.number("house", value.casefold(), 199) + 1
        return f"{house} {self.name('family', 'street ' + rest)} {kind}"

    def shift(self, customer):
        """How far this customer's dates move: whole weeks, one to eight, back or forth. Weekdays and gaps stay."""
        weeks = self.number("shift", customer, 16) - 8
        return datetime.timedelta(weeks=weeks if weeks < 0 else weeks + 1)

    def birth(self, customer, value):
        """Another day of the same year."""
        day = self.number("birth", customer, 365)
        return (datetime.date(int(value[:4]), 1, 1) + datetime.timedelta(days=day)).isoformat()


def national_number(value):
    """Returns the 11 digits of a British mobile number, or nothing where it is none."""
    digits = re.sub(r"\D", "", value)
    if digits.startswith("44"):
        digits = "0" + digits[2:]
    return digits if len(digits) == 11 and digits.startswith("07") else None


def moved(value, shift):
    return (datetime.datetime.fromisoformat(value) + shift).isoformat(sep=" ")
