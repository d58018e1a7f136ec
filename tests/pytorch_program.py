"""The textbook's program in PyTorch, eager, one experiment, with its SRN, its LSTM, or a GRU.

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


def add_gate(module, suffix, input_size, hidden_size):
    """Parameters W, U and b of one gate, Xavier uniform each on its own shape."""
    for name, rows in (("W", input_size), ("U", hidden_size), ("b", 1)):
        tensor = nn.init.xavier_uniform_(torch.empty(rows, hidden_size))
        setattr(module, name + suffix, nn.Parameter(tensor))


class SRN(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        add_gate(self, "", input_size, hidden_size)

    def forward(self, inputs):
        state = inputs.new_zeros(inputs.shape[0], self.U.shape[0])
        for t in range(inputs.shape[1]):
            state = torch.tanh(inputs[:, t] @ self.W + state @ self.U + self.b)
        return state


class LSTM(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        for gate in ("_i", "_f", "_o", "_c"):
            add_gate(self, gate, input_size, hidden_size)

    def forward(self, inputs):
        state = memory = inputs.new_zeros(inputs.shape[0], self.U_i.shape[0])
        for t in range(inputs.shape[1]):
            x = inputs[:, t]
            i = torch.sigmoid(x @ self.W_i + state @ self.U_i + self.b_i)
            f = torch.sigmoid(x @ self.W_f + state @ self.U_f + self.b_f)
            o = torch.sigmoid(x @ self.W_o + state @ self.U_o + self.b_o)
            candidate = torch.tanh(x @ self.W_c + state @ self.U_c + self.b_c)
            memory = f * memory + i * candidate
            state = o * torch.tanh(memory)
        return state


class GRU(nn.Module):
    """Not of the textbook: cuDNN's form, named as `nn.GRU` names it; rows of gates r, z, n."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        for side, columns in (("ih", input_size), ("hh", hidden_size)):
            for name, size in ((f"weight_{side}_l0", columns), (f"bias_{side}_l0", 1)):
                gates = [nn.init.xavier_uniform_(torch.empty(hidden_size, size)) for _ in range(3)]
                tensor = torch.cat(gates)
                if name.startswith("bias"):
                    tensor = tensor[:, 0]
                setattr(self, name, nn.Parameter(tensor))

    def forward(self, inputs):
        state = inputs.new_zeros(inputs.shape[0], self.weight_hh_l0.shape[1])
        W_r, W_z, W_n = self.weight_ih_l0.T.chunk(3, dim=1)
        U_r, U_z, U_n = self.weight_hh_l0.T.chunk(3, dim=1)
        b_r, b_z, b_n = self.bias_ih_l0.chunk(3)
        c_r, c_z, c_n = self.bias_hh_l0.chunk(3)
        for t in range(inputs.shape[1]):
            x = inputs[:, t]
            r = torch.sigmoid(x @ W_r + b_r + state @ U_r + c_r)
            z = torch.sigmoid(x @ W_z + b_z + state @ U_z + c_z)
            n = torch.tanh(x @ W_n + b_n + r * (state @ U_n + c_n))
            state = (1 - z) * n + z * state
        return state


def built_in(kind):
    """PyTorch's own, in the place of one by hand: the last hidden state `[batch, hidden]`."""

    class BuiltIn(kind):
        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size, batch_first=True)

        def forward(self, inputs):
            return super().forward(inputs)[0][:, -1]

    return BuiltIn


BuiltInRNN, BuiltInLSTM, BuiltInGRU = map(built_in, (nn.RNN, nn.LSTM, nn.GRU))


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
