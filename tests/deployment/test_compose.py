"""docker-compose.yml is right without Docker: settings exist, all that is required is given, and nothing listens to the world."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from embedded_servers.kafka_properties import server_properties

PROGRAMS = {
    "sandbox-stripe": "sandbox_stripe",
    "sandbox-apim": "sandbox_apim",
    "provision": "turnpike_cli",
    **{
        name: name.replace("-", "_")
        for name in ("delegation-gateway", "checkout", "webhook-ingress", "usage-collector", "stripe-reporter", "subscription-enforcer")
    },
}
WRITTEN_BY_PROVISION = {
    "DATABASE_URL", "INTERNAL_TOKEN_KEYS", "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRETS", "DELEGATION_KEYS", "APIM_STATIC_TOKEN",
}  # fmt: skip
SERVICES = sorted(set(PROGRAMS) - {"sandbox-stripe", "sandbox-apim", "provision"})


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((root / "docker-compose.yml").read_text()))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(compose["services"])


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_every_variable_is_a_setting_and_every_required_setting_is_given(
    name: str,
    services: dict[str, dict[str, Any]],
    variables: dict[str, dict[str, bool]],
    accepted: Callable[[str, dict[str, str]], None],
) -> None:
    program, given = PROGRAMS[name], services[name]["environment"]
    known = variables[program]
    assert set(given) <= set(known)
    assert all(isinstance(value, str) for value in given.values())
    prefix = program.upper() + "_"
    written = {prefix + setting for setting in WRITTEN_BY_PROVISION} if name in SERVICES else set()
    assert {variable for variable, required in known.items() if required} <= set(given) | written
    if name != "provision":
        accepted(program, given)


def test_every_broker_of_ours_takes_the_session_time_out_of_the_collectors(
    root: Path, services: dict[str, dict[str, Any]], settings: dict[str, type[BaseSettings]]
) -> None:
    asked = settings["usage_collector"].model_fields["session_timeout_ms"].default
    local = list(yaml.safe_load_all((root / "deploy/k8s/overlays/local/servers.yaml").read_text()))
    (broker,) = [one for one in local if one["kind"] == "Deployment" and one["metadata"]["name"] == "kafka"]
    variables = {one["name"]: one["value"] for one in broker["spec"]["template"]["spec"]["containers"][0]["env"]}
    embedded = dict(line.split("=", 1) for line in server_properties(port=1, controller_port=2, data=root).splitlines())
    name = "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS"
    taken = [services["kafka"]["environment"][name], variables[name], embedded["group.min.session.timeout.ms"]]
    assert [int(one) <= asked for one in taken] == [True] * 3, (asked, taken)


def test_whoever_is_waited_for_exists_and_says_when_it_is_ready(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for target, need in service.get("depends_on", {}).items():
            assert target in services, f"{name} waits for {target}"
            if need["condition"] == "service_healthy":
                assert "healthcheck" in services[target], f"{name} waits for the health of {target}"
            else:
                assert need["condition"] == "service_completed_successfully"
                assert services[target]["restart"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_after_its_secrets_and_sees_no_other_s(name: str, services: dict[str, dict[str, Any]]) -> None:
    assert services[name]["depends_on"]["provision"] == {"condition": "service_completed_successfully"}
    mounts = services[name]["volumes"]
    assert [(mount["source"], mount["target"], mount["volume"]["subpath"]) for mount in mounts] == [
        ("secrets", "/run/secrets", PROGRAMS[name])
    ]


def test_ports_are_open_on_this_machine_only_and_none_twice(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    outside = [port.split(":")[1] for port in ports]
    assert len(outside) == len(set(outside))


@pytest.mark.parametrize("name", SERVICES)
def test_the_published_port_is_the_one_the_service_listens_on(name: str, services: dict[str, dict[str, Any]]) -> None:
    prefix = PROGRAMS[name].upper() + "_"
    given = services[name]["environment"]
    listening = {given.get(prefix + "HTTP_PORT"), given[prefix + "INTERNAL_PORT"]} - {None}
    assert {port.rsplit(":", 1)[1] for port in services[name]["ports"]} == listening
    assert given[prefix + "INTERNAL_HOST"] == "0.0.0.0"


def test_our_containers_run_without_rights(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if "build" not in service:
            continue
        assert service["user"] == "65532:65532", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_images_have_a_version_and_builds_their_folder(root: Path, services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert re.search(r":v?\d", service["image"]), f"{name} has no version"
        if "build" in service:
            arguments = service["build"]["args"]
            assert (root / arguments["FOLDER"] / "src" / arguments["SERVICE"] / "__main__.py").exists()


def test_addresses_between_containers_name_a_container_and_its_port(services: dict[str, dict[str, Any]]) -> None:
    listening = {"postgres": {"5432"}, "kafka": {"9092"}, "sandbox-stripe": {"4300"}, "sandbox-apim": {"4100", "4200", "4250"}}
    listening |= {name: {port.rsplit(":", 1)[1] for port in services[name]["ports"]} for name in SERVICES}
    published = {port.split(":")[1] for service in services.values() for port in service.get("ports", [])}
    for name in PROGRAMS:
        for variable, value in services[name]["environment"].items():
            for host, port in re.findall(r"(?:https?://|@)([a-z.-]+):(\d+)", value):
                expected = published if host == "localhost" else listening.get(host, set())
                assert port in expected, f"{name}: {variable} = {value}"


def test_volumes_are_declared_and_files_exist(root: Path, compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source = mount["source"] if isinstance(mount, dict) else mount.split(":")[0]
            assert (root / source).exists() if source.startswith("./") else source in compose["volumes"], f"{name}: {source}"
