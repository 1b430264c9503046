"""The wheel works where nothing of the checkout is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_wheel_builds_and_distils(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("potstill-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    code = "import potstill, sys; sys.exit(__import__('potstill.cli').cli.main())"

    def run(*words):
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    found = json.loads(run("distill", "--smoke", "--json", "--out", "run"))
    assert [row["method"] for row in found["rows"]] == ["student", "kd", "icd", "icd+kd"]
    assert (tmp_path / "run" / "report.html").exists()
    assert any(row["recipe"] == "cifar100_icd" for row in json.loads(run("list", "recipes", "--json")))
