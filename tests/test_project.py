"""What is promised of the project as a whole: two commands, clean stops, and documents that tell the truth."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from django.core.management import get_commands

from dingcallback.environment import isolated
from registrar.management.commands.dingtalk import VERBS
from simulator.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
SOUND = {
    "SECRET_KEY": "0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "DINGTALK_TOKEN": "token-of-the-project-tests",
    "DINGTALK_AES_KEY": "k7Qm2ZxVb9TnR4wLc8YpJd6HsG3fAe5UoXi1NzBvMq0",
    "DINGTALK_CORP_ID": "dingprojecttests01",
    "DINGTALK_CALLBACK_URL": "https://callback.example.com/dingtalk/callback/",
}


def test_the_demo_handles_every_kind_of_event_and_exits_with_0() -> None:
    ports = {"PORT": str(free_port()), "SIMULATOR_PORT": str(free_port())}
    # what a developer has exported must not be touched
    environment = {**os.environ, **ports, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "DEBUG": "maybe"}
    command = [sys.executable, "-m", "simulator.demo", "--once"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in (
        "check_url",
        *("bpms_instance_change start", "bpms_task_change finish", "user_add_org", "user_leave_org"),
        *("org_dept_create", "org_dept_modify", "org_dept_remove", "brand_new_event_2030", "stored once"),
        *("ERP (standard)", "answered 503", "OA (dingtalk)", "verified by itself: "),
    ):
        assert shown in done.stdout


def test_the_demo_names_the_variable_when_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {**os.environ, "PORT": str(taken.getsockname()[1]), "SIMULATOR_PORT": str(free_port())}
        command = [sys.executable, "-m", "simulator.demo", "--once"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make demo PORT=" in done.stdout


def test_the_benchmark_measures_the_service_beside_the_two_others() -> None:
    environment = {**os.environ, "BENCH_EVENTS": "16", "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    command = [sys.executable, "-m", "benchmarks.acknowledge"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "bare function (a)" in done.stdout
    assert "Django GET (b)" in done.stdout


@contextmanager
def served(tmp_path: Path, command: list[str]) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Run the service as `make run` does, on an empty database, and wait until it is ready."""
    port = free_port()
    environment = isolated(os.environ, **SOUND, DATABASE_URL=f"sqlite:///{tmp_path / 'run.sqlite3'}")
    environment |= {"PORT": str(port), "HOST": "127.0.0.1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_ready(port, process)
        yield process, port
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, "the service ended"
        try:
            if requests.get(f"http://127.0.0.1:{port}/readyz", timeout=2).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    pytest.fail("the service did not become ready")


def wait_until_logged(log: Path, text: str) -> None:
    end = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < end, f"{text} was not logged"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_make_run_stops_with_its_children(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path, ["make", "-s", "run"]) as (process, port):
        wait_until_logged(tmp_path / "log", "carries deliveries")
        os.killpg(process.pid, number)  # as a terminal does, to make and to what it started
        process.wait(20)
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
    log = (tmp_path / "log").read_text()
    assert "deliver: stopped" in log
    assert "web stopped (rc=0)" in log


def test_serve_ends_when_the_web_server_cannot_start(tmp_path: Path) -> None:
    environment = isolated(os.environ, **SOUND, DATABASE_URL=f"sqlite:///{tmp_path / 'run.sqlite3'}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "manage.py", "serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode not in (0, None)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"PORT": "99999"}, "PORT is '99999': set it to a number from 1 to 65535"),
        ({"PORT": "abc"}, "PORT is 'abc': set it to a number from 1 to 65535"),
        ({"HOST": "192.0.2.1"}, "HOST 192.0.2.1 is no address of this machine: set it to 127.0.0.1 or 0.0.0.0"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, "check DATABASE_URL and that it is up"),
        ({"DATABASE_URL": "sqlite:////nowhere/at/all.sqlite3"}, "check DATABASE_URL and that it is up"),
    ],
)
def test_what_keeps_the_service_from_starting_is_one_line(changes: dict[str, str], line: str) -> None:
    environment = isolated(os.environ, **SOUND, DATABASE_URL="sqlite:///:memory:")
    environment |= {"HOST": "127.0.0.1", "PORT": str(free_port()), **changes}
    command = [sys.executable, "manage.py", "serve", "--migrate"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert line in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_an_app_of_ones_own_is_installed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "myshop").mkdir()
    (tmp_path / "myshop" / "__init__.py").touch()
    (tmp_path / "myshop" / "handlers.py").write_text(
        "from callbacks.routing import router\n\n\n@router.on('mine')\ndef handle(event):\n    return None\n"
    )
    program = "import django; django.setup(); from callbacks.routing import router; print(router.find('%s'))"
    environment = isolated(os.environ, **SOUND, EXTRA_APPS="myshop", DJANGO_SETTINGS_MODULE="dingcallback.settings")
    environment["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program % "handler:myshop.handlers.handle"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "myshop.handlers.handle" in done.stdout, done.stderr


def test_an_app_that_is_not_there_is_named() -> None:
    environment = isolated(os.environ, **SOUND, EXTRA_APPS="nobodys_shop,registrar.nothing")
    command = [sys.executable, "manage.py", "check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "EXTRA_APPS names 'nobodys_shop', which is no package here" in done.stderr
    assert "EXTRA_APPS names 'registrar.nothing'" in done.stderr


def test_the_deployment_checks_have_nothing_to_say() -> None:
    environment = isolated(os.environ, **SOUND)
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_migrations_match_the_models() -> None:
    environment = isolated(os.environ, **SOUND, DATABASE_URL="sqlite:///:memory:")
    command = [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_env_lists_every_setting_that_is_read() -> None:
    source = (ROOT / "dingcallback" / "settings.py").read_text()
    read = set(
        re.findall(
            r'env\.(?:text|secrets?|integers?|boolean|names|choice|time_zone|apps|brokers|networks)\(\s*"([A-Z_]+)"',
            source,
        )
    )
    listed = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert listed == read


def test_the_example_env_shows_the_defaults_that_hold() -> None:
    example = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^#([A-Z_]+)=(.+)$", example, re.MULTILINE))
    values = "{k: getattr(s, k, None) for k in %r}"
    program = f"import json; from dingcallback import settings as s; print(json.dumps({values}, default=str))"
    names = sorted(set(shown) - {"DATABASE_URL", "DEBUG", "TRUST_PROXY_HEADERS"})
    environment = isolated(os.environ, SECRET_KEY="x")
    done = subprocess.run(
        [sys.executable, "-c", program % names], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    for name, value in json.loads(done.stdout).items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        assert shown[name] == text, name


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_each_readme_names_only_commands_that_exist_and_all_verbs(readme: str) -> None:
    text = (ROOT / readme).read_text()
    commands = set(re.findall(r"manage\.py ([a-z]+)", text))
    assert commands <= set(get_commands())
    verbs = set(re.findall(r"manage\.py dingtalk ([a-z]+)", text))
    assert verbs == set(VERBS)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / path).exists(), path
