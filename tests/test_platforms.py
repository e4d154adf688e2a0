"""Other systems and devices, as far as they can be stood in for here: Windows's rules for files, Apple's GPU."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny import RUNTIME, predictions
from torch.utils._python_dispatch import TorchDispatchMode

import common.device
import common.files
import common.predict
import dataset_generation.generate
import full_finetune.spec
import glinerev.export
import glinerev.spec
import glinerev.test
import glinerev.train
import injection_bi.spec
import injection_cross.spec
import ldsa.spec
import softprompt_base.train
import vaner.spec
from common.approach import Batch, freeze_all_but
from common.config import RuntimeConfig
from common.device import as_trained, make_accelerator
from common.errors import InputError
from common.files import read_json, write_json
from common.models.config import LoraConfig, PromptConfig, TokenConfig
from common.names.vectors import filled_rows

SP = glinerev.spec.SPEC
QUICK = ["--precision", "fp32", "--device", "cpu", "--no-progress"]


# -- Windows: a file that is open, or mapped into memory, is neither removed nor replaced ------------------------------


def held_files() -> set[str]:
    """Paths of all files that this process has open or mapped."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    with open("/proc/self/maps", encoding="utf-8") as maps:
        found |= {line.split(maxsplit=5)[-1].rstrip("\n") for line in maps}
    return {path for path in found if os.path.isfile(path)}


@pytest.fixture
def windows_files(monkeypatch):
    """Files can be removed, renamed and replaced as on Windows."""
    if sys.platform != "linux":
        pytest.skip("looks into /proc")

    def check(path, folder):
        above = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
        place = os.path.realpath(os.path.join(above, os.fspath(path)))
        for file in held_files():
            if file == place or file.startswith(f"{place}/"):
                raise PermissionError(13, "The process cannot access the file because it is being used", place)

    def one(function):
        def checked(path, *, dir_fd=None):
            check(path, dir_fd)
            return function(path, dir_fd=dir_fd)

        return checked

    def two(function):
        def checked(source, target):
            check(source, None)
            check(target, None)
            return function(source, target)

        return checked

    for name, wrap in (("unlink", one), ("remove", one), ("rename", two), ("replace", two)):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    monkeypatch.setattr(common.files, "WINDOWS", True)
    monkeypatch.setattr(common.files, "_PATIENCE", 0.1)


