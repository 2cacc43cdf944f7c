"""CycloneDX documents, the same bytes for the same content (cyclonedx.org, specification 1.6, ECMA-424)."""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import License
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from packager.attestation.engine import Engine
from packager.errors import ConfigError
from runtime.engine.manifest import Manifest

MEDIA_TYPE = "application/vnd.cyclonedx+json"
EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"  # reproducible-builds.org/docs/source-date-epoch
_ROOT = "subject"


def dump(root: Component, components: Iterable[Component] = ()) -> bytes:
    """The document of `root`, which is made of `components`.

    Its serial number follows from its content, and it bears a time only where SOURCE_DATE_EPOCH is set.
    Raises ConfigError where that is no number.
    """
    bom = Bom(components=components, metadata=BomMetaData(component=root, tools=ToolRepository(components=[_tool()])))
    bom.register_dependency(root, list(bom.components))
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    del content["serialNumber"], content["metadata"]["timestamp"]
    if epoch := os.environ.get(EPOCH_VARIABLE):
        content["metadata"]["timestamp"] = _time(epoch)
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    return json.dumps(content | {"serialNumber": serial.urn}, indent=1, sort_keys=True).encode() + b"\n"


def engine(found: Engine) -> bytes:
    """The document of an engine: its files, the checkpoint that it comes from, and what it needs to run."""
    return dump(engine_component(found, _ROOT), _libraries(found.manifest))


def engine_component(found: Engine, ref: str) -> Component:
    """An engine with its files inside, named after its checkpoint, which is its ancestor."""
    manifest = found.manifest
    return Component(
        name=f"{manifest.model.source.rstrip('/').rpartition('/')[2]} engine",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=ref,
        version=f"sha256:{found.files['engine.json']}",
        description=describe(manifest),
        properties=properties(_facts(manifest)),
        components=[file(name, digest, f"{ref}/{name}") for name, digest in found.files.items()],
        pedigree=Pedigree(ancestors=_checkpoints(found)),
    )


def describe(manifest: Manifest) -> str:
    """In one line: from which weights, for which GPU, by what."""
    model, backend = manifest.model, manifest.backend
    revision = f" at revision {model.revision}" if model.revision else ""
    gpus = ", ".join(target.gpu for target in manifest.targets) or "any GPU or CPU"
    return (
        f"engine of {model.architecture} from {model.source}{revision}, for {gpus}, by {backend.name} {backend.version}"
    )


def file(name: str, sha256: str, ref: str) -> Component:
    """A file by its path; a link has no digest."""
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []
    return Component(name=name, type=ComponentType.FILE, bom_ref=ref, hashes=hashes)


def library(purl: PackageURL, *, description: str = "", licenses: Iterable[str] = (), ref: str = "") -> Component:
    """A package by its package URL."""
    return Component(
        name=purl.name,
        version=purl.version,
        type=ComponentType.LIBRARY,
        bom_ref=ref or purl.to_string(),
        purl=purl,
        description=description or None,
        licenses=_licenses(tuple(licenses)),
    )


def pypi(name: str, release: str) -> PackageURL:
    """pkg:pypi, which wants names normalised (PyPA, "Package name normalization")."""
    return PackageURL("pypi", name=name.lower().replace("_", "-"), version=release)


def properties(facts: Mapping[str, object]) -> list[Property]:
    """Facts that CycloneDX has no field for, in our own namespace; what is None is left out."""
    return [Property(name=f"trtpack:{name}", value=str(value)) for name, value in facts.items() if value is not None]


def _checkpoints(found: Engine) -> list[Component]:
    models = [("model", found.manifest.model.source, found.manifest.model.revision)]
    if found.draft:
        models.append(("draft", found.draft.model.source, found.draft.model.revision))
    models += [(f"adapter:{one.name}", one.source, one.revision) for one in found.manifest.adapters]
    return [
        Component(
            name=source,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"checkpoint:{role}",
            version=revision,
            purl=_hugging_face(source, revision),
        )
        for role, source, revision in models
    ]


def _hugging_face(source: str, revision: str | None) -> PackageURL | None:
    """pkg:huggingface (github.com/package-url/purl-spec), for a checkpoint of the Hub."""
    owner, _, name = source.removeprefix("hf://").partition("@")[0].partition("/")
    if not source.startswith("hf://") or not name:
        return None
    return PackageURL("huggingface", namespace=owner, name=name, version=revision)


def _facts(manifest: Manifest) -> dict[str, object]:
    quantization, limits = manifest.precision.quantization, manifest.limits
    return {
        "backend": f"{manifest.backend.name} {manifest.backend.version}",
        "gpus": ", ".join(target.gpu for target in manifest.targets) or None,
        "compute-capabilities": ", ".join(target.compute_capability for target in manifest.targets) or None,
        "dtype": manifest.precision.dtype,
        "quantization": f"{quantization.scheme} ({quantization.method})" if quantization else None,
        "max-model-len": limits.max_model_len,
        "max-batch-size": limits.max_batch_size,
        "max-num-tokens": limits.max_num_tokens,
        "compiled-by": f"trtpack {manifest.trtpack_version}",
    }


def _libraries(manifest: Manifest) -> list[Component]:
    releases = {"torch": manifest.backend.torch, manifest.backend.name: manifest.backend.version}
    return [library(pypi(name, release)) for name, release in sorted(releases.items())]


def _licenses(named: tuple[str, ...]) -> list[License]:
    """One may be an expression; CycloneDX takes no expression beside others."""
    factory = LicenseFactory()
    if len(named) == 1:
        return [factory.make_from_string(named[0])]
    return [factory.make_with_name(name) for name in named]


def _time(epoch: str) -> str:
    try:
        return datetime.fromtimestamp(int(epoch), UTC).isoformat()
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{EPOCH_VARIABLE} is {epoch!r}, and not a number of seconds since 1970") from error


def _tool() -> Component:
    return Component(name="trtpack", version=version("trtpack"), type=ComponentType.APPLICATION, bom_ref="tool")
