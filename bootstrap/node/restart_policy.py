"""When a run that failed is started again, and after which pause: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE = 5.0
"""Seconds before the second try; each further one waits twice as long."""
LONGEST_PAUSE = 300.0
USERS_ERROR = 2
"""Every rank's exit code where the same command would fail again."""


@dataclass(frozen=True)
class Attempt:
    """How one mpirun ended.

    Attributes:
        phase: "done", "stopped" or "failed".
        reason: for people.
        again: whether another attempt may do better.
    """

    phase: str
    reason: str = ""
    again: bool = False


@dataclass(frozen=True)
class RestartPolicy:
    """A run is given up after `tries` failures in a row without a new checkpoint.

    Attributes:
        tries: see `Job.tries`.
        best_step: the newest checkpoint's step; -1: there is none.
        failures: in a row, without a new checkpoint.
    """

    tries: int
    best_step: int = -1
    failures: int = 0

    def after_failure(self, step: int) -> RestartPolicy:
        """The policy after one more failure, with the newest checkpoint now at `step`."""
        failures = 1 if step > self.best_step else self.failures + 1
        return RestartPolicy(self.tries, max(step, self.best_step), failures)

    @property
    def gives_up(self) -> bool:
        """Whether there is no further try."""
        return self.failures >= self.tries

    @property
    def pause(self) -> float:
        """Seconds before the next try."""
        return min(FIRST_PAUSE * 2 ** (self.failures - 1), LONGEST_PAUSE)

    @property
    def newest(self) -> str:
        """The newest checkpoint, for people."""
        return f"checkpoint-{self.best_step} is the newest" if self.best_step >= 0 else (
            "no checkpoint yet"
        )  # fmt: skip


def outcome(code: int, stopping: bool, last_error: str) -> Attempt:
    """What mpirun's exit code means.

    Args:
        stopping: the run was asked to stop.
        last_error: what the training said last.
    """
    if code == 0:
        return Attempt("done")
    if stopping:
        return Attempt("stopped")
    if code == USERS_ERROR:
        return Attempt("failed", f"the training refused to start: {last_error}")
    return Attempt("failed", f"mpirun ended with {code}: {last_error}", again=True)
