"""CTC loss and its gradient in PyTorch, from logits."""

import torch
import torch.nn.functional as F


def make_call(logits, labels, device: str):
    """Return a function that computes the loss and its gradient. logits [B, U, K], labels [B, L]: NumPy arrays."""
    x = torch.tensor(logits, device=device, requires_grad=True)
    targets = torch.tensor(labels, dtype=torch.long, device=device)
    lengths = torch.full((len(logits),), logits.shape[1], dtype=torch.long, device=device)
    label_lengths = torch.full((len(labels),), labels.shape[1], dtype=torch.long, device=device)

    def both():
        x.grad = None
        log_probs = F.log_softmax(x, -1).transpose(0, 1)
        loss = F.ctc_loss(log_probs, targets, lengths, label_lengths, reduction="sum", zero_infinity=True)
        loss.backward()
        return loss

    return both
