"""The loss: cross-entropy on the answer's tokens, optionally with soft targets over neighbouring action bins."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.model.vla import VLAOutput


class Objective:
    """Mean cross-entropy over labelled tokens.

    With `sigma` > 0 [bins] the target of an action token is a Gaussian over the bins around it instead of one bin:
    bins have an order, which plain cross-entropy has to learn bin by bin (histogram loss; Imani & White, ICML 2018).
    The paper's loss is sigma = 0.
    """

    def __init__(self, tokenizer: ActionTokenizer, sigma: float, device: torch.device) -> None:
        self._first, self._sigma = tokenizer.first_id, sigma
        bins = torch.arange(tokenizer.bins, device=device, dtype=torch.float32)
        if sigma > 0:
            weights = torch.exp(-((bins[:, None] - bins[None]) ** 2) / (2 * sigma**2))
            self._weights = weights / weights.sum(1, keepdim=True)

    def __call__(self, output: VLAOutput) -> Tensor:
        """The scalar loss of a forward pass with labels, in float32."""
        assert output.label_logits is not None and output.label_targets is not None
        logits, targets = output.label_logits.float(), output.label_targets
        if self._sigma <= 0:
            return F.cross_entropy(logits, targets)
        log_probability = F.log_softmax(logits, dim=-1)
        bins = targets - self._first
        action = (bins >= 0) & (bins < len(self._weights))
        spread = self._weights[bins.clamp(0, len(self._weights) - 1)]
        window = log_probability[:, self._first : self._first + len(self._weights)]
        soft = -(spread * window).sum(-1)
        hard = -log_probability.gather(1, targets[:, None])[:, 0]
        return torch.where(action, soft, hard).mean()


@torch.no_grad()
def order_action_tokens(checkpoint: Checkpoint) -> None:
    """Initialise the action tokens of a random model as sinusoids of their bin centre, in the embedding and the head.

    Neighbouring bins then start with similar vectors, as suits numbers.
    """
    tokenizer, language = checkpoint.action_tokenizer, checkpoint.model.language_model
    rows = torch.arange(tokenizer.first_id, tokenizer.last_id + 1)
    centres = torch.from_numpy(tokenizer.decode(rows.numpy())).float()
    for weight, scale in ((language.model.embed_tokens.weight, 0.5), (language.lm_head.weight, 0.1)):
        half = weight.shape[1] // 2
        frequency = 2 * math.pi * torch.logspace(math.log10(0.1), math.log10(8.0), half)
        phase = centres[:, None] * frequency[None]
        weight[rows] = scale * torch.cat([phase.sin(), phase.cos()], dim=1).to(weight)
