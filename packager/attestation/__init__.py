"""Evidence of what an engine or an image is: its SBOM, where it came from, who says so; made, attached and checked."""

from packager.attestation import signature
from packager.attestation.attached import attach_engine, attach_image

__all__ = ["attach_engine", "attach_image", "signature"]
