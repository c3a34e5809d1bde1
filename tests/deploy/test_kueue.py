"""deploy/kuberay/kueue: a study as a queued RayJob that follows the rules of Kueue's and KubeRay's webhooks.

Admission, preemption and resumption by Kueue are not tested, since they require a cluster. The response of a preempted
cluster to SIGTERM and the resumption on a new cluster are tested in tests/tuning/cluster/test_node_faults.py.
"""

import copy
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.kueue_schemas import broken_rules

Manifest = dict[str, Any]
UNITS = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30}


@pytest.fixture(scope="module")
def queues(deploy: Path) -> dict[str, dict[str, Manifest]]:
    """The objects that the administrator applies, by kind and name."""
    objects: dict[str, dict[str, Manifest]] = defaultdict(dict)
    for document in yaml.safe_load_all((deploy / "kuberay" / "kueue" / "queues.yaml").read_text()):
        objects[document["kind"]][document["metadata"]["name"]] = document
    return objects


@pytest.fixture(scope="module")
def rayjob(queued_job_manifests: list[Manifest]) -> Manifest:
    (document,) = [document for document in queued_job_manifests if document["kind"] == "RayJob"]
    return document


def test_queued_job_breaks_no_rule_of_the_webhooks(rayjob: Manifest) -> None:
    assert broken_rules(rayjob) == []


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (("metadata", "labels"), {}, "names a queue"),
        (("spec", "suspend"), False, "starts suspended"),
        (("spec", "clusterSelector"), {"ray.io/cluster": "proxytune"}, "has its own cluster"),
        (("spec", "shutdownAfterJobFinishes"), False, "shuts its cluster down"),
        (("spec", "rayClusterSpec", "enableInTreeAutoscaling"), True, "has no autoscaler"),
        (
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"),
            8,
            "has a fixed number of workers",
        ),
        (("spec", "submissionMode"), "InteractiveMode", "submits with a Kubernetes job"),
    ],
)
def test_changed_field_breaks_its_rule(
    rayjob: Manifest, path: tuple[Any, ...], value: Any, rule: str
) -> None:
    changed = copy.deepcopy(rayjob)
    parent: Any = changed
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    assert broken_rules(changed) == [rule]


def test_queue_and_priority_class_of_the_job_exist(
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
    """A Kubernetes quantity such as 500m or 8Gi as a number."""
    text = str(quantity)
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    return float(text.removesuffix(unit)) * UNITS.get(unit, 1.0)


def requests(template: Manifest, count: int) -> dict[str, float]:
    """The resources that `count` pods of the template request, by name."""
    total: dict[str, float] = defaultdict(float)
    for container in template["spec"]["containers"]:
        for name, quantity in container["resources"]["requests"].items():
            total[name] += count * amount(quantity)
    return total


def test_workers_fit_the_quota_of_each_gpu_flavor_and_other_pods_the_cpu_flavor(
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
    gpu_flavors = [flavor["spec"] for flavor in queues["ResourceFlavor"].values() if "spec" in flavor]
    assert len(gpu_flavors) == 2
    for flavor in gpu_flavors:
        assert set(flavor["nodeLabels"]) == {"nvidia.com/gpu.product"}
        by_flavor = {(entry["key"], entry["effect"]) for entry in flavor["tolerations"]}
        by_pod = {(entry["key"], entry["effect"]) for entry in group["template"]["spec"]["tolerations"]}
        for taint in flavor["nodeTaints"]:
            assert (taint["key"], taint["effect"]) in by_flavor & by_pod
