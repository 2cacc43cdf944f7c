"""The serving process: it loads the model once the port is open, and ends in one of four ways.

0 after a signal, when the last response is complete; 1 if the model does not load; 128 + n at a second signal n.
"""

import asyncio
import atexit
import inspect
import logging
import os
import socket
import sys
import traceback
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import NoReturn

import uvicorn

from runtime import phases
from runtime.errors import EngineError
from runtime.phases import phase
from runtime.server import metrics, termination
from runtime.server.app import State, create_app
from runtime.server.errors import UnfinishedError
from runtime.server.logs import user_traceback
from runtime.server.model import Model
from runtime.server.package import Package, PackageError
from runtime.server.threads import Threads

# Longer than the 600 s for which Google's load balancers keep an idle connection, so that they are the ones to close
# it (cloud.google.com/load-balancing/docs/https, "backend keepalive timeout").
KEEP_ALIVE_SECONDS = 620
logger = logging.getLogger(__name__)


def serve(package: Package, listener: socket.socket, termination_log: Path = termination.PATH) -> None:
    """Serves `package` on `listener` until a signal, or until its model fails to load; the process ends with it.

    Why a model fails to load is written to `termination_log` as well, where there is one.
    """
    with phase("port"):
        package.enter()
        server = Server(package, termination_log)
    server.run(sockets=[listener])


class Server(uvicorn.Server):
    def __init__(self, package: Package, termination_log: Path) -> None:
        self._package, self._state, self._exit_code = package, State(), 0
        self._termination_log = termination_log
        logging.getLogger("uvicorn.error").addFilter(_is_unknown)
        super().__init__(
            uvicorn.Config(
                create_app(self._state),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets)
        _leave(self._exit_code)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        with phase("port"):
            await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            logger.info(
                "Serving %s on http://%s:%d", self._package.directory, f"[{host}]" if ":" in host else host, port
            )
        self._loading = asyncio.create_task(self._load())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._loading.cancel()
        logger.info("Stopping when %d running requests are complete", len(self.server_state.tasks))
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.draining:
            os._exit(128 + sig)
        self._state.draining = self.should_exit = True

    async def _load(self) -> None:
        started = perf_counter()
        try:
            self._state.model = await _load(self._package)
        except (Exception, SystemExit) as exc:
            _report(exc, self._termination_log)
            self._exit_code, self.should_exit = 1, True
        else:
            metrics.LOAD.set(perf_counter() - started)
            _tell_ready()


async def _load(package: Package) -> Model:
    """The package's model, made and loaded in a thread; an asynchronous load runs on the loop that will serve it."""
    thread = Threads(1, "load")
    with phase("model"):
        instance = await thread.run(package.create_model)
    model = Model(instance, package.predict_concurrency, package.streaming_read_timeout)
    logger.info("Executing model.load()...")
    with phase("load"):
        if load := getattr(instance, "load", None):
            done = load() if inspect.iscoroutinefunction(load) else await thread.run(load)
            if inspect.isawaitable(done):
                await done
    logger.info("Completed model.load() execution in %d ms", phases.seconds["load"] * 1000)
    thread.close()
    return model


def _tell_ready() -> None:
    if age := phases.age():
        phases.seconds["ready"] = age
    logger.info("Ready: %s", phases.told())


def _report(exc: BaseException, termination_log: Path) -> None:
    deliberate = isinstance(exc, PackageError | EngineError)
    if deliberate:
        message = f"Cannot load the model: {exc}"
    else:
        message = f"Exception while loading model: {exc if isinstance(exc, SystemExit) else repr(exc)}"
    logger.error("%s", message)
    termination.write(message, termination_log)
    if not deliberate:
        traceback.print_exception(*user_traceback(exc))


def _is_unknown(record: logging.LogRecord) -> bool:
    """uvicorn reports what leaves the application; an unfinished response has been logged where it happened."""
    return not (record.exc_info and isinstance(record.exc_info[1], UnfinishedError))


def _leave(code: int) -> NoReturn:
    """Ends the process without waiting for threads: a load or a prediction that was given up may still hold one."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
