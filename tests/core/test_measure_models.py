"""Models that people have, small: every layer is measured, and against hooks and `backward`."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ConvNeXt, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import VGG, make_layers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.pytorch_utils import Conv1D

from core.gram import cosine
from core.layer_table import LayerRow, LayerTable
from core.linearity import target_linearity
from core.measure import measure

CLASSES, WORDS = 4, 11
Loss = Callable[[Any], Tensor]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def words(*shape: int) -> Tensor:
    return torch.randint(1, WORDS, shape, generator=torch.Generator().manual_seed(2))


class Seen(NamedTuple):
    """What hooks see of a layer, without `measure`."""

    h: Tensor  # its input
    gradient: Tensor  # of its weight
    z: Tensor  # its output, with its gradient


def seen(model: nn.Module, batch: Any, loss: Loss) -> dict[nn.Module, Seen]:
    """Of each module that is called, once."""
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output.retain_grad()
        inputs[module], outputs[module] = args[0].detach().clone(), output
        return output.clone()  # what follows may work in place

    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d | Conv1D
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    model.eval()
    loss(model(**batch) if isinstance(batch, Mapping) else model(batch)).backward()
    for handle in handles:
        handle.remove()
    truth = {m: Seen(h, m.weight.grad.clone(), outputs[m]) for m, h in inputs.items()}
    model.zero_grad()
    return truth


def cosine_vc(module: nn.Module, gradient: Tensor) -> float:
    """Of a layer without groups."""
    w = module.weight.detach()
    rows, dw = ((t.mT if isinstance(module, Conv1D) else t.flatten(1)) for t in (w, gradient))
    x = rows.mT @ dw
    return cosine(rows.mT @ rows, -(x + x.mT))


def alignments(module: nn.Module, layer: Seen) -> dict[str, float]:
    """The six of the Canonical Representation Hypothesis, from rows of a layer without groups."""
    w, h, z, dz = module.weight.detach(), layer.h, layer.z.detach(), layer.z.grad
    if isinstance(module, nn.Conv2d):
        how = {key: getattr(module, key) for key in ("dilation", "padding", "stride")}
        h = functional.unfold(h, module.kernel_size, **how).mT
        z, dz = z.movedim(1, -1), dz.movedim(1, -1)
    w = w.mT if isinstance(module, Conv1D) else w.flatten(1)
    h, z, dz = (rows.flatten(0, -2) for rows in (h, z, dz))
    sides = {"in": (h, w, dz @ w), "out": (z, w.mT, dz)}
    cosines = {}
    for side, rows in sides.items():
        r, gram, g = (matrix.mT @ matrix for matrix in rows)
        pairs = {"rwa": (r, gram), "gwa": (g, gram), "rga": (r, g)}
        cosines |= {f"{name}_{side}": cosine(*pair) for name, pair in pairs.items()}
    return cosines


def check(
    model: nn.Module, table: LayerTable, batch: Any, loss: Loss, names: str = "", tied: str = ""
) -> dict[str, Tensor]:
    """Every called layer has a row with its own numbers; returns the layers' inputs by name."""
    modules = dict(model.named_modules())
    truth = seen(model, batch, loss)
    called = {name for name, module in modules.items() if module in truth}
    assert {row.name for row in table} == {name for name in called if re.search(names, name)}
    for row in table:
        assert 0 < row.residual < 1e-10, row.name
        module = modules[row.name]
        is_plain = not isinstance(module, nn.ConvTranspose2d) and getattr(module, "groups", 1) == 1
        if is_plain and row.name != tied:
            expected = {"cosine_vc": cosine_vc(module, truth[module].gradient)}
            expected |= alignments(module, truth[module])
            found = {name: getattr(row, name) for name in expected}
            # cosines; T5 takes its softmax in float32
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), row.name
    return {row.name: truth[modules[row.name]].h for row in table}


class Images:
    """A classifier of images, measured in two batches."""

    N = 24

    def __init__(self, model: nn.Module, size: int, names: str = "") -> None:
        self.x, self.y = draw(self.N, 3, size, size), torch.arange(self.N) % CLASSES
        model, half = model.double(), self.N // 2
        batches = [(self.x[:half], self.y[:half]), (self.x[half:], self.y[half:])]
        self.table = measure(model, batches, names=names, reduction="pool", theories=["crh"])
        self.inputs = check(model, self.table, self.x, self.loss, names)
        self.rows = {row.name: row for row in self.table}

    def loss(self, outputs: Any) -> Tensor:
        logits = outputs if isinstance(outputs, Tensor) else outputs.logits
        return functional.cross_entropy(logits, self.y)

    def check_linearity(self, name: str) -> None:
        """Pooled over positions."""
        h = self.inputs[name]
        if self.rows[name].kind == "Conv2d":
            h = h.movedim(1, -1)
        h = h.flatten(1, -2).mean(1) if h.ndim > 2 else h
        assert self.rows[name].n == self.N
        assert self.rows[name].tl_in == pytest.approx(target_linearity(h, self.y), rel=1e-9)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.filterwarnings("ignore:.*samples of .* features")
