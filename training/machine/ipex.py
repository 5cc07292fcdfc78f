"""Import Intel's extension without what it prints, none of which a person could act on.

* While it is imported, PyTorch reports from C++ that a kernel is registered a second time: that is
  how the extension puts its own in the place of PyTorch's. With a PyTorch built for CUDA it adds
  that there is no GPU.
* `ipex.optimize` warns that one of its own arguments, which we do not give, will go away.
* In the first backward pass PyTorch warns of group_norm and layer_norm that "an autograd kernel was
  not registered". The extension registers these two for autograd's dispatch key without a formula
  of their own; what they call has one, so the gradient is right:
  tests/integration/training/machine/test_ipex.py.

docs/training.md says so too.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAME = "intel_extension_for_pytorch"
LOGGER = "IPEX"
BACKWARD = ".*an autograd kernel was not registered to the Autograd key"


def import_ipex() -> Any:
    """The extension, imported; what it printed is shown only where it does not import.

    Raises:
        ImportError, OSError: it does not import.
    """
    with _unheard():
        ipex = importlib.import_module(NAME)
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=BACKWARD, category=UserWarning)
    return ipex


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep this process's standard error, C++'s included, to itself unless the block fails."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            os.dup2(real, 2)
            kept.seek(0)
            os.write(2, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
