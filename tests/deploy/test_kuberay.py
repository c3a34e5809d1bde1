"""deploy/kuberay against Kubernetes' and KubeRay's schemas, and the rules S19 to S22 of the security checklist.

No cluster is here: what only a cluster can tell (that KubeRay's operator does what its reference says) is not tested.
"""

import copy
import importlib.resources
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from proxytune.tuning.spec.study_files import read_study

Manifest = dict[str, Any]
VERSION = "1.34"
RAY_PORTS = {6379, 8265, 10001, 44217, 44227, 52365}


def definitions() -> dict[str, Any]:
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    found: dict[str, Any] = json.loads(
        (folder / f"v{VERSION}.0-local-strict" / "_definitions.json").read_text()
    )
    return found


@pytest.fixture(scope="module")
def validate(ray_io: ModuleType, kueue_kinds: ModuleType) -> Any:
    registry: Registry[Any] = Registry().with_resource(
        "_definitions.json", DRAFT202012.create_resource(definitions())
    )

    def check(document: Manifest) -> None:
        if document["apiVersion"].startswith(("ray.io/", "kueue.x-k8s.io/")):
            schema = (ray_io.SCHEMAS | kueue_kinds.SCHEMAS)[document["kind"]]
            jsonschema.Draft202012Validator(schema, registry=registry).validate(document)
        else:
            kubernetes_validate.validate(document, VERSION, strict=True)

    return check


