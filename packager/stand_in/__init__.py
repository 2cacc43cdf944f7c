"""TensorRT without a GPU: the part of the module that the executor uses, on ONNX Runtime and an engine's own graphs.

    Engine(folder, device="cpu", tensorrt=StandIn(folder))

It drives the executor's real code over addresses in the host's memory, and refuses as TensorRT would what an executor
can get wrong: tokens that the profile does not hold, an input without shape or address, memory that is missing, askew
or used twice. Of a plan it knows which graph it was built from, and nothing of the kernels that TensorRT would run.
"""

from packager.stand_in.module import StandIn

__all__ = ["StandIn"]
