"""What is said of a library's error."""

from __future__ import annotations

from training.errors import first_line


def test_no_password_of_a_url_is_said() -> None:
    error = ValueError("\n401 for url 'https://me:geheim@mirror/a'\nmore")
    assert first_line(error) == "401 for url 'https://***@mirror/a'"
    assert first_line(ValueError()) == "ValueError()"
