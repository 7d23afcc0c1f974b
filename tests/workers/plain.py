"""The same trainings as plain PyTorch, one model at a time: what the engine is compared with.

Nothing here comes from the engine: layers, LSQ, optimizers and schedule are written, or taken from torch,
on their own.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qsweep.sweeps.recipe import Recipe
from qsweep.sweeps.training import Training
from qsweep.workers.data.targets import Targets
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


class PlainLiq(torch.autograd.Function):
    """SAQ's LIQ of one tensor of weights that may have been normalized, term by term as in its code."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, c: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(w, c)
        ctx.n = 2**bits - 1
        x = torch.clamp(w / c, -1, 1)
        return c * (2 * (ctx.n * (x + 1) / 2).round() / ctx.n - 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        w, c = ctx.saved_tensors
        inside = w.abs() <= c
        x = torch.clamp(w / c, -1, 1)
        of_clip = torch.where(inside, 2 * (ctx.n * (x + 1) / 2).round() / ctx.n - 1 - w / c, w.sign())
        return grad * inside, (grad * of_clip).sum(), None


class Scaled(torch.autograd.Function):
    """The same value; its gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


class PlainActivations(nn.Module):
    """What a layer reads, rounded; only the rounding itself is left out of the gradient.

    The first input says whether it is signed, and where `size` (the step size, or the clip of LIQ) begins.
    """

    def __init__(self, bits: int, *, liq: bool, linear: bool) -> None:
        super().__init__()
        self.bits, self.liq, self.linear = bits, liq, linear
        self.size = nn.Parameter(torch.zeros(()))
        self.begun = False
        self.signed = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.begun:
            self.begun, self.signed = True, bool((x < 0).any())
            high = self.levels()[1]
            if not self.liq:
                self.size.data = 2 * x.detach().abs().mean() / high**0.5
            else:
                self.size.data = 0.8 * x.detach().abs().max() if self.linear else torch.ones_like(x[0, 0, 0, 0])
        low, high = self.levels()
        step = self.size / high if self.liq else Scaled.apply(self.size, (x[0].numel() * high) ** -0.5)
        clipped = torch.clamp(x / step, low, high)
        return (clipped + (clipped.round() - clipped).detach()) * step

    def levels(self) -> tuple[int, int]:
        if self.signed:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1


class PlainConv(nn.Conv2d):
    """A convolution whose weight may be quantized, and moved after that by `away`."""

    bits: int = 32
    liq: bool = False
    linear: bool = False
    """Whether it stands for a linear layer."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.reads: PlainActivations | None = None

    away: Tensor | None = None
    deployed: tuple[Tensor, ...]
    """The weight that the last forward pass used, alone in a tuple: to a module, a bare one may be a parameter."""

    def quantize_to(self, bits: int, *, liq: bool = False) -> None:
        self.bits, self.liq = bits, liq
        if liq:
            self.step = nn.Parameter(0.8 * self.weight.detach().abs().max() if self.linear else torch.ones(()))
            return
        high = 2 ** (bits - 1) - 1
        self.step = nn.Parameter(2 * self.weight.detach().abs().mean() / high**0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.reads is None else self.reads(x)
        weight = self.weight
        if self.bits != 32 and not self.liq:
            weight = PlainLsq.apply(weight, self.step, self.bits)
        elif self.bits != 32:
            if not self.linear:
                weight = (weight - weight.detach().mean()) / weight.detach().std()
            weight = PlainLiq.apply(weight, self.step, self.bits)
        self.deployed = (weight if self.away is None else weight + self.away,)
        return self._conv_forward(x, self.deployed[0], self.bias)

    def __getstate__(self) -> dict[str, object]:
        """What a copy gets: a tensor with a graph behind it can't be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "deployed"}


def linear(inputs: int, outputs: int) -> PlainConv:
    """A linear layer on one pixel."""
    conv = PlainConv(inputs, outputs, 1)
    conv.linear = True
    return conv


class ConvNorm(nn.Module):
    """A convolution and its batch norm; a linear head has none."""

    def __init__(self, conv: PlainConv, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm if norm is not None else nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class NormAlone(nn.Module):
    """Batch norm and ReLU in front of a pre-activation block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).relu()


class Plain(nn.Module):
    """A model of plain modules, initialized under the training's seed, with its layers in the engine's order."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        torch.manual_seed(training.recipe.seed)
        self.build(training)
        if training.quantizer is not None:
            convs, liq = self.convs(), training.quantizer.name == "liq"
            for index, conv in enumerate(convs):
                outer = index in (0, len(convs) - 1)
                conv.quantize_to(training.quantizer.outer_bits if outer else training.quantizer.bits, liq=liq)
        if training.activation_quantizer is not None:
            self.quantize_activations(training.activation_quantizer)

    @property
    def seconds(self) -> tuple[int, ...]:
        """The layers that read the first one's output."""
        return (1,)

    def quantize_activations(self, chosen: Any) -> None:
        convs = self.convs()
        outer = {"saq": (), "lsq": (0,), "genie": self.seconds}[chosen.outer_activations] + (len(convs) - 1,)
        for index, conv in enumerate(convs):
            if index or chosen.outer_activations == "lsq":
                bits = chosen.outer_activation_bits if index in outer else chosen.activation_bits
                conv.reads = PlainActivations(bits, liq=chosen.name == "liq", linear=conv.linear)

    def build(self, training: Training) -> None:
        raise NotImplementedError

    def stages(self) -> list[ConvNorm | NormAlone]:
        return [layer for layer in self.modules() if isinstance(layer, ConvNorm | NormAlone)]

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

    @property
    def seconds(self) -> tuple[int, ...]:
        """The first block's first convolution, and of wide blocks the shortcut before it."""
        return (1,) if isinstance(self.body[0].shortcut, nn.Identity) else (1, 2)

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
        self.head = ConvNorm(linear(inputs, data.classes), nn.Identity())

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
        self.head = ConvNorm(linear(inputs, data.classes), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3), keepdim=True)).flatten(1)