def pods(documents: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template, with a name for messages."""

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


@pytest.fixture(params=["written", "standing", "job", "queued_job", "with_options"])
def documents(request: pytest.FixtureRequest) -> list[Manifest]:
    found: list[Manifest] = request.getfixturevalue(request.param)
    return found


def test_everything_fits_its_schema(documents: list[Manifest], validate: Any) -> None:
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
def test_the_schemas_see_a_misspelt_key(
    written: list[Manifest], validate: Any, kind: str, path: tuple[Any, ...], key: str
) -> None:
    document = copy.deepcopy(next(document for document in written if document["kind"] == kind))
    place = document
    for step in path:
        place = place[step]
    place[key] = "1"
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def test_s19_no_pod_has_more_rights_than_it_needs(documents: list[Manifest]) -> None:
    found = list(pods(documents))
    assert found
    for name, pod in found:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        if not name.endswith("head"):  # the autoscaler beside the head adds and removes workers
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
            assert "/tmp" in mounts, name  # everything writes to its temporary folder
    clusters = [document["spec"] for document in documents if document["kind"] == "RayCluster"]
    for cluster in clusters:
        assert cluster["autoscalerOptions"]["securityContext"]["readOnlyRootFilesystem"] is True


def test_s20_nothing_is_open_to_all(standing: list[Manifest], with_options: list[Manifest]) -> None:
    for documents in (standing, with_options):
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


def selected(policy: Manifest, labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(rule["key"] in labels for rule in selector.get("matchExpressions", []))


def test_every_flow_that_the_pods_need_is_allowed_on_both_sides(
    standing: list[Manifest], job: list[Manifest]
) -> None:
    labels = {name: dict(pod.get("metadata", {}).get("labels", {})) for name, pod in pods([*standing, *job])}
    for name, found in labels.items():
        for kind in ("head", "worker"):
            if kind in name:  # what KubeRay adds
                assert not found
                found |= {"ray.io/cluster": "proxytune", "ray.io/node-type": kind}
    head, worker = "RayCluster proxytune head", "RayCluster proxytune worker gpu"
    flows = [
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
    policies = [document for document in standing if document["kind"] == "NetworkPolicy"]

    def allowed(source: str, target: str, port: int) -> bool:
        def open_on(me: str, other: str, way: str, ends: str) -> bool:
            return any(
                selected({"spec": peer}, labels[other])
                for policy in policies
                if selected(policy, labels[me])
                for rule in policy["spec"].get(way, [])
                if port in [entry["port"] for entry in rule.get("ports", [])] or not rule.get("ports")
                for peer in rule[ends]
                if "podSelector" in peer and "namespaceSelector" not in peer
            )

        return open_on(source, target, "egress", "to") and open_on(target, source, "ingress", "from")

    assert [flow for flow in flows if not allowed(*flow)] == []
    assert [flow for flow in forbidden if allowed(*flow)] == []


def test_s21_tokens_are_on_and_secrets_are_references(documents: list[Manifest]) -> None:
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


def test_s22_databases_have_a_role_each_and_no_password_in_a_url(written: list[Manifest]) -> None:
    text = json.dumps(written)
    urls = set(re.findall(r"postgresql\+psycopg://[^\s\"]*", text))
    assert urls == {
        "postgresql+psycopg://mlflow@postgres/mlflow",
        "postgresql+psycopg://proxytune@postgres/proxytune",
    }


def test_the_secrets_that_pods_name_are_the_ones_that_are_made(
    with_options: list[Manifest], job: list[Manifest], deploy: Path
) -> None:
    script = (deploy / "secrets.sh").read_text()
    made = set(re.search(r"for name in (.*); do", script)[1].split())  # type: ignore[index]
    text = json.dumps([*with_options, *job])
    named = set(re.findall(r'"secretName": "([^"]+)"', text))
    named |= set(re.findall(r'"secretKeyRef": \{"key": "[^"]+", "name": "([^"]+)"', text))
    named |= set(re.findall(r'"secretRef": \{"name": "([^"]+)"', text))
    assert named - made == {"s3"}  # of the option: the README says how to make it
    assert made <= named
    for name in named - made:
        assert f"secret generic {name}" in (deploy / "README.md").read_text()


def test_a_pod_is_given_longer_than_its_checkpoints_may_take(documents: list[Manifest]) -> None:
    for name, pod in pods(documents):
        for container in containers(pod):
            if "lifecycle" in container:
                (command, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
                assert command == "leave-node"
                assert pod["spec"]["terminationGracePeriodSeconds"] >= int(seconds) + 30, name
    ray = [name for name, _ in pods(documents) if name.startswith("Ray")]
    with_hook = [name for name, pod in pods(documents) if "lifecycle" in containers(pod)[0]]
    assert with_hook == [name for name in ray if not name.endswith("submitter")]


def test_the_job_starts_or_resumes_a_study_on_the_clusters_own_pods(
    standing: list[Manifest], job: list[Manifest], deploy: Path
) -> None:
    (cluster,) = [document for document in standing if document["kind"] == "RayCluster"]
    assert [document["kind"] for document in job] == ["ConfigMap", "RayJob"]
    config, rayjob = job
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
    workers = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"][
        "limits"
    ]
    assert spec.resources.cpu <= int(workers["cpu"])
    assert spec.resources.gpu == workers["nvidia.com/gpu"]


def test_the_shared_volume_is_gone_with_studies_in_a_bucket(with_options: list[Manifest]) -> None:
    claims = [d["metadata"]["name"] for d in with_options if d["kind"] == "PersistentVolumeClaim"]
    assert claims == ["mlflow-artifacts"]
    (cluster,) = [document for document in with_options if document["kind"] == "RayCluster"]
    assert '"claimName": "studies"' not in json.dumps(with_options)
    for name, pod in pods([cluster]):
        assert containers(pod)[0]["envFrom"] == [{"secretRef": {"name": "s3"}}], name


def test_versions_are_those_of_the_project(standing: list[Manifest], deploy: Path) -> None:
    project = tomllib.loads((deploy.parent / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==") for line in (deploy.parent / "constraints.txt").read_text().split() if "==" in line
    )
    (cluster,) = [document for document in standing if document["kind"] == "RayCluster"]
    assert cluster["spec"]["rayVersion"] == pins["ray"]
    images = {container["image"] for _, pod in pods(standing) for container in containers(pod)}
    ours = {image for image in images if "proxytune" in image}
    assert len(ours) == 2
    assert all(image.endswith(f":{project['version']}") for image in ours)
    assert not [image for image in images if ":" not in image or image.endswith(":latest")]
    for name in ("compose.yaml", "aws/cluster.yaml", "Dockerfile", "kuberay/rayjob/kustomization.yaml"):
        tags = re.findall(
            r"proxytune-(?:cpu|cuda)(?::|, newTag: |.*newTag: )([0-9.]+[0-9])", (deploy / name).read_text()
        )
        assert tags, name
        assert set(tags) == {project["version"]}, name