def test_the_stand_in_for_windows_refuses_what_windows_does(windows_files, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    path, other = folder / "file", tmp_path / "other"
    path.write_bytes(b"12345678")
    other.touch()
    with path.open("rb"):
        for refused in (path.unlink, lambda: other.replace(path), lambda: folder.rename(tmp_path / "new")):
            with pytest.raises(PermissionError):
                refused()
    mapped = np.memmap(path, np.int32, mode="r", shape=(2,))
    with pytest.raises(PermissionError):
        shutil.rmtree(folder)
    del mapped
    shutil.rmtree(folder)


@pytest.mark.slow
def test_nothing_that_is_open_is_removed_or_replaced(windows_files, trial, tmp_path):
    """Generates, trains, resumes, tests, exports and tags."""
    root = tmp_path / "output"
    made = trial(SP, "bi-bert", train={"patience": 4}, runtime=replace(RUNTIME, eval_batch_size=32))
    dataset, base = made.config.data.dataset[0], made.config.base_model
    settings = ["--dataset", dataset, "--base-model", base, "--batch-size", "8", "--seed", "1", *QUICK]
    made.killed()
    run = glinerev.train.main([*settings, "--epochs", "2", "--resume", "latest"])
    assert read_json(run / "run.json")["status"] == "finished"
    softprompt_base.train.main([*settings, "--epochs", "1", "--feature-cache", "disk"])
    assert glinerev.test.main(["--dataset", dataset, *QUICK]).is_file()
    glinerev.export.main(["--checkpoint", str(run), "--output", str(root / "plain")])
    (tmp_path / "text.txt").write_text("IL-2 was seen in patients with fever.", encoding="utf-8")
    for output in ("tagged.jsonl", "brat"):
        common.predict.main(
            ["--checkpoint", str(run), "--input", str(tmp_path / "text.txt"), "--output", str(root / output), *QUICK]
        )
        assert (root / output).exists()
        assert not list(root.glob("*.partial"))
    rows = filled_rows(tmp_path / "rows", 4, 2, np.int32, lambda first, last: np.ones((last - first, 2)), "rows", False)
    assert rows.sum() == 8
    for _ in range(2):
        dataset_generation.generate.main(["--dataset", "demo-bc5cdr", "--train-size", "50"])


def test_a_file_that_is_being_read_is_replaced_a_moment_later(monkeypatch, tmp_path):
    path, tries, released = tmp_path / "file.json", [], 4
    replace = os.replace

    def read_by_another(source, target):
        tries.append(target)
        if len(tries) < released:
            raise PermissionError(13, "in use", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", read_by_another)
    with pytest.raises(PermissionError):
        write_json(path, 1)
    assert len(tries) == 1, "elsewhere it is a matter of rights"
    monkeypatch.setattr(common.files, "WINDOWS", True)
    write_json(path, 1)
    assert (read_json(path), len(tries)) == (1, 4)
    monkeypatch.setattr(common.files, "_PATIENCE", 0.05)
    released = 10**6
    with pytest.raises(PermissionError):
        write_json(path, 2)
    assert list(tmp_path.iterdir()) == [path]


# -- Apple's GPU ------------------------------------------------------------------------------------------------------


class NoDouble(TorchDispatchMode):
    """Refuses double precision, as Apple's GPU does, until tensors are brought to the CPU."""

    on_cpu = False

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and not self.on_cpu:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it")
        return found


def prompts(pooling):
    return {"prompts": PromptConfig(pooling, 4)}


MODELS = {
    "span, bi": (SP, "bi-bert", {}),
    "span, cross": (full_finetune.spec.SPEC, "cross-deberta", {"encoder": "cross", "focal_gamma": 0.5}),
    "token": (ldsa.spec.SPEC, "bi-bert", {}),
    "token, bio": (injection_bi.spec.SPEC, "bi-bert", {**prompts("attention"), "token": TokenConfig(scheme="bio")}),
    "prompts before the text": (injection_cross.spec.SPEC, "cross-bert", prompts("conv1d_strided")),
    "spans behind prompts": (injection_cross.spec.SPEC, "cross-bert", {**prompts("adaptive_avg"), "level": "span"}),
    "language model": (vaner.spec.SPEC, "causal-llama", {"dbr": "off", "adapters": LoraConfig(rank=2)}),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_double_precision_on_the_device(trial, monkeypatch, name):
    spec, base, settings = MODELS[name]
    made = trial(spec, base, **settings)
    model = made.model()
    freeze_all_but(model, model.parts)
    model.begin_training(model.encode(made.data.train))
    expected = predictions(model, made.data.test)
    batches = [model.collate(model.encode(made.data.test[first : first + 8])) for first in (0, 8)]
    mode, to_cpu = NoDouble(), torch.Tensor.cpu

    def cpu(tensor, *more):
        mode.on_cpu = True
        return to_cpu(tensor, *more)

    found = []
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "cpu", cpu)
        for batch in batches:
            mode.on_cpu = False
            with mode:
                found += model.predict(batch)
    assert found == expected
    batch = model.train().collate(model.encode(made.data.train[:8]))
    mode.on_cpu = False
    with mode:
        model(batch).backward()


@dataclass(eq=False)
class OneTensor(Batch):
    tensor: torch.Tensor


def test_only_a_copy_from_pinned_memory_is_not_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, _, *, non_blocking: waited.append(not non_blocking) or tensor
    )
    batch = OneTensor([], torch.ones(2))
    for kind in ("cuda", "mps", "cpu"):
        batch.to(torch.device(kind))
    assert waited == [False, True, True]


def test_a_run_on_apples_gpu_goes_on_with_its_random_numbers(trial, monkeypatch):
    state, put = torch.arange(44, dtype=torch.uint8), []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state)
    monkeypatch.setattr(torch.mps, "set_rng_state", put.append)
    made = trial(SP, "bi-bert")

    def kill(_):
        raise KeyboardInterrupt

    run = made.start()
    with pytest.raises(KeyboardInterrupt):
        made.fit(made.model(), run, on_validation=kill)
    assert put == []
    made.resume(run.path)
    assert [tensor.tolist() for tensor in put] == [state.tolist()]


def test_a_precision_that_a_device_lacks_is_one_line(monkeypatch):
    def refuse(**_):
        raise ValueError("bf16 mixed precision requires a supported device.")

    monkeypatch.setattr(common.device, "Accelerator", refuse)
    with pytest.raises(InputError, match="precision bf16 on cpu: bf16 mixed precision requires a supported device"):
        make_accelerator(RuntimeConfig(precision="bf16", device="cpu"))


@pytest.mark.parametrize(
    ("gpu", "asked", "found"), [("cuda", "cpu", "auto"), ("cuda", "auto", "fp16"), ("mps", "auto", "fp16")]
)
def test_what_was_trained_in_fp16_is_used_so_where_the_device_can(monkeypatch, gpu, asked, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: gpu == "mps")
    assert as_trained(RuntimeConfig(device=asked), "fp16").precision == found
