"""What the command line and the package import, each in a fresh process."""

import os
import subprocess
import sys

import pytest

from transnext.cli.main import COMMANDS, GROUPS

HEAVY = (
    "torch",
    "timm",
    "torchvision",
    "matplotlib",
    "accelerate",
    "numpy",
    "transformers",
    "supervision",
    "scipy",
    "av",
)


def python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **env}
    )
    return done.stdout


def after(*commands: tuple[str, ...]) -> set[str]:
    """The modules that a process has imported when commands have ended."""
    code = f"""
import sys
from transnext.cli import main
for args in {list(map(list, commands))!r}:
    try:
        main(args)
    except SystemExit:
        pass
print("\\n", *sys.modules)
"""
    return set(python(code).splitlines()[-1].split())


@pytest.mark.parametrize(
    "args",
    [
        ("--help",),
        ("--version",),
        (),
        ("trian",),
        ("--frobnicate",),
        ("detect",),
        ("detect", "--help"),
        ("detect", "predcit"),
        *((group, command, "--help") for group, commands in GROUPS.items() for command in commands),
    ],
)
def test_nothing_heavy_is_imported_to_answer(args) -> None:
    assert not after(args) & set(HEAVY)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command) -> None:
    if command == "info":
        pytest.skip("shows what PyTorch can do")
    assert not after((command, "--help")) & set(HEAVY)


def test_help_lists_the_commands() -> None:
    out = subprocess.run([sys.executable, "-m", "transnext", "--help"], capture_output=True, text=True).stdout
    for command in COMMANDS:
        assert f" {command} " in out
    for group in GROUPS:
        assert f" {group} " in out
    assert "Say what images show." in out
    out = subprocess.run([sys.executable, "-m", "transnext", "detect", "--help"], capture_output=True, text=True).stdout
    for command in GROUPS["detect"]:
        assert f" {command} " in out
    assert "Find objects in images and videos." in out


def test_predict_and_models_import_no_trainer(tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    found = after(("predict", str(tmp_path / "a.png")), ("models",))
    assert "torch" in found
    assert not found & {"accelerate", "matplotlib", "tensorboard", "transnext.engine.trainer"}


@pytest.mark.parametrize(
    "code",
    [
        "import timm, transnext",
        "import transnext, importlib.util\nimportlib.util.find_spec('timm')\nfrom timm import data\nimport timm",
        "from transnext import TransNeXt\nimport timm",
    ],
)
def test_the_models_are_registered_in_any_order(code) -> None:
    code += """
import sys
assert timm.is_model("transnext_tiny")
import torch
assert hasattr(torch.ops.transnext, "aggregated_attention")
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "transnext.lazily"]
assert timm.create_model("transnext_pico", device="meta").num_classes == 22
"""
    python(code)


def test_names_of_the_package() -> None:
    python("""
import sys
import transnext
assert "torch" not in sys.modules
for name in transnext.__all__:
    assert getattr(transnext, name) is not None, name
from transnext import *
assert transnext.models.TransNeXt is TransNeXt
assert transnext.ops.aggregated_attention and transnext.tasks.classification.recipes is recipes
try:
    transnext.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError
""")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "1000 0"),
        ({"GOMP_SPINCOUNT": "7"}, "7 0"),
        ({"KMP_BLOCKTIME": "infinite"}, "1000 infinite"),
        ({"OMP_WAIT_POLICY": "active"}, "None None"),
    ],
)
def test_threads_do_not_spin_unless_asked(env, expected, monkeypatch) -> None:
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    code = """
import os
from transnext.cli import main
main(["--version"])
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("KMP_BLOCKTIME"))
"""
    assert python(code, **env).splitlines()[-1] == expected


# Threads that wait between regions burn no time: the main thread sleeps, and so must they.
IDLE = """
import time
{setting}
import torch
torch.set_num_threads(2)
x = torch.ones(2**16)
used = 0
for _ in range(60):
    x.add_(1)
    before = time.process_time()
    time.sleep(0.01)
    used += time.process_time() - before
print(used)
"""


def test_the_setting_comes_early_enough(monkeypatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    setting = "from transnext.cli.process import let_threads_sleep; let_threads_sleep()"
    asleep = float(python(IDLE.format(setting=setting)))
    assert asleep < 0.03, f"{asleep} s of 0.6 s; with threads that spin some 0.13"
