"""Hides libraries of the shared environment that a stage does not use; import it before transformers and PEFT.

transformers and PEFT look for every backend they know and import, or refuse over, each one they find: PEFT will not
make a LoRA layer beside gptqmodel without optimum, torchao costs a second and prints warnings, datasets another.
"""

import logging
import os
import sys
import warnings

for _name in ("gptqmodel", "torchao", "datasets"):
    if _name not in sys.modules:
        sys.modules[_name] = None  # type: ignore[assignment]

# What they say on import is about kernels and names of the next release: nothing a reader of the log can act on.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")

# OpenMP's threads wait for each other by spinning: where other processes want the cores, a training step then takes
# five times the time. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
