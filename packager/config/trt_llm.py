"""The `trt_llm:` section: Truss 0.18's fields with its names, defaults and bounds (truss/base/trt_llm_config.py).

Fields of earlier Trusses that published configs still carry are read too. What becomes of each field is said in
packager.config.translation.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, ValidationInfo, field_validator, model_validator

from packager.config.section import Section
from packager.config.values import AdapterName, Positive, Text, Whole

BaseModelName = Literal[
    "decoder", "encoder", "encoder_bert", "llama", "mistral", "qwen", "palmyra", "deepseek", "whisper"
]
QuantizationType = Literal[
    "no_quant",
    "weights_int8",
    "weights_kv_int8",
    "weights_int4",
    "weights_int4_kv_int8",
    "smooth_quant",
    "fp8",
    "fp8_kv",
    "fp8_mlp_only",
    "fp4",
    "fp4_kv",
    "fp4_mlp_only",
]
Source = Literal["HF", "GCS", "S3", "AZURE", "LOCAL", "REMOTE_URL", "BASETEN_TRAINING"]
Length = Annotated[Positive, Field(le=1048576)]
BatchSize = Annotated[Positive, Field(le=2048)]
NumTokens = Annotated[Whole, Field(gt=64, le=1048576)]
CalibrationSize = Annotated[Whole, Field(ge=64, le=16384, multiple_of=64)]
Fraction = Annotated[float, Field(gt=0, le=1)]

# What `repo` looks like for the sources whose form is fixed; a bucket may come without its scheme.
_REPOS: dict[str, tuple[str, str]] = {
    "HF": (r"[\w.-]+/[\w.-]+", "ORG/NAME"),
    "GCS": (r"(gs://)?[^:/]+(/.*)?", "gs://BUCKET/PATH"),
    "S3": (r"(s3://)?[^:/]+(/.*)?", "s3://BUCKET/PATH"),
    "REMOTE_URL": (r"https?://.+", "an https:// address"),
}
# The fields of `runtime:` that only one inference stack has, and of `build:` that both have.
_RUNTIME_V2 = frozenset(
    {"max_seq_len", "max_batch_size", "max_num_tokens", "tensor_parallel_size", "enable_chunked_prefill"}
    | {"patch_kwargs"}
)
_BUILD_V2 = frozenset(
    {"checkpoint_repository", "quantization_type", "quantization_config", "skip_build_result", "num_builder_gpus"}
)


class Repository(Section):
    source: Source
    repo: Text
    revision: str | None = None
    runtime_secret_name: str = "hf_access_token"

    @field_validator("repo")
    @classmethod
    def _suits_its_source(cls, value: str, info: ValidationInfo) -> str:
        pattern, expected = _REPOS.get(info.data.get("source", ""), (r".*", ""))
        if not re.fullmatch(pattern, value):
            raise ValueError(f"expected {expected}")
        return value


class QuantizationConfig(Section):
    """On how many samples of a Hub dataset, and of how many tokens, activations are measured."""

    calib_size: CalibrationSize = 1024
    calib_dataset: str = "abisee/cnn_dailymail"
    calib_max_seq_length: CalibrationSize = 1536


class PluginConfiguration(Section):
    paged_kv_cache: bool = True
    use_paged_context_fmha: bool = True
    use_fp8_context_fmha: bool = False
    # Until Truss 0.9.
    gemm_plugin: str | None = None
    multi_block_mode: bool = False

    @model_validator(mode="after")
    def _paged_attention_has_a_paged_cache(self) -> Self:
        if self.use_paged_context_fmha and not self.paged_kv_cache:
            raise ValueError("use_paged_context_fmha needs paged_kv_cache")
        return self


class Speculator(Section):
    speculative_decoding_mode: Literal["DRAFT_TOKENS_EXTERNAL", "LOOKAHEAD_DECODING"] = "DRAFT_TOKENS_EXTERNAL"
    num_draft_tokens: Positive | None = None
    checkpoint_repository: Repository | None = None
    runtime: dict[str, Any] = Field(default_factory=dict)
    build: dict[str, Any] | None = None
    lookahead_windows_size: Positive | None = None
    lookahead_ngram_size: Positive | None = None
    lookahead_verification_set_size: Positive | None = None
    enable_b10_lookahead: bool | None = False


class LoraConfiguration(Section):
    max_lora_rank: Whole = 64
    lora_target_modules: tuple[str, ...] = ()


class Build(Section):
    base_model: BaseModelName = "decoder"
    checkpoint_repository: Repository | None = None
    max_seq_len: Length | None = None
    max_batch_size: BatchSize = 256
    max_num_tokens: NumTokens = 8192
    max_beam_width: Literal[1] = 1
    max_prompt_embedding_table_size: Whole = 0
    gather_all_token_logits: bool = False
    strongly_typed: bool = False
    quantization_type: QuantizationType = "no_quant"
    quantization_config: QuantizationConfig = QuantizationConfig()
    tensor_parallel_count: Positive = 1
    pipeline_parallel_count: Positive = 1
    sequence_parallel_count: Positive = 1
    moe_expert_parallel_option: Whole = -1
    plugin_configuration: PluginConfiguration = PluginConfiguration()
    num_builder_gpus: Positive | None = None
    speculator: Speculator | None = None
    lora_adapters: dict[AdapterName, Repository] | None = None
    lora_configuration: LoraConfiguration | None = None
    skip_build_result: bool = False
    # Until Truss 0.9.
    max_input_len: Length | None = None
    max_output_len: Length | None = None
    kv_cache_free_gpu_mem_fraction: Fraction | None = None
    enable_chunked_context: bool | None = None
    use_fused_mlp: bool = False


class Runtime(Section):
    """The fields of inference stack v1, then those of v2; `served_model_name` is of both."""

    kv_cache_free_gpu_mem_fraction: Fraction = 0.9
    kv_cache_host_memory_bytes: Positive | None = None
    lora_cache_max_adapter_size: Positive | None = None
    lora_cache_optimal_adapter_size: Positive | None = None
    lora_cache_gpu_memory_fraction: Fraction | None = None
    lora_cache_host_memory_bytes: Positive | None = None
    enable_chunked_context: bool = True
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = "guaranteed_no_evict"
    request_default_max_tokens: Positive | None = None
    served_model_name: str | None = None
    total_token_limit: Whole = 500000
    webserver_default_route: (
        Literal["/v1/embeddings", "/v1/systemone", "/rerank", "/predict", "/predict_tokens"] | None
    ) = None

    max_seq_len: Length | None = None
    max_batch_size: BatchSize | None = None
    max_num_tokens: Annotated[NumTokens, Field(le=131072)] | None = None
    tensor_parallel_size: Positive = 1
    enable_chunked_prefill: bool = True
    patch_kwargs: dict[str, Any] = Field(
        default_factory=dict, validation_alias=AliasChoices("patch_kwargs", "gated_features")
    )


class VersionOverrides(Section):
    engine_builder_version: str | None = None
    briton_version: str | None = None
    bei_version: str | None = None
    bei_bert_version: str | None = None
    v2_llm_version: str | None = None


class TrtLlm(Section):
    """`inference_stack` decides where the limits stand: under `build:` for v1, under `runtime:` for v2."""

    inference_stack: Literal["v1", "v2"] = "v1"
    build: Build
    runtime: Runtime = Runtime()
    version_overrides: VersionOverrides = VersionOverrides()

    @field_validator("build")
    @classmethod
    def _belongs_to_the_stack(cls, value: Build, info: ValidationInfo) -> Build:
        if info.data.get("inference_stack") == "v2" and (changed := _changed(value) - _BUILD_V2 - {"base_model"}):
            raise ValueError(f"{min(changed)} is not for inference_stack v2, whose limits stand under runtime")
        return value

    @field_validator("runtime")
    @classmethod
    def _runtime_belongs_to_the_stack(cls, value: Runtime, info: ValidationInfo) -> Runtime:
        stack = info.data.get("inference_stack")
        v2, v1 = _changed(value) & _RUNTIME_V2, _changed(value) - _RUNTIME_V2 - {"served_model_name"}
        if stack == "v1" and v2:
            raise ValueError(f"{min(v2)} is for inference_stack v2; the limits of v1 stand under build")
        if stack == "v2" and v1:
            raise ValueError(f"{min(v1)} is for inference_stack v1")
        return value

    @field_validator("runtime")
    @classmethod
    def _chunks_are_paged(cls, value: Runtime, info: ValidationInfo) -> Runtime:
        build = info.data.get("build")
        if build and value.enable_chunked_context and not build.plugin_configuration.use_paged_context_fmha:
            raise ValueError("enable_chunked_context needs use_paged_context_fmha under build.plugin_configuration")
        return value


def _changed(section: Section) -> set[str]:
    """The fields that the file sets to something else than their default."""
    fields = type(section).model_fields
    defaults = {name: fields[name].get_default(call_default_factory=True) for name in section.model_fields_set}
    return {name for name, default in defaults.items() if getattr(section, name) != default}