class TestImages:
    def test_resnet_of_torchvision(self) -> None:
        model = ResNet(BasicBlock, [1, 1, 1, 1], CLASSES)
        case = Images(model, 16, r"^conv1|layer1|fc")
        case.check_linearity("layer1.0.conv2")
        assert len(case.table) == 4

    def test_vgg_of_torchvision_whose_activations_work_in_place(self) -> None:
        with torch.device("meta"):  # its own classifier has a hundred million weights
            model = VGG(make_layers([1], batch_norm=True), CLASSES, init_weights=False)
        model.features, model.avgpool = make_layers([8, "M", 16], True), nn.AdaptiveAvgPool2d(2)
        relu = nn.ReLU(inplace=True)
        layers = [nn.Linear(64, 32), relu, nn.Dropout(), nn.Linear(32, CLASSES)]
        model.classifier = nn.Sequential(*layers)
        case = Images(model, 8)
        case.check_linearity("features.4")
        case.check_linearity("classifier.3")

    def test_vision_transformer_of_torchvision(self) -> None:
        model = VisionTransformer(16, 8, 2, 2, 12, 24, num_classes=CLASSES)
        nn.init.normal_(model.heads.head.weight)  # zeros, through which no gradient flows
        case = Images(model, 16)
        case.check_linearity("encoder.layers.encoder_layer_1.mlp.0")
        assert [f"encoder.layers.encoder_layer_{i}.self_attention.out_proj" for i in (0, 1)] == (
            case.table.notes["left out, never called"]
        )

    def test_convnext_of_torchvision(self) -> None:
        blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
        case = Images(ConvNeXt(blocks, num_classes=CLASSES), 16)
        case.check_linearity("features.3.0.block.3")  # a linear layer, channels last
        assert case.rows["features.1.0.block.0"].d == 49  # depthwise

    def test_vision_transformer_of_transformers(self) -> None:
        shape = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
        shape |= {"intermediate_size": 24, "image_size": 16, "patch_size": 8}
        config = ViTConfig(**shape, num_labels=CLASSES)
        case = Images(ViTForImageClassification(config), 16)
        case.check_linearity("classifier")
        assert len(case.table) == 2 * 6 + 2

    def test_unet_with_skips_that_is_asked_pixel_by_pixel(self) -> None:
        model, x = UNet().double(), draw(6, 3, 8, 8)
        y = (x.sum(1) * 2).long().abs() % CLASSES
        table = measure(model, [(x[:4], y[:4]), (x[4:], y[4:])], theories=["crh"])
        rows = {row.name: row for row in table}
        inputs = check(model, table, x, lambda logits: functional.cross_entropy(logits, y))
        pixels = inputs["head"].movedim(1, -1).flatten(0, 2)
        assert rows["head"].n == 6 * 8 * 8
        assert rows["head"].tl_in == pytest.approx(target_linearity(pixels, y.flatten()), rel=1e-9)
        assert rows["up"].kind == "ConvTranspose2d"
        assert math.isnan(rows["bottom"].tl_in)  # of fewer pixels than the targets


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up, self.merge = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(12, 6, 3, padding=1)
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        side = self.down(x).relu()
        low = self.bottom(functional.max_pool2d(side, 2)).relu_()
        merged = self.merge(torch.cat([side, self.up(low)], 1)).relu_()
        return self.head(merged)


def language_model(
    model: nn.Module, batch: dict[str, Tensor], tied: str = ""
) -> tuple[LayerTable, dict[str, Tensor]]:
    """A table of two batches, checked against the model's own loss."""
    model.double()
    n = len(batch["input_ids"]) // 2
    halves = [{k: v[:n] for k, v in batch.items()}, {k: v[n:] for k, v in batch.items()}]
    table = measure(model, halves, theories=["crh"])
    return table, check(model, table, batch, lambda outputs: outputs.loss, tied=tied)


def by_name(table: LayerTable, name: str) -> LayerRow:
    return next(row for row in table if row.name == name)


