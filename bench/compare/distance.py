"""The store as from another town: every request a round trip later, each connection with a rate of its own.

HAProxy delays the requests (a Lua action sleeps; a new connection waits one round trip more, as a handshake would) and,
where a rate is asked for, nginx behind it paces each reply (`limit_rate`). Both are cheap enough for a machine that
also runs server, daemon and reader: measured on a busy one, 0.25 and 0.55 CPU-seconds per GiB with large pipes and
buffers (0.6 and 0.75 without). What they leave out, slow start, loss and a rate for what is sent, they leave out for
every system alike. `bench.link` is the other kind of link, a cable that all connections share in both directions, for
benches of uploads; being Python it takes 1.3.
"""

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from tests.servers import free_ports

START_SECONDS = 10.0
INSTALL = "apt-get install haproxy nginx"

LUA = """\
core.register_action("away", {{"http-req"}}, function(txn)
  local met = txn:get_var("sess.met")
  txn:set_var("sess.met", true)
  core.msleep(met and {round_trip} or {round_trip} * 2)
end)
"""

HAPROXY = """\
global
  maxconn 4000
  nbthread 1
  tune.bufsize 65536
  tune.pipesize 1048576
  maxpipes 200
  lua-load {lua}
defaults
  mode http
  maxconn 2000
  timeout connect 10s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
  option http-no-delay
  option splice-response
  http-reuse always
listen away
  bind 127.0.0.1:{port}
  http-request lua.away
  server store 127.0.0.1:{target}
"""

NGINX = """\
daemon off;
master_process off;
pid {work}/nginx.pid;
error_log {work}/nginx.log error;
events {{ worker_connections 4000; }}
http {{
  access_log off;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi;
  scgi_temp_path {work}/scgi;
  keepalive_timeout 300s;
  keepalive_requests 1000000;
  client_max_body_size 0;
  upstream store {{ server 127.0.0.1:{target}; keepalive 200; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    ignore_invalid_headers off;
    location / {{
      proxy_pass http://store;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_request_buffering off;
      proxy_buffer_size 64k;
      proxy_buffers 4 512k;
      proxy_busy_buffers_size 1m;
      proxy_max_temp_file_size 0;
      proxy_read_timeout 300s;
      limit_rate {rate};
    }}
  }}
}}
"""


class DistanceError(Exception):
    """The proxies are missing or did not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store is. `rate`: bytes a second of each connection, 0 for as fast as it goes."""

    milliseconds: int = 0
    rate: int = 0

    def __str__(self) -> str:
        if not self.milliseconds and not self.rate:
            return "on this machine"
        away = f"{self.milliseconds} ms away" if self.milliseconds else "on this machine"
        return away + (f", {self.rate / 1e6:.0f} MB/s a connection" if self.rate else "")


class Distance:
    """The running proxies before one store. A context manager; a place on this machine without a rate needs none."""

    def __init__(self, endpoint_url: str, place: Place, work: Path) -> None:
        self._work = work
        self._processes: list[subprocess.Popen[bytes]] = []
        self.endpoint_url = endpoint_url
        target = urlsplit(endpoint_url).port
        assert target is not None
        try:
            if place.rate:
                target = self._start("nginx", NGINX, target, rate=place.rate)
            if place.milliseconds:
                lua = work / "away.lua"
                work.mkdir(exist_ok=True)
                lua.write_text(LUA.format(round_trip=place.milliseconds))
                target = self._start("haproxy", HAPROXY, target, lua=lua)
        except BaseException:
            self._stop()
            raise
        if self._processes:
            self.endpoint_url = f"http://127.0.0.1:{target}"

    def __enter__(self) -> "Distance":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, name: str, template: str, target: int, **values: object) -> int:
        """Start one proxy before the port `target`; its own port."""
        # Debian has both in /usr/sbin, which is not on every user's PATH.
        program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise DistanceError(f"{name} is missing, which places the store away: {INSTALL}")
        self._work.mkdir(exist_ok=True)
        (port,) = free_ports(1)
        file = self._work / f"{name}.conf"
        file.write_text(template.format(port=port, target=target, work=self._work, **values))
        command = {
            "nginx": [program, "-p", str(self._work), "-c", str(file), "-e", str(self._work / "nginx.log")],
            "haproxy": [program, "-db", "-f", str(file)],
        }[name]
        log = self._work / f"{name}.said"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        self._processes.append(process)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return port
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise DistanceError(f"{name} did not start: {log.read_text()[-500:]}") from error
                time.sleep(0.02)

    def _stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        self._processes.clear()
