def test_healthz_says_ok(ask):
    ask("GET", "/healthz")


def test_a_path_that_nobody_serves_is_404():
    pass


def test_healthz_cannot_be_posted_to():
    pass
