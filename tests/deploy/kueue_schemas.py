"""Strict JSON schemas of the Kueue kinds in use (kueue.x-k8s.io/v1beta2), written after its API reference.

`broken_rules` checks the rules that the webhooks of Kueue and KubeRay apply to a queued RayJob.
"""

from typing import Any

NAME: dict[str, Any] = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
QUANTITY: dict[str, Any] = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[kMGTPE]i?)?$"}
RESOURCE: dict[str, Any] = {"type": "string", "pattern": r"^([a-z0-9.-]+/)?[a-z0-9.-]+$"}
MAX_WORKER_GROUPS = 7


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def list_of(items: dict[str, Any], max_items: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": max_items}


def core(kind: str) -> dict[str, Any]:
    return {"$ref": f"_definitions.json#/$defs/io.k8s.api.core.v1.{kind}"}


def kind(name: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return fields(
        ("apiVersion", "kind", "metadata", *required),
        apiVersion={"const": "kueue.x-k8s.io/v1beta2"},
        kind={"const": name},
        metadata=fields(("name",), name=NAME, namespace=NAME),
        **properties,
    )


SCHEMAS = {
    "ResourceFlavor": kind(
        "ResourceFlavor",
        spec=fields(
            nodeLabels={"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 8},
            nodeTaints=list_of(core("Taint"), 8),
            tolerations=list_of(core("Toleration"), 8),
        ),
    ),
    "ClusterQueue": kind(
        "ClusterQueue",
        ("spec",),
        spec=fields(
            namespaceSelector={
                "$ref": "_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"
            },
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
            preemption=fields(
                reclaimWithinCohort={"enum": ["Never", "LowerPriority", "Any"]},
                withinClusterQueue={"enum": ["Never", "LowerPriority", "LowerOrNewerEqualPriority"]},
            ),
            resourceGroups=list_of(
                fields(
                    ("coveredResources", "flavors"),
                    coveredResources=list_of(RESOURCE, 64),
                    flavors=list_of(
                        fields(
                            ("name", "resources"),
                            name=NAME,
                            resources=list_of(
                                fields(("name", "nominalQuota"), name=RESOURCE, nominalQuota=QUANTITY), 64
                            ),
                        ),
                        64,
                    ),
                ),
                16,
            ),
        ),
    ),
    "LocalQueue": kind("LocalQueue", ("spec",), spec=fields(("clusterQueue",), clusterQueue=NAME)),
    "WorkloadPriorityClass": kind(
        "WorkloadPriorityClass",
        ("value",),
        value={"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
        description={"type": "string", "maxLength": 2048},
    ),
}


def broken_rules(job: dict[str, Any]) -> list[str]:
    """The rules for a RayJob managed by Kueue that this job breaks."""
    spec = job["spec"]
    cluster = spec.get("rayClusterSpec", {})
    groups = cluster.get("workerGroupSpecs", [])
    rules = {
        "names a queue": "kueue.x-k8s.io/queue-name" in job["metadata"].get("labels", {}),
        "starts suspended": spec.get("suspend") is True,
        "has its own cluster": bool(cluster) and not spec.get("clusterSelector"),
        "shuts its cluster down": spec.get("shutdownAfterJobFinishes") is True,
        "has no autoscaler": not cluster.get("enableInTreeAutoscaling")
        and "autoscalerOptions" not in cluster,
        "has at most 7 worker groups": 1 <= len(groups) <= MAX_WORKER_GROUPS,
        "has a fixed number of workers": all(
            group["replicas"] == group["minReplicas"] == group["maxReplicas"] > 0 for group in groups
        ),
        "submits with a Kubernetes job": spec.get("submissionMode", "K8sJobMode") == "K8sJobMode",
    }
    return [rule for rule, holds in rules.items() if not holds]
