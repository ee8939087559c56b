"""Derivatives that leave torch's compiler alone, and to whoever wants it."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
import sys
import torch
from maml_core import RunConfig, train

def is_loaded():
    return "torch._dynamo" in sys.modules

for algorithm in ("fomaml", "maml", "meta-curvature", "ridge-head"):
    config = RunConfig(algorithm=algorithm, meta_iterations=2, meta_batch_size=2)
    train(config).adapt(config.tasks.held_out(tasks=2, shots=5, query_shots=5, seed=0), 2)
assert not is_loaded()

from maml_core.learning.derivatives import grad
from torch import _dynamo
assert not is_loaded() and _dynamo is torch._dynamo and _dynamo is not sys.modules.get("torch._dynamo")
def cube(x):
    return x ** 3
assert torch.compile(cube, backend="eager")(torch.tensor(2.0)) == 8
assert is_loaded() and torch._dynamo is sys.modules["torch._dynamo"]
assert _dynamo is not torch._dynamo and _dynamo.eval_frame is torch._dynamo.eval_frame
assert _dynamo.compiled_autograd._enable is torch._dynamo.compiled_autograd._enable
assert grad(cube)(torch.tensor(2.0)) == 12
print("as expected")
"""


@pytest.mark.slow
def test_torch_s_compiler_is_loaded_by_those_who_ask_for_it() -> None:
    """Not by a derivative, but by `torch.compile`, which then finds it where it should stand."""
    found = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout == "as expected\n", found.stderr
