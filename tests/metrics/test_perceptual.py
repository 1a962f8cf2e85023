from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.metrics import perceptual
from threedgen.metrics.consistency import unexplained
from threedgen.metrics.perceptual import LPIPS, feature_distance

# channels of the convolutions, "M": pooling, as torchvision writes them
VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def plain(*color):
    return np.broadcast_to(np.array(color, np.float32), (2, 4, 6, 3))


def test_angles_between_features_count_and_lengths_do_not():
    same = feature_distance(plain(0.2, 0.1, 0.1), plain(0.8, 0.4, 0.4), lambda images: images)
    across = feature_distance(plain(1, 0, 0), plain(0, 0.3, 0), lambda images: images)
    against = feature_distance(
        plain(0.9, 0.5, 0.5), torch.tensor(plain(0.1, 0.5, 0.5).copy()), lambda images: images - 0.5
    )
    assert [same, across, against] == pytest.approx([0, 2, 4], abs=1e-6)


def test_against_loops():
    random = np.random.default_rng(0)
    a, b = random.random((2, 3, 4, 5, 3))
    weight = random.normal(size=(8, 3)).astype(np.float32)

    def features(images):  # [B, 3, H, W] -> [B, 8, H, W]
        return torch.einsum("kc,bchw->bkhw", torch.from_numpy(weight), images)

    expected = []
    for x, y in zip(a.reshape(-1, 3), b.reshape(-1, 3), strict=True):
        u, v = weight @ x, weight @ y
        expected.append(2 - 2 * (u @ v) / np.linalg.norm(u) / np.linalg.norm(v))  # of unit vectors
    assert feature_distance(a, b, features) == pytest.approx(np.mean(expected), rel=1e-5)


def test_what_is_unexplained():
    assert unexplained(plain(0.1, 0.2, 0.3), torch.tensor(plain(0.2, 0.0, 0.3).copy())) == pytest.approx(0.1)


def backbone(net):
    """The layers before the classifier as torchvision has them, with numbers that no stage makes small."""
    torch.manual_seed(0)
    features = layers_of(net)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return features


def layers_of(net):
    if net == "alex":
        strided, pooling = nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), nn.MaxPool2d(3, stride=2)
        second, third = nn.Conv2d(64, 192, 5, padding=2), nn.Conv2d(192, 384, 3, padding=1)
        last = [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), pooling]
        return nn.Sequential(strided, nn.ReLU(), pooling, second, nn.ReLU(), pooling, third, nn.ReLU(), *last)
    layers, width = [], 3
    for word in VGG16:
        if word == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, word, 3, padding=1), nn.ReLU()]
            width = word
    return nn.Sequential(*layers)


def saved(features, path, **changes):
    """As torchvision's files have them, those of before 2020 in torch's old format."""
    tensors = {f"features.{key}": tensor for key, tensor in features.state_dict().items()} | changes
    tensors["classifier.1.weight"] = torch.zeros(3, 4)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize(("net", "suffix"), [("alex", "pth"), ("vgg", "safetensors")])
def test_lpips_is_that_of_torchmetrics(net, suffix, tmp_path, monkeypatch):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    features = backbone(net)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *asked: features)
    expected = theirs._LPIPS(net=net)  # with the weights that its package brings
    ours = LPIPS.from_files(saved(features, tmp_path / f"net.{suffix}"))
    a, b = torch.rand(2, 2, 3, 40, 56)
    found = ours(a, b)
    assert found.shape == (2,) and torch.allclose(found, expected(a, b, normalize=True).flatten(), rtol=1e-4)
    assert float(ours(a, a).abs().max()) == 0 and not ours.training
    mean = ours.distance(a.movedim(1, -1).numpy(), b.movedim(1, -1))
    assert mean == pytest.approx(float(found.mean()), rel=1e-5)
    shown = a.clone().requires_grad_()
    ours(shown, b).sum().backward()  # a loss: to the pictures, and to nothing else
    assert float(shown.grad.abs().max()) > 0 and not any(p.requires_grad for p in ours.parameters())


def test_what_lpips_cannot_be_made_of(tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    features = backbone("alex")
    with pytest.raises(ConfigError, match=r"none\.pth is not there"):
        LPIPS.from_files(tmp_path / "none.pth")
    other = saved(nn.Sequential(nn.Conv2d(3, 8, 3)), tmp_path / "other.pth")
    with pytest.raises(ThreedgenError, match=r"other\.pth is neither torchvision's AlexNet nor its VGG16"):
        LPIPS.from_files(other)
    odd = saved(features, tmp_path / "odd.pth", **{"features.3.weight": torch.zeros(192, 64, 3, 3)})
    with pytest.raises(ThreedgenError, match=r"1 key of another shape \(features\.3\.weight"):
        LPIPS.from_files(odd)
    whole = saved(features, tmp_path / "alex.pth")
    with pytest.raises(ThreedgenError, match="5 keys missing"):
        LPIPS.from_files(whole, heads=other)
    with pytest.raises(ValueError, match="pictures of 32 pixels, got 31 x 40"):
        LPIPS.from_files(whole)(torch.rand(1, 3, 40, 31), torch.rand(1, 3, 40, 31))
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install torchmetrics"):
        LPIPS.from_files(whole)
    assert LPIPS.from_files(whole, heads=heads(tmp_path))(torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)) > 0


def heads(folder: Path) -> Path:
    widths = (64, 192, 384, 256, 256)
    torch.save({f"lin{i}.model.1.weight": torch.ones(1, n, 1, 1) for i, n in enumerate(widths)}, folder / "heads.pth")
    return folder / "heads.pth"
