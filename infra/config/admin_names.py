"""Names that Azure takes for the account on a VM."""

from __future__ import annotations

import re

RESERVED_ADMIN_NAMES = frozenset(
    {
        "1", "123", "a", "actuser", "adm", "admin", "admin1", "admin2", "administrator",
        "aspnet", "backup", "console", "david", "guest", "john", "owner", "root", "server",
        "sql", "support", "support_388945a0", "sys", "test", "test1", "test2", "test3",
        "user", "user1", "user2", "user3", "user4", "user5",
    }
)  # fmt: skip
"""Refused by Azure as osProfile.adminUsername (its REST reference, VirtualMachine OSProfile)."""


def check(name: str) -> str:
    """The same name, if an account may have it.

    Raises:
        ValueError: Azure or Linux refuses it; the message says why.
    """
    if name.lower() in RESERVED_ADMIN_NAMES:
        raise ValueError("is a name that Azure reserves; take another, such as azureuser")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
        raise ValueError(
            "must be 1 to 32 of a-z, 0-9, _ and -, beginning with a letter, such as azureuser"
        )
    return name
