"""Whether an engine answers, found out where it was compiled, before anybody else has it."""

import asyncio
import os
from pathlib import Path

from packager import progress
from runtime.engine import contract
from runtime.engine import manifest as manifests
from runtime.engine.device import DEVICE_VARIABLE, probe
from runtime.llm import LLM


def prove(folder: Path) -> None:
    """Starts the engine as a server does, with all that a server checks, and has it generate a token.

    On this machine's GPU, or with none here on the CPU, which runs its weights and reads its plans' headers alone.
    TRTPACK_DEVICE decides before that, as for a server. Raises EngineError.
    """
    device = os.environ.get(DEVICE_VARIABLE) or ("cuda" if probe() else "cpu")
    with progress.task(f"Starting the engine once on the {'GPU' if device == 'cuda' else 'CPU'}"):
        found = manifests.read(folder)
        contract.check_plans(folder, found)
        llm = LLM(folder, device=device)
        try:
            asyncio.run(llm.generate(llm.request({"prompt": "1", "max_new_tokens": 1})))
        finally:
            llm.close()
