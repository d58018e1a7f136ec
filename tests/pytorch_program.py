"""The textbook's program in PyTorch, eager, one experiment.

The tests hold this project to it, and the benchmark measures it.
"""

import torch
from torch import nn


class Embedding(nn.Module):
    def __init__(self, num_digits, size):
        super().__init__()
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_digits, size)))

    def forward(self, digits):
        return self.W[digits]


class SRN(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        for name, shape in (
            ("W", (input_size, hidden_size)),
            ("U", (hidden_size, hidden_size)),
            ("b", (1, hidden_size)),
        ):
            setattr(self, name, nn.Parameter(nn.init.xavier_uniform_(torch.empty(*shape))))

    def forward(self, inputs):
        state = inputs.new_zeros(inputs.shape[0], self.U.shape[0])
        for t in range(inputs.shape[1]):
            state = torch.tanh(inputs[:, t] @ self.W + state @ self.U + self.b)
        return state


class BuiltInRNN(nn.RNN):
    """PyTorch's own, in the place of `SRN`: the last hidden state `[batch, hidden]`."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size, batch_first=True)

    def forward(self, inputs):
        return super().forward(inputs)[1][0]


class Model_RNN4SeqClass(nn.Module):  # the textbook's name
    def __init__(self, size=32, rnn=SRN):
        super().__init__()
        self.embedding = Embedding(10, size)
        self.rnn_model = rnn(size, size)
        self.linear = nn.Linear(size, 19)

    def forward(self, digits):
        return self.linear(self.rnn_model(self.embedding(digits)))


def evaluate(model, digits, labels, batch_size=8):
    """Dev loss (mean of the batch means) and accuracy."""
    total, right, batches = 0.0, 0, 0
    with torch.no_grad():
        for start in range(0, len(digits), batch_size):
            logits = model(digits[start : start + batch_size])
            target = labels[start : start + batch_size]
            total += nn.functional.cross_entropy(logits, target).item()
            right += (logits.argmax(dim=1) == target).sum().item()
            batches += 1
    return total / batches, right / len(digits)


def train(model, train_set, dev_set, epochs, max_steps, batch_size=8, eval_interval=100):
    """The textbook's runner: losses by step, and (step, dev loss, dev score) of the evaluations."""
    digits, labels = train_set
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    batches = -(-len(digits) // batch_size)
    losses, evaluations, global_step = [], [], 0
    for _ in range(epochs):
        for start in range(0, len(digits), batch_size):
            logits = model(digits[start : start + batch_size])
            loss = nn.functional.cross_entropy(logits, labels[start : start + batch_size])
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            last = global_step == epochs * batches - 1
            if global_step > 0 and (global_step % eval_interval == 0 or last):
                evaluations.append((global_step, *evaluate(model, *dev_set, batch_size)))
            global_step += 1
            if global_step == max_steps:
                return losses, evaluations
    return losses, evaluations
