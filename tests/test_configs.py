"""The settings files of the corpora: each loads, says where every value is from, and reaches the configuration."""

import pytest

from common.config import to_dict
from common.files import read_json
from common.paths import PROJECT_ROOT
from common.registry import spec, trained
from common.settings import ORIGIN, TYPES, parse_training
from optuna_plots import FigureSet, load_view

FILES = sorted(PROJECT_ROOT.glob("*/configs/*.json"))
SWEEPS = sorted((PROJECT_ROOT / "examples" / "sweeps").glob("*_best.json"))
TOKEN_FAMILY = {"ldsa", "softprompt_base", "injection_bi", "injection_cross"}


def leaves(settings, prefix=""):
    """Dotted paths and values of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_there_are_sweeps_and_the_token_family_has_a_file_for_each_benchmark():
    assert SWEEPS
    found = {(path.parent.parent.name, path.stem) for path in FILES}
    assert {(name, corpus) for name in TOKEN_FAMILY for corpus in ("bc5cdr", "jnlpba")} <= found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_every_value_has_an_origin_and_is_used(path):
    settings = read_json(path)
    origin = settings.pop(ORIGIN)
    assert settings.pop(TYPES)
    values = dict(leaves(settings))
    assert set(origin) == set(values)
    assert all(text == "ours" or text.startswith("thesis") for text in origin.values())
    name = path.parent.parent.name
    config = to_dict(parse_training(spec(name), ["--dataset", path.stem])[0])
    assert dict(leaves(config)) | values == dict(leaves(config))


def test_a_part_of_a_group_keeps_the_approachs_other_defaults(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('{"train": {"batch_size": 3}, "prompts": {"prompt_length": 5}}')
    approach = spec("injection_bi")
    config = parse_training(approach, ["--dataset", "mine", "--config", str(file)])[0]
    plain = parse_training(approach, ["--dataset", "mine"])[0]
    assert (config.train.batch_size, config.prompts.prompt_length) == (3, 5)
    assert config.train.epochs == plain.train.epochs == 25
    assert config.prompts.pooling == plain.prompts.pooling == "attention"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_best_settings_of_the_example_sweeps_can_be_trained_with(path):
    approach = next(name for name in trained() if path.stem.startswith(name))
    config = parse_training(spec(approach), ["--dataset", "bc5cdr", "--config", str(path)])[0]
    values = dict(leaves(read_json(path)))
    assert dict(leaves(to_dict(config))) | values == dict(leaves(to_dict(config)))
    # The summary beside it is what the figures read; the settings are those of its best trial.
    best = load_view(FigureSet(study=str(path.with_name(path.name.replace("_best", ""))))).study.best_trial.params
    by_name = {name.rpartition(".")[2]: value for name, value in values.items()}
    best.pop("use_focal", None)  # a choice between losses, no setting
    assert best.items() <= by_name.items()
