"""Changes to a compiled engine, with an engine.json that agrees."""

import shutil
from pathlib import Path
from typing import Any

from runtime.engine import manifest, plan
from tests.plans import record


def rewrite(engine: Path, **fields: Any) -> Path:
    """Writes engine.json anew: the files as they lie there now, and `fields` of the manifest."""
    record(engine, manifest.read(engine).model_copy(update=fields))
    return engine


def copy(engine: Path, out: Path, **fields: Any) -> Path:
    """A copy whose manifest has other `fields`; limits are given as a dictionary of theirs."""
    shutil.copytree(engine, out)
    if "limits" in fields:
        fields["limits"] = manifest.read(out).limits.model_copy(update=fields["limits"])
    return rewrite(out, **fields)


def embed(engine: Path, out: Path) -> Path:
    """A copy whose plans are said to hold their weights; each is its kind's plan with its own name at the end."""
    shutil.copytree(engine, out)
    found = manifest.read(out)
    for path, capability in list(plan.paths(found)):
        kind, content = Path(path).stem, (out / path).read_bytes()
        (out / path).unlink()
        for name, segment in plan.parts(found.model.config, "embedded"):
            if segment.kind == kind:
                (out / plan.path(capability, name)).write_bytes(content + name.encode())
    return rewrite(out, weights="embedded")
