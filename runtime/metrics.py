"""Prometheus metrics of the batching engine: our prefix, vLLM's suffixes and buckets."""

from time import monotonic

from prometheus_client import Counter, Gauge, Histogram

from runtime import phases
from runtime.request import FinishReason, Request

_TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)

RUNNING = Gauge("trtpack_num_requests_running", "Requests in the batch")
WAITING = Gauge("trtpack_num_requests_waiting", "Requests waiting for a place in the batch")
KV_USAGE = Gauge("trtpack_kv_cache_usage_perc", "Share of KV cache blocks in use, 0 to 1")
PREFIX_QUERIES = Counter("trtpack_prefix_cache_queries", "Prompt tokens looked up in the prefix cache")
PREFIX_HITS = Counter("trtpack_prefix_cache_hits", "Prompt tokens found there")
PREEMPTIONS = Counter("trtpack_num_preemptions", "Requests whose KV cache was given up and computed again")
PROMPT_TOKENS = Counter("trtpack_prompt_tokens", "Prompt tokens of admitted requests; of several answers to one, once")
GENERATION_TOKENS = Counter("trtpack_generation_tokens", "Tokens generated")
FINISHED = Counter("trtpack_request_success", "Requests ended, by reason: not only success", ["finished_reason"])
DRAFTS = Counter("trtpack_spec_decode_num_drafts", "Steps of a request in which tokens were guessed ahead")
DRAFT_TOKENS = Counter("trtpack_spec_decode_num_draft_tokens", "Tokens guessed ahead")
ACCEPTED_TOKENS = Counter("trtpack_spec_decode_num_accepted_tokens", "Guessed tokens that the model confirmed")
TTFT = Histogram("trtpack_time_to_first_token_seconds", "Arrival to first token", buckets=_TTFT)
ITL = Histogram("trtpack_inter_token_latency_seconds", "From one step with tokens to the next", buckets=_ITL)
E2E = Histogram("trtpack_e2e_request_latency_seconds", "Arrival to last token", buckets=_REQUEST)
QUEUE_TIME = Histogram("trtpack_request_queue_time_seconds", "Arrival to the first step", buckets=_REQUEST)
PREFILL_TIME = Histogram("trtpack_request_prefill_time_seconds", "First step to first token", buckets=_REQUEST)
DECODE_TIME = Histogram("trtpack_request_decode_time_seconds", "First token to last token", buckets=_REQUEST)


def observe_start(request: Request) -> None:
    """A request's first step is about to run."""
    request.started = monotonic()
    QUEUE_TIME.observe(request.started - request.arrival)
    PREFIX_QUERIES.inc(len(request.prompt))
    PREFIX_HITS.inc(request.cached or 0)


def observe_tokens(request: Request, before: float | None, count: int) -> None:
    """A step gave a request `count` tokens; `before` is when it got the last ones.

    Of several at once, where guesses were confirmed, the latency counts once, as in vLLM: they came together.
    """
    GENERATION_TOKENS.inc(count)
    if not count or request.last_token is None:
        return
    if before is not None:
        ITL.observe(request.last_token - before)
    else:
        TTFT.observe(request.last_token - request.arrival)
        phases.seconds.setdefault("first_token", request.last_token - request.arrival)
        PREFILL_TIME.observe(request.last_token - (request.started or request.arrival))


def observe_drafts(guessed: int, confirmed: int) -> None:
    """A step checked guesses."""
    DRAFTS.inc()
    DRAFT_TOKENS.inc(guessed)
    ACCEPTED_TOKENS.inc(confirmed)


def observe_end(request: Request, reason: FinishReason | None) -> None:
    """A request has ended. How long it took is told of whole answers alone."""
    if reason:
        FINISHED.labels(reason.value).inc()
    if reason in (FinishReason.STOP, FinishReason.LENGTH) and request.first_token and request.last_token:
        E2E.observe(request.last_token - request.arrival)
        DECODE_TIME.observe(request.last_token - request.first_token)
