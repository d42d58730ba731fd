"""The look of figures is theirs alone: matplotlib's settings are as before after each."""

import matplotlib.pyplot as plt
import numpy as np

from lib.figures import style


def test_style_is_restored_after_a_figure():
    before = plt.rcParams["font.size"]
    figure = style.image_grid([[np.zeros((2, 2, 3)), np.eye(2)], [None, np.eye(2)]], ("a", "b"), ("r",))
    assert plt.rcParams["font.size"] == before and len(figure.axes) == 4
    plt.close("all")
