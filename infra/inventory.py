"""The inventory: what `pulumi stack output --json` prints and `bootstrap` reads.

What is null is left out of a stack's outputs by Pulumi's SDK, so absent and null mean the same.
`python -m infra.inventory [--check]` writes its JSON schema, or says whether that is current.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import UserError

SCHEMA_FILE = Path(__file__).with_name("inventory.schema.json")
COMMAND = "python -m infra.inventory"
# An inventory may come from somebody else, and what it says ends in names of files, in lines of
# ssh_config and authorized_keys, in URLs, on a terminal.
NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:\[\]-]{0,127}$"
USER_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}$"
GROUP_NAME = r"^[A-Za-z0-9_(][A-Za-z0-9_().-]{0,89}$"
FOLDER = r"^/[A-Za-z0-9._/~+-]*$"
IDENTIFIER = r"^[0-9A-Za-z-]+$"
ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*$"


class InventoryNode(BaseModel):
    """One machine of the cluster."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="Host name, which is the VM's name too.", pattern=NODE_NAME)
    private_ip: IPv4Address = Field(description="Address that the nodes use among themselves.")
    public_ip: IPv4Address | None = Field(default=None, description="Only the head has one.")
    vcpus: int = Field(description="Hyper-threads; two of them are one core.", ge=1)
    size: str = Field(description="Azure's VM size.", pattern=ONE_LINE)
    image: str | None = Field(
        default=None, description="Image that it was made from.", pattern=ONE_LINE
    )
    ssh_public_key: str | None = Field(
        default=None, description="Key that it was made with.", pattern=ONE_LINE
    )


class Inventory(BaseModel):
    """A cluster as the stack's outputs tell it; the first node is the head."""

    model_config = ConfigDict(extra="allow", frozen=True)

    user: str = Field(description="Account to log in with, on every node.", pattern=USER_NAME)
    ssh_private_key_path: str | None = Field(
        default=None,
        description="Where the private key lies; null: an agent or a hardware key holds it, or it"
        " is the other half of ssh_public_key in ~/.ssh.",
        pattern=ONE_LINE,
    )
    ssh_public_key: str | None = Field(
        default=None, description="The head's, one line.", pattern=ONE_LINE
    )
    gateway: IPv4Address = Field(description="Address that workers are reached through.")
    nodes: tuple[InventoryNode, ...] = Field(description="The head first.", min_length=1)
    name: str | None = Field(
        default=None,
        description="The cluster's, unlike that of every other; null: its resource group's.",
        pattern=GROUP_NAME,
    )
    resource_group: str = Field(
        description="Azure resource group that holds all of it.", pattern=GROUP_NAME
    )
    subscription_id: str = Field(
        description="Azure subscription that pays for it.", pattern=IDENTIFIER
    )
    location: str = Field(description="Azure region.", pattern=ONE_LINE)
    ssh_command: str = Field(description="Reaches the head.", pattern=ONE_LINE)
    price_per_hour_usd: float | None = Field(
        default=None,
        description="List price of everything; null where the table lacks the size or region.",
        ge=0,
        allow_inf_nan=False,
    )
    price_as_of: str = Field(description="Date of the VMs' price (ISO 8601).", pattern=ONE_LINE)
    data_folder: str | None = Field(
        default=None,
        description="Folder on every node, on the head the data disk; null: there is no such disk.",
        pattern=FOLDER,
    )
    idle_minutes: int = Field(
        default=0,
        description="After how many minutes without a run the VMs deallocate themselves; 0: never.",
        ge=0,
    )
    config: dict[str, Annotated[str, Field(pattern=ONE_LINE)]] | None = Field(
        default=None, description="The stack's config at the last pulumi up, as far as it was set."
    )
    next: str = Field(description="What to type next.", pattern=ONE_LINE)


def read(path: Path) -> Inventory:
    """The inventory in a file.

    Raises:
        UserError: absent, not JSON, or not an inventory; the message says how to write one.
    """
    fix = f"Write it with: pulumi stack output --json > {path}"
    try:
        return Inventory.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). {fix}") from error
    except ValidationError as error:
        problems = "\n".join(
            f"  - {'.'.join(str(part) for part in problem['loc']) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise UserError(f"{path} is not the inventory of a cluster:\n{problems}\n{fix}") from error


def schema_text() -> str:
    """The schema as it is written to `SCHEMA_FILE`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Inventory.model_json_schema(),
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
