"""The shared spine: data, base models, losses, the metric, the loop, checkpoints and results."""

import os
import sys

# Figures go to files. Where a notebook's backend is set, as in a terminal beside it, matplotlib may not even be imported; only
# the notebook itself keeps it.
if not hasattr(sys, "ps1"):
    os.environ["MPLBACKEND"] = "agg"
