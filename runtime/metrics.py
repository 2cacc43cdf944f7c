"""Prometheus metrics of the batching engine: our prefix, vLLM's suffixes and buckets."""

from prometheus_client import Counter, Gauge, Histogram

_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST_BUCKETS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)

RUNNING = Gauge("trtpack_num_requests_running", "Requests in the batch")
WAITING = Gauge("trtpack_num_requests_waiting", "Requests waiting for a place in the batch")
KV_USAGE = Gauge("trtpack_kv_cache_usage_perc", "Share of KV cache blocks in use, 0 to 1")
PREEMPTIONS = Counter("trtpack_num_preemptions", "Requests whose KV cache was given up and computed again")
PROMPT_TOKENS = Counter("trtpack_prompt_tokens", "Prompt tokens of admitted requests")
GENERATION_TOKENS = Counter("trtpack_generation_tokens", "Tokens generated")
FINISHED = Counter("trtpack_request_success", "Requests ended, by reason", ["finished_reason"])
TTFT = Histogram("trtpack_time_to_first_token_seconds", "Arrival to first token", buckets=_TOKEN_BUCKETS)
E2E = Histogram("trtpack_e2e_request_latency_seconds", "Arrival to last token", buckets=_REQUEST_BUCKETS)
