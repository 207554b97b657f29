"""A figure that a notebook shows."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A `matplotlib.figure.Figure` that a notebook shows by itself, whether or not pyplot was set up there."""

    def _repr_png_(self):
        data = io.BytesIO()
        self.savefig(data, format="png")
        return data.getvalue()
