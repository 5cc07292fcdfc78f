"""The JSON schema of each method's configuration: `python -m training.schema [--check]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.config.lora import LoraConfig
from training.config.quantize import QuantizeConfig
from training.config.run import RunConfig
from training.config.textual_inversion import TextualInversionConfig

FOLDER = Path(__file__).parent
CONFIGS: tuple[type[RunConfig], ...] = (TextualInversionConfig, LoraConfig, QuantizeConfig)
"""Of every method: each has a schema."""
COMMAND = "python -m training.schema"


def schema_file(config: type[RunConfig]) -> Path:
    """Where the schema of a method's configuration is."""
    return FOLDER / f"{config.method}.schema.json"


def schema_text(config: type[RunConfig]) -> str:
    """The schema as it is written to `schema_file`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **config.model_json_schema(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the schemas, or with --check say whether they are current (1: one is not)."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args(argv).check
    stale = 0
    for config in CONFIGS:
        file, text = schema_file(config), schema_text(config)
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            print(f"error: {file} is stale: run {COMMAND}", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
