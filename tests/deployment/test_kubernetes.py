"""deploy/k8s is right without a cluster: each document by the API's own schemas, and the rules no schema knows."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from billing_common.service import STOP_SECONDS

KUBERNETES = "1.36"
SERVICES = ("checkout", "delegation-gateway", "stripe-reporter", "subscription-enforcer", "usage-collector", "webhook-ingress")
OVERLAYS = ("local", "production")
WITHOUT_SCHEMA = {"ScaledObject"}  # a custom resource: its schema comes with KEDA
DRAIN_SECONDS = 10 + STOP_SECONDS + 15  # requests in flight, events in flight, hooks and three clients
Document = dict[str, Any]


@pytest.fixture(scope="module")
def k8s(root: Path) -> Path:
    return root / "deploy" / "k8s"


@pytest.fixture(scope="module")
def base(k8s: Path, documents: Callable[[Path], list[Document]]) -> list[Document]:
    return [document for document in documents(k8s / "base") if document["kind"] != "Kustomization"]


def of_kind(found: list[Document], kind: str) -> Iterator[Document]:
    return (document for document in found if document["kind"] == kind)


def named(found: list[Document], kind: str, name: str) -> Document:
    (one,) = [document for document in of_kind(found, kind) if document["metadata"]["name"] == name]
    return one


def pods(found: list[Document]) -> Iterator[tuple[str, Document]]:
    for document in found:
        if document["kind"] in {"Deployment", "Job"}:
            yield f"{document['kind']} {document['metadata']['name']}", document["spec"]["template"]


@pytest.fixture(scope="module", params=OVERLAYS)
def built(request: pytest.FixtureRequest, k8s: Path) -> list[Document]:
    """An overlay as kustomize makes it."""
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    if shutil.which(command[0]) is None:
        pytest.skip("neither kustomize nor kubectl is here: the parts are checked one by one")
    done = subprocess.run([*command, str(k8s / "overlays" / request.param)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def check_schema(document: Document) -> None:
    if document["kind"] not in WITHOUT_SCHEMA:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def check_pods(found: list[Document]) -> None:
    """No rights, no service-account token, limits; deployments have probes and time to drain."""
    for name, template in pods(found):
        spec, (container,) = template["spec"], template["spec"]["containers"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert container["securityContext"]["readOnlyRootFilesystem"] is (container["name"] != "kafka"), name
        assert container["resources"]["limits"]["memory"], name
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
        assert re.search(r":v?\d", container["image"]), name
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
        if name.startswith("Deployment"):
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), name
            assert spec["terminationGracePeriodSeconds"] > DRAIN_SECONDS, name


def check_references(found: list[Document]) -> None:
    """Selectors match labels, Services name ports that exist, every pod has an account of its own and a policy."""
    labels = [(name, template["metadata"]["labels"]) for name, template in pods(found)]
    ports = {
        template["metadata"]["labels"]["app.kubernetes.io/name"]: {port["name"] for port in template["spec"]["containers"][0]["ports"]}
        for name, template in pods(found)
        if name.startswith("Deployment")
    }
    for document in found:
        spec = document.get("spec", {})
        selector = spec.get("selector", {}) if document["kind"] != "NetworkPolicy" else spec["podSelector"]
        wanted = selector if document["kind"] == "Service" else selector.get("matchLabels", {})
        if wanted:
            assert any(wanted.items() <= have.items() for _, have in labels), document["metadata"]["name"]
        if document["kind"] == "Deployment":
            assert wanted.items() <= document["spec"]["template"]["metadata"]["labels"].items()
        if document["kind"] == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= ports[wanted["app.kubernetes.io/name"]], document["metadata"]["name"]
    accounts = {document["metadata"]["name"] for document in of_kind(found, "ServiceAccount")}
    for document in found:
        if document["kind"] == "Deployment":
            assert document["spec"]["template"]["spec"]["serviceAccountName"] == document["metadata"]["name"]
    assert {template["spec"]["serviceAccountName"] for _, template in pods(found)} == accounts


def check_policies(found: list[Document]) -> None:
    chosen = set()
    for policy in of_kind(found, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        chosen.add(selector.get("matchLabels", {}).get("app.kubernetes.io/name"))
        for expression in selector.get("matchExpressions", []):
            chosen |= set(expression["values"])
    assert {template["metadata"]["labels"]["app.kubernetes.io/name"] for _, template in pods(found)} <= chosen
    assert named(found, "NetworkPolicy", "default-deny")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_each_document_is_what_the_api_takes(base: list[Document]) -> None:
    for document in base:
        check_schema(document)


def test_a_misspelt_probe_would_be_found(base: list[Document]) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(named(base, "Deployment", "checkout")).replace("readinessProbe", "readinesProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        check_schema(wrong)


def test_pods_run_without_rights_and_have_time_to_drain(base: list[Document]) -> None:
    check_pods(base)


def test_what_one_document_names_another_has(base: list[Document]) -> None:
    check_references(base)


def test_every_pod_is_behind_a_policy(base: list[Document]) -> None:
    check_policies(base)


def test_a_built_overlay_holds_the_same_rules(built: list[Document]) -> None:
    for document in built:
        check_schema(document)
    check_pods(built)
    check_references(built)
    check_policies(built)
    names = [(document["kind"], document["metadata"]["name"]) for document in built]
    assert len(names) == len(set(names))
    assert all(document["metadata"].get("namespace") for document in built if document["kind"] != "Namespace")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_whole(base: list[Document], service: str) -> None:
    for kind in ("ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget", "NetworkPolicy"):
        named(base, kind, service)
    named(base, "Service", f"{service}-internal")
    job = named(base, "Job", f"{service}-migrate")["spec"]["template"]["spec"]["containers"][0]
    running = named(base, "Deployment", service)["spec"]["template"]["spec"]["containers"][0]
    assert job["args"] == ["migrate"]
    assert (job["image"], job["envFrom"]) == (running["image"], running["envFrom"])


def secret_names(k8s: Path, service: str) -> set[str]:
    """Return the settings that the file says stand in its Secret."""
    line = re.search(rf"^# Secrets stand in the Secret {service}: (.+)\.$", (k8s / "base" / f"{service}.yaml").read_text(), re.MULTILINE)
    assert line is not None
    return set(line[1].split(", "))


def check_settings(
    found: list[Document], k8s: Path, service: str, known: dict[str, bool], accepted: Callable[[str, dict[str, str]], None]
) -> None:
    given = named(found, "ConfigMap", service)["data"]
    secrets = secret_names(k8s, service)
    assert set(given) | secrets <= set(known)
    assert not set(given) & secrets
    assert {name for name, required in known.items() if required} <= set(given) | secrets
    accepted(service.replace("-", "_"), given)


@pytest.mark.parametrize("service", SERVICES)
def test_settings_exist_and_all_that_are_required_are_given(
    base: list[Document], k8s: Path, service: str, variables: dict[str, dict[str, bool]], accepted: Callable[[str, dict[str, str]], None]
) -> None:
    check_settings(base, k8s, service, variables[service.replace("-", "_")], accepted)


def test_settings_of_a_built_overlay_exist(
    built: list[Document], k8s: Path, variables: dict[str, dict[str, bool]], accepted: Callable[[str, dict[str, str]], None]
) -> None:
    for service in SERVICES:
        check_settings(built, k8s, service, variables[service.replace("-", "_")], accepted)
    assert set(named(built, "ConfigMap", "turnpike-provision")["data"]) <= set(variables["turnpike_cli"])
    for name in ("sandbox_stripe", "sandbox_apim"):
        for deployment in of_kind(built, "Deployment"):
            if deployment["metadata"]["name"] == name.replace("_", "-"):
                environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
                assert {entry["name"] for entry in environment} <= set(variables[name])


def test_no_secret_stands_in_the_files(k8s: Path, documents: Callable[[Path], list[Document]]) -> None:
    secret = re.compile(r"PASSWORD|API_KEY|TOKEN_KEYS|DELEGATION_KEYS|SECRETS|STATIC_TOKEN|CONNECTION|DATABASE_URL|ADMIN_URL")
    found = documents(k8s)
    assert "Secret" not in {document.get("kind") for document in found if isinstance(document, dict)}
    for config in of_kind([document for document in found if isinstance(document, dict)], "ConfigMap"):
        assert [name for name in config["data"] if secret.search(name)] == []
    for _, template in pods([document for document in found if isinstance(document, dict)]):
        for entry in template["spec"]["containers"][0].get("env", []):
            assert not secret.search(entry["name"]) or "valueFrom" in entry


def test_what_a_kustomization_names_exists(k8s: Path, documents: Callable[[Path], list[Document]]) -> None:
    for file in sorted(k8s.rglob("kustomization.yaml")):
        (content,) = documents(file)
        for path in [*content.get("resources", []), *content.get("components", [])]:
            assert (file.parent / path).exists(), f"{file}: {path}"
        for patch in content.get("patches", []):
            assert "patch" in patch or (file.parent / patch["path"]).exists(), f"{file}: {patch}"
        listed = {*content.get("resources", []), *(patch.get("path") for patch in content.get("patches", [])), file.name}
        assert {path.name for path in file.parent.glob("*.yaml")} <= listed, f"{file} leaves a file out"


def test_patches_have_a_target(k8s: Path, base: list[Document], documents: Callable[[Path], list[Document]]) -> None:
    have = {(document["kind"], document["metadata"]["name"]) for document in base}
    for overlay in OVERLAYS:
        (content,) = documents(k8s / "overlays" / overlay / "kustomization.yaml")
        for patch in content["patches"]:
            if "target" in patch:
                pattern = re.compile(patch["target"].get("name", ".*"))
                hits = [name for kind, name in have if kind == patch["target"]["kind"] and pattern.fullmatch(name)]
                assert len(hits) >= len(pattern.pattern.split("|"))
            else:
                patched = documents(k8s / "overlays" / overlay / patch["path"])
                assert {(document["kind"], document["metadata"]["name"]) for document in patched} <= have


def test_production_survives_the_loss_of_a_node(built: list[Document]) -> None:
    if named(built, "ConfigMap", "checkout")["data"]["CHECKOUT_ENVIRONMENT"] != "production":
        assert {deployment["spec"]["replicas"] for deployment in of_kind(built, "Deployment")} == {1}
        return
    scaled = {
        document["spec"]["scaleTargetRef"]["name"]: document["spec"]["minReplicaCount"] for document in of_kind(built, "ScaledObject")
    }
    for deployment in of_kind(built, "Deployment"):
        name = deployment["metadata"]["name"]
        assert deployment["spec"].get("replicas", scaled.get(name)) == 2, name
        keys = {spread["topologyKey"] for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]}
        assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        budget = named(built, "PodDisruptionBudget", name)["spec"]
        assert budget["maxUnavailable"] == 1
