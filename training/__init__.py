"""What happens inside one rank: data, step, loop and outputs of a fine-tuning run."""

import os
import warnings

# The terminal belongs to this program: the libraries' advice is meant for their own users, and
# some of it is printed while they are imported.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
