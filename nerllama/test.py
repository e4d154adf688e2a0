"""Tests a NERLlama3.1 checkpoint: ``python -m nerllama.test --dataset bc5cdr --checkpoint latest``.

On a corpus that it has not seen: ``--unseen --checkpoint RUN``, with ``--examples training``, ``own`` or ``none``.
"""

from functools import partial

from common.entry import run_test
from common.script import run_script
from nerllama.answering import prepare
from nerllama.config import Options
from nerllama.spec import SPEC

main = partial(run_test, SPEC, options=Options, prepare=prepare)

if __name__ == "__main__":
    run_script(main)
