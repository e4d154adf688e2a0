"""How an entry script runs: logging, and errors in one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from common.errors import InputError, TrainingError


def run_script(main: Callable[[], Any]) -> None:
    """Runs an entry script: bad input ends as one line and exit status 2, Ctrl-C and SIGTERM as status 130."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "urllib3", "huggingface_hub", "filelock", "gliner"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Everything is tokenised once; the tokenizer's threads would only compete for the cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Figures go to files. Where a notebook's backend is set and not installed, matplotlib cannot even be imported.
    os.environ["MPLBACKEND"] = "agg"
    # A cluster that wants its machine back asks by SIGTERM: as after Ctrl-C, what runs stops and can be resumed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (InputError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        # One of several processes that just exits can break the others' connections.
        torch = sys.modules.get("torch")
        if torch is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
