"""The published JSON schema is that of the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training import schema
from training.config.run import RunConfig


def test_the_committed_schema_is_current() -> None:
    assert schema.main(["--check"]) == 0, f"run {schema.COMMAND}"


def test_a_stale_or_absent_schema_fails_the_check_and_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "textual_inversion.schema.json"
    monkeypatch.setattr(schema, "FOLDER", tmp_path)
    assert schema.main(["--check"]) == 1
    assert not file.exists()
    file.write_text("{}")
    assert schema.main(["--check"]) == 1
    assert file.read_text() == "{}"
    assert capsys.readouterr().err.count("is stale: run python -m training.schema") == 2 * len(
        schema.CONFIGS
    )
    assert schema.main([]) == 0
    assert schema.main(["--check"]) == 0


@pytest.mark.parametrize("config", schema.CONFIGS)
def test_every_key_is_described(config: type[RunConfig]) -> None:
    properties = json.loads(schema.schema_file(config).read_text())["properties"]
    assert list(properties) == list(config.model_fields)
    assert all(properties[name]["description"] for name in properties)
