"""What an environment says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[5]


def test_packages_are_the_same_whether_something_is_imported_or_not(tmp_path: Path) -> None:
    """setuptools, which IPEX imports, puts packages of its own on the path when it is imported.

    What was recorded after the first import would never be found again, and every further
    bootstrap would make the environment anew.
    """
    brought = tmp_path / "brought" / "vendored-1.0.dist-info"
    brought.mkdir(parents=True)
    (brought / "METADATA").write_text("Metadata-Version: 2.1\nName: vendored\nVersion: 1.0\n")
    code = f"import sys\nsys.path.append({str(brought.parent)!r})\n"
    (tmp_path / "bringing.py").write_text(code)

    def packages(*words: str) -> dict[str, str]:
        printed = subprocess.run(
            [sys.executable, "-m", "bootstrap.node.reports.environment_report", *words],
            env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{tmp_path}"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        found: dict[str, str] = json.loads(printed)["packages"]
        return found

    assert packages("--import", "bringing") == packages()
