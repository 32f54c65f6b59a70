"""kill -9 at any moment loses nothing but time."""

import json
import subprocess
import sys
from pathlib import Path

DRIVER = Path(__file__).with_name("kill_driver.py")


def test_killed_again_and_again_the_weights_are_those_of_a_run_that_was_not(photos, tmp_path) -> None:
    seed = 4
    print(f"seed {seed}")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(photos), str(tmp_path), str(seed)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert len(result["kills"]) >= 10
    assert sum("in write" in moment for moment in result["kills"]) >= 3
    assert result["differences"] == []
