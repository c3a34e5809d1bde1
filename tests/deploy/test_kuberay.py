"""The manifests of deploy/kuberay: schemas of Kubernetes and KubeRay, security rules, consistency.

The behaviour of KubeRay's operator is not tested, since that requires a cluster.
"""

import copy
import importlib.resources
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from proxytune.tuning.spec.study_files import read_study
from tests.deploy import kuberay_schemas, kueue_schemas

Manifest = dict[str, Any]
VERSION = "1.34"
RAY_PORTS = {6379, 8265, 10001, 44217, 44227, 52365}


def definitions() -> dict[str, Any]:
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    text = (folder / f"v{VERSION}.0-local-strict" / "_definitions.json").read_text()
    return dict(json.loads(text))


@pytest.fixture(scope="module")
def validate() -> Any:
    """A function that raises a ValidationError if a manifest does not match the schema of its kind."""
    registry: Registry[Any] = Registry().with_resource(
        "_definitions.json", DRAFT202012.create_resource(definitions())
    )
    schemas = kuberay_schemas.SCHEMAS | kueue_schemas.SCHEMAS

    def check(document: Manifest) -> None:
        if document["apiVersion"].startswith(("ray.io/", "kueue.x-k8s.io/")):
            schema = schemas[document["kind"]]
            jsonschema.Draft202012Validator(schema, registry=registry).validate(document)
        else:
            kubernetes_validate.validate(document, VERSION, strict=True)

    return check


