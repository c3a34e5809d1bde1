"""The fields of Kueue's kinds (kueue.x-k8s.io/v1beta2) as JSON schema, after its API reference, strict, as far as used.

`ray_job_faults` are the rules of the webhooks of Kueue and KubeRay for a RayJob that waits in a queue.
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


def some(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


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
            nodeTaints=some(core("Taint"), 8),
            tolerations=some(core("Toleration"), 8),
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
            resourceGroups=some(
                fields(
                    ("coveredResources", "flavors"),
                    coveredResources=some(RESOURCE, 64),
                    flavors=some(
                        fields(
                            ("name", "resources"),
                            name=NAME,
                            resources=some(
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


def ray_job_faults(job: dict[str, Any]) -> list[str]:
    """Which rules a RayJob breaks that Kueue is to manage."""
    spec = job["spec"]
    cluster = spec.get("rayClusterSpec", {})
    groups = cluster.get("workerGroupSpecs", [])
    rules = {
        "names a queue": "kueue.x-k8s.io/queue-name" in job["metadata"].get("labels", {}),
        "begins suspended": spec.get("suspend") is True,
        "brings its cluster": bool(cluster) and not spec.get("clusterSelector"),
        "ends its cluster": spec.get("shutdownAfterJobFinishes") is True,
        "has no autoscaler": not cluster.get("enableInTreeAutoscaling")
        and "autoscalerOptions" not in cluster,
        "has few worker groups": 1 <= len(groups) <= MAX_WORKER_GROUPS,
        "has a fixed number of workers": all(
            group["replicas"] == group["minReplicas"] == group["maxReplicas"] > 0 for group in groups
        ),
        "submits by a job": spec.get("submissionMode", "K8sJobMode") == "K8sJobMode",
    }
    return [rule for rule, kept in rules.items() if not kept]
