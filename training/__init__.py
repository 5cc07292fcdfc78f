"""What happens inside one rank: data, step, loop and outputs of a fine-tuning run."""

import os
import warnings

# The terminal belongs to this program: the libraries' advice is meant for their own users, and
# some of it is printed while they are imported.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")

# OpenMP reads these when PyTorch is imported. They can give an operation fewer threads than it
# counts on, by the load or by a limit: sums are then added up in another order, and products in
# bf16 are left half undone (the output of a linear layer, PyTorch 2.13).
os.environ["OMP_DYNAMIC"] = "false"
os.environ.pop("OMP_THREAD_LIMIT", None)
