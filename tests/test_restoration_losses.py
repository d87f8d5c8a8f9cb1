import pytest
import torch

from blur_lightning.errors import InputError
from blur_lightning.image_quality import peak_signal_to_noise
from blur_lightning.tasks.restoration_losses import CharbonnierLoss, PSNRLoss


def test_charbonnier_is_l1_for_large_errors_and_squared_for_small_ones(photo):
    for error, expected in ((0.5, 0.5), (1e-5, 1e-3 + 1e-10 / 2e-3), (0.0, 1e-3)):
        loss = CharbonnierLoss()(photo + error, photo)
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_its_gradient_is_finite_where_nothing_errs(photo):
    restored = photo.clone().requires_grad_()
    CharbonnierLoss()(restored, photo).backward()
    assert torch.equal(restored.grad, torch.zeros_like(photo))


def test_the_psnr_loss_is_minus_the_mean_psnr(photo):
    factors = torch.tensor([0.9, 0.5], dtype=torch.float64)[:, None, None, None]
    expected = -peak_signal_to_noise(photo * factors, photo).mean()
    torch.testing.assert_close(PSNRLoss()(photo * factors, photo), expected, atol=1e-3, rtol=0)
    assert PSNRLoss(epsilon=1e-6)(photo, photo).item() == pytest.approx(-60)


@pytest.mark.parametrize("loss", [CharbonnierLoss, PSNRLoss])
def test_epsilon_is_positive(loss):
    with pytest.raises(InputError, match=r"model.loss.epsilon: 0.0 is not more than 0"):
        loss(epsilon=0.0)
