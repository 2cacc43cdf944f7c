"""What becomes of each field of `trt_llm:` here: the table, and the `engine:` that follows from it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from packager.config.document import Path
from packager.config.section import Section
from packager.config.trt_llm import Repository, Speculator, TrtLlm
from runtime.engine.manifest import Scheme

if TYPE_CHECKING:
    from packager.config.package import PackageConfig

OTHER = object()  # in a Row: every value but the default

_QUANTIZATION: Mapping[str, Scheme] = {
    "weights_int8": "int8",
    "weights_kv_int8": "int8",
    "weights_int4": "int4",
    "weights_int4_kv_int8": "int4",
    "smooth_quant": "smoothquant",
    "fp8": "fp8",
    "fp8_kv": "fp8",
    "fp8_mlp_only": "fp8",
}
_ADMISSION = {"max_utilization": {"admission": "on_demand"}, "guaranteed_no_evict": {"admission": "guaranteed"}}
_URL_SCHEMES = {"GCS": "gs", "S3": "s3", "AZURE": "az", "BASETEN_TRAINING": "baseten"}
_LEGACY_NAMES = ("llama", "mistral", "qwen", "palmyra")
_NO_EMBEDDINGS = "expected decoder: embedding and classification models are not served"
_16_BIT_CACHE = "the weights are quantised so, but the KV cache stays in 16 bits"
_NO_FP4 = "expected another: 4-bit floats cannot be compiled yet; weights_int4 and fp8 can"
_ONE_GPU = "expected 1: an engine runs on one GPU in this version"
_LORA = "an adapter says itself which rank and modules it has; ignored"
_LORA_CACHE = "all adapters stay in the GPU's memory; ignored"
_PAGED = "the KV cache is always paged; ignored"
_CHUNKED = "long prompts are always computed in chunks; ignored"
_CALIBRATION = "activations are measured on engine.calibration, or on the text that trtpack brings; ignored"
_OF_LOOKAHEAD = "n-grams are looked up, not computed ahead; ignored"
_UNREAD: Mapping[Any, str] = {
    "AZURE": "expected another source: Azure is not read yet; name a copy under engine.{}checkpoint",
    "BASETEN_TRAINING": "expected another source: only Baseten has it; name a copy under engine.{}checkpoint",
}
_GONE = "Truss has it no more; ignored"


@dataclass(frozen=True)
class Row:
    """What becomes of the field at `path` under `trt_llm:`.

    `engine` is the field of `engine:` that takes its value. `note` is for its reader. `warnings` and `errors` hold
    what is said of a value, or of OTHER; `unless` names the top-level field that such a value may well repeat.
    """

    path: str
    note: str = ""
    engine: str | None = None
    warnings: Mapping[Any, str] = field(default_factory=dict)
    errors: Mapping[Any, str] = field(default_factory=dict)
    unless: str | None = None


@dataclass(frozen=True)
class Finding:
    """What there is to say of a field that config.yaml sets; `refused` when nothing right can come of it."""

    path: Path
    text: str
    refused: bool


def _ignored(path: str, text: str, unless: str | None = None) -> Row:
    return Row(path, warnings={OTHER: text}, unless=unless)


ROWS = (
    Row("inference_stack", "v1 and v2 become the same engine"),
    Row(
        "build.base_model",
        "`decoder`; the checkpoint's own config.json says which architecture",
        warnings=dict.fromkeys(_LEGACY_NAMES, "Truss calls it decoder now; the checkpoint says what it is"),
        errors={
            "encoder": _NO_EMBEDDINGS,
            "encoder_bert": _NO_EMBEDDINGS,
            "whisper": "expected decoder: models that read speech are not served",
            "deepseek": "expected decoder: DeepSeek's architecture is not supported; Llama, Mistral and Qwen are",
        },
    ),
    Row("build.checkpoint_repository", "see below", engine="checkpoint"),
    Row(
        "build.checkpoint_repository.source",
        errors={source: text.format("") for source, text in _UNREAD.items()},
    ),
    Row("build.checkpoint_repository.revision", "of `HF` only; elsewhere a warning"),
    _ignored(
        "build.checkpoint_repository.runtime_secret_name",
        "compile takes HF_TOKEN, or the cloud's own credentials, from its environment; ignored",
    ),
    Row("build.max_seq_len", "unset: what the model was trained for", engine="max_model_len"),
    Row("build.max_batch_size", "unset: Truss's 256", engine="max_batch_size"),
    Row("build.max_num_tokens", "unset: Truss's 8192", engine="max_num_tokens"),
    Row("build.max_beam_width", "1 is the only value, in Truss too"),
    _ignored("build.max_prompt_embedding_table_size", "prompt tuning is not available; ignored"),
    _ignored("build.gather_all_token_logits", "logits are computed for the last token only; ignored"),
    Row("build.strongly_typed", "the networks always are"),
    Row(
        "build.quantization_type",
        "`no_quant` is `engine.dtype`",
        engine="quantization",
        warnings={
            **dict.fromkeys(("weights_kv_int8", "weights_int4_kv_int8", "fp8_kv"), _16_BIT_CACHE),
            "fp8_mlp_only": "attention's own linear layers are quantised too",
        },
        errors=dict.fromkeys(("fp4", "fp4_kv", "fp4_mlp_only"), _NO_FP4),
    ),
    _ignored("build.quantization_config.calib_size", _CALIBRATION),
    _ignored("build.quantization_config.calib_dataset", _CALIBRATION),
    _ignored("build.quantization_config.calib_max_seq_length", _CALIBRATION),
    Row("build.tensor_parallel_count", errors={OTHER: _ONE_GPU}),
    Row("build.pipeline_parallel_count", errors={OTHER: _ONE_GPU}),
    Row("build.sequence_parallel_count", errors={OTHER: _ONE_GPU}),
    _ignored("build.moe_expert_parallel_option", "models of experts are not supported; ignored"),
    _ignored("build.plugin_configuration.paged_kv_cache", _PAGED),
    _ignored("build.plugin_configuration.use_paged_context_fmha", _PAGED),
    _ignored("build.plugin_configuration.use_fp8_context_fmha", "attention is computed in 16 bits; ignored"),
    Row("build.num_builder_gpus", "compiling takes no GPU, or the one it is for"),
    Row("build.speculator", "see below", engine="speculation"),
    Row(
        "build.speculator.speculative_decoding_mode",
        "`DRAFT_TOKENS_EXTERNAL` is `draft_model`, `LOOKAHEAD_DECODING` is `prompt_lookup`",
        warnings={
            "LOOKAHEAD_DECODING": "it becomes prompt_lookup: n-grams of prompt and answer are looked up, where "
            "TensorRT-LLM computes new ones ahead by Jacobi iteration"
        },
    ),
    Row("build.speculator.num_draft_tokens", "`engine.speculation.tokens`; unset: 4"),
    Row("build.speculator.checkpoint_repository", "`engine.speculation.checkpoint`, as the model's own"),
    Row(
        "build.speculator.checkpoint_repository.source",
        errors={source: text.format("speculation.") for source, text in _UNREAD.items()},
    ),
    _ignored("build.speculator.runtime", "the draft model runs in the model's own process; ignored"),
    _ignored("build.speculator.build", "the draft model is compiled within the model's own limits; ignored"),
    _ignored("build.speculator.lookahead_windows_size", _OF_LOOKAHEAD),
    _ignored("build.speculator.lookahead_ngram_size", _OF_LOOKAHEAD),
    _ignored("build.speculator.lookahead_verification_set_size", _OF_LOOKAHEAD),
    Row("build.speculator.enable_b10_lookahead", "Baseten's own lookup of n-grams; `prompt_lookup` is the same idea"),
    Row("build.lora_adapters", "run by the torch backend", engine="adapters"),
    _ignored("build.lora_configuration", _LORA),
    _ignored("build.skip_build_result", "TensorRT-LLM's engines cannot be read; the checkpoint is compiled"),
    # Until Truss 0.9.
    Row(
        "build.max_input_len",
        "together with `max_output_len`, where `max_seq_len` is unset: `engine.max_model_len`",
        warnings={OTHER: "Truss has max_seq_len for it now; the sum with max_output_len is taken where that is unset"},
    ),
    Row("build.max_output_len", "as `max_input_len`"),
    Row(
        "build.kv_cache_free_gpu_mem_fraction",
        engine="kv_cache_fraction",
        warnings={OTHER: "Truss has it under trt_llm.runtime now; taken from here"},
    ),
    Row("build.enable_chunked_context", "always on", warnings={False: _CHUNKED}),
    _ignored("build.use_fused_mlp", _GONE),
    _ignored("build.plugin_configuration.gemm_plugin", _GONE),
    _ignored("build.plugin_configuration.multi_block_mode", _GONE),
    Row("runtime.kv_cache_free_gpu_mem_fraction", "unset: 0.9, as in Truss", engine="kv_cache_fraction"),
    _ignored("runtime.kv_cache_host_memory_bytes", "the KV cache is not offloaded to the host's memory; ignored"),
    _ignored("runtime.lora_cache_max_adapter_size", _LORA_CACHE),
    _ignored("runtime.lora_cache_optimal_adapter_size", _LORA_CACHE),
    _ignored("runtime.lora_cache_gpu_memory_fraction", _LORA_CACHE),
    _ignored("runtime.lora_cache_host_memory_bytes", _LORA_CACHE),
    Row("runtime.enable_chunked_context", "always on", warnings={False: _CHUNKED}),
    Row(
        "runtime.batch_scheduler_policy",
        "its `admission`: `max_utilization` is `on_demand`; `guaranteed_no_evict`, Truss's for unset, is `guaranteed`",
        engine="scheduling",
    ),
    Row("runtime.request_default_max_tokens", "unset: 512", engine="default_max_new_tokens"),
    _ignored("runtime.served_model_name", "the service is called after model_name; ignored", unless="model_name"),
    _ignored("runtime.total_token_limit", "the queue is bounded by requests, not by tokens; ignored"),
    _ignored("runtime.webserver_default_route", "it is for embedding models; ignored"),
    Row("runtime.max_seq_len", "v2's", engine="max_model_len"),
    Row("runtime.max_batch_size", "v2's; unset: Truss's 256", engine="max_batch_size"),
    Row("runtime.max_num_tokens", "v2's; unset: Truss's 8192", engine="max_num_tokens"),
    Row("runtime.tensor_parallel_size", errors={OTHER: _ONE_GPU}),
    Row("runtime.enable_chunked_prefill", "v2's; always on", warnings={False: _CHUNKED}),
    _ignored("runtime.patch_kwargs", "these are TensorRT-LLM's own options; ignored"),
    _ignored("version_overrides", "they name images of Baseten's; ignored"),
)


def engine_fields(section: TrtLlm) -> dict[str, Any]:
    """The fields of `engine:` that follow from `trt_llm:`; of two rows for one field the later one decides."""
    build = section.build
    fields: dict[str, Any] = {
        "max_batch_size": build.max_batch_size,
        "max_num_tokens": build.max_num_tokens,
        "scheduling": _ADMISSION[section.runtime.batch_scheduler_policy],
    }
    if build.max_input_len and build.max_output_len:
        fields["max_model_len"] = build.max_input_len + build.max_output_len
    for row in ROWS:
        value = _given(section, row.path) if row.engine else None
        if value is not None:
            fields[str(row.engine)] = _engine_value(value)
    return fields


def findings(config: "PackageConfig", engine_given: Collection[str]) -> Iterator[Finding]:
    """What there is to say of `trt_llm:`; nothing of a field that gives way to one of `engine_given`."""
    if config.trt_llm is None:
        return
    if config.engine is None:
        yield Finding(("trt_llm", "build"), "checkpoint_repository is missing, and engine.checkpoint too", refused=True)
    repository = config.trt_llm.build.checkpoint_repository
    if repository and repository.revision and repository.source not in ("HF", "BASETEN_TRAINING"):
        path = ("trt_llm", "build", "checkpoint_repository", "revision")
        yield Finding(path, "only HF repositories have one; ignored", refused=False)
    speculator = config.trt_llm.build.speculator
    if speculator and "speculation" not in engine_given and _speculation(speculator) is None:
        missing = "checkpoint_repository is missing, so no tokens are guessed; ignored"
        yield Finding(("trt_llm", "build", "speculator"), missing, refused=False)
    overruled = tuple(row.path for row in ROWS if row.engine in engine_given)
    for row in ROWS:
        value = _given(config.trt_llm, row.path)
        if value is None or any(row.path == path or row.path.startswith(f"{path}.") for path in overruled):
            continue
        if row.unless and value == getattr(config, row.unless):
            continue
        for said, refused in ((row.errors, True), (row.warnings, False)):
            if text := _said(said, value, _default(config.trt_llm, row.path)):
                yield Finding(("trt_llm", *row.path.split(".")), text, refused)


def source(repository: Repository) -> str:
    """A checkpoint_repository as `engine.checkpoint` names it."""
    repo, revision = repository.repo, repository.revision
    match repository.source:
        case "HF":
            return f"hf://{repo}@{revision}" if revision else f"hf://{repo}"
        case "GCS" | "S3" | "AZURE" | "BASETEN_TRAINING" if "://" not in repo:
            return f"{_URL_SCHEMES[repository.source]}://{repo}"
        case _:
            return repo


def _engine_value(value: Any) -> Any:
    if isinstance(value, Repository):
        return source(value)
    if isinstance(value, Speculator):
        return _speculation(value)
    if isinstance(value, dict):
        return {name: source(repository) for name, repository in value.items()}
    if isinstance(value, str):
        return _ADMISSION.get(value) or _QUANTIZATION.get(value)
    return value


def _speculation(speculator: Speculator) -> dict[str, Any] | None:
    """None, which a finding tells, for a draft model that has no checkpoint of its own."""
    tokens = {"tokens": speculator.num_draft_tokens} if speculator.num_draft_tokens else {}
    if speculator.speculative_decoding_mode == "LOOKAHEAD_DECODING":
        return {"method": "prompt_lookup", **tokens}
    if speculator.checkpoint_repository is None:
        return None
    return {"method": "draft_model", "checkpoint": source(speculator.checkpoint_repository), **tokens}


def _given(section: Section, path: str) -> Any:
    """The value at `path` where config.yaml sets it, else None."""
    value: Any = section
    for name in path.split("."):
        if not isinstance(value, Section) or name not in value.model_fields_set:
            return None
        value = getattr(value, name)
    return value


def _default(section: Section, path: str) -> Any:
    *parents, name = path.split(".")
    for parent in parents:
        section = getattr(section, parent)
    return type(section).model_fields[name].get_default(call_default_factory=True)


def _said(texts: Mapping[Any, str], value: Any, default: Any) -> str | None:
    if isinstance(value, str | bool) and value in texts:
        return texts[value]
    return texts.get(OTHER) if value != default else None
