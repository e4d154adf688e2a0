"""How a test's options change the prompts and answers of a checkpoint, and what a result says of it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from common.config import require
from common.data.dataset import Dataset, Sentence
from common.data.mixture import as_asked, joint_names
from common.entry import Tested
from common.paths import output_root
from nerllama.config import Config, Options
from nerllama.spec import SPEC

if TYPE_CHECKING:
    from common.checkpoint import Checkpoint


def prepare(checkpoint: Checkpoint[Config], options: Options, data: Dataset) -> Tested:
    """Sets examples, samples and vote, and where generated answers are kept.

    Raises:
        InputError: If a threshold of greedy answers is given for votes, a setting of samples where there are none, or
            more examples are asked for than there are.
    """
    from common.device import as_trained, make_accelerator, precision_name
    from common.files import sha256_file
    from common.models.generation import AnswerStore
    from common.training.records import WEIGHTS_FILE

    model, record, trained = checkpoint.model, checkpoint.record, checkpoint.config
    shots = trained.shots if options.shots is None else options.shots
    require(
        options.examples != "training" or shots <= trained.shots,
        f"--shots {shots}: the checkpoint keeps {trained.shots} examples; more are there with --examples own",
    )
    config = replace(
        trained,
        shots=0 if options.examples == "none" else shots,
        samples=trained.samples if options.samples is None else options.samples,
        vote=trained.vote if options.vote is None else options.vote,
        sampling=options.sampling(trained.sampling),
        rows=options.rows or trained.rows,
        # Of greedy answers alone.
        threshold=None if options.samples else trained.threshold,
    )
    require(
        options.threshold is None or not config.samples,
        "--threshold is that of the greedy answer; the checkpoint answers with --samples, whose threshold is --vote",
    )
    sampled = ("vote", *(field.name for field in fields(trained.sampling)))
    given = [f"--{name.replace('_', '-')}" for name in sampled if getattr(options, name) is not None]
    require(
        not given or config.samples > 0,
        f"{', '.join(given)}: of sampled answers; without --samples the checkpoint gives the greedy one",
    )
    model.answer_with(config.samples, config.vote, config.sampling, config.rows)
    model.generator.progress = options.runtime.bars
    if options.examples == "training":
        model.use_first_examples(config.shots)
    else:
        model.use_examples(_as_known(data, checkpoint) if options.examples == "own" else [], config.shots)
    runtime = as_trained(options.runtime, record["precision"])
    accelerator = make_accelerator(runtime)
    packages = ("torch", "transformers", "peft")
    model.generator.store = AnswerStore(
        output_root() / SPEC.name / "answers",
        {
            "weights": sha256_file(checkpoint.path / WEIGHTS_FILE),
            "base_model": record["base_model"]["revision"],
            "quantization": config.quantization,
            "adapters": [config.adapters.rank, config.adapters.alpha],
            "precision": precision_name(accelerator),
            "device": accelerator.device.type,
            "packages": {name: importlib.metadata.version(name) for name in packages},
        },
    )
    return Tested(config, _condition(checkpoint, options, data))


def _as_known(data: Dataset, checkpoint: Checkpoint[Config]) -> list[Sentence]:
    """Training sentences of a data set, with the names of types that a model of a mixture knows them by."""
    known = as_asked(data, joint_names(checkpoint.config.data.map), checkpoint.labels.names)
    return data.train if known is None else [known[1].to_model(sentence) for sentence in known[0].train]


def _condition(checkpoint: Checkpoint[Config], options: Options, data: Dataset) -> dict[str, str]:
    """What the variant says of a corpus that the model has not seen, and of other examples than its own."""
    trained_on = checkpoint.record["dataset"]
    seen = data.sha256 in {part.get("sha256") for part in (trained_on, *trained_on.get("members", ()))}
    of = {
        "training": f"examples of {trained_on['name']}",
        "own": f"examples of {data.name}",
        "none": "no examples",
    }
    aspects = {} if seen else {"corpus": f"unseen, trained on {trained_on['name']}"}
    return aspects | ({} if seen and options.examples == "training" else {"shown": of[options.examples]})
