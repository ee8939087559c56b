"""Workers as jobs of Slurm: one of them is queued again in mid-training, and every run ends in the same bits."""

import os
import shutil
import subprocess
import sys

import pytest

from maml_core.store.store import Store
from tests.conftest import wait_for
from tests.faults.test_database_server import ROOT, fingerprint, straight
from tests.faults.test_kills import CONFIG

__all__ = ["straight"]
PACE = 20.0


@pytest.fixture
def store_kind() -> str:
    return "server"


@pytest.fixture
def slurm() -> None:
    if not shutil.which("sbatch") or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm that answers on this machine")


def slurm_says(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.nightly
def test_a_job_that_is_queued_again_gives_its_run_to_the_others(slurm: None, store: Store, straight: str) -> None:
    ids = [store.create_run(CONFIG) for _ in range(3)]
    for run_id in ids:
        store.set_pace(run_id, PACE)
    submitted = subprocess.run(
        [
            *("sbatch", "--parsable", "--array=0-1", "--requeue", "--output=/dev/null", f"--chdir={ROOT}", "--wrap"),
            f"exec {sys.executable} -m maml_core work --jobs 1 --until-done",
        ],
        env=os.environ | {"MAML_STORE": store.url},
        capture_output=True,
        text=True,
        check=True,
    )
    job = submitted.stdout.strip()
    try:
        wait_for(lambda: sum(store.run(run_id).iteration > 5 for run_id in ids) == 2)
        slurm_says("scontrol", "requeue", f"{job}_0")

        def given_back() -> list[str]:
            return [run_id for run_id in ids if store.run(run_id).status == "queued" and store.run(run_id).iteration]

        wait_for(lambda: bool(given_back()))
        assert all(store.run(run_id).lost == 0 for run_id in ids)  # it was ended in order
        for run_id in ids:
            store.set_pace(run_id, None)
        wait_for(lambda: not any(store.run(run_id).is_active for run_id in ids))
        assert [fingerprint(store, run_id) for run_id in ids] == [straight] * 3
    finally:
        subprocess.run(["scancel", job], capture_output=True, check=False)
