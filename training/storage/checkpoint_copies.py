"""Which ranks write: the first, and the first of every machine whose disk is its own.

A run's checkpoints are kilobytes. They are kept on every machine, so that no machine's loss, the
first one's included, loses the run.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from training import atomic_files
from training.config.groups import OutputsConfig
from training.config.run import RunConfig
from training.errors import UserError
from training.ranks.launcher import Ranks
from training.ranks.process_group import broadcast_text, on_all_ranks
from training.storage import run_directory
from training.storage.checkpoint import list_checkpoints, refuse_foreign_checkpoints
from training.storage.run_directory import RunRecord


@contextlib.contextmanager
def locked_run_folders(folder: Path, ranks: Ranks) -> Iterator[bool]:
    """Hold the run folder on every disk that has one; if a rank cannot, no rank goes on.

    Yields:
        Whether this rank saves checkpoints in the `folder` that it sees.
    """
    with contextlib.ExitStack() as locks:

        def lock(wanted: bool) -> None:
            if wanted:
                locks.enter_context(run_directory.locked(folder))

        on_all_ranks(ranks, lambda: lock(ranks.is_main_process))
        saves_checkpoints = _saves_checkpoints(folder, ranks)
        if ranks.size > ranks.local_size:
            on_all_ranks(ranks, lambda: lock(saves_checkpoints and not ranks.is_main_process))
        yield saves_checkpoints


def _saves_checkpoints(folder: Path, ranks: Ranks) -> bool:
    """Of the ranks that see each other's marks in `folder`, the lowest saves checkpoints there.

    A mark's name is new each time: no network file system can remember that it was absent.
    """
    if ranks.size == ranks.local_size:
        return ranks.is_main_process
    token = broadcast_text(secrets.token_hex(8), ranks)
    mark = folder / f".{token}-{ranks.rank:08d}.partial"

    def leave_a_mark() -> None:
        if ranks.is_local_main_process:
            atomic_files.write_text(mark, socket.gethostname())

    def lowest() -> str:
        return min((path.name for path in folder.glob(f".{token}-*.partial")), default="")

    on_all_ranks(ranks, leave_a_mark)
    first_seen = on_all_ranks(ranks, lowest)
    mark.unlink(missing_ok=True)
    return ranks.is_local_main_process and first_seen == mark.name


def check_folder(outputs: OutputsConfig, ranks: Ranks, saves_checkpoints: bool) -> None:
    """Refuse a folder that holds another run, on any disk, before anything slow is done.

    Raises:
        UserError: names the folder, and the machine if it is not the first rank's.
    """
    folder = outputs.output_dir
    resuming = outputs.resume_from_checkpoint is not None
    first_holds = broadcast_text(
        "yes" if ranks.is_main_process and run_directory.holds_a_run(folder) else "no", ranks
    )

    def check() -> None:
        if saves_checkpoints and not run_directory.holds_a_run(folder):
            refuse_foreign_checkpoints(folder)
        if saves_checkpoints and not resuming:
            run_directory.refuse_a_held_folder(folder, outputs.overwrite_output_dir)
        if saves_checkpoints and resuming and first_holds == "no" and list_checkpoints(folder):
            newest = list_checkpoints(folder)[-1][1].name
            raise UserError(
                f"output_dir {folder}: {socket.gethostname()} holds {newest} of a run that the "
                "first rank's machine has not. Copy it and config.toml there to resume from it "
                "(fab train --resume does), or start afresh: --overwrite_output_dir."
            )

    on_all_ranks(ranks, check)


def prepare_copies(
    config: RunConfig, record: RunRecord, ranks: Ranks, saves_checkpoints: bool
) -> None:
    """Make the folders of the machines other than the first ready for this run's checkpoints.

    What another run has left there goes: its checkpoints would be taken for this one's.

    Raises:
        UserError: on every rank, if a folder cannot be written.
    """

    def prepare() -> None:
        if not saves_checkpoints or ranks.is_main_process:
            return
        folder = config.output_dir
        if config.resume_from_checkpoint is None or not _is_of(folder, record):
            run_directory.clear_for_new_run(folder)
        run_directory.write_config(folder, config, record)

    on_all_ranks(ranks, prepare)


def _is_of(folder: Path, record: RunRecord) -> bool:
    return run_directory.holds_a_run(folder) and run_directory.read_config(folder)[1] == record
