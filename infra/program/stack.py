"""Where the program meets Pulumi: reading the stack's config and reporting its errors."""

from __future__ import annotations

from typing import Any, cast

import pulumi
from pulumi.runtime import config as runtime_config

from infra.config import settings
from infra.errors import UserError
from infra.program.cluster_args import ClusterArgs


def stack_config() -> ClusterArgs:
    """The stack's config, checked.

    Every key of this project is read, not only those that exist: that is how a typo is found.

    Raises:
        pulumi.RunError: one message with every error; Pulumi prints it without a traceback.
    """
    prefix = f"{pulumi.get_project()}:"
    every: dict[str, Any] = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    values = {
        key.removeprefix(prefix): value for key, value in every.items() if key.startswith(prefix)
    }
    try:
        config = settings.validate(values, f"the config of stack {pulumi.get_stack()}")
    except UserError as error:
        raise pulumi.RunError(str(error)) from None
    return cast(ClusterArgs, config.model_dump())