def pods(documents: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template of the documents, with a name for messages."""

    def ray(name: str, spec: Manifest) -> Iterator[tuple[str, Manifest]]:
        yield f"{name} head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"{name} worker {group['groupName']}", group["template"]

    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield name, document["spec"]["template"]
        elif document["kind"] == "RayCluster":
            yield from ray(name, document["spec"])
        elif document["kind"] == "RayJob":
            yield f"{name} submitter", document["spec"]["submitterPodTemplate"]
            if "rayClusterSpec" in document["spec"]:
                yield from ray(name, document["spec"]["rayClusterSpec"])


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]


@pytest.fixture(
    params=[
        "all_manifests",
        "cluster_manifests",
        "job_manifests",
        "queued_job_manifests",
        "cluster_manifests_with_bucket",
    ]
)
def documents(request: pytest.FixtureRequest) -> list[Manifest]:
    manifests: list[Manifest] = request.getfixturevalue(request.param)
    return manifests


def test_manifests_match_their_schemas(documents: list[Manifest], validate: Any) -> None:
    assert documents
    for document in documents:
        validate(document)


@pytest.mark.parametrize(
    ("kind", "path", "key"),
    [
        ("RayCluster", ("spec", "headGroupSpec", "template", "spec", "containers", 0), "imagePullPolicyy"),
        ("RayCluster", ("spec", "workerGroupSpecs", 0), "maxReplica"),
        ("RayCluster", ("spec", "authOptions"), "tokenName"),
        ("RayJob", ("spec",), "backoffLimits"),
        ("StatefulSet", ("spec", "template", "spec"), "hostNet"),
        ("ClusterQueue", ("spec", "preemption"), "withinQueue"),
        ("ResourceFlavor", (), "nodeLabels"),
    ],
)
def test_schema_rejects_an_unknown_key(
    all_manifests: list[Manifest], validate: Any, kind: str, path: tuple[Any, ...], key: str
) -> None:
    document = copy.deepcopy(next(document for document in all_manifests if document["kind"] == kind))
    parent = document
    for step in path:
        parent = parent[step]
    parent[key] = "1"
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def test_pods_run_unprivileged_with_limits_and_a_read_only_root(documents: list[Manifest]) -> None:
    named_pods = list(pods(documents))
    assert named_pods
    for name, pod in named_pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        # The head's pod contains the autoscaler, which adds and removes workers.
        if not name.endswith("head"):
            assert spec["automountServiceAccountToken"] is False, name
        for volume in spec.get("volumes", []):
            assert "hostPath" not in volume, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
            assert not any("hostPort" in port for port in container.get("ports", [])), name
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounts, name  # every program writes temporary files
    clusters = [document["spec"] for document in documents if document["kind"] == "RayCluster"]
    for cluster in clusters:
        assert cluster["autoscalerOptions"]["securityContext"]["readOnlyRootFilesystem"] is True


def test_network_policies_deny_by_default_and_restrict_ray_ports_to_pods(
    cluster_manifests: list[Manifest], cluster_manifests_with_bucket: list[Manifest]
) -> None:
    for documents in (cluster_manifests, cluster_manifests_with_bucket):
        policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
        assert any(
            policy["spec"]["podSelector"] == {} and policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            and not policy["spec"].get("ingress") and not policy["spec"].get("egress")
            for policy in policies
        )  # fmt: skip
        assert {policy["metadata"]["namespace"] for policy in policies} == {"proxytune"}
        for policy in policies:
            for rule in policy["spec"].get("ingress", []):
                assert rule.get("from"), policy["metadata"]["name"]
                open_ports = {port["port"] for port in rule.get("ports", [])} or RAY_PORTS
                if open_ports & RAY_PORTS:
                    for peer in rule["from"]:
                        assert peer.get("podSelector"), policy["metadata"]["name"]
                        assert "ipBlock" not in peer, policy["metadata"]["name"]
        for document in documents:
            assert document["kind"] != "Ingress"
            if document["kind"] == "Service":
                assert document["spec"].get("type", "ClusterIP") == "ClusterIP"
            if document["kind"] == "RayCluster":
                assert document["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
                assert document["spec"]["headGroupSpec"]["enableIngress"] is False


def selects(policy: Manifest, labels: dict[str, str]) -> bool:
    """Whether the policy's pod selector matches a pod with these labels."""
    selector = policy["spec"]["podSelector"]
    matches = selector.get("matchLabels", {}).items() <= labels.items()
    return matches and all(rule["key"] in labels for rule in selector.get("matchExpressions", []))


def test_network_policies_allow_required_and_deny_forbidden_connections(
    cluster_manifests: list[Manifest], job_manifests: list[Manifest]
) -> None:
    documents = [*cluster_manifests, *job_manifests]
    labels = {name: dict(pod.get("metadata", {}).get("labels", {})) for name, pod in pods(documents)}
    for name, pod_labels in labels.items():
        for kind in ("head", "worker"):
            if kind in name:  # the labels that KubeRay adds
                assert not pod_labels
                pod_labels |= {"ray.io/cluster": "proxytune", "ray.io/node-type": kind}
    head, worker = "RayCluster proxytune head", "RayCluster proxytune worker gpu"
    required = [
        (head, "StatefulSet postgres", 5432),
        (head, "Deployment mlflow", 5000),
        (head, worker, 10002),
        (worker, head, 6379),
        ("Deployment serve", head, 8265),
        ("Deployment serve", "StatefulSet postgres", 5432),
        ("Deployment serve", "Deployment mlflow", 5000),
        ("Deployment mlflow", "StatefulSet postgres", 5432),
        ("RayJob study submitter", "RayJob study head", 8265),
    ]
    forbidden = [
        (worker, "StatefulSet postgres", 5432),
        (worker, "Deployment mlflow", 5000),
        ("Deployment mlflow", head, 8265),
        ("RayJob study submitter", "StatefulSet postgres", 5432),
    ]
    policies = [document for document in cluster_manifests if document["kind"] == "NetworkPolicy"]

    def allowed(source: str, target: str, port: int) -> bool:
        def allowed_by(pod: str, peer_pod: str, direction: str, peers: str) -> bool:
            return any(
                selects({"spec": peer}, labels[peer_pod])
                for policy in policies
                if selects(policy, labels[pod])
                for rule in policy["spec"].get(direction, [])
                if port in [entry["port"] for entry in rule.get("ports", [])] or not rule.get("ports")
                for peer in rule[peers]
                if "podSelector" in peer and "namespaceSelector" not in peer
            )

        return allowed_by(source, target, "egress", "to") and allowed_by(target, source, "ingress", "from")

    assert [connection for connection in required if not allowed(*connection)] == []
    assert [connection for connection in forbidden if allowed(*connection)] == []


def test_ray_uses_a_token_and_secrets_are_references(documents: list[Manifest]) -> None:
    for document in documents:
        assert document["kind"] != "Secret"
        spec = document["spec"] if document["kind"] == "RayCluster" else None
        if document["kind"] == "RayJob":
            spec = document["spec"].get("rayClusterSpec")
        if spec:
            assert spec["authOptions"] == {"mode": "token", "secretName": "ray-token"}
            assert spec["rayVersion"]
    for name, pod in pods(documents):
        for container in containers(pod):
            for variable in container.get("env", []):
                if re.search(r"PASSWORD$|TOKEN$|SECRET|_KEY$", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], (name, variable["name"])
            words = " ".join([*container.get("command", []), *container.get("args", [])])
            assert not re.search(r"://[^/\s:@]*:[^/\s@]*@", words), name  # a password in a URL


def test_each_database_has_its_own_role_and_its_url_no_password(all_manifests: list[Manifest]) -> None:
    text = json.dumps(all_manifests)
    urls = set(re.findall(r"postgresql\+psycopg://[^\s\"]*", text))
    assert urls == {
        "postgresql+psycopg://mlflow@postgres/mlflow",
        "postgresql+psycopg://proxytune@postgres/proxytune",
    }


def test_secrets_of_the_pods_are_those_that_the_script_creates(
    cluster_manifests_with_bucket: list[Manifest], job_manifests: list[Manifest], deploy: Path
) -> None:
    script = (deploy / "secrets.sh").read_text()
    created = set(re.search(r"for name in (.*); do", script)[1].split())  # type: ignore[index]
    text = json.dumps([*cluster_manifests_with_bucket, *job_manifests])
    used = set(re.findall(r'"secretName": "([^"]+)"', text))
    used |= set(re.findall(r'"secretKeyRef": \{"key": "[^"]+", "name": "([^"]+)"', text))
    used |= set(re.findall(r'"secretRef": \{"name": "([^"]+)"', text))
    assert used - created == {"s3"}  # of the optional component; the README describes how to create it
    assert created <= used
    assert "secret generic s3" in (deploy / "README.md").read_text()


def test_grace_period_of_ray_pods_exceeds_the_time_for_checkpoints(documents: list[Manifest]) -> None:
    for name, pod in pods(documents):
        for container in containers(pod):
            if "lifecycle" in container:
                (command, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
                assert command == "leave-node"
                assert pod["spec"]["terminationGracePeriodSeconds"] >= int(seconds) + 30, name
    ray_pods = [name for name, _ in pods(documents) if name.startswith("Ray")]
    with_hook = [name for name, pod in pods(documents) if "lifecycle" in containers(pod)[0]]
    assert with_hook == [name for name in ray_pods if not name.endswith("submitter")]


def test_job_runs_the_study_on_pods_like_those_of_the_cluster(
    cluster_manifests: list[Manifest], job_manifests: list[Manifest], deploy: Path
) -> None:
    (cluster,) = [document for document in cluster_manifests if document["kind"] == "RayCluster"]
    assert [document["kind"] for document in job_manifests] == ["ConfigMap", "RayJob"]
    config, rayjob = job_manifests
    assert rayjob["spec"]["rayClusterSpec"] == cluster["spec"]
    assert rayjob["spec"]["backoffLimit"] > 0
    assert rayjob["spec"]["entrypoint"] == "proxytune run /etc/proxytune/study.yaml --address auto"
    head = cluster["spec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    (mounted,) = [volume for volume in head["template"]["spec"]["volumes"] if volume["name"] == "study"]
    assert mounted["configMap"]["name"] == config["metadata"]["name"]
    environment = yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"])["env_vars"]
    assert environment["RAY_JOB_STOP_SIGNAL"] == "SIGTERM"
    grace = head["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 30 <= int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) <= grace
    spec = read_study(str(deploy / "kuberay" / "rayjob" / "study.yaml"))
    mounts = {mount["mountPath"] for mount in head["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert str(spec.storage) in mounts
    assert spec.database == "postgresql+psycopg://proxytune@postgres/proxytune"
    assert spec.tracking.uri == "http://mlflow:5000"
    worker = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    limits = worker["resources"]["limits"]
    assert spec.resources.cpu <= int(limits["cpu"])
    assert spec.resources.gpu == limits["nvidia.com/gpu"]


def test_studies_in_a_bucket_need_no_shared_volume(cluster_manifests_with_bucket: list[Manifest]) -> None:
    manifests = cluster_manifests_with_bucket
    claims = [each["metadata"]["name"] for each in manifests if each["kind"] == "PersistentVolumeClaim"]
    assert claims == ["mlflow-artifacts"]
    (cluster,) = [document for document in manifests if document["kind"] == "RayCluster"]
    assert '"claimName": "studies"' not in json.dumps(manifests)
    for name, pod in pods([cluster]):
        assert containers(pod)[0]["envFrom"] == [{"secretRef": {"name": "s3"}}], name


def test_image_tags_and_ray_version_are_those_of_the_project(
    cluster_manifests: list[Manifest], deploy: Path
) -> None:
    project = tomllib.loads((deploy.parent / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==") for line in (deploy.parent / "constraints.txt").read_text().split() if "==" in line
    )
    (cluster,) = [document for document in cluster_manifests if document["kind"] == "RayCluster"]
    assert cluster["spec"]["rayVersion"] == pins["ray"]
    images = {container["image"] for _, pod in pods(cluster_manifests) for container in containers(pod)}
    proxytune_images = {image for image in images if "proxytune" in image}
    assert len(proxytune_images) == 2
    assert all(image.endswith(f":{project['version']}") for image in proxytune_images)
    assert not [image for image in images if ":" not in image or image.endswith(":latest")]
    for name in ("compose.yaml", "aws/cluster.yaml", "Dockerfile", "kuberay/rayjob/kustomization.yaml"):
        tags = re.findall(
            r"proxytune-(?:cpu|cuda)(?::|, newTag: |.*newTag: )([0-9.]+[0-9])", (deploy / name).read_text()
        )
        assert tags, name
        assert set(tags) == {project["version"]}, name
