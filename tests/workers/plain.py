"""The same trainings as plain PyTorch, one model at a time: what the engine is compared with.

Nothing here comes from the engine: layers, LSQ, optimizers and schedule are written, or taken from torch,
on their own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qsweep.sweeps.training import Training
from tests.late import Late

torchvision = Late("torchvision")


class PlainLsq(torch.autograd.Function):
    """LSQ of one tensor, term by term as in the paper (arXiv 1902.08153, equations 1 to 3)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, s: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(v, s)
        ctx.bits = bits
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        return torch.clamp(v / s, low, high).round() * s

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        v, s = ctx.saved_tensors
        low, high = -(2 ** (ctx.bits - 1)), 2 ** (ctx.bits - 1) - 1
        below, above = v / s < low, v / s > high
        inside = ~(below | above)
        of_step = torch.where(below, float(low), torch.where(above, float(high), (v / s).round() - v / s))
        return grad * inside, (grad * of_step).sum() / (v.numel() * high) ** 0.5, None


class PlainConv(nn.Conv2d):
    """A convolution whose weight may be quantized, and moved after that by `away`."""

    bits: int = 32
    away: Tensor | None = None
    deployed: tuple[Tensor, ...]
    """The weight that the last forward pass used, alone in a tuple: to a module, a bare one may be a parameter."""

    def quantize_to(self, bits: int) -> None:
        self.bits = bits
        high = 2 ** (bits - 1) - 1
        self.step = nn.Parameter(2 * self.weight.detach().abs().mean() / high**0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.bits == 32 else PlainLsq.apply(self.weight, self.step, self.bits)
        self.deployed = (weight if self.away is None else weight + self.away,)
        return self._conv_forward(x, self.deployed[0], self.bias)

    def __getstate__(self) -> dict[str, object]:
        """What a copy gets: a tensor with a graph behind it can't be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "deployed"}


class ConvNorm(nn.Module):
    """A convolution and its batch norm; a linear head has none."""

    def __init__(self, conv: PlainConv, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm if norm is not None else nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Plain(nn.Module):
    """A model of plain modules, initialized under the training's seed, with its layers in the engine's order."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        torch.manual_seed(training.recipe.seed)
        self.build(training)
        if training.quantizer is not None:
            convs = self.convs()
            for index, conv in enumerate(convs):
                outer = index in (0, len(convs) - 1)
                conv.quantize_to(training.quantizer.outer_bits if outer else training.quantizer.bits)

    def build(self, training: Training) -> None:
        raise NotImplementedError

    def pairs(self) -> list[ConvNorm]:
        return [layer for layer in self.modules() if isinstance(layer, ConvNorm)]

    def convs(self) -> list[PlainConv]:
        return [one.conv for one in self.pairs()]


class PlainNin(Plain):
    """Network in Network as the reference code builds it."""

    def build(self, training: Training) -> None:
        model, data = training.model, training.data
        channels, inputs = model.channels_per_width * model.width, data.channels
        layers: list[nn.Module] = []
        for _ in range(model.depth):
            for index in range(3):
                if index == 0:
                    conv = PlainConv(inputs, channels, 3, stride=2, padding=1)
                else:
                    conv = PlainConv(channels, channels, 1)
                layers += [ConvNorm(conv), nn.ReLU()]
                inputs = channels
        layers += [ConvNorm(PlainConv(channels, data.classes, 1)), nn.ReLU()]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


class PlainBlock(nn.Module):
    """A residual block as in `torchvision.models.resnet`, whose downsampling is made first too."""

    def __init__(self, inputs: int, planes: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * planes if bottleneck else planes
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = ConvNorm(PlainConv(inputs, outputs, 1, stride, bias=False))
        if bottleneck:
            self.first = ConvNorm(PlainConv(inputs, planes, 1, bias=False))
            self.second = ConvNorm(PlainConv(planes, planes, 3, stride, 1, bias=False))
            self.third = ConvNorm(PlainConv(planes, outputs, 1, bias=False))
        else:
            self.first = ConvNorm(PlainConv(inputs, planes, 3, stride, 1, bias=False))
            self.second = ConvNorm(PlainConv(planes, planes, 3, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).relu())
        if hasattr(self, "third"):
            y = self.third(y.relu())
        return (y + self.shortcut(x)).relu()


class PlainResNet(Plain):
    """ResNet for CIFAR: 3×3 stem with stride 1, no max-pool, and a linear head."""

    def build(self, training: Training) -> None:
        model, data = training.model, training.data
        bottleneck = model.depth == 50
        blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[model.depth]
        self.stem = ConvNorm(PlainConv(data.channels, model.width, 3, 1, 1, bias=False))
        body, inputs = [], model.width
        for stage, count in enumerate(blocks):
            planes = model.width * 2**stage
            for block in range(count):
                body.append(PlainBlock(inputs, planes, 2 if stage and not block else 1, bottleneck=bottleneck))
                inputs = planes * (4 if bottleneck else 1)
        self.body = nn.Sequential(*body)
        self.head = ConvNorm(PlainConv(inputs, data.classes, 1), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x).relu()).mean((2, 3), keepdim=True)
        return self.head(x).flatten(1)


class PlainMobileNet(Plain):
    """MobileNet-V1 as the common CIFAR code builds it: every stride of 2 but the stem's."""

    def build(self, training: Training) -> None:
        width, data = training.model.width, training.data
        layers: list[nn.Module] = [ConvNorm(PlainConv(data.channels, width, 3, 1, 1, bias=False)), nn.ReLU()]
        inputs = width
        plan = [64, (128, 2), 128, (256, 2), 256, (512, 2), 512, 512, 512, 512, 512, (1024, 2), 1024]
        for entry in plan:
            usual, stride = entry if isinstance(entry, tuple) else (entry, 1)
            outputs = usual * width // 32
            layers += [ConvNorm(PlainConv(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)), nn.ReLU()]
            layers += [ConvNorm(PlainConv(inputs, outputs, 1, bias=False)), nn.ReLU()]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.head = ConvNorm(PlainConv(inputs, data.classes, 1), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3), keepdim=True)).flatten(1)


