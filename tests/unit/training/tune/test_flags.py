"""What training.tune refuses before it tries anything."""

from __future__ import annotations

import pytest

from training.tune.__main__ import main


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ranks", "0"], "argument --ranks: 0 is no whole number from 1 on"),
        (["--threads", "-1"], "argument --threads"),
        (["--threads", "two"], "argument --threads: two is no whole number from 1 on"),
        (["--budget", "nan"], "argument --budget: nan is no number of seconds"),
        (["--budget", "0"], "argument --budget: 0 is no number of seconds"),
    ],
)
def test_numbers_that_are_none_are_named(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
