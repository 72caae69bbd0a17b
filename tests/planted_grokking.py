"""A network that groks, made by hand, for the rules about it and for its landmarks."""

import numpy as np

from experiment import grokking
from planted_results import plant

EPOCHS = 500
MEMORISED, GROKKED = 60, 200


def line(points):
    """Piecewise linear by epoch, (position, value) pairs."""
    x, y = zip(*points, strict=True)
    return np.interp(np.arange(EPOCHS + 1), x, y)


def plant_grokking(root, decay, *, last=0.6, second=0.3, after=0.0, widens=0.0, groks=True, **more):
    """TL and accuracies of three seeds; all of training is piecewise linear.

    Until MEMORISED training accuracy rises to 1, then until GROKKED test accuracy. Meanwhile TL of
    the last layer goes from 0.3 to `last`, of layer 2 from 0.1 by `second`, of layer 1 from 0 to
    0.05; from then on the last layer's changes by `after`, and so does layer 2's, less `widens`.
    """
    noise = more.get("flicker", 0.0)
    train = line([(0, 0.0), (MEMORISED, 1.0)])
    test = line([(MEMORISED, 0.0), (GROKKED, 1.0)]) if groks else line([(0, 0.0), (EPOCHS, 0.03)])
    third = line([(0, 0.0), (MEMORISED, 0.3), (GROKKED, last), (EPOCHS, last + after)])
    end = 0.1 + second
    two = line([(0, 0.0), (MEMORISED, 0.1), (GROKKED, end), (EPOCHS, end + after - widens)])
    one = line([(MEMORISED, 0.0), (GROKKED, 0.05)])
    tl = np.stack([one, two, third], axis=-1) * (1 + 1e-3 * np.arange(3))[:, None, None]
    # a spike at every tenth epoch, that medians do not see
    tl[:, ::10, 2] += noise
    arrays = {
        "train_tl": tl,
        "test_tl": np.zeros_like(tl),
        "train_accuracy": np.broadcast_to(train, (3, EPOCHS + 1)),
        "test_accuracy": np.broadcast_to(test, (3, EPOCHS + 1)),
        "epoch": np.arange(EPOCHS + 1),
    }
    plant(root, grokking, f"planted-wd{decay}", arrays, weight_decay=decay)
