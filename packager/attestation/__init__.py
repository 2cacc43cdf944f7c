"""Evidence of what an engine or an image is: its SBOM, where it came from, who says so; made, attached and checked."""
