"""adapters/ of an engine: LoRA adapters beside its weights, as PEFT wrote them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from packager.checkpoint.adapter import AdapterCheckpoint
from runtime.engine.manifest import Adapter
from runtime.lora.adapter import FILES


def write(adapters: Sequence[AdapterCheckpoint], folder: Path) -> tuple[Adapter, ...]:
    """Copies the files that the runtime reads into the engine `folder`."""
    written = []
    for adapter in adapters:
        entry = Adapter(name=adapter.name, source=adapter.source, revision=adapter.revision)
        (folder / entry.folder).mkdir(parents=True)
        for name in FILES:
            shutil.copyfile(adapter.folder / name, folder / entry.folder / name)
        written.append(entry)
    return tuple(written)
