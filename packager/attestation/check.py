"""One check of something attested, and what was found."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_SHOWN = 3


@dataclass(frozen=True)
class Check:
    """`passed` is None where there was nothing to check against, which is no failure and no assurance."""

    name: str
    passed: bool | None
    text: str


@dataclass(frozen=True)
class Subject:
    """What was checked: `title` for a person, `digest` of its manifest, "" for a folder."""

    title: str
    digest: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)


def verdict(name: str, problems: Iterable[str], text: str) -> Check:
    """✓ with `text`, or ✗ with the first few problems on one line."""
    found = list(problems)
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return Check(name, not found, "; ".join(found[:_SHOWN]) + more if found else text)


def differences(listed: Mapping[str, str], real: Mapping[str, str], what: str) -> list[str]:
    """How a list of things by name, with their digests, is not that of the real ones, which are `what`'s."""
    found = [f"it lists {name}, which is not in {what}" for name in sorted(listed.keys() - real.keys())]
    found += [f"it does not list {name}" for name in sorted(real.keys() - listed.keys())]
    found += [
        f"it says {listed[name]} of {name}, {what} has {real[name]}"
        for name in sorted(listed.keys() & real.keys())
        if listed[name] != real[name]
    ]
    return found
