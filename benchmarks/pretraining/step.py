"""One step of training: a view of each image, what the teacher says of it, a gradient.

On a GPU the step is recorded once for each image size as a CUDA graph, and replayed:
launching its thousand small kernels one by one takes longer than they do.
"""

import torch
from augment import Views
from torch import nn
from torch.nn import functional

# Steps before one is recorded: they choose kernels and make the optimizer's state.
N_WARM_UP = 3


def autocast(device):
    """Compute with bfloat16 on CUDA."""
    # Its cache of weights would outlive the step that is recorded.
    return torch.autocast(
        device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False
    )


class Step:
    """Trains a student on one batch at a time.

    Parameters
    ----------
    data : Pretraining
        The images, on the device.
    teacher : Teacher
        Answers for each view.
    student : Student
        What is trained.
    optimizer : torch.optim.Optimizer
        Of the student's parameters.
    args : argparse.Namespace
        Settings of train.py.
    """

    def __init__(self, data, teacher, student, optimizer, args):
        self.data, self.teacher, self.student = data, teacher, student
        self.optimizer, self.args = optimizer, args
        self.device = data.labels[0].device
        self.one_hot = torch.eye(student.labels.out_features, device=self.device)
        self.scaler = self._scaler()
        self.graphs, self.n_done, self.rows = {}, {}, None

    def __call__(self, rows, size):
        """Train on images of `rows` at `size` px.

        Parameters
        ----------
        rows : list of torch.Tensor
            Rows of each stack of images.
        size : int
            Of the views, for the student.

        Returns
        -------
        torch.Tensor
            The loss.
        """
        if self.device.type != "cuda":
            return self._step(rows, size)
        self.rows = self.rows or [part.clone() for part in rows]
        for place, part in zip(self.rows, rows, strict=True):
            place.copy_(part)
        self.n_done[size] = self.n_done.get(size, 0) + 1
        if self.n_done[size] <= N_WARM_UP:
            return self._beside(size)
        if size not in self.graphs:
            self.graphs[size] = self._record(size)
        graph, loss = self.graphs[size]
        graph.replay()
        return loss.clone()

    def _beside(self, size):
        """Take a step on another stream, as the steps before a recording must."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = self._step(self.rows, size)
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    def _record(self, size):
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()
        with torch.cuda.graph(graph):
            loss = self._step(self.rows, size)
        return graph, loss

    def _step(self, rows, size):
        views = self._views(rows)
        taught = self.teacher(views.pixels(self.args.teacher_size))
        with autocast(self.device):
            outputs = self.student(views.pixels(size))
        labels = [y[r] for y, r in zip(self.data.labels, rows, strict=True)]
        targets = views.mix(self.one_hot[torch.cat(labels)])
        loss = self._loss(outputs, taught, targets)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimizer.step()
        return loss.detach()

    def _views(self, rows):
        stacks, args = self.data.stacks(rows), self.args
        return Views(stacks, args.mixed, args.grey, args.negative)

    def _loss(self, outputs, taught, targets):
        labels, classes, features = outputs
        logits, taught_features = taught
        mean, scale = self.scaler
        temperature = self.args.temperature
        soft = functional.kl_div(
            (classes / temperature).log_softmax(1),
            (logits / temperature).softmax(1),
            reduction="batchmean",
        )
        regression = functional.mse_loss(features, (taught_features - mean) / scale)
        return (
            self.args.soft_weight * temperature**2 * soft
            + self.args.feature_weight * regression
            + self.args.label_weight * functional.cross_entropy(labels, targets)
        )

    def _scaler(self):
        """Mean and standard deviation of the teacher's features."""
        generator = torch.Generator().manual_seed(self.args.seed)
        torch.manual_seed(self.args.seed)
        features = []
        for rows in self.data.batches(self.args.batch_size, generator)[:8]:
            pixels = self._views(rows).pixels(self.args.teacher_size)
            features.append(self.teacher(pixels)[1])
        features = torch.cat(features)
        return features.mean(0), features.std(0).clamp_min(1e-3)
