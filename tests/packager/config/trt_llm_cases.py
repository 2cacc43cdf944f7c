"""`trt_llm:` sections as people write them, and what is to become of each."""

from dataclasses import dataclass, field
from typing import Any

from runtime.engine.manifest import Scheduling


@dataclass(frozen=True)
class Case:
    """`config` is the whole of config.yaml. `warned` and `refused` are the fields that a line is said about.

    `in_truss`: whether Truss 0.18 takes it; what it does not is from its earlier versions, and is read all the same.
    """

    name: str
    config: str
    engine: dict[str, Any] = field(default_factory=dict)
    warned: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    in_truss: bool = True


def section(build: str = "", runtime: str = "", accelerator: str = "H100", repo: str = "org/model") -> str:
    """A config.yaml of a decoder on the Hub, with more lines under `build:` and `runtime:`."""
    lines = [
        "model_name: a model",
        f"resources: {{accelerator: {accelerator}, use_gpu: true}}",
        "trt_llm:",
        "  build:",
        "    base_model: decoder",
        f"    checkpoint_repository: {{source: HF, repo: {repo}}}",
        *(f"    {line}" for line in build.splitlines()),
        *(["  runtime:"] if runtime else []),
        *(f"    {line}" for line in runtime.splitlines()),
    ]
    return "\n".join(lines) + "\n"


TINYLLAMA = """\
model_name: tinyllama-trt
python_version: py310
resources: {accelerator: A10G, memory: 24Gi, use_gpu: true}
trt_llm:
  build:
    base_model: llama
    max_seq_len: 2048
    quantization_type: no_quant
    checkpoint_repository: {repo: TinyLlama/TinyLlama-1.1B-Chat-v1.0, source: HF}
"""

MISTRAL_OF_2024 = """\
model_name: Mistral 7B Instruct
python_version: py39
resources: {accelerator: A100, cpu: '1', memory: 24Gi, use_gpu: true}
secrets: {hf_access_token: null}
trt_llm:
  build:
    base_model: mistral
    checkpoint_repository: {repo: mistralai/Mistral-7B-Instruct-v0.3, source: HF}
    max_batch_size: 32
    max_beam_width: 1
    max_input_len: 8192
    max_output_len: 4096
    num_builder_gpus: 1
    quantization_type: no_quant
    tensor_parallel_count: 1
    plugin_configuration: {gemm_plugin: auto, multi_block_mode: true}
    enable_chunked_context: false
    kv_cache_free_gpu_mem_fraction: 0.7
    use_fused_mlp: true
"""

V2 = """\
model_name: Qwen3 8B
resources: {accelerator: H100, cpu: "1", memory: 10Gi, use_gpu: true}
trt_llm:
  inference_stack: v2
  build:
    checkpoint_repository: {source: HF, repo: Qwen/Qwen3-8B, revision: main}
    quantization_type: fp8
    num_builder_gpus: 1
  runtime:
    max_seq_len: 32768
    max_batch_size: 128
    max_num_tokens: 16384
    tensor_parallel_size: 1
    enable_chunked_prefill: true
    served_model_name: Qwen3 8B
    patch_kwargs: {cuda_graph_config: {enable_padding: true}}
"""

ENGINE_WINS = (
    section("quantization_type: fp4\nmax_seq_len: 4096\nmax_batch_size: 8", accelerator="B200")
    + "engine: {checkpoint: weights.gguf, quantization: int4, group_size: 32, dtype: float16, max_batch_size: 4}\n"
)

