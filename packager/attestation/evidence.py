"""Checks of what is attached to a manifest: the statement is of it, the signature is by the key, the SBOM is true."""

from collections.abc import Callable, Iterator

from securesystemslib.signer import SSlibKey

from packager.attestation import provenance, signature
from packager.attestation.attached import Attached, Signed
from packager.attestation.check import Check, verdict
from packager.attestation.document import Document
from packager.attestation.engine import Engine
from packager.attestation.statement import Statement
from packager.errors import TrtpackError
from runtime.registry import oci

_AGAIN = "push it again with trtpack push"


def check(
    attached: Attached,
    digest: str,
    key: SSlibKey | None,
    sbom_problems: Callable[[Document], list[str]],
    statement_problems: Callable[[Statement], list[str]],
) -> Iterator[Check]:
    """Signature, provenance and SBOM of the manifest `digest`; with `key`, of what that public key signed."""
    signed, found = _signature(attached, key)
    yield signed
    statement, found_provenance = _provenance(found, digest, statement_problems)
    yield found_provenance
    yield _sbom(attached, statement, sbom_problems)


def engine_problems(statement: Statement, found: Engine) -> list[str]:
    """How the statement says other than engine.json where an engine comes from, and for what GPU it is."""
    expected = provenance.of_engine("", "sha256:", found, b"").predicate.build_definition
    said = statement.predicate.build_definition
    problems = [
        f"it says {name} {said.external_parameters.get(name)}, engine.json says {value}"
        for name, value in expected.external_parameters.items()
        if name in ("checkpoint", "targets", "precision") and said.external_parameters.get(name) != value
    ]
    missing = [one for one in expected.resolved_dependencies if one not in said.resolved_dependencies]
    return problems + [f"it does not name {_at(one.uri, one.digest)}" for one in missing]


def _signature(attached: Attached, key: SSlibKey | None) -> tuple[Check, tuple[Signed, ...]]:
    """The statements that count: with a key those that it signed, if any."""
    enveloped = [one.envelope for one in attached.statements if one.envelope]
    signers = sorted({_short(keyid) for envelope in enveloped for keyid in envelope.signatures})
    by = f"signed by {', '.join(signers)}" if signers else "not signed"
    if key is None:
        hint = "the signer was not checked: name the public key with --key" if signers else "nothing vouches for it"
        return Check("signature", None, f"{by}; {hint}"), attached.statements
    ours = tuple(one for one in attached.statements if one.envelope and signature.is_by(one.envelope, key))
    if ours:
        return Check("signature", True, f"by your key, {_short(key.keyid)}"), ours
    return Check("signature", False, f"{by}, not by your key, {_short(key.keyid)}"), attached.statements


def _provenance(
    statements: tuple[Signed, ...], digest: str, problems: Callable[[Statement], list[str]]
) -> tuple[Statement | None, Check]:
    """The first statement that holds, else what is wrong with the last."""
    wrong = [f"no statement is attached: {_AGAIN}"]
    for one in statements:
        try:
            statement = Statement.parse(one.content)
        except TrtpackError as error:
            wrong = [error.message]
            continue
        wrong = problems(statement) if statement.is_of(digest) else [f"the statement is of {_of(statement)}"]
        if not wrong:
            return statement, Check("provenance", True, _told(statement))
    return None, verdict("provenance", wrong, "")


def _sbom(attached: Attached, statement: Statement | None, problems: Callable[[Document], list[str]]) -> Check:
    if not attached.sboms:
        return Check("SBOM", False, f"none is attached: {_AGAIN}")
    named = statement.byproduct(provenance.SBOM) if statement else None
    content = next((one for one in attached.sboms if oci.digest_of(one) == named), attached.sboms[0])
    wrong = []
    if named and oci.digest_of(content) != named:
        wrong.append(f"the statement names {named}, what is attached is {oci.digest_of(content)}")
    try:
        document = Document.parse(content)
    except TrtpackError as error:
        return verdict("SBOM", [*wrong, error.message], "")
    unaccounted = document.subject.fact("unaccounted-files")
    rest = f", {unaccounted} files in no component" if unaccounted not in ("", "0") else ""
    text = f"{document.count()} components{rest}, {oci.digest_of(content)}"
    return verdict("SBOM", [*wrong, *problems(document)], text)


def _told(statement: Statement) -> str:
    definition, builder = statement.predicate.build_definition, statement.predicate.run_details.builder
    made = "; ".join(_at(one.uri or one.name, one.digest) for one in definition.resolved_dependencies)
    return f"from {made}; by {builder.id}"


def _of(statement: Statement) -> str:
    digests = (f"{name}:{value}" for one in statement.subject for name, value in (one.digest or {}).items())
    return f"{', '.join(digests)}, not of this"


def _at(name: str | None, digest: dict[str, str] | None) -> str:
    at = next(iter((digest or {}).values()), "")
    return f"{name} at {at}" if at else f"{name}"


def _short(keyid: str) -> str:
    return keyid[:16]
