"""Imported files that want to do harm: refused at once, in a sentence, with nothing outside touched."""

import hashlib
import io
import json
import os
import pickle
import random
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from maml_core.config import RunConfig
from maml_core.errors import ImportRefusedError
from maml_core.processes import this_process
from maml_core.store.exchange import SIZE_LIMIT, export_run
from maml_core.store.imports import import_run
from maml_core.store.store import Store
from maml_core.training.stretch import train_run

CANARY = "canary"


class Exploit:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}-run",)


Parts = dict[str, bytes]


def entry(name: str, data: bytes) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {name: data}


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Parts], Parts]:
    def apply(parts: Parts) -> Parts:
        loaded = load(parts[file])
        change(loaded)
        return parts | {file: save(loaded)}

    return apply


def manifest(**changes: Any) -> Callable[[Parts], Parts]:
    def apply(parts: Parts) -> Parts:
        return parts | {"run.json": json.dumps(json.loads(parts["run.json"]) | changes).encode()}

    return apply


def settings(**changes: Any) -> Callable[[Parts], Parts]:
    def apply(parts: Parts) -> Parts:
        raw = json.loads(parts["run.json"])
        raw["config"] |= changes
        return parts | {"run.json": json.dumps(raw).encode()}

    return apply


def nan(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda loaded: loaded[name].view(-1).__setitem__(0, float("nan"))


HOSTILE: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "pickle as weights": (entry("weights.safetensors", pickle.dumps(Exploit())), "header"),
    "pickle beside": (entry("data.pkl", pickle.dumps(Exploit())), "which an exported run does not"),
    "path upwards": (entry(f"../{CANARY}-run", b"x"), "which an exported run does not"),
    "absolute path": (entry(f"/tmp/{CANARY}-run", b"x"), "which an exported run does not"),
    "bomb in metrics": (entry("metrics.json", b"[" + b" " * (300 * 2**20)), "metrics.json is larger"),
    "bomb in weights": (entry("weights.safetensors", bytes(300 * 2**20)), "weights.safetensors is larger"),
    "nested json": (entry("run.json", b"[" * 100_000), "damaged"),
    "giant header": (entry("weights.safetensors", struct.pack("<Q", 2**40) + b"{}"), "header"),
    "wrong shape": (
        tensors("weights.safetensors", lambda t: t.update({"0.weight": torch.zeros(9, 1)})),
        "another model: 0.weight",
    ),
    "wrong dtype": (
        tensors("weights.safetensors", lambda t: t.update({"0.bias": t["0.bias"].double()})),
        "another model: 0.bias",
    ),
    "missing tensor": (tensors("weights.safetensors", lambda t: t.pop("0.bias")), "just the tensors"),
    "further tensor": (tensors("state.safetensors", lambda t: t.update(more=torch.zeros(5))), "just the tensors"),
    "nan weights": (tensors("weights.safetensors", nan("0.weight")), "not finite"),
    "nan moments": (tensors("state.safetensors", nan("exp_avg")), "not finite"),
    "negative moments": (tensors("state.safetensors", lambda t: t["exp_avg_sq"].fill_(-1)), "below zero"),
    "nan history": (tensors("history.safetensors", nan("0")), "not finite"),
    "another model": (settings(model={"kind": "linear"}), "just the tensors"),
    "giant model": (settings(model={"kind": "mlp", "hidden_sizes": [65536, 65536]}), "GiB"),
    "unknown setting": (settings(code="import os"), "code is not a field"),
    "class from outside": (settings(model={"kind": "os:system"}), "model.kind"),
    "iteration beyond the end": (manifest(iteration=41), "beyond meta_iterations"),
    "name of a megabyte": (manifest(name="x" * 2**20), "run.json is larger"),
    "newer version": (manifest(version=2), "version"),
    "metrics of another run": (entry("metrics.json", b'{"iteration": [1e999]}'), "columns"),
    "infinite metrics": (
        entry("metrics.json", b'{"iteration":[1],"pre_loss":[1e999],"post_loss":[1],"gradient_norm":[1]}'),
        "a row that is not of this run",
    ),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('exported')}/maml.db")
    run = store.claim(this_process(), store.create_run(RunConfig(meta_iterations=20, meta_batch_size=2)))
    assert run is not None
    train_run(store, run, this_process())
    with zipfile.ZipFile(io.BytesIO(export_run(store, run.id))) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    store.close()
    return found


@pytest.fixture
def exported(parts: Parts) -> Parts:
    return dict(parts)


def packed(parts: Parts) -> bytes:
    """A zip whose hashes are right: whoever forges a file forges those too."""
    try:
        raw = json.loads(parts["run.json"])
        raw["sha256"] = {name: hashlib.sha256(parts[name]).hexdigest() for name in raw["sha256"]}
        parts = parts | {"run.json": json.dumps(raw).encode()}
    except (RecursionError, ValueError):
        pass
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return file.getvalue()


def refuse(store: Store, file: bytes, words: str) -> None:
    before, grown = len(store.all_runs()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()  # its own work, however busy the machine is
    with pytest.raises(ImportRefusedError) as caught:
        import_run(store, file)
    took = time.process_time() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert took < 5, f"took {took:.1f} s"
    assert grown < 50 * 1024, f"grew by {grown / 1024:.0f} MiB"
    assert len(store.all_runs()) == before


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(
    name: str, store: Store, exported: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    canary = tmp_path.parent / CANARY
    canary.write_text("alive")
    assert import_run(store, packed(exported))  # unchanged, it is taken
    change, words = HOSTILE[name]
    refuse(store, packed(change(dict(exported))), words)
    assert canary.read_text() == "alive"
    assert not [path for folder in (tmp_path, tmp_path.parent, Path("/tmp")) for path in folder.glob(f"{CANARY}-run")]


def test_forged_packing_is_refused(store: Store, exported: Parts) -> None:
    good = packed(exported)
    refuse(store, b"", "not a zip file")
    refuse(store, good[:-1], "not a zip file")
    refuse(store, good[: len(good) // 2], "not a zip file")
    refuse(store, bytes(SIZE_LIMIT + 1), "at most 64 are allowed")
    refuse(store, good[:-12] + struct.pack("<HIIH", 60_000, 46 * 60_000, 0, 0)[:12], "more than an exported run")
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        for name, data in exported.items():
            archive.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("run.json", b"{}")
    refuse(store, twice.getvalue(), "an exported run does")
    exotic = io.BytesIO()
    with zipfile.ZipFile(exotic, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("run.json", b"{}")
    refuse(store, exotic.getvalue(), "cannot be imported")


def test_no_mutation_is_imported_in_silence(store: Store, exported: Parts) -> None:
    """A flipped byte is refused, or hits what is not read (the script, a date); what arrives is what was sent."""
    good, chance = packed(exported), random.Random(0)
    first = store.run(import_run(store, good))
    for _ in range(150):
        data = bytearray(good)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            run_id = import_run(store, bytes(data))
        except ImportRefusedError:
            continue
        assert store.checkpoint(run_id) == store.checkpoint(first.id)
        assert store.metrics(run_id).equals(store.metrics(first.id))