class PlainVgg(Plain):
    """VGG with batch norm from the letters of torchvision's configuration, and one linear head."""

    LETTERS: ClassVar[dict[int, str]] = {11: "A", 13: "B", 16: "D", 19: "E"}

    def build(self, training: Training) -> None:
        width, data = training.model.width, training.data
        layers: list[nn.Module] = []
        inputs, side = data.channels, data.size
        for entry in torchvision.models.vgg.cfgs[self.LETTERS[training.model.depth]]:
            if entry == "M":
                layers += [nn.MaxPool2d(2, 2)] if side > 1 else []
                side //= 2
            else:
                outputs = int(entry) * width // 64
                layers += [ConvNorm(PlainConv(inputs, outputs, 3, padding=1)), nn.ReLU()]
                inputs = outputs
        self.body = nn.Sequential(*layers)
        self.head = ConvNorm(PlainConv(inputs, data.classes, 1), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).mean((2, 3))


PLAIN: dict[str, type[Plain]] = {
    "nin": PlainNin,
    "resnet": PlainResNet,
    "mobilenet": PlainMobileNet,
    "vgg": PlainVgg,
}


def named(net: Plain, training: Training) -> dict[str, Tensor]:
    """The tensors of a plain model under the engine's names."""
    found: dict[str, Tensor] = {}
    for layer, pair in zip(training.model.layers(training.data), net.pairs(), strict=True):
        conv, norm = pair.conv, pair.norm
        found[f"{layer.name}.weight"] = conv.weight.detach()
        if conv.bias is not None:
            found[f"{layer.name}.bias"] = conv.bias.detach()
        if conv.bits != 32:
            found[f"{layer.name}.step"] = conv.step.detach()
        if isinstance(norm, nn.BatchNorm2d):
            found[f"{layer.name}.norm.weight"] = norm.weight.detach()
            found[f"{layer.name}.norm.bias"] = norm.bias.detach()
            found[f"{layer.name}.norm.running_mean"] = norm.running_mean
            found[f"{layer.name}.norm.running_var"] = norm.running_var
    return found


class PlainTraining:
    """One training with torch.optim and MultiStepLR, in float64."""

    def __init__(self, training: Training) -> None:
        self.net = PLAIN[training.model.name](training).double()
        steps = [p for name, p in self.net.named_parameters() if name.endswith("step")]
        others = [p for name, p in self.net.named_parameters() if not name.endswith("step")]
        chosen = training.optimizer
        decays = training.quantizer is not None and training.quantizer.decay_step
        groups = [
            {"params": others, "weight_decay": chosen.weight_decay},
            {"params": steps, "weight_decay": chosen.weight_decay if decays else 0.0},
        ]
        if not steps:
            del groups[1]
        if chosen.name == "sgd":
            self.optimizer = torch.optim.SGD(groups, lr=chosen.learning_rate, momentum=chosen.momentum)
        elif chosen.name == "adam":
            betas = (chosen.beta1, chosen.beta2)
            self.optimizer = torch.optim.Adam(groups, lr=chosen.learning_rate, betas=betas, eps=chosen.epsilon)
        else:
            self.optimizer = torch.optim.RMSprop(
                groups, lr=chosen.learning_rate, alpha=chosen.alpha, eps=chosen.epsilon
            )
        recipe = training.recipe
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, list(recipe.milestones), gamma=recipe.lr_factor
        )
        self.steps = steps

    def step(self, images: Tensor, labels: Tensor) -> float:
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for step in self.steps:
                step.clamp_(min=torch.finfo(torch.float32).eps)
        return float(loss.detach())
