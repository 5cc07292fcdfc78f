"""The stand-ins for the internet as a process that stays, for a rig that a person plays with.

    python -m tests.rig.serve '{"address": ..., "wheels": ..., "answer": ...}'

Writes the addresses to the file `answer` and prints `ready`.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from tests.hub import serving
from tests.rig.stand_in import FileServer, PackageIndex


def main(argv: list[str]) -> int:
    """Serve until killed."""
    settings = json.loads(argv[0])
    address = settings["address"]
    services = {}
    if settings["wheels"]:
        services["package_index_url"] = PackageIndex(Path(settings["wheels"]), address).simple
    if settings["files"]:
        services["files_url"] = FileServer(Path(settings["files"]), address).url
    models = {name: Path(folder) for name, folder in settings["models"].items()}
    datasets = {name: Path(folder) for name, folder in settings["datasets"].items()}
    with serving(models, datasets, address) as hub:
        if models or datasets:
            services["hub_url"] = hub.endpoint
        Path(settings["answer"]).write_text(json.dumps(services))
        print("ready", flush=True)
        # Nobody reads on: a line more would end this process.
        sys.stdout = sys.stderr
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
