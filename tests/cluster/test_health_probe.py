"""health-probe-flap where a probe can kill: a kubelet that asks a busy container for a sign of progress, impatiently.

The probe computes, as one does that asks an engine for a token; what it takes is half a second on a processor of its own.
"""

from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.tests.cluster.steps import everything_ours
from blackstart.tests.cluster.web import PORT, SERVER, own_namespace, pod, profile_of, serve
from blackstart.tests.command import Blackstart

LOADS = f"import time\nwhile time.process_time() < 3: pass\n{SERVER}"  # so that an end costs more answers than slowness does
COMPUTES = "import time\nwhile time.process_time() < 0.5: pass"
SCENARIO = """\
apiVersion: blackstart/v1
kind: Scenario
name: busy
steady_state: {hold: 3s}
faults:
  - {kind: cpu-stress, workers: 4, at: 0s, for: 12s}
objectives: {availability: ">= 85%"}
blast_radius: {share: 100%}
observe: 14s
settle: 2s
"""


PROBED: dict[str, Any] = {
    "command": ["python3", "-I", "-c", LOADS],
    "startupProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, "failureThreshold": 60},
    "livenessProbe": {
        "exec": {"command": ["python3", "-I", "-S", "-c", COMPUTES]},
        "periodSeconds": 1,
        "timeoutSeconds": 2,
        "failureThreshold": 2,
    },
    "resources": {"limits": {"cpu": "1", "memory": "256Mi"}, "requests": {"cpu": "500m", "memory": "64Mi"}},
}


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_busy_container_is_ended_by_an_impatient_probe(
    blackstart: Blackstart, api: KubeApi, image: str, tmp_path: Path
) -> None:
    scenario = tmp_path / "busy.yaml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    replica = pod(image)
    replica["containers"][0].update(PROBED)
    with own_namespace(api, "restricted") as namespace:
        serve(api, namespace, replica, 1)
        service = profile_of(namespace, image, tmp_path, rate="10/s")
        done = blackstart.telling("run", scenario, "--service", service, "--yes")
        (standing,) = api.items(place("pods", namespace), labels="app=web")[0]
        (state,) = standing["status"]["containerStatuses"]
        assert done.result["verdict"] == "failed", f"{done.out}\n{done.err}"
        assert state["restartCount"] > 0, state
        assert {one["name"]: one["verdict"] for one in done.result["objectives"]} == {"availability": "failed"}
        (fault,) = done.result["faults"]
        assert fault["undo_verified"]
        assert everything_ours(api, service) == []
