"""The command line: reads the package, opens the port, serves."""

import argparse
import os
import socket
import sys
from pathlib import Path

from runtime import phases
from runtime.phases import phase
from runtime.server import logs, termination
from runtime.server.package import Package, PackageError
from runtime.server.process import serve


def main() -> None:
    if age := phases.age():
        phases.seconds["imports"] = age
    arguments = _parser().parse_args()
    logs.configure()
    with phase("port"):
        package, listener = _open(arguments)
    serve(package, listener, arguments.termination_log)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime.server", description="Serve a model package over HTTP.")
    parser.add_argument("--package", type=Path, required=True, help="the folder that holds config.yaml")
    parser.add_argument("--model", type=Path, help="the file of the Model class, instead of the package's own")
    parser.add_argument("--host", default="127.0.0.1")
    default_port = os.environ.get("INFERENCE_SERVER_PORT", "8080")
    parser.add_argument("--port", type=_port, default=default_port, help="0 takes a free one; default %(default)s")
    parser.add_argument(
        "--termination-log",
        type=Path,
        default=termination.PATH,
        help="where to write why the model does not load, if the file is there: the pod's terminationMessagePath; "
        "default %(default)s",
    )
    return parser


def _open(arguments: argparse.Namespace) -> tuple[Package, socket.socket]:
    """The package and the port; ends the process where there is not one of them."""
    try:
        package = Package.open(arguments.package, arguments.model)
    except PackageError as exc:
        termination.write(str(exc), arguments.termination_log)
        sys.exit(f"error: {exc}")
    try:
        return package, _listen(arguments.host, arguments.port)
    except OSError as exc:
        place = f"{arguments.host}:{arguments.port}"
        sys.exit(f"error: cannot listen on {place}: {exc.strerror}; choose another with --host and --port")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def _listen(host: str, port: int) -> socket.socket:
    if ":" not in host:
        return socket.create_server((host, port))
    dual = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=dual)


if __name__ == "__main__":
    main()
