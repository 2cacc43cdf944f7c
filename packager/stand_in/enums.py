"""The module's enumerations and its logger."""

from enum import Enum, IntEnum

from onnx import TensorProto


class Severity(IntEnum):
    """Least is worst."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    """What a logger is derived from."""

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(Enum):
    """By the ONNX type that each is."""

    FLOAT = TensorProto.FLOAT
    HALF = TensorProto.FLOAT16
    BF16 = TensorProto.BFLOAT16
    INT8 = TensorProto.INT8
    FP8 = TensorProto.FLOAT8E4M3FN
    INT4 = TensorProto.INT4


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY = 0
    EAGER = 1
    NONE = 2