class PlainBasicBlock(nn.Module):
    """A block of He et al. 2016a for CIFAR, as pytorchcv has it: the input through a 1×1 convolution and batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = ConvNorm(he_normal(PlainConv(inputs, outputs, 1, stride, bias=False)))
        self.first = ConvNorm(he_normal(PlainConv(inputs, outputs, 3, stride, 1, bias=False)))
        self.second = ConvNorm(he_normal(PlainConv(outputs, outputs, 3, 1, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


class PlainPreBlock(nn.Module):
    """A block of He et al. 2016b as SAQ's code has it (`PreBasicBlock`), `half` or both before the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, half: bool) -> None:
        super().__init__()
        self.half = half
        self.before = NormAlone(inputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = ConvNorm(he_normal(PlainConv(inputs, outputs, 1, stride, bias=False)), nn.Identity())
        self.first = ConvNorm(he_normal(PlainConv(inputs, outputs, 3, stride, 1, bias=False)))
        self.second = ConvNorm(he_normal(PlainConv(outputs, outputs, 3, 1, 1, bias=False)), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.second(self.first(y).relu()) + self.shortcut(y if self.half else x)


def he_normal(conv: PlainConv) -> PlainConv:
    """By its outputs."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class PlainCifarResNet(Plain):
    """Depth 6n + 2: three stages of n blocks."""

    def build(self, training: Training) -> None:
        model, data = training.model, training.data
        self.preact = model.preact
        stem = he_normal(PlainConv(data.channels, model.width, 3, 1, 1, bias=False))
        self.stem = ConvNorm(stem, nn.Identity() if model.preact else None)
        body: list[nn.Module] = []
        inputs = model.width
        for outputs in (model.width, 2 * model.width, 4 * model.width):
            for block in range((model.depth - 2) // 6):
                stride = 2 if inputs != outputs else 1
                if model.preact:
                    body.append(PlainPreBlock(inputs, outputs, stride, half=block == 0))
                else:
                    body.append(PlainBasicBlock(inputs, outputs, stride))
                inputs = outputs
        self.body = nn.Sequential(*body, *([NormAlone(inputs)] if model.preact else []))
        self.head = ConvNorm(linear(inputs, data.classes), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.body(x if self.preact else x.relu()).mean((2, 3), keepdim=True)
        return self.head(x).flatten(1)


class PlainInverted(nn.Module):
    """An inverted residual as `kuangliu/pytorch-cifar` and SAQ's `mobilenetv2_cifar.py` have it."""

    def __init__(self, inputs: int, outputs: int, growth: int, stride: int) -> None:
        super().__init__()
        inside = growth * inputs
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride == 1 and inputs != outputs:
            self.shortcut = ConvNorm(he_normal(PlainConv(inputs, outputs, 1, bias=False)))
        self.expand = ConvNorm(he_normal(PlainConv(inputs, inside, 1, bias=False)))
        self.depthwise = ConvNorm(he_normal(PlainConv(inside, inside, 3, stride, 1, groups=inside, bias=False)))
        self.project = ConvNorm(he_normal(PlainConv(inside, outputs, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x).relu()).relu())
        return y + self.shortcut(x) if self.stride == 1 else y


class PlainSmallMobileNetV2(Plain):
    """MobileNet-V2 for CIFAR, with the small stem."""

    PLAN: ClassVar = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def build(self, training: Training) -> None:
        width, data = training.model.width, training.data
        inputs = eights(width)
        self.stem = ConvNorm(he_normal(PlainConv(data.channels, inputs, 3, 1, 1, bias=False)))
        body: list[nn.Module] = []
        for growth, usual, count, stride in self.PLAN:
            outputs = eights(usual * width / 32)
            for repeat in range(count):
                body.append(PlainInverted(inputs, outputs, growth, 1 if repeat else stride))
                inputs = outputs
        self.body = nn.Sequential(*body)
        self.last = ConvNorm(he_normal(PlainConv(inputs, 1280, 1, bias=False)))
        head = linear(1280, data.classes)
        with torch.no_grad():
            head.weight.normal_(0, 0.01)
            head.bias.zero_()
        self.head = ConvNorm(head, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.body(self.stem(x).relu())).relu().mean((2, 3), keepdim=True)
        return self.head(x).flatten(1)


def eights(channels: float) -> int:
    """The nearest multiple of eight, halves up, from 8 on."""
    return max(8, math.floor(channels / 8 + 0.5) * 8)


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
        self.head = ConvNorm(linear(inputs, data.classes), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).mean((2, 3))


PLAIN: dict[str, type[Plain]] = {
    "nin": PlainNin,
    "resnet": PlainResNet,
    "mobilenet": PlainMobileNet,
    "vgg": PlainVgg,
    "cifar-resnet": PlainCifarResNet,
    "mobilenet-v2": PlainSmallMobileNetV2,
}


def named(net: Plain, training: Training) -> dict[str, Tensor]:
    """The tensors of a plain model under the engine's names."""
    found: dict[str, Tensor] = {}
    for layer, stage in zip(training.model.layers(training.data), net.stages(), strict=True):
        norm = stage.norm
        if isinstance(stage, ConvNorm):
            conv = stage.conv
            found[f"{layer.name}.weight"] = conv.weight.detach()
            if conv.bias is not None:
                found[f"{layer.name}.bias"] = conv.bias.detach()
            if conv.bits != 32:
                found[f"{layer.name}.step"] = conv.step.detach()
            if conv.reads is not None:
                found[f"{layer.name}.activation.step"] = conv.reads.size.detach()
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
        sizes = [p for name, p in self.net.named_parameters() if name.endswith("reads.size")]
        others = [p for name, p in self.net.named_parameters() if not name.endswith(("step", "reads.size"))]
        chosen = training.optimizer
        decays = training.quantizer is not None and training.quantizer.decay_step
        groups = [
            {"params": others, "weight_decay": chosen.weight_decay},
            {"params": steps, "weight_decay": chosen.weight_decay if decays else 0.0},
        ]
        if not steps:
            del groups[1]
        if sizes:
            of_sizes = chosen.weight_decay if training.activation_quantizer.decay_activation_step else 0.0
            groups.append({"params": sizes, "weight_decay": of_sizes})
        if chosen.name == "sgd":
            self.optimizer = torch.optim.SGD(
                groups, lr=chosen.learning_rate, momentum=chosen.momentum, nesterov=chosen.nesterov
            )
        elif chosen.name in ("adam", "adamw"):
            betas = (chosen.beta1, chosen.beta2)
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[chosen.name]
            self.optimizer = kind(groups, lr=chosen.learning_rate, betas=betas, eps=chosen.epsilon)
        else:
            self.optimizer = torch.optim.RMSprop(
                groups, lr=chosen.learning_rate, alpha=chosen.alpha, eps=chosen.epsilon
            )
        recipe = training.recipe
        self.schedule = schedule_of(recipe, self.optimizer)
        self.smoothing = recipe.label_smoothing
        self.steps = [*steps, *sizes]

    def begin(self, images: Tensor) -> None:
        """Let the activations' step sizes begin by a first batch; nothing else changes."""
        kept = {name: value.clone() for name, value in self.net.named_buffers()}
        with torch.no_grad():
            self.net(images)
            for name, value in self.net.named_buffers():
                value.copy_(kept[name])

    def step(self, images: Tensor, targets: Targets) -> float:
        wanted = targets.labels if targets.shares is None else targets.shares
        loss = nn.functional.cross_entropy(self.net(images), wanted, label_smoothing=self.smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for step in self.steps:
                step.clamp_(min=torch.finfo(torch.float32).eps)
        return float(loss.detach())


def schedule_of(recipe: Recipe, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """The recipe's schedule of torch's own, stepped once an epoch."""
    schedulers, warmup = torch.optim.lr_scheduler, recipe.warmup_epochs
    rising = [schedulers.LinearLR(optimizer, recipe.warmup_factor, total_iters=warmup)] if warmup else []
    if recipe.schedule == "steps":
        falling = schedulers.MultiStepLR(optimizer, list(recipe.milestones), gamma=recipe.lr_factor)
        return schedulers.ChainedScheduler([falling, *rising])
    wave = schedulers.CosineAnnealingLR(optimizer, recipe.epochs - warmup)
    return schedulers.SequentialLR(optimizer, [*rising, wave], [warmup]) if warmup else wave
