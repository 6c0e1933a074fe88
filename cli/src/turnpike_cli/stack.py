"""The whole stack in one data folder: starts, stops, kills and finds again every process. The command, the demo and tests drive this."""

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock

from embedded_servers import Kafka, Postgres, ServerError, places, processes
from embedded_servers.ports import choose_port, wait_free
from embedded_servers.processes import Identity
from turnpike_cli import provisioning
from turnpike_cli.environment import HOST, Wiring
from turnpike_cli.errors import CommandError
from turnpike_cli.health import Health, ask_health
from turnpike_cli.launching import launch_together
from turnpike_cli.parts import BY_NAME, KAFKA, PARTS, POSTGRES, SANDBOX_APIM, SANDBOX_STRIPE, SERVICES, Part
from turnpike_cli.state import Secrets, State, locked

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
PORT_SECONDS = 3.0  # how long a process that was killed may hold its port
LAUNCHER_FROM = 3  # so many services at once are worth a launcher

Say = Callable[[str], None]


def _silent(_: str) -> None:
    """Say nothing: what tests want."""


class Stack:
    """One stack. Two of them in two folders do not meet: each has its own ports, data, secrets and processes."""

    def __init__(self, folder: Path | None = None, *, say: Say = _silent, fast: bool = False) -> None:
        """`fast` makes Postgres give up durability against a power cut, for tests."""
        self.folder = (folder or places.home()).resolve()
        self._say = say
        self._fast = fast
        self._writing = Lock()  # parts are started in parallel
        self._state_path = self.folder / "state.json"
        self._secrets_path = self.folder / "secrets.json"
        self.state = State.read(self._state_path)

    # --- what there is ---------------------------------------------------------------------------------------------------

    @property
    def secrets(self) -> Secrets:
        return Secrets.load(self._secrets_path)

    @property
    def token_keys(self) -> tuple[str, ...]:
        """The keys that sign the tokens of the internal doors."""
        return (self.secrets.internal_token_key,)

    @property
    def wiring(self) -> Wiring:
        if not self.state.ports:
            raise CommandError("The stack was never started here; run `turnpike up`.")
        return Wiring(folder=self.folder, ports=self.state.ports, secrets=self.secrets, postgres=self._postgres())

    def log_path(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def is_running(self, name: str) -> bool:
        identity = self.state.processes.get(name)
        return identity is not None and processes.is_alive(identity)

    def running(self) -> list[str]:
        return [part.name for part in PARTS if self.is_running(part.name)]

    def addresses(self) -> dict[str, dict[str, str]]:
        """Return part -> port name -> address."""
        schemes = {"client": "", "controller": "", "sql": "", "arm": "https://"}
        return {
            name: {port: f"{schemes.get(port, 'http://')}{HOST}:{number}" for port, number in ports.items()}
            for name, ports in self.state.ports.items()
        }

    def door(self, name: str) -> str:
        """Return the base address of a part's doors for health, metrics and status."""
        return f"http://{HOST}:{self.state.ports[name][BY_NAME[name].door]}"

    def health(self, name: str) -> Health:
        if not self.is_running(name):
            return Health("stopped" if name not in self.state.processes else "died", "")
        part = BY_NAME[name]
        return ask_health(part, self.state.ports[name][part.door], self._postgres if part is POSTGRES else None)

    # --- starting --------------------------------------------------------------------------------------------------------

    def start(self) -> list[str]:
        """Start what does not run and wait until all of it is ready; return the names of what was started."""
        with locked(self.folder):
            self.state = State.read(self._state_path)
            wanted = [part for part in PARTS if not self.is_running(part.name)]
            if wanted:
                self._choose_ports(wanted)
                self._start_parts(wanted)
            return [part.name for part in wanted]

    def restart(self, name: str) -> None:
        """Start one part again that was stopped or killed, at its old port, and wait until it is ready."""
        with locked(self.folder):
            self.state = State.read(self._state_path)
            if self.is_running(name):
                self._stop_part(BY_NAME[name])
            self._launch(BY_NAME[name])
            self._wait_ready([BY_NAME[name]])

    def _start_parts(self, wanted: list[Part]) -> None:
        """Start in the order of need.

        Where a run before has left everything in place the services start at once: they wait by themselves for what they need,
        and loading Python is what takes long.
        """
        services = [part for part in SERVICES if part in wanted]
        warm = self._is_furnished()
        with ThreadPoolExecutor(4) as pool:
            servers = [pool.submit(self._start_server, part) for part in (KAFKA, POSTGRES) if part in wanted]
            if SANDBOX_STRIPE in wanted:
                self._launch(SANDBOX_STRIPE)
            launching = pool.submit(self._launch_all, services) if warm else None
            furnishing = None if warm else pool.submit(self._furnish, servers)
            if SANDBOX_APIM in wanted:
                self._launch(SANDBOX_APIM)
            for task in filter(None, (*servers, furnishing, launching)):
                task.result()
        if not warm:
            self._wait_for_certificate()
            self._connect_stripe()
            self._launch_all(services)
        self._wait_ready([part for part in wanted if part.kind != "server"])

    def _is_furnished(self) -> bool:
        wiring = self.wiring
        known = self.secrets.webhook_secret is not None and self.state.webhook_url == wiring.webhook_url
        return known and self.state.provisioned == provisioning.fingerprint() and wiring.ca_file.exists()

    def _furnish(self, servers: list[Future[None]]) -> None:
        for server in servers:
            server.result()
        provisioning.provision(self.wiring)
        self.state.provisioned = provisioning.fingerprint()
        self._write()
        self._say("roles, schemas and topics are there")

    def _launch_all(self, parts: list[Part]) -> None:
        """Start several services from one process that has loaded their libraries; one alone is started by itself."""
        if len(parts) < LAUNCHER_FROM:
            for part in parts:
                self._launch(part)
            return
        for name, identity in launch_together(parts, self.wiring, self.folder / "logs").items():
            self._remember(BY_NAME[name], identity)

    def _choose_ports(self, wanted: Iterable[Part]) -> None:
        """Keep a part's old ports while they are free; else take the next ones, never one promised to another part."""
        promised = {number for name, ports in self.state.ports.items() if self.is_running(name) for number in ports.values()}
        end = time.monotonic() + PORT_SECONDS
        for part in wanted:
            known = self.state.ports.get(part.name, {})
            chosen: dict[str, int] = {}
            for name, preferred in part.ports.items():
                old = known.get(name)
                keep = old and old not in promised and wait_free(old, end - time.monotonic())
                chosen[name] = old if old and keep else choose_port(preferred, promised)
                promised.add(chosen[name])
            if known and known != chosen:
                self._say(f"{part.name}: a port was taken, now {chosen}")
            self.state.ports[part.name] = chosen
        self._write()

    def _start_server(self, part: Part) -> None:
        started = time.monotonic()
        server: Kafka | Postgres = self._kafka() if part is KAFKA else self._postgres()
        server.launch()
        self._remember(part, server.identity)
        server.wait_ready()
        self._say(f"{part.title} answers ({time.monotonic() - started:.1f} s)")

    def _launch(self, part: Part) -> None:
        if part.kind == "server":
            self._start_server(part)
            return
        data = self.folder / part.name
        if part.kind == "sandbox":
            data.mkdir(parents=True, exist_ok=True)
        environment = self.wiring.environment(part)
        identity = processes.start_detached(self._command(part), log=self.log_path(part.name), environment=environment, folder=self.folder)
        self._remember(part, identity)

    def _command(self, part: Part) -> list[str]:
        return [sys.executable, "-P", "-m", part.name]  # -P: what lies in the folder must not hide a module

    def _wait_for_certificate(self) -> None:
        """Wait for the CA that the API Management sandbox makes at its first start: services refuse a file that is not there."""
        end = time.monotonic() + READY_SECONDS
        while not self.wiring.ca_file.exists():
            self._fail_if_dead(SANDBOX_STRIPE)  # the other waits for its clock
            self._fail_if_dead(SANDBOX_APIM)
            if time.monotonic() > end:
                raise CommandError(f"sandbox_apim made no certificate within {READY_SECONDS:.0f} s; see `turnpike logs sandbox_apim`.")
            time.sleep(POLL_SECONDS)

    def _connect_stripe(self) -> None:
        """Register the webhook endpoint, the way a person does at Stripe; its secret is shown only then, so it is kept."""
        wiring = self.wiring
        if self.secrets.webhook_secret and self.state.webhook_url == wiring.webhook_url:
            return
        self._wait_ready([SANDBOX_STRIPE], quiet=True)
        secret = provisioning.register_webhook(wiring)
        replace(self.secrets, webhook_secret=secret).save(self._secrets_path)
        self.state.webhook_url = wiring.webhook_url
        self._write()
        self._say("webhook endpoint registered at Stripe")

    def _wait_ready(self, parts: list[Part], *, quiet: bool = False) -> None:
        """Wait for all of them at once; a process that ends meanwhile is an error at once."""
        started = time.monotonic()
        waiting, last = list(parts), dict.fromkeys((part.name for part in parts), "")
        while waiting:
            for part in list(waiting):
                self._fail_if_dead(part)
                health = self.health(part.name)
                last[part.name] = health.detail
                if health.state == "ready":
                    waiting.remove(part)
                    if not quiet:
                        self._say(f"{part.name} is ready ({time.monotonic() - started:.1f} s)")
            if waiting and time.monotonic() - started > READY_SECONDS:
                reasons = "; ".join(f"{part.name}: {last[part.name] or 'no answer'}" for part in waiting)
                raise CommandError(f"Not ready within {READY_SECONDS:.0f} s: {reasons}. See `turnpike logs {waiting[0].name}`.")
            if waiting:
                time.sleep(POLL_SECONDS)

    def _fail_if_dead(self, part: Part) -> None:
        if not self.is_running(part.name):
            raise CommandError(
                f"{part.name} ended while starting. Its log {self.log_path(part.name)} says:\n" + processes.tail(self.log_path(part.name))
            )

    # --- stopping --------------------------------------------------------------------------------------------------------

    def stop(self) -> list[str]:
        """Stop all gracefully, in reverse order, what is independent at once; return the names of what ran."""
        with locked(self.folder):
            self.state = State.read(self._state_path)
            ran = self.running()
            with ThreadPoolExecutor(8) as pool:
                for group in (SERVICES, (SANDBOX_APIM, SANDBOX_STRIPE), (KAFKA, POSTGRES)):
                    list(pool.map(self._stop_part, group))
            self._write()
            return ran

    def stop_part(self, name: str) -> None:
        self._stop_part(BY_NAME[name])
        self._write()

    def kill(self, name: str) -> None:
        """End one part with SIGKILL, as a crash would; `restart` brings it back."""
        if (identity := self.state.processes.get(name)) is not None:
            processes.kill(identity)

    def _stop_part(self, part: Part) -> None:
        if self.is_running(part.name):
            if part is KAFKA:
                self._kafka().stop()
            elif part is POSTGRES:
                self._postgres().stop()
            elif not processes.stop(self.state.processes[part.name], limit_seconds=STOP_SECONDS):
                self._say(f"{part.name} did not stop within {STOP_SECONDS:.0f} s and was killed")
            self._say(f"{part.name} stopped")
        self.state.processes.pop(part.name, None)

    # --- keeping ---------------------------------------------------------------------------------------------------------

    def _kafka(self) -> Kafka:
        ports = self.state.ports["kafka"]
        kafka = Kafka(self.folder / "kafka", port=ports["client"], controller_port=ports["controller"], log=self.log_path("kafka"))
        kafka.identity = self.state.processes.get("kafka")
        return kafka

    def _postgres(self) -> Postgres:
        postgres = Postgres(
            self.folder / "postgres", port=self.state.ports["postgres"]["sql"], log=self.log_path("postgres"), fast=self._fast
        )
        postgres.identity = self.state.processes.get("postgres")
        return postgres

    def _remember(self, part: Part, identity: Identity | None) -> None:
        if identity is None or not identity.created:
            raise CommandError(f"{part.name} could not be started; see {self.log_path(part.name)}.")
        self.state.processes[part.name] = identity
        self._write()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._writing:
            self.state.write(self._state_path)


__all__ = ["CommandError", "ServerError", "Stack"]
