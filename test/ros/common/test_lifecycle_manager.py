"""The lifecycle manager with real nodes: up in order, down on a failure, and why."""

from __future__ import annotations

import signal
import time

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from openvla_msgs.msg import SafetyState
from std_srvs.srv import Trigger

from openvla_ros.nodes.common.qos import LATCHED

pytestmark = pytest.mark.ros


def test_a_failed_configure_shuts_the_stack_down(start_stack, wait_for):
    running = start_stack({"bridge_node": {"limit.sped": 0.3}}, policy=False)
    manager = running["lifecycle_manager"]
    wait_for(lambda: not manager.running, 180.0, "the manager to give up")
    assert manager.popen.returncode == 1
    last = [line for line in manager.output.splitlines() if "FATAL" in line]
    assert len(last) == 1 and (
        "bringup failed: 'bridge_node' did not configure: configure failed: "
        "unknown parameter 'limit.sped' for node 'bridge_node'; did you mean limit.speed" in last[0]
    )
    assert running["sim_node"].running and running["bridge_node"].running, "taken down, not killed"
    assert not any("Traceback" in process.output for process in running.values())


def test_a_lost_node_shuts_the_stack_down(start_stack, call, listen, spin_until):
    running = start_stack({"lifecycle_manager": {"watch_timeout": 5.0, "watch_period": 0.5}}, policy=False)
    safe = listen(SafetyState, "safety/state", LATCHED)
    spin_until(lambda: safe and safe[-1].state == SafetyState.READY, 180.0, "READY")
    assert call(GetState, "sim_node/get_state").current_state.label == "active"
    spin_until(
        lambda: "active: sim_node, bridge_node" in running["lifecycle_manager"].output, 30.0, "the manager's word"
    )
    running["sim_node"].popen.send_signal(signal.SIGKILL)
    spin_until(lambda: not running["lifecycle_manager"].running, 60.0, "the manager to give up")
    assert "bringup failed: 'sim_node' is lost" in running["lifecycle_manager"].output
    assert call(GetState, "bridge_node/get_state").current_state.label == "unconfigured"


@pytest.mark.slow
def test_a_death_during_configure_shuts_the_others_down(start_node, call, ros_node, spin_until):
    bridge = start_node("bridge_node", "--ros-args")
    waiting = ["-p", "image.timeout:=60.0"]  # for a camera that there is not
    policy = start_node("policy_node", "--ros-args", *waiting)
    manager = start_node("lifecycle_manager", "--ros-args", "-p", "managed_nodes:=[bridge_node, policy_node]")
    there = ros_node.create_client(GetState, "policy_node/get_state")
    spin_until(there.service_is_ready, 60.0, "the policy")
    spin_until(lambda: call(GetState, "bridge_node/get_state").current_state.label == "inactive", 60.0, "the bridge")
    newest = {"at": time.monotonic(), "answer": there.call_async(GetState.Request())}

    def busy() -> bool:
        """Whether it has not answered for a second: configuring is one callback."""
        if newest["answer"].done():
            newest.update(at=time.monotonic(), answer=there.call_async(GetState.Request()))
        return time.monotonic() - newest["at"] > 1.0

    spin_until(busy, 30.0, "the policy to be configured")
    policy.popen.send_signal(signal.SIGKILL)
    spin_until(lambda: not manager.running, 60.0, "the manager to give up")
    assert manager.popen.returncode == 1
    assert "bringup failed: 'policy_node' did not configure: its process ended or hangs" in manager.output
    assert call(GetState, "bridge_node/get_state").current_state.label == "unconfigured" and bridge.running


@pytest.mark.slow
def test_two_namespaces_are_independent(start_stack, call, listen, spin_until):
    stacks = {side: start_stack(policy=False, namespace=side) for side in ("left", "right")}
    safe = {side: listen(SafetyState, f"/{side}/safety/state", LATCHED) for side in stacks}
    for side, states in safe.items():
        spin_until(lambda s=states: s and s[-1].state == SafetyState.READY, 180.0, f"READY of {side}")
    call(Trigger, "/left/bridge_node/e_stop")
    spin_until(lambda: safe["left"][-1].state == SafetyState.ESTOP, 30.0, "the emergency stop")
    assert safe["right"][-1].state == SafetyState.READY
    stacks["right"]["sim_node"].popen.send_signal(signal.SIGKILL)
    spin_until(lambda: not stacks["right"]["lifecycle_manager"].running, 60.0, "the manager of right to give up")
    assert call(GetState, "/right/bridge_node/get_state").current_state.label == "unconfigured"
    assert call(GetState, "/left/bridge_node/get_state").current_state.label == "active"
    assert stacks["left"]["lifecycle_manager"].running


def test_an_absent_node_is_named(start_node, wait_for):
    manager = start_node("lifecycle_manager", "--ros-args", "-p", "managed_nodes:=[ghost]", "-p", "start_timeout:=1.0")
    wait_for(lambda: not manager.running, 30.0, "the manager to give up")
    assert manager.popen.returncode == 1
    assert "'ghost' did not appear within 1 s; is its process running?" in manager.output


def test_an_invalid_transition_is_refused(start_node, call):
    bridge = start_node("bridge_node", "--ros-args")
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_DEACTIVATE
    assert not call(ChangeState, "bridge_node/change_state", transition=request.transition).success
    assert call(GetState, "bridge_node/get_state").current_state.label == "unconfigured"
    assert bridge.running and "Traceback" not in bridge.output


def test_the_managers_parameters_are_checked(start_node, wait_for):
    manager = start_node("lifecycle_manager", "--ros-args", "-p", "start_timeout:=0.1")
    wait_for(lambda: not manager.running, 30.0, "the manager to give up")
    assert manager.popen.returncode == 2
    assert "parameter 'start_timeout' is 0.1; it must be 1 … 3600 s" in manager.output
