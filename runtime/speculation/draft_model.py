"""Guessing with a smaller model of the same vocabulary."""

from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from pathlib import Path

from torch import Tensor
from torch.nn.functional import pad

from runtime.batch import Batch
from runtime.block_pool import BlockPool
from runtime.engine import manifest
from runtime.engine.engine import BLOCK_SIZE, Engine
from runtime.errors import EngineError
from runtime.outcome import outcomes
from runtime.request import Request
from runtime.scheduler import Chunk
from runtime.speculation.shadow import Shadow
from runtime.tokenizer import same_vocabulary

# Of the free memory; the rest is for the engine that is guessed for.
_KV_SHARE = 0.1


class DraftModel:
    """An engine that runs ahead of another one, with a KV cache of its own.

    Every guess is drawn as the model itself would draw it: with the request's parameters, its seed and the token's
    position, from the draft's logits. What the answer is does not hang on that. The model's token at a position is its
    own draw, whatever was guessed, so it has exactly the model's distribution, as with the accept-or-resample of
    Leviathan et al. (arXiv:2211.17192); that one is right as often as any guess can be, 1 - TV(draft, model), and pays
    with an answer that depends on the guesses. Here the two draws share their randomness instead, so that they agree
    often without either knowing of the other (Daliri et al., "Coupling without communication and drafter-invariant
    speculative decoding", arXiv:2408.07978), and a seed gives the same answer with any draft and with none.
    """

    def __init__(
        self, engine: str | Path, tokens: int = 4, *, device: str | None = None, kv_cache_bytes: int | None = None
    ) -> None:
        """Loads the draft's engine folder, to guess at most `tokens` tokens a step for each request.

        `device` and `kv_cache_bytes` are as for LLM, but None takes a tenth of the free memory. Raises EngineError.
        """
        if tokens < 1:
            raise ValueError(f"tokens is {tokens}; a draft model guesses at least one")
        self._folder = Path(engine)
        self._engine = Engine(self._folder, device=device, kv_cache_bytes=kv_cache_bytes, kv_cache_share=_KV_SHARE)
        self._limits = self._engine.manifest.limits
        self._pool = BlockPool(self._engine.num_blocks, BLOCK_SIZE)
        self._tokens = tokens
        self._own_size = self._vocab_size = self._engine.manifest.model.config.vocab_size
        self._shadows: OrderedDict[Request, Shadow] = OrderedDict()  # the one longest without a proposal first

    @property
    def pool(self) -> BlockPool:
        """The draft's own blocks."""
        return self._pool

    def check(self, engine: Path) -> None:
        """Gets ready to guess for this engine folder. Raises EngineError where its tokens are other ones.

        Only the tokenizers must agree: models of one family pad their embeddings to different sizes.
        """
        if not same_vocabulary(self._folder / "tokenizer", engine / "tokenizer"):
            raise EngineError(
                f"the draft model in {self._folder} has another vocabulary than {engine}, so it cannot guess its "
                "tokens: take a smaller model of the same family"
            )
        self._vocab_size = manifest.read(engine).model.config.vocab_size

    def propose(self, requests: Sequence[Request]) -> None:
        """One step that reads what the requests have got since, then one for each further guess.

        A long prompt is read over several calls, `max_num_tokens` at a time, so that nobody waits for it long.
        """
        shadows: list[Shadow] = []
        for request in requests:
            request.drafts = []
            if shadow := self._follow(request, shadows):
                shadows.append(shadow)
        guessing = self._step(self._chunks(shadows))
        while guessing:
            going = [ahead for ahead in guessing if len(ahead.tokens) < ahead.max_tokens]
            guessing = self._step([Chunk(ahead, ahead.computed, 1) for ahead in going])
        for shadow in shadows:
            shadow.request.drafts = shadow.guesses

    def forget(self, request: Request) -> None:
        """Frees the draft's blocks of a request."""
        if shadow := self._shadows.pop(request, None):
            self._pool.free(shadow.ahead.blocks)

    def _follow(self, request: Request, before: Sequence[Shadow]) -> Shadow | None:
        """The request's shadow, up to date and with room to guess; None, without a block, where there is none.

        Shadows that nobody has asked for in this call give up theirs for it; those of `before` do not.
        """
        shadow = self._shadows.pop(request, None) or Shadow(request, self._tokens)
        came, ahead = shadow.rejoin(self._tokens), shadow.ahead
        known = len(ahead.tokens)
        # The last guess is not computed, so it may lie one beyond the draft's own limit.
        room = min(shadow.patience, request.max_tokens - known - 1, self._limits.max_model_len - known + 1)
        ahead.max_new_tokens = request.generated + room
        if room > 0 and max(came, default=0) < self._own_size and self._grow(ahead, len(before)):
            self._shadows[request] = shadow
            return shadow
        self._pool.free(ahead.blocks)
        return None

    def _grow(self, ahead: Request, kept: int) -> bool:
        """Blocks for all but the last guess; of the shadows all but the latest `kept` may be dropped for them."""
        wanted = max(self._pool.blocks_for(ahead.max_tokens - 1) - len(ahead.blocks), 0)
        while (blocks := self._pool.allocate(wanted)) is None:
            if len(self._shadows) == kept:
                return False
            self.forget(next(iter(self._shadows)))
        ahead.blocks += blocks
        return True

    def _chunks(self, shadows: Sequence[Shadow]) -> list[Chunk]:
        """What is missing of each, the least first, so that no prompt holds up those that are about up to date."""
        chunks: list[Chunk] = []
        left = self._limits.max_num_tokens
        for ahead in sorted((shadow.ahead for shadow in shadows), key=lambda ahead: ahead.missing):
            if count := min(ahead.missing, left):
                chunks.append(Chunk(ahead, ahead.computed, count))
                left -= count
        return chunks

    def _step(self, chunks: Sequence[Chunk]) -> list[Request]:
        """Computes them, and returns those that have one token more now."""
        if not chunks:
            return []
        batch = Batch.of(chunks, BLOCK_SIZE, self._engine.device)
        grown: list[Request] = []
        for outcome in outcomes(self._fitted(self._engine.forward(batch)), batch):
            for choice in outcome.choices:
                if choice.error is None:
                    outcome.chunk.request.tokens.append(choice.token)
                    grown.append(outcome.chunk.request)
        for chunk in chunks:
            chunk.request.computed = chunk.end
        return grown

    def _fitted(self, logits: Tensor) -> Tensor:
        """As wide as the model's: tokens that the draft does not know are not guessed."""
        return pad(logits, (0, self._vocab_size - self._own_size), value=-inf)
