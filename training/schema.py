"""The JSON schema of a run's configuration, for editors: `python -m training.schema [--check]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.config.textual_inversion import TextualInversionConfig

SCHEMA_FILE = Path(__file__).with_name("textual_inversion.schema.json")
COMMAND = "python -m training.schema"


def schema_text() -> str:
    """The schema of `TextualInversionConfig` as it is written to `SCHEMA_FILE`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **TextualInversionConfig.model_json_schema(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the schema, or with --check say whether it is current (1: it is not)."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    if not parser.parse_args(argv).check:
        SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
        return 0
    if SCHEMA_FILE.exists() and SCHEMA_FILE.read_text(encoding="utf-8") == schema_text():
        return 0
    print(f"error: {SCHEMA_FILE} is stale: run {COMMAND}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
