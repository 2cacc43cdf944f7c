"""What quantisation costs SmolLM2, within the limits that the documentation promises."""

from pathlib import Path

import pytest

from benchmarks.quantization.perplexity import VARIANTS, measure
from packager.checkpoint import open_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "most"), [("int8", 0.02), ("fp8", 0.02), ("int4, groups of 32", 0.12)])
def test_perplexity_stays_close_to_bfloat16s(variant: str, most: float, smollm2_gguf: Path) -> None:
    quality = measure(open_checkpoint(str(smollm2_gguf), smollm2_gguf.parent), VARIANTS[variant])
    assert quality.tokens > 2000
    assert quality.perplexity / quality.reference_perplexity - 1 < most
