"""From a base model and a data set to a tuned model on an OpenAI-compatible endpoint."""

import os

# A hub, and the public one where another source is named, is asked for files and for nothing else.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
