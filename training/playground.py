"""A page to try a learned word in: prompt, seed, word on and off side by side, engine, history.

  python -m training.playground runs/dicoo
  python -m training.playground runs/dicoo --engine openvino --port 7861
  python -m training.playground --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
      --embeds cat.safetensors --lora style.safetensors:0.8

It answers this machine alone (127.0.0.1), to whoever is logged in here, and sends nothing anywhere.
The pictures are those of training.generate: python -m training.generate --again PICTURE.png draws
one again. Ends with Ctrl-C. Needs the environment that `make environment-openvino` makes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from training.errors import UserError
from training.inference import flags
from training.inference.ask import Asked
from training.inference.session import Session
from training.machine import vector_math

ADDRESS, PORT = "127.0.0.1", 7860


def parser() -> argparse.ArgumentParser:
    """The flags: those of training.generate that name weights, engine and folder; the port."""
    made = argparse.ArgumentParser(
        prog="python -m training.playground",
        usage="%(prog)s [RUN_FOLDER | --model MODEL] [--KEY VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_weights(made)
    how = made.add_argument_group("how")
    flags.add_engine(how)
    how.add_argument(
        "--output_dir", type=Path, help="[RUN_FOLDER/generated; without a run generated]"
    )
    how.add_argument("--port", type=int, default=PORT, help=f"0: any that is free [{PORT}]")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Load, open the page, print its address as JSON, and serve until Ctrl-C; 2: user's error."""
    chosen = vars(parser().parse_args(argv))
    vector_math.resolve_kernels()
    try:
        if importlib.util.find_spec("gradio") is None:
            raise UserError(
                "training.playground needs gradio. `make environment-openvino` makes an "
                "environment with it: .venv-openvino/bin/python -m training.playground"
            )
        port = _free_port(chosen.pop("port"))
        session = Session(Asked(**chosen), _say)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _serve(session, port)
    return 0


def _serve(session: Session, port: int) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import gradio

    from training.inference import page

    built = page.build(session)

    # gradio asks its own page whether it is there, and a proxy does not know this machine.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), ADDRESS]))
    # The system's own fonts: gradio's are fetched from the internet.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    session.folder.mkdir(parents=True, exist_ok=True)
    _, url, _ = built.launch(
        server_name=ADDRESS, server_port=port, share=False, inbrowser=False, quiet=True,
        show_error=True, prevent_thread_lock=True, footer_links=[], theme=theme, ssr_mode=False,
        mcp_server=False, enable_monitoring=False, allowed_paths=[str(session.folder.absolute())],
    )  # fmt: skip
    print(json.dumps({"url": url}), flush=True)
    _say(f"the page is at {url}; Ctrl-C ends it")
    built.block_thread()


def _free_port(port: int) -> int:
    """`port`, or any that is free for 0.

    Raises:
        UserError: another program has it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port {port}: cannot be used ({error}). Choose another, or 0 for any that is "
                "free."
            ) from error
        return int(probe.getsockname()[1])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
