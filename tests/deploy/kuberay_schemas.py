"""Strict JSON schemas of KubeRay's ray.io/v1 kinds, written after its API reference (1.6); unknown keys are errors.

KubeRay's own CRDs are 900 kB each and in no package registry. Pod templates and other core types refer to Kubernetes'
schemas.
"""

from typing import Any

STRINGS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
BOOLEAN, INTEGER, STRING, OBJECT = (
    {"type": kind} for kind in ("boolean", "integer", "string", "object")
)  # fmt: skip
COUNT = {"type": "integer", "minimum": 0}


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def core(kind: str) -> dict[str, Any]:
    return {"$ref": f"_definitions.json#/$defs/io.k8s.api.core.v1.{kind}"}


RAY_CLUSTER_SPEC = fields(
    ("headGroupSpec",),
    authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName=STRING, enableK8sTokenAuth=BOOLEAN),
    autoscalerOptions=fields(
        env={"type": "array", "items": core("EnvVar")},
        envFrom={"type": "array", "items": core("EnvFromSource")},
        idleTimeoutSeconds=COUNT,
        image=STRING,
        imagePullPolicy=STRING,
        resources=core("ResourceRequirements"),
        securityContext=core("SecurityContext"),
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        version={"enum": ["v1", "v2"]},
        volumeMounts={"type": "array", "items": core("VolumeMount")},
    ),
    enableInTreeAutoscaling=BOOLEAN,
    headGroupSpec=fields(
        ("template",),
        enableIngress=BOOLEAN,
        headService=OBJECT,
        rayStartParams=STRINGS,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
        template=core("PodTemplateSpec"),
    ),
    headServiceAnnotations=STRINGS,
    managedBy=STRING,
    rayVersion=STRING,
    suspend=BOOLEAN,
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=STRING,
            idleTimeoutSeconds=COUNT,
            maxReplicas=COUNT,
            minReplicas=COUNT,
            numOfHosts={"type": "integer", "minimum": 1},
            rayStartParams=STRINGS,
            replicas=COUNT,
            scaleStrategy=OBJECT,
            suspend=BOOLEAN,
            template=core("PodTemplateSpec"),
        ),
    },
)

RAY_JOB_SPEC = fields(
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=COUNT,
    clusterSelector=STRINGS,
    deletionStrategy=OBJECT,
    entrypoint=STRING,
    entrypointNumCpus={"type": "number", "minimum": 0},
    entrypointNumGpus={"type": "number", "minimum": 0},
    entrypointResources=STRING,
    jobId=STRING,
    managedBy=STRING,
    metadata=STRINGS,
    rayClusterSpec=RAY_CLUSTER_SPEC,
    runtimeEnvYAML=STRING,
    shutdownAfterJobFinishes=BOOLEAN,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterConfig=fields(backoffLimit=COUNT),
    submitterPodTemplate=core("PodTemplateSpec"),
    suspend=BOOLEAN,
    ttlSecondsAfterFinished=COUNT,
)


def kind(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": name},
        metadata=OBJECT,
        spec=spec,
    )


SCHEMAS = {"RayCluster": kind("RayCluster", RAY_CLUSTER_SPEC), "RayJob": kind("RayJob", RAY_JOB_SPEC)}
