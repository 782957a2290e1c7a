"""What the masks promise: python3 -m unittest test_masking"""

import hashlib
import os
import tempfile
import unittest

import masking
import redact

KEY = bytes(range(32))


class Masks(unittest.TestCase):
    def setUp(self):
        self.mask = masking.Masker(KEY)
        self.other = masking.Masker(KEY[::-1])

    def test_a_permutation_gives_each_output_once(self):
        for size in [1, 2, 3, 17, 1000]:
            self.assertEqual(sorted(self.mask.permute("x", i, size) for i in range(size)), list(range(size)))

    def test_the_key_and_the_domain_decide(self):
        ids = range(200)
        self.assertNotEqual([self.mask.id("orders", i) for i in ids], [self.other.id("orders", i) for i in ids])
        self.assertNotEqual([self.mask.id("orders", i) for i in ids], [self.mask.id("customers", i) for i in ids])
        self.assertNotEqual(self.mask.name("given", "Anna"), self.other.name("given", "Anna"))

    def test_another_masker_with_the_key_agrees(self):
        again = masking.Masker(KEY)
        self.assertEqual(self.mask.email("anna@postbox.test"), again.email("Anna@Postbox.test"))
        self.assertEqual(self.mask.name("family", "O'BRIEN"), again.name("family", "O'Brien"))

    def test_an_id_is_above_all_originals(self):
        self.assertTrue(all(self.mask.id("orders", i) >= 1_000_000 for i in range(500)))
        with self.assertRaises(SystemExit):
            self.mask.id("orders", 1_000_000)

    def test_a_phone_keeps_its_form(self):
        for phone, form in [("07123 456789", r"06\d{3} \d{6}"), ("+44 7123 456789", r"\+44 6\d{3} \d{6}")]:
            self.assertRegex(self.mask.phone(phone), rf"\A{form}\Z")
        forms = [self.mask.phone(p)[-10:].replace(" ", "") for p in ["07123 456789", "+44 7123 456789"]]
        self.assertEqual(*forms)
        with self.assertRaises(SystemExit):
            self.mask.phone("911")

    def test_a_postcode_stays_in_its_area_and_none_is_real(self):
        codes = [f"LS{d} {n}{a}{b}" for d in (1, 20) for n in range(10) for a in "ABDZ" for b in "ABYZ"]
        masked = [self.mask.postcode(code, set()) for code in codes]
        self.assertEqual(len(set(masked)), len(codes))
        for code in masked:
            self.assertRegex(code, r"\ALS\d{1,2} \d[A-Z]{2}\Z")
            self.assertTrue(set(code[-2:]) & set("CIKMOV"), code)
        self.assertTrue(self.mask.postcode("ZE2 9AB", {"ZE"}).startswith("ZZ"))

    def test_dates_move_by_whole_weeks_and_never_by_none(self):
        days = {self.mask.shift(customer).days for customer in range(500)}
        self.assertEqual(days, {7 * week for week in range(-8, 9) if week})

    def test_the_published_key_gives_what_the_post_shows(self):
        mask = masking.Masker(hashlib.sha256(b"the key of the post").digest())
        self.assertEqual(mask.id("orders", 512345), 1045072)
        names = mask.name("given", "Katherine"), mask.name("family", "Wilson")
        self.assertEqual(names, ("Kezler", "Huprezvar"))
        self.assertEqual(mask.email("katherine.wilson@postbox.test"), "u1d1446e74e9d7@mail78cb7.example")
        self.assertEqual(mask.phone("+44 7123 456789"), "+44 6290 067425")
        self.assertEqual(mask.postcode("LS6 2AB", set()), "LS9 3VB")

    def test_a_key_that_others_can_read_is_refused(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(KEY.hex())
            file.flush()
            os.environ["MASK_KEY_FILE"] = file.name
            self.assertEqual(masking.read_key(), KEY)
            os.chmod(file.name, 0o644)
            with self.assertRaises(SystemExit):
                masking.read_key()

    def test_one_edit_is_one(self):
        for other in ["anna", "ana", "annna", "nana", "anno"]:
            self.assertTrue(redact.one_edit("anna", other), other)
        for other in ["an", "nnaa", "bonno", "annabe"]:
            self.assertFalse(redact.one_edit("anna", other), other)


if __name__ == "__main__":
    unittest.main()
