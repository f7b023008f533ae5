"""Supervisor and domain lease: every process is ended, a dead one is named, domains are unique."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openvla_ros.bringup.ros_domain import DOMAINS, DomainLease, ros_environment
from openvla_ros.bringup.supervisor import ProcessDied, Supervisor

QUICK = ((signal.SIGINT, 0.5), (signal.SIGTERM, 0.5), (signal.SIGKILL, 5.0))
# Ignores everything but SIGKILL, as its child does; both write their pid when they are ready.
STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_processes_that_ignore_signals_are_killed_with_children(tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    with Supervisor(tmp_path, os.environ, QUICK) as supervisor:
        supervisor.start("stubborn", python(STUBBORN))
        log = tmp_path / "stubborn.log"
        wait_for(lambda: log.read_text().count("\n") == 2, 10, "both processes to be up")
        pids = [int(line) for line in log.read_text().split()]
        assert all(map(alive, pids))
    assert not any(map(alive, pids))


def test_process_that_handles_sigint_ends_by_itself(tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    # A shell that starts the tests in the background makes them ignore SIGINT.
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\ntry:\n"
    code += "    print('up', flush=True); time.sleep(600)\nexcept KeyboardInterrupt: print('closed')"
    with Supervisor(tmp_path, os.environ) as supervisor:
        supervisor.start("obedient", python(code))
        wait_for(lambda: "up" in (tmp_path / "obedient.log").read_text(), 10, "the process to be up")
        started = time.monotonic()
    assert (tmp_path / "obedient.log").read_text().split() == ["up", "closed"]
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("last_line", "message"),
    [
        ("no such checkpoint", "policy_node ended with status 3: no such checkpoint"),
        ("[FATAL] [12.3] [policy_node]: no statistics", "policy_node ended with status 3: no statistics"),
    ],
)
def test_dead_process_is_named_with_its_last_line(
    tmp_path: Path, wait_for: Callable[..., Any], last_line: str, message: str
) -> None:
    with Supervisor(tmp_path, os.environ, QUICK) as supervisor:
        supervisor.start("fine", python("import time; time.sleep(600)"))
        supervisor.check()
        supervisor.start("policy_node", python(f"import sys; print({last_line!r}); sys.exit(3)"))

        def died() -> str:
            try:
                supervisor.check()
            except ProcessDied as error:
                return str(error)
            return ""

        assert wait_for(died, 10, "the death to be noticed").splitlines()[0] == message


def test_missing_program_is_named(tmp_path: Path) -> None:
    with Supervisor(tmp_path, os.environ) as supervisor, pytest.raises(ProcessDied, match="cannot start sim_node"):
        supervisor.start("sim_node", ["/nonexistent/sim_node"])


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from openvla_ros.bringup.supervisor import Supervisor\n"
        "s = Supervisor(Path(sys.argv[1]), os.environ)\n"
        "s.start('child', [sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(s.pids['child'], flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(python(code, str(tmp_path)), stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not alive(pid), 10, "the child to end with its parent")


def test_simultaneous_leases_have_different_domains(ros_domain: int) -> None:
    first, second = DomainLease(), DomainLease()
    assert len({first.domain, second.domain, ros_domain}) == 3
    first.close()
    second.close()


def test_closed_lease_frees_its_domain() -> None:
    for _ in range(2 * len(DOMAINS)):
        DomainLease().close()


def test_lease_ends_when_its_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time; from openvla_ros.bringup.ros_domain import DomainLease\n"
    code += "lease = DomainLease(); print(lease.domain, flush=True); time.sleep(600)"
    holder = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    domain = int(holder.stdout.readline())
    # One candidate: the holder's domain, or none.
    monkeypatch.setattr("random.sample", lambda population, count: [domain] * count)
    with pytest.raises(RuntimeError, match="all ROS domains 1 to 100 are in use"):
        DomainLease()
    holder.kill()
    holder.wait()
    lease = DomainLease()
    assert lease.domain == domain
    lease.close()


def test_environment_limits_discovery_to_domain_and_machine() -> None:
    environment = ros_environment(42, {"EXTRA": "1"})
    assert environment["ROS_DOMAIN_ID"] == "42" and environment["EXTRA"] == "1"
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
