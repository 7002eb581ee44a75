import pytest
import torch
from torch import nn
from torch.testing import assert_close

from polyclinic.learning.modes import bf16_autocast, channels_last, training_mode

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.Conv3d(4, 1, 3)
    )


def test_layers_are_afterwards_in_the_mode_in_which_they_were() -> None:
    layers = network()
    layers.train()
    layers[1].eval()
    with pytest.raises(KeyError), training_mode(layers, train=False):
        assert not any(layer.training for layer in layers.modules())
        raise KeyError
    assert [layer.training for layer in layers] == [True, False, True]


def test_relaid_weights_have_another_layout_and_the_same_values() -> None:
    plain, relaid = network(), channels_last(network())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(relaid.state_dict()[name], value, rtol=0, atol=0)
    assert relaid[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    volume = torch.rand(1, 2, 8, 8, 8)
    assert_close(
        relaid(volume.to(memory_format=torch.channels_last_3d)),
        plain(volume),
        rtol=1e-4,
        atol=1e-5,
    )


def test_autocast_is_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, volume = network()[0], torch.rand(1, 2, 8, 8, 8)
    for able, kind in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda able=able: able)
        with bf16_autocast(CPU):
            found = layer(volume)
        assert found.dtype == kind
        assert_close(found.float(), layer(volume), atol=0.02, rtol=0.02)
    assert layer(volume).dtype == torch.float32  # outside nothing changes
