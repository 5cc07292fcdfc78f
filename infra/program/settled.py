"""The options that hold a resource to the table of changes (`infra.program.changes`)."""

from __future__ import annotations

from typing import Any

import pulumi

from infra.program import changes


class Settled:
    """Resource options for one cluster.

    Raises:
        pulumi.RunError: in the preview, from the hook: a change that Azure would refuse.
    """

    def __init__(self, cluster: str, replace_nodes: bool) -> None:
        self.replace_nodes = replace_nodes
        # In a preview too: nothing has been touched then.
        self.hook = pulumi.ResourceHook(
            f"{cluster}-settled", refuse, pulumi.ResourceHookOptions(on_dry_run=True)
        )

    def options(self, kind: str, parent: pulumi.Resource, **more: Any) -> pulumi.ResourceOptions:
        """Options of a resource of a type; `more` are others of Pulumi's."""
        guarded = any(one.policy != "kept" for one in changes.of(kind))
        return pulumi.ResourceOptions(
            parent=parent,
            # Names are fixed, so two of a kind cannot exist side by side, not even for a
            # replacement.
            **{"delete_before_replace": True, **more},
            ignore_changes=changes.ignored(kind, self.replace_nodes),
            replace_on_changes=changes.replacing(kind, self.replace_nodes),
            hooks=pulumi.ResourceHookBinding(before_update=[self.hook]) if guarded else None,
        )


def refuse(args: pulumi.ResourceHookArgs) -> None:
    """Stop an update that Azure would refuse, by name."""
    found = changes.refusals(args.type, args.name, args.old_inputs or {}, args.new_inputs or {})
    if text := "\n".join(found):
        raise pulumi.RunError(text)
