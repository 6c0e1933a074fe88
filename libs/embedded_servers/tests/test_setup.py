"""What set-up fetches, checks and refuses; the registry is replaced by a function, the rest is real."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from jgo.maven import Artifact

from embedded_servers import ServerError, jars, java, places, ports, processes

COORDINATE = "org.slf4j:slf4j-api:1.7.36"


def answer_with(content: bytes, folder: Path) -> object:
    def resolve(_: Artifact) -> Path:
        path = folder / "fetched"
        path.write_bytes(content)
        return path

    return resolve


def test_every_jar_has_a_hash_and_every_hash_a_jar() -> None:
    assert {jars._jar_name(coordinate) for coordinate in jars.coordinates()} == set(jars.expected_hashes())


def test_a_jar_with_another_hash_never_enters_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Artifact, "resolve", answer_with(b"not the jar", tmp_path))
    with pytest.raises(ServerError, match="is not the pinned one"):
        jars.install_jars(tmp_path / "kafka", print)
    assert not list((tmp_path / "kafka").iterdir())


def test_a_damaged_jar_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "coordinates", lambda: [COORDINATE])
    good = (places.software() / "kafka" / "slf4j-api-1.7.36.jar").read_bytes()
    (tmp_path / "slf4j-api-1.7.36.jar").write_bytes(good[:1000])
    monkeypatch.setattr(Artifact, "resolve", answer_with(good, tmp_path))
    jars.install_jars(tmp_path, print)
    assert (tmp_path / "slf4j-api-1.7.36.jar").read_bytes() == good


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (requests.ConnectionError("refused"), "registry does not answer"),
        (requests.Timeout("slow"), "registry does not answer"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "check the rights"),
        (RuntimeError("not found"), "registry refuses"),
    ],
)
def test_a_failed_download_is_one_sentence_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    def fail(_: Artifact) -> Path:
        raise error

    monkeypatch.setattr(Artifact, "resolve", fail)
    with pytest.raises(ServerError, match=sentence) as caught:
        jars.install_jars(tmp_path / "kafka", print)
    assert "\n" not in str(caught.value)


def test_a_java_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.machine_java() is None
    old.write_text("#!/bin/sh\necho 'openjdk version \"21.0.2\"' >&2\n")
    assert java.machine_java() == java.Java(old, 21)


def test_a_remembered_java_is_forgotten_when_its_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    binary, note = tmp_path / "java", tmp_path / "note.json"
    binary.touch()
    java.remember(java.Java(binary, 21), note)
    assert java.recall(note) == java.Java(binary, 21)
    os.utime(binary, (1, 1))
    assert java.recall(note) is None


def test_a_taken_or_promised_port_is_stepped_over() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        held = holder.getsockname()[1]
        chosen = ports.choose_port(held)
        assert chosen > held
        assert ports.choose_port(held, taken={chosen}) > chosen


def test_a_folder_that_only_root_enters_is_noticed(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    assert not places.traversable_by_all(locked / "data")
    assert places.system_folder_for(locked) != places.system_folder_for(tmp_path)


def test_a_process_is_known_by_its_start_and_not_by_its_pid_alone(tmp_path: Path) -> None:
    identity = processes.start_detached([sys.executable, "-c", "print('started', flush=True); input()"], log=tmp_path / "log")
    stranger = processes.Identity(identity.pid, identity.created - 60)
    other = processes.start_detached(["sleep", "60"], log=tmp_path / "other")
    try:
        assert processes.is_alive(other)
        assert not processes.is_alive(processes.Identity(other.pid, other.created - 60))
        processes.kill(stranger)  # must not hit the process that has the pid now
    finally:
        assert processes.stop(other)
    assert not processes.is_alive(other)


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    identity = processes.start_detached([sys.executable, "-c", stubborn], log=tmp_path / "log")
    while "ready" not in processes.tail(tmp_path / "log"):
        assert processes.is_alive(identity)
    assert not processes.stop(identity, limit_seconds=0.1)
    assert not processes.is_alive(identity)


def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    for word in ("first", "second"):
        identity = processes.start_detached(["echo", word], log=tmp_path / "log")
        processes.wait_until_gone(identity, 10)
    assert ((tmp_path / "log").read_text(), (tmp_path / "log.1").read_text()) == ("second\n", "first\n")


def test_set_up_again_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "embedded_servers.install"], capture_output=True, text=True, check=True)
    assert "fetched" not in done.stdout
    assert "archive" not in done.stdout