class TestLanguage:
    def test_masked_bert_whose_output_is_tied_to_its_words(self) -> None:
        shape = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = BertForMaskedLM(BertConfig(vocab_size=WORDS, **shape, intermediate_size=24))
        ids = words(12, 9)
        labels = ids.masked_fill(torch.arange(9) % 3 > 0, -100)
        head = "cls.predictions.decoder"
        table, inputs = language_model(model, {"input_ids": ids, "labels": labels}, tied=head)
        h, kept = inputs[head], labels != -100
        row = by_name(table, head)
        assert row.tl_in == pytest.approx(target_linearity(h[kept], labels[kept]), rel=1e-9)
        assert row.cosine_vc == pytest.approx(self.tied_cosine(model, h, labels), rel=1e-9)

    @staticmethod
    def tied_cosine(model: nn.Module, h: Tensor, labels: Tensor) -> float:
        """Of the output's own product, with the words' weight copied."""
        decoder = model.get_output_embeddings()
        weight = decoder.weight.detach().clone().requires_grad_()
        logits = functional.linear(h, weight, decoder.bias)
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (gradient,) = torch.autograd.grad(loss, weight)
        return cosine_vc(decoder, gradient)

    @pytest.mark.filterwarnings("ignore:`loss_type=None`")
    def test_gpt2_of_conv1d_layers_whose_output_is_tied(self) -> None:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=12, n_layer=2, n_head=2)
        )
        ids = words(12, 9)
        table, inputs = language_model(model, {"input_ids": ids, "labels": ids}, tied="lm_head")
        moved = functional.pad(ids[:, 1:], (0, 1), value=-100)
        head = by_name(table, "lm_head")
        assert head.cosine_vc == pytest.approx(
            self.tied_cosine(model, inputs["lm_head"], moved), rel=1e-9
        )
        assert by_name(table, "transformer.h.0.attn.c_attn").kind == "Conv1D"
        assert by_name(table, "transformer.h.0.attn.c_attn").m == 36
        assert len(table) == 2 * 4 + 1
        parameters = ["transformer.wte.weight", "transformer.wpe.weight"]
        left_out = table.notes["left out, parameters of no linear layer or convolution"]
        assert left_out == parameters

    def test_llama_with_adapters_on_frozen_layers(self) -> None:
        shape = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=WORDS, intermediate_size=24, num_key_value_heads=1, **shape)
        model = LlamaForCausalLM(config).requires_grad_(False)
        for layer in model.model.layers:
            layer.self_attn.q_proj = Adapter(layer.self_attn.q_proj)
        model.double()
        ids = words(12, 9)
        batches = [{"input_ids": part, "labels": part} for part in ids.split(5)]
        table = measure(model, batches)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert len(table) == 2 * (7 + 2) + 1
        adapters = {n: m for n, m in model.named_modules() if f"{n}.weight" in trained}
        model.eval()(input_ids=ids, labels=ids).loss.backward()
        for name, module in adapters.items():
            expected = cosine_vc(module, module.weight.grad)
            assert by_name(table, name).cosine_vc == pytest.approx(expected, rel=1e-6)
        assert all(0 < row.residual < 1e-10 for row in table)  # of frozen layers too
        assert {n for n, p in model.named_parameters() if p.requires_grad} == trained

    def test_t5_of_an_encoder_and_a_decoder_tied(self) -> None:
        shape = {"d_model": 12, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        config = T5Config(vocab_size=WORDS, **shape, decoder_start_token_id=0)
        labels = words(12, 6)
        batch = {"input_ids": words(12, 9), "labels": labels}
        table, inputs = language_model(T5ForConditionalGeneration(config), batch, tied="lm_head")
        head = by_name(table, "lm_head")
        expected = target_linearity(inputs["lm_head"].flatten(0, 1), labels.flatten())
        assert head.tl_in == pytest.approx(expected, rel=1e-9)
        assert len(table) == 2 * (4 + 2) + 2 * (8 + 2) + 1


class Adapter(nn.Module):
    """A low-rank update beside a layer (Hu et al., 2021), as after some training."""

    def __init__(self, layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(WORDS, 6), nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(ids))[0][:, -1])


def test_of_an_lstm_the_head_is_measured_and_the_rest_named() -> None:
    model, ids, y = Reader().double(), words(20, 5), torch.arange(20) % CLASSES
    table = measure(model, [(ids, y)], theories=["crh"])
    check(model, table, ids, lambda logits: functional.cross_entropy(logits, y))
    weights = ["embed.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert table.notes == {"left out, parameters of no linear layer or convolution": weights}
    assert str(table).splitlines()[-1].endswith(", ".join(weights))
