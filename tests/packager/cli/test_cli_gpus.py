"""`trtpack gpus`."""

import json

from click.testing import CliRunner

from k8s.gpus import GPUS, counts
from packager.cli import main


def test_every_gpu_has_a_line_with_its_names() -> None:
    lines = CliRunner().invoke(main, ["gpus"]).stdout.splitlines()
    for gpu in GPUS:
        (line,) = (line.split() for line in lines if line.split()[:1] == [gpu.name])
        assert {*gpu.truss_names, gpu.gfd_product, gpu.compute_capability} <= set(line)


def test_json_has_every_column_of_the_table() -> None:
    rows = json.loads(CliRunner().invoke(main, ["gpus", "--json"]).stdout)
    assert [row["name"] for row in rows] == [gpu.name for gpu in GPUS]
    for row, gpu in zip(rows, GPUS, strict=True):
        assert row["counts"] == list(counts(gpu))
        assert row["machine_types"] == {name: list(sizes) for name, sizes in gpu.machine_types.items()}
        assert (row["source"], row["min_driver"], row["memory_mib"]) == (gpu.source, gpu.min_driver, gpu.memory_mib)
