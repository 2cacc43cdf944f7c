"""The README.md of a repository of engines on the Hugging Face Hub, the same text for the same engines."""

from collections.abc import Sequence
from pathlib import Path, PurePath

import jinja2
from huggingface_hub import ModelCardData

from runtime.engine.manifest import Manifest
from runtime.hub import SCHEME, Source
from runtime.registry.hub import folder_of
from runtime.registry.oci import Descriptor

# By it a later push knows that the text is its own to write.
MARKER = "<!-- Written by trtpack push: it writes this page anew each time. -->"


def render(source: Source, engines: Sequence[tuple[Descriptor, Manifest]]) -> str:
    """The card of all engines of a model in one repository, each with its entry in the index."""
    model = engines[0][1].model
    base = Source.parse(model.source)
    targets = [target for _, manifest in engines for target in manifest.targets]
    metadata = ModelCardData(
        base_model=base.repo if base else None,
        library_name="trtpack",
        pipeline_tag="text-generation",
        tags=sorted({"trtpack", *(manifest.backend.name for _, manifest in engines), *(t.gpu for t in targets)}),
    )
    return _TEMPLATES.get_template("README.md.j2").render(
        metadata=metadata.to_yaml(),
        marker=MARKER,
        source=f"{SCHEME}{source.repo}",
        # The rest of a path on somebody's machine tells its reader nothing.
        model=base.repo if base else PurePath(model.source).name,
        revision=model.revision,
        gpu=targets[0].gpu if targets else None,
        engines=[(folder_of(entry), manifest, _precision(manifest)) for entry, manifest in engines],
    )


def _precision(manifest: Manifest) -> str:
    found = manifest.precision.quantization
    return f"{found.scheme} ({found.method})" if found else manifest.precision.dtype


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parents[2] / "templates" / "hub"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["megabytes"] = _megabytes
