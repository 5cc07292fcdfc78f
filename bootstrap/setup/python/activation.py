"""`<root>/activate`: what a person sources on a node, and each rank's shell before it starts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from bootstrap.paths import Layout


def activation(root: str, variables: Mapping[str, str], oneccl_setvars: str | None = None) -> str:
    """The script's text; for bash and any POSIX shell. Sourcing it twice changes nothing more.

    Args:
        root: the folder that bootstrap filled.
        variables: `cluster_environment`'s.
        oneccl_setvars: oneCCL's own script, where its bindings are installed. It comes first, and
            what is set here wins.
    """
    layout = Layout(root)
    script = shlex.quote(layout.activate)
    lines = [f"# Written by fab bootstrap. In bash on this node: . {script}"]
    binaries = shlex.quote(f"{layout.env}/bin")
    lines += [
        f"case :$PATH: in *:{binaries}:*) ;; *) PATH={binaries}:$PATH ;; esac",
        "export PATH",
    ]
    if oneccl_setvars:
        quoted = shlex.quote(oneccl_setvars)
        lines.append(f"if [ -r {quoted} ]; then . {quoted}; fi")
    for name, value in sorted(variables.items()):
        if name == "LD_LIBRARY_PATH":
            # Behind what oneCCL's script has put there: its libraries fit its bindings.
            folder = shlex.quote(value)
            lines.append(
                f"case :${{LD_LIBRARY_PATH:-}}: in *:{folder}:*) ;; "
                f"*) LD_LIBRARY_PATH=${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}{folder} ;; esac"
            )
            lines.append("export LD_LIBRARY_PATH")
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join(lines) + "\n"
