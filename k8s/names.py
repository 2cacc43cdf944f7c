"""Names that Kubernetes accepts."""

import re

# A Service's name is an RFC 1035 label, the strictest of the kinds rendered; Kubernetes reuses it as a label value.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def is_name(text: str) -> bool:
    """Whether `text` names a Deployment and its Service: lower case, digits and dashes, first a letter, at most 63."""
    return _NAME.fullmatch(text) is not None


def slug(text: str) -> str:
    """A valid name that reads like `text`: "SmolLM2 135M" becomes "smollm2-135m"; "model" where nothing is left."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return re.sub(r"^[^a-z]+", "", words)[:63].strip("-") or "model"
