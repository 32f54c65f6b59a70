"""The command: what it refuses, where it listens, how it starts and ends."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from transnext.cli import main
from transnext.web.server import serving
from transnext.web.server.serving import _address, _listen

TOKEN = "a-token-of-24-characters"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "others could ask the models at 0.0.0.0: give a token"),
        (["--host", "0.0.0.0", "--token", "short"], "the token must have at least 16 plain characters"),
        (["--host", "192.0.2.1", "--token", TOKEN], "cannot listen at 192.0.2.1, port 8321"),
        (["--port", "70000"], "port is 70000"),
        (["nosuch_model"], "'nosuch_model' is neither a run folder"),
        (["--overwrite"], "--overwrite is for a page in one file"),
        (["--image-size", "64"], "--image-size is for a page in one file"),
    ],
)
def test_mistakes_are_said_in_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSNEXT_TOKEN", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["web", "--no-browser", *arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("transnext: ")
    assert said in line


def test_a_taken_port_gives_way_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr(serving, "PORT", taken)
        with _listen("127.0.0.1", None) as found:
            assert found.getsockname()[1] != taken
            assert found.proto == socket.IPPROTO_TCP
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1, port {taken}: address already in use"):
            _listen("127.0.0.1", taken)


def test_addresses_can_be_opened_on_this_machine() -> None:
    assert _address("127.0.0.1", 8321, None) == "http://127.0.0.1:8321/"
    assert _address("0.0.0.0", 80, "a b&c") == "http://127.0.0.1:80/?token=a+b%26c"
    assert _address("::1", 80, None) == "http://[::1]:80/"
    assert _address("::", 80, None) == "http://[::1]:80/"


def test_the_command_serves_until_it_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "transnext", "web", "--no-browser", "--port", "0", "--token", TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[1]
            assert "Ctrl-C ends it" in server.stdout.readline()
            with httpx2.Client(trust_env=False, timeout=60, follow_redirects=True) as client:
                base = address.partition("?")[0]
                assert client.get(base).status_code == 401
                assert client.get(address).status_code == 200
                picture = client.get(f"{base}examples/0.png").content
                assert client.put(f"{base}api/images", content=picture).json()["answer"]["top"]
            decoders = psutil.Process(server.pid).children()
            assert len(decoders) == 2
        finally:
            server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert errors == ""
    _, alive = psutil.wait_procs(decoders, timeout=10)
    assert alive == []
    assert list(tmp_path.iterdir()) == []
