from torch import nn
from torch.nn.functional import rms_norm

from runtime.model.families import family, llama
from runtime.model.norms import norm


@norm("from_one")
class NormFromOne(nn.RMSNorm):
    def forward(self, x):
        return rms_norm(x, self.normalized_shape, self.weight + 1, self.eps)


family("FromOneForCausalLM")(lambda config: llama(config, norm="from_one"))