CASES = (
    Case(
        "llama 8b",
        section(
            "max_seq_len: 8192\nnum_builder_gpus: 1\nquantization_type: no_quant\ntensor_parallel_count: 1",
            "batch_scheduler_policy: max_utilization\nenable_chunked_context: true\n"
            "kv_cache_free_gpu_mem_fraction: 0.85\nrequest_default_max_tokens: 131072",
            repo="meta-llama/Llama-3.1-8B-Instruct",
        ),
        {
            "checkpoint": "hf://meta-llama/Llama-3.1-8B-Instruct",
            "max_model_len": 8192,
            "max_batch_size": 256,
            "max_num_tokens": 8192,
            "kv_cache_fraction": 0.85,
            "default_max_new_tokens": 131072,
            "scheduling": Scheduling().model_dump(),
        },
        (),
    ),
    Case(
        "llama fp8_kv",
        section(
            "quantization_type: fp8_kv\nmax_seq_len: 131072\nmax_num_tokens: 16384\n"
            "quantization_config: {calib_size: 1536, calib_max_seq_length: 2048}\n"
            "plugin_configuration: {paged_kv_cache: true, use_paged_context_fmha: true, use_fp8_context_fmha: true}",
            "batch_scheduler_policy: guaranteed_no_evict",
        ),
        {
            "quantization": "fp8",
            "max_model_len": 131072,
            "max_num_tokens": 16384,
            "scheduling": Scheduling(admission="guaranteed").model_dump(),
        },
        (
            "build.quantization_type",
            "build.quantization_config.calib_size",
            "build.quantization_config.calib_max_seq_length",
            "build.plugin_configuration.use_fp8_context_fmha",
        ),
    ),
    Case(
        "llama 70b on two GPUs",
        section("tensor_parallel_count: 2\nquantization_type: fp8_kv\nnum_builder_gpus: 4", accelerator="H100:2"),
        refused=("build.tensor_parallel_count",),
    ),
    Case(
        "pipeline and sequence",
        section("pipeline_parallel_count: 2\nsequence_parallel_count: 2", accelerator="H100:4"),
        refused=("build.pipeline_parallel_count", "build.sequence_parallel_count"),
    ),
    Case(
        "qwen int4",
        section(
            "quantization_type: weights_int4\nmax_batch_size: 16", accelerator="L4", repo="Qwen/Qwen2.5-7B-Instruct"
        ),
        {"checkpoint": "hf://Qwen/Qwen2.5-7B-Instruct", "quantization": "int4", "max_batch_size": 16},
    ),
    Case(
        "int4 with an int8 cache",
        section("quantization_type: weights_int4_kv_int8", accelerator="L4"),
        {"quantization": "int4"},
        ("build.quantization_type",),
    ),
    Case(
        "int8 with an int8 cache",
        section("quantization_type: weights_kv_int8", accelerator="A10G"),
        {"quantization": "int8"},
        ("build.quantization_type",),
    ),
    Case(
        "smooth_quant", section("quantization_type: smooth_quant", accelerator="A100"), {"quantization": "smoothquant"}
    ),
    Case(
        "fp8_mlp_only",
        section("quantization_type: fp8_mlp_only"),
        {"quantization": "fp8"},
        ("build.quantization_type",),
    ),
    *(
        Case(kind, section(f"quantization_type: {kind}", accelerator="B200"), refused=("build.quantization_type",))
        for kind in ("fp4", "fp4_kv", "fp4_mlp_only")
    ),
    Case(
        "lookahead",
        section(
            "max_batch_size: 64\nmax_seq_len: 40960\nquantization_type: fp8\nspeculator:\n"
            "  speculative_decoding_mode: LOOKAHEAD_DECODING\n  lookahead_windows_size: 1\n"
            "  lookahead_ngram_size: 16\n  lookahead_verification_set_size: 1\n  enable_b10_lookahead: true",
            "enable_chunked_context: true",
            repo="Qwen/Qwen3-4B",
        ),
        {"checkpoint": "hf://Qwen/Qwen3-4B", "quantization": "fp8", "max_model_len": 40960, "max_batch_size": 64}
        | {"speculation": {"method": "prompt_lookup", "tokens": 4, "checkpoint": None}},
        (
            "build.speculator.speculative_decoding_mode",
            "build.speculator.lookahead_windows_size",
            "build.speculator.lookahead_ngram_size",
            "build.speculator.lookahead_verification_set_size",
        ),
    ),
    Case(
        "a draft model",
        section(
            "speculator:\n  speculative_decoding_mode: DRAFT_TOKENS_EXTERNAL\n  num_draft_tokens: 5\n"
            "  checkpoint_repository: {source: HF, repo: org/small, revision: abc}",
        ),
        {"speculation": {"method": "draft_model", "tokens": 5, "checkpoint": "hf://org/small@abc"}},
        in_truss=False,
    ),
    Case(
        "a draft model that cannot be fetched",
        section("speculator:\n  num_draft_tokens: 5\n  checkpoint_repository: {source: AZURE, repo: az://a/b}"),
        refused=("build.speculator.checkpoint_repository.source",),
        in_truss=False,
    ),
    Case(
        "a draft model without a checkpoint",
        section("speculator: {num_draft_tokens: 5}"),
        {"speculation": None},
        ("build.speculator",),
        in_truss=False,
    ),
    Case(
        "lora",
        section(
            "lora_adapters:\n  pirate: {source: HF, repo: org/pirate-lora}\n  poet: {source: S3, repo: s3://a/poet}\n"
            "lora_configuration: {max_lora_rank: 32, lora_target_modules: [attn_q, attn_v]}",
            "lora_cache_gpu_memory_fraction: 0.1",
            accelerator="L4",
        ),
        {"checkpoint": "hf://org/model", "adapters": {"pirate": "hf://org/pirate-lora", "poet": "s3://a/poet"}},
        ("build.lora_configuration", "runtime.lora_cache_gpu_memory_fraction"),
    ),
    Case(
        "all else that is left alone",
        section(
            "max_prompt_embedding_table_size: 64\ngather_all_token_logits: true\nstrongly_typed: true\n"
            "moe_expert_parallel_option: 1",
            "kv_cache_host_memory_bytes: 1000000\ntotal_token_limit: 1000\nserved_model_name: another",
        )
        + "  version_overrides: {engine_builder_version: 0.18.1.post6, briton_version: 0.18.1-ffb120c}\n",
        {"checkpoint": "hf://org/model"},
        (
            "build.max_prompt_embedding_table_size",
            "build.gather_all_token_logits",
            "build.moe_expert_parallel_option",
            "runtime.kv_cache_host_memory_bytes",
            "runtime.total_token_limit",
            "runtime.served_model_name",
            "version_overrides",
        ),
    ),
    Case("the model's own name", section("", "served_model_name: a model"), {"checkpoint": "hf://org/model"}),
    Case(
        "no pages and no chunks",
        section(
            "plugin_configuration: {paged_kv_cache: false, use_paged_context_fmha: false}",
            "enable_chunked_context: false",
        ),
        {"checkpoint": "hf://org/model"},
        (
            "build.plugin_configuration.paged_kv_cache",
            "build.plugin_configuration.use_paged_context_fmha",
            "runtime.enable_chunked_context",
        ),
    ),
    Case(
        "embeddings",
        section("max_num_tokens: 32768", "webserver_default_route: /v1/embeddings").replace("decoder", "encoder"),
        warned=("runtime.webserver_default_route",),
        refused=("build.base_model",),
    ),
    Case("reranker", section(accelerator="L4").replace("decoder", "encoder_bert"), refused=("build.base_model",)),
    Case("whisper", section().replace("decoder", "whisper"), refused=("build.base_model",), in_truss=False),
    Case("deepseek", section().replace("decoder", "deepseek"), refused=("build.base_model",), in_truss=False),
    Case(
        "a 2024 llama",
        TINYLLAMA,
        {"checkpoint": "hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0", "max_model_len": 2048},
        ("build.base_model", "python_version"),
        in_truss=False,
    ),
    Case(
        "a 2024 mistral",
        MISTRAL_OF_2024,
        {"max_model_len": 12288, "max_batch_size": 32, "kv_cache_fraction": 0.7},
        (
            "build.base_model",
            "build.max_input_len",
            "build.plugin_configuration.gemm_plugin",
            "build.plugin_configuration.multi_block_mode",
            "build.enable_chunked_context",
            "build.kv_cache_free_gpu_mem_fraction",
            "build.use_fused_mlp",
            "python_version",
        ),
        in_truss=False,
    ),
    Case(
        "v2",
        V2,
        {
            "checkpoint": "hf://Qwen/Qwen3-8B@main",
            "quantization": "fp8",
            "max_model_len": 32768,
            "max_batch_size": 128,
            "max_num_tokens": 16384,
        },
        ("runtime.patch_kwargs",),
    ),
    Case(
        "v2 on eight GPUs",
        V2.replace("H100", "H100:8").replace("tensor_parallel_size: 1", "tensor_parallel_size: 8"),
        warned=("runtime.patch_kwargs",),
        refused=("runtime.tensor_parallel_size",),
    ),
    Case(
        "engine first",
        ENGINE_WINS,
        {
            "checkpoint": "weights.gguf",
            "quantization": "int4",
            "group_size": 32,
            "dtype": "float16",
            "max_model_len": 4096,
            "max_batch_size": 4,
            "max_num_tokens": 8192,
        },
    ),
    *(
        Case(
            f"{source} {repo}",
            section().replace("{source: HF, repo: org/model}", f"{{source: {source}, repo: {repo!r}}}"),
            {"checkpoint": checkpoint},
        )
        for source, repo, checkpoint in (
            ("HF", "org/model", "hf://org/model"),
            ("GCS", "gs://bucket/a/model/", "gs://bucket/a/model/"),
            ("GCS", "bucket/a/model", "gs://bucket/a/model"),
            ("S3", "s3://bucket/a/model", "s3://bucket/a/model"),
            ("S3", "bucket", "s3://bucket"),
            ("LOCAL", "weights/model", "weights/model"),
            ("LOCAL", "../model.gguf", "../model.gguf"),
            ("REMOTE_URL", "https://example.com/m.tar.gz?X-Sig=1", "https://example.com/m.tar.gz?X-Sig=1"),
        )
    ),
    *(
        Case(
            source,
            section().replace("{source: HF, repo: org/model}", f"{{source: {source}, repo: {repo}}}"),
            refused=("build.checkpoint_repository.source",),
        )
        for source, repo in (("AZURE", "az://container/model"), ("BASETEN_TRAINING", "abc123"))
    ),
    Case(
        "a bucket at a revision",
        section().replace("{source: HF, repo: org/model}", "{source: S3, repo: s3://a/b, revision: main}"),
        {"checkpoint": "s3://a/b"},
        ("build.checkpoint_repository.revision",),
    ),
    Case(
        "a private checkpoint at a revision",
        section().replace("org/model}", "org/model, revision: v1.0, runtime_secret_name: my_token}"),
        {"checkpoint": "hf://org/model@v1.0"},
        ("build.checkpoint_repository.runtime_secret_name",),
    ),
)
