"""deploy/kuberay/kueue: a study as a RayJob that Kueue admits, by the rules that its webhook and KubeRay's apply.

No Kueue is here: that it admits, preempts and resumes is its reference's word. What a preempted cluster's pods do with
their SIGTERM, and that the same command resumes on a new cluster, is run in tests/tuning/cluster/test_node_faults.py.
"""

import copy
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

Manifest = dict[str, Any]
UNITS = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30}


@pytest.fixture(scope="module")
def queues(deploy: Path) -> dict[str, dict[str, Manifest]]:
    """What the admin applies, by kind and name."""
    found: dict[str, dict[str, Manifest]] = defaultdict(dict)
    for document in yaml.safe_load_all((deploy / "kuberay" / "kueue" / "queues.yaml").read_text()):
        found[document["kind"]][document["metadata"]["name"]] = document
    return found


@pytest.fixture(scope="module")
def rayjob(queued_job: list[Manifest]) -> Manifest:
    (found,) = [document for document in queued_job if document["kind"] == "RayJob"]
    return found


def test_kueue_and_kuberay_take_the_job(rayjob: Manifest, kueue_kinds: ModuleType) -> None:
    assert kueue_kinds.ray_job_faults(rayjob) == []


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (("metadata", "labels"), {}, "names a queue"),
        (("spec", "suspend"), False, "begins suspended"),
        (("spec", "clusterSelector"), {"ray.io/cluster": "proxytune"}, "brings its cluster"),
        (("spec", "shutdownAfterJobFinishes"), False, "ends its cluster"),
        (("spec", "rayClusterSpec", "enableInTreeAutoscaling"), True, "has no autoscaler"),
        (
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"),
            8,
            "has a fixed number of workers",
        ),
        (("spec", "submissionMode"), "InteractiveMode", "submits by a job"),
    ],
)
def test_each_rule_would_see_its_fault(
    rayjob: Manifest, kueue_kinds: ModuleType, path: tuple[Any, ...], value: Any, rule: str
) -> None:
    broken = copy.deepcopy(rayjob)
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert kueue_kinds.ray_job_faults(broken) == [rule]


def test_the_job_names_a_queue_and_a_class_that_there_are(
    rayjob: Manifest, queues: dict[str, dict[str, Manifest]]
) -> None:
    labels = rayjob["metadata"]["labels"]
    local = queues["LocalQueue"][labels["kueue.x-k8s.io/queue-name"]]
    assert local["metadata"]["namespace"] == rayjob["metadata"]["namespace"]
    cluster = queues["ClusterQueue"][local["spec"]["clusterQueue"]]
    assert cluster["spec"]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": rayjob["metadata"]["namespace"]
    }
    assert labels["kueue.x-k8s.io/priority-class"] in queues["WorkloadPriorityClass"]
    for group in cluster["spec"]["resourceGroups"]:
        for flavor in group["flavors"]:
            assert flavor["name"] in queues["ResourceFlavor"]
            assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]


def amount(quantity: str | int) -> float:
    text = str(quantity)
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    return float(text.removesuffix(unit)) * UNITS.get(unit, 1.0)


def requests(template: Manifest, count: int) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for container in template["spec"]["containers"]:
        for name, quantity in container["resources"]["requests"].items():
            total[name] += count * amount(quantity)
    return total


def test_the_job_fits_its_quota_with_its_workers_on_one_type_of_gpu(
    rayjob: Manifest, queues: dict[str, dict[str, Manifest]]
) -> None:
    spec = rayjob["spec"]["rayClusterSpec"]
    (group,) = spec["workerGroupSpecs"]
    without_gpu = requests(spec["headGroupSpec"]["template"], 1)
    for name, value in requests(rayjob["spec"]["submitterPodTemplate"], 1).items():
        without_gpu[name] += value
    workers = requests(group["template"], group["replicas"])
    (resources,) = queues["ClusterQueue"]["studies"]["spec"]["resourceGroups"]
    covered = set(resources["coveredResources"])
    assert without_gpu.keys() | workers.keys() <= covered
    fits = {
        flavor["name"]: all(
            workers[resource["name"]] <= amount(resource["nominalQuota"]) for resource in flavor["resources"]
        )
        for flavor in resources["flavors"]
    }
    assert fits == {"cpu": False, "a100": True, "l4": True}
    first = resources["flavors"][0]
    assert first["name"] == "cpu"
    assert all(without_gpu[entry["name"]] <= amount(entry["nominalQuota"]) for entry in first["resources"])


def test_workers_tolerate_the_taints_of_every_gpu_flavor(
    rayjob: Manifest, queues: dict[str, dict[str, Manifest]]
) -> None:
    (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = [flavor["spec"] for flavor in queues["ResourceFlavor"].values() if "spec" in flavor]
    assert len(gpus) == 2
    for flavor in gpus:
        assert set(flavor["nodeLabels"]) == {"nvidia.com/gpu.product"}
        tolerated = {(toleration["key"], toleration["effect"]) for toleration in flavor["tolerations"]}
        own = {(entry["key"], entry["effect"]) for entry in group["template"]["spec"]["tolerations"]}
        for taint in flavor["nodeTaints"]:
            assert (taint["key"], taint["effect"]) in tolerated & own
